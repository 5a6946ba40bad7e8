"""A trial as the controller sees it: a point and the run folder that it is trained in."""

import dataclasses
import os
import signal
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from cifar_core.files import lock
from cifar_core.history import Row
from experiments.files import read_json, write_json
from experiments.runs import read
from experiments.runs.result import ANALYSING, Result
from experiments.sweep.space import Point, Value

LOG_LINES = 15  # of a failed trial's output that its record keeps
METRIC = "val/acc"


@dataclass(frozen=True)
class Look:
    """What a trial's folder held when it was looked at."""

    folder: Path
    result: Result | None  # None where the run has not said how it ended

    @classmethod
    def at(cls, folder: Path) -> Self:
        """Look at a folder; a damaged file counts as absent, for one must not end a sweep of many trials."""
        try:
            return cls(folder, Result.read(folder))
        except OSError:
            return cls(folder, None)

    @property
    def status(self) -> str:
        """Finished, pruned, failed or killed; `running` where the run has not said."""
        return self.result.status if self.result else "running"

    @property
    def done(self) -> bool:
        """Whether the run has finished or was pruned."""
        return self.result is not None and self.result.done

    @property
    def value(self) -> float | None:
        """The figure that a sweep compares: the best val/acc; without a validation split the test's."""
        return self.result.value if self.result else None

    @property
    def metrics(self) -> dict[str, float]:
        """The figures of the run; empty where it has not said."""
        return self.result.metrics if self.result else {}

    @property
    def error(self) -> str:
        """Why the run ended, where it recorded that."""
        return self.result.error if self.result else ""

    @cached_property
    def history(self) -> list[Row]:
        """The epochs in `metrics.csv` that are written whole, read when first asked for."""
        try:
            return read.history(self.folder)
        except OSError:
            return []


@dataclass
class Trial:
    """One point at one seed; `trial.json` in its folder says the same."""

    number: int  # in the ledger
    point: Point
    values: dict[str, Value]  # by dimension, without the seed
    label: str
    folder: Path
    seeds: int = 1  # that the point is to have
    attempts: int = 0
    gpu: str | None = None  # where it runs, or ran last
    started: float = 0.0  # seconds since 1970, of the last attempt
    clock: float = 0.0  # the same on a clock that stands still while the machine sleeps
    job: str = ""  # of Slurm

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the trial that a `trial.json` describes; what a later version added to it is passed over.

        Raises OSError where it is damaged.
        """
        content = read_json(path)
        known = {f.name: content[f.name] for f in dataclasses.fields(cls) if f.name in content}
        kinds = {"number": int, "point": dict, "values": dict, "label": str, "seeds": int}
        if any(not isinstance(({"seeds": 1} | known).get(name), kind) for name, kind in kinds.items()):
            raise OSError(f"{path} is damaged: it lacks one of {', '.join(kinds)}")
        if not all(isinstance(value, str) for value in known["point"].values()):
            raise OSError(f"{path} is damaged: its point holds what is no text")
        return cls(**known | {"folder": path.parent})

    def write(self) -> None:
        """Write `trial.json`, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "folder"}
        write_json(self.folder / "trial.json", fields)

    def begin(self) -> None:
        """Note that another attempt starts, and remove what the last one left behind to be read."""
        self.attempts += 1
        self.started, self.clock = time.time(), time.monotonic()
        self.write()
        (self.folder / "stop").unlink(missing_ok=True)
        if self.look().status != ANALYSING:  # else its figures stand, whatever befalls this attempt
            (self.folder / "result.json").unlink(missing_ok=True)

    def seconds_awake(self) -> float:
        """Return how long the last attempt has run on this machine, without the time that this has slept."""
        if not self.clock:  # begun by an earlier version
            self.clock = time.monotonic() - max(0.0, time.time() - self.started)
        return time.monotonic() - self.clock

    def look(self) -> Look:
        """Return what the folder holds now."""
        return Look.at(self.folder)

    def log_tail(self) -> list[str]:
        """Return the last lines the trial has put out."""
        try:
            text = (self.folder / "trial.log").read_text(errors="replace", encoding="utf-8")
        except FileNotFoundError:
            return []
        return text.splitlines()[-LOG_LINES:]

    def runs(self) -> bool:
        """Tell whether a process of this machine has the run folder."""
        try:
            with (self.folder / "lock").open(encoding="utf-8") as file:
                return not lock(file)
        except FileNotFoundError:
            return False

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal to the process that has the run folder, and to what it started."""
        if not self.runs():  # it may not have come to its lock yet
            return
        owner = (self.folder / "lock").read_text(encoding="utf-8").split()
        if owner[:1] != ["process"]:
            return
        try:
            os.killpg(int(owner[1]), signum)
        except ProcessLookupError:  # a run by hand leads no group of its own
            try:
                os.kill(int(owner[1]), signum)
            except ProcessLookupError:
                return

    def ask_to_end(self) -> None:
        """Leave the file that ends the run after its epoch, as pruned."""
        (self.folder / "stop").touch()
