"""Grouping over seeds, the ranking by validation, pairs and what makes a comparison unfair."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from cifar_core.explain.statistics import holm
from experiments.comparison.groups import ranked, warnings
from experiments.comparison.page import markdown
from experiments.comparison.read import run_folders
from experiments.comparison.tables import verdict
from experiments.comparison.write import write
from tests.comparison.by_hand import compared, make, rows


def test_seeds_are_grouped_and_ranked_by_validation_though_test_says_otherwise(runs: Path, tmp_path: Path):
    write(run_folders([runs]), tmp_path / "out")
    best, second = rows(tmp_path / "out" / "configurations.csv")
    assert (best["configuration"], best["runs"]) == ("optimizer.lr=0.5", "3")
    assert (second["configuration"], second["runs"]) == ("optimizer.lr=0.1", "2")
    assert float(best["val/acc_best mean"]) == pytest.approx(0.82)
    assert float(best["val/acc_best std"]) == pytest.approx(0.02)
    assert float(best["test/acc mean"]) < float(second["test/acc mean"])
    assert (float(best["seconds"]), float(best["images_per_second"])) == (5, 150)
    assert verdict(compared(runs)).startswith(
        "Best by validation: A (optimizer.lr=0.5), val/acc 82.00 ± 2.00 %."
    )
    assert [row["key"] for row in rows(tmp_path / "out" / "differences.csv")] == ["optimizer.lr"]


def test_runs_evaluated_on_test_each_epoch_stand_apart(runs: Path):
    make(runs / "course", val=None, lr=0.9)
    found = compared(runs)
    assert [c.label for c in found.ranked] == ["optimizer.lr=0.5", "optimizer.lr=0.1"]
    assert [(c.letter, c.label) for c in found.apart] == [("C", "optimizer.lr=0.9")]
    text = markdown(found)
    ranked, apart = text.split("## Apart: without a validation split")
    assert "optimizer.lr=0.9" not in ranked.split("## Ranked")[1]
    assert "C: optimizer.lr=0.9" in apart
    assert any("C: there was no validation split" in line for line in warnings(found))


def test_all_pairs_of_different_configurations_are_tested(runs: Path, tmp_path: Path):
    write(run_folders([runs]), tmp_path / "out")
    pairs = rows(tmp_path / "out" / "pairs.csv")
    assert len(pairs) == 6
    one = next(pair for pair in pairs if (pair["a_seed"], pair["b_seed"]) == ("2", "1"))
    assert (one["only_a_right"], one["only_b_right"]) == ("1", "10")  # row 3 against rows 10 to 19
    assert float(one["p"]) == pytest.approx(scipy.stats.binomtest(1, 11, 0.5).pvalue)
    adjusted = holm([float(pair["p"]) for pair in pairs])
    assert [float(pair["p_holm"]) for pair in pairs] == pytest.approx(adjusted)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ({"data": "d2"}, "The runs used different data (fingerprints): A, B: d1; C: d2."),
        ({"val": None}, "The runs follow different protocols: A, B: validation; C: test_each_epoch."),
        (
            {"lr": 0.5, "seed": 2, "val": 0.82},
            "A has 2 runs with seed 2, not independent, so its spread is too small.",
        ),
    ],
)
def test_what_makes_a_comparison_unfair_is_told(runs: Path, odd: dict, message: str):
    assert warnings(compared(runs)) == []
    make(runs / "odd", **({"val": 0.1, "lr": 0.7} | odd))
    assert message in warnings(compared(runs))


def test_runs_on_other_pictures_are_left_out_of_pairs(runs: Path):
    path = make(runs / "odd", lr=0.7, val=0.6) / "analysis" / "predictions.npz"
    with np.load(path) as file:
        content = dict(file)
    np.savez(path, **(content | {"index": content["index"][::-1]}))
    shutil.rmtree(make(runs / "bare", lr=0.8, val=0.5) / "analysis")
    found = compared(runs)
    assert len(found.pairs) == 6
    expected = "Left out of everything picture by picture: C seed 0 (other pictures), D seed 0 (no analysis)."
    assert expected in warnings(found)


def test_the_ranking_keeps_equals_in_order_and_puts_what_has_no_figure_last():
    accs = {"none": [], "two": [0.5, 0.7], "nan": [0.9, math.nan], "one": [0.6], "best": [0.61]}
    assert ranked(accs, accs.__getitem__) == ["best", "two", "one", "none", "nan"]
