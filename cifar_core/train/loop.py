"""The training loop, as a generator of epoch results."""

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from tqdm import tqdm

from cifar_core.augment.protocol import Augment
from cifar_core.data.split import Data
from cifar_core.history import Row
from cifar_core.train.compiled import compiled
from cifar_core.train.epoch import batches, draw
from cifar_core.train.numerics import Numerics
from cifar_core.train.predict import evaluate, forward
from cifar_core.train.settings import TrainerSettings
from cifar_core.train.state import TrainState

BAR_SECONDS = 0.5  # between two readings of the running loss for the progress bar

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # float images, labels -> images, weights (N, K)
Criterion = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class EpochResult:
    """What one epoch came to."""

    epoch: int  # from 1
    step: int  # optimizer steps so far
    metrics: dict[str, float]  # train/loss, train/acc and, where evaluated, val/* or, without it, test/*
    lr: float  # of the first parameter group, in the epoch's last step
    seconds: float
    images_per_second: float  # in training, without the evaluation
    first_bad_step: int | None  # of the run, from 1: the epoch's first step whose loss was not finite

    @property
    def row(self) -> Row:
        """The epoch as a line of metrics.csv."""
        pace = {"seconds": self.seconds, "images_per_second": self.images_per_second}
        return {"epoch": self.epoch, "step": self.step, **self.metrics, "lr": self.lr, **pace}


def train(
    state: TrainState,
    data: Data,
    augment: Augment,
    settings: TrainerSettings,
    *,
    mix: Mix | None = None,
    criterion: Criterion | None = None,
    between_batches: Callable[[], None] = lambda: None,
) -> Iterator[EpochResult]:
    """Train ``state`` in place from its epoch to ``settings.epochs`` and yield a result after each.

    ``data`` is on the state's device. Every random stream of an epoch follows from (seed, epoch), the global
    one (dropout, mix-up) included, so that a stopped training goes on as if it had not stopped. Where
    ``data.val`` is empty, the test set is evaluated instead; with ``settings.evaluate`` "end" nothing is.
    ``criterion`` takes float32 logits (N, K) and labels (N,) or weights (N, K) and returns the mean loss;
    None is cross-entropy with label smoothing.
    ``between_batches`` is called before every batch and may raise to end the training there.
    """
    criterion = criterion or partial(F.cross_entropy, label_smoothing=settings.label_smoothing)
    constants = data.constants(state.numerics.device) if mix is None else None  # mixed are normalised ones
    fixed = (state.model, state.numerics, criterion, constants)
    learn = partial(compiled(_loss, settings.compile), *fixed)
    judged_by = "train" if settings.evaluate == "end" else "val" if len(data.val) else "test"
    while state.epoch < settings.epochs:
        started = time.perf_counter()
        before = state.step
        losses, hits, lr = _train_epoch(state, data, augment, settings, mix, learn, between_batches)
        trained = time.perf_counter() - started
        images = len(losses) * settings.batch_size
        metrics = {"train/loss": math.fsum(losses) / len(losses), "train/acc": hits / images}
        if judged_by != "train":
            metrics |= evaluate(
                state.best_model,
                data,
                judged_by,
                state.numerics,
                batch_size=settings.eval_batch_size,
                compile=settings.compile,
                between_batches=between_batches,
            )
        if isinstance(state.scheduler, ReduceLROnPlateau):
            state.scheduler.step(metrics[f"{judged_by}/acc"])
        state.epoch += 1
        bad = next((number for number, loss in enumerate(losses) if not math.isfinite(loss)), None)
        yield EpochResult(
            epoch=state.epoch,
            step=state.step,
            metrics=metrics,
            lr=lr,
            seconds=time.perf_counter() - started,
            images_per_second=images / trained,
            first_bad_step=None if bad is None else before + bad // settings.accumulate + 1,
        )


def _train_epoch(
    state: TrainState,
    data: Data,
    augment: Augment,
    settings: TrainerSettings,
    mix: Mix | None,
    learn: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    between_batches: Callable[[], None],
) -> tuple[list[float], int, float]:
    """Return the loss of every batch, the number of hits and the lr of the epoch's last step."""
    device = state.numerics.device
    lot = draw(state.seed, state.epoch + 1, len(data.train), settings)
    losses = torch.zeros(len(lot) // settings.batch_size, device=device)  # on the device until the epoch ends
    hits = torch.zeros((), dtype=torch.int64, device=device)
    lr = 0.0
    state.model.train()
    with _bar(len(lot), state.epoch + 1, settings) as bar:
        for number, (images, labels) in enumerate(batches(lot, data.train, augment, settings.batch_size)):
            between_batches()
            images, targets = _prepare(state, data, images, labels, mix)
            loss, preds = learn(images, targets)
            state.scaler.scale(loss / settings.accumulate).backward()
            losses[number] = loss.detach()
            hits += (preds == labels).sum()
            if (number + 1) % settings.accumulate == 0:
                lr = state.optimizer.param_groups[0]["lr"]
                _update(state, settings)
            _show(bar, (number + 1) * settings.batch_size, losses[: number + 1], hits, lr)
    return losses.tolist(), int(hits), lr


def _prepare(
    state: TrainState, data: Data, images: Tensor, labels: Tensor, mix: Mix | None
) -> tuple[Tensor, Tensor]:
    """Return images and labels, or what these are mixed to: float images and weights per class."""
    images = state.numerics.lay_out(images)  # bytes are cheaper to lay out than floats
    return (images, labels) if mix is None else mix(data.normalize(images), labels)


def _loss(
    model: nn.Module,
    numerics: Numerics,
    criterion: Criterion,
    constants: tuple[Tensor, Tensor] | None,
    images: Tensor,
    targets: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return one batch's mean loss and the predictions (N,)."""
    logits = forward(model, numerics, images, constants)
    return criterion(logits.float(), targets), logits.detach().argmax(1)


def _update(state: TrainState, settings: TrainerSettings) -> None:
    """Take one optimizer step on the gradients gathered so far."""
    if settings.grad_clip > 0:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), settings.grad_clip)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    # A scaler leaves out first steps while it finds its scale; torch would warn of a schedule ahead of them.
    scaled = state.step == 0 and state.scaler.is_enabled()
    with warnings.catch_warnings(action="ignore", category=UserWarning) if scaled else nullcontext():
        state.scheduler.step()
    if state.ema is not None:
        state.ema.update_parameters(state.model)
    state.step += 1


def _bar(images: int, epoch: int, settings: TrainerSettings) -> tqdm:
    """Return a progress bar over an epoch's pictures; silent where stderr is no terminal."""
    return tqdm(
        total=images,
        desc=f"epoch {epoch}/{settings.epochs}",
        unit=" pictures",
        leave=False,
        dynamic_ncols=True,
        disable=None if settings.progress else True,
    )


def _show(bar: tqdm, images: int, losses: Tensor, hits: Tensor, lr: float) -> None:
    if bar.disable or time.monotonic() - getattr(bar, "shown", 0.0) < BAR_SECONDS:
        return  # reading the numbers waits for the device
    bar.shown = time.monotonic()
    bar.set_postfix(
        loss=f"{losses.mean().item():.3f}", acc=f"{hits.item() / images:.1%}", lr=f"{lr:.3g}", refresh=False
    )
    bar.update(images - bar.n)
