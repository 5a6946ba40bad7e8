"""The recipes in conf/aug: all run in batches, and as Albumentations runs them."""

from pathlib import Path

import cv2
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from cifar_core.augment.per_picture import record
from cifar_core.augment.pipeline import augmentation, lower
from cifar_core.augment.uniforms import picture_keys
from experiments.config import build

FOLDER = Path(__file__).resolve().parents[2] / "conf" / "aug"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def recipe(name):
    with initialize_config_dir(str(FOLDER.parent), version_base=None):
        cfg = compose(overrides=[f"+aug={name}", "+data={mean: [125.3, 123.0, 113.9], image_size: 32}"])
    return cfg.aug, instantiate(cfg.aug.image, _convert_="all")


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_runs_in_batches_as_in_albumentations(name, pictures):
    aug, steps = recipe(name)
    assert aug.backend == "auto"
    images = pictures(60, 32, 32)
    expected, draws = record(steps, images, seed=3)
    difference = (lower(steps).replay(images, draws).int() - expected.int()).abs()
    share = 0.99 if cv2.__version__ >= "5" else 0.985  # OpenCV 4 rounds places to 1/32 pixel
    assert (difference <= 2).float().mean() >= share
    augment = augmentation(steps, backend="batched", image_size=32)
    result = augment(images, picture_keys(len(images), torch.Generator().manual_seed(0)))
    assert result.shape == images.shape
    assert result.dtype == torch.uint8


@pytest.mark.parametrize("name", RECIPES)
def test_batch_steps_mix_normalised_pictures(name):
    aug, _ = recipe(name)
    if aug.batch is None:
        return
    mix = build.mix(OmegaConf.create({"aug": aug, "security": {"allowed_targets": []}}), num_classes=10)
    images, targets = mix(torch.randn(8, 3, 32, 32), torch.arange(8))
    assert images.shape == (8, 3, 32, 32)
    assert torch.allclose(targets.sum(1), torch.ones(8))
