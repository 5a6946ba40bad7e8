"""Which point of a sweep is best, by validation alone."""

import json
from collections.abc import Iterable

from experiments.comparison.groups import ranked
from experiments.sweep.space import bare
from experiments.sweep.trials import METRIC, Trial

BEST = f"{METRIC}_best"  # of a run's epochs


def by_point(trials: Iterable[Trial]) -> list[list[Trial]]:
    """Return the trials grouped by their point without the seed, in the order of their first numbers."""
    groups: dict[str, list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        groups.setdefault(json.dumps(bare(trial.point), sort_keys=True), []).append(trial)
    return list(groups.values())


def winner(trials: Iterable[Trial]) -> list[Trial]:
    """Return the finished trials, one a seed, of the point with the best mean validation accuracy.

    A point counts if all its seeds are finished; the first of equals wins. Empty where there is none, or
    where the runs had no validation split.
    """
    whole: list[tuple[list[Trial], list[float]]] = []
    for group in by_point(trials):
        looks = [trial.look() for trial in group]
        accs = [look.metrics[BEST] for look in looks if look.status == "finished" and BEST in look.metrics]
        if len(accs) < max(len(group), group[0].seeds):
            continue
        whole.append((group, accs))
    best = ranked(whole, lambda pair: pair[1])
    return best[0][0] if best else []
