"""The galleries of report.html: data for its script, and cards that show without it."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from cifar_core.explain.cams import TARGETS, evidence
from cifar_core.explain.metrics import finite
from cifar_core.explain.predictions import pick
from cifar_core.report.charts import NAMED_CLASSES, drawn_cells
from cifar_core.report.content import Content
from cifar_core.report.embed import grid_bytes, sprite, still
from cifar_core.report.heat import INFERNO
from cifar_core.report.markup import percent, script_json, shown, text
from cifar_core.report.sheets import METHODS

GRID_BYTES = 300_000  # of all embedded maps
GRID = 32  # cells a side of an embedded map at most
DATA_BYTES = 1_500_000  # of all that the script reads
FILE = 120  # letters of a file's name, its last ones
STILLS = 16  # cards that show without JavaScript
TOP = 3  # classes whose probabilities a card shows


def galleries(content: Content) -> dict[str, str]:
    """Return the template's fields of the gallery of errors, the unsure hits and the script's data."""
    cells = min(content.errors.grids.shape[2:].numel(), GRID**2)
    some = max(1, GRID_BYTES // (len(TARGETS) * cells))
    shown_rows, grids = content.errors.rows[:some], _coarse(content.errors.grids[:, :some])
    data = script_json(_data(content, shown_rows, grids))
    while len(data) > DATA_BYTES and len(shown_rows) > STILLS:
        some = len(shown_rows) // 2
        shown_rows, grids = shown_rows[:some], grids[:, :some]
        data = script_json(_data(content, shown_rows, grids))
    total, cam = content.summary["errors"], content.summary["cam"]
    right = content.summary["pictures"] - total
    note = f"{_of(len(shown_rows), total, 'errors')}; misclassified.csv has all. "
    maps = f"{METHODS[cam['method']]} at {cam['layer']}"
    return {
        "errors_note": text(
            note
            + f"Each card: picture, {maps} for the predicted class (orange frame) and for the true class "
            "(blue frame), on one scale; probabilities."
        )
        if total
        else "Every picture is classified correctly.",
        "stills": _error_stills(content),
        "hits_note": text(
            f"{_of(min(STILLS, len(content.hits.rows)), right, 'right predictions')}. "
            f"Picture, {maps} for its class, and where that outweighs the runner-up."
        ),
        "hits": _hit_stills(content),
        "data": data,
    }


def _coarse(grids: Tensor) -> Tensor:
    """Average grids (T, M, h, w) to at most GRID cells a side."""
    height, width = (min(side, GRID) for side in grids.shape[2:])
    return grids if (height, width) == grids.shape[2:] else adaptive_avg_pool2d(grids, (height, width))


def _of(some: int, total: int, what: str) -> str:
    return f"All {total:,} {what}" if some == total else f"{some:,} of {total:,} {what}"


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
            "probs": [_rounded(some) for some in predictions.probs[rows].gather(1, top)],
            "p_true": _rounded(pick(predictions.probs, predictions.labels)[rows]),
            "loss": _rounded(predictions.losses[rows]),
            "quality": _rounded(content.quality[rows]),
        },
    }


def _rounded(values: Tensor) -> list[float | None]:
    return [finite(round(value, 4)) for value in values.tolist()]


def _error_stills(content: Content) -> str:
    rows = content.errors.rows[:STILLS]
    images = content.part.images[rows]
    maps = evidence(content.errors.grids[:2, :STILLS], images.shape[-2:]).numpy()
    items = []
    for place, number in enumerate(rows.tolist()):
        true, pred = _names(content, number)
        alt = f"{true} taken for {pred}: picture, map of {pred}, map of {true}"
        picture = still(images[place], *maps[:, place])
        title = f'<span class="is-true">{text(true)}</span> → <span class="is-pred">{text(pred)}</span>'
        items.append(_card(content, number, picture, alt, title))
    return "".join(items)


def _hit_stills(content: Content) -> str:
    rows = content.hits.rows[:STILLS]
    images = content.part.images[rows]
    maps = evidence(content.hits.grids[:, :STILLS], images.shape[-2:]).numpy()
    items = []
    for place, number in enumerate(rows.tolist()):
        true, _ = _names(content, number)
        rival = content.names[int(content.predictions.runners_up[number])]
        alt = f"{true}, recognised: picture, map of its class, map of its lead over {rival}"
        picture = still(images[place], maps[0, place], maps[3, place])
        title = f'<span class="is-true">{text(true)}</span>, not {text(rival)}'
        items.append(_card(content, number, picture, alt, title))
    return "".join(items)


def _card(content: Content, number: int, picture: str, alt: str, title: str) -> str:
    confidence = finite(content.predictions.confidence[number].item())
    p_true = finite(content.predictions.probs[number, content.predictions.labels[number]].item())
    file = f" · {_file(content.part.names[number])}" if content.part.names else ""
    sure = "" if content.predictions.hits[number] else f" · p(true) {percent(p_true)}"
    detail = f"confidence {percent(confidence)}{sure} · index {content.part.index[number]}{file}"
    return (
        f'<li><img src="{picture}" alt="{text(alt)}"><p class="card-title">{title}</p>'
        f'<p class="detail">{text(detail)}</p></li>'
    )


def _names(content: Content, number: int) -> tuple[str, str]:
    labels, preds = content.predictions.labels, content.predictions.preds
    return content.names[int(labels[number])], content.names[int(preds[number])]


def _file(name: str) -> str:
    return shown(name) if len(name) <= FILE else "\u2026" + shown(name[1 - FILE :])
