"""Which trials of a sweep run, and in what order: those begun, then the grid or what a sampler proposes."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from experiments.config.settings import SweepSettings
from experiments.sweep.home import Home
from experiments.sweep.ledger import Ledger
from experiments.sweep.screen import Screen
from experiments.sweep.space import Point, Space, Value, bare, combinations, point_id
from experiments.sweep.trials import METRIC, Look, Trial

DUPLICATES = 100  # proposals of known points in a row after which a search gives up


class Plan:
    """The trials of one sweep: those that there are, and those to come."""

    def __init__(
        self, space: Space, settings: SweepSettings, home: Home, ledger: Ledger, screen: Screen, target: int
    ) -> None:
        """Read what the folder holds; a search goes on until it has ``target`` points."""
        self._space = space
        self._settings = settings
        self._home = home
        self._ledger = ledger
        self._screen = screen
        self._target = target
        self._given_up: set[str] = set()  # points, by id, whose first seed was pruned
        self.trials = home.trials()
        self.left_out = 0  # trials that were planned and will not run
        self._counted: set[Path] = set()  # folders of trials that were done before their turn
        self._folders = {trial.folder.name.lower() for trial in self.trials.values()}

    def restore(self) -> None:
        """Make ledger and folders agree: the folders say what was done, whatever the ledger has lost."""
        entries = self._ledger.latest()
        self._recover(entries)
        for point, trial in self.trials.items():
            if trial.seeds != len(self._space.seeds):  # further seeds were asked for
                trial.seeds = len(self._space.seeds)
                trial.write()
            look = trial.look()
            entry = entries.pop(point, None)
            if look.done:
                self._count(trial, look)
            if entry is None or entry.state == TrialState.FAIL:
                trial.number = self._enter(trial, look)
                trial.write()
                continue
            trial.number = entry.number
            if look.done and not entry.state.is_finished():
                self._ledger.tell(entry.number, look.status, look.value)
        for entry in entries.values():
            if not entry.state.is_finished():  # killed before the trial had its folder
                self._ledger.tell(entry.number, "failed")

    def _recover(self, entries: Mapping[str, FrozenTrial]) -> None:
        """Write damaged records of trials anew, from what the ledger knows of their points."""
        named = {trial.folder.name for trial in self.trials.values()}
        lost = {path.parent.name for path in self._home.path.glob("*/trial.json")} - named
        for key, entry in entries.items() if lost else ():
            for seed in self._space.seeds:
                point = self._space.point(entry.params) | seed
                name = self._space.folder_name(point)
                if point_id(point) == key and name in lost:
                    self.trials[key] = self._trial(entry.number, point, entry.params, name)
                    self.trials[key].write()
                    lost.discard(name)
                    self._screen.say(f"mended    {name}/trial.json, which was damaged")
        for name in sorted(lost):
            self._screen.say(f"damaged   {name}/trial.json: what the folder holds is not in the report")

    def _count(self, trial: Trial, look: Look) -> None:
        """Count a trial that was done before its turn came."""
        self._counted.add(trial.folder)
        self._screen.count(trial, look)
        self.heed(trial, look)

    def _enter(self, trial: Trial, look: Look) -> int:
        """Enter a trial that the ledger lacks, or that is to be tried again, and return its new number."""
        rows = look.history if self.is_first(trial) else []
        return self._ledger.add(
            trial.values,
            self._space.distributions,
            point_id(trial.point),
            status=look.status if look.done else "running",
            value=look.value,
            history=[row[METRIC] for row in rows if METRIC in row],
        )

    def upcoming(self) -> Iterator[Trial]:
        """Yield the trials to run: those begun before, then the grid, or what the sampler proposes."""
        for trial in list(self.trials.values()):
            look = trial.look()
            if look.done and trial.folder not in self._counted:  # since `restore`, without a controller
                self._ledger.tell(trial.number, look.status, look.value)
                self._count(trial, look)
            elif not look.done and not self.is_given_up(trial):
                trial.attempts = 0
                yield trial
        if self._settings.sampler == "grid":
            yield from self._grid()
        else:
            yield from self._search()

    def is_first(self, trial: Trial) -> bool:
        """Tell whether a trial has the first of the seeds, by which a pruner judges its point."""
        return self._space.seeds[0].items() <= trial.point.items()

    def is_given_up(self, trial: Trial) -> bool:
        """Tell whether a trial's point was pruned, by its first seed."""
        return point_id(bare(trial.point)) in self._given_up

    def heed(self, trial: Trial, look: Look) -> None:
        """Give up the other seeds of a point whose first one was pruned."""
        if look.status == "pruned" and self.is_first(trial):
            self._given_up.add(point_id(bare(trial.point)))

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
            self.left_out += 1
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
        trial = self._trial(number, point, values, self._folder_name(point))
        self.trials[key] = trial
        return trial

    def _trial(self, number: int, point: Point, values: dict[str, Value], name: str) -> Trial:
        folder = self._home.path / name
        return Trial(number, point, values, self._space.label(point), folder, seeds=len(self._space.seeds))

    def _folder_name(self, point: Point) -> str:
        """Return a name that no other trial has, even one whose name an earlier version has made."""
        name = self._space.folder_name(point)
        if name.lower() in self._folders:
            name = f"{name}-{point_id(point)}"
        self._folders.add(name.lower())
        return name
