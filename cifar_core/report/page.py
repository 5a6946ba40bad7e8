"""report.html: everything a run explains about itself, in one file that needs nothing else."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from cifar_core.explain.calibration import reliabilities
from cifar_core.explain.metrics import quoted
from cifar_core.history import Row
from cifar_core.report import confusion
from cifar_core.report.charts import line_chart
from cifar_core.report.content import LONGEST, Content
from cifar_core.report.embed import row, to_picture
from cifar_core.report.findings import findings
from cifar_core.report.gallery import galleries
from cifar_core.report.markup import TEMPLATES, commas, cut, flatten, percent, render, shown

VALUE, ROWS = 1_000, 500  # letters of a value that are shown, and rows of a table of them
LISTS = ("per_class", "confused_pairs", "never_predicted")  # of the scores, that are shown otherwise


def write_report(out_dir: Path, content: Content) -> None:
    """Write report.html, a file under 3 MB whatever the numbers of classes, pictures, errors and epochs."""
    facts, summary = content.facts, content.summary
    page = render(
        TEMPLATES / "report.html",
        scripts=["report.js", "charts.js"],
        title=facts.get("name") or "Run",
        summary=summary,
        scaled=summary["temperature_scaling"],
        quoted=quoted,
        facts=facts,
        findings=findings(summary, content.history, facts),
        **galleries(content),
        **_classes(content),
        **_training(content),
        **_run(facts, summary),
    )
    (out_dir / "report.html").write_text(page, encoding="utf-8")


def _classes(content: Content) -> dict[str, Any]:
    summary, names = content.summary, content.names
    before, after = reliabilities(content.predictions, summary["temperature_scaling"]["temperature"])
    return {
        "confusion": confusion.confusion_chart("Confusion matrix", content.counts, names),
        "cells": int(np.count_nonzero(content.counts)),
        "most_cells": confusion.CELLS,
        "pairs": [
            (
                f"{cut(shown(pair['a']), LONGEST)} / {cut(shown(pair['b']), LONGEST)}",
                commas(pair["a_as_b"]),
                commas(pair["b_as_a"]),
                percent(pair["errors"] / summary["errors"]),
            )
            for pair in summary["confused_pairs"]
        ],
        "bars": confusion.class_bars("Recall and precision of each class", summary["per_class"], names),
        "most_bars": confusion.BARRED_CLASSES,
        "reliability": confusion.reliability_chart("Reliability diagram", before, after),
        "at_confidence": [
            (
                f"at least {percent(at['confidence'], 0)}",
                percent(at["acc"], 2),
                commas(at["pictures"]),
                percent(at["share"]),
            )
            for at in summary["at_confidence"]
        ],
    }


def _training(content: Content) -> dict[str, Any]:
    curves = (
        ("Loss", ("train/loss", "val/loss", "test/loss")),
        ("Accuracy", ("train/acc", "val/acc", "test/acc")),
        ("Learning rate", ("lr",)),
    )
    augmented, strips = content.augmented, []
    for image, draws, label in zip(augmented.images, augmented.draws, augmented.labels.tolist(), strict=True):
        pictures = [to_picture(one).resize((48, 48)) for one in (image, *draws)]
        strips.append((content.names[label], len(draws), row(pictures, gap=2)))
    return {
        "curves": [_curve(title, keys, content.history) for title, keys in curves],
        "augmentations": strips,
    }


def _curve(title: str, keys: Sequence[str], history: Sequence[Row]) -> Markup:
    series = {
        key.split("/")[0]: [(row["epoch"], row[key]) for row in history if key in row]
        for key in keys
        if any(key in row for row in history)
    }
    accs = {row["epoch"]: row["val/acc"] for row in history if "val/acc" in row}
    best = max(accs, key=lambda epoch: accs[epoch]) if accs else None
    return line_chart(title, series, mark=best)


def _run(facts: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    seconds = {name: value for name, value in facts.get("seconds", {}).items() if name != "analysis"}
    seconds |= {f"analysis: {name}": value for name, value in summary["seconds"].items()}
    scores = {key: value for key, value in summary.items() if key not in LISTS}
    return {
        "differences": [(key, *map(_value, pair)) for key, pair in facts.get("differences", {}).items()],
        "seconds": [(f"{name}, seconds", f"{value:.2f}") for name, value in seconds.items()],
        "scores": _listed(scores),
        "environment": _listed(facts.get("environment") or {}),
        "config": _listed(facts.get("config") or {}),
    }


def _listed(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(cut(key, VALUE), _value(value)) for key, value in flatten(values)[:ROWS]]


def _value(value: Any) -> str:
    """Write a value as JSON does, so that null, "" and lists are told apart; bare words stay bare."""
    bare = isinstance(value, str) and value
    return cut(value if bare else json.dumps(value, default=str, ensure_ascii=False), VALUE)
