"""Which point of a sweep is best, by validation alone."""

import json
import math
from collections.abc import Iterable

from experiments.sweep.space import SEED, Point
from experiments.sweep.trials import Trial


def by_point(trials: Iterable[Trial]) -> list[list[Trial]]:
    """Return the trials grouped by their point without the seed, in the order of their first numbers."""
    groups: dict[str, list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        groups.setdefault(json.dumps(bare(trial.point), sort_keys=True), []).append(trial)
    return list(groups.values())


def bare(point: Point) -> Point:
    """Return a point without its seed."""
    return {key: text for key, text in point.items() if key != SEED}


def winner(trials: Iterable[Trial]) -> list[Trial]:
    """Return the finished trials, one a seed, of the point with the best mean validation accuracy.

    A point counts if all its seeds are finished; the first of equals wins. Empty where there is none, or
    where the runs had no validation split.
    """
    best: list[Trial] = []
    best_mean = -math.inf
    for group in by_point(trials):
        results = [trial.result for trial in group]
        if len(group) < group[0].seeds or any(
            r.get("status") != "finished" or "val/acc_best" not in r["metrics"] for r in results
        ):
            continue
        mean = math.fsum(r["metrics"]["val/acc_best"] for r in results) / len(results)
        if mean > best_mean:
            best, best_mean = group, mean
    return best
