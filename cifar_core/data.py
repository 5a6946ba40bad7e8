"""Pictures of all splits, resident on one device as uint8 tensors."""

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from cifar_core import archive, folder
from cifar_core.cache import Decoded, Pictures, cached, fingerprint
from cifar_core.settings import DataSettings

TEST_SPLIT_SEED = 0  # the same test set for everyone, whatever data.split_seed splits off as val

log = logging.getLogger(__name__)


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
    fingerprint: str  # hash of all pictures, labels and class names before val is split off

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
        return images.sub(_channels(self.mean, images.device)).div_(_channels(self.std, images.device))


def load_data(settings: DataSettings) -> Data:
    """Load a source's pictures on the CPU and split them.

    May download, and writes decoded pictures to `data.cache`. Images may be memory-mapped copy-on-write.
    Raises `FileNotFoundError` for absent data, `OSError` for damaged files or an unwritable cache,
    `ValueError` for class folders or split sizes that do not work.
    """
    decoded, stamp = LOADERS[settings.source](settings)
    labels = decoded.train.labels
    own, test = np.arange(len(labels)), decoded.test
    if test is None:
        own, rest = split_off(labels, settings.test_size, TEST_SPLIT_SEED, key="data.test_size")
        if not len(rest):
            raise ValueError(
                f"data.test_size must be above 0, as {settings.source} has no test set here, got 0"
            )
    train, val = split_off(labels[own], settings.val_size, settings.split_seed, key="data.val_size")
    return Data(
        source=settings.source,
        classes=decoded.classes,
        train=_split(decoded.train, own[train]),
        val=_split(decoded.train, own[val]),
        test=_split(decoded.train, rest) if test is None else _split(test, np.arange(len(test.labels))),
        mean=_triple(settings.mean),
        std=_triple(settings.std),
        fingerprint=stamp,
    )


def split_off(labels: np.ndarray, size: float, seed: int, *, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Split positions 0..N-1 in two, each class in the same shares: the rest, and `size` split off.

    `size` below 1 is a share, else a number of pictures, met exactly by largest remainders. The split
    depends on labels, size and seed alone. Raises `ValueError` naming `key` where it leaves a class empty.
    """
    taken = max(1, round(size * len(labels))) if 0 < size < 1 else int(size)
    counts = np.bincount(labels)
    shares, remainders = np.divmod(taken * counts, len(labels))
    remainders[shares + 1 >= counts] = -1  # the last picture of a class is not for rounding up
    shares[np.argsort(-remainders, kind="stable")[: taken - shares.sum()]] += 1
    if np.any((shares >= counts) & (counts > 0)):
        raise ValueError(
            f"{key} must leave every class a picture to train on, got {size:g} of {len(labels)} pictures"
            f" in {np.count_nonzero(counts)} classes"
        )
    is_off = np.zeros(len(labels), dtype=bool)
    for label, share in enumerate(shares):
        members = np.flatnonzero(labels == label)
        # random_raw keeps its stream in all NumPy versions, Generator.permutation does not (NEP 19)
        draws = np.random.PCG64([seed, label]).random_raw(len(members))
        is_off[members[np.argsort(draws, kind="stable")[:share]]] = True
    return np.flatnonzero(~is_off), np.flatnonzero(is_off)


def resize(images: np.ndarray, image_size: int) -> np.ndarray:
    """Resize images (N, C, H, W), values 0-255, to uint8 (N, C, image_size, image_size), antialiased."""
    size = (image_size, image_size)
    resized = np.empty((*images.shape[:2], *size), dtype=np.uint8)
    for start in range(0, len(images), 1000):  # bounds the memory that float32 takes
        chunk = torch.from_numpy(images[start : start + 1000]).float()
        chunk = F.interpolate(chunk, size, mode="bilinear", antialias=True)
        resized[start : start + 1000] = chunk.round().clamp(0, 255).byte().numpy()
    return resized


def _cifar(settings: DataSettings) -> tuple[Decoded, str]:
    source, root = archive.ARCHIVES[settings.source], Path(settings.root).expanduser()
    path = archive.locate(source, root, download=settings.download)

    def decode() -> Decoded:
        decoded = archive.decode(source, path)
        test = decoded.test and _resized(decoded.test, settings.image_size)
        return Decoded(decoded.classes, _resized(decoded.train, settings.image_size), test)

    files = archive.stamps(source, path)
    return cached(_cache(settings), settings.source, root, settings.image_size, files, decode)


def _folder(settings: DataSettings) -> tuple[Decoded, str]:
    root = Path(settings.root).expanduser()
    found = folder.scan(root)
    if found.test is None:
        amount = f"{settings.test_size:.0%}" if settings.test_size < 1 else f"{settings.test_size:g}"
        log.info("no test folder in %s: %s of the pictures split off as test set", root, amount)
    return cached(
        _cache(settings),
        settings.source,
        root,
        settings.image_size,
        found.files,
        lambda: folder.decode(found, settings.image_size),
    )


def _digits(settings: DataSettings) -> tuple[Decoded, str]:
    from sklearn.datasets import load_digits  # takes a second; only this source needs it

    digits = load_digits()
    grey = resize(digits.images[:, None] * (255 / 16), settings.image_size)  # 8x8, values 0-16
    images = np.repeat(grey, 3, axis=1)
    classes = tuple(str(name) for name in digits.target_names)
    decoded = Decoded(classes, Pictures(images, digits.target.astype(np.int64), None), None)
    return decoded, fingerprint(decoded)


LOADERS: dict[str, Callable[[DataSettings], tuple[Decoded, str]]] = {
    "cifar10": _cifar,
    "cifar100": _cifar,
    "folder": _folder,
    "digits": _digits,
}


def _cache(settings: DataSettings) -> Path:
    return Path(settings.cache).expanduser()


def _split(pictures: Pictures, index: np.ndarray) -> Split:
    whole = len(index) == len(pictures.labels)  # stays memory-mapped
    return Split(
        images=torch.from_numpy(pictures.images if whole else pictures.images[index]),
        labels=torch.from_numpy(pictures.labels[index]),
        index=torch.from_numpy(index),
        names=None if pictures.names is None else tuple(pictures.names[i] for i in index),
    )


def _resized(pictures: Pictures, image_size: int) -> Pictures:
    if pictures.images.shape[-1] == image_size:
        return pictures
    return replace(pictures, images=resize(pictures.images, image_size))


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue


@functools.cache
def _channels(values: tuple[float, float, float], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(3, 1, 1)
