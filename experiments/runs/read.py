"""Reads back what a run left in its folder: its epochs and its predictions."""

import csv
from pathlib import Path

import numpy as np

from cifar_core.history import Row
from experiments.runs.folder import RunFolder


def history(folder: Path) -> list[Row]:
    """Return the epochs in metrics.csv that are written whole; [] before the first."""
    try:
        text = (folder / "metrics.csv").read_text(encoding="utf-8")
        lines = text[: text.rfind("\n") + 1].splitlines()
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)]
    except FileNotFoundError:
        return []
    except (TypeError, ValueError) as error:
        raise OSError(f"{folder / 'metrics.csv'} is damaged: {error}") from error


def predictions(folder: Path) -> dict[str, np.ndarray] | None:
    """Return the arrays of analysis/predictions.npz; None where the run was not analysed.

    Raises OSError where the file is damaged.
    """
    return arrays(RunFolder(folder).analysis / "predictions.npz")


def arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Return the arrays of an .npz file without pickles; None where there is no file.

    Raises OSError where the file is damaged.
    """
    if not path.exists():
        return None
    try:
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # zipfile, zlib and NumPy raise by where the damage is
        raise OSError(f"{path} is damaged: {error}") from error
