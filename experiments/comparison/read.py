"""Reads runs from their folders, to be compared."""

import hashlib
import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from cifar_core import history as history_module
from experiments import files as files_module
from experiments.config.renamed import renew
from experiments.runs import read as read_module
from experiments.runs.folder import HARMLESS, past

MARKS = ("result.json", "overrides.yaml")  # files that only a run folder has


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """Return the run folders among and below ``paths``, each once.

    Raises FileNotFoundError for a path that is no folder or holds no run.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            raise FileNotFoundError(f"{path} is not a folder")
        below = sorted(_search(path.resolve()))
        if not below:
            raise FileNotFoundError(f"{path} holds no run: no {' and no '.join(MARKS)} in or below it")
        found |= dict.fromkeys(below)
    return list(found)


def _search(root: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(root):
        if any(mark in files for mark in MARKS):
            folders.clear()  # what a run folder holds belongs to the run
            yield Path(parent)


VALIDATION, TEST_EACH_EPOCH = "validation", "test_each_epoch"

APART = ("seed", "trainer.test")  # keys in which the runs of one configuration may differ
UNTOLD = (
    "seed=",
    "trainer.test=",
    "hydra.",
    "analysis=",
    "tracking=",
    *HARMLESS,
)  # words that make no configuration


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
    history: list[history_module.Row] = field(default_factory=list)
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
    config = yaml.safe_load((folder / "config.yaml").read_text())
    words = folder / "overrides.yaml"
    asked = yaml.safe_load(words.read_text()) if words.exists() else []
    result, facts = (
        files_module.read_json(folder / "result.json"),
        files_module.read_json(folder / "environment.json"),
    )
    status, metrics = result.get("status", "unfinished"), result.get("metrics", {})
    flat = {key: value for key, value in past(renew(config)).items() if key not in APART}
    protocol = VALIDATION if config["data"]["val_size"] else TEST_EACH_EPOCH
    return Run(
        folder=folder,
        status=status,
        error=result.get("error", ""),
        seed=str(config["seed"]),
        protocol=result.get("protocol", protocol),
        config=flat | {"data.fingerprint": facts.get("data", "")},
        words=tuple(word for word in asked if not word.startswith(UNTOLD)),
        metrics={key: value for key, value in metrics.items() if isinstance(value, int | float)},
        history=read_module.history(folder),
        device=facts.get("device", ""),
        pictures=_pictures(folder, facts.get("data", "")) if status == "finished" else None,
    )


def _pictures(folder: Path, data: str) -> Pictures | None:
    found = read_module.predictions(folder)
    if found is None:
        return None
    split = str(files_module.read_json(folder / "analysis" / "metrics.json").get("split", "test"))
    classes = tuple(map(str, found["classes"]))
    order = hashlib.sha256(found["index"].tobytes() + found["labels"].tobytes()).hexdigest()
    return Pictures(
        stamp=(data, split, order, *classes),
        split=split,
        labels=found["labels"],
        preds=found["logits"].argmax(1),
        index=found["index"],
        names=[str(name) for name in found["names"]] if "names" in found else None,
        classes=classes,
    )
