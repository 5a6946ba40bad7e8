"""The pictures themselves that a run was analysed on, found where the run had them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from cifar_core.data.settings import DataSettings
from cifar_core.data.sources import load_data
from cifar_core.data.split import Data, Split
from experiments.comparison.groups import Analysed


def pixels(one: Analysed) -> tuple[Data, Split]:
    """Return the data of a run and the split that it was analysed on, picture for picture as predicted.

    Nothing is downloaded, and of the run's configuration nothing but the values of `data` is read. Raises
    OSError or ValueError where the data is gone or is other data by now.
    """
    with _quiet():
        data = load_data(_settings(one))
    part: Split = data.val if one.pictures.split == "val" else data.test
    same = np.array_equal(part.index, one.pictures.index) and np.array_equal(part.labels, one.pictures.labels)
    if data.fingerprint != one.run.data or not same:
        raise ValueError(f"the data has changed: fingerprint {one.run.data}, got {data.fingerprint}")
    return data, part


def _settings(one: Analysed) -> DataSettings:
    try:
        return DataSettings(**{**one.run.saved["data"], "download": False})
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{one.run.folder / 'config.yaml'} does not say which data it was: {error}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what loading has to say of the data: the run has told it."""
    notes = logging.getLogger(load_data.__module__)
    notes.disabled = True
    try:
        yield
    finally:
        notes.disabled = False
