"""report.html: everything a run explains about itself, in one file that needs nothing else."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from cifar_core.explain.calibration import reliabilities
from cifar_core.explain.metrics import quoted
from cifar_core.history import Row
from cifar_core.report import charts as charts_module
from cifar_core.report.content import LONGEST, Content
from cifar_core.report.embed import row, to_picture
from cifar_core.report.findings import findings
from cifar_core.report.gallery import galleries
from cifar_core.report.markup import cut, flatten, percent, shown, table, text

VALUE, ROWS = 1_000, 500  # letters of a value that are shown, and rows of a table of them
LISTS = ("per_class", "confused_pairs", "never_predicted")  # of the scores, that are shown otherwise
HERE = Path(__file__).parent


def write_report(out_dir: Path, content: Content) -> None:
    """Write report.html, a file under 3 MB whatever the numbers of classes, pictures, errors and epochs."""
    script = (HERE / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    fields = {
        "script": script,
        "script_hash": f"sha256-{digest}",
        "style": (HERE / "templates/style.css").read_text(encoding="utf-8"),
        **_headline(content),
        **_confusions(content),
        **galleries(content),
        **_classes(content),
        **_training(content),
        **_run(content),
    }
    template = Template((HERE / "report.html").read_text(encoding="utf-8"))
    (out_dir / "report.html").write_text(template.substitute(fields), encoding="utf-8")


def _headline(content: Content) -> dict[str, str]:
    summary, facts = content.summary, content.facts
    name = facts.get("name") or "Run"
    which = {"test": "test pictures", "val": "validation pictures"}[summary["split"]]
    lead = (
        f"{percent(summary['acc'], 2)} of {summary['pictures']:,} {which} right; "
        f"{summary['errors']:,} errors."
    )
    tiles = "".join(
        f'<div><dt>{label}</dt><dd class="value">{value}</dd><dd class="note">{text(note)}</dd></div>'
        for label, value, note in _tiles(summary)
    )
    lines = "".join(f"<li>{text(line)}</li>" for line in findings(summary, content.history, facts))
    return {"title": text(name), "lead": text(lead), "tiles": tiles, "findings": lines}


def _tiles(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    scaled = summary["temperature_scaling"]
    suspicious = summary["label_issues"]["credible"]
    after = scaled["temperature"] is not None
    nll = summary["nll_interval"]
    return [
        ("Accuracy", percent(summary["acc"], 2), _range(summary["acc_interval"])),
        *_balanced_tile(summary),
        *_top5_tile(summary),
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
        *([("Suspicious labels", f"{suspicious:,}", "by confident learning")] if suspicious else []),
    ]


def _balanced_tile(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return balanced accuracy where it is another figure than accuracy: beside what a constant gives."""
    if summary["checks"]["balanced"]:
        return []
    majority = summary["majority"]
    always = f"always {cut(quoted(majority['name']), 20)}: {percent(majority['acc'], 2)}"
    return [("Balanced accuracy", percent(summary["balanced_acc"], 2), f"mean over the classes; {always}")]


def _top5_tile(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return top-5 accuracy where there are more classes than five: else it is always 1."""
    if len(summary["per_class"]) <= 5:
        return []
    return [("Top-5 accuracy", percent(summary["top5_acc"], 2), _range(summary["top5_acc_interval"]))]


def _range(interval: Sequence[float]) -> str:
    return f"95 %: {100 * interval[0]:.2f} to {100 * interval[1]:.2f} %"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"


def _confusions(content: Content) -> dict[str, str]:
    rows = [
        (
            f"{cut(shown(pair['a']), LONGEST)} / {cut(shown(pair['b']), LONGEST)}",
            f"{pair['a_as_b']:,}",
            f"{pair['b_as_a']:,}",
            percent(pair["errors"] / content.summary["errors"]),
        )
        for pair in content.summary["confused_pairs"]
    ]
    pairs = table(("pair a / b", "a taken for b", "b for a", "of all errors"), rows, numbers=True)
    cells = int(np.count_nonzero(content.counts))
    most = charts_module.CELLS
    left_out = (
        f'<p class="hint">The {most:,} fullest of {cells:,} cells are drawn.</p>' if cells > most else ""
    )
    chart = charts_module.confusion_chart("Confusion matrix", content.counts, content.names)
    return {
        "confusion": left_out + chart,
        "pairs": pairs if rows else "<p>There are no errors.</p>",
    }


def _classes(content: Content) -> dict[str, str]:
    summary, predictions = content.summary, content.predictions
    scaled = summary["temperature_scaling"]
    temperature = scaled["temperature"]
    before, after = reliabilities(predictions, temperature)
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
    bars = charts_module.class_bars("Recall and precision of each class", summary["per_class"], content.names)
    barred = charts_module.BARRED_CLASSES
    left_out = (
        f'<p class="hint">The {barred} classes of the lowest recall, of {len(content.classes):,}.</p>'
        if len(content.classes) > barred
        else ""
    )
    return {
        "classes": left_out + bars,
        "reliability": charts_module.reliability_chart("Reliability diagram", before, after),
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
    shown_here = content.augmented
    for original, drawn, label in zip(
        shown_here.images, shown_here.draws, shown_here.labels.tolist(), strict=True
    ):
        pictures = [to_picture(image).resize((48, 48)) for image in (original, *drawn)]
        name = text(content.names[label])
        alt = f"{name}: the original and {len(drawn)} augmented draws"
        strips.append(f'<li><span>{name}</span><img src="{row(pictures, gap=2)}" alt="{alt}"></li>')
    return {"curves": curves, "augmentations": "".join(strips)}


def _curve(title: str, keys: Sequence[str], history: Sequence[Row]) -> str:
    series = {
        key.split("/")[0]: [(row["epoch"], row[key]) for row in history if key in row]
        for key in keys
        if any(key in row for row in history)
    }
    accs = {row["epoch"]: row["val/acc"] for row in history if "val/acc" in row}
    return charts_module.line_chart(
        title, series, mark=max(accs, key=lambda epoch: accs[epoch]) if accs else None
    )


def _run(content: Content) -> dict[str, str]:
    facts, summary = content.facts, content.summary
    differences = [(key, *map(_value, pair)) for key, pair in facts.get("differences", {}).items()]
    seconds = [(f"{name}, seconds", f"{value:.2f}") for name, value in _seconds(facts, summary)]
    scores = [(key, _value(value)) for key, value in flatten(summary) if key not in LISTS]
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
    return table(
        ("key", "value"), [(cut(key, VALUE), _value(value)) for key, value in flatten(values)[:ROWS]]
    )


def _value(value: Any) -> str:
    """Write a value as JSON does, so that null, "" and lists are told apart; bare words stay bare."""
    bare = isinstance(value, str) and value
    return cut(value if bare else json.dumps(value, default=str, ensure_ascii=False), VALUE)
