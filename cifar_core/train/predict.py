"""Logits, loss and accuracy of a split."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar_core.data.split import Data, Split, normalized
from cifar_core.device import doubles
from cifar_core.memory import EVALUATION, memory_explained
from cifar_core.train.compiled import compiled
from cifar_core.train.numerics import Numerics
from cifar_core.train.settings import TrainerSettings
from cifar_core.train.tta import averaged


def forward(
    model: Callable[[Tensor], Any],
    numerics: Numerics,
    images: Tensor,
    constants: tuple[Tensor, Tensor] | None,
) -> Any:
    """Return what ``model`` says to images (N, 3, H, W): bytes, or where there are no ``constants`` floats.

    ``constants`` are the mean and the std to normalise with.
    """
    with numerics.autocast():
        return model(images if constants is None else normalized(images, *constants))


@torch.no_grad()
@memory_explained(EVALUATION)
def predict(
    model: nn.Module,
    data: Data,
    split: Split,
    numerics: Numerics,
    *,
    batch_size: int,
    tta: str = "none",
    compile: bool | str = False,
    between_batches: Callable[[], None] = lambda: None,
) -> Tensor:
    """Return float32 logits (N, K) of all pictures of ``split``, on its device; the training flag is kept.

    ``tta`` names the views of each picture to average over (`cifar_core.train.tta`). ``compile`` is as in
    `TrainerSettings`; views, and a batch of fewer pictures, are not worth it. Raises MemoryError where
    memory is lacking, whatever torch or CUDA raised.
    """
    training = model.training
    model.eval()
    seen, constants = averaged(model, tta), data.constants(split.images.device)
    of_full_batches = forward if tta != "none" else compiled(forward, compile)
    logits = []
    for images in split.images.split(batch_size):
        between_batches()
        run = of_full_batches if len(images) == batch_size else forward
        output = check_logits(run(seen, numerics, numerics.lay_out(images), constants))
        logits.append(output.to(torch.float32, copy=True))  # a CUDA graph writes to the same place again
    model.train(training)
    return torch.cat(logits) if logits else torch.zeros(0, data.num_classes, device=split.images.device)


def described(output: object) -> str:
    """Say in a few words what a model returned, or what it raised."""
    if isinstance(output, Tensor):
        shape, dtype = tuple(output.shape), str(output.dtype).removeprefix("torch.")
        if not output.is_floating_point():
            return f"{shape} of {dtype}"
        return f"{shape} with NaN" if bool(output.isnan().any()) else f"{shape}"
    if isinstance(output, Exception):
        return f"{type(output).__name__} ({' '.join(str(output).split())[:200]})"
    kind = type(output).__name__
    if isinstance(output, Mapping):
        return f"{kind} of {', '.join(map(str, output))}"
    if isinstance(output, tuple | list):
        return f"{kind} of {len(output)} ({', '.join(described(each) for each in output[:3])})"
    return kind


def check_logits(logits: object) -> Tensor:
    """Return ``logits``; raise ValueError unless they are a tensor (N, K) and nothing else."""
    if isinstance(logits, Tensor) and logits.ndim == 2:
        return logits
    raise ValueError(f"the model must return logits (N, K) alone, got {described(logits)}")


def evaluate(
    model: nn.Module,
    data: Data,
    split: str,
    numerics: Numerics,
    *,
    batch_size: int,
    tta: str = "none",
    compile: bool | str = False,
    between_batches: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Return loss (mean cross-entropy, nats) and accuracy of ``split`` ("train", "val" or "test")."""
    pictures: Split = getattr(data, split)
    logits = predict(
        model,
        data,
        pictures,
        numerics,
        batch_size=batch_size,
        tta=tta,
        compile=compile,
        between_batches=between_batches,
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
    sizes = labels.bincount()
    hits = labels[preds == labels].bincount(minlength=len(sizes))
    recalls = doubles(hits[sizes > 0]) / doubles(sizes[sizes > 0])
    return recalls.mean().item()


def score(logits: Tensor, labels: Tensor, split: str) -> dict[str, float]:
    """Return `<split>/loss` (mean cross-entropy, nats) and `<split>/acc` of logits (N, K), labels (N,)."""
    loss = F.cross_entropy(logits, labels)
    acc = doubles(logits.argmax(1) == labels).mean()
    return {f"{split}/loss": loss.item(), f"{split}/acc": acc.item()}
