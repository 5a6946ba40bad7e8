"""report.html: everything a run explains about itself, in one file that needs nothing else."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cifar_core.analysis import svg
from cifar_core.analysis.calibration import reliabilities
from cifar_core.analysis.cams import TARGETS, Cams, evidence
from cifar_core.analysis.embed import grid_bytes, row, sprite, still, to_picture
from cifar_core.analysis.findings import findings
from cifar_core.analysis.heat import INFERNO
from cifar_core.analysis.label_quality import LabelIssues
from cifar_core.analysis.markup import flatten, percent, script_json, shown, table, text
from cifar_core.analysis.metrics import confusion_matrix, finite
from cifar_core.analysis.predictions import Predictions, pick
from cifar_core.analysis.sheets import METHODS
from cifar_core.data import Split

GRID_BYTES = 300_000  # of all embedded maps
STILLS = 16  # cards that show without JavaScript
TOP = 3  # classes whose probabilities a card shows
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Content:
    """What a report shows; `errors` and `hits` are in the order of the galleries."""

    found: Predictions
    part: Split
    classes: Sequence[str]
    summary: Mapping[str, Any]  # as in metrics.json
    quality: Tensor  # float64 (N,)
    issues: LabelIssues
    errors: Cams
    hits: Cams
    originals: Tensor  # uint8 (M, 3, H, W), training pictures
    draws: Tensor  # uint8 (M, D, 3, H', W'), augmented
    draw_labels: Tensor  # int64 (M,)
    history: Sequence[Mapping[str, float]]
    facts: Mapping[str, Any]


def write_report(path: Path, content: Content) -> None:
    """Write the report; a file under 2 MB whatever the number of errors."""
    script = (HERE / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    fields = {
        "script": script,
        "script_hash": f"sha256-{digest}",
        "style": (HERE / "report.css").read_text(encoding="utf-8"),
        **_headline(content),
        **_confusions(content),
        **_galleries(content),
        **_classes(content),
        **_training(content),
        **_run(content),
    }
    template = Template((HERE / "report.html").read_text(encoding="utf-8"))
    path.write_text(template.substitute(fields), encoding="utf-8")


def _headline(content: Content) -> dict[str, str]:
    summary, facts = content.summary, content.facts
    name = facts.get("name") or "Run"
    which = {"test": "test pictures", "val": "validation pictures"}[summary["split"]]
    lead = (
        f"{percent(summary['acc'], 2)} of {summary['pictures']:,} {which} right; "
        f"{summary['errors']:,} errors."
    )
    tiles = "".join(
        f'<div><dt>{label}</dt><dd class="value">{value}</dd><dd class="note">{note}</dd></div>'
        for label, value, note in _tiles(summary)
    )
    lines = "".join(f"<li>{text(line)}</li>" for line in findings(summary, content.history, facts))
    return {"title": text(name), "lead": text(lead), "tiles": tiles, "findings": lines}


def _tiles(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    scaled = summary["temperature_scaling"]
    issues = summary["label_issues"]
    after = scaled["temperature"] is not None
    # All right or all wrong leaves a bootstrap interval without width.
    degenerate = summary["acc"] in (0, 1)
    interval = summary["acc_interval_wilson" if degenerate else "acc_interval"]
    nll = summary["nll_interval"]
    return [
        ("Accuracy", percent(summary["acc"], 2), _range(interval) + (" (Wilson)" if degenerate else "")),
        ("Top-5 accuracy", percent(summary["top5_acc"], 2), _range(summary["top5_acc_interval"])),
        ("Macro F1", percent(summary["macro_f1"], 2), "mean over the classes"),
        (
            "Loss (NLL)",
            _number(summary["nll"]),
            f"95 %: {nll[0]:.3f} to {nll[1]:.3f}" if nll else "not finite",
        ),
        (
            "Calibration error",
            percent(summary["ece"], 2),
            f"{percent(scaled['ece'], 2)} after scaling" if after else "not scaled",
        ),
        (
            "Brier score",
            _number(summary["brier"]),
            f"{_number(scaled['brier'])} after scaling" if after else "0 is perfect, 2 the worst",
        ),
        ("Errors", f"{summary['errors']:,}", f"of {summary['pictures']:,} pictures"),
        ("Suspicious labels", f"{issues['candidates']:,}", "by confident learning"),
    ]


def _range(interval: Sequence[float]) -> str:
    return f"95 %: {100 * interval[0]:.2f} to {100 * interval[1]:.2f} %"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


def _counts(content: Content) -> np.ndarray:
    return confusion_matrix(content.found.labels, content.found.preds, len(content.classes)).numpy()


def _confusions(content: Content) -> dict[str, str]:
    rows = [
        (
            f"{pair['a']} / {pair['b']}",
            f"{pair['a_as_b']:,}",
            f"{pair['b_as_a']:,}",
            percent(pair["errors"] / content.summary["errors"]),
        )
        for pair in content.summary["confused_pairs"]
    ]
    pairs = table(("pair a / b", "a taken for b", "b for a", "of all errors"), rows, numbers=True)
    return {
        "confusion": svg.confusion_chart(
            "Confusion matrix", _counts(content), [shown(name) for name in content.classes]
        ),
        "pairs": pairs if rows else "<p>There are no errors.</p>",
    }


def _galleries(content: Content) -> dict[str, str]:
    cells = content.errors.grids.shape[2:].numel()
    shown_rows = content.errors.rows[: max(1, GRID_BYTES // (len(TARGETS) * cells))]
    grids = content.errors.grids[:, : len(shown_rows)]
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
        "data": script_json(_data(content, shown_rows, grids)),
    }


def _of(some: int, total: int, what: str) -> str:
    return f"All {total:,} {what}" if some == total else f"{some:,} of {total:,} {what}"


def _data(content: Content, rows: Tensor, grids: Tensor) -> dict[str, Any]:
    found, part = content.found, content.part
    suggested = torch.full((len(found.labels),), -1)
    suggested[content.issues.rows] = content.issues.suggested
    top = found.ranking[rows, :TOP]
    sheet = sprite(part.images[rows]) if len(rows) else None
    counts = _counts(content)
    cells = np.argwhere(counts).tolist() if len(counts) > svg.NAMED_CLASSES else []
    return {
        "classes": [shown(name) for name in content.classes],
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
            "file": [shown(part.names[row]) for row in rows.tolist()] if part.names else None,
            "true": found.labels[rows].tolist(),
            "predicted": found.preds[rows].tolist(),
            "suggested": suggested[rows].tolist(),
            "top": top.tolist(),
            "probs": [_rounded(some) for some in found.probs[rows].gather(1, top)],
            "p_true": _rounded(pick(found.probs, found.labels)[rows]),
            "loss": _rounded(found.losses[rows]),
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
        rival = content.classes[int(content.found.runners_up[number])]
        alt = f"{shown(true)}, recognised: picture, map of its class, map of its lead over {shown(rival)}"
        picture = still(images[place], maps[0, place], maps[3, place])
        title = f'<span class="is-true">{text(true)}</span>, not {text(rival)}'
        items.append(_card(content, number, picture, alt, title))
    return "".join(items)


def _card(content: Content, number: int, picture: str, alt: str, title: str) -> str:
    confidence = finite(content.found.confidence[number].item())
    p_true = finite(content.found.probs[number, content.found.labels[number]].item())
    file = f" · {content.part.names[number]}" if content.part.names else ""
    sure = "" if content.found.hits[number] else f" · p(true) {percent(p_true)}"
    detail = f"confidence {percent(confidence)}{sure} · index {content.part.index[number]}{file}"
    return (
        f'<li><img src="{picture}" alt="{text(alt)}"><p class="card-title">{title}</p>'
        f'<p class="detail">{text(detail)}</p></li>'
    )


def _names(content: Content, number: int) -> tuple[str, str]:
    labels, preds = content.found.labels, content.found.preds
    return content.classes[int(labels[number])], content.classes[int(preds[number])]


def _classes(content: Content) -> dict[str, str]:
    summary, found = content.summary, content.found
    scaled = summary["temperature_scaling"]
    temperature = scaled["temperature"]
    before, after = reliabilities(found, temperature)
    note = (
        "Bars: accuracy of the pictures in a bin of confidence; they should end on the dashed diagonal. "
        "Grey at their feet: how many pictures. "
    )
    if temperature is None:
        note += f"Temperature {scaled['reason']}."
    else:
        note += (
            f"Orange line: after dividing the logits by {temperature:.3f}, fitted on {scaled['fitted_on']}."
        )
    if scaled.get("at_limit"):
        note += " The fit ran into the end of its range."
    rows = [
        (
            f"at least {percent(at['confidence'], 0)}",
            percent(at["acc"], 2),
            f"{at['pictures']:,}",
            percent(at["share"]),
        )
        for at in summary["at_confidence"]
    ]
    names = [shown(name) for name in content.classes]
    return {
        "classes": svg.class_bars("Recall and precision of each class", summary["per_class"], names),
        "reliability": svg.reliability_chart("Reliability diagram", before, after),
        "reliability_note": text(note),
        "at_confidence": table(("confidence", "accuracy", "pictures", "share"), rows, numbers=True),
    }


def _training(content: Content) -> dict[str, str]:
    charts = (
        ("Loss", ("train/loss", "val/loss", "test/loss")),
        ("Accuracy", ("train/acc", "val/acc", "test/acc")),
        ("Learning rate", ("lr",)),
    )
    curves = "".join(
        f"<figure><figcaption>{title}</figcaption>{_curve(title, keys, content.history)}</figure>"
        for title, keys in charts
    )
    strips = []
    for original, drawn, label in zip(
        content.originals, content.draws, content.draw_labels.tolist(), strict=True
    ):
        pictures = [to_picture(image).resize((48, 48)) for image in (original, *drawn)]
        name = text(content.classes[label])
        alt = f"{name}: the original and {len(drawn)} augmented draws"
        strips.append(f'<li><span>{name}</span><img src="{row(pictures, gap=2)}" alt="{alt}"></li>')
    return {"curves": curves, "augmentations": "".join(strips)}


def _curve(title: str, keys: Sequence[str], history: Sequence[Mapping[str, float]]) -> str:
    series = {
        key.split("/")[0]: [(row["epoch"], row[key]) for row in history if key in row]
        for key in keys
        if any(key in row for row in history)
    }
    accs = {row["epoch"]: row["val/acc"] for row in history if "val/acc" in row}
    return svg.line_chart(title, series, mark=max(accs, key=lambda epoch: accs[epoch]) if accs else None)


def _run(content: Content) -> dict[str, str]:
    facts, summary = content.facts, content.summary
    differences = [(key, *map(_value, pair)) for key, pair in facts.get("differences", {}).items()]
    seconds = [(f"{name}, seconds", f"{value:.2f}") for name, value in _seconds(facts, summary)]
    scores = [
        (key, _value(value)) for key, value in flatten(summary) if key not in ("per_class", "confused_pairs")
    ]
    return {
        "command": text(facts.get("command") or "not recorded"),
        "differences": table(("key", "default", "this run"), differences)
        if differences
        else "<p>Nothing.</p>"
        if "differences" in facts
        else "<p>Not recorded.</p>",
        "cost": table(("part", "time"), seconds, numbers=True),
        "scores": table(("score", "value"), scores),
        "environment": _listed(facts.get("environment")),
        "config": _listed(facts.get("config")),
    }


def _seconds(facts: Mapping[str, Any], summary: Mapping[str, Any]) -> list[tuple[str, float]]:
    run = [(name, value) for name, value in facts.get("seconds", {}).items() if name != "analysis"]
    return run + [(f"analysis: {name}", value) for name, value in summary["seconds"].items()]


def _listed(values: Mapping[str, Any] | None) -> str:
    if not values:
        return "<p>Not recorded.</p>"
    return table(("key", "value"), [(key, _value(value)) for key, value in flatten(values)])


def _value(value: Any) -> str:
    """Write a value as JSON does, so that null, "" and lists are told apart; bare words stay bare."""
    return value if isinstance(value, str) and value else json.dumps(value, default=str, ensure_ascii=False)
