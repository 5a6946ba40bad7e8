"""Labels that are perhaps wrong: confident learning and label-quality scores.

Confident learning is Northcutt, Jiang & Chuang 2021 (arXiv:1911.00068); the score is the normalised margin of
Kuan & Mueller 2022, as cleanlab's documentation describes it (docs.cleanlab.ai, `cleanlab.rank`).
Both want probabilities of pictures that the model was not trained on, as those of val and test are.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cifar_core.explain.predictions import Predictions, pick


@dataclass(frozen=True)
class LabelIssues:
    """Pictures whose label is perhaps wrong, the most suspicious first."""

    rows: Tensor  # int64 (M,), where they stand in the predictions
    suggested: Tensor  # int64 (M,), the class they are counted as
    thresholds: Tensor  # float64 (K,), each class's mean probability among its own pictures; NaN without any
    estimated: float | None  # label errors in the whole split, by the calibrated joint; None without a count


def label_quality(predictions: Predictions) -> Tensor:
    """Return (p(label) - largest other probability + 1) / 2 a picture, float64 (N,): 0 is suspicious."""
    given = pick(predictions.probs, predictions.labels)
    if predictions.probs.shape[1] == 1:
        return (given + 1) / 2
    others = predictions.probs.scatter(1, predictions.labels[:, None], -1)
    return (given - others.amax(1) + 1) / 2


def label_issues(predictions: Predictions) -> LabelIssues:
    """Find pictures that the confident joint counts under another class than their label.

    A picture counts as the likeliest class among those whose probability reaches that class's threshold.
    As in cleanlab, a picture that the model predicts as labelled is no candidate. Nor is one whose label or
    suggestion is a class that the model never predicts: of that class it has learned nothing. Pictures with
    NaN count nowhere. Ranked by `label_quality`, the lowest first.
    """
    thresholds = _thresholds(predictions)
    reached = predictions.probs >= thresholds  # False where either is NaN
    counted = reached.any(1)
    guess = predictions.probs.where(reached, -1).argmax(1)
    known = torch.bincount(predictions.preds, minlength=predictions.probs.shape[1]) > 0
    known = known[predictions.labels] & known[guess]
    rows = (counted & known & (guess != predictions.labels) & ~predictions.hits).nonzero()[:, 0]
    rows = rows[label_quality(predictions)[rows].argsort(stable=True)]
    return LabelIssues(rows, guess[rows], thresholds, _estimated(predictions.labels, guess, counted))


def credible(predictions: Predictions, issues: LabelIssues) -> Tensor:
    """Return of which issues the model is good enough a judge, bool (M,).

    Its accuracy must be at least half way from that of always answering the largest class to 1, and its
    recall of both classes, the label's and the suggested one, half way from 1 / K to 1.
    """
    num_classes = predictions.probs.shape[1]
    support = torch.bincount(predictions.labels, minlength=num_classes).double()
    hits = torch.bincount(predictions.labels[predictions.hits], minlength=num_classes).double()
    good = hits / support >= (1 / num_classes + 1) / 2  # False without pictures
    whole = hits.sum() / support.sum() >= (support.max() / support.sum() + 1) / 2
    return good[predictions.labels[issues.rows]] & good[issues.suggested] & whole


def _thresholds(predictions: Predictions) -> Tensor:
    num_classes = predictions.probs.shape[1]
    given = pick(predictions.probs, predictions.labels)
    known = given.isfinite()
    labels = predictions.labels[known]
    sums = torch.bincount(labels, weights=given[known], minlength=num_classes)
    return sums / torch.bincount(labels, minlength=num_classes)


def _estimated(labels: Tensor, guess: Tensor, counted: Tensor) -> float | None:
    """Scale the confident joint's rows to the classes' sizes; sum what lies off its diagonal."""
    if not counted.any():
        return None
    num_classes = int(max(labels.max(), guess.max())) + 1
    cells = labels[counted] * num_classes + guess[counted]
    joint = torch.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes).double()
    support = torch.bincount(labels, minlength=num_classes).double()
    off = (joint.sum(1) - joint.diag()) / joint.sum(1).clamp_min(1)
    return (off * support).sum().item()
