"""An epoch's lots and blocks: the same pictures whatever the block, the batch or the seed's neighbours."""

import albumentations as A
import numpy as np
import pytest
import torch

from cifar_core.augment.pipeline import augmentation
from cifar_core.augment.uniforms import picture_keys
from cifar_core.data.split import Split
from cifar_core.train import epoch
from tests.conftest import trainer_settings

COUNT = 103
STEPS = {
    "pad": A.Pad(padding=2),
    "crop": A.RandomCrop(8, 8),
    "flip": A.HorizontalFlip(p=0.5),
    "one": A.OneOf([A.GaussNoise(), A.ColorJitter(), A.Rotate(30)], p=0.7),
}


def pictures(size: int = 8) -> Split:
    images = torch.randint(256, (COUNT, 3, size, size), generator=torch.Generator().manual_seed(3))
    return Split(images.to(torch.uint8), torch.arange(COUNT) % 7, torch.arange(COUNT), None)


def shown(lot: epoch.Lot, augment, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = zip(*epoch.batches(lot, pictures(), augment, batch_size), strict=True)
    assert {len(part) for part in images} == {batch_size}
    return torch.cat(images), torch.cat(labels)


@pytest.mark.parametrize("backend", ["batched", "albumentations"])
@pytest.mark.parametrize("alternating_flip", [False, True])
def test_blocks_show_the_pictures_that_batch_by_batch_would(monkeypatch, backend, alternating_flip):
    settings = trainer_settings(batch_size=4, alternating_flip=alternating_flip)
    lot = epoch.draw(5, 2, COUNT, settings)
    augment = augmentation(STEPS, backend=backend, image_size=8)
    split, expected = pictures(), []
    for row, key, position in zip(lot.order, lot.keys, range(len(lot)), strict=True):
        image = split.images[row]
        if alternating_flip and lot.mirrored[position]:
            image = image.flip(-1)
        expected.append(augment(image[None], key[None]))
    for most in (1, 4, 9, 64, 4096):
        monkeypatch.setattr(epoch, "PICTURES", {"cpu": most})
        images, labels = shown(lot, augment, 4)
        assert torch.equal(images, torch.cat(expected))
        assert torch.equal(labels, split.labels[lot.order])


def test_an_epoch_is_drawn_at_once_from_seed_and_number():
    """The generator's stream is that of a permutation, then a key a picture."""
    settings = trainer_settings(batch_size=10, accumulate=3)
    lot = epoch.draw(3, 7, COUNT, settings)
    own, everyone = np.random.SeedSequence([3, 7]).generate_state(2, np.uint64).tolist()
    generator = torch.Generator().manual_seed(own >> 1)
    assert torch.equal(lot.order, torch.randperm(COUNT, generator=generator)[:90])  # whole steps of 30
    assert torch.equal(lot.keys, torch.cat([picture_keys(10, generator) for _ in range(9)]))
    assert torch.initial_seed() == everyone >> 1
    assert len(lot) == 90
    assert lot.mirrored is None


def test_a_block_of_which_no_picture_is_mirrored_is_shown_as_it_is():
    split = pictures()
    lot = epoch.Lot(torch.arange(4), torch.arange(4), torch.zeros(4, dtype=torch.bool))
    ((images, _),) = epoch.batches(lot, split, augmentation({}, image_size=8), 4)
    assert torch.equal(images, split.images[:4])


@pytest.mark.parametrize("kept", [slice(1, None), slice(0, 20)])
def test_an_augmentation_that_loses_pictures_is_told(kept: slice):
    lot = epoch.draw(0, 1, COUNT, trainer_settings(batch_size=20))
    with pytest.raises(
        ValueError, match="the augmentation must return as many pictures as it gets, 100, got"
    ):
        next(epoch.batches(lot, pictures(), lambda images, keys: images[kept], 20))


def test_pictures_of_the_training_set_stay_as_they_are():
    split = pictures()
    before = split.images.clone()
    lot = epoch.draw(0, 1, COUNT, trainer_settings(batch_size=COUNT, alternating_flip=True))
    for images, _ in epoch.batches(lot, split, augmentation({}, image_size=8), COUNT):
        images.zero_()
    assert torch.equal(split.images, before)


@pytest.mark.parametrize(
    ("size", "batch_size", "expected"),
    [
        (32, 128, 1024),
        (32, 1000, 1000),
        (32, 600, 600),
        (32, 5000, 5000),  # at least one batch
        (8, 1, 1024),
        (224, 64, 64 * 6),  # 64 MB hold 445 pictures
        (4000, 2, 2),
    ],
)
def test_a_block_is_whole_batches_within_its_limits(size, batch_size, expected):
    images = torch.empty(1, dtype=torch.uint8).expand(1, 3, size, size)
    assert epoch.block_size(images, batch_size) == expected
