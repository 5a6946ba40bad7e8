"""Compares runs: configurations over their seeds, classes, pairs of runs on the same pictures."""

import sys
from pathlib import Path

from experiments import cli
from experiments.cli import exit_codes, signals, user_mistakes
from experiments.comparison.read import run_folders
from experiments.comparison.write import write

EXAMPLES = """examples:
  python -m experiments.compare runs/2026-01-31
  python -m experiments.compare sweeps/lr runs/2026-01-31/12-00-00_resnet18 --out lr_or_default
  python -m experiments.compare --filter "params.model._target_ = 'cifar_core.models.resnet.resnet18'"

Prints Markdown and writes comparison.html (for people), comparison.md and, with every row and digit,
configurations.csv, runs.csv, differences.csv, pairs.csv, classes.csv and missed.csv.
Configurations are ranked by validation accuracy alone. Runs without a validation split are listed apart.
"""


def _tracked(uri: str | None, experiment: str | None, wanted: str) -> list[Path]:
    """Return the folders of the runs that MLflow finds, saying which are not on this machine."""
    from experiments.tracking.mlflow_store import tracked_folders

    folders = tracked_folders(uri, experiment, wanted)
    there = [folder for folder in folders if folder.is_dir()]
    for folder in folders:
        if folder not in there:
            print(f"left out: {folder} is not on this machine", file=sys.stderr)
    if not there:
        raise FileNotFoundError(f"--filter {wanted!r} finds {len(folders)} runs, none with a folder here")
    return there


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
    arguments = parser.parse_args()
    if not arguments.folders and arguments.filter is None:
        parser.error("name at least one folder, or give --filter")
    if arguments.filter is None and (arguments.uri or arguments.experiment):
        parser.error("--uri and --experiment say where --filter searches, which is not given")
    with exit_codes():
        signals.catch()
        with user_mistakes():
            paths = list(arguments.folders)
            if arguments.filter is not None:
                paths += _tracked(arguments.uri, arguments.experiment, arguments.filter)
            folders = run_folders(paths)
        print(write(folders, arguments.out))
        print(f"files: {arguments.out / 'comparison.html'} and more beside it", file=sys.stderr)


if __name__ == "__main__":
    main()
