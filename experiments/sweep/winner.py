"""Which point of a sweep is best, by validation alone."""

from collections.abc import Iterable

from experiments.comparison.groups import compare
from experiments.sweep.runs import runs_of
from experiments.sweep.trials import Trial


def winner(trials: Iterable[Trial]) -> list[Trial]:
    """Return the trials, one a seed, of the point with the best mean validation accuracy.

    A point counts if all its seeds are finished; the first of equals wins. Empty where there is none, where
    the runs had no validation split, and where their accuracies cannot be compared.
    """
    by_folder = {trial.folder: trial for trial in trials}
    best = compare(runs_of(by_folder.values())).best
    return [by_folder[run.folder] for run in best.runs] if best else []
