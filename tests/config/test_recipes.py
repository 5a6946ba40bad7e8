"""Recipes as people write them: old words, other libraries, steps left out, ways to mix."""

import inspect
import re

import albumentations
import numpy as np
import pytest
import torch
import yaml
from hydra.utils import get_object, instantiate

from experiments.config import build
from experiments.config.compose import compose
from experiments.config.recipes import check_recipe

A, V2 = "albumentations.", "torchvision.transforms.v2."
OLD = {  # what older releases of Albumentations took -> what to write today
    "Cutout, num_holes: 4, max_h_size: 5, max_w_size: 6, fill_value: 7, p: 1": {
        "num_holes_range": [4, 4],
        "hole_height_range": [5, 5],
        "hole_width_range": [6, 6],
        "fill": 7,
        "p": 1,
    },
    "Cutout": {"num_holes_range": [8, 8], "hole_height_range": [8, 8], "hole_width_range": [8, 8]},
    "CoarseDropout, max_holes: 8, min_holes: 2, max_height: 5, fill_value: [1, 2, 3], mask_fill_value: 0": {
        "num_holes_range": [2, 8],
        "hole_height_range": [5, 5],
        "fill": [1, 2, 3],
        "fill_mask": 0,
    },
    "JpegCompression, quality_lower: 80": {"quality_range": [80, 100]},
    "ImageCompression, quality_lower: 80, quality_upper: 90": {"quality_range": [80, 90]},
    "GaussNoise, var_limit: [10, 50]": {"std_range": [0.0124, 0.0277]},  # sqrt(10) / 255, sqrt(50) / 255
    "GaussNoise, var_limit: 50, mean: 0": {"std_range": [0.0, 0.0277], "mean_range": [0.0, 0.0]},
    "Rotate, limit: 5, value: 3, mask_value: 0, always_apply: true": {"limit": 5, "fill": 3, "p": 1.0},
    "HorizontalFlip, always_apply: false, p: 0.5": {"p": 0.5},
    "Affine, cval: 3, mode: 4": {"fill": 3, "border_mode": 4},
    "IAAAffine, rotate: 5, order: 1, mode: reflect": {"rotate": 5, "border_mode": 4},
    "PadIfNeeded, min_height: 32, min_width: 32, value: 3": {"min_height": 32, "fill": 3},
    "Perspective, pad_mode: 4, pad_val: 3": {"border_mode": 4, "fill": 3},
    "RandomResizedCrop, height: 32, width: 32": {"size": [32, 32]},
    "RandomBrightness, limit: 0.3": {"brightness_limit": 0.3, "contrast_limit": 0.0},
    "RandomContrast, limit: 0.3": {"contrast_limit": 0.3, "brightness_limit": 0.0},
    "ShiftScaleRotate, shift_limit: 0.1, scale_limit: 0.2, rotate_limit: 15": {
        "translate_percent": {"x": [-0.1, 0.1], "y": [-0.1, 0.1]},
        "scale": [0.8, 1.2],
        "rotate": [-15, 15],
    },
    "ElasticTransform, alpha: 1, alpha_affine: 3": {"alpha": 1},
    "Downscale, scale_min: 0.5, scale_max: 0.9": {"scale_range": [0.5, 0.9]},
    "Solarize, threshold: 128": {"threshold_range": [0.502, 0.502]},
    "GridDropout, unit_size_min: 4, unit_size_max: 8": {"unit_size_range": [4, 8]},
    "RandomFog, fog_coef_lower: 0.1, fog_coef_upper: 0.2": {"fog_coef_range": [0.1, 0.2]},
    "RandomGamma, eps: 0.1": {},
    "IAAFliplr": {},
    "IAAPerspective, scale: [0.05, 0.1]": {"scale": [0.05, 0.1]},
    "IAAAdditiveGaussianNoise, scale: [2.55, 5.1]": {"std_range": [0.01, 0.02]},
    "Flip": {"p": 0.5},
}


def told(step: str) -> str:
    """Return the line that tells of a step, a mapping in YAML, without making it."""
    aug = {"image": {"x": yaml.safe_load(f"{{{step}}}")}, "batch": None, "backend": "auto", "workers": 0}
    with pytest.raises(ValueError, match=r"aug\.image\.x") as caught:
        check_recipe(aug)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("old", OLD)
def test_words_of_an_older_albumentations_are_told_with_their_successor_to_paste(old: str):
    pasted = re.fullmatch(
        r"aug\.image\.x is in words of an older Albumentations: write (\{.*\}) in its place",
        told(f"_target_: {A}{old}"),
    )
    assert pasted is not None
    successor = yaml.safe_load(pasted[1])
    assert {key: successor[key] for key in OLD[old]} == OLD[old]
    takes = inspect.signature(get_object(successor["_target_"])).parameters
    assert successor.keys() - {"_target_"} <= takes.keys()
    assert instantiate(successor, _convert_="all").p == successor.get("p", takes["p"].default)


def test_a_shift_scale_rotate_and_its_successor_have_one_law():
    step = {"shift_limit": [0.1, 0.1], "scale_limit": [0.2, 0.2], "rotate_limit": [7, 7], "p": 1.0}
    message = told(f"_target_: {A}ShiftScaleRotate, {str(step)[1:-1]}")
    pasted = re.search(r"write (\{.*\}) in its place", message)
    assert pasted is not None
    new = instantiate(yaml.safe_load(pasted[1]), _convert_="all")
    with pytest.warns(UserWarning, match="special case of Affine"):
        old = albumentations.ShiftScaleRotate(**step)
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(old(image=picture)["image"], new(image=picture)["image"])


FOREIGN = {
    f"_target_: {V2}RandomHorizontalFlip": "aug.image.x._target_ must be of Albumentations: .*HorizontalFlip",
    "_target_: torchvision.transforms.RandomRotation, degrees: 3": "write albumentations.Rotate",
    f"_target_: {V2}TrivialAugmentWide": "write aug=trivialaugment",
    f"_target_: {V2}MixUp, num_classes: 10": "aug.image.x: MixUp mixes pictures and labels",
    "_target_: torch.nn.Dropout": "aug.image.x must be an Albumentations transform .*got torch.nn.Dropout",
    "_target_: A.Blur": "write albumentations.Blur, got 'A.Blur'",
    f"_target_: {A}Normalize": "Normalize has no place in a recipe: .*data.mean and data.std",
    f"_target_: {A}pytorch.ToTensorV2": "ToTensorV2 has no place in a recipe",
    f"_target_: {A}OneOf, transforms: []": r"transforms must be a list of one step or more, got \[\]",
    f"_target_: {A}Sequential, transforms: []": "must be a list of one step or more",
    f"_target_: {A}OneOf, transforms: {{_target_: {A}Blur}}": "must be a list of one step or more",
    f"_target_: {A}OneOf, transforms: [{{_target_: {A}Blur, p: 0}}, {{_target_: {A}D4, p: 0}}]": "p above 0",
    f"_target_: {A}OneOf, transforms: [null]": "aug.image.x.transforms.0 must be .*got null.*NoOp",
    f"_target_: {A}OneOf, transforms: [{{_target_: {V2}Resize, size: 9}}]": "x.transforms.0._target_",
    f"_target_: {A}SomeOf, n: 3, transforms: [{{_target_: {A}Blur}}]": "x.n must be at least 1 and at",
    f"_target_: {A}SomeOf, n: 0, transforms: [{{_target_: {A}Blur}}]": "aug.image.x.n must be at least 1",
    f"_target_: {A}Pad3D, padding: 1": "aug.image.x: albumentations.Pad3D changes volumes",
}
MADE = {  # what is seen only once a step is made
    f"_target_: {A}MaskDropout": "aug.image.x must work on pictures alone: MaskDropout needs mask",
    f"_target_: {A}BBoxSafeRandomCrop": "aug.image.x must work on pictures alone: .*needs bboxes",
    f"_target_: {A}ToGray, num_output_channels: 1": "aug.image.x must keep three channels",
    f"_target_: {A}RandomCrop, height: 64, width: 64": "aug.image.x fails on pictures of 32x32",
}


@pytest.mark.parametrize("step", FOREIGN)
def test_a_step_that_cannot_be_is_told_with_its_cause(step: str):
    assert re.search(FOREIGN[step], told(step))


@pytest.mark.parametrize("step", MADE)
def test_a_step_that_does_not_fit_is_told_with_its_cause(step: str):
    with pytest.raises(ValueError, match=MADE[step]) as caught:
        compose([f"+aug.image.x={{{step}}}"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("image", ["aug.image=3", "aug.image.flip=3", "aug.image.flip=[]", "aug.batch=3"])
def test_what_is_no_recipe_is_told_by_its_key(image: str):
    with pytest.raises(ValueError, match=image.partition("=")[0]):
        compose([image])


def test_null_leaves_a_step_out():
    assert list(build.steps(compose(["aug.image.flip=null"]))) == ["pad", "crop"]
    assert build.steps(compose(["aug.image=null"])) == {}


def test_pictures_of_another_size_than_those_of_the_test_are_noted(caplog: pytest.LogCaptureFixture):
    build.augment(compose([f"+aug.image.x={{_target_: {A}Resize, height: 48, width: 48}}"]))
    assert "aug.image leaves pictures of 48x48; those of val and test are 32x32" in caplog.text


def test_each_batch_is_mixed_up_or_cut_about_equally_often_and_the_same_again_from_one_seed():
    mix = build.mix(compose(["aug=mixup_or_cutmix"]), num_classes=5)
    assert mix is not None
    images, labels = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 5
    one_hot = torch.nn.functional.one_hot(labels, 5).float()
    partner, cut = images.roll(1, 0), 0
    for seed in range(60):
        torch.manual_seed(seed)
        mixed, targets = mix(images, labels)
        torch.manual_seed(seed)
        assert all(torch.equal(a, b) for a, b in zip(mix(images, labels), (mixed, targets), strict=True))
        share = ((targets - one_hot.roll(1, 0)) / (one_hot - one_hot.roll(1, 0)))[0, labels[0]]
        torch.testing.assert_close(targets, share * one_hot + (1 - share) * one_hot.roll(1, 0))
        own = (mixed == images).all(1)
        if torch.all(own | (mixed == partner).all(1)):  # every pixel whole: a box of another picture
            cut += 1
            torch.testing.assert_close(own.float().mean((1, 2)), share.expand(8))
        else:
            torch.testing.assert_close(mixed, share * images + (1 - share) * partner)
    assert 15 <= cut <= 45  # of 60 fair draws, less than 1 in 10,000 lies outside


def test_the_number_of_classes_comes_from_the_data_at_any_depth():
    idiom = (
        f"aug.batch={{_target_: {V2}RandomChoice, transforms: [{{_target_: {V2}MixUp, num_classes: 10}}]}}"
    )
    assert build.mix(compose([idiom]), num_classes=10) is not None
    with pytest.raises(
        ValueError, match=r"aug\.batch\.transforms\.0\.num_classes comes from the data, 3, got 10"
    ):
        build.mix(compose([idiom]), num_classes=3)


@pytest.mark.parametrize(
    ("batch", "told"),
    [
        (f"{{_target_: {A}Blur}}", "aug.batch must take pictures and labels"),
        ("{_target_: torch.nn.Dropout}", "aug.batch must take pictures and labels"),
        (f"{{_target_: {V2}CenterCrop, size: 8}}", r"aug.batch must take .* got \(4, 3, 8, 8\)"),
        (f"{{_target_: {V2}MixUp, alpha: -1}}", "aug.batch.alpha must be above 0, got -1"),
        (f"{{_target_: {V2}RandomChoice, transforms: []}}", "aug.batch.*at least one transform"),
    ],
)
def test_what_does_not_mix_a_batch_is_told(batch: str, told: str):
    with pytest.raises(ValueError, match=told):
        compose([f"aug.batch={batch}"])
