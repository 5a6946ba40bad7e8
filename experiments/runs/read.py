"""Reads back what a run left in its folder: its epochs and its predictions."""

import csv
from pathlib import Path

import numpy as np

from cifar_core.files import check_format
from cifar_core.history import Row
from experiments.runs.folder import RunFolder


def history(folder: Path) -> list[Row]:
    """Return the epochs in metrics.csv that are written whole; [] before the first."""
    try:
        text = (folder / "metrics.csv").read_text(encoding="utf-8")
        lines = text[: text.rfind("\n") + 1].splitlines()
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)]
        _ = [int(row["epoch"]) for row in rows]  # a line without a place is damage
        return rows
    except FileNotFoundError:
        return []
    except (ArithmeticError, KeyError, TypeError, ValueError) as error:
        raise OSError(f"{folder / 'metrics.csv'} is damaged: {error}") from error


def predictions(folder: Path) -> dict[str, np.ndarray] | None:
    """Return the arrays of analysis/predictions.npz; None where the run was not analysed.

    Raises OSError where the file is damaged, or its arrays are not of the same pictures and classes.
    """
    path = RunFolder(folder).analysis / "predictions.npz"
    found = arrays(path)
    if found is None:
        return None
    try:
        logits, labels, index = (found[name] for name in ("logits", "labels", "index"))
        size, classes = logits.shape
        fit = {labels.shape, index.shape, found.get("names", labels).shape} == {(size,)}
        if not fit or found["classes"].shape != (classes,) or not np.isin(labels, np.arange(classes)).all():
            raise ValueError("its arrays do not belong to each other")
        found |= {"logits": logits.astype(np.float32), "labels": labels.astype(np.int64)}
        found["index"] = index.astype(np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise OSError(f"{path} is damaged: {error}") from error
    return found if size else None


def arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Return the arrays of an .npz file without pickles; None where there is no file.

    Raises OSError where the file is damaged, ValueError where it is of a later format.
    """
    if not path.exists():
        return None
    try:
        with np.load(path) as file:
            found = {name: file[name] for name in file.files}
    except Exception as error:  # zipfile, zlib and NumPy raise by where the damage is
        raise OSError(f"{path} is damaged: {error}") from error
    check_format(path, found.pop("format", np.array(0)).tolist())
    return found
