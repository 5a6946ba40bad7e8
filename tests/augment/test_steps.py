"""Every lowered transform against Albumentations: equal pictures for equal draws, and one law of draws."""

import warnings

import albumentations as A
import numpy as np
import pytest
import torch
from albumentations.augmentations.pixel.functional import get_safe_brightness_contrast_params
from scipy import stats

from cifar_core.augment.lowering import lowered
from cifar_core.augment.per_picture import record
from cifar_core.augment.pipeline import lower
from cifar_core.augment.steps.colours import JITTERS, WITHOUT_EFFECT
from cifar_core.augment.steps.levels import safe_range
from cifar_core.augment.uniforms import uniforms

CASES = [
    pytest.param(kind, example, id=f"{kind.__name__}-{number}")
    for kind, lowering in lowered().items()
    for number, example in enumerate(lowering.examples)
]


def made(kind, example):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # ShiftScaleRotate recommends Affine
        return kind(**example, p=1.0)


DRAWN = [case for case in CASES if lowered()[case.values[0]].columns(made(*case.values)) > 0]
SIGNIFICANCE = 1e-3  # for each parameter, however many numbers it is made of


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (36, 50), (64, 64)], ids=str)
@pytest.mark.parametrize(("kind", "example"), CASES)
def test_replay_gives_the_pictures_of_albumentations(kind, example, size, pictures):
    lowering = lowered()[kind]
    images = pictures(18, *size)
    steps = [made(kind, example)]
    if kind is A.RandomRotate90:
        steps.append(A.CenterCrop(20, 20))  # quarter turns of what is not square give two sizes
    expected, draws = record(steps, images, seed=size[1])
    result = lower(steps).replay(images, draws)
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype
    difference = (result.float() - expected.float()).abs()
    close = difference <= lowering.tolerance
    assert close.float().mean() >= (0.99 if lowering.tolerance else 1.0)


@pytest.mark.parametrize(("kind", "example"), CASES)
def test_pictures_stay_as_they_are_and_may_lie_in_memory_in_any_order(kind, example, pictures):
    images = pictures(12, 32, 32)
    strided, lowering, step = (
        images.to(memory_format=torch.channels_last),
        lowered()[kind],
        made(kind, example),
    )
    numbers = uniforms(torch.arange(12), lowering.columns(step))
    one, other = (
        lowering.apply(step, layout, lowering.draw(step, numbers, layout)) for layout in (images, strided)
    )
    pieces = [(slice(None), one)] if isinstance(one, torch.Tensor) else one
    others = [(slice(None), other)] if isinstance(other, torch.Tensor) else other
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(pieces, others, strict=True))
    assert torch.equal(images, pictures(12, 32, 32))
    assert torch.equal(strided, images)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_a_factor_without_effect_changes_no_value(name, pictures):
    images = pictures(40, 32, 32)
    factor = torch.full((40,), WITHOUT_EFFECT[name], dtype=torch.float64)
    assert torch.equal(JITTERS[name](images, factor), images)


def test_the_safe_range_of_brightness_and_contrast_is_that_of_albumentations():
    alpha, beta = torch.cartesian_prod(
        torch.linspace(-1.5, 2.5, 41, dtype=torch.float64), torch.linspace(-300, 300, 61, dtype=torch.float64)
    ).unbind(1)
    theirs = [
        get_safe_brightness_contrast_params(*pair, 255)
        for pair in zip(alpha.tolist(), beta.tolist(), strict=True)
    ]
    assert torch.equal(torch.stack(safe_range(alpha, beta), 1), torch.tensor(theirs, dtype=torch.float64))


def test_a_picture_s_grid_does_not_depend_on_the_other_pictures(pictures):
    images, numbers = pictures(20, 32, 32), torch.arange(20)
    augment = lower([A.GridDropout(unit_size_range=(3, 12), random_offset=True, p=1.0)])
    alone = [augment(images[row : row + 1], numbers[row : row + 1]) for row in range(20)]
    assert torch.equal(torch.cat(alone), augment(images, numbers))


@pytest.mark.parametrize(("kind", "example"), DRAWN)
def test_draws_follow_the_law_of_albumentations(kind, example):
    count = 2500
    images = torch.full(
        (count, 3, *((32, 32) if kind is A.RandomRotate90 else (30, 44))), 100, dtype=torch.uint8
    )
    step, lowering = made(kind, example), lowered()[kind]
    _, draws = record([step], images, seed=5)
    theirs = lowering.collate(step, [picture[0].params for picture in draws])
    keys = torch.arange(count) * 7919
    ours = lowering.draw(step, uniforms(keys, lowering.columns(step)), images)
    assert ours.keys() == theirs.keys()
    columns = [(flat(ours[name]), flat(theirs[name])) for name in ours]
    for own, reference in columns:
        assert own.shape == reference.shape
        for a, b in zip(own.T, reference.T, strict=True):
            assert same_law(a, b) > SIGNIFICANCE / own.shape[1]
    correlated(*(np.concatenate(part, 1) for part in zip(*columns, strict=True)))


def flat(values):
    """Return parameters as columns; of a noise map its mean and spread, and a few values.

    Not the first: OpenCV's generator starts near 0 from the small seeds that Albumentations gives it.
    """
    values = values.reshape(len(values), -1).double().numpy()
    if values.shape[1] < 2000:
        return values
    return np.column_stack([values.mean(1), values.std(1), values[:, 200::400]])


def same_law(a, b):
    """p-value that two samples come from one distribution: chi-square where values repeat, else KS."""
    values = np.unique(np.concatenate([a, b]))
    if len(values) == 1:
        return 1.0
    if len(values) > 60:
        return stats.ks_2samp(a, b, method="asymp").pvalue
    counts = np.array([[(sample == value).sum() for value in values] for sample in (a, b)])
    rare = counts.sum(0) < 10
    if rare.any():
        counts = np.concatenate([counts[:, ~rare], counts[:, rare].sum(1, keepdims=True)], 1)
    return stats.chi2_contingency(counts).pvalue if counts.shape[1] > 1 else 1.0


def correlated(ours, theirs):
    """Columns that hang together in one sample must do so in the other."""
    moving = (ours.std(0) > 0) & (theirs.std(0) > 0)
    if moving.sum() > 1:
        apart = np.corrcoef(ours[:, moving].T) - np.corrcoef(theirs[:, moving].T)
        assert np.abs(apart).max() < 6 * (2 / len(ours)) ** 0.5
