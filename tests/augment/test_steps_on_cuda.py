"""What each transform and each recipe has a GPU do: no wait, few kernels, few numbers up."""

import albumentations as A
import pytest
import torch

from cifar_core.augment.lowering import lowered
from cifar_core.augment.pipeline import lower
from cifar_core.augment.uniforms import picture_keys, uniforms
from tests.augment.test_recipes import RECIPES, recipe
from tests.augment.test_steps import CASES, made
from tests.pretend_cuda import pretend_cuda

PICTURES = 32
KERNELS = {  # that draw and change take at most; others take 22
    A.HueSaturationValue: 76,
    A.ColorJitter: 480,  # four factors in any order
    A.GridDropout: 152,
    A.GaussNoise: 40,
    A.RandomResizedCrop: 224,  # the cubic kernel; the linear one takes 82
    A.CropAndPad: 226,
}
UPLOADS = {A.ColorJitter: 32}  # rows and factors for each factor in each place; others take 2
BYTES = 170  # a picture
RECIPE_KERNELS = {"trivialaugment": 180, "randaugment": 340, "eva_rotate_hue_cutout": 110}  # others take 36
RECIPE_UPLOADS = {"trivialaugment": 42, "randaugment": 75, "eva_rotate_hue_cutout": 12}  # others take 10


def keys(count):
    return picture_keys(count, torch.Generator().manual_seed(count))


@pytest.mark.parametrize(("kind", "example"), CASES)
def test_a_step_makes_its_pictures_on_the_device_of_few_numbers(kind, example, pictures):
    step, lowering = made(kind, example), lowered()[kind]
    images, numbers = pictures(PICTURES, 32, 32), uniforms(keys(PICTURES), lowering.columns(step))

    def changed(images):
        pieces = lowering.apply(step, images, lowering.draw(step, numbers, images))
        return [pieces] if isinstance(pieces, torch.Tensor) else [piece for _, piece in pieces]

    with pretend_cuda() as seen:
        there = images.to("cuda")
        changed(there)  # constants go up once
        seen.clear()
        result = changed(there)
        assert seen.waits == []
        assert len(seen.kernels) <= KERNELS.get(kind, 22)
        assert len(seen.uploads) <= UPLOADS.get(kind, 2)
        assert sum(size for _, size in seen.uploads) <= BYTES * PICTURES
        back = [piece.cpu() for piece in result]
    assert all(map(torch.equal, back, changed(images)))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_waits_for_nothing_and_takes_few_kernels(name, pictures):
    images, augment = pictures(256, 32, 32), lower(recipe(name)[1])
    with pretend_cuda() as seen:
        there = images.to("cuda")
        augment(there, keys(len(images)))
        seen.clear()
        result = augment(there, keys(len(images)))
        assert seen.waits == []
        assert len(seen.kernels) <= RECIPE_KERNELS.get(name, 36)
        assert len(seen.uploads) <= RECIPE_UPLOADS.get(name, 10)
        back = result.cpu()
    assert torch.equal(back, augment(images, keys(len(images))))


def test_a_jitter_of_one_factor_is_one_pass_over_all_pictures(pictures):
    step = made(A.ColorJitter, {"brightness": (0.5, 1.5), "contrast": 0, "saturation": 0, "hue": 0})
    with pretend_cuda() as seen:
        images = pictures(PICTURES, 8, 8).to("cuda")
        seen.clear()
        lower([step])(images, keys(PICTURES))
        assert not {"index_select", "index_copy_", "clone"} & set(seen.kernels)
        assert len(seen.kernels) <= 4
