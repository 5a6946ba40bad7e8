"""Files of numbers: predictions as NumPy arrays, metrics as JSON, errors as CSV."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from cifar_core.analysis.predictions import Predictions

COLUMNS = (
    "index",  # position in the source's own list
    "file",
    "true",
    "predicted",
    "runner_up",
    "confidence",  # probability of the predicted class
    "p_true",
    "margin",  # confidence - probability of the runner-up
    "loss",  # cross-entropy
)


def write_predictions(
    path: Path, found: Predictions, index: Tensor, classes: Sequence[str], names: Sequence[str] | None
) -> None:
    """Write labels, logits, index, classes and, where there are any, names as .npz without pickles."""
    arrays: dict[str, Any] = {
        "labels": found.labels.numpy(),
        "logits": found.logits.numpy(),
        "index": index.numpy(),
        "classes": np.array(classes, dtype=np.str_),
    }
    if names is not None:
        arrays["names"] = np.array(names, dtype=np.str_)
    np.savez_compressed(path, **arrays)


def write_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """Write `metrics` as strict JSON; a NaN or infinity raises ValueError."""
    path.write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n")


def write_errors(
    path: Path, found: Predictions, index: Tensor, classes: Sequence[str], names: Sequence[str] | None
) -> None:
    """Write one CSV line an error, the most confident first, under the header `COLUMNS`."""
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in found.errors().tolist():
            file_name = names[row] if names else ""
            writer.writerow([int(index[row]), file_name, *_error(found, row, classes)])


def _error(found: Predictions, row: int, classes: Sequence[str]) -> list[str]:
    label, pred, runner_up = (int(column[row]) for column in (found.labels, found.preds, found.runners_up))
    p_pred, p_true, p_runner_up = (float(found.probs[row, number]) for number in (pred, label, runner_up))
    numbers = (p_pred, p_true, p_pred - p_runner_up, float(found.losses[row]))
    return [classes[label], classes[pred], classes[runner_up], *(f"{number:.6g}" for number in numbers)]
