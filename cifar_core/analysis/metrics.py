"""Numbers of one split: accuracies, loss, and the same for each class."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cifar_core.analysis.predictions import Predictions


def confusion_matrix(labels: Tensor, preds: Tensor, num_classes: int) -> Tensor:
    """Count pictures by true class (row) and predicted class (column), int64 (K, K)."""
    counts = torch.bincount(labels * num_classes + preds, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def top_k_accuracy(found: Predictions, k: int) -> float:
    """Share of pictures whose label is among the `k` likeliest classes."""
    hits = (found.ranking[:, :k] == found.labels[:, None]).any(1)
    return hits.double().mean().item()


def metrics(found: Predictions, classes: Sequence[str]) -> dict[str, Any]:
    """Summarize a split in values that strict JSON can hold: what is not finite becomes None.

    `acc`, `top5_acc` (the likeliest min(5, K)) and the classes' accuracies lie in [0, 1]; `loss` is the mean
    cross-entropy. `class_check` says whether the classes' accuracies, weighted by support, give `acc` again,
    and whether the split is balanced: only then is their plain mean the overall accuracy.
    """
    num_classes = len(classes)
    counts = confusion_matrix(found.labels, found.preds, num_classes)
    support = counts.sum(1)
    class_acc = (counts.diag().double() / support).tolist()
    acc = found.hits.double().mean().item()
    return {
        "pictures": len(found.labels),
        "errors": int((~found.hits).sum()),
        "acc": acc,
        "top5_acc": top_k_accuracy(found, min(5, num_classes)),
        "loss": _finite(found.losses.mean().item()),
        "non_finite": int((~found.logits.isfinite().all(1)).sum()),
        "class_check": _class_check(class_acc, support.tolist(), acc),
        "per_class": [
            {"name": name, "acc": _finite(value), "support": count}
            for name, value, count in zip(classes, class_acc, support.tolist(), strict=True)
        ],
    }


def _class_check(class_acc: list[float], support: list[int], acc: float) -> dict[str, Any]:
    seen = [(value, count) for value, count in zip(class_acc, support, strict=True) if count]
    weighted = math.fsum(value * count for value, count in seen) / sum(support)
    return {
        "mean_acc": math.fsum(value for value, _ in seen) / len(seen),
        "weighted_mean_acc": weighted,
        "equals_acc": math.isclose(weighted, acc, rel_tol=1e-9, abs_tol=1e-12),
        "balanced": len(set(support)) == 1,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
