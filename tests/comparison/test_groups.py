"""Grouping over seeds, the ranking by validation, pairs and what makes a comparison unfair."""

import math
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from cifar_core.explain.statistics import holm
from experiments.comparison.groups import compare
from experiments.comparison.markdown import markdown
from experiments.comparison.read import Run, read, run_folders
from experiments.comparison.verdict import verdict, warnings
from experiments.comparison.write import write
from experiments.runs.result import Result
from tests.comparison.by_hand import compared, make, rows


def test_seeds_are_grouped_and_ranked_by_validation_though_test_says_otherwise(runs: Path, tmp_path: Path):
    write(run_folders([runs]), tmp_path / "out")
    best, second = rows(tmp_path / "out" / "configurations.csv")
    assert (best["configuration"], best["runs"]) == ("lr=0.5", "3")
    assert (second["configuration"], second["runs"]) == ("lr=0.1", "2")
    assert float(best["val/acc_best mean"]) == pytest.approx(0.82)
    assert float(best["val/acc_best std"]) == pytest.approx(0.02)
    assert float(best["test/acc mean"]) < float(second["test/acc mean"])
    assert (float(best["seconds"]), float(best["images_per_second"])) == (5, 150)
    assert verdict(compared(runs)).startswith(
        "Best by validation: A (lr=0.5), val/acc 82.00 ± 2.00 % (95 %: 77.03 to 86.97 %, n=3);"
    )
    assert [row["key"] for row in rows(tmp_path / "out" / "differences.csv")] == ["optimizer.lr"]


def test_runs_evaluated_on_test_each_epoch_stand_apart(runs: Path):
    make(runs / "course", val=None, lr=0.9)
    found = compared(runs)
    assert [c.label for c in found.ranked] == ["lr=0.5", "lr=0.1"]
    assert [(c.letter, c.label) for c in found.apart] == [("C", "lr=0.9")]
    text = markdown(found)
    ranked, apart = text.split("## Apart: without a validation split")
    assert "lr=0.9" not in ranked.split("## Ranked")[1]
    assert "C: lr=0.9" in apart
    assert any("C: there was no validation split" in line for line in warnings(found))


def test_all_pairs_of_different_configurations_are_tested(runs: Path, tmp_path: Path):
    write(run_folders([runs]), tmp_path / "out")
    pairs = rows(tmp_path / "out" / "pairs.csv")
    assert len(pairs) == 6
    one = next(pair for pair in pairs if (pair["a_seed"], pair["b_seed"]) == ("2", "1"))
    assert (one["only_a_right"], one["only_b_right"]) == ("1", "10")  # row 3 against rows 10 to 19
    assert float(one["p"]) == pytest.approx(scipy.stats.binomtest(1, 11, 0.5).pvalue)
    assert pairs == sorted(pairs, key=lambda pair: float(pair["p"]))
    adjusted = holm([float(pair["p"]) for pair in pairs])
    assert [float(pair["p_holm"]) for pair in pairs] == pytest.approx(adjusted)


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (
            {"data": "d2", "val": None},
            "The runs used different data (fingerprints): A, B: d1; C: d2.",
        ),
        ({"val": None}, "The runs follow different protocols: A, B: validation; C: test_each_epoch."),
        (
            {"lr": 0.5, "seed": 2, "val": 0.82},
            "A: there are several runs with the same seed, not independent, so the spread is too small.",
        ),
    ],
)
def test_what_makes_a_comparison_unfair_is_told(runs: Path, odd: dict, message: str):
    assert warnings(compared(runs)) == []
    make(runs / "odd", **({"val": 0.1, "lr": 0.7} | odd))
    assert message in warnings(compared(runs))
    assert message not in verdict(compared(runs))  # which says what keeps any from being the best


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


def trial(lr: str, seed: str, acc: float | None = None, status: str = "failed", error: str = "") -> Run:
    """A run of a sweep over two seeds; one with an accuracy is finished."""
    metrics = {} if acc is None else {"val/acc_best": acc}
    result = Result(status if acc is None else "finished", metrics, error=error)
    folder, point = Path("absent", lr, seed, str(acc)), {"lr": lr, "seed": seed}
    return Run(folder, result, f"lr={lr} s{seed}", f"lr={lr}", point, asked=2)


counts = st.none() | st.integers(0, 3)  # pictures of three that a run has right, if it is finished


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(counts, min_size=1, max_size=2)))
def test_whole_configurations_are_ranked_by_exact_means_and_the_first_of_equals_is_best(table: dict):
    runs = [
        trial(lr, str(seed), None if right is None else right / 3)
        for lr, each in table.items()
        for seed, right in enumerate(each)
    ]
    whole = {
        lr: sum(map(Fraction, each)) for lr, each in table.items() if len(each) == 2 and None not in each
    }
    found = compare(runs)
    assert {c.label for c in found.ranked} == {f"lr={lr}" for lr in whole}
    assert [c.label for c in found.partial] == [f"lr={lr}" for lr in table if lr not in whole]
    sums = [whole[c.label.removeprefix("lr=")] for c in found.ranked]
    assert sums == sorted(sums, reverse=True)
    equals = [f"lr={lr}" for lr, right in whole.items() if right == max(whole.values())]
    assert [c.label for c in (found.best, *found.tied) if c] == equals


def test_a_label_begins_with_what_few_share(tmp_path: Path):
    for number in range(3):
        words = ("aug=cutout", "trainer.epochs=3" if number else "trainer.epochs=4", f"model.width={number}")
        make(tmp_path / str(number), lr=0.1, val=0.9 - number / 10, words=words, width=number)
    labels = [c.label for c in compared(tmp_path).ranked]
    assert labels == ["epochs=4 width=0", "width=1 epochs=3", "width=2 epochs=3"]


def test_equal_means_are_a_tie_whatever_the_order_of_their_sum():
    accs = {"1": (0.1, 0.7), "2": (0.3, 0.5), "3": (0.2, 0.6), "4": (0.4, 0.3999)}
    runs = [trial(lr, str(seed), acc) for lr, each in accs.items() for seed, acc in enumerate(each)]
    for order in (runs, runs[::-1]):
        found = compare(order)
        labels = [c.label for c in found.ranked]
        assert labels == [*dict.fromkeys(run.label for run in order if run.label != "lr=4"), "lr=4"]
        assert "Tied with B, C. Not clearly worse" in verdict(found)


def test_a_seed_that_failed_in_one_folder_and_finished_in_another_is_there():
    found = compare([trial("1", "0"), trial("1", "0", 0.5), trial("1", "1", 0.6), trial("2", "0", 0.9)])
    assert [(c.label, c.state) for c in found.ranked] == [("lr=1", "2 finished, 1 failed")]
    assert [(c.label, c.state) for c in found.partial] == [("lr=2", "1 finished, 1 not begun")]
    assert compare([trial("2", "0", 0.9)]).best is None
    assert any(line.startswith("B: not all seeds have finished") for line in warnings(found))


def test_a_seed_that_nobody_asked_for_is_missed_all_the_same_and_a_figure_that_is_none(runs: Path):
    make(runs / "deep" / "failed", seed=7, lr=0.5, status="failed")
    make(runs / "diverged", lr=0.9, val=math.nan)
    found = compared(runs)
    assert [c.label for c in found.ranked] == ["lr=0.1"]
    assert [(c.label, c.seeds) for c in found.partial] == [("lr=0.5", 4), ("lr=0.9", 1)]


def test_a_point_that_was_pruned_stopped_with_its_first_seed():
    (point,) = compare([trial("1", "0", status="pruned")]).partial
    assert point.state == "1 pruned, 1 stopped with it"


def test_failures_that_differ_in_figures_alone_have_one_cause():
    errors = ("NaN in step 6 at lr 1e+05", "NaN in step 12 at lr 2e+05", "no memory")
    runs = [trial(str(number), "0", error=error) for number, error in enumerate(errors)]
    assert {cause: len(failed) for cause, failed in compare(runs).failures.items()} == {
        "NaN in step 6 at lr 1e+05": 2,
        "no memory": 1,
    }


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        ({"data": "d2"}, "The runs used different data (fingerprints): A, B: d1; C: d2."),
        (
            {"val_size": 0.2},
            "Validation accuracies are not of the same pictures: A, B: data.val_size=0.1 data",
        ),
        ({"val": None, "data": "d2"}, ""),  # which is not ranked
    ],
)
def test_nothing_is_best_where_accuracies_are_of_other_pictures(runs: Path, odd: dict, why: str):
    make(runs / "odd", **({"val": 0.1, "lr": 0.7} | odd))
    found = compared(runs)
    assert (found.best is None) == bool(why)
    assert [c.label for c in found.ranked][:2] == ["lr=0.5", "lr=0.1"]
    assert verdict(found).startswith(f"Not comparable: {why}" if why else "Best by validation: A")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([{"status": "failed"}, {"status": "unfinished"}], "no run has finished"),
        ([{"val": None}], "there is no validation split (data.val_size=0)"),
        ([{}, {"status": "failed", "seed": 1}], "none has a finished run for each of its seeds"),
    ],
)
def test_why_none_is_best_is_told(tmp_path: Path, given: list[dict], why: str):
    for number, one in enumerate(given):
        make(tmp_path / str(number), **one)
    assert verdict(compared(tmp_path)) == f"None is best by validation: {why}."


def test_what_is_damaged_in_a_trial_is_told(runs: Path):
    """A trial is as light as it may be, so its files are read late; a run that is given is read first."""
    trials = [replace(run, point=run.params, asked=0) for run in map(read, run_folders([runs]))]
    (runs / "low0" / "metrics.csv").write_bytes(b"epoch\n\xff\n")
    (runs / "low1" / "environment.json").write_text("damaged")
    (told,) = [line for line in warnings(compare(trials)) if line.startswith("Damaged")]
    assert all(name in told for name in ("B seed 0 (", "metrics.csv", "B seed 1 (", "environment.json"))
    assert compare(trials).unfair == ["the runs used different data (fingerprints): A, B: d1; B: unknown."]


def test_of_many_runs_each_is_tested_against_those_of_the_best_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for number in range(4):
        make(tmp_path / str(number), lr=number + 0.1, val=0.9 - 0.1 * number, wrong=(number,))
    assert len(compared(tmp_path).pairs) == 6
    monkeypatch.setattr("experiments.comparison.groups.PAIRS", 5)
    assert [pair.a.configuration.letter for pair in compared(tmp_path).pairs] == ["A"] * 3
    assert "compared with those of A alone" in markdown(compared(tmp_path))


@pytest.mark.parametrize(
    ("key", "is_fair"), [("data.image_size", True), ("data.root", False), ("optimizer.lr", False)]
)
def test_a_sweep_over_how_its_pictures_are_decoded_has_a_best(tmp_path: Path, key: str, is_fair: bool):
    runs = []
    for number, data in enumerate(("d1", "d2")):  # fingerprints are of decoded pictures
        run = read(make(tmp_path / str(number), val=0.8 + 0.1 * number, data=data))
        runs.append(replace(run, point={key: str(number), "seed": "0"}, label=str(number)))
    best = compare(runs).best
    assert (best and best.label) == ("1" if is_fair else None)
    assert any("different data" in line for line in compare(runs).unfair) != is_fair
    assert "The runs used different data" not in " ".join(warnings(compare(runs)))


def test_a_mean_over_seeds_ends_with_the_shortest_run(tmp_path: Path):
    for seed in range(3):
        make(tmp_path / str(seed), seed=seed, val=0.6 + 0.1 * seed)
    (tmp_path / "0" / "metrics.csv").write_text("epoch,val/acc\n1,0.2\n")
    assert compared(tmp_path).ranked[0].curve("val/acc") == [(1.0, pytest.approx((0.2 + 0.5 + 0.5) / 3))]
    assert compared(tmp_path).ranked[0].curve("absent") == []


def test_the_cap_of_pairs_is_told_of_many_runs_alone(runs: Path):
    make(runs / "third", lr=0.9, val=0.1, data="other pictures", val_size=0.1)
    found = markdown(compared(runs))
    assert "Pairs of runs" in found
    assert "There are many runs" not in found
    assert "## Not comparable" in found
    assert "Ranked" not in found


def test_two_runs_of_a_seed_are_one_seed():
    found = compare([trial("1", "0", 0.5), trial("1", "0", 0.6)])
    assert found.best is None
    assert [c.state for c in found.partial] == ["2 finished, 1 not begun"]


def test_what_is_not_clearly_worse_has_an_interval_that_overlaps():
    means = {"1": (0.80, 0.82), "2": (0.55, 0.65), "3": (0.40, 0.41)}
    found = compare(trial(lr, str(seed), acc) for lr, accs in means.items() for seed, acc in enumerate(accs))
    assert [c.label for c in found.near] == ["lr=2"]


def test_a_sweep_over_experiments_may_be_one_over_data(runs: Path):
    each = []
    for number in range(2):
        run = read(make(runs / f"e{number}", val_size=0.1 + 0.1 * number))
        each.append(replace(run, point={"experiment": str(number), "seed": "0"}, label=str(number)))
    assert any("not of the same pictures" in line for line in compare(each).unfair)
