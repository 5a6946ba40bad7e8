"""What does a sweep look like? The figures of its report, by matplotlib."""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.comparison.groups import Configuration
from experiments.sweep.space import bare
from experiments.sweep.trials import METRIC, Trial

CURVES = 60  # drawn at most: the best half and the worst half of them
COLOURS = matplotlib.colormaps["viridis"]


def curves(trials: Sequence[Trial], best: Configuration | None) -> Figure | None:
    """Draw validation accuracy by epoch: the best point bold, pruned trials ending in a cross."""
    looks = [look for t in trials if (look := t.look()).history and METRIC in look.history[0]]
    if not looks:
        return None
    if len(looks) > CURVES:
        looks.sort(key=lambda look: -max(row[METRIC] for row in look.history))
        looks = looks[: CURVES // 2] + looks[-CURVES // 2 :]
    figure, axes = _figure(1)
    folders = {run.folder for run in best.runs} if best else set()
    for look in looks:
        epochs, accs = [row["epoch"] for row in look.history], [row[METRIC] for row in look.history]
        bold = look.folder in folders
        axes[0].plot(
            epochs, accs, color="C3" if bold else "0.6", lw=2 if bold else 0.8, zorder=3 if bold else 1
        )
        if look.status == "pruned":
            axes[0].plot(epochs[-1], accs[-1], "x", color="0.3", ms=5)
    axes[0].set(xlabel="epoch", ylabel=METRIC, title="red: the best point; cross: pruned")
    return figure


def slices(trials: Sequence[Trial]) -> Figure | None:
    """Draw the best validation accuracy over each swept key by itself."""
    finished, values = _valued(trials)
    keys = _keys(finished)
    if len(finished) < 2 or not keys:
        return None
    figure, axes = _figure(len(keys))
    for axis, key in zip(axes, keys, strict=True):
        xs, ticks, log = _positions(finished, key)
        axis.plot(xs, values, "o", ms=4, alpha=0.6)
        axis.set(xlabel=key, ylabel=f"{METRIC} (best)", xscale="log" if log else "linear")
        if ticks:
            axis.set_xticks(range(len(ticks)), ticks, rotation=30, ha="right")
    return figure


def parallel(trials: Sequence[Trial]) -> Figure | None:
    """Draw each trial as a line over all swept keys, coloured by its best validation accuracy."""
    finished, values = _valued(trials)
    keys = _keys(finished)
    if len(finished) < 2 or len(keys) < 2:
        return None
    figure, axes = _figure(1, width=1.6 * len(keys) + 4)
    columns = [_unit(*_positions(finished, key)) for key in keys]
    low, high = min(values), max(values)
    for row in np.argsort(values):
        shade = (values[row] - low) / (high - low) if high > low else 1.0
        axes[0].plot(range(len(keys)), [column[row] for column in columns], color=COLOURS(shade), lw=1)
    axes[0].set_xticks(range(len(keys)), keys)
    axes[0].set(yticks=[], title=f"{METRIC} from {low:.2%} (dark) to {high:.2%} (bright)")
    for number, key in enumerate(keys):
        _, ticks, _ = _positions(finished, key)
        ends = ticks or [
            f"{v:.3g}" for v in sorted(numbers(finished, key) or [])[:: max(1, len(finished) - 1)]
        ]
        for place, tick in enumerate(ends):
            axes[0].annotate(tick, (number, place / max(1, len(ends) - 1)), fontsize=7, color="0.3")
    return figure


def importances(shares: dict[str, float]) -> Figure:
    """Draw how much of the variance each parameter explains."""
    figure, axes = _figure(1)
    names = list(shares)[::-1]
    axes[0].barh(names, [shares[name] for name in names], color="0.5")
    axes[0].set(xlabel="share of the variance of val/acc (fANOVA)")
    return figure


def _figure(count: int, *, width: float | None = None) -> tuple[Figure, list[Axes]]:
    columns = min(count, 3)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(width or 4.2 * columns + 2 * (columns == 1), 3.4 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, list(axes[:count])


def _valued(trials: Sequence[Trial]) -> tuple[list[Trial], list[float]]:
    """Return the finished trials and their values."""
    looks = [(trial, trial.look()) for trial in trials]
    finished = [(t, look.value) for t, look in looks if look.status == "finished" and look.value is not None]
    return [trial for trial, _ in finished], [value for _, value in finished]


def _keys(trials: Sequence[Trial]) -> list[str]:
    """Return the keys that differ among the trials."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.point))
    return [key for key in keys if len({trial.point.get(key) for trial in trials}) > 1]


def _positions(trials: Sequence[Trial], key: str) -> tuple[list[float], list[str], bool]:
    """Return each trial's place on an axis, the labels of choices, and whether the axis is logarithmic."""
    values = numbers(trials, key)
    if values is None:
        ticks = list(dict.fromkeys(trial.point.get(key, "") for trial in trials))
        return [float(ticks.index(trial.point.get(key, ""))) for trial in trials], ticks, False
    return values, [], min(values) > 0 and max(values) / min(values) >= 20


def _unit(positions: Sequence[float], ticks: Sequence[str], log: bool) -> list[float]:
    """Return positions on [0, 1]."""
    places = [math.log(p) for p in positions] if log else list(positions)
    low, high = min(places), max(places)
    return [(p - low) / (high - low) if high > low else 0.5 for p in places]


def numbers(trials: Sequence[Trial], key: str) -> list[float] | None:
    """Return what each trial has for a key as numbers; None where one is not a number."""
    try:
        return [float(bare(trial.point)[key]) for trial in trials]
    except (ValueError, KeyError):
        return None
