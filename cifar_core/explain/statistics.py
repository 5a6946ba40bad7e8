"""Statistics for comparing trained classifiers: over seeds, and picture by picture on the same test set."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95  # of every interval


@dataclass(frozen=True)
class Spread:
    """Mean and spread of a figure over seeds; NaN where there are too few values for it."""

    count: int
    mean: float
    std: float  # of a sample: divided by count - 1
    low: float  # of the interval of the mean at LEVEL
    high: float

    def __str__(self) -> str:
        """Show an accuracy as `82.00 ± 2.00 %`."""
        if math.isnan(self.mean):
            return "-"
        return f"{100 * self.mean:.2f}{'' if math.isnan(self.std) else f' ± {100 * self.std:.2f}'} %"

    @property
    def interval(self) -> str:
        """The interval as `77.03 to 86.97 %`."""
        return "-" if math.isnan(self.low) else f"{100 * self.low:.2f} to {100 * self.high:.2f} %"


@dataclass(frozen=True)
class McNemar:
    """How two classifiers differ on the same pictures."""

    only_a: int  # pictures that only the first has right
    only_b: int
    p: float  # of a difference at least as lopsided if both were equally good


@dataclass(frozen=True)
class Agreement:
    """How R >= 2 classifiers agree on the same pictures, as shares of the pictures."""

    all_right: float
    all_wrong: float
    same_answer: float  # mean over all pairs of classifiers


@dataclass(frozen=True)
class Missed:
    """The M pictures that no classifier has right, those with the most agreement on one answer first."""

    rows: np.ndarray  # int (M,)
    answers: np.ndarray  # int (M,), the most frequent wrong answer
    shares: np.ndarray  # float (M,), of the classifiers that give it


def spread(values: Sequence[float]) -> Spread:
    """Return mean, standard deviation and Student's t interval of the mean of accuracies, cut at 0 and 1."""
    count = len(values)
    mean = math.fsum(values) / count if count else math.nan
    if count < 2:
        return Spread(count, mean, math.nan, math.nan, math.nan)
    from scipy.special import stdtrit

    std = float(np.std(values, ddof=1))
    half = float(stdtrit(count - 1, (1 + LEVEL) / 2)) * std / math.sqrt(count)
    return Spread(count, mean, std, max(0.0, mean - half), min(1.0, mean + half))


def mcnemar(hits_a: np.ndarray, hits_b: np.ndarray) -> McNemar:
    """Test whether two classifiers are equally often right, given bool (N,) each for the same pictures.

    McNemar 1947, with the exact two-sided binomial test on the pictures that only one of them has right: it
    holds for few of them too, where the chi-square approximation does not, and is as fast.
    """
    if hits_a.shape != hits_b.shape or hits_a.ndim != 1:
        raise ValueError(f"hits must be of the same pictures, got {hits_a.shape} and {hits_b.shape}")
    from scipy.special import betainc

    only_a, only_b = int((hits_a & ~hits_b).sum()), int((hits_b & ~hits_a).sum())
    tail = betainc(max(only_a, only_b), min(only_a, only_b) + 1, 0.5)  # of the binomial distribution
    p = min(1.0, 2 * float(tail))
    return McNemar(only_a, only_b, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values of one family of tests so that all errors together stay below a level (Holm 1979)."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(steps, 1)
    return adjusted.tolist()


def recalls(labels: np.ndarray, preds: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the share of each class's pictures that are right (K,); NaN for a class without pictures."""
    totals = np.bincount(labels, minlength=num_classes)
    hits = np.bincount(labels[labels == preds], minlength=num_classes)
    return np.divide(hits, totals, out=np.full(num_classes, math.nan), where=totals > 0)


def agreement(labels: np.ndarray, preds: np.ndarray) -> Agreement:
    """Compare predictions (R, N) of R >= 2 classifiers for labels (N,)."""
    right = preds == labels
    counts = _counts(preds)
    ordered_pairs = len(preds) * (len(preds) - 1)
    return Agreement(
        all_right=float(right.all(0).mean()),
        all_wrong=float((~right).all(0).mean()),
        same_answer=float((counts * (counts - 1)).sum(0).mean() / ordered_pairs),
    )


def missed_by_all(labels: np.ndarray, preds: np.ndarray) -> Missed:
    """Find the pictures that all of R classifiers have wrong, from predictions (R, N) and labels (N,)."""
    rows = np.flatnonzero((preds != labels).all(0))
    counts = _counts(preds[:, rows])
    answers = counts.argmax(0) if len(rows) else rows
    shares = counts.max(0, initial=0) / len(preds)
    order = np.argsort(-shares, kind="stable")
    return Missed(rows[order], answers[order], shares[order])


def _counts(preds: np.ndarray) -> np.ndarray:
    """Return how many of R predictions (R, N) name each class, int (K, N)."""
    num_classes = int(preds.max(initial=-1)) + 1
    return np.stack([(preds == k).sum(0) for k in range(num_classes)] or [np.zeros(preds.shape[1], int)])
