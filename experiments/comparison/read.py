"""Which runs there are to compare, and what their folders tell of each."""

import hashlib
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from cifar_core.history import Row
from experiments.config.renamed import completed, renew
from experiments.files import read_json
from experiments.runs.folder import past
from experiments.runs.names import UNTOLD
from experiments.runs.read import history, predictions
from experiments.runs.result import Result
from experiments.tracking.mlflow_store import tracked_folders

MARKS = ("result.json", "overrides.yaml")  # files that only a run folder has
VALIDATION, TEST_EACH_EPOCH = "validation", "test_each_epoch"
APART = ("seed", "trainer.test")  # keys in which the runs of one configuration may differ


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


@dataclass(frozen=True)
class Run:
    """One run, as its folder tells it."""

    folder: Path
    status: str  # finished, pruned, failed, killed, unfinished, damaged
    error: str = ""
    seed: str = ""
    protocol: str = ""
    config: dict[str, str] = field(default_factory=dict)  # flat, without the seed and what changes no figure
    words: tuple[str, ...] = ()  # what was asked for on the command line, the seed apart
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[Row] = field(default_factory=list)
    device: str = ""
    pictures: Pictures | None = None

    @property
    def data(self) -> str:
        """The fingerprint of the data; empty where the run did not come that far."""
        return self.config.get("data.fingerprint", "")

    @property
    def seconds(self) -> float:
        """Seconds of all epochs."""
        return sum(row["seconds"] for row in self.history)

    @property
    def images_per_second(self) -> float | None:
        """Pictures a second in training, the median of the epochs: the first one warms up."""
        paces = [row["images_per_second"] for row in self.history if "images_per_second" in row]
        return statistics.median(paces) if paces else None


def read(folder: Path) -> Run:
    """Return the run in ``folder``; one that cannot be read has the status `damaged` and says why."""
    try:
        return _read(folder)
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        return Run(folder, "damaged", f"{type(error).__name__}: {error}")


def _read(folder: Path) -> Run:
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    overrides = folder / "overrides.yaml"
    words = yaml.safe_load(overrides.read_text(encoding="utf-8")) if overrides.exists() else []
    environment = read_json(folder / "environment.json")
    result = Result.read(folder) or Result(status="unfinished")
    flat = {key: value for key, value in completed(past(renew(config))).items() if key not in APART}
    data = environment.get("data", "")
    return Run(
        folder=folder,
        status=result.status,
        error=result.error,
        seed=str(config["seed"]),
        protocol=result.protocol or (VALIDATION if config["data"]["val_size"] else TEST_EACH_EPOCH),
        config=flat | {"data.fingerprint": data},
        words=tuple(word for word in words if not word.startswith(UNTOLD)),
        metrics={key: value for key, value in result.metrics.items() if isinstance(value, int | float)},
        history=history(folder),
        device=environment.get("device", ""),
        pictures=_pictures(folder, data) if result.status == "finished" else None,
    )


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
