"""The learning-rate range test: a short training under a rising lr shows which lr suits a longer one.

Source: Smith 2017, arXiv:1506.01186, section 3.3; the exponential rise and the smoothing are fastai's.
"""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from cifar_core.augment.protocol import Augment
from cifar_core.data.split import Data, Split
from cifar_core.memory import TRAINING, memory_explained
from cifar_core.train.loop import Criterion, Mix, train
from cifar_core.train.settings import TrainerSettings
from cifar_core.train.state import TrainState

SKIPPED = 10  # first steps, over which the average is still rough
NOISE = 3  # a loss has fallen if by so many standard errors
FALL = 0.02  # and by this share of where it began


@dataclass
class RangeTest:
    """What a range test saw, a value for each optimizer step."""

    smoothing: float  # weight of the past in the average
    lrs: list[float] = field(default_factory=list)  # of the first parameter group
    losses: list[float] = field(default_factory=list)  # mean over the pictures of the step
    smoothed: list[float] = field(default_factory=list)  # moving average, corrected for its start
    ended: str = ""  # why it ended before its last step, in words

    def add(self, lr: float, loss: float) -> None:
        """Take up the next step."""
        corrected = 1 - self.smoothing ** len(self.losses)  # of the average before this step
        average = self.smoothed[-1] * corrected if self.smoothed else 0.0
        average = self.smoothing * average + (1 - self.smoothing) * loss
        self.lrs.append(lr)
        self.losses.append(loss)
        self.smoothed.append(average / (1 - self.smoothing ** len(self.losses)))


@dataclass(frozen=True)
class Suggestion:
    """Two learning rates that a range test speaks for."""

    steepest: float  # where the loss falls fastest
    minimum: float  # where the smoothed loss is lowest; a tenth of that is the second one

    @property
    def tenth(self) -> float:
        """A tenth of the lr at the lowest loss."""
        return self.minimum / 10


class NoSuggestionError(Exception):
    """A range test speaks for no learning rate; the message says why and what to try."""


class _Enough(Exception):
    """Ends the training of a range test."""


@memory_explained(TRAINING)
def lr_range_test(
    state: TrainState,
    data: Data,
    augment: Augment,
    settings: TrainerSettings,
    *,
    start: float = 1e-6,
    end: float = 10.0,
    steps: int = 100,
    smoothing: float = 0.95,
    diverge: float = 4.0,
    mix: Mix | None = None,
    criterion: Criterion | None = None,
    between_batches: Callable[[], None] = lambda: None,
) -> RangeTest:
    """Train for ``steps`` optimizer steps while lr rises exponentially from ``start`` to ``end``.

    Batches, loss and updates are those of `train` with the same arguments. Every parameter
    group keeps its ratio to the first, whose lr is told; a cycled momentum stays at the value that belongs to
    the peak. Ends early where the smoothed loss is above ``diverge`` times its best or a loss is not finite.
    Afterwards, also after an exception, ``state``, gradients and torch's random streams are as before.
    Raises ValueError for impossible arguments, MemoryError where memory is lacking, whatever torch raised.
    """
    check_range(state.optimizer, start=start, end=end, steps=steps, smoothing=smoothing, diverge=diverge)
    seen = RangeTest(smoothing)
    losses: list[Tensor] = []  # of the batches of the current step
    ordinary = criterion or partial(F.cross_entropy, label_smoothing=settings.label_smoothing)

    def noted(logits: Tensor, targets: Tensor) -> Tensor:
        loss = ordinary(logits, targets)
        losses.append(loss.detach())
        return loss

    def judge() -> None:
        between_batches()
        if len(losses) == settings.accumulate:
            lr = start * (end / start) ** (len(seen.lrs) / (steps - 1))
            _judge(seen, lr, torch.stack(losses).mean().item(), diverge)
            losses.clear()
            if seen.ended or len(seen.lrs) == steps:
                raise _Enough

    endless = dataclasses.replace(settings, epochs=state.epoch + steps + 1, progress=False, compile=False)
    little = dataclasses.replace(data, val=_first(data.train))  # what `train` evaluates after an epoch
    with _unchanged(state):
        rising = _rising(state.optimizer, start, end, steps)
        trained = dataclasses.replace(state, scheduler=rising, ema=None)
        try:
            for _ in train(
                trained, little, augment, endless, mix=mix, criterion=noted, between_batches=judge
            ):
                pass
        except _Enough:
            pass
    return seen


def check_range(
    optimizer: Optimizer,
    *,
    start: float,
    end: float,
    steps: int,
    smoothing: float = 0.95,
    diverge: float = 4.0,
) -> None:
    """Raise ValueError where `lr_range_test` cannot be done so."""
    lr = optimizer.param_groups[0].get("initial_lr", optimizer.param_groups[0]["lr"])
    if not lr > 0:
        raise ValueError(f"optimizer.lr must be above 0 for a range test, got {lr!r}")
    for holds, law, got in (
        (0 < start < end < math.inf, "0 < start < end", f"start={start!r}, end={end!r}"),
        (steps > 2 * SKIPPED, f"steps above {2 * SKIPPED}", f"{steps!r}"),
        (0 <= smoothing < 1, "smoothing in [0, 1)", f"{smoothing!r}"),
        (diverge > 1, "diverge above 1", f"{diverge!r}"),
    ):
        if not holds:
            raise ValueError(f"a range test needs {law}, got {got}")


def _judge(seen: RangeTest, lr: float, loss: float, diverge: float) -> None:
    """Add a step and tell whether the test ends with it."""
    if not math.isfinite(loss):
        seen.ended = f"the loss was {loss} at lr {lr:.2g}"
        return
    seen.add(lr, loss)
    if seen.smoothed[-1] > diverge * min(seen.smoothed):
        seen.ended = f"the smoothed loss was above {diverge:g} times its best at lr {lr:.2g}"


def _first(split: Split) -> Split:
    return Split(split.images[:1], split.labels[:1], split.index[:1], None)


def _rising(optimizer: Optimizer, start: float, end: float, steps: int) -> LambdaLR:
    """Return the schedule of the test, which begins anew whatever schedule ``optimizer`` had."""
    lrs = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        group["initial_lr"] = start * lr / lrs[0]
        if "base_momentum" in group and "betas" in group:
            group["betas"] = (group["base_momentum"], *group["betas"][1:])
        elif "base_momentum" in group:
            group["momentum"] = group["base_momentum"]
    return LambdaLR(optimizer, lambda step: (end / start) ** (step / (steps - 1)))


@contextmanager
def _unchanged(state: TrainState) -> Iterator[None]:
    """Give back ``state``, its gradients and torch's random streams as they were, whatever happens inside."""
    saved = copy.deepcopy(state.state_dict())
    training = {module: module.training for module in state.model.modules()}
    grads = {parameter: parameter.grad for parameter in state.model.parameters()}
    device = state.numerics.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            for parameter in grads:
                parameter.grad = None
            yield
        finally:
            state.load_state_dict(saved)
            for module, flag in training.items():
                module.training = flag
            for parameter, grad in grads.items():
                parameter.grad = grad


def suggest(seen: RangeTest) -> Suggestion:
    """Return the learning rates that the test speaks for; raise NoSuggestionError where there is none."""
    count, smoothed = len(seen.lrs), np.array(seen.smoothed)
    if count <= 2 * SKIPPED:
        raise NoSuggestionError(
            f"the test ended after {count} steps ({seen.ended}), too few to judge: start lower"
        )
    lowest = SKIPPED + int(smoothed[SKIPPED:].argmin())
    begin = smoothed[SKIPPED]
    noise = np.diff(seen.losses[: lowest + 1]).std() / math.sqrt(2)  # of a step; the trend falls out
    # Standard error of a mean over the skipped steps and of the average, whose squared weights have this sum.
    error = noise * math.sqrt(1 / SKIPPED + (1 - seen.smoothing) / (1 + seen.smoothing))
    if begin - smoothed[lowest] <= max(NOISE * error, FALL * abs(begin)):
        raise NoSuggestionError(
            f"the loss never falls clearly: {begin:.4g} at lr {seen.lrs[SKIPPED]:.2g}, at best "
            f"{smoothed[lowest]:.4g} at lr {seen.lrs[lowest]:.2g}, with a noise of {error:.2g}; "
            "try another range, more steps or larger batches"
        )
    slopes = [_slope(seen, step) for step in range(SKIPPED, lowest + 1)]
    return Suggestion(seen.lrs[SKIPPED + int(np.argmin(slopes))], seen.lrs[lowest])


def _slope(seen: RangeTest, step: int) -> float:
    """Return the slope per step of a line through the losses within half a decade of lr of ``step``.

    A moving average comes behind the loss, so its own steepest place lies too far right.
    """
    reach = max(3, round(0.5 / math.log10(seen.lrs[1] / seen.lrs[0])))
    losses = seen.losses[max(step - reach, 0) : step + reach + 1]
    return float(np.polyfit(np.arange(len(losses)), losses, 1)[0])


def range_plot(seen: RangeTest, suggestion: Suggestion | None, title: str) -> Figure:
    """Draw loss and smoothed loss over lr, with the suggested lrs marked."""
    figure = Figure(figsize=(8, 4.5), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(seen.lrs, seen.losses, color="#b0b0b0", linewidth=0.8, label="loss of each step")
    axes.plot(seen.lrs, seen.smoothed, color="#0067a5", label="smoothed loss")
    if suggestion:
        for lr, name, color in (
            (suggestion.steepest, "steepest fall", "#c44900"),
            (suggestion.tenth, "a tenth of the lr at the minimum", "#00785a"),
        ):
            axes.axvline(lr, color=color, linestyle="--", label=f"{name}: {lr:.2g}")
        place = seen.lrs.index(suggestion.minimum)
        axes.plot(suggestion.minimum, seen.smoothed[place], "o", color="#0067a5", label="minimum")
    if seen.smoothed:  # what a divergence adds would leave no room for the rest
        lowest = seen.smoothed.index(min(seen.smoothed))
        low, high = min(seen.losses[: lowest + 1]), max(seen.smoothed[: lowest + 1])
        axes.set_ylim(low - 0.1 * (high - low) - 0.01, high + 0.5 * (high - low) + 0.01)
    axes.set(xscale="log", xlabel="lr (log scale)", ylabel="training loss (nats)")
    axes.set_title(title, fontsize=11, parse_math=False)
    axes.legend()
    return figure
