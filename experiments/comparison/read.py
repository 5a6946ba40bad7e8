"""Which runs there are to compare, and what their folders tell of each."""

import hashlib
import os
import statistics
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml

from cifar_core.history import Row
from experiments.config.renamed import completed, renew
from experiments.files import read_json
from experiments.runs.folder import past
from experiments.runs.names import UNTOLD, name_of
from experiments.runs.read import history, predictions
from experiments.runs.result import Result
from experiments.tracking.mlflow_store import MlflowStore
from experiments.tracking.search import tracked_folders
from experiments.tracking.store import Ids

MARKS = ("result.json", "overrides.yaml")  # files that only a run folder has
VALIDATION, TEST_EACH_EPOCH, TEST_ONCE = "validation", "test_each_epoch", "test_once"
BEST, TEST = "val/acc_best", "test/acc"  # the figures of a run; the first alone ranks
APART = ("seed", "trainer.test")  # keys in which the runs of one configuration may differ
DAMAGE = (OSError, yaml.YAMLError, ArithmeticError, AttributeError, KeyError, TypeError, ValueError)
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same ten times faster, where libyaml is

T = TypeVar("T")


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """Return the run folders among and below ``paths``, each once.

    Raises FileNotFoundError for a path that is no folder or holds no run.
    """
    folders: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise FileNotFoundError(f"{path} is not a folder")
        below = sorted(_search(path.resolve()))
        if not below:
            raise FileNotFoundError(f"{path} holds no run: no {' and no '.join(MARKS)} in or below it")
        folders |= dict.fromkeys(below)
    return list(folders)


def _search(root: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(root):
        if any(mark in files for mark in MARKS):
            folders.clear()  # what a run folder holds belongs to the run
            yield Path(parent)


def tracked(uri: str | None, experiment: str | None, wanted: str) -> list[Path]:
    """Return the folders of the runs that MLflow finds, saying on stderr which are not on this machine.

    Raises FileNotFoundError where none is, and what `tracked_folders` raises.
    """
    folders = tracked_folders(uri, experiment, wanted)
    present = [folder for folder in folders if folder.is_dir()]
    for folder in folders:
        if folder not in present:
            print(f"left out: {folder} is not on this machine", file=sys.stderr)
    if not present:
        raise FileNotFoundError(f"--filter {wanted!r} finds {len(folders)} runs, none with a folder here")
    return present


@dataclass(frozen=True)
class Pictures:
    """What a run predicted for the N pictures it was analysed on."""

    stamp: tuple[str, ...]  # equal for the same pictures in the same order
    split: str  # test, val
    labels: np.ndarray  # int (N,)
    preds: np.ndarray  # int (N,)
    index: np.ndarray  # int (N,), position in the source's own list
    names: Sequence[str] | None
    classes: tuple[str, ...]

    @property
    def hits(self) -> np.ndarray:
        """Whether each picture is right, bool (N,)."""
        return self.preds == self.labels


@dataclass(frozen=True, eq=False)
class Run:
    """One run, as its folder tells it; what takes time is read when first asked for, damage as nothing."""

    folder: Path
    result: Result  # its status may also be running, unfinished or damaged
    name: str = ""
    label: str = ""  # of its configuration; empty where its words tell it
    point: Mapping[str, str] | None = None  # of a trial: what its sweep varies, the seed among it
    asked: int = 0  # seeds that its configuration is to have; 0 where nobody has said
    gpu: str = ""  # on which a trial ran
    damage: list[str] = field(default_factory=list)  # found so far, in what was asked for

    @property
    def status(self) -> str:
        """Finished, pruned, analysing, failed, killed, running, unfinished or damaged."""
        return self.result.status

    @property
    def error(self) -> str:
        """Why it ended, where it says so."""
        return self.result.error

    @property
    def epochs(self) -> int:
        """The epochs that it has trained."""
        return self.result.epochs or len(self.history)

    @property
    def log(self) -> Sequence[str]:
        """The last lines of a trial that failed."""
        return self.result.log

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Its figures."""
        return {key: value for key, value in self.result.metrics.items() if isinstance(value, int | float)}

    @cached_property
    def run_id(self) -> str:
        """Its id in the tracker; empty where there is none."""
        return self.result.run_id or self._take(lambda: tracker(self.folder)[0], "")

    @property
    def group(self) -> Hashable:
        """What is equal for the runs of one configuration."""
        return tuple(sorted(self.params.items())), "" if self.point is not None else self.protocol

    @cached_property
    def params(self) -> dict[str, str]:
        """What makes its configuration: of a trial the point without the seed, else all of its settings."""
        if self.point is None:
            return self.config
        return {key: text for key, text in self.point.items() if key != "seed"}

    @cached_property
    def seed(self) -> str:
        """The seed, as a text."""
        seed = (self.point or {}).get("seed", self.environment.get("seed"))
        return str(self.saved.get("seed", "") if seed is None else seed)

    @cached_property
    def protocol(self) -> str:
        """What its figures stand for: validation, test_each_epoch or test_once."""
        if self.result.protocol:
            return self.result.protocol
        data, trainer = self._section("data"), self._section("trainer")
        if BEST in self.metrics or (not self.metrics and data.get("val_size")):
            return VALIDATION
        each = trainer.get("evaluate", "each_epoch") == "each_epoch"
        return TEST_EACH_EPOCH if each else TEST_ONCE

    @cached_property
    def saved(self) -> dict[str, Any]:
        """The configuration as config.yaml has it, under today's names."""
        return self._take(lambda: dict(renew(_yaml(self.folder / "config.yaml"))), {})

    @cached_property
    def config(self) -> dict[str, str]:
        """The configuration, flat, without the seed and what changes no figure."""
        flat = {key: value for key, value in completed(past(self.saved)).items() if key not in APART}
        return flat | {"data.fingerprint": self.data}

    @cached_property
    def words(self) -> tuple[str, ...]:
        """What was asked for on the command line, the seed apart."""
        path = self.folder / "overrides.yaml"
        words: list[str] = self._take(lambda: list(map(str, _yaml(path))) if path.exists() else [], [])
        return tuple(word for word in words if not word.startswith(UNTOLD))

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Where and with what it was made, as in environment.json."""
        return self._take(lambda: read_json(self.folder / "environment.json"), {})

    @property
    def data(self) -> str:
        """The fingerprint of the data; empty where the run did not come that far."""
        return str(self.environment.get("data", ""))

    @property
    def device(self) -> str:
        """The device and its settings."""
        return str(self.environment.get("device", ""))

    @property
    def commit(self) -> str:
        """The commit of the code that it was made with; empty outside a checkout."""
        git = self.environment.get("git")
        return str(git.get("commit", ""))[:10] if isinstance(git, dict) else ""

    @cached_property
    def page(self) -> str:
        """The address of its tracker's run, as the folder knows it; empty where there is none."""
        return self._take(lambda: tracker(self.folder)[1], "")

    @cached_property
    def history(self) -> list[Row]:
        """The epochs that are written whole."""
        return self._take(lambda: history(self.folder), [])

    @property
    def seconds(self) -> float:
        """Seconds of all epochs."""
        return sum(row.get("seconds", 0.0) for row in self.history)

    @property
    def images_per_second(self) -> float | None:
        """Pictures a second in training, the median of the epochs: the first one warms up."""
        paces = [row["images_per_second"] for row in self.history if "images_per_second" in row]
        return statistics.median(paces) if paces else None

    @cached_property
    def pictures(self) -> Pictures | None:
        """What it predicts, where it was analysed."""
        if self.status != "finished":
            return None
        return self._take(lambda: _pictures(self.folder, self.data), None)

    def _section(self, name: str) -> dict[str, Any]:
        return self._take(lambda: dict(self.saved.get(name, {})), {})

    def damages(self) -> Sequence[str]:
        """What cannot be read of all that a comparison tells."""
        _ = self.environment, self.history, self.pictures
        return self.damage

    def _take(self, look: Callable[[], T], nothing: T) -> T:
        try:
            return look()
        except DAMAGE as error:
            self.damage.append(f"{type(error).__name__}: {error}")
            return nothing


def read(folder: Path) -> Run:
    """Return the run in ``folder``, all of it read; the status `damaged` and an error tell what cannot be."""
    try:
        result = Result.read(folder) or Result(status="unfinished")
        asked, name = int(read_json(folder / "trial.json").get("seeds", 0)), name_of(folder)
    except DAMAGE as error:
        return Run(folder, Result(status="damaged", error=f"{type(error).__name__}: {error}"))
    run = Run(folder, result, name, asked=asked)
    _ = run.config, run.protocol, run.words
    damages = run.damages()
    return replace(run, result=Result(status="damaged", error=damages[0])) if damages else run


def tracker(folder: Path) -> tuple[str, str]:
    """Return the id of a folder's run in its tracker and the address of its page; empty where not known."""
    states = read_json(folder / "tracking.offset")
    for uri, state in states.items():
        if state.get("run_id"):
            return state["run_id"], MlflowStore(uri).page(Ids(state["experiment_id"], state["run_id"]))
    return "", ""


def _yaml(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)  # noqa: S506 - a safe loader


def _pictures(folder: Path, data: str) -> Pictures | None:
    arrays = predictions(folder)
    if arrays is None:
        return None
    split = str(read_json(folder / "analysis" / "metrics.json").get("split", "test"))
    classes = tuple(map(str, arrays["classes"]))
    order = hashlib.sha256(arrays["index"].tobytes() + arrays["labels"].tobytes()).hexdigest()
    return Pictures(
        stamp=(data, split, order, *classes),
        split=split,
        labels=arrays["labels"],
        preds=arrays["logits"].argmax(1),
        index=arrays["index"],
        names=[str(name) for name in arrays["names"]] if "names" in arrays else None,
        classes=classes,
    )
