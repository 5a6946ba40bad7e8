"""The controller of a sweep: starts trials, reads what they write, ends the hopeless, keeps the ledger."""

import json
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from optuna.trial import TrialState

from experiments.cli import Stopped
from experiments.config.settings import SweepSettings
from experiments.files import write_text
from experiments.sweep.backends.backend import Backend
from experiments.sweep.home import Home
from experiments.sweep.ledger import Ledger
from experiments.sweep.screen import Screen
from experiments.sweep.space import Point, Space, Value, combinations, point_id
from experiments.sweep.trials import METRIC, Trial
from experiments.sweep.winner import bare
from experiments.tracking.spool import Spool

log = logging.getLogger(__name__)

DEATHS = ("killed by", "ended unseen", "out of memory")  # reasons that may be gone at the next attempt
DUPLICATES = 100  # proposals of known points in a row after which a search gives up


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
    ) -> None:
        """Read what the folder holds.

        ``extra`` are arguments that every trial gets besides its point, ``tags`` what its tracker gets; empty
        where there is no tracker.
        """
        self._space = space
        self._settings = settings
        self._home = home
        self._ledger = ledger
        self._backend = backend
        self._extra = extra
        self._tags = tags
        self.trials = home.trials()
        self._running: dict[int, Trial] = {}
        self._reported: dict[int, int] = {}  # last epoch the pruner has seen, by trial number
        self._again: list[Trial] = []  # killed trials that get another attempt
        self._given_up: set[str] = set()  # points, by id, whose first seed was pruned
        self._signals: list[int] = []
        self._heeded = 0  # signals acted on
        self._stops = False  # no new trials
        search = settings.sampler != "grid"
        seeds = len(space.seeds)
        self._target = home.target(settings.n_trials, settings.add_trials) if search else space.size
        self._screen = Screen(self._target * seeds if search else space.size)

    def run(self) -> int:
        """Run all trials that are not done; return 0 only if every point is finished or pruned, else 1.

        Raises `Stopped` after a signal, when the running trials have saved their last epoch.
        """
        self._restore()
        planned = self._planned()
        with self._heeding_signals():
            while True:
                self._heed()
                self._look()
                self._fill(planned)
                self._screen.show(list(self._running.values()), self._backend.slots)
                if not self._running:
                    break
                self._backend.wait()
        if self._signals:
            raise Stopped(self._signals[0])
        if not self._stops:
            self._home.reached()
        failed = self._screen.counts["failed"]
        return 1 if failed or self._stops else 0

    @property
    def is_over(self) -> bool:
        """Whether all planned trials have had their turn."""
        return not self._stops

    def _restore(self) -> None:
        """Make ledger and folders agree: the folders say what was done, whatever the ledger has lost."""
        entries = self._ledger.latest()
        for point, trial in self.trials.items():
            entry = entries.pop(point, None)
            if trial.done:
                self._screen.count(trial, trial.status)
                self._give_up_with(trial)
            if entry is None or entry.state == TrialState.FAIL:
                trial.number = self._enter(trial)
                trial.write()
                continue
            trial.number = entry.number
            if trial.done and not entry.state.is_finished():
                self._ledger.tell(entry.number, trial.status, trial.value)
        for entry in entries.values():
            if not entry.state.is_finished():  # killed before the trial had its folder
                self._ledger.tell(entry.number, "failed")

    def _enter(self, trial: Trial) -> int:
        """Enter a trial that the ledger lacks, or that is to be tried again, and return its new number."""
        rows = trial.history() if self._is_first(trial.point) else []
        history = [row[METRIC] for row in rows if METRIC in row]
        return self._ledger.add(
            trial.values,
            self._space.distributions,
            point_id(trial.point),
            status=trial.status if trial.done else "running",
            value=trial.value,
            history=history,
        )

    def _planned(self) -> Iterator[Trial]:
        """Yield the trials to run: those begun before, then the grid, or what the sampler proposes."""
        for trial in list(self.trials.values()):
            if not trial.done and point_id(bare(trial.point)) not in self._given_up:
                trial.attempts = 0
                yield trial
        if self._settings.sampler == "grid":
            yield from self._grid()
        else:
            yield from self._search()

    def _grid(self) -> Iterator[Trial]:
        names = self._space.distributions
        for values in self._space.grid():
            point = self._space.point(values)
            if self._is_wanted(point):
                yield self._new(point, {name: values[name] for name in names})

    def _search(self) -> Iterator[Trial]:
        begun = {point_id(bare(trial.point)): trial.values for trial in self.trials.values()}
        for values in begun.values():
            yield from self._repetitions(values, None)
        while len(begun) < self._target:
            proposal = self._propose(begun)
            if proposal is None:
                self._screen.say(f"the sampler finds no new points: the search ends after {len(begun)}")
                return
            values, number = proposal
            begun[point_id(self._space.point(values))] = values
            yield from self._repetitions(values, number)

    def _repetitions(self, values: dict[str, Value], number: int | None) -> Iterator[Trial]:
        """Yield the trials of a point that are not there yet, one a seed; ``number`` is the first one's."""
        for seed in self._space.seeds:
            point = self._space.point(values) | seed
            if self._is_wanted(point):
                yield self._new(point, values, number)
                number = None

    def _is_wanted(self, point: Point) -> bool:
        """Tell whether a point has no trial yet and is to have one."""
        if point_id(point) in self.trials:
            return False
        given_up = point_id(bare(point)) in self._given_up
        if given_up:
            self._screen.leave_out()
        return not given_up

    def _propose(self, begun: dict[str, dict[str, Value]]) -> tuple[dict[str, Value], int | None] | None:
        """Return a new point and its number in the ledger, None where there is none."""
        searched = self._space.searched
        for _ in range(DUPLICATES):
            number, values = self._ledger.ask(self._space.distributions)
            if point_id(self._space.point(values)) not in begun:
                return values, number
            self._ledger.tell(number, "failed")  # known: running it again would show the same
            if all(d.discrete for d in searched):
                new = (v for v in combinations(searched) if point_id(self._space.point(v)) not in begun)
                values = next(new, {})
                return (values, None) if values else None
        return None

    def _new(self, point: Point, values: dict[str, Value], number: int | None = None) -> Trial:
        key = point_id(point)
        if number is None:
            number = self._ledger.add(values, self._space.distributions, key)
        else:
            self._ledger.name(number, key)
        folder = self._home.path / self._space.folder_name(point)
        trial = Trial(number, point, values, self._space.label(point), folder, seeds=len(self._space.seeds))
        self.trials[key] = trial
        return trial

    def _fill(self, planned: Iterator[Trial]) -> None:
        while self._backend.has_room and not self._stops:
            trial = self._again.pop(0) if self._again else next(planned, None)
            if trial is None:
                return
            self._begin(trial)

    def _begin(self, trial: Trial) -> None:
        self._running[trial.number] = trial
        if self._backend.adopt(trial):
            return
        trial.begin()
        spool = Spool(trial.folder)
        if self._tags and not spool.path.exists():  # the run delivers it with its own
            spool.append("params", data=trial.point)
            spool.append("tags", data=self._tags | {"trial": str(trial.number)})
        self._backend.start(trial, [*self._space.overrides(trial.point), *self._extra])

    def _look(self) -> None:
        """See what the running trials have come to."""
        for trial in list(self._running.values()):
            ended = self._backend.ended(trial)
            if self._settings.pruner != "none" and self._is_hopeless(trial) and not ended:
                trial.ask_to_end()
            if ended:
                self._settle(trial)

    def _is_hopeless(self, trial: Trial) -> bool:
        """Enter a trial's new epochs; return whether the pruner would end it at one of them.

        The pruner compares points, each by its first seed: whichever of many seeds it ended, the mean of the
        others would be of lucky ones.
        """
        if not self._is_first(trial.point):
            return point_id(bare(trial.point)) in self._given_up
        hopeless = False
        for row in trial.history()[self._reported.get(trial.number, 0) :]:
            epoch = int(row["epoch"])
            self._reported[trial.number] = epoch
            prune = self._ledger.report(trial.number, epoch, row[METRIC])
            hopeless = hopeless or (prune and epoch > self._settings.prune_after)
        return hopeless

    def _is_first(self, point: Point) -> bool:
        """Tell whether a point has the first of the seeds."""
        return self._space.seeds[0].items() <= point.items()

    def _give_up_with(self, trial: Trial) -> None:
        """Give up the other seeds of a point whose first one was pruned."""
        if trial.status == "pruned" and self._is_first(trial.point):
            self._given_up.add(point_id(bare(trial.point)))

    def _settle(self, trial: Trial) -> None:
        """Enter how a trial ended."""
        cause = self._backend.cause(trial)
        del self._running[trial.number]
        self._reported.pop(trial.number, None)
        if trial.done:
            self._ledger.tell(trial.number, trial.status, trial.value)
            self._screen.ended(trial, trial.status)
            self._give_up_with(trial)
        elif self._signals:
            self._screen.say(f"let go    {trial.label}")
        else:
            self._fail(trial, cause)

    def _fail(self, trial: Trial, cause: str) -> None:
        reason = self._reason(trial, cause)
        died = any(words in reason.lower() for words in DEATHS)
        died = died and point_id(bare(trial.point)) not in self._given_up
        if died and trial.attempts <= self._settings.retries:
            self._screen.say(f"again     {trial.label}  {reason}")
            self._again.append(trial)
            return
        record = {"metrics": {}, "seconds": {}, "epochs": len(trial.history()), "run_id": None} | trial.result
        record |= {"status": "failed", "error": reason, "log": trial.log_tail()}
        write_text(trial.folder / "result.json", json.dumps(record, indent=2) + "\n")
        self._ledger.tell(trial.number, "failed")
        self._screen.ended(trial, "failed", reason)
        limit = self._settings.max_failures
        if self._settings.on_fail == "stop" or 0 < limit <= self._screen.counts["failed"]:
            self._stops = True

    def _reason(self, trial: Trial, cause: str) -> str:
        if trial.result.get("status") == "failed":
            return trial.result["error"]
        last = trial.log_tail()[-1:]
        return f"{cause}: {last[0]}" if last and not cause.startswith(("killed", "sweep.")) else cause

    @contextmanager
    def _heeding_signals(self) -> Iterator[None]:
        """Keep signals for `_heed`, so that none cuts the ledger short; in the end as they were before."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
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
        self._signals.append(signum)  # a handler must not print or write: `_heed` does

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
