import math

import numpy as np
import pytest
import scipy.optimize
import sklearn.metrics
import torch
import torch.nn.functional as F
from torchmetrics.classification import MulticlassCalibrationError

from cifar_core.explain.calibration import (
    HOTTEST,
    brier_score,
    calibration_error,
    cooled,
    fit_temperature,
    reliability,
)
from cifar_core.explain.predictions import Predictions
from tests.report.examples import guesses

LABELS = np.random.default_rng(0).integers(0, 10, 2000).tolist()


@pytest.fixture
def predictions() -> Predictions:
    return Predictions.of(torch.tensor(LABELS), guesses(LABELS))


def test_calibration_error_equals_torchmetrics(predictions: Predictions):
    expected = MulticlassCalibrationError(num_classes=10, n_bins=15, norm="l1")(
        predictions.probs, predictions.labels
    )
    assert calibration_error(predictions) == pytest.approx(expected.item(), abs=1e-6)
    assert calibration_error(predictions) > 0.02


def test_brier_score_equals_scikit_learns(predictions: Predictions):
    expected = sklearn.metrics.brier_score_loss(
        LABELS, predictions.probs.numpy(), labels=range(10), scale_by_half=False
    )
    assert brier_score(predictions) == pytest.approx(expected, rel=1e-9)


def test_scores_made_by_hand():
    probs = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.62, 0.38], [0.22, 0.78]])
    predictions = Predictions.of(torch.tensor([0, 1, 0, 1]), probs.log())
    # Bins: two pictures of confidence 0.9 (half right), one of 0.62 and one of 0.78 (right).
    assert calibration_error(predictions) == pytest.approx((2 * 0.4 + 0.38 + 0.22) / 4, abs=1e-6)
    assert brier_score(predictions) == pytest.approx((0.02 + 1.62 + 2 * 0.38**2 + 2 * 0.22**2) / 4, abs=1e-6)
    bins = reliability(predictions)
    assert bins.counts.nonzero()[:, 0].tolist() == [9, 11, 13]
    assert bins.acc[13].item() == 0.5
    assert bins.confidence[13].item() == pytest.approx(0.9)


def test_certain_pictures_lie_in_the_last_bin_and_unknown_ones_nowhere():
    logits = torch.tensor([[200.0, 0.0], [math.nan, 0.0], [0.0, 0.0]])
    bins = reliability(Predictions.of(torch.tensor([0, 0, 0]), logits))
    assert bins.counts[-1] == 1
    assert bins.counts.sum() == 2


def test_the_temperature_minimises_the_loss(predictions: Predictions):
    def loss(temperature: float) -> float:
        return F.cross_entropy(predictions.logits.double() / temperature, predictions.labels).item()

    best = scipy.optimize.minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-9})
    temperature = fit_temperature(predictions)
    assert temperature == pytest.approx(best.x, rel=1e-5)
    assert cooled(predictions, temperature).losses.mean().item() < predictions.losses.mean().item()


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_temperature_of_calibrated_logits_is_found(factor: float):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20_000, 10, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    predictions = Predictions.of(labels, logits * factor)
    assert fit_temperature(predictions) == pytest.approx(factor, rel=0.03)
    assert calibration_error(cooled(predictions, factor)) < 0.01


def test_temperatures_stay_in_their_range_and_ignore_what_is_not_finite():
    right = torch.eye(4) * 5
    labels = torch.arange(4)
    assert fit_temperature(Predictions.of(labels, right)) == pytest.approx(1 / HOTTEST)
    assert fit_temperature(Predictions.of(labels, -right)) == pytest.approx(HOTTEST)
    assert fit_temperature(Predictions.of(labels[:1], torch.tensor([[0.7]]))) == 1  # one class
    assert fit_temperature(Predictions.of(labels, torch.full((4, 4), math.nan))) is None
    logits = guesses([0, 1, 2] * 50, 3)
    spoilt = torch.cat([logits, torch.full((1, 3), math.inf)])
    clean = fit_temperature(Predictions.of(torch.tensor([0, 1, 2] * 50), logits))
    assert fit_temperature(Predictions.of(torch.tensor([0, 1, 2] * 50 + [0]), spoilt)) == clean
