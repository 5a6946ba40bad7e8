"""Logits, loss and accuracy of a split."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar_core.data.split import Data, Split
from cifar_core.train.numerics import Numerics
from cifar_core.train.settings import TrainerSettings
from cifar_core.train.tta import averaged


@torch.no_grad()
def predict(
    model: nn.Module,
    data: Data,
    split: Split,
    numerics: Numerics,
    *,
    batch_size: int,
    tta: str = "none",
    between_batches: Callable[[], None] = lambda: None,
) -> Tensor:
    """Return float32 logits (N, K) of all pictures of ``split``, on its device; the training flag is kept.

    ``tta`` names the views of each picture to average over (`cifar_core.train.tta`).
    """
    training = model.training
    model.eval()
    forward = averaged(model, tta)
    logits = []
    for images in split.images.split(batch_size):
        between_batches()
        with numerics.autocast():
            logits.append(forward(data.normalize(numerics.lay_out(images))).float())
    model.train(training)
    return torch.cat(logits) if logits else torch.zeros(0, data.num_classes, device=split.images.device)


def evaluate(
    model: nn.Module,
    data: Data,
    split: str,
    numerics: Numerics,
    *,
    batch_size: int,
    tta: str = "none",
    between_batches: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Return loss (mean cross-entropy, nats) and accuracy of ``split`` ("train", "val" or "test")."""
    pictures: Split = getattr(data, split)
    logits = predict(
        model, data, pictures, numerics, batch_size=batch_size, tta=tta, between_batches=between_batches
    )
    return score(logits, pictures.labels, split)


def tta_acc(
    model: nn.Module, data: Data, split: str, numerics: Numerics, settings: TrainerSettings
) -> dict[str, float]:
    """Return `<split>/acc_tta`, the accuracy with the views of ``settings.tta``; {} where that is none."""
    if settings.tta == "none":
        return {}
    batch_size = settings.eval_batch_size
    scores = evaluate(model, data, split, numerics, batch_size=batch_size, tta=settings.tta)
    return {f"{split}/acc_tta": scores[f"{split}/acc"]}


def balanced_acc(preds: Tensor, labels: Tensor) -> float:
    """Return the mean share of right predictions (N,) of the classes that have pictures, in [0, 1].

    NaN without pictures.
    """
    hits = (preds == labels).double()
    sizes = labels.bincount()
    recalls = labels.bincount(weights=hits, minlength=len(sizes))[sizes > 0] / sizes[sizes > 0]
    return recalls.mean().item()


def score(logits: Tensor, labels: Tensor, split: str) -> dict[str, float]:
    """Return `<split>/loss` (mean cross-entropy, nats) and `<split>/acc` of logits (N, K), labels (N,)."""
    loss = F.cross_entropy(logits, labels)
    acc = (logits.argmax(1) == labels).double().mean()
    return {f"{split}/loss": loss.item(), f"{split}/acc": acc.item()}
