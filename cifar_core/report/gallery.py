"""The galleries of report.html: data for its script, and cards that show without it."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from cifar_core.explain.cams import TARGETS, Cams, evidence
from cifar_core.explain.metrics import finite
from cifar_core.explain.predictions import pick
from cifar_core.report.confusion import NAMED_CLASSES, drawn_cells
from cifar_core.report.content import Content
from cifar_core.report.embed import grid_bytes, sprite, still
from cifar_core.report.heat import INFERNO
from cifar_core.report.markup import script_json, shown
from cifar_core.report.sheets import METHODS

GRID_BYTES = 300_000  # of all embedded maps
GRID = 32  # cells a side of an embedded map at most
DATA_BYTES = 1_500_000  # of all that the script reads
FILE = 120  # letters of a file's name, its last ones
STILLS = 16  # cards that show without JavaScript
TOP = 3  # classes whose probabilities a card shows


def galleries(content: Content) -> dict[str, Any]:
    """Return the template's fields of the gallery of errors, the unsure hits and the script's data."""
    cells = min(content.errors.grids.shape[2:].numel(), GRID**2)
    some = max(1, GRID_BYTES // (len(TARGETS) * cells))
    rows, grids = content.errors.rows[:some], _coarse(content.errors.grids[:, :some])
    data = script_json(_data(content, rows, grids))
    while len(data) > DATA_BYTES and len(rows) > STILLS:
        some = len(rows) // 2
        rows, grids = rows[:some], grids[:, :some]
        data = script_json(_data(content, rows, grids))
    predictions, cam = content.predictions, content.summary["cam"]
    return {
        "data": data,
        "shown_errors": len(rows),
        "maps": f"{METHODS[cam['method']]} at {cam['layer']}",
        "error_stills": _stills(content, content.errors, (0, 1), predictions.preds),
        "hit_stills": _stills(content, content.hits, (0, 3), predictions.runners_up),
    }


def _coarse(grids: Tensor) -> Tensor:
    """Average grids (T, M, h, w) to at most GRID cells a side."""
    height, width = (min(side, GRID) for side in grids.shape[2:])
    return grids if (height, width) == grids.shape[2:] else adaptive_avg_pool2d(grids, (height, width))


def _data(content: Content, rows: Tensor, grids: Tensor) -> dict[str, Any]:
    predictions, part = content.predictions, content.part
    suggested = torch.full((len(predictions.labels),), -1)
    suggested[content.issues.rows] = content.issues.suggested
    top = predictions.ranking[rows, :TOP]
    sheet = sprite(part.images[rows]) if len(rows) else None
    counts = content.counts
    cells = drawn_cells(counts).tolist() if len(counts) > NAMED_CLASSES else []
    return {
        "classes": content.names,
        "cells": [[true, pred, int(counts[true, pred])] for true, pred in cells],
        "colors": INFERNO.astype(int).tolist(),
        "targets": TARGETS,
        "target_names": ["predicted class", "true class", "runner-up", "predicted minus true"],
        "grid": list(grids.shape[2:]),
        "maps": grid_bytes(grids) if len(rows) else "",
        "sprite": {
            "uri": sheet.uri if sheet else "",
            "columns": sheet.columns if sheet else 1,
            "width": sheet.width if sheet else 1,
            "height": sheet.height if sheet else 1,
        },
        "pictures": {
            "index": part.index[rows].tolist(),
            "file": [_file(part.names[row]) for row in rows.tolist()] if part.names else None,
            "true": predictions.labels[rows].tolist(),
            "predicted": predictions.preds[rows].tolist(),
            "suggested": suggested[rows].tolist(),
            "top": top.tolist(),
            "probs": [_rounded(some) for some in predictions.probs[rows].gather(1, top).tolist()],
            "p_true": _rounded(pick(predictions.probs, predictions.labels)[rows].tolist()),
            "loss": _rounded(predictions.losses[rows].tolist()),
            "quality": _rounded(content.quality[rows].tolist()),
        },
    }


def _rounded(values: list[float]) -> list[float | None]:
    return [finite(round(value, 4)) for value in values]


def _stills(content: Content, maps: Cams, targets: tuple[int, int], others: Tensor) -> list[dict[str, Any]]:
    """Return what the first cards show: two maps, the true class and the one of `others` (N,)."""
    rows, predictions = maps.rows[:STILLS], content.predictions
    images = content.part.images[rows]
    heat = evidence(maps.grids[:, :STILLS], images.shape[-2:]).numpy()
    return [
        {
            "picture": still(image, *(heat[target, place] for target in targets)),
            "true": content.names[int(predictions.labels[row])],
            "other": content.names[int(others[row])],
            "confidence": predictions.confidence[row].item(),
            "p_true": predictions.probs[row, predictions.labels[row]].item(),
            "place": _place(content, row),
        }
        for place, (row, image) in enumerate(zip(rows.tolist(), images, strict=True))
    ]


def _place(content: Content, row: int) -> str:
    index, names = content.part.index[row], content.part.names
    return f"index {index} · {_file(names[row])}" if names else f"index {index}"


def _file(name: str) -> str:
    return shown(name) if len(name) <= FILE else "\u2026" + shown(name[1 - FILE :])
