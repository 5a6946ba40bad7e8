"""What stands out most is said first."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cifar_core.explain.metrics import metrics
from cifar_core.explain.predictions import Predictions
from cifar_core.report.findings import findings
from tests.report.examples import guesses, pictures, run
from tests.report.test_page import Page, embedded, report

LABELS = np.random.default_rng(1).integers(0, 4, 400).tolist()
CLASSES = ("ant", "bee", "cat", "dog")
FLAT = " ".join  # of the sentences


def summary(labels: list[int], logits: torch.Tensor, classes: tuple[str, ...] = CLASSES, **more: Any) -> dict:
    numbers = metrics(Predictions.of(torch.tensor(labels), logits), classes)
    numbers["checks"]["predictions_repeated"] = 1.0
    issues = {"candidates": 0, "credible": 0, "estimated": 0}
    scaled = {"temperature": None, "reason": "not scaled"}
    return {"split": "test", **numbers, "label_issues": issues, "temperature_scaling": scaled, **more}


def always(label: int, count: int, num_classes: int = 4) -> torch.Tensor:
    return torch.eye(num_classes)[[label] * count]


def epochs(
    losses: list[float], accs: list[float], key: str = "val", train: list[float] | None = None
) -> list:
    return [
        {
            **{"epoch": number, "train/loss": loss, "train/acc": (train or accs)[number - 1]},
            **{f"{key}/loss": loss, f"{key}/acc": acc},
        }
        for number, (loss, acc) in enumerate(zip(losses, accs, strict=True), 1)
    ]


GOOD = epochs([1.0, 0.5, 0.3], [0.5, 0.7, 0.8])


def test_one_answer_for_all_comes_first_and_says_what_a_constant_gives():
    first, never, second, *rest = findings(summary(LABELS, always(2, 400)), GOOD, {})
    assert first == "All 400 pictures are called 'cat': the network tells none of the 4 classes apart."
    assert never.startswith("Never predicted: 'ant' (")
    assert "is no better than that of always answering" in second
    assert not any("hardest class" in line or "Most confused" in line for line in rest)


def test_a_class_that_is_never_predicted_comes_before_the_accuracy_of_the_others():
    labels = [0] * 100 + [1] * 2
    logits = torch.eye(3)[[0] * 99 + [2] * 3]
    first, *_ = findings(summary(labels, logits, ("many", "rare", "absent")), GOOD, {})
    assert first.startswith(
        "Never predicted: 'rare' (2 pictures). Always answering 'many' gives 98.04\u00a0%"
    )
    assert first.endswith(
        "this run 97.06\u00a0%; balanced accuracy, the mean over the classes, is 49.50\u00a0%."
    )


@pytest.mark.parametrize(
    ("history", "told"),
    [
        (epochs([1.0, math.nan, math.inf], [0.5, 0.3, 0.3]), "ended at inf, not finite since epoch 2 of 3"),
        (epochs([1.0, math.nan, 0.9, math.nan], [0.5] * 4), "ended at nan, not finite since epoch 4 of 4"),
        (
            epochs([1.2, 0.6, 7.5], [0.5, 0.6, 0.4]),
            "train/loss rose from 0.6 in epoch 2 to 7.5 in epoch 3, the last; guessing has ln 4 = 1.39",
        ),
        (
            epochs([1.2, 0.6, 1.3], [0.3, 0.9, 0.25]),
            "val/acc was 90.0\u00a0% in epoch 2 and 25.0\u00a0% in the last",
        ),
        (
            epochs([1.2, 0.6, 1.3], [0.3, 0.9, 0.25], "test"),
            "test/acc was 90.0\u00a0% in epoch 2 and 25.0\u00a0% in the last, no better than chance",
        ),
    ],
)
def test_a_training_that_diverged_comes_first(history: list, told: str):
    first = findings(summary(LABELS, guesses(LABELS, 4)), history, {"protocol": "test_each_epoch"})[0]
    assert first.startswith(("The training diverged: ", "The training broke down: "))
    assert told in first


@pytest.mark.parametrize(
    "history",
    [
        [],
        GOOD,
        epochs([5.0], [0.25]),  # a first epoch at a high lr
        epochs([math.nan, 1.0, 0.5], [0.2, 0.5, 0.6]),  # float16 scaling skipped steps, and it recovered
        epochs([1.30, 1.39, 1.38], [0.25, 0.26, 0.25]),  # never came off
        epochs([3.0, 2.5, 2.0], [0.3, 0.3, 0.3]),  # a loss of another kind, that falls
    ],
)
def test_a_training_that_did_not_diverge_is_not_said_to(history: list):
    lines = findings(summary(LABELS, guesses(LABELS, 4)), history, {})
    assert not any("diverged" in line or "broke down" in line for line in lines)


def test_overfitting_is_told_by_the_validation_loss_and_the_gap():
    history = epochs([0.9, 0.6, 0.9], [0.6, 0.7, 0.7], train=[0.6, 0.9, 0.99])
    lines = findings(summary(LABELS, guesses(LABELS, 4)), history, {})
    assert lines[0].startswith(
        "The network overfits: val/loss rose from 0.6 in epoch 2 to 0.9, and 99.0\u00a0%"
    )
    assert not any("overfits" in line for line in findings(summary(LABELS, guesses(LABELS, 4)), GOOD, {}))


def test_few_pictures_and_an_accuracy_within_the_error_of_a_constant_are_told():
    labels = [0] * 7 + [1] * 5
    logits = torch.eye(2)[[0] * 7 + [1] + [0] * 4]
    lines = findings(summary(labels, logits, ("a", "b")), GOOD, {})
    assert lines[0] == (
        "The accuracy of 66.67\u00a0% is not surely better than that of always answering 'a' (58.33\u00a0%)."
    )
    assert lines[1].startswith(
        "The figures stand on 12 pictures: the accuracy may be anything from 39.1\u00a0%"
    )


def test_balanced_accuracy_is_told_of_classes_of_unequal_size():
    labels = [0] * 900 + [1] * 100
    logits = torch.eye(2)[[0] * 900 + [1] * 60 + [0] * 40]
    lines = findings(summary(labels, logits, ("a", "b")), GOOD, {})
    assert (
        "80.00\u00a0% against 96.00\u00a0% of all pictures; always answering 'a' gives 90.00\u00a0%."
        in lines[0]
    )
    even = [0] * 500 + [1] * 500
    assert not any("unequal" in line for line in findings(summary(even, logits, ("a", "b")), GOOD, {}))


@pytest.mark.parametrize("acc", [0.3, 0.61, 0.64, 0.9])
def test_suspicious_labels_are_a_headline_from_half_way_between_chance_and_all_right(
    acc: float, tmp_path: Path
):
    labels = [k % 4 for k in range(400)]
    answers = [label if row < acc * 400 else (label + 1) % 4 for row, label in enumerate(labels)]
    logits = 6.0 * torch.eye(4)[answers]
    numbers = run(pictures(labels, classes=CLASSES, size=8), logits, tmp_path)
    assert numbers["label_issues"]["candidates"] > 0
    told = acc >= 0.625  # (1 / 4 + 1) / 2
    words = FLAT(Page(report(tmp_path)).texts)
    assert ("labels are suspicious" in words) == ("Suspicious labels" in words) == told


def test_a_class_that_is_never_predicted_has_no_suspicious_labels(tmp_path: Path):
    labels = [0] * 100 + [1] * 2
    logits = torch.tensor([[3.0, 0.0]]).repeat(102, 1) + 0.5 * torch.arange(102)[:, None] * torch.tensor(
        [[0.01, 0.0]]
    )
    numbers = run(pictures(labels, classes=("many", "rare"), size=8), logits, tmp_path)
    assert numbers["label_issues"]["candidates"] == 0
    assert (tmp_path / "label_issues.csv").read_text().count("\n") == 1
    words = FLAT(Page(report(tmp_path)).texts)
    assert "Balanced accuracy 50.00 %" in FLAT(words.split())
    assert "Top-5" not in words  # of two classes it is always 1
    assert "All 102 pictures are called 'many'" in words


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("level", ["light", "full"])
def test_a_diverged_run_has_its_report(tmp_path: Path, bad: float, level: str):
    labels = LABELS[:40]
    data = pictures(labels, classes=CLASSES, size=8)
    history = epochs([1.0, bad], [0.5, 0.25])
    logits = torch.full((40, 4), bad)
    numbers = run(data, logits, tmp_path, level=level, history=history, val_logits=logits)
    text = (tmp_path / "metrics.json").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == {"format": 1} | numbers
    assert set(embedded(report(tmp_path))["pictures"]["loss"]) == {None}
    assert findings(numbers, history, {})[0].startswith("The outputs for 40 of 40 pictures are not finite")
