"""Compares runs: configurations over their seeds, classes, pairs of runs on the same pictures."""

import sys
from pathlib import Path

from experiments import cli
from experiments.cli import exit_codes, signals, user_mistakes

EXAMPLES = """examples:
  python -m experiments.compare runs/2026-01-31
  python -m experiments.compare sweeps/lr runs/2026-01-31/12-00-00_resnet18 --out lr_or_default
  python -m experiments.compare --filter "params.model._target_ = 'cifar_core.models.resnet.resnet18'"

Prints the configurations and what they come to. Writes comparison.html (for people), comparison.md and, with
every row and digit, configurations.csv, runs.csv, differences.csv, pairs.csv, classes.csv and missed.csv.
Configurations are ranked by validation accuracy alone, those whose seeds have all finished; runs without a
validation split are listed apart, and nothing is called best where data or validation pictures differ.
"""


def main() -> None:
    """Run the command line."""
    parser = cli.parser("experiments.compare", __doc__, EXAMPLES)
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="run folders, or folders that hold some"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("comparison"), metavar="FOLDER", help="for the files (%(default)s)"
    )
    parser.add_argument("--filter", help="add the runs that MLflow's search finds; '' finds all")
    parser.add_argument("--uri", help="MLflow's store (MLFLOW_TRACKING_URI, else mlflow.db of the project)")
    parser.add_argument("--experiment", help="search this MLflow experiment only")
    arguments = parser.parse_intermixed_args()
    if not arguments.folders and arguments.filter is None:
        parser.error("name at least one folder, or give --filter")
    if arguments.filter is None and (arguments.uri or arguments.experiment):
        parser.error("--uri and --experiment say where --filter searches, which is not given")
    with exit_codes():
        signals.catch()
        from experiments.comparison import read, terminal, write

        with user_mistakes():
            paths = list(arguments.folders)
            if arguments.filter is not None:
                paths += read.tracked(arguments.uri, arguments.experiment, arguments.filter)
            folders = read.run_folders(paths)
        comparison = write.write(folders, arguments.out)
        print(*terminal.lines(comparison), sep="\n")
        print(f"page: {arguments.out / 'comparison.html'}, with more beside it", file=sys.stderr)


if __name__ == "__main__":
    main()
