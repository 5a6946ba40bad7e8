"""Compares runs: configurations over their seeds, classes, pairs of runs on the same pictures."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments import cli
from experiments.cli import exit_codes, signals, user_mistakes
from experiments.run_folder import write_text

EXAMPLES = """examples:
  python -m experiments.compare runs/2026-01-31
  python -m experiments.compare sweeps/lr runs/2026-01-31/12-00-00_resnet18 --out lr_or_default
  python -m experiments.compare --filter "params.model._target_ = 'cifar_core.models.resnet.resnet18'"

Prints Markdown and writes comparison.html (for people), comparison.md and, with every row and digit,
configurations.csv, runs.csv, differences.csv, pairs.csv, classes.csv and missed.csv.
Configurations are ranked by validation accuracy alone. Runs without a validation split are listed apart.
"""
FILES = tuple(
    f"{name}.csv" for name in ("configurations", "runs", "differences", "pairs", "classes", "missed")
)
MARKS = ("result.json", "overrides.yaml")  # files that only a run folder has


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """Return the run folders among and below ``paths``, each once.

    Raises FileNotFoundError for a path that is no folder or holds no run.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise FileNotFoundError(f"{path} is not a folder")
        below = sorted(_search(path.resolve()))
        if not below:
            raise FileNotFoundError(f"{path} holds no run: no {' and no '.join(MARKS)} in or below it")
        found |= dict.fromkeys(below)
    return list(found)


def _search(root: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(root):
        if any(mark in files for mark in MARKS):
            folders.clear()  # what a run folder holds belongs to the run
            yield Path(parent)


def write(folders: Sequence[Path], out_dir: Path) -> str:
    """Compare the runs in ``folders``, write all files to ``out_dir`` and return the Markdown."""
    from experiments.comparison import compare, read
    from experiments.comparison_page import configuration_row, csv_text, markdown, page, run_row, tables

    comparison = compare(read(folder) for folder in folders)
    out_dir.mkdir(parents=True, exist_ok=True)
    text = markdown(comparison)
    write_text(out_dir / "comparison.html", page(comparison))
    write_text(out_dir / "comparison.md", text)
    rows: dict[str, list] = {name: [] for name in FILES}
    rows |= {one.file: list(one.rows) for one in tables(comparison)}
    rows["configurations.csv"] = [configuration_row(c) for c in comparison.configurations]
    rows["runs.csv"] = [run_row(run, c.letter) for c in comparison.configurations for run in c.runs]
    rows["runs.csv"] += [run_row(run) for run in comparison.others]
    for name, some in rows.items():
        (out_dir / name).unlink(missing_ok=True)  # of an earlier comparison
        if some:
            write_text(out_dir / name, csv_text(some))
    return text


def _tracked(uri: str | None, experiment: str | None, wanted: str) -> list[Path]:
    """Return the folders of the runs that MLflow finds, saying which are not on this machine."""
    from experiments.tracking import tracked_folders

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
