"""Learning-rate schedules `f(optimizer, *, epochs, steps_per_epoch, ...)`, stepped once per optimizer step.

Every schedule scales the optimizer's own lr, group by group. `warmup_epochs` (fractions allowed) starts with
a linear rise whose first step is already above zero.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR, ReduceLROnPlateau

Factor = Callable[[float], float]  # epochs since the start (a fraction between epochs) -> multiple of lr


def _require(holds: bool, key: str, law: str, got: Any) -> None:
    if not holds:
        raise ValueError(f"scheduler.{key} must be {law}, got {got!r}")


def _warmup_steps(warmup_epochs: float, epochs: int, steps_per_epoch: int) -> int:
    law = f"at least 0 and at most trainer.epochs, {epochs}"
    _require(0 <= warmup_epochs <= epochs, "warmup_epochs", law, warmup_epochs)
    return round(warmup_epochs * steps_per_epoch)


def _scaled(optimizer: Optimizer, factor: Factor, warmup_steps: int, steps_per_epoch: int) -> LambdaLR:
    """Follow ``factor`` after the warm-up, which rises linearly to its value at that point."""

    def at(step: int) -> float:
        rise = (step + 1) / warmup_steps if step < warmup_steps else 1.0
        return rise * factor(max(step, warmup_steps) / steps_per_epoch)

    return LambdaLR(optimizer, at)


def constant(
    optimizer: Optimizer, *, epochs: int, steps_per_epoch: int, warmup_epochs: float = 0.0
) -> LRScheduler:
    """Keep the optimizer's lr."""
    warmup_steps = _warmup_steps(warmup_epochs, epochs, steps_per_epoch)
    return _scaled(optimizer, lambda _: 1.0, warmup_steps, steps_per_epoch)


def step(
    optimizer: Optimizer,
    *,
    epochs: int,
    steps_per_epoch: int,
    step_size: int = 30,
    gamma: float = 0.1,
    warmup_epochs: float = 0.0,
) -> LRScheduler:
    """Multiply lr by ``gamma`` every ``step_size`` epochs."""
    _require(step_size >= 1, "step_size", "at least 1 epoch", step_size)
    _require(gamma > 0, "gamma", "above 0", gamma)
    warmup_steps = _warmup_steps(warmup_epochs, epochs, steps_per_epoch)
    return _scaled(
        optimizer, lambda epoch: gamma ** (math.floor(epoch) // step_size), warmup_steps, steps_per_epoch
    )


def multistep(
    optimizer: Optimizer,
    *,
    epochs: int,
    steps_per_epoch: int,
    milestones: Sequence[float],
    gamma: float = 0.1,
    warmup_epochs: float = 0.0,
) -> LRScheduler:
    """Multiply lr by ``gamma`` after each epoch of ``milestones``."""
    rising = all(a < b for a, b in zip(milestones, milestones[1:], strict=False))
    _require(
        rising and all(m > 0 for m in milestones), "milestones", "rising epochs above 0", list(milestones)
    )
    _require(gamma > 0, "gamma", "above 0", gamma)
    warmup_steps = _warmup_steps(warmup_epochs, epochs, steps_per_epoch)
    return _scaled(
        optimizer,
        lambda epoch: gamma ** sum(epoch >= milestone for milestone in milestones),
        warmup_steps,
        steps_per_epoch,
    )


def cosine(
    optimizer: Optimizer,
    *,
    epochs: int,
    steps_per_epoch: int,
    final_factor: float = 0.0,
    warmup_epochs: float = 0.0,
) -> LRScheduler:
    """Fall along half a cosine from lr to ``final_factor`` times lr.

    Source: Loshchilov & Hutter 2017, SGDR, arXiv:1608.03983, without restarts.
    """
    _require(0 <= final_factor <= 1, "final_factor", "in [0, 1]", final_factor)

    def fall(epoch: float) -> float:
        progress = min(1.0, (epoch - warmup_epochs) / max(epochs - warmup_epochs, 1e-9))
        return final_factor + (1 - final_factor) * (1 + math.cos(math.pi * progress)) / 2

    warmup_steps = _warmup_steps(warmup_epochs, epochs, steps_per_epoch)
    return _scaled(optimizer, fall, warmup_steps, steps_per_epoch)


def one_cycle(
    optimizer: Optimizer,
    *,
    epochs: int,
    steps_per_epoch: int,
    pct_start: float = 0.3,
    warmup_epochs: float = 0.0,
    **torch_options: Any,
) -> OneCycleLR:
    """Rise from a small lr to the optimizer's lr, then fall far below the first.

    ``warmup_epochs`` above 0 gives the length of the rise in place of the share ``pct_start``; the other
    options are those of `torch.optim.lr_scheduler.OneCycleLR`. Source: Smith & Topin 2018, arXiv:1708.07120.
    """
    _warmup_steps(warmup_epochs, epochs, steps_per_epoch)
    _require(0 <= pct_start <= 1, "pct_start", "in [0, 1]", pct_start)
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=epochs * steps_per_epoch,
        pct_start=warmup_epochs / epochs if warmup_epochs > 0 else pct_start,
        **torch_options,
    )


class Plateau(ReduceLROnPlateau):
    """Lower lr when the metric given to `step` stops rising, after a linear warm-up.

    The one schedule that looks at results: ``step()`` after an optimizer step advances the warm-up only,
    ``step(metric)`` after an epoch does what torch's class does.
    """

    def __init__(self, optimizer: Optimizer, *, warmup_steps: int, **torch_options: Any) -> None:
        """Start at the first lr of the warm-up."""
        super().__init__(optimizer, mode="max", threshold_mode="abs", **torch_options)
        self.warmup_steps = warmup_steps
        self.steps = 0
        self.full_lrs = [group["lr"] for group in optimizer.param_groups]
        self._rise()

    def _rise(self) -> None:
        if self.steps < self.warmup_steps:
            for group, lr in zip(self.optimizer.param_groups, self.full_lrs, strict=True):
                group["lr"] = lr * (self.steps + 1) / self.warmup_steps

    def step(self, metrics: Any = None, epoch: int | None = None) -> None:  # type: ignore[override]
        """Advance the warm-up (no metric) or judge an epoch that ended after it."""
        if metrics is None:
            self.steps += 1
            self._rise()
        elif self.steps >= self.warmup_steps:
            super().step(metrics)


def plateau(
    optimizer: Optimizer,
    *,
    epochs: int,
    steps_per_epoch: int,
    warmup_epochs: float = 0.0,
    **torch_options: Any,
) -> Plateau:
    """Multiply lr by ``factor`` after more than ``patience`` epochs without a better accuracy.

    The options are those of `torch.optim.lr_scheduler.ReduceLROnPlateau`; higher is better and ``threshold``
    is absolute.
    """
    steps = _warmup_steps(warmup_epochs, epochs, steps_per_epoch)
    return Plateau(optimizer, warmup_steps=steps, **torch_options)
