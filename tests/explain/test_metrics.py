import json
import math
import warnings

import numpy as np
import pytest
import sklearn.metrics as reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from cifar_core.explain.metrics import (
    confused_pairs,
    confusion_matrix,
    metrics,
    probability_scores,
    remarks,
    temperature_scores,
    wilson_interval,
)
from cifar_core.explain.predictions import Predictions
from cifar_core.train.predict import balanced_acc
from tests.report.examples import NAMES, guesses

LABELS = np.random.default_rng(0).integers(0, 10, 300).tolist()


@pytest.fixture
def predictions() -> Predictions:
    return Predictions.of(torch.tensor(LABELS), guesses(LABELS))


def test_numbers_equal_scikit_learns(predictions: Predictions):
    numbers = metrics(predictions, NAMES)
    logits, classes = predictions.logits.double().numpy(), range(10)
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    assert numbers["acc"] == pytest.approx(reference.accuracy_score(LABELS, logits.argmax(1)))
    assert numbers["top5_acc"] == pytest.approx(reference.top_k_accuracy_score(LABELS, logits, k=5))
    assert numbers["nll"] == pytest.approx(reference.log_loss(LABELS, probs, labels=classes), rel=1e-9)
    assert numbers["errors"] == (logits.argmax(1) != LABELS).sum()
    expected = reference.precision_recall_fscore_support(LABELS, logits.argmax(1), labels=classes)
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [row[name] for row in numbers["per_class"]] == pytest.approx(list(values))
    assert numbers["macro_f1"] == pytest.approx(reference.f1_score(LABELS, logits.argmax(1), average="macro"))
    assert 0.3 < numbers["acc"] < numbers["top5_acc"] < 1  # the example is neither trivial nor hopeless


def test_macro_f1_leaves_out_classes_that_never_occur_as_scikit_learn_does():
    labels, logits = [0, 0, 1, 2], torch.eye(5)[[0, 1, 1, 3]]
    numbers = metrics(Predictions.of(torch.tensor(labels), logits), "abcde")
    expected = reference.f1_score(labels, logits.argmax(1), average="macro", zero_division=0)
    assert numbers["macro_f1"] == pytest.approx(expected)
    precisions, f1 = ([row[key] for row in numbers["per_class"]] for key in ("precision", "f1"))
    assert precisions == [1, 0.5, None, 0, None]
    assert f1 == pytest.approx([2 / 3, 2 / 3, 0, 0, None])


@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    seed=st.integers(0, 99),
    constant=st.booleans(),
)
def test_balanced_accuracy_equals_scikit_learns(labels: list[int], seed: int, constant: bool):
    preds = np.random.default_rng(seed).integers(0, 5, len(labels))
    preds[:] = preds[0] if constant else preds
    predictions = Predictions.of(torch.tensor(labels), torch.eye(6)[preds])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that are predicted and have no pictures
        expected = reference.balanced_accuracy_score(labels, preds)
    assert metrics(predictions, "abcdef")["balanced_acc"] == pytest.approx(expected)
    assert balanced_acc(predictions.preds, predictions.labels) == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=30))
def test_remarks_are_made_where_the_accuracy_hides_something(pairs: list[tuple[int, int]]):
    labels, preds = (torch.tensor(part) for part in zip(*pairs, strict=True))
    told = " | ".join(remarks(confusion_matrix(labels, preds, 5), "abcde"))
    sizes, acc = labels.bincount(minlength=5), (labels == preds).double().mean().item()
    several = int((sizes > 0).sum()) > 1
    absent = {"abcde"[k] for k in labels.unique().tolist() if k not in preds}
    alone = len(preds.unique()) == 1
    assert ("are called" in told) == (several and alone)
    assert ("never predicted" in told) == (several and bool(absent))
    assert ("no better than always" in told) == (several and acc <= sizes.max().item() / len(labels))
    if "never predicted" in told:
        line = told[told.index("never predicted") :].split(" | ")[0]
        assert {name for name in "abcde" if f"'{name}' (" in line} == absent


def test_an_imbalanced_split_is_told_by_its_smallest_class_and_its_largest():
    labels = torch.tensor([0] * 100 + [1] * 2)
    counts = confusion_matrix(labels, torch.zeros_like(labels), 2)
    assert remarks(counts, ("many", "rare")) == [
        "all 102 pictures are called 'many'",
        "never predicted: 'rare' (2 pictures)",
        "no better than always answering 'many' (98.04%)",
    ]
    assert remarks(torch.tensor([[99, 0, 1], [1, 0, 0], [0, 0, 9]]), ("many", "rare", "few")) == [
        "never predicted: 'rare' (1 picture)",
        "always answering 'many' gives 90.91%",
    ]
    assert remarks(torch.tensor([[9, 1], [0, 0]]), "ab") == []  # one class has all the pictures
    many = confusion_matrix(torch.arange(99), torch.arange(99) // 50, 99)
    assert remarks(many, ["x" * 300 + "\n"] * 99)[0].endswith(" and 92 more classes")
    assert len(remarks(many, ["x" * 300 + "\n"] * 99)[0]) < 400


@pytest.mark.parametrize(("hits", "total"), [(0, 1), (1, 1), (7, 9), (200, 200), (7888, 10_000)])
def test_the_wilson_interval_equals_scipys(hits: int, total: int):
    expected = binomtest(hits, total).proportion_ci(method="wilson")
    assert wilson_interval(hits, total) == pytest.approx([expected.low, expected.high], abs=1e-12)


def test_accuracies_have_wilsons_interval(predictions: Predictions):
    numbers, total = metrics(predictions, NAMES), len(predictions.labels)
    for key in ("acc", "top5_acc"):
        expected = binomtest(round(numbers[key] * total), total).proportion_ci(method="wilson")
        assert numbers[f"{key}_interval"] == pytest.approx([expected.low, expected.high])
    assert numbers["interval"] == "95%, Wilson"


def test_the_loss_interval_is_the_normal_one(predictions: Predictions):
    losses = predictions.losses.numpy()
    half = 1.96 * losses.std() / len(losses) ** 0.5
    interval = metrics(predictions, NAMES)["nll_interval"]
    assert interval == pytest.approx([losses.mean() - half, losses.mean() + half], rel=1e-4)


def test_accuracy_at_a_confidence_counts_the_pictures_that_reach_it(predictions: Predictions):
    confidence, hits = predictions.confidence.numpy(), predictions.hits.numpy()
    rows = metrics(predictions, NAMES)["at_confidence"]
    assert [row["confidence"] for row in rows] == [0.9, 0.95, 0.99]
    for row in rows:
        chosen = confidence >= row["confidence"]
        assert row["pictures"] == chosen.sum() > 5
        assert row["acc"] == pytest.approx(hits[chosen].mean())
        assert row["share"] == pytest.approx(chosen.mean())


def test_confused_pairs_are_counted_in_both_directions():
    counts = torch.tensor([[5, 3, 0], [4, 9, 1], [2, 0, 7]])
    assert confused_pairs(counts, ("a", "b", "c")) == [
        {"a": "a", "b": "b", "errors": 7, "a_as_b": 3, "b_as_a": 4},
        {"a": "a", "b": "c", "errors": 2, "a_as_b": 0, "b_as_a": 2},
        {"a": "b", "b": "c", "errors": 1, "a_as_b": 1, "b_as_a": 0},
    ]
    assert confused_pairs(torch.eye(3, dtype=torch.int64), ("a", "b", "c")) == []


def test_scaling_changes_the_probabilities_only(predictions: Predictions):
    before, after = probability_scores(predictions), temperature_scores(predictions, 2.0, "val")
    halved = probability_scores(Predictions.of(predictions.labels, predictions.logits / 2))
    assert after == {"temperature": 2.0, "fitted_on": "val", "at_limit": False, **halved}
    assert after["nll"] != before["nll"]
    assert temperature_scores(predictions, 20.0, "val")["at_limit"]
    assert temperature_scores(predictions, None, "no pictures") == {
        "temperature": None,
        "reason": "not scaled: no pictures",
    }


def test_confusion_matrix_equals_scikit_learns(predictions: Predictions):
    counts = confusion_matrix(predictions.labels, predictions.preds, 10)
    expected = reference.confusion_matrix(LABELS, predictions.preds, labels=range(10))
    np.testing.assert_array_equal(counts, expected)


def test_numbers_made_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1]]))
    predictions = Predictions.of(torch.tensor([0, 1, 0]), logits)
    numbers = metrics(predictions, ("a", "b", "c"))
    assert numbers["acc"] == pytest.approx(2 / 3)
    assert numbers["nll"] == pytest.approx(-math.log(0.5 * 0.2 * 0.6) / 3, rel=1e-6)
    assert [row["recall"] for row in numbers["per_class"]] == [1.0, 0.0, None]
    assert [row["support"] for row in numbers["per_class"]] == [2, 1, 0]
    assert numbers["checks"] == {
        "mean_recall": 0.5,
        "weighted_mean_recall": pytest.approx(2 / 3),
        "weighted_mean_recall_is_acc": True,
        "confusion_matrix_adds_up": True,
        "balanced": False,
    }
    assert predictions.runners_up.tolist() == [1, 1, 1]


def test_mean_class_accuracy_is_the_accuracy_of_a_balanced_split():
    labels = list(range(10)) * 7
    check = metrics(Predictions.of(torch.tensor(labels), guesses(labels)), NAMES)["checks"]
    assert check["balanced"]
    assert check["mean_recall"] == pytest.approx(check["weighted_mean_recall"])


def test_errors_start_with_the_most_confident_and_hits_with_the_least(predictions: Predictions):
    probs = torch.softmax(predictions.logits.double(), 1).numpy()
    wrong = probs.argmax(1) != LABELS
    for rows, of, sign in ((predictions.errors(), wrong, -1), (predictions.unsure_hits(), ~wrong, 1)):
        assert sorted(rows.tolist()) == np.flatnonzero(of).tolist()
        assert (np.diff(sign * probs.max(1)[rows]) >= 0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_diverged_logits_give_strict_json_and_the_predictions_of_argmax(bad: float):
    logits = guesses(LABELS)
    logits[3] = bad
    logits[4, 7] = bad
    predictions = Predictions.of(torch.tensor(LABELS), logits)
    numbers = metrics(predictions, NAMES)
    assert torch.equal(predictions.preds, logits.argmax(1))
    assert numbers["acc"] == (logits.argmax(1) == predictions.labels).double().mean().item()
    assert numbers["nll"] is numbers["brier"] is numbers["nll_interval"] is None
    assert numbers["non_finite"] == 2
    assert sorted(predictions.errors().tolist()) == (~predictions.hits).nonzero().flatten().tolist()
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers


def test_confidence_near_one_stays_apart():
    predictions = Predictions.of(torch.tensor([1, 1]), torch.tensor([[20.0, 0.0], [25.0, 0.0]]))
    assert predictions.errors().tolist() == [1, 0]  # both confidences are 1 in float32


def test_one_class_and_one_picture():
    numbers = metrics(Predictions.of(torch.tensor([0]), torch.tensor([[0.3]])), ("only",))
    assert (numbers["acc"], numbers["top5_acc"], numbers["nll"]) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize("shape", [(0, 10), (3, 10), (4,), (4, 0)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]):
    labels = torch.zeros(0 if shape[0] == 0 else 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="a row for each picture and a column for each class"):
        Predictions.of(labels, torch.zeros(shape))
