"""How far confidences can be believed: calibration error, reliability and temperature scaling."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cifar_core.explain.predictions import Predictions, pick

BINS = 15  # of equal width, as in Guo et al. 2017
HOTTEST = 20.0  # temperatures are looked for between 1 / HOTTEST and HOTTEST
STEPS = 40  # bisections: the logarithm of the temperature is then known to 1e-11


@dataclass(frozen=True)
class Reliability:
    """Confidence and accuracy of the pictures in each of BINS equal steps of confidence."""

    counts: Tensor  # int64 (BINS,)
    confidence: Tensor  # float64 (BINS,), mean of the bin; NaN where it is empty
    acc: Tensor  # float64 (BINS,), the same


def reliability(predictions: Predictions) -> Reliability:
    """Sort pictures into bins (low, high] of confidence; those with a NaN confidence are left out."""
    known = predictions.confidence.isfinite()
    confidence = predictions.confidence[known]
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    counts = torch.bincount(bins, minlength=BINS)
    sums = torch.bincount(bins, weights=confidence, minlength=BINS)
    hits = torch.bincount(bins, weights=predictions.hits[known].double(), minlength=BINS)
    return Reliability(counts, sums / counts, hits / counts)


def calibration_error(predictions: Predictions) -> float:
    """Return the expected calibration error (Guo et al. 2017, arXiv:1706.04599); NaN without confidences."""
    bins = reliability(predictions)
    gaps = (bins.confidence - bins.acc).abs().nan_to_num(0)  # of empty bins
    return ((gaps * bins.counts).sum() / bins.counts.sum()).item()


def brier_score(predictions: Predictions) -> float:
    """Return the mean squared distance of probabilities from the one-hot label, in [0, 2] (Brier 1950)."""
    squares = predictions.probs.square().sum(1) - 2 * pick(predictions.probs, predictions.labels) + 1
    return squares.mean().item()


def fit_temperature(predictions: Predictions) -> float | None:
    """Find the temperature by which logits must be divided for the least cross-entropy (Guo et al. 2017).

    Cross-entropy is convex in 1 / temperature, so bisecting its slope finds the one minimum, always the same.
    Rows that are not finite are left out; None where no row is left. 1 where every temperature is as good,
    as with one class; the lowest in range where every picture is right.
    """
    known = predictions.logits.isfinite().all(1)
    if not known.any():
        return None
    logits, labels = predictions.logits[known].double(), predictions.labels[known]
    if (logits == logits[:, :1]).all():
        return 1.0
    given = pick(logits, labels).mean()
    low, high = -math.log(HOTTEST), math.log(HOTTEST)
    for _ in range(STEPS):
        middle = (low + high) / 2
        slope = ((logits * math.exp(middle)).softmax(1) * logits).sum(1).mean() - given
        low, high = (middle, high) if slope <= 0 else (low, middle)
    return math.exp(-(low + high) / 2)


def cooled(predictions: Predictions, temperature: float) -> Predictions:
    """Return the same predictions with their logits divided by `temperature`."""
    return Predictions.of(predictions.labels, predictions.logits / temperature)


def reliabilities(
    predictions: Predictions, temperature: float | None
) -> tuple[Reliability, Reliability | None]:
    """Return the reliability before and, where there is a temperature, after scaling by it."""
    after = None if temperature is None else reliability(cooled(predictions, temperature))
    return reliability(predictions), after
