"""Which pictures an epoch shows, in which order, and the batches they come in."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cifar_core.augment.protocol import Augment
from cifar_core.augment.uniforms import picture_keys
from cifar_core.data.split import Split
from cifar_core.device import beside, put
from cifar_core.train.settings import TrainerSettings
from cifar_core.train.state import steps_per_epoch

BYTES = 64 * 2**20  # of pictures that are augmented together
PICTURES = {"cuda": 4096, "cpu": 1024, "mps": 1024}  # likewise; on a CPU more fall out of its caches


@dataclass(frozen=True)
class Lot:
    """What an epoch draws for its pictures; on the CPU, so that all devices draw the same."""

    order: Tensor  # (N,) int64, positions in the training set
    keys: Tensor  # (N,) int64, what each one's augmentation follows from
    mirrored: Tensor | None  # (N,) bool, whether it is shown mirrored; None: none is

    def __len__(self) -> int:
        """Return the number of pictures shown."""
        return len(self.order)


def draw(seed: int, epoch: int, pictures: int, settings: TrainerSettings) -> Lot:
    """Draw lots for an ``epoch``, counted from 1, of a training set of so many ``pictures``.

    All of it follows from (seed, epoch), and so does torch's global stream (dropout, mix-up), which is seeded
    here. Pictures that fill no optimizer step are left out.
    """
    own, everyone = np.random.SeedSequence([seed, epoch]).generate_state(2, np.uint64).tolist()
    torch.manual_seed(everyone >> 1)
    generator = torch.Generator().manual_seed(own >> 1)
    used = steps_per_epoch(pictures, settings) * settings.accumulate * settings.batch_size
    order = torch.randperm(pictures, generator=generator)[:used]
    keys = picture_keys(used, generator)
    return Lot(order, keys, _mirrored(seed, epoch, pictures)[order] if settings.alternating_flip else None)


def _mirrored(seed: int, epoch: int, pictures: int) -> Tensor:
    """Return which pictures (N,) an epoch shows mirrored: a random half in odd ones, the others in even ones.

    So two epochs in a row show both sides of every picture. Source: Jordan 2024, arXiv:2404.00498.
    """
    (own,) = np.random.SeedSequence([seed, 0]).generate_state(1, np.uint64).tolist()
    half = torch.rand(pictures, generator=torch.Generator().manual_seed(own >> 1)) < 0.5
    return half if epoch % 2 else ~half


def batches(lot: Lot, pictures: Split, augment: Augment, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield augmented uint8 pictures (B, 3, H', W') and labels (B,), on the pictures' device.

    The augmentation runs on blocks of whole batches: a GPU then gets few large operations instead of many
    small ones, and waits for none of them.
    """
    block = block_size(pictures.images, batch_size)
    order = beside(pictures.images, lot.order)
    for start in range(0, len(order), block):
        rows = order[start : start + block]
        images = pictures.images.index_select(0, rows).contiguous()
        if lot.mirrored is not None:
            images = _flipped(images, lot.mirrored[start : start + block])
        images = augment(images, lot.keys[start : start + block])
        labels = pictures.labels.index_select(0, rows)
        if len(images) != len(labels):
            law = f"must return as many pictures as it gets, {len(labels)}"
            raise ValueError(f"the augmentation {law}, got {len(images)}")
        yield from zip(images.split(batch_size), labels.split(batch_size), strict=True)


def _flipped(images: Tensor, marked: Tensor) -> Tensor:
    """Swap left and right of the pictures ``marked`` (N,), in place."""
    if not marked.any():
        return images
    places = beside(images, marked.nonzero()[:, 0])
    return put(images, places, images.index_select(0, places).flip(-1))


def block_size(images: Tensor, batch_size: int) -> int:
    """Return how many of ``images`` (N, 3, H, W) are augmented together: whole batches, at least one."""
    most = min(PICTURES.get(images.device.type, 4096), BYTES // max(images[:1].nbytes, 1))
    return max(most // batch_size, 1) * batch_size
