"""Delivers to MLflow what runs could not: `python -m experiments.sync <run folder>...`."""

import argparse
import logging
import os
import sys
from pathlib import Path

from experiments.tracking.sync import run_folders, sync
from experiments.tracking.uri import tracking_uri


def main(argv: list[str] | None = None) -> int:
    """Deliver run folders, one printed line each; returns 0, or 1 if something could not be delivered."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.sync",
        description="Deliver to MLflow what runs could not, and mark runs KILLED whose process is gone. "
        "Doing it twice adds nothing.",
    )
    parser.add_argument("folders", nargs="+", type=Path, help="run folders, or folders that hold some")
    parser.add_argument("--uri", help="deliver to this store instead of the one each run was meant for")
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(message)s")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # seconds; here nobody's training waits
    try:
        folders = [run for folder in args.folders for run in run_folders(folder)]
        override = tracking_uri(args.uri) if args.uri else None
    except (OSError, ValueError) as error:
        parser.error(str(error))
    unreachable: dict[str, str] = {}
    return max(sync(folder, override, unreachable) for folder in folders)


if __name__ == "__main__":
    sys.exit(main())
