"""What stands out in a run, as sentences made from its own numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from cifar_core.history import Row
from cifar_core.report.markup import percent

REPEATED = 0.8  # predictions that differ below this share are more than the rounding of another number format
Summary = Mapping[str, Any]  # what metrics.json holds


def findings(summary: Summary, history: Sequence[Row], facts: Mapping[str, Any]) -> list[str]:
    """Return plain sentences, the most important first."""
    sentences = [
        _validity(summary, facts),
        _repeated(summary),
        _expected(summary, facts),
        _classes(summary),
        _pairs(summary),
        _calibration(summary),
        _confident(summary),
        _labels(summary),
        _course(history),
    ]
    return [sentence for sentence in sentences if sentence]


def _validity(summary: Summary, facts: Mapping[str, Any]) -> str:
    if summary["non_finite"]:
        return (
            f"The outputs for {summary['non_finite']:,} of {summary['pictures']:,} pictures are not finite: "
            "the training diverged, and the figures mean little."
        )
    if facts.get("protocol") == "test_each_epoch":
        return (
            "There was no validation split: the test pictures were evaluated each epoch, so their accuracy "
            "is no fair estimate for new pictures."
        )
    return ""


def _repeated(summary: Summary) -> str:
    share = summary["checks"]["predictions_repeated"]
    if share >= REPEATED:
        return ""
    return (
        f"Only {percent(share)} of the shown predictions came out again when the maps were computed: the "
        "model is not the one that made the predictions, or it sees other pictures."
    )


def _expected(summary: Summary, facts: Mapping[str, Any]) -> str:
    expected = facts.get("expected") or {}
    if "test_acc" not in expected:
        return ""
    source = f" ({expected['source']})" if expected.get("source") else ""
    epochs = f" in {expected['epochs']} epochs" if expected.get("epochs") else ""
    low, high = summary["acc_interval"]
    verdict = "below" if high < expected["test_acc"] else "above" if low > expected["test_acc"] else "around"
    return (
        f"Elsewhere this recipe reached {percent(expected['test_acc'], 2)}{epochs}{source}; "
        f"this run's {percent(summary['acc'], 2)} is {verdict} that."
    )


def _classes(summary: Summary) -> str:
    rows = [row for row in summary["per_class"] if row["recall"] is not None]
    if len(rows) < 2:
        return ""
    worst, best = min(rows, key=lambda row: row["recall"]), max(rows, key=lambda row: row["recall"])
    return (
        f"The hardest class is {worst['name']}: {percent(worst['recall'])} of its pictures are found; "
        f"the easiest is {best['name']} with {percent(best['recall'])}."
    )


def _pairs(summary: Summary) -> str:
    if not summary["confused_pairs"]:
        return ""
    pair = summary["confused_pairs"][0]
    return (
        f"Most confused are {pair['a']} and {pair['b']}: {pair['a_as_b']:,} {pair['a']} pictures were taken "
        f"for {pair['b']}, {pair['b_as_a']:,} the other way round; together "
        f"{percent(pair['errors'] / summary['errors'])} of all errors."
    )


def _calibration(summary: Summary) -> str:
    scaled = summary["temperature_scaling"]
    if summary["ece"] is None:
        return ""
    start = f"Confidences are off by {percent(summary['ece'])} on average"
    if scaled["temperature"] is None or scaled["ece"] is None:
        return f"{start} (expected calibration error)."
    kind = "too high" if scaled["temperature"] > 1 else "too low"
    return (
        f"{start} (expected calibration error). The fitted temperature of {scaled['temperature']:.2f} says "
        f"they are {kind}; dividing the logits by it leaves {percent(scaled['ece'])}."
    )


def _confident(summary: Summary) -> str:
    at = summary["at_confidence"][-1]
    least = percent(at["confidence"], 0)
    if at["acc"] is None:
        return f"No prediction has a confidence of {least} or more."
    return (
        f"Predictions with at least {least} confidence cover {percent(at['share'])} of the pictures; "
        f"{percent(at['acc'], 2)} of them are right."
    )


def _labels(summary: Summary) -> str:
    issues = summary["label_issues"]
    if not issues["candidates"]:
        return ""
    return (
        f"{issues['candidates']:,} labels are suspicious by confident learning. The model's own mistakes are "
        "among them, the more the weaker it is: the first of label_issues.csv are worth a look."
    )


def _course(history: Sequence[Row]) -> str:
    accs = [row["val/acc"] for row in history if "val/acc" in row]
    if len(accs) < 2 or len(accs) < len(history):
        return ""
    best = accs.index(max(accs))
    train = history[best].get("train/acc")
    gap = (
        ""
        if train is None
        else f"; training accuracy there is {percent(train)} against {percent(accs[best])}"
    )
    end = ", the last: longer training may help" if best == len(accs) - 1 else f" of {len(accs)}"
    return f"The best epoch was {best + 1}{end}{gap}."
