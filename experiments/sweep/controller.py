"""The controller of a sweep: starts trials, reads what they write, ends the hopeless, keeps the ledger."""

import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from cifar_core.processes import ENDING
from experiments.cli import TOGETHER_SECONDS, Stopped
from experiments.config.settings import SweepSettings
from experiments.runs.result import Result
from experiments.sweep.backends.backend import Backend, Cause, End
from experiments.sweep.home import Home
from experiments.sweep.ledger import Ledger
from experiments.sweep.live import Live
from experiments.sweep.planning import Plan
from experiments.sweep.screen import Screen
from experiments.sweep.space import Space
from experiments.sweep.trials import METRIC, Look, Trial
from experiments.tracking.spool import Spool

PASSING = (End.KILLED, End.VANISHED, End.MEMORY)  # may be gone at the next attempt


class Controller:
    """Runs the trials of one sweep to their end; all it knows lies in the sweep's folder."""

    def __init__(
        self,
        space: Space,
        settings: SweepSettings,
        home: Home,
        ledger: Ledger,
        backend: Backend,
        *,
        extra: list[str],
        tags: dict[str, str],
        ready: Callable[[], None] = lambda: None,
        live: Live | None = None,
    ) -> None:
        """Read what the folder holds.

        ``extra`` are arguments that every trial gets besides its point, ``tags`` what its tracker gets; empty
        where there is no tracker. ``ready`` is called before each start, and raises where none may be.
        ``live`` has the page written meanwhile.
        """
        self._space = space
        self._settings = settings
        self._home = home
        self._ledger = ledger
        self._backend = backend
        self._extra = extra
        self._tags = tags
        self._ready = ready
        self._live = live
        self._running: dict[int, Trial] = {}
        self._reported: dict[int, int] = {}  # last epoch the pruner has seen, by trial number
        self._again: list[Trial] = []  # killed trials that get another attempt
        self._signals: list[int] = []
        self._signalled = -math.inf  # when the last signal came
        self._heeded = 0  # signals acted on
        self._stops = False  # no new trials
        self._ran = False  # to the end, or until a signal
        search = settings.sampler != "grid"
        target = home.target(settings.n_trials, settings.add_trials) if search else space.size
        self._planned = target * len(space.seeds) if search else space.size
        self._screen = Screen(self._planned)
        self._plan = Plan(space, settings, home, ledger, self._screen, target)

    def run(self) -> int:
        """Run all trials that are not done; return 0 only if every point is finished or pruned, else 1.

        Raises `Stopped` after a signal, when the running trials have saved their last epoch.
        """
        self._plan.restore()
        upcoming = self._plan.upcoming()
        with self._heeding_signals():
            while True:
                self._heed()
                self._look()
                self._fill(upcoming)
                self._screen.show(list(self._running.values()), self._backend.slots)
                if not self._running:
                    break
                self.keep_page()
                self._backend.wait()
        self._ran = True
        if self._signals:
            raise Stopped(self._signals[0])
        if not self._stops:
            self._home.reached()
        return 0 if self.is_complete else 1

    def keep_page(self) -> None:
        """Have the page written anew where it is time."""
        if self._live is not None:
            ended = sum(self._screen.counts.values())
            if line := self._live.look(self._running.values(), ended, self.total):
                self._screen.say(line)

    @property
    def trials(self) -> list[Trial]:
        """All trials that there are."""
        return list(self._plan.trials.values())

    @property
    def total(self) -> int:
        """How many trials there will be, as far as is known."""
        return self._planned - self._plan.left_out

    @property
    def is_over(self) -> bool:
        """Whether all planned trials have had their turn."""
        return not self._stops

    @property
    def is_complete(self) -> bool:
        """Whether every point is finished or pruned."""
        return self._ran and not self._stops and not self._screen.counts["failed"]

    def _fill(self, upcoming: Iterator[Trial]) -> None:
        while self._backend.has_room and not self._stops:
            trial = self._again.pop(0) if self._again else next(upcoming, None)
            if trial is None:
                return
            self._begin(trial)

    def _begin(self, trial: Trial) -> None:
        self._running[trial.number] = trial
        if self._backend.adopt(trial):
            return
        self._ready()
        trial.begin()
        spool = Spool(trial.folder)
        if self._tags and not spool.path.exists():  # the run delivers it with its own
            spool.append("params", data={key.lstrip("+~"): text for key, text in trial.point.items()})
            spool.append("tags", data=self._tags | {"trial": str(trial.number)})
        self._backend.start(trial, [*self._space.overrides(trial.point), *self._extra])

    def _look(self) -> None:
        """See what the running trials have come to."""
        prunes = self._settings.pruner != "none"
        for trial in list(self._running.values()):
            ended = self._backend.ended(trial)
            if not (ended or prunes):
                continue
            look = trial.look()
            if prunes and self._is_hopeless(trial, look) and not ended:
                trial.ask_to_end()
            if ended:
                self._settle(trial, look)

    def _is_hopeless(self, trial: Trial, look: Look) -> bool:
        """Enter a trial's new epochs; return whether the pruner would end it at one of them.

        The pruner compares points, each by its first seed: whichever of many seeds it ended, the mean of the
        others would be of lucky ones.
        """
        if not self._plan.is_first(trial):
            return self._plan.is_given_up(trial)
        hopeless = False
        for row in look.history[self._reported.get(trial.number, 0) :]:
            epoch = int(row["epoch"])
            self._reported[trial.number] = epoch
            prune = self._ledger.report(trial.number, epoch, row[METRIC])
            hopeless = hopeless or (prune and epoch > self._settings.prune_after)
        return hopeless

    def _settle(self, trial: Trial, look: Look) -> None:
        """Enter how a trial ended."""
        cause = self._backend.cause(trial)
        del self._running[trial.number]
        self._reported.pop(trial.number, None)
        if look.done:
            self._ledger.tell(trial.number, look.status, look.value)
            self._screen.ended(trial, look)
            self._plan.heed(trial, look)
        elif self._signals:
            self._screen.say(f"let go    {trial.label}")
        else:
            self._fail(trial, look, cause)

    def _fail(self, trial: Trial, look: Look, cause: Cause) -> None:
        tail = trial.log_tail()
        cause = _explained(cause, look, tail)
        may_pass = cause.end in PASSING and not self._plan.is_given_up(trial)
        if may_pass and trial.attempts <= self._settings.retries:
            self._screen.say(f"again     {trial.label}  {cause.message}")
            self._again.append(trial)
            return
        left = look.result or Result(epochs=len(look.history))
        result = dataclasses.replace(
            left, status="failed", error=cause.message, cause=cause.end.value, log=tail
        )
        result.write(trial.folder)
        self._ledger.tell(trial.number, "failed")
        self._screen.ended(trial, Look(trial.folder, result), cause.message)
        limit = self._settings.max_failures
        if self._settings.on_fail == "stop" or 0 < limit <= self._screen.counts["failed"]:
            self._stops = True

    @contextmanager
    def _heeding_signals(self) -> Iterator[None]:
        """Keep signals for `_heed`, so that none cuts the ledger short; in the end as they were before."""
        numbers = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        except BaseException:
            self._each(self._backend.interrupt)
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, signum: int, _: FrameType | None) -> None:
        if time.monotonic() - self._signalled > TOGETHER_SECONDS:  # else once more the same
            self._signals.append(signum)  # a handler must not print or write: `_heed` does
            self._signalled = time.monotonic()

    def _heed(self) -> None:
        """Act on the signals that came since the last look."""
        for number in range(self._heeded, len(self._signals)):
            self._stops = True
            first = number == 0
            self._screen.say(
                "stopping: trials save their last epoch; once more kills them" if first else "killing"
            )
            self._each(self._backend.interrupt if first else self._backend.kill)
        self._heeded = len(self._signals)

    def _each(self, action: Callable[[Trial], None]) -> None:
        for trial in list(self._running.values()):
            action(trial)


def _explained(cause: Cause, look: Look, tail: Sequence[str]) -> Cause:
    """Return a failed run's own word, else the backend's, with the last line of output where that helps."""
    if look.result is not None and look.status == "failed":
        return Cause.told(look.result)
    if tail and cause.end not in (End.KILLED, End.TIMEOUT):
        return Cause(cause.end, f"{cause.message}: {tail[-1]}")
    return cause
