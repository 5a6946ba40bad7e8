"""Loads a source's pictures and splits them; a source is a function."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from cifar_core.data import cifar, folder
from cifar_core.data.cache import Decoded, Pictures, cached, fingerprint
from cifar_core.data.settings import DataSettings
from cifar_core.data.split import Data, Split, split_off

TEST_SPLIT_SEED = 0  # the same test set for everyone, whatever data.split_seed splits off as val

log = logging.getLogger(__name__)


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
        mean=triple(settings.mean),
        std=triple(settings.std),
        fingerprint=stamp,
    )


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
    source, root = cifar.ARCHIVES[settings.source], Path(settings.root).expanduser()
    path = cifar.locate(source, root, download=settings.download)

    def decode() -> Decoded:
        decoded = cifar.decode(source, path)
        test = decoded.test and _resized(decoded.test, settings.image_size)
        return Decoded(decoded.classes, _resized(decoded.train, settings.image_size), test)

    files = cifar.stamps(source, path)
    return cached(_cache(settings), settings.source, root, settings.image_size, files, decode)


def _folder(settings: DataSettings) -> tuple[Decoded, str]:
    root = Path(settings.root).expanduser()
    listed = folder.scan(root)
    if listed.test is None:
        amount = f"{settings.test_size:.0%}" if settings.test_size < 1 else f"{settings.test_size:g}"
        log.info("no test folder in %s: %s of the pictures split off as test set", root, amount)
    return cached(
        _cache(settings),
        settings.source,
        root,
        settings.image_size,
        listed.files,
        lambda: folder.decode(listed, settings.image_size),
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


def triple(values: Sequence[float]) -> tuple[float, float, float]:
    """Return one number a channel, red, green, blue."""
    red, green, blue = map(float, values)
    return red, green, blue
