import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from threadpoolctl import threadpool_limits

from cifar_core.explain.labels import label_issues, label_quality
from cifar_core.explain.predictions import Predictions


def reference(labels: np.ndarray, probs: np.ndarray) -> dict[int, int]:
    """Confident learning, picture by picture: {row: class it counts as} where that is not its label."""
    num_classes = probs.shape[1]
    thresholds = [probs[labels == k, k].mean() for k in range(num_classes)]
    predictions = {}
    for row, p in enumerate(probs):
        reached = [k for k in range(num_classes) if p[k] >= thresholds[k]]
        if reached:
            guess = max(reached, key=lambda k: p[k])
            if guess != labels[row] and p.argmax() != labels[row]:
                predictions[row] = guess
    return predictions


def test_candidates_equal_a_count_picture_by_picture():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 800)
    logits = rng.normal(size=(800, 6)) * 1.5 + 2 * np.eye(6)[labels]
    predictions = Predictions.of(torch.tensor(labels), torch.tensor(logits))
    issues = label_issues(predictions)
    expected = reference(labels, predictions.probs.numpy())
    assert dict(zip(issues.rows.tolist(), issues.suggested.tolist(), strict=True)) == expected
    assert len(expected) > 30
    quality = label_quality(predictions)[issues.rows]
    assert (quality.diff() >= 0).all()


def test_quality_is_the_normalised_margin():
    probs = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.7, 0.2, 0.1]])
    predictions = Predictions.of(torch.tensor([0, 1, 2]), probs.log())
    assert label_quality(predictions).tolist() == pytest.approx([0.75, 0.25, 0.2], abs=1e-6)


def test_planted_label_errors_of_handwritten_digits_are_found():
    images, truth = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    planted = rng.choice(len(truth), 90, replace=False)  # 5 %
    labels = truth.copy()
    labels[planted] = (labels[planted] + rng.integers(1, 10, 90)) % 10
    # Newton's method ends at the minimum; where the default solver stops, the CPU's rounding has a say.
    model = LogisticRegression(C=0.001, solver="newton-cholesky", tol=1e-6)
    with threadpool_limits(1):  # on a busy machine BLAS threads wait for each other far longer than they work
        probs = cross_val_predict(model, images, labels, cv=5, method="predict_proba")
    issues = label_issues(Predictions.of(torch.tensor(labels), torch.tensor(probs).log()))
    hits = np.isin(issues.rows.numpy(), planted)
    # With a model that is right about 92 % of the true labels.
    assert hits.sum() / len(planted) > 0.7  # recall
    assert hits.mean() > 0.85  # precision of the whole list
    assert hits[:60].mean() > 0.95  # and of its head
    named = issues.suggested.numpy()[hits] == truth[issues.rows.numpy()[hits]]
    assert named.mean() > 0.9
    assert issues.estimated == pytest.approx(90, rel=0.25)


def test_the_estimate_scales_the_joint_to_the_classes():
    # Class 0: one of two counted pictures counts as class 1, and two more reach no threshold.
    probs = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.49, 0.51], [0.49, 0.51], [0.2, 0.8]])
    predictions = Predictions.of(torch.tensor([0, 0, 0, 0, 1]), probs.log())
    issues = label_issues(predictions)
    assert issues.thresholds.tolist() == pytest.approx([0.52, 0.8], abs=1e-6)
    assert issues.rows.tolist() == [1]
    assert issues.estimated == pytest.approx(2)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_nothing_is_suspected_without_numbers_or_errors(num_classes: int):
    labels = torch.arange(6) % num_classes
    right = 9.0 * torch.nn.functional.one_hot(labels, num_classes)
    issues = label_issues(Predictions.of(labels, right))
    assert (len(issues.rows), issues.estimated) == (0, 0)
    unknown = label_issues(Predictions.of(labels, right * math.nan))
    assert (len(unknown.rows), unknown.estimated) == (0, None)


def test_a_class_without_pictures_is_never_suggested():
    logits = torch.tensor([[0.0, 0.0, 9.0], [3.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    issues = label_issues(Predictions.of(torch.tensor([0, 0, 1]), logits))
    assert math.isnan(issues.thresholds[2])
    assert 2 not in issues.suggested
