"""Files of numbers: predictions and maps as NumPy arrays, metrics as JSON, pictures as CSV."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from cifar_core.data.split import Split
from cifar_core.explain.cams import TARGETS, Cams
from cifar_core.explain.labels import LabelIssues
from cifar_core.explain.predictions import Predictions, pick
from cifar_core.files import FORMAT

CONFIDENT = 0.9  # from here on an error is a confident mistake
ERROR_COLUMNS = (
    "index",  # position in the source's own list
    "file",
    "true",
    "predicted",
    "runner_up",
    "confidence",  # probability of the predicted class
    "p_true",
    "margin",  # confidence - probability of the runner-up
    "loss",  # cross-entropy
    "label_quality",  # normalised margin in [0, 1], low where the label is perhaps wrong
    "confident_mistake",  # 1 where confidence >= CONFIDENT
    "label_issue",  # 1 where label_issues.csv has the picture
)
ISSUE_COLUMNS = (
    "rank",
    "index",
    "file",
    "label",
    "suggested",
    "label_quality",
    "p_label",
    "p_suggested",
    "threshold",  # the suggested class's, which p_suggested reaches
)


def write_predictions(path: Path, predictions: Predictions, part: Split, classes: Sequence[str]) -> None:
    """Write labels, logits, index, classes and, where there are any, names as .npz without pickles."""
    arrays: dict[str, Any] = {
        "format": np.array(FORMAT),
        "labels": predictions.labels.numpy(),
        "logits": predictions.logits.numpy(),
        "index": part.index.numpy(),
        "classes": np.array(classes, dtype=np.str_),
    }
    if part.names is not None:
        arrays["names"] = np.array(part.names, dtype=np.str_)
    np.savez_compressed(path, **arrays)


def write_cams(
    path: Path, predictions: Predictions, maps: Cams, part: Split, *, layer: str, method: str
) -> None:
    """Write raw grids (T, M, h, w) with the pictures and classes they belong to, as .npz without pickles."""
    rows = maps.rows
    np.savez_compressed(
        path,
        format=np.array(FORMAT),
        grids=maps.grids.numpy(),
        targets=np.array(TARGETS),
        index=part.index[rows].numpy(),
        true=predictions.labels[rows].numpy(),
        predicted=predictions.preds[rows].numpy(),
        runner_up=predictions.runners_up[rows].numpy(),
        layer=np.array(layer),
        method=np.array(method),
    )


def write_metrics(path: Path, metrics: dict[str, Any]) -> None:
    """Write `metrics` as strict JSON; a NaN or infinity raises ValueError."""
    content = {"format": FORMAT, **metrics}
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_errors(
    path: Path,
    predictions: Predictions,
    quality: Tensor,
    issues: LabelIssues,
    part: Split,
    classes: Sequence[str],
) -> None:
    """Write one CSV line an error, the most confident first, under the header `ERROR_COLUMNS`."""
    rows = predictions.errors()
    suspected = set(issues.rows.tolist())
    confidence = predictions.confidence[rows]
    columns = [
        *_which(rows, part),
        *(
            _named(of[rows], classes)
            for of in (predictions.labels, predictions.preds, predictions.runners_up)
        ),
        _digits(confidence),
        _digits(pick(predictions.probs, predictions.labels)[rows]),
        _digits(confidence - pick(predictions.probs, predictions.runners_up)[rows]),
        _digits(predictions.losses[rows]),
        _digits(quality[rows]),
        (confidence >= CONFIDENT).int().tolist(),
        [int(row in suspected) for row in rows.tolist()],
    ]
    _write_csv(path, ERROR_COLUMNS, columns)


def write_label_issues(
    path: Path,
    predictions: Predictions,
    quality: Tensor,
    issues: LabelIssues,
    part: Split,
    classes: Sequence[str],
) -> None:
    """Write one CSV line a suspected label error, the most suspicious first, under `ISSUE_COLUMNS`."""
    rows = issues.rows
    columns = [
        range(1, len(rows) + 1),
        *_which(rows, part),
        _named(predictions.labels[rows], classes),
        _named(issues.suggested, classes),
        _digits(quality[rows]),
        _digits(pick(predictions.probs, predictions.labels)[rows]),
        _digits(pick(predictions.probs[rows], issues.suggested)),
        _digits(issues.thresholds[issues.suggested]),
    ]
    _write_csv(path, ISSUE_COLUMNS, columns)


def _which(rows: Tensor, part: Split) -> list[list]:
    return [part.index[rows].tolist(), [part.names[row] if part.names else "" for row in rows.tolist()]]


def _named(numbers: Tensor, classes: Sequence[str]) -> list[str]:
    return [classes[number] for number in numbers.tolist()]


def _digits(values: Tensor) -> list[str]:
    return [f"{value:.6g}" for value in values.tolist()]


def _write_csv(path: Path, header: Sequence[str], columns: Sequence[Iterable[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(zip(*columns, strict=True))
