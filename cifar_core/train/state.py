"""Everything a training changes, and how it starts."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cifar_core.train.average import Average
from cifar_core.train.numerics import Numerics
from cifar_core.train.optim import for_here, start_momentum
from cifar_core.train.settings import TrainerSettings, check_batch


@dataclass
class TrainState:
    """Everything a training changes, so everything a checkpoint needs."""

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    numerics: Numerics
    scaler: torch.amp.GradScaler  # does nothing unless the dtype is float16
    seed: int
    ema: Average | None = None
    epoch: int = 0  # finished epochs
    step: int = 0  # finished optimizer steps

    @property
    def best_model(self) -> nn.Module:
        """The weights to evaluate: the moving average where there is one."""
        return self.model if self.ema is None else self.ema.module

    def state_dict(self) -> dict[str, Any]:
        """Return all state, loadable with ``weights_only=True``; generators follow from seed and epoch."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        return state | {"seed": self.seed, "epoch": self.epoch, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state that `state_dict` returned, in place."""
        state = state | {"optimizer": for_here(state["optimizer"], self.optimizer)}
        for name, part in self._parts().items():
            if state[name] or part is not self.scaler:  # one that did nothing has left nothing
                part.load_state_dict(state[name])
        self.seed, self.epoch, self.step = state["seed"], state["epoch"], state["step"]

    def go_on_from(self, state: dict[str, Any]) -> None:
        """Take up weights, optimizer, average and counts of a training that has ended, in place.

        ``state`` is what its `state_dict` returned. The schedule and the values it gives the optimizer stay
        those of this fresh state.
        """
        fresh = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        self.load_state_dict(state | {"scheduler": self.scheduler.state_dict()})
        for group, values in zip(self.optimizer.param_groups, fresh, strict=True):
            group.update(values)

    def _parts(self) -> dict[str, Any]:
        names = ("model", "optimizer", "scheduler", "scaler", "ema")
        return {name: part for name in names if (part := getattr(self, name)) is not None}


def start(
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    *,
    numerics: Numerics,
    seed: int,
    ema_decay: float = 0.0,
) -> TrainState:
    """Return the state before the first epoch of a ``model`` that is on its device already."""
    scaler = torch.amp.GradScaler(numerics.device.type, enabled=numerics.dtype == torch.float16)
    state = TrainState(model, optimizer, scheduler, numerics, scaler, seed)
    if scaler.is_enabled():
        start_momentum(optimizer)
    if ema_decay:
        state.ema = Average(model, ema_decay)
    return state


def steps_per_epoch(images: int, settings: TrainerSettings) -> int:
    """Return the optimizer steps of an epoch over ``images`` pictures; the incomplete last one is dropped."""
    check_batch(settings, images)
    return images // (settings.batch_size * settings.accumulate)
