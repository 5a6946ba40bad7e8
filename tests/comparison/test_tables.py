"""What the tables and the verdict of a comparison say."""

from pathlib import Path

import numpy as np
import pytest

from experiments.comparison.markdown import markdown
from experiments.comparison.page import page
from experiments.comparison.read import run_folders
from experiments.comparison.verdict import verdict
from experiments.comparison.write import write
from tests.comparison.by_hand import compared, make, rows


def test_classes_and_missed_pictures_are_listed(runs: Path, tmp_path: Path):
    write(run_folders([runs]), tmp_path / "out")
    missed = rows(tmp_path / "out" / "missed.csv")
    assert [(row["index"], row["file"], row["label"]) for row in missed] == [
        ("101", "test/1.png", "dog"),
        ("102", "test/2.png", "<i>owl</i>"),
    ]
    assert [row["most_frequent_answer"] for row in missed] == ["<i>owl</i>", "cat"]
    classes = {row["class"]: row for row in rows(tmp_path / "out" / "classes.csv")}
    assert set(classes) == {"cat", "dog", "<i>owl</i>"}
    dogs = [1 - np.isin((1, *range(10, 18 + seed)), range(1, 60, 3)).sum() / 20 for seed in range(3)]
    assert float(classes["dog"]["A"]) == pytest.approx(np.mean(dogs))


def test_pairs_on_validation_pictures_are_called_so(tmp_path: Path):
    folders = [make(tmp_path / str(number), lr=number + 0.1, wrong=(number,)) for number in range(2)]
    assert "on the same 60 test pictures" in markdown(compared(tmp_path))
    for folder in folders:
        (folder / "analysis" / "metrics.json").write_text('{"split": "val"}')
    assert "on the same 60 validation pictures (the best epochs were" in markdown(compared(tmp_path))


def test_one_run_alone_is_no_trouble(tmp_path: Path):
    make(tmp_path / "only")
    found = compared(tmp_path)
    assert verdict(found) == "Best by validation: A (lr=0.1), val/acc 80.00 %; its test accuracy: 100.00 %."
    assert page(found, tmp_path).count('class="plot"') == 2
    assert found.pairs == []


def test_a_name_is_no_link_in_markdown(tmp_path: Path):
    make(tmp_path / "a", words=("name=![x](http://y)",))
    text = markdown(compared(tmp_path))
    assert "\\[x](http://y)" in text
    assert "![" not in text
