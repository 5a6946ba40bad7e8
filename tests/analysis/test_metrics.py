import json
import math

import numpy as np
import pytest
import sklearn.metrics as reference
import torch
from examples import NAMES, guesses

from cifar_core.analysis.metrics import confusion_matrix, metrics, top_k_accuracy
from cifar_core.analysis.predictions import Predictions, predictions

LABELS = np.random.default_rng(0).integers(0, 10, 300).tolist()


@pytest.fixture
def found() -> Predictions:
    return predictions(torch.tensor(LABELS), guesses(LABELS))


def test_numbers_equal_scikit_learns(found: Predictions):
    numbers = metrics(found, NAMES)
    logits, classes = found.logits.double().numpy(), range(10)
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    assert numbers["acc"] == pytest.approx(reference.accuracy_score(LABELS, logits.argmax(1)))
    assert numbers["top5_acc"] == pytest.approx(reference.top_k_accuracy_score(LABELS, logits, k=5))
    assert numbers["loss"] == pytest.approx(reference.log_loss(LABELS, probs, labels=classes), rel=1e-9)
    assert numbers["errors"] == (logits.argmax(1) != LABELS).sum()
    recalls = reference.recall_score(LABELS, logits.argmax(1), average=None)
    assert [row["acc"] for row in numbers["per_class"]] == pytest.approx(list(recalls))
    assert [row["support"] for row in numbers["per_class"]] == list(np.bincount(LABELS))
    assert 0.3 < numbers["acc"] < numbers["top5_acc"] < 1  # the example is neither trivial nor hopeless


def test_confusion_matrix_equals_scikit_learns(found: Predictions):
    counts = confusion_matrix(found.labels, found.preds, 10)
    expected = reference.confusion_matrix(LABELS, found.preds, labels=range(10))
    np.testing.assert_array_equal(counts, expected)


def test_numbers_made_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1]]))
    found = predictions(torch.tensor([0, 1, 0]), logits)
    numbers = metrics(found, ("a", "b", "c"))
    assert numbers["acc"] == pytest.approx(2 / 3)
    assert numbers["loss"] == pytest.approx(-math.log(0.5 * 0.2 * 0.6) / 3, rel=1e-6)
    assert numbers["per_class"] == [
        {"name": "a", "acc": 1.0, "support": 2},
        {"name": "b", "acc": 0.0, "support": 1},
        {"name": "c", "acc": None, "support": 0},
    ]
    assert numbers["class_check"] == {
        "mean_acc": 0.5,
        "weighted_mean_acc": pytest.approx(2 / 3),
        "equals_acc": True,
        "balanced": False,
    }
    assert top_k_accuracy(found, 2) == 1.0
    assert found.runners_up.tolist() == [1, 1, 1]


def test_mean_class_accuracy_is_the_accuracy_of_a_balanced_split():
    labels = list(range(10)) * 7
    check = metrics(predictions(torch.tensor(labels), guesses(labels)), NAMES)["class_check"]
    assert check["balanced"]
    assert check["mean_acc"] == pytest.approx(check["weighted_mean_acc"])


def test_errors_start_with_the_most_confident_and_hits_with_the_least(found: Predictions):
    probs = torch.softmax(found.logits.double(), 1).numpy()
    wrong = probs.argmax(1) != LABELS
    for rows, of, sign in ((found.errors(), wrong, -1), (found.unsure_hits(), ~wrong, 1)):
        assert sorted(rows.tolist()) == np.flatnonzero(of).tolist()
        assert (np.diff(sign * probs.max(1)[rows]) >= 0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_diverged_logits_give_strict_json_and_the_predictions_of_argmax(bad: float):
    logits = guesses(LABELS)
    logits[3] = bad
    logits[4, 7] = bad
    found = predictions(torch.tensor(LABELS), logits)
    numbers = metrics(found, NAMES)
    assert torch.equal(found.preds, logits.argmax(1))
    assert numbers["acc"] == (logits.argmax(1) == found.labels).double().mean().item()
    assert numbers["loss"] is None
    assert numbers["non_finite"] == 2
    assert sorted(found.errors().tolist()) == (~found.hits).nonzero().flatten().tolist()
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers


def test_confidence_near_one_stays_apart():
    found = predictions(torch.tensor([1, 1]), torch.tensor([[20.0, 0.0], [25.0, 0.0]]))
    assert found.errors().tolist() == [1, 0]  # both confidences are 1 in float32


def test_one_class_and_one_picture():
    numbers = metrics(predictions(torch.tensor([0]), torch.tensor([[0.3]])), ("only",))
    assert (numbers["acc"], numbers["top5_acc"], numbers["loss"]) == (1.0, 1.0, 0.0)


@pytest.mark.parametrize("shape", [(0, 10), (3, 10), (4,), (4, 0)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]):
    labels = torch.zeros(0 if shape[0] == 0 else 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="a row for each picture and a column for each class"):
        predictions(labels, torch.zeros(shape))
