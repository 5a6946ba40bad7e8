"""The files that a comparison leaves."""

from pathlib import Path

from experiments.comparison.read import run_folders
from experiments.comparison.write import write
from experiments.files import csv_text


def test_files_of_an_earlier_comparison_do_not_stay(runs: Path, tmp_path: Path):
    out = tmp_path / "out"
    write(run_folders([runs]), out)
    write(run_folders([runs / "low0"]), out)
    assert {path.name for path in out.iterdir()} == {
        *("comparison.html", "comparison.md", "configurations.csv", "runs.csv")
    }


def test_csv_leaves_unknown_cells_empty():
    assert csv_text([{"a": 1, "b": float("nan")}, {"c": None, "a": "x,y"}]) == 'a,b,c\n1,,\n"x,y",,\n'
