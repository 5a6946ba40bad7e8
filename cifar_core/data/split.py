"""Pictures of all splits, resident on one device as uint8 tensors."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cifar_core.data.settings import split_count


@dataclass(frozen=True)
class Split:
    """The pictures of one split, on one device."""

    images: Tensor  # uint8 (N, 3, H, W)
    labels: Tensor  # int64 (N,)
    index: Tensor  # int64 (N,), position in the source's own train or test list
    names: Sequence[str] | None  # file of each picture relative to data.root; None where there are none

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Split":
        """Return the split on `device`."""
        return replace(
            self,
            images=self.images.to(device),
            labels=self.labels.to(device),
            index=self.index.to(device),
        )


@dataclass(frozen=True)
class Data:
    """A source's pictures in three splits, and how to normalise them."""

    source: str
    classes: tuple[str, ...]
    train: Split
    val: Split  # empty where data.val_size is 0
    test: Split
    mean: tuple[float, float, float]  # per channel, 0-255
    std: tuple[float, float, float]  # per channel, 0-255
    fingerprint: str  # hash of all pictures, labels, class names before the splits, and of how lots are drawn

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def image_size(self) -> int:
        """Pixels a side."""
        return self.train.images.shape[-1]

    def to(self, device: torch.device | str) -> "Data":
        """Return the data with all splits on `device`."""
        splits = {name: getattr(self, name).to(device) for name in ("train", "val", "test")}
        return replace(self, **splits)

    def normalize(self, images: Tensor) -> Tensor:
        """Turn uint8 images (N, 3, H, W) into float32 (x - mean) / std; device and memory format stay."""
        return normalized(images, *self.constants(images.device))

    def constants(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return mean and std, each (3, 1, 1), on ``device``."""
        return _channels(self.mean, device), _channels(self.std, device)


def normalized(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return float32 (images - mean) / std."""
    return images.sub(mean).div_(std)


def split_off(labels: np.ndarray, size: float, seed: int, *, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Split positions 0..N-1 in two, each class in the same shares: the rest, and `size` split off.

    `size` below 1 is a share, else a number of pictures, met exactly. Each class gives its share rounded up
    or down: by largest remainders, or by lot where `is_drawn` says so, but never its last picture. The split
    depends on labels, size and seed alone. Raises `ValueError` naming `key` where it leaves a class empty.
    """
    taken, counts = split_count(size, len(labels)), np.bincount(labels)
    if taken > len(labels) - np.count_nonzero(counts):
        raise ValueError(
            f"{key} must leave every class a picture to train on, got {size:g} of {len(labels)} pictures"
            f" in {np.count_nonzero(counts)} classes"
        )
    shares = None if is_drawn(labels, size) else _largest_remainders(counts, taken)
    if shares is None:
        shares = _drawn(counts, taken, seed)
    is_off = np.zeros(len(labels), dtype=bool)
    for label, share in enumerate(shares):
        members = np.flatnonzero(labels == label)
        # random_raw keeps its stream in all NumPy versions, Generator.permutation does not (NEP 19)
        draws = np.random.PCG64([seed, label]).random_raw(len(members))
        is_off[members[np.argsort(draws, kind="stable")[:share]]] = True
    return np.flatnonzero(~is_off), np.flatnonzero(is_off)


def is_drawn(labels: np.ndarray, size: float) -> bool:
    """Return whether a class is so small that its share of `size` is less than one picture.

    Then a lot decides which of such classes give one: largest remainders would always take the first.
    """
    counts, taken = np.bincount(labels), split_count(size, len(labels))
    return taken > 0 and bool(np.any((counts > 0) & (taken * counts < len(labels))))


def _largest_remainders(counts: np.ndarray, taken: int) -> np.ndarray | None:
    """Return how many pictures each class gives, None where a class would give its last."""
    shares, remainders = np.divmod(taken * counts, max(1, counts.sum()))
    remainders[shares + 1 >= counts] = -1  # the last picture of a class is not for rounding up
    shares[np.argsort(-remainders, kind="stable")[: taken - shares.sum()]] += 1
    return None if np.any((shares >= counts) & (counts > 0)) else shares


def _drawn(counts: np.ndarray, taken: int, seed: int) -> np.ndarray:
    """Return how many pictures each class gives: systematic sampling along a random order of the classes.

    With one random start, every class gets its exact share rounded up or down, and that share on average
    (Madow 1949, Annals of Mathematical Statistics 20). Classes whose share is more than all but one of
    their pictures give just those; the others share what is left.
    """
    limits = np.maximum(counts - 1, 0)
    capped = counts == 0
    while True:
        left, pictures = taken - limits[capped].sum(), counts[~capped].sum()
        above = ~capped & (left * counts > limits * pictures)
        if not above.any():
            break
        capped |= above
    draws = np.random.PCG64([seed, len(counts)]).random_raw(len(counts) + 1)  # no class has this label
    order = np.argsort(draws[:-1], kind="stable")
    weights = np.where(capped, 0, left * counts)[order]
    start = int(draws[-1]) % max(1, int(pictures))
    passed = -((start - np.concatenate([[0], np.cumsum(weights)])) // max(1, pictures))  # rounded up
    shares = np.empty_like(counts)
    shares[order] = np.diff(passed)
    return shares + np.where(capped, limits, 0)


@functools.cache
def _channels(values: tuple[float, float, float], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(3, 1, 1)
