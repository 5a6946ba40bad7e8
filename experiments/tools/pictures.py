"""Which pictures a run is evaluated on, and their classes in the run's own order."""

import dataclasses
import logging
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig

from cifar_core.data import layout
from cifar_core.data.settings import DataSettings
from cifar_core.data.sources import load_data
from cifar_core.data.split import Data
from experiments.config.values import settings
from experiments.files import read_json

SHOWN = 20  # classes named in a line


def load(folder: Path, own: DictConfig, cfg: DictConfig, *, everything: bool, judge: bool) -> Data:
    """Return the pictures of ``cfg`` on which to evaluate the run in ``folder``, configured as ``own`` says.

    To ``judge`` it on other class folders, no split is needed: all of them are test. The run's own pictures,
    in whatever place, keep the test split that it has not been trained on. ``everything`` is for `split=all`.
    """
    options = settings(cfg).data
    root = Path(options.root).expanduser()
    if not judge or (everything and _has_train(root)):
        return load_data(options)
    seeks_own = own.data.source == "folder" and not everything and root.is_dir()
    if seeks_own and layout.find(root, judge=True).test in (None, root):
        trained_on = read_json(folder / "environment.json").get("data")
        data = _undivided(options)
        if data is not None and data.fingerprint == trained_on:
            return data
    return load_data(options, judge=True)


def _has_train(root: Path) -> bool:
    """Tell whether a folder has a train folder."""
    try:
        return root.is_dir() and layout.find(root).train not in (None, root)
    except FileNotFoundError:
        return False


def _undivided(options: DataSettings) -> Data | None:
    """Return class folders without splits as a run would divide them; None for what no run could train on."""
    notes = logging.getLogger(load_data.__module__)
    notes.disabled = True  # they would come twice
    try:
        return load_data(options)
    except (FileNotFoundError, ValueError):
        return None
    finally:
        notes.disabled = False


def recoded(data: Data, classes: Sequence[str]) -> Data:
    """Return ``data`` with labels that count in ``classes``, matched by name, as Unicode composes it.

    Raises ValueError naming the classes that are not among them.
    """
    known = {unicodedata.normalize("NFC", name): place for place, name in enumerate(classes)}
    names = [unicodedata.normalize("NFC", name) for name in data.classes]
    strange = [name for name in names if name not in known]
    if strange:
        raise ValueError(
            f"the data has classes that the run does not know: {strange[:SHOWN]}; it knows: {some(classes)}"
        )
    places = torch.tensor([known[name] for name in names])
    splits = {
        name: dataclasses.replace(part, labels=places[part.labels])
        for name in ("train", "val", "test")
        for part in (getattr(data, name),)
    }
    return dataclasses.replace(data, classes=tuple(classes), **splits)


def some(names: Sequence[str]) -> str:
    """Return the first names and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def whole(data: Data) -> Data:
    """Return ``data`` with all its pictures as test set; raise ValueError where they have no file names."""
    parts = [data.train, data.val, data.test]
    names = [name for part in parts for name in part.names or ()]
    if not names:  # numbers alone would not say which of two lists they count in
        raise ValueError(f"split=all needs pictures with file names, which {data.source} has not")
    joined = {key: torch.cat([getattr(part, key) for part in parts]) for key in ("images", "labels", "index")}
    return dataclasses.replace(data, test=dataclasses.replace(data.test, names=names, **joined))
