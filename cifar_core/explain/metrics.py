"""Numbers of one split: accuracy, loss, calibration, confusions, and the same for each class."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cifar_core.explain.calibration import BINS, HOTTEST, brier_score, calibration_error, cooled
from cifar_core.explain.predictions import Predictions
from cifar_core.explain.statistics import LEVEL

CONFIDENCES = (0.90, 0.95, 0.99)
PAIRS = 10  # confused pairs that are listed
LISTED = 5  # classes that a remark names
NAME = 40  # letters of a class name in a sentence
Z = 1.959963984540054  # standard normal quantile of (1 + LEVEL) / 2
Interval = list[float]


def confusion_matrix(labels: Tensor, preds: Tensor, num_classes: int) -> Tensor:
    """Count pictures by true class (row) and predicted class (column), int64 (K, K)."""
    counts = torch.bincount(labels * num_classes + preds, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def wilson_interval(hits: int, total: int) -> Interval:
    """Return the interval of `hits / total` at LEVEL by Wilson 1927, sound for few pictures too."""
    share, z2 = hits / total, Z**2 / total
    middle = (share + z2 / 2) / (1 + z2)
    half = Z * math.sqrt(share * (1 - share) / total + z2 / (4 * total)) / (1 + z2)
    return [max(0.0, middle - half), min(1.0, middle + half)]


def metrics(predictions: Predictions, classes: Sequence[str]) -> dict[str, Any]:
    """Summarize a split in values that strict JSON can hold: what is not finite becomes None.

    Accuracies, precision, recall and F1 lie in [0, 1]; `nll` is the mean cross-entropy (nats), which the run
    calls loss, with an interval of 1.96 standard errors; `brier` lies in [0, 2], `ece` in [0, 1].
    `top5_acc` takes the likeliest min(5, K) classes. Precision is None of a class never predicted, recall of
    one without pictures, F1 of one with neither; macro F1 is the mean over all others, as in scikit-learn.
    `balanced_acc` is the plain mean of the recalls of the classes that have pictures, as in scikit-learn;
    `majority` the largest class and what always answering it gives; `never_predicted` lists classes that have
    pictures and are no picture's likeliest class. `checks` compares figures that must agree; `balanced` says
    whether all classes have the same support: only then is `balanced_acc` the overall accuracy.
    """
    counts = confusion_matrix(predictions.labels, predictions.preds, len(classes))
    total, hits = len(predictions.labels), int(predictions.hits.sum())
    top5 = int((predictions.ranking[:, :5] == predictions.labels[:, None]).sum())
    per_class = _per_class(counts, classes)
    checks = _checks(counts, per_class, hits)
    f1 = [row["f1"] for row in per_class if row["f1"] is not None]
    half = Z * predictions.losses.std(correction=0).item() / math.sqrt(total)
    loss = predictions.losses.mean().item()
    return {
        "pictures": total,
        "errors": total - hits,
        "acc": hits / total,
        "acc_interval": wilson_interval(hits, total),
        "interval": f"{LEVEL:.0%}, Wilson",
        "balanced_acc": checks["mean_recall"],
        "majority": {"name": classes[int(counts.sum(1).argmax())], "acc": int(counts.sum(1).max()) / total},
        "never_predicted": [classes[k] for k in never_predicted(counts)],
        "top5_acc": top5 / total,
        "top5_acc_interval": wilson_interval(top5, total),
        "macro_f1": math.fsum(f1) / len(f1),
        **probability_scores(predictions),
        "nll_interval": [loss - half, loss + half] if math.isfinite(half) else None,
        "ece_bins": BINS,
        "non_finite": int((~predictions.logits.isfinite().all(1)).sum()),
        "at_confidence": [_at_confidence(predictions, least) for least in CONFIDENCES],
        "confused_pairs": confused_pairs(counts, classes),
        "checks": checks,
        "per_class": per_class,
    }


def probability_scores(predictions: Predictions) -> dict[str, float | None]:
    """Return the scores that depend on the probabilities: nll, brier, ece; None where not finite."""
    scores = {
        "nll": predictions.losses.mean().item(),
        "brier": brier_score(predictions),
        "ece": calibration_error(predictions),
    }
    return {name: finite(value) for name, value in scores.items()}


def temperature_scores(predictions: Predictions, temperature: float | None, fitted_on: str) -> dict[str, Any]:
    """Return `probability_scores` after scaling by a temperature that was fitted on the split `fitted_on`.

    `at_limit` says that the fit ran into the end of its range, as where every picture it saw is right.
    """
    if temperature is None:
        return {"temperature": None, "reason": f"not scaled: {fitted_on}"}
    at_limit = not 1.001 / HOTTEST < temperature < 0.999 * HOTTEST
    scores = probability_scores(cooled(predictions, temperature))
    return {"temperature": temperature, "fitted_on": fitted_on, "at_limit": at_limit, **scores}


def never_predicted(counts: Tensor) -> list[int]:
    """Return the classes of a confusion matrix (K, K) that have pictures and are never predicted."""
    return ((counts.sum(1) > 0) & (counts.sum(0) == 0)).nonzero()[:, 0].tolist()


def remarks(counts: Tensor, classes: Sequence[str]) -> list[str]:
    """Say of a confusion matrix (K, K) what its accuracy hides; [] where that hides nothing.

    That one class is all it answers, which classes it never answers, and what an answer without a look gives
    where it gives as much or more, or a class is never predicted.
    """
    support, total = counts.sum(1), int(counts.sum())
    if int((support > 0).sum()) < 2:  # every answer is the only one there is, or an error
        return []
    acc, constant = int(counts.diag().sum()) / total, int(support.max()) / total
    majority, absent = quoted(classes[int(support.argmax())]), never_predicted(counts)
    answers = counts.sum(0).nonzero()[:, 0].tolist()
    lines = []
    if len(answers) == 1:
        lines.append(f"all {total:,} pictures are called {quoted(classes[answers[0]])}")
    if absent:
        lines.append(f"never predicted: {listed([(classes[k], int(support[k])) for k in absent])}")
    if acc <= constant:
        lines.append(f"no better than always answering {majority} ({constant:.2%})")
    elif absent:
        lines.append(f"always answering {majority} gives {constant:.2%}")
    return lines


def quoted(name: str) -> str:
    """Return a class name in quotes, on one line, in at most NAME letters and their escapes."""
    return repr(name if len(name) <= NAME else name[: NAME - 1] + "\u2026")


def listed(pictures: Sequence[tuple[str, int]]) -> str:
    """Name classes with their numbers of pictures, the first LISTED of them."""
    names = [f"{quoted(name)} ({count:,} picture{'s' * (count != 1)})" for name, count in pictures[:LISTED]]
    more = len(pictures) - len(names)
    return ", ".join(names) + (f" and {more:,} more class{'es' * (more != 1)}" if more else "")


def confused_pairs(counts: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    """List the pairs of classes with the most confusions, counted in both directions."""
    both = (counts + counts.T).triu(1)
    order = both.flatten().argsort(descending=True, stable=True)[:PAIRS].tolist()
    pairs = [divmod(cell, len(classes)) for cell in order]
    return [
        {
            "a": classes[a],
            "b": classes[b],
            "errors": int(both[a, b]),
            "a_as_b": int(counts[a, b]),
            "b_as_a": int(counts[b, a]),
        }
        for a, b in pairs
        if both[a, b]
    ]


def finite(value: float) -> float | None:
    """Return the value, or None where strict JSON has no word for it."""
    return value if math.isfinite(value) else None


def _per_class(counts: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    right, support, predicted = counts.diag().tolist(), counts.sum(1).tolist(), counts.sum(0).tolist()
    for name, hits, real, guessed in zip(classes, right, support, predicted, strict=True):
        rows.append(
            {
                "name": name,
                "precision": hits / guessed if guessed else None,
                "recall": hits / real if real else None,
                "recall_interval": wilson_interval(hits, real) if real else None,
                "f1": 2 * hits / (real + guessed) if real + guessed else None,
                "support": real,
            }
        )
    return rows


def _at_confidence(predictions: Predictions, least: float) -> dict[str, Any]:
    chosen = predictions.hits[predictions.confidence >= least]
    acc = chosen.double().mean().item() if len(chosen) else None
    share = len(chosen) / len(predictions.hits)
    return {"confidence": least, "acc": acc, "pictures": len(chosen), "share": share}


def _checks(counts: Tensor, per_class: Sequence[dict[str, Any]], hits: int) -> dict[str, Any]:
    seen = [(row["recall"], row["support"]) for row in per_class if row["support"]]
    total = sum(support for _, support in seen)
    weighted = math.fsum(recall * support for recall, support in seen) / total
    return {
        "mean_recall": math.fsum(recall for recall, _ in seen) / len(seen),
        "weighted_mean_recall": weighted,
        "weighted_mean_recall_is_acc": math.isclose(weighted, hits / total, rel_tol=1e-9, abs_tol=1e-12),
        "confusion_matrix_adds_up": int(counts.sum()) == total and int(counts.diag().sum()) == hits,
        "balanced": len({row["support"] for row in per_class}) == 1,
    }
