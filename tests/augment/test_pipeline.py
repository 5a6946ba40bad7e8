"""The pipeline's promises: backends, errors, streams of random numbers, sizes, devices."""

import logging

import albumentations as A
import numpy as np
import pytest
import torch

from cifar_core.augment import steps as steps_package
from cifar_core.augment.lowering import lowered
from cifar_core.augment.per_picture import PerPicture, record
from cifar_core.augment.pipeline import augmentation, lower
from cifar_core.augment.recipe import NotLowered
from cifar_core.augment.uniforms import picture_keys

COLOUR = (125.3, 123.0, 113.9)


def crop_flip_cutout():
    return {
        "pad": A.Pad(padding=4, fill=COLOUR),
        "crop": A.RandomCrop(32, 32),
        "flip": A.HorizontalFlip(p=0.5),
        "hue": A.HueSaturationValue(p=0.5),
        "turn": A.Rotate(limit=20, p=0.5),
        "one": A.OneOf([A.GaussNoise(), A.ColorJitter(p=0.2)], p=0.5),
        "cutout": A.CoarseDropout((1, 3), (4, 16), (4, 16), fill=COLOUR, p=0.9),
    }


def keys(count, seed=0):
    return picture_keys(count, torch.Generator().manual_seed(seed))


class OwnFlip(A.HorizontalFlip):
    """A subclass, which may do anything."""


@pytest.mark.parametrize("backend", ["batched", "albumentations"])
def test_same_seed_gives_the_same_pictures_whatever_the_batch_size(backend, pictures):
    images = pictures(50, 32, 32)
    augment = augmentation(crop_flip_cutout(), backend=backend, image_size=32)
    whole = augment(images, keys(50))
    parts = [augment(*part) for part in zip(images.split(7), keys(50).split(7), strict=True)]
    assert torch.equal(whole, torch.cat(parts))
    assert torch.equal(whole, augment(images, keys(50)))
    assert not torch.equal(whole, augment(images, keys(50, seed=1)))


@pytest.mark.parametrize("backend", ["batched", "albumentations"])
def test_pictures_of_a_batch_and_of_the_next_differ(backend, pictures):
    images = pictures(1, 32, 32).expand(64, -1, -1, -1)
    augment = augmentation(crop_flip_cutout(), backend=backend, image_size=32)
    results = torch.cat([augment(images, part) for part in keys(128).split(64)])
    assert len(results.flatten(1).unique(dim=0)) == 128


def test_steps_of_equal_probability_happen_independently():
    steps = [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]
    _, draws = record(steps, torch.zeros(400, 3, 4, 4, dtype=torch.uint8), seed=0)
    together = np.array([[draw.applied for draw in sorted(row, key=lambda d: d.path)] for row in draws])
    assert abs(np.corrcoef(together.T)[0, 1]) < 0.2


@pytest.mark.parametrize("backend", ["batched", "albumentations"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_any_number_of_pictures(backend, count, pictures):
    images = pictures(3, 28, 28)[:count]
    steps = {"crop": A.RandomCrop(20, 24), "turn": A.Rotate(p=0.5)}
    result = augmentation(steps, backend=backend, image_size=28)(images, keys(count))
    assert result.shape == (count, 3, 20, 24)
    assert result.dtype == torch.uint8
    assert lower(steps).replay(images[:0], []).shape == (0, 3, 20, 24)


@pytest.mark.parametrize("backend", ["batched", "albumentations"])
def test_input_and_steps_stay_as_they_are(backend, pictures):
    images = pictures(20, 32, 32)
    before, steps = images.clone(), crop_flip_cutout()
    states = [
        step.random_generator.bit_generator.state
        for step in steps.values()
        if hasattr(step, "random_generator")
    ]
    augmentation(steps, backend=backend, image_size=32)(images, keys(20))
    record(steps, images, seed=0)
    assert torch.equal(images, before)
    after = [
        step.random_generator.bit_generator.state
        for step in steps.values()
        if hasattr(step, "random_generator")
    ]
    assert states == after


def test_no_steps_change_nothing(pictures):
    images = pictures(5, 32, 32)
    assert torch.equal(augmentation({}, image_size=32)(images, keys(5)), images)


UNSUPPORTED = [
    ({"flip": A.HorizontalFlip(), "soft": A.MedianBlur()}, r"soft \(MedianBlur\)"),
    ({"own": OwnFlip()}, r"own \(OwnFlip\)"),
    ({"turn": A.Rotate(interpolation=4)}, r"turn \(Rotate with interpolation=4\)"),
    ({"hole": A.CoarseDropout(fill="random")}, r"hole \(CoarseDropout with fill='random'\)"),
    ({"deep": A.OneOf([A.Sequential([A.NoOp(), A.Equalize()])])}, r"deep\.0\.1 \(Equalize\)"),
    ({"any": A.OneOrOther(A.NoOp(), A.HorizontalFlip())}, r"any \(OneOrOther\)"),
    ({"order": A.RandomOrder([A.NoOp(), A.HorizontalFlip()])}, r"order \(RandomOrder\)"),
]


@pytest.mark.parametrize(("steps", "culprit"), UNSUPPORTED)
def test_what_is_not_lowered_sends_the_whole_recipe_to_albumentations(steps, culprit, caplog):
    with caplog.at_level(logging.WARNING):
        augment = augmentation(steps, backend="auto", image_size=32)
    assert isinstance(augment, PerPicture)
    assert len(caplog.records) == 1
    with pytest.raises(
        ValueError, match=f"aug.backend=batched cannot run aug.image.{culprit}; it runs .*Affine.*Solarize"
    ):
        augmentation(steps, backend="batched", image_size=32)
    with pytest.raises(NotLowered, match=culprit):
        lower(steps)


REFUSED = [
    (
        {"pad": A.PadIfNeeded(40, 40, p=0.5)},
        "aug.image.pad must leave pictures of one size, got 32x32, 40x40",
    ),
    (
        {"flip": A.HorizontalFlip(), "scale": A.RandomScale(p=0.01)},
        "aug.image.scale must leave pictures of one size",
    ),
    (
        {"one": A.OneOf([A.CenterCrop(20, 20), A.CenterCrop(16, 16, p=0.01)], p=1)},
        "aug.image.one must .* 16x16, 20x20",
    ),
    ({"some": A.SomeOf([A.CenterCrop(20, 20), A.NoOp()], n=1)}, "aug.image.some must .* 20x20, 32x32"),
    ({"or": A.OneOrOther(A.CenterCrop(20, 20), A.NoOp())}, "aug.image.or must .* 20x20, 32x32"),
    ({"crop": A.RandomCrop(64, 64)}, "aug.image.crop fails on pictures of 32x32: .*"),
    ({"norm": A.Normalize()}, "aug.image.norm must return uint8 pictures; normalisation belongs to data"),
    ({"float": A.ToFloat(p=0.2)}, "aug.image.float must return uint8 pictures; .* happens last"),
    ({"tensor": A.ToTensorV2()}, "aug.image.tensor must return uint8 pictures"),
    ({"grey": A.ToGray(num_output_channels=1)}, r"aug.image.grey must keep three channels, got \(32, 32\)"),
]


@pytest.mark.parametrize(("steps", "message"), REFUSED)
def test_recipes_that_do_not_leave_pictures_of_one_kind_are_refused(steps, message):
    with pytest.raises(ValueError, match=message):
        augmentation(steps, image_size=32)


def test_a_subclass_of_a_container_is_unknown():
    with pytest.raises(NotLowered, match=r"0 \(ReplayCompose\)"):
        lower(A.ReplayCompose([A.HorizontalFlip()]))


def test_probability_of_a_whole_recipe_counts():
    images = torch.arange(12, dtype=torch.uint8).view(1, 3, 2, 2).expand(300, -1, -1, -1)
    result = lower(A.Compose([A.InvertImg(p=1)], p=0.25))(images, keys(300))
    assert 50 < (result != images).flatten(1).all(1).sum() < 100


OWN = """
import albumentations as A
from cifar_core.augment.lowering import Lowering


def apply(step, images, params):
    return images | 1


class Odd(A.ImageOnlyTransform):
    def apply(self, image, **params):
        return image | 1


LOWERED = {Odd: Lowering(apply)}
"""


def test_a_transform_of_ones_own_is_one_file(tmp_path, monkeypatch, pictures):
    (tmp_path / "own_odd.py").write_text(OWN)
    monkeypatch.setattr("cifar_core.augment.steps.__path__", [*steps_package.__path__, str(tmp_path)])
    lowered.cache_clear()
    try:
        odd = next(kind for kind in lowered() if kind.__name__ == "Odd")
        images = pictures(20, 32, 32)
        expected, draws = record([odd(p=0.5)], images, seed=0)
        assert torch.equal(lower([odd(p=0.5)]).replay(images, draws), expected)
    finally:
        lowered.cache_clear()


def test_sizes_may_differ_on_the_way(pictures):
    steps = {
        "pad": A.PadIfNeeded(40, 44, p=0.5),
        "turn": A.RandomRotate90(),
        "crop": A.RandomCrop(32, 32, p=1),
    }
    for backend in ("batched", "albumentations"):
        augment = augmentation(steps, backend=backend, image_size=32)
        assert augment(pictures(20, 32, 32), keys(20)).shape == (20, 3, 32, 32)


def test_unknown_backend_is_refused():
    with pytest.raises(
        ValueError, match="aug.backend must be one of auto, batched, albumentations, got 'gpu'"
    ):
        augmentation({}, backend="gpu", image_size=32)


def test_replay_takes_applied_transforms_where_classes_are_unique(pictures):
    steps = [
        A.HorizontalFlip(),
        A.OneOf([A.Rotate(20), A.Solarize()], p=0.9),
        A.CoarseDropout((1, 3), fill=7),
    ]
    images = pictures(30, 32, 32)
    compose = A.Compose(steps, save_applied_params=True, seed=1)
    results = [compose(image=image.permute(1, 2, 0).contiguous().numpy()) for image in images]
    expected = torch.stack([torch.from_numpy(result["image"]).permute(2, 0, 1) for result in results])
    replayed = lower(steps).replay(images, [result["applied_transforms"] for result in results])
    assert ((replayed.int() - expected.int()).abs() <= 2).float().mean() >= 0.99


def test_replay_refuses_draws_that_do_not_tell_the_leaf(pictures):
    images = pictures(1, 32, 32)
    applied = [[("HorizontalFlip", {"shape": (32, 32, 3)})]]
    with pytest.raises(ValueError, match="unique classes, got HorizontalFlip at 0 and 1.0; use record"):
        lower([A.HorizontalFlip(), A.OneOf([A.HorizontalFlip()])]).replay(images, applied)
    with pytest.raises(ValueError, match="must name one of VerticalFlip, got HorizontalFlip"):
        lower([A.VerticalFlip()]).replay(images, applied)
    with pytest.raises(ValueError, match="draws for each of 1 pictures, got 2"):
        lower([A.VerticalFlip()]).replay(images, applied * 2)
    _, draws = record([A.VerticalFlip(p=1), A.Solarize(p=1)], images, seed=0)
    with pytest.raises(ValueError, match="draws must follow the recipe, got Solarize at '1' out of order"):
        lower([A.VerticalFlip(p=1)]).replay(images, draws)


def test_record_notes_every_leaf():
    steps = {
        "flip": A.HorizontalFlip(p=0),
        "one": A.OneOf([A.Solarize(), A.NoOp()], p=1),
        "turn": A.Rotate(p=1),
    }
    _, draws = record(steps, torch.zeros(8, 3, 8, 8, dtype=torch.uint8), seed=0)
    for row in draws:
        assert sorted(draw.path for draw in row) == ["flip", "one.0", "one.1", "turn"]
        assert [draw.path for draw in row if draw.applied][-1] == "turn"
        assert sum(draw.applied for draw in row) == 2
        assert all(bool(draw.params) == draw.applied for draw in row)


def test_one_object_in_two_places_is_two_steps(pictures):
    flip = A.HorizontalFlip(p=0.5)
    steps = [A.Sequential([flip], p=1), A.InvertImg(p=0.5), flip]
    images = pictures(40, 32, 32)
    expected, draws = record(steps, images, seed=0)
    assert torch.equal(lower(steps).replay(images, draws), expected)


@pytest.mark.parametrize("last", [A.Normalize(), A.Normalize(mean=0.5, std=0.25), A.ToFloat()])
def test_recipes_may_end_in_float_pictures(last, pictures):
    steps = [
        A.HorizontalFlip(),
        last,
        A.CoarseDropout(fill=0.25),
        A.Pad(2, fill=-1.5),
        A.RandomCrop(32, 30),
        A.ToTensorV2(),
    ]
    images = pictures(20, 32, 32)
    expected, draws = record(steps, images, seed=0)
    pipeline = lower(steps)
    assert torch.equal(pipeline.replay(images, draws), expected)
    assert pipeline(images, keys(20)).dtype == torch.float32


@pytest.mark.parametrize(
    "steps", [[A.Normalize(p=0.5)], [A.OneOf([A.ToFloat()])], [A.Normalize(), A.Solarize()]]
)
def test_float_pictures_must_be_all_and_last(steps):
    with pytest.raises(NotLowered):
        lower(steps)


def test_only_batches_of_uint8_pictures_are_taken(pictures):
    for images in (pictures(2, 8, 8).float(), pictures(2, 8, 8)[0], pictures(2, 8, 8)[:, :1]):
        with pytest.raises(ValueError, match=r"images must be uint8 \(N, 3, H, W\)"):
            lower([A.HorizontalFlip()])(images, keys(len(images)))


def test_layout_of_the_input_does_not_matter(pictures):
    images = pictures(16, 32, 40)
    augment = lower(list(crop_flip_cutout().values()))
    strided = images.to(memory_format=torch.channels_last)
    assert torch.equal(augment(strided, keys(16)), augment(images, keys(16)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_and_cpu_agree(pictures):
    images = pictures(64, 32, 32)
    augment = augmentation(crop_flip_cutout(), image_size=32)
    here, there = augment(images, keys(64)), augment(images.cuda(), keys(64))
    assert there.is_cuda
    assert ((here.int() - there.cpu().int()).abs() <= 2).float().mean() >= 0.99


@pytest.mark.slow
def test_the_number_of_workers_changes_nothing():
    images = torch.randint(
        256, (13, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    steps = {"crop": A.RandomCrop(24, 24, p=1.0), "hue": A.HueSaturationValue(p=0.5)}
    alone, shared = (PerPicture(steps, workers=workers)(images, keys(13, seed=1)) for workers in (0, 2))
    assert torch.equal(alone, shared)


@pytest.mark.parametrize("workers", [-1, "many", 1.5])
def test_workers_must_be_auto_or_a_number(workers):
    with pytest.raises(ValueError, match="aug.workers must be auto or a number of processes, got"):
        augmentation({}, workers=workers, image_size=32)
