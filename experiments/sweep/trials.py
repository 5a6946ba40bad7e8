"""A trial as the controller sees it: a point and the run folder that it is trained in."""

import dataclasses
import fcntl
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifar_core.history import Row
from experiments.files import write_text
from experiments.runs import read as read_module
from experiments.runs.folder import DONE
from experiments.sweep.space import Point, Value

LOG_LINES = 15  # of a failed trial's output that its record keeps
METRIC = "val/acc"


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
    job: str = ""  # of Slurm

    @classmethod
    def read(cls, path: Path) -> "Trial":
        """Return the trial that a `trial.json` describes."""
        return cls(**json.loads(path.read_text()), folder=path.parent)

    def write(self) -> None:
        """Write `trial.json`, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "folder"}
        write_text(self.folder / "trial.json", json.dumps(fields, indent=2) + "\n")

    def begin(self) -> None:
        """Note that another attempt starts, and remove what the last one left behind to be read."""
        self.attempts += 1
        self.started = time.time()
        self.write()
        for left in ("result.json", "stop"):
            (self.folder / left).unlink(missing_ok=True)

    @property
    def result(self) -> dict[str, Any]:
        """The content of `result.json`; empty where there is none yet."""
        try:
            return json.loads((self.folder / "result.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}

    @property
    def status(self) -> str:
        """Finished, pruned, failed or killed; `running` where the run has not said."""
        return self.result.get("status", "running")

    @property
    def done(self) -> bool:
        """Whether the run has finished or was pruned."""
        return self.status in DONE

    @property
    def value(self) -> float | None:
        """The figure that a sweep compares: the best val/acc; without a validation split the test's."""
        metrics = self.result.get("metrics", {})
        return metrics.get(f"{METRIC}_best", metrics.get("test/acc"))

    def history(self) -> list[Row]:
        """Return the epochs in `metrics.csv` that are written whole; [] for a damaged file.

        One trial's broken file must not end a sweep of many.
        """
        try:
            return read_module.history(self.folder)
        except OSError:
            return []

    def log_tail(self) -> list[str]:
        """Return the last lines the trial has put out."""
        try:
            text = (self.folder / "trial.log").read_text(errors="replace")
        except FileNotFoundError:
            return []
        return text.splitlines()[-LOG_LINES:]

    def runs(self) -> bool:
        """Tell whether a process of this machine has the run folder."""
        try:
            with (self.folder / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal to the process that has the run folder, and to what it started."""
        owner = (self.folder / "lock").read_text().split()
        if owner[:1] != ["process"] or not self.runs():
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
