"""Learning-rate schedules `f(optimizer, *, epochs, steps_per_epoch, ...)`, stepped once per optimizer step.

Every schedule scales the optimizer's own lr, group by group. `warmup_epochs` (fractions allowed) starts with
a linear rise: to the schedule's own value there, its first step already above zero; in `one_cycle` and
`triangle`, which rise anyhow, it is the length of that rise.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

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


def _scaled(
    optimizer: Optimizer, factor: Factor, epochs: int, steps_per_epoch: int, warmup_epochs: float
) -> LambdaLR:
    """Follow ``factor`` after the warm-up, which rises linearly to its value at that point."""
    warmup_steps = _warmup_steps(warmup_epochs, epochs, steps_per_epoch)

    def at(step: int) -> float:
        rise = (step + 1) / warmup_steps if step < warmup_steps else 1.0
        return rise * factor(max(step, warmup_steps) / steps_per_epoch)

    return LambdaLR(optimizer, at)


def constant(
    optimizer: Optimizer, *, epochs: int, steps_per_epoch: int, warmup_epochs: float = 0.0
) -> LRScheduler:
    """Keep the optimizer's lr."""
    return _scaled(optimizer, lambda _: 1.0, epochs, steps_per_epoch, warmup_epochs)


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

    def stairs(epoch: float) -> float:
        return gamma ** (math.floor(epoch) // step_size)

    return _scaled(optimizer, stairs, epochs, steps_per_epoch, warmup_epochs)


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
    rising = all(a < b for a, b in zip([0, *milestones], milestones, strict=False))
    _require(rising, "milestones", "rising epochs above 0", list(milestones))
    _require(gamma > 0, "gamma", "above 0", gamma)

    def stairs(epoch: float) -> float:
        return gamma ** sum(epoch >= milestone for milestone in milestones)

    return _scaled(optimizer, stairs, epochs, steps_per_epoch, warmup_epochs)


def _line(share: float) -> float:
    return 1 - share


def _half_cosine(share: float) -> float:
    return (1 + math.cos(math.pi * share)) / 2


def _falling(
    optimizer: Optimizer,
    shape: Callable[[float], float],  # share of the fall that is over -> 1 to 0
    final_factor: float,
    epochs: int,
    steps_per_epoch: int,
    warmup_epochs: float,
) -> LambdaLR:
    """Fall from lr, where the warm-up ends, to ``final_factor`` times lr, where the training ends."""
    _require(0 <= final_factor <= 1, "final_factor", "in [0, 1]", final_factor)

    def fall(epoch: float) -> float:
        share = (epoch - warmup_epochs) / max(epochs - warmup_epochs, 1e-9)
        return final_factor + (1 - final_factor) * shape(min(max(share, 0.0), 1.0))

    return _scaled(optimizer, fall, epochs, steps_per_epoch, warmup_epochs)


def linear(
    optimizer: Optimizer,
    *,
    epochs: int,
    steps_per_epoch: int,
    final_factor: float = 0.0,
    warmup_epochs: float = 0.0,
) -> LRScheduler:
    """Fall along a line from lr to ``final_factor`` times lr, which a step after the last one would take."""
    return _falling(optimizer, _line, final_factor, epochs, steps_per_epoch, warmup_epochs)


def cosine(
    optimizer: Optimizer,
    *,
    epochs: int,
    steps_per_epoch: int,
    final_factor: float = 0.0,
    warmup_epochs: float = 0.0,
) -> LRScheduler:
    """Fall along half a cosine from lr to ``final_factor`` times lr, which a step after the last would take.

    Source: Loshchilov & Hutter 2017, SGDR, arXiv:1608.03983, without restarts.
    """
    return _falling(optimizer, _half_cosine, final_factor, epochs, steps_per_epoch, warmup_epochs)


def cosine_restarts(
    optimizer: Optimizer,
    *,
    epochs: int,
    steps_per_epoch: int,
    period: float,
    multiplier: float = 1.0,
    final_factor: float = 0.0,
    warmup_epochs: float = 0.0,
) -> LRScheduler:
    """Fall along half a cosine again and again, from lr to ``final_factor`` times lr.

    The first fall takes ``period`` epochs after the warm-up, each further one ``multiplier`` times the one
    before. Source: Loshchilov & Hutter 2017, SGDR, arXiv:1608.03983.
    """
    _require(period >= 1, "period", "at least 1 epoch", period)
    _require(multiplier >= 1, "multiplier", "at least 1", multiplier)
    _require(0 <= final_factor <= 1, "final_factor", "in [0, 1]", final_factor)

    def falls(epoch: float) -> float:
        passed, length = max(epoch - warmup_epochs, 0.0), period
        while passed >= length:
            passed, length = passed - length, length * multiplier
        return final_factor + (1 - final_factor) * _half_cosine(passed / length)

    return _scaled(optimizer, falls, epochs, steps_per_epoch, warmup_epochs)


def _rise(pct_start: float, warmup_epochs: float, epochs: int) -> float:
    """Return the share of the training in which a schedule with a peak rises."""
    _require(0 <= pct_start < 1, "pct_start", "at least 0 and below 1", pct_start)
    law = f"at least 0 and below trainer.epochs, {epochs}"
    _require(0 <= warmup_epochs < epochs, "warmup_epochs", law, warmup_epochs)
    return warmup_epochs / epochs if warmup_epochs > 0 else float(pct_start)


def triangle(
    optimizer: Optimizer,
    *,
    epochs: int,
    steps_per_epoch: int,
    pct_start: float = 0.23,
    start_factor: float = 0.2,
    final_factor: float = 0.07,
    warmup_epochs: float = 0.0,
) -> LRScheduler:
    """Rise along a line from ``start_factor`` times lr to lr, then fall to ``final_factor`` times it.

    ``warmup_epochs`` above 0 gives the length of the rise in place of the share ``pct_start``; a step after
    the last one would take the final lr. Source: Jordan 2024, arXiv:2404.00498 (the defaults); Page 2018,
    "How to train your ResNet" (a peak at epoch 5 of 24, both factors 0).
    """
    _require(0 <= start_factor <= 1, "start_factor", "in [0, 1]", start_factor)
    _require(0 <= final_factor <= 1, "final_factor", "in [0, 1]", final_factor)
    steps = epochs * steps_per_epoch
    peak = round(_rise(pct_start, warmup_epochs, epochs) * steps)

    def at(step: int) -> float:
        if step < peak:
            return start_factor + (1 - start_factor) * step / peak
        return 1 + (final_factor - 1) * min((step - peak) / max(steps - peak, 1), 1)

    return LambdaLR(optimizer, at)


def one_cycle(
    optimizer: Optimizer,
    *,
    epochs: int,
    steps_per_epoch: int,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    warmup_epochs: float = 0.0,
    anneal_strategy: Literal["cos", "linear"] = "cos",
    cycle_momentum: bool = True,
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
    three_phase: bool = False,
) -> OneCycleLR:
    """Rise from a small lr to the optimizer's lr, then fall far below the first.

    ``warmup_epochs`` above 0 gives the length of the rise in place of the share ``pct_start``; the other
    options are those of `torch.optim.lr_scheduler.OneCycleLR`. Source: Smith & Topin 2018, arXiv:1708.07120.
    """
    for key, momentum in (("base_momentum", base_momentum), ("max_momentum", max_momentum)):
        _require(0 <= momentum < 1, key, "in [0, 1)", momentum)
    _require(div_factor > 0, "div_factor", "above 0", div_factor)
    _require(final_div_factor > 0, "final_div_factor", "above 0", final_div_factor)
    rise, steps = _rise(pct_start, warmup_epochs, epochs), epochs * steps_per_epoch
    if math.isclose(rise * steps, 1):  # torch divides by the number of steps after the first one
        rise *= 1 - 1e-6
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=steps,
        pct_start=rise,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        anneal_strategy=anneal_strategy,
        cycle_momentum=cycle_momentum,
        base_momentum=base_momentum,
        max_momentum=max_momentum,
        three_phase=three_phase,
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
            self._last_lr = [lr * (self.steps + 1) / self.warmup_steps for lr in self.full_lrs]
            for group, lr in zip(self.optimizer.param_groups, self._last_lr, strict=True):
                group["lr"] = lr

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
    factor: float = 0.1,
    warmup_epochs: float = 0.0,
    patience: int = 10,
    threshold: float = 1e-4,
    cooldown: int = 0,
    min_lr: float | list[float] = 0.0,
    eps: float = 1e-8,
) -> Plateau:
    """Multiply lr by ``factor`` after more than ``patience`` epochs without a better accuracy.

    The options are those of `torch.optim.lr_scheduler.ReduceLROnPlateau`; higher is better and ``threshold``
    is absolute.
    """
    _require(0 < factor < 1, "factor", "above 0 and below 1", factor)
    _require(patience >= 0, "patience", "at least 0 epochs", patience)
    _require(threshold >= 0, "threshold", "at least 0", threshold)
    _require(cooldown >= 0, "cooldown", "at least 0 epochs", cooldown)
    _require(min(min_lr if isinstance(min_lr, list) else [min_lr]) >= 0, "min_lr", "at least 0", min_lr)
    return Plateau(
        optimizer,
        warmup_steps=_warmup_steps(warmup_epochs, epochs, steps_per_epoch),
        factor=factor,
        patience=patience,
        threshold=threshold,
        cooldown=cooldown,
        min_lr=min_lr,
        eps=eps,
    )
