"""Delivers to MLflow what runs could not: `python -m experiments.sync <run folder>...`."""

import logging
import sys
from pathlib import Path

from experiments import cli
from experiments.tracking.sync import sync


def main(argv: list[str] | None = None) -> int:
    """Deliver run folders, one printed line each; returns 0, or 1 if something could not be delivered."""
    parser = cli.parser(
        "experiments.sync",
        "Deliver to MLflow what runs could not, and mark runs KILLED whose process is gone.\n"
        "Doing it twice adds nothing.",
    )
    parser.add_argument("folders", nargs="+", type=Path, help="run folders, or folders that hold some")
    parser.add_argument("--uri", help="deliver to this store instead of the one each run was meant for")
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s")
    try:
        outcomes = sync(args.folders, args.uri)
    except (OSError, ValueError) as error:
        parser.exit(cli.USER, f"error: {cli.one_line(error)}\n")
    failed = False
    for outcome in outcomes:
        print(f"{outcome.folder}: {outcome.text}")
        failed |= outcome.failed
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
