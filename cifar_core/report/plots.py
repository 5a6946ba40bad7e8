"""Plots of a run, drawn with matplotlib but without pyplot: no global state, nothing left open."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cifar_core.explain.calibration import BINS, Reliability
from cifar_core.history import Row

NUMBERED = 100  # classes up to which cells have counts and each class has a bar
BLOCKS = 1_000  # squares a side of the confusion matrix
LETTERS = 22  # of a class name that fit beside a plot
DPI = 100

BLUE, VERMILION, GREEN = "#0067a5", "#c44900", "#00785a"


def confusion_plot(counts: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Draw counts (K, K), true class in rows; colours are each row's shares, with small ones lifted.

    The picture has the same size from NUMBERED classes on: cells then have no counts, not every class has its
    name, and beyond BLOCKS classes a block of cells has the largest share among them.
    """
    num_classes = len(names)
    cell = max(0.21, min(0.62, 7 / num_classes))  # inches
    side = max(3.2, cell * min(num_classes, NUMBERED))
    figure = Figure(figsize=(side + 3, side + 2), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    extent = (-0.5, num_classes - 0.5, num_classes - 0.5, -0.5)
    squares = axes.imshow(_pooled(shares), cmap="Blues", norm=PowerNorm(0.5, 0, 1), extent=extent)
    for true, pred in np.argwhere(counts) if num_classes <= NUMBERED else ():
        digits = str(counts[true, pred])
        size = min(10, 72 * cell / max(2, len(digits)))  # a digit is about 0.6 of its height wide
        color = "white" if shares[true, pred] > 0.35 else "black"
        axes.text(pred, true, digits, ha="center", va="center", color=color, fontsize=size)
    every, size = -(-num_classes // NUMBERED), min(10, 45 * cell)
    places, labels = range(0, num_classes, every), _short(names[::every])
    axes.set_xticks(places, labels, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(places, labels, fontsize=size, parse_math=False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(f"Confusion matrix\n{title}", fontsize=11)
    figure.colorbar(squares, ax=axes, shrink=0.7, label="share of the true class (square-root scale)")
    return figure


def class_plot(rows: Sequence[Mapping[str, Any]], names: Sequence[str], acc: float, title: str) -> Figure:
    """Draw each class's recall with its interval, the lowest on top, precision and F1 beside it.

    `rows` are those of `metrics`; the line is the accuracy of all pictures. Of more than NUMBERED classes
    those of the lowest recall are drawn.
    """
    order = sorted(range(len(rows)), key=lambda k: (rows[k]["recall"] is None, rows[k]["recall"] or 0))
    order = order[:NUMBERED]
    figure = Figure(figsize=(9, 1.8 + 0.26 * len(order)), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.barh(range(len(order)), [rows[k]["recall"] or 0 for k in order], color=BLUE, alpha=0.8, height=0.7)
    for place, k in enumerate(order):
        row, right = rows[k], axes.get_yaxis_transform()
        if row["recall_interval"]:
            axes.plot(row["recall_interval"], [place, place], color="black", linewidth=1, marker="|")
        shown = "no pictures" if row["recall"] is None else f"{row['recall']:.1%}"
        axes.text(1.01, place, shown, va="center", fontsize=9, transform=right)
        axes.text(
            1.12,
            place,
            "-" if row["f1"] is None else f"F1 {row['f1']:.1%}",
            va="center",
            fontsize=9,
            color="dimgray",
            transform=right,
        )
    known = [
        (rows[k]["precision"], place) for place, k in enumerate(order) if rows[k]["precision"] is not None
    ]
    axes.plot(*zip(*known, strict=True), color=VERMILION, marker="D", markersize=5, linestyle="")
    axes.axvline(acc, color="dimgray", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(order)), _short([names[k] for k in order]), fontsize=9, parse_math=False)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xlabel("bar: recall with its 95 % interval; diamond: precision; line: accuracy of all pictures")
    which = "Each class" if len(order) == len(rows) else f"The {len(order)} hardest of {len(rows):,} classes"
    axes.set_title(f"{which}\n{title}", fontsize=11)
    _clean(axes)
    return figure


def reliability_plot(before: Reliability, after: Reliability | None, title: str) -> Figure:
    """Draw accuracy over confidence before and after temperature scaling, and the pictures of each bin."""
    figure = Figure(figsize=(6, 6.4), dpi=DPI, layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    steps = (np.arange(BINS) + 0.5) / BINS
    axes.plot([0, 1], [0, 1], color="dimgray", linewidth=1, linestyle="--", label="perfect")
    axes.bar(
        steps, before.acc.nan_to_num(0).numpy(), width=0.9 / BINS, color=BLUE, alpha=0.8, label="accuracy"
    )
    if after is not None:
        axes.plot(after.confidence, after.acc, color=VERMILION, marker="o", label="after temperature scaling")
    below.bar(steps, before.counts.numpy(), width=0.9 / BINS, color="dimgray")
    axes.legend(frameon=False)
    axes.set_ylabel("accuracy")
    axes.set_title(f"Reliability\n{title}", fontsize=11)
    below.set_ylabel("pictures")
    below.set_xlabel("confidence")
    for part in (axes, below):
        _clean(part)
    return figure


def curves_plot(history: Sequence[Row]) -> Figure:
    """Draw loss, accuracy and lr over the epochs; what is missing or not finite leaves a gap."""
    figure = Figure(figsize=(13, 4), dpi=DPI, layout="constrained")
    loss, acc, lr = figure.subplots(1, 3)
    _curves(loss, history, "loss", ("train/loss", "val/loss", "test/loss"))
    _curves(acc, history, "accuracy", ("train/acc", "val/acc", "test/acc"))
    _curves(lr, history, "learning rate", ("lr",))
    return figure


def _curves(axes: Axes, history: Sequence[Row], title: str, keys: Sequence[str]) -> None:
    epochs = [row["epoch"] for row in history]
    for key, color in zip(keys, (BLUE, VERMILION, GREEN), strict=False):
        values = np.array([row.get(key, np.nan) for row in history], dtype=np.float64)
        values[~np.isfinite(values)] = np.nan
        if not np.isnan(values).all():
            axes.plot(epochs, values, color=color, marker=".", markersize=4, label=key.split("/")[0])
    if len(keys) > 1 and axes.lines:
        axes.legend(frameon=False)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_title(title, fontsize=11)
    _clean(axes)


def _pooled(shares: np.ndarray) -> np.ndarray:
    """Return the largest share in each of at most BLOCKS x BLOCKS blocks of (K, K)."""
    block = -(-len(shares) // BLOCKS)
    edges = range(0, len(shares), block)
    return np.maximum.reduceat(np.maximum.reduceat(shares, edges, axis=0), edges, axis=1)


def _short(names: Sequence[str]) -> list[str]:
    return [name if len(name) <= LETTERS else name[: LETTERS - 3].rstrip() + "..." for name in names]


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.set_axisbelow(True)
