"""Whole recipes: nested containers replay as Albumentations ran them, and happen as often."""

import random

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from scipy import stats

from cifar_core.augment.per_picture import record
from cifar_core.augment.pipeline import lower

COLOUR = (125.3, 123.0, 113.9)
EXACT = (
    lambda r: A.HorizontalFlip(p=r.random()),
    lambda r: A.VerticalFlip(p=r.random()),
    lambda r: A.Transpose(p=r.random()),
    lambda r: A.RandomRotate90(p=r.random()),
    lambda r: A.Pad(
        r.randint(0, 5), fill=COLOUR, border_mode=r.choice([cv2.BORDER_CONSTANT, cv2.BORDER_WRAP])
    ),
    lambda r: A.PadIfNeeded(
        40, 44, border_mode=r.choice([cv2.BORDER_REFLECT, cv2.BORDER_REFLECT_101]), p=0.7
    ),
    lambda r: A.RandomCrop(24, 24, p=0.8),
    lambda r: A.CenterCrop(30, 26, pad_if_needed=True, p=0.8),
    lambda r: A.CoarseDropout((1, 4), (3, 9), (2, 12), fill=COLOUR, p=0.7),
    lambda r: A.InvertImg(p=r.random()),
    lambda r: A.Solarize((0.2, 0.9), p=0.6),
    lambda r: A.Posterize((2, 6), p=0.6),
    lambda r: A.ToGray(p=0.4),
    lambda r: A.ChannelShuffle(p=0.5),
)
CLOSE = (
    lambda r: A.Rotate(
        30, border_mode=r.choice([cv2.BORDER_CONSTANT, cv2.BORDER_REFLECT_101]), fill=COLOUR, p=0.7
    ),
    lambda r: A.Affine(scale=(0.8, 1.2), translate_percent=0.1, shear=(-10, 10), rotate=(-20, 20), p=0.7),
    lambda r: A.HueSaturationValue(p=0.7),
    lambda r: A.RandomBrightnessContrast(p=0.7),
    lambda r: A.ColorJitter(p=0.7),
    lambda r: A.Sharpen(p=0.5),
)


def composition(seed, pool):
    """Return a random recipe; a last pad and crop bring all pictures to one size."""
    r = random.Random(seed)

    def branch(depth):
        if depth == 0 or r.random() < 0.4:
            return r.choice(pool)(r)
        children = [branch(depth - 1) for _ in range(r.randint(1, 3))]
        kind = r.choice([A.Compose, A.Sequential, A.OneOf, A.SomeOf])
        if kind is A.SomeOf:
            return A.SomeOf(
                children, n=r.randint(1, len(children)), replace=r.random() < 0.5, p=r.uniform(0.5, 1)
            )
        return kind(children, p=r.uniform(0.5, 1))

    end = {"pad": A.PadIfNeeded(48, 48), "crop": A.CenterCrop(32, 32)}
    return {f"step{n}": branch(3) for n in range(r.randint(1, 4))} | end


@pytest.mark.parametrize("seed", range(25))
def test_compositions_of_exact_steps_replay_equal(seed, pictures):
    steps = composition(seed, EXACT)
    images = pictures(30, 32, 32)
    expected, draws = record(steps, images, seed)
    assert torch.equal(lower(steps).replay(images, draws), expected)


@pytest.mark.parametrize("seed", range(25, 50))
def test_compositions_of_all_steps_replay_closely(seed, pictures):
    steps = composition(seed, EXACT + CLOSE)
    images = pictures(30, *[(32, 32), (28, 28), (48, 48)][seed % 3])
    expected, draws = record(steps, images, seed)
    difference = (lower(steps).replay(images, draws).int() - expected.int()).abs()
    assert (difference <= 2).float().mean() >= 0.99


NESTED = {
    "flip": A.HorizontalFlip(p=0.3),
    "one": A.OneOf([A.InvertImg(p=0.2), A.ToGray(p=0.7), A.Sequential([A.Solarize(p=0.6)], p=0.1)], p=0.8),
    "some": A.SomeOf([A.Posterize(p=0.5), A.VerticalFlip(p=1), A.ChannelShuffle(p=0.9)], n=2, p=0.7),
    "again": A.SomeOf([A.Transpose(p=0.5), A.NoOp(p=0.9)], n=3, replace=True),
    "never": A.Blur(p=0),
    "inner": A.Compose([A.Sequential([A.Posterize(p=0.25), A.OneOf([A.InvertImg()], p=0.5)], p=0.5)], p=0.9),
}


def test_leaves_are_applied_as_often_as_in_albumentations():
    count = 4000
    _, draws = record(NESTED, torch.zeros(count, 3, 2, 2, dtype=torch.uint8), seed=1)
    theirs = [tuple(draw.path for draw in picture if draw.applied) for picture in draws]
    visits = list(lower(NESTED).walk(torch.arange(count)).visits())
    met = torch.stack([visit.active for visit in visits], 1)
    paths = np.array([visit.path for visit in visits])
    ours = [tuple(paths[row]) for row in met.numpy()]
    for path in set(paths):
        for times in range(1, 4):
            happened = [[sum(run.count(path) >= times for run in runs)] for runs in (ours, theirs)]
            table = np.array([[n[0], count - n[0]] for n in happened])
            if table.sum(0).min() > 10:
                assert stats.chi2_contingency(table).pvalue > 1e-4
    assert patterns_agree(ours, theirs) > 1e-4


def patterns_agree(ours, theirs):
    """p-value that whole runs, which leaves follow which, come from one distribution."""
    runs = [run for run in set(ours + theirs) if ours.count(run) + theirs.count(run) >= 20]
    counts = np.array([[runs_of.count(run) for run in runs] for runs_of in (ours, theirs)])
    rest = np.array([[len(ours)], [len(theirs)]]) - counts.sum(1, keepdims=True)
    return stats.chi2_contingency(np.concatenate([counts, rest], 1)).pvalue
