"""Puts the guards of cifar_core around one run."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from cifar_core import guards
from cifar_core.data.split import Data
from cifar_core.train.loop import EpochResult
from cifar_core.train.settings import TrainerSettings
from cifar_core.train.state import TrainState
from experiments.cli import GuardStop, one_line


class Guards:
    """Checks a run before it starts and after each epoch; `trainer.guards` says what a finding does.

    Raises GuardStop where the policy is "stop" and a finding ends the run.
    """

    def __init__(self, trainer: TrainerSettings, data: Data, *, mixes: bool) -> None:
        self.policy, self.data = trainer.guards, data
        self.plain_loss = not mixes and trainer.label_smoothing == 0
        self.logged: set[str] = set()

    def check_start(self, state: TrainState, augment: Callable[..., Tensor]) -> None:
        """Check data, network and augmentation; what the network returns whatever the policy."""
        if self.policy == "off":
            self._act(guards.check_model(state.model, self.data, state.numerics))
            return
        self.start, self.start_step = guards.fingerprint(state.model), state.step
        self._act(guards.check_data(self.data))
        self._act(guards.check_model(state.model, self.data, state.numerics))
        self._act(guards.check_augment(augment, self.data))

    def check_epoch(self, state: TrainState, epoch: EpochResult, history: Sequence[dict[str, Any]]) -> None:
        """Check figures and weights after ``epoch``, the last of ``history``."""
        if self.policy == "off":
            return
        bad, steps = epoch.first_bad_step, state.step - self.start_step
        self._act(guards.check_epoch(history, self.data, plain_loss=self.plain_loss, first_bad_step=bad))
        self._act(guards.check_weights(state.model, self.start, steps=steps, epoch=epoch.epoch, lr=epoch.lr))

    def _act(self, findings: Iterable[guards.Finding]) -> None:
        try:
            guards.act(list(findings), policy=self.policy, logged=self.logged)
        except guards.GuardError as error:
            raise GuardStop(one_line(error), hopeless=error.hopeless) from error
