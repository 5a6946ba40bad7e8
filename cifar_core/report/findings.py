"""What stands out in a run, as sentences made from its own numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cifar_core.explain.metrics import NAME, listed, quoted
from cifar_core.history import Row
from cifar_core.report.markup import cut, percent

FEW_PICTURES = 100  # one standard error of an accuracy of 90 % is then 3 points
RISEN = 1.2  # a loss this many times its least one has risen
GAP = 0.1  # between the accuracies of training and validation that is worth a word
UNEVEN = 0.02  # the same between accuracy and balanced accuracy
REPEATED = 0.8  # predictions that differ below this share are more than the rounding of another number format
Summary = Mapping[str, Any]  # what metrics.json holds


def findings(summary: Summary, history: Sequence[Row], facts: Mapping[str, Any]) -> list[str]:
    """Return plain sentences, what stands out most first: what makes all other figures mean little."""
    chance = summary["majority"]["acc"]
    alarms = [
        _not_finite(summary),
        _diverged(history, len(summary["per_class"])),
        _fallen(history, chance, summary["pictures"]),
        _one_answer(summary),
        _never_predicted(summary),
        _no_better(summary),
        _validity(facts),
        _repeated(summary),
        _overfits(history),
        _few(summary),
    ]
    details = [
        _expected(summary, facts),
        _uneven(summary),
        _classes(summary),
        _pairs(summary),
        _calibration(summary),
        _confident(summary),
        _labels(summary),
        _course(history),
    ]
    if _one_answer(summary):  # its classes, confusions and confidences say nothing more
        details = [_expected(summary, facts), _course(history)]
    return [sentence for sentence in alarms + details if sentence]


def _not_finite(summary: Summary) -> str:
    if not summary["non_finite"]:
        return ""
    return (
        f"The outputs for {summary['non_finite']:,} of {summary['pictures']:,} pictures are not finite: "
        "the training diverged, and the figures mean little."
    )


def _diverged(history: Sequence[Row], num_classes: int) -> str:
    """Tell of a loss that ended not finite, or that rose above that of guessing, ln K."""
    for key in ("train/loss", "val/loss", "test/loss"):
        losses = [(row["epoch"], row[key]) for row in history if key in row]
        lost = [epoch for epoch, loss in losses if not math.isfinite(loss)]
        if lost and lost[-1] == losses[-1][0]:
            ends = f"ended at {losses[-1][1]}, not finite since epoch {_since(lost, losses):.0f}"
            return f"The training diverged: {key} {ends} of {len(history)}."
    losses = [(row["epoch"], row["train/loss"]) for row in history if "train/loss" in row]
    if len(losses) < 2 or num_classes < 2:
        return ""
    (epoch, least), (last, loss) = min(losses, key=lambda pair: pair[1]), losses[-1]
    guessing = math.log(num_classes)
    if loss <= max(guessing, RISEN * least):
        return ""
    return (
        f"The training diverged: train/loss rose from {least:.3g} in epoch {epoch:.0f} to {loss:.3g} in "
        f"epoch {last:.0f}, the last; guessing has ln {num_classes} = {guessing:.3g}."
    )


def _since(lost: Sequence[float], losses: Sequence[tuple[float, float]]) -> float:
    """Return the first of the last epochs in a row whose loss is not finite."""
    finite = [epoch for epoch, _ in losses if epoch not in set(lost)]
    return next(epoch for epoch in lost if not finite or epoch > finite[-1])


def _fallen(history: Sequence[Row], chance: float, pictures: int) -> str:
    """Tell of a validation accuracy that was far above chance and ended there."""
    key, accs = _judged(history)
    if len(accs) < 2:
        return ""
    noise = math.sqrt(chance * (1 - chance) / pictures)
    best, last = max(accs), accs[-1]
    if last > chance + 2 * noise or best < chance + max(6 * noise, 0.1 * (1 - chance)):
        return ""
    return (
        f"The training broke down: {key} was {percent(best)} in epoch {accs.index(best) + 1} and "
        f"{percent(last)} in the last, no better than chance."
    )


def _judged(history: Sequence[Row]) -> tuple[str, list[float]]:
    """Return the metric by which epochs are judged and its values, [] unless each epoch has one."""
    for key in ("val/acc", "test/acc"):
        accs = [row[key] for row in history if key in row]
        if accs and len(accs) == len(history):
            return key, accs
    return "", []


def _present(summary: Summary) -> int:
    return sum(row["support"] > 0 for row in summary["per_class"])


def _one_answer(summary: Summary) -> str:
    answers = [row["name"] for row in summary["per_class"] if row["precision"] is not None]
    if len(answers) != 1 or _present(summary) < 2:
        return ""
    return (
        f"All {summary['pictures']:,} pictures are called {quoted(answers[0])}: "
        f"the network tells none of the {_present(summary):,} classes apart."
    )


def _never_predicted(summary: Summary) -> str:
    absent = set(summary["never_predicted"])
    if not absent:
        return ""
    rows = [(row["name"], row["support"]) for row in summary["per_class"] if row["name"] in absent]
    majority, balanced = summary["majority"], percent(summary["balanced_acc"], 2)
    return (
        f"Never predicted: {listed(rows)}. Always answering {quoted(majority['name'])} gives "
        f"{percent(majority['acc'], 2)}, this run {percent(summary['acc'], 2)}; balanced accuracy, "
        f"the mean over the classes, is {balanced}."
    )


def _no_better(summary: Summary) -> str:
    majority, low = summary["majority"], summary["acc_interval"][0]
    if low > majority["acc"] or _present(summary) < 2:
        return ""
    surely = "no better" if summary["acc"] <= majority["acc"] else "not surely better"
    return (
        f"The accuracy of {percent(summary['acc'], 2)} is {surely} than that of always answering "
        f"{quoted(majority['name'])} ({percent(majority['acc'], 2)})."
    )


def _few(summary: Summary) -> str:
    if summary["pictures"] >= FEW_PICTURES:
        return ""
    low, high = summary["acc_interval"]
    count = f"{summary['pictures']} picture" + ("s" if summary["pictures"] != 1 else "")
    return (
        f"The figures stand on {count}: the accuracy may be anything from {percent(low)} to {percent(high)}."
    )


def _overfits(history: Sequence[Row]) -> str:
    """Tell of a validation loss that rose while the training pictures were learned by heart."""
    split = "val" if all("val/loss" in row for row in history) else "test"
    keys = (f"{split}/loss", f"{split}/acc", "train/acc")
    if len(history) < 3 or not all(key in row for row in history for key in keys):
        return ""
    least, last = min(history, key=lambda row: row[keys[0]]), history[-1]
    gap = last["train/acc"] - last[keys[1]]
    if not last[keys[0]] >= RISEN * least[keys[0]] or gap < GAP:
        return ""
    return (
        f"The network overfits: {keys[0]} rose from {least[keys[0]]:.3g} in epoch {least['epoch']:.0f} to "
        f"{last[keys[0]]:.3g}, and {percent(last['train/acc'])} of the training pictures are right against "
        f"{percent(last[keys[1]])}: stronger augmentation or weight decay, or fewer epochs, may help."
    )


def _uneven(summary: Summary) -> str:
    if abs(summary["acc"] - summary["balanced_acc"]) < UNEVEN or summary["never_predicted"]:
        return ""
    return (
        f"The classes are of unequal size: balanced accuracy, the mean over them, is "
        f"{percent(summary['balanced_acc'], 2)} against {percent(summary['acc'], 2)} of all pictures; always "
        f"answering {quoted(summary['majority']['name'])} gives {percent(summary['majority']['acc'], 2)}."
    )


def _validity(facts: Mapping[str, Any]) -> str:
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
    if worst["recall"] == best["recall"]:
        return ""
    return (
        f"The hardest class is {cut(worst['name'], NAME)}: {percent(worst['recall'])} of its pictures are "
        f"found; the easiest is {cut(best['name'], NAME)} with {percent(best['recall'])}."
    )


def _pairs(summary: Summary) -> str:
    if not summary["confused_pairs"]:
        return ""
    pair = summary["confused_pairs"][0]
    a, b = cut(pair["a"], NAME), cut(pair["b"], NAME)
    return (
        f"Most confused are {a} and {b}: {pair['a_as_b']:,} {a} pictures were taken "
        f"for {b}, {pair['b_as_a']:,} the other way round; together "
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
    if not issues["credible"]:
        return ""
    return (
        f"{issues['credible']:,} labels are suspicious by confident learning. The model's own mistakes are "
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
