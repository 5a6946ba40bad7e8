"""Runs trials on this machine: a forked process each, in a slot that is a GPU or some cores."""

import os
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

from experiments.config.settings import SweepSettings
from experiments.sweep.backends.backend import Cause, End, overtime
from experiments.sweep.server import Server
from experiments.sweep.space import Files
from experiments.sweep.trials import Trial

POLL_SECONDS = 0.5  # between two looks at what trials have written; the end of one is seen at once


@dataclass(frozen=True)
class Slots:
    """How a machine is shared out: a trial in each slot."""

    count: int
    gpus: tuple[str, ...]  # of each slot, as CUDA_VISIBLE_DEVICES names it; empty without a GPU
    threads: int  # CPU threads of a trial


def share_out(settings: SweepSettings, *, gpus: Sequence[str], cores: int, most: int) -> Slots:
    """Share out ``gpus``, or without one CPU cores, for at most ``most`` trials at a time.

    Raises ValueError where `sweep.slots` asks for more than the GPUs have.
    """
    automatic = settings.slots == "auto"
    if gpus:
        places = [*gpus] * settings.slots_per_gpu  # one of each before a second of any
        wanted = len(places) if automatic else int(settings.slots)
        if wanted > len(places):
            raise ValueError(
                f"sweep.slots must be at most {len(places)}, {len(gpus)} GPUs times "
                f"sweep.slots_per_gpu={settings.slots_per_gpu}, got {wanted}"
            )
        count = min(most, wanted)
        return Slots(count, tuple(places[:count]), max(1, cores // count))
    count = max(1, min(most, cores // settings.threads if automatic else int(settings.slots)))
    return Slots(count, (), max(1, cores // count))


class Local:
    """Starts, watches and ends trials; those that another controller started are adopted."""

    def __init__(self, server: Server, slots: Slots, files: Files, timeout: float = 0) -> None:
        """Run trials in ``slots``, each for ``timeout`` seconds at most; 0 = any.

        ``files`` are what their configurations are composed from.
        """
        self._server = server
        self._slots = slots
        self._files = files
        self._timeout = timeout
        self._timed_out: set[int] = set()
        self._processes: dict[int, BaseProcess] = {}  # by trial number; an adopted trial has none
        self._running: dict[int, Trial] = {}

    @property
    def slots(self) -> int:
        """How many trials run at a time."""
        return self._slots.count

    @property
    def has_room(self) -> bool:
        """Whether a slot is free."""
        return len(self._running) < self._slots.count

    def start(self, trial: Trial, overrides: Sequence[str]) -> None:
        """Start a trial in a free slot."""
        trial.gpu = self._free_gpu()
        trial.write()
        visible = trial.gpu or ""
        arguments = (list(overrides), self._files, trial.folder, trial.label, visible, self._slots.threads)
        self._processes[trial.number] = self._server.start("run_trial", *arguments)
        self._running[trial.number] = trial

    def adopt(self, trial: Trial) -> bool:
        """Take charge of a trial that runs already; False where it does not."""
        if trial.runs():
            self._running[trial.number] = trial
        return trial.number in self._running

    def ended(self, trial: Trial) -> bool:
        """Tell whether a started trial's process is gone and its slot free; one past its time is killed."""
        process = self._processes.get(trial.number)
        gone = process.exitcode is not None if process else not trial.runs()
        if gone and process and trial.runs() and not trial.look().done:  # another's: ours came too late
            del self._processes[trial.number]
            return False
        if gone:
            self._running.pop(trial.number, None)
        elif self._timeout and trial.seconds_awake() > self._timeout:
            self._timed_out.add(trial.number)
            self.kill(trial)
        return gone

    def cause(self, trial: Trial) -> Cause:
        """Say how the process of an ended trial ended, once."""
        process = self._processes.pop(trial.number, None)
        code = process.exitcode if process else None
        if trial.number in self._timed_out:
            self._timed_out.discard(trial.number)
            return Cause(End.TIMEOUT, overtime(self._timeout))
        if code is None:
            return Cause(End.VANISHED, "ended unseen")
        if code < 0:
            return Cause(End.KILLED, f"killed by {signal.Signals(-code).name}")
        return Cause(End.FAILED, f"exit code {code}")

    def interrupt(self, trial: Trial) -> None:
        """Ask a trial to save its last epoch and end."""
        self._signal(trial, signal.SIGTERM)

    def kill(self, trial: Trial) -> None:
        """End a trial and all it started at once."""
        self._signal(trial, signal.SIGKILL)

    def wait(self) -> None:
        """Wait until a trial ends, or for a moment."""
        wait([process.sentinel for process in self._processes.values()], POLL_SECONDS)

    def _signal(self, trial: Trial, signum: signal.Signals) -> None:
        process = self._processes.get(trial.number)
        if process is None:
            trial.signal(signum)
            return
        try:
            os.killpg(process.pid or 0, signum)
        except ProcessLookupError:  # it has not come to lead its group yet, or is gone
            if process.exitcode is None:
                os.kill(process.pid or 0, signum)

    def _free_gpu(self) -> str | None:
        """Return the first GPU with a free slot."""
        taken = Counter(trial.gpu for trial in self._running.values())
        for gpu in self._slots.gpus:
            if taken[gpu] == 0:
                return gpu
            taken[gpu] -= 1
        return None
