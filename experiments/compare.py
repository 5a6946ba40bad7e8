"""Compares runs: configurations over their seeds, classes, pairs of runs on the same pictures."""

import sys
from pathlib import Path

from experiments import cli
from experiments.cli import exit_codes, signals, user_mistakes

ALLOWED = "security.allowed_targets="

EXAMPLES = """examples:
  python -m experiments.compare runs/2026-01-31
  python -m experiments.compare sweeps/lr runs/2026-01-31/12-00-00_resnet18 --out lr_or_default
  python -m experiments.compare sweeps/lr --cams
  python -m experiments.compare --filter "params.model = 'resnet18'"

Prints the configurations and what they come to. Writes comparison.html (for people), comparison.md and, with
every row and digit, configurations.csv, runs.csv, differences.csv, pairs.csv, classes.csv and missed.csv.
Configurations are ranked by validation accuracy alone, those whose seeds have all finished; runs without a
validation split are listed apart, and nothing is called best where data or validation pictures differ.
The page shows pictures on which the runs differ, with the maps that their analyses have kept. --cams computes
the others from the runs' weights; networks of your own need security.allowed_targets=[my_package.] after it.
"""


def main() -> None:
    """Run the command line."""
    parser = cli.parser("experiments.compare", __doc__, EXAMPLES)
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="run folders, or folders that hold some")
    parser.add_argument(
        "--out", type=Path, default=Path("comparison"), metavar="FOLDER", help="for the files (%(default)s)"
    )
    parser.add_argument("--cams", action="store_true", help="compute the maps that the page lacks")
    parser.add_argument("--filter", help="add the runs that MLflow's search finds; '' finds all")
    parser.add_argument("--uri", help="MLflow's store (MLFLOW_TRACKING_URI, else mlflow.db of the project)")
    parser.add_argument("--experiment", help="search this MLflow experiment only")
    arguments = parser.parse_intermixed_args()
    words = [word for word in arguments.folders if word.startswith(ALLOWED)]
    paths = [Path(word) for word in arguments.folders if word not in words]
    if words and not arguments.cams:
        parser.error(f"{ALLOWED}... is for --cams, which is not given")
    if not paths and arguments.filter is None:
        parser.error("name at least one folder, or give --filter")
    if arguments.filter is None and (arguments.uri or arguments.experiment):
        parser.error("--uri and --experiment say where --filter searches, which is not given")
    with exit_codes():
        signals.catch()
        from experiments.comparison import read, terminal, write

        with user_mistakes():
            if arguments.filter is not None:
                paths += read.tracked(arguments.uri, arguments.experiment, arguments.filter)
            folders = read.run_folders(paths)
        comparison = write.write(folders, arguments.out, cams=arguments.cams, words=words)
        print(*terminal.lines(comparison), sep="\n")
        print(f"page: {arguments.out / 'comparison.html'}, with more beside it", file=sys.stderr)


if __name__ == "__main__":
    main()
