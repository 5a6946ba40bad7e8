"""A GPU gives the pictures that a CPU gives for the same keys, with and without TF32."""

from collections.abc import Iterator

import albumentations as A
import pytest
import torch
from torch import Tensor

from cifar_core.augment.pipeline import lower
from cifar_core.augment.uniforms import picture_keys
from experiments.config import build
from experiments.config.compose import compose
from tests.augment.test_recipes import RECIPES
from tests.augment.test_steps import CASES, made
from tests.gpu.conftest import tf32

pytestmark = pytest.mark.gpu

COUNT = 48  # pictures


@pytest.fixture(params=[True, False], ids=["tf32", "float32"], autouse=True)
def products(request: pytest.FixtureRequest) -> Iterator[None]:
    with tf32(request.param):
        yield


def assert_close(ours: Tensor, reference: Tensor) -> None:
    """At most one of 255 levels apart; of one value in a thousand a rounding may decide more, as of a hue."""
    assert ours.shape == reference.shape
    assert ours.dtype == reference.dtype
    level = 1 if reference.dtype == torch.uint8 else 1 / 50  # of a float; a std is about a quarter
    apart = (ours.cpu().float() - reference.float()).abs()
    assert (apart <= level).float().mean() >= 0.999


def keys(count: int) -> Tensor:
    return picture_keys(count, torch.Generator().manual_seed(count))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_gives_the_pictures_of_the_cpu(name, pictures, device):
    augment, images = build.augment(compose([f"aug={name}", "data=cifar10"])), pictures(4 * COUNT, 32, 32)
    result = augment(images.to(device), keys(4 * COUNT))
    assert result.device.type == device.type
    assert_close(result, augment(images, keys(4 * COUNT)))


@pytest.mark.parametrize(("kind", "example"), CASES)
def test_a_transform_gives_the_pictures_of_the_cpu(kind, example, pictures, device):
    steps = [made(kind, example)]
    if kind is A.RandomRotate90:
        steps.append(A.CenterCrop(20, 20))  # quarter turns of what is not square give two sizes
    augment, images = lower(steps), pictures(COUNT, 36, 50)
    result = augment(images.to(device), keys(COUNT))
    assert result.device.type == device.type
    assert_close(result, augment(images, keys(COUNT)))


@pytest.mark.parametrize("name", ["cutout", "trivialaugment"])
def test_a_block_gives_the_pictures_of_its_batches(name, pictures, device):
    augment = build.augment(compose([f"aug={name}", "data=cifar10"]))
    images, own = pictures(COUNT, 32, 32).to(device), keys(COUNT)
    parts = [augment(*part) for part in zip(images.split(8), own.split(8), strict=True)]
    assert_close(torch.cat(parts), augment(images, own).cpu())
