"""Loads a source's pictures and splits them; a source is a function."""

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from cifar_core.data import cifar, folder, layout
from cifar_core.data.cache import Decoded, Pictures, cached, fingerprint
from cifar_core.data.normalisation import constants
from cifar_core.data.picture import PLAIN, Reading
from cifar_core.data.settings import DataSettings
from cifar_core.data.split import Data, Split, is_drawn, split_off

TEST_SPLIT_SEED = 0  # the same test set for everyone, whatever data.split_seed splits off as val

log = logging.getLogger(__name__)


def load_data(settings: DataSettings, *, judge: bool = False) -> Data:
    """Load a source's pictures on the CPU and split them.

    May download, and writes decoded pictures to `data.cache`. Images may be memory-mapped copy-on-write.
    To `judge` a network, a folder needs nothing to train on: see `cifar_core.data.folder.scan`; where it has
    no train folder, train and val are empty.
    Raises `FileNotFoundError` for absent data, `OSError` for damaged files or an unwritable cache,
    `ValueError` for class folders or split sizes that do not work.
    """
    loader = _folder_to_judge if judge and settings.source == "folder" else LOADERS[settings.source]
    decoded, stamp = loader(settings)
    pictures, labels = decoded.train, decoded.train.labels
    own = np.arange(len(labels))
    val = test = np.arange(0)
    drawn = False
    if decoded.test is None:
        own, test = _off(own, labels, settings.test_size, TEST_SPLIT_SEED, "test")
        drawn = is_drawn(labels, settings.test_size)
        if not len(test):
            raise ValueError(
                f"data.test_size must be above 0, as {settings.source} has no test set here, got 0"
            )
    if decoded.val is None and len(own):
        drawn |= is_drawn(labels[own], settings.val_size)
        own, val = _off(own, labels, settings.val_size, settings.split_seed, "val")
    elif decoded.val is not None and settings.val_size == 0:  # no validation split: all are for training
        own = np.concatenate([own, len(labels) + np.arange(len(decoded.val.labels))])
        pictures = _joined(pictures, decoded.val)
    own_val = decoded.val is not None and settings.val_size > 0
    training, cache = _split(pictures, own), None if settings.source == "digits" else _cache(settings)
    mean, std = constants(settings, training, cache=cache, stamp=stamp)
    return Data(
        source=settings.source,
        classes=decoded.classes,
        train=training,
        val=_whole(decoded.val) if decoded.val is not None and own_val else _split(decoded.train, val),
        test=_split(decoded.train, test) if decoded.test is None else _whole(decoded.test),
        mean=mean,
        std=std,
        fingerprint=_of_drawn(stamp) if drawn else stamp,
    )


def _off(
    own: np.ndarray, labels: np.ndarray, size: float, seed: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Split positions in two; say how many classes have none in the part split off."""
    rest, off = split_off(labels[own], size, seed, key=f"data.{name}_size")
    classes, lacking = np.unique(labels[own]), np.setdiff1d(labels[own], labels[own[off]])
    if len(off) and len(lacking):
        log.warning(
            "%d of %d classes have no %s picture: data.%s_size=%g takes %d of %d pictures, and which of the "
            "small ones give one is drawn by lot",
            len(lacking),
            len(classes),
            name,
            name,
            size,
            len(off),
            len(own),
        )
    return own[rest], own[off]


def _of_drawn(stamp: str) -> str:
    """Return another fingerprint for splits with a lot: earlier versions split these pictures otherwise."""
    return hashlib.blake2b(f"{stamp} drawn".encode(), digest_size=8).hexdigest()


def _joined(first: Pictures, second: Pictures) -> Pictures:
    names = None if first.names is None or second.names is None else first.names + second.names
    return Pictures(
        np.concatenate([first.images, second.images]), np.concatenate([first.labels, second.labels]), names
    )


def _whole(pictures: Pictures) -> Split:
    return _split(pictures, np.arange(len(pictures.labels)))


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
    return _pictures_of(settings, judge=False)


def _check_cache(root: Path, cache: Path, judge: bool) -> None:
    """Raise ValueError where the cache would be a class of its own from the second run on."""
    below = Path(os.path.relpath(cache.resolve(), root.resolve())).parts
    if not root.is_dir() or (below and below[0].startswith(".")):  # outside, or hidden
        return
    found = layout.find(root, judge=judge)
    if root in (found.train, found.test):
        raise ValueError(
            f"data.cache must not lie among the class folders of data.root, got {cache}: give one elsewhere, "
            f"or a hidden one, data.cache={root / '.cache'}"
        )


def _folder_to_judge(settings: DataSettings) -> tuple[Decoded, str]:
    return _pictures_of(settings, judge=True)


def _pictures_of(settings: DataSettings, *, judge: bool) -> tuple[Decoded, str]:
    root = Path(settings.root).expanduser()
    _check_cache(root, _cache(settings), judge)
    listed = folder.scan(root, judge=judge)
    for note in listed.notes:
        log.warning("%s", note)
    if listed.test is None:
        amount = f"{settings.test_size:.0%}" if settings.test_size < 1 else f"{settings.test_size:g}"
        log.info("no test folder in %s: %s of the pictures split off as test set", listed.root, amount)
    if listed.val is not None:
        use = "the validation split" if settings.val_size else "trained on too, as data.val_size=0 asks"
        log.info(
            "validation folder in %s: its %d pictures are %s; data.val_size splits off none",
            listed.root,
            len(listed.val.labels),
            use,
        )
    reading = reads(settings)
    only_judged = not listed.train.files  # its cache must not take the place of that of all splits

    def decode() -> Decoded:
        decoded = folder.decode(listed, settings.image_size, reading)
        now = folder.scan(listed.root, judge=judge).files  # their inodes are not steady on all file systems
        if [file[:-1] for file in now] != [file[:-1] for file in listed.files]:
            raise OSError(
                f"{listed.root} was changed while its pictures were read: start again when it is whole"
            )
        return decoded

    return cached(
        _cache(settings),
        settings.source,
        listed.root,
        settings.image_size,
        listed.files,
        decode,
        reading=" ".join(["" if reading == PLAIN else repr(reading), *(["judged"] * only_judged)]),
    )


def reads(settings: DataSettings) -> Reading:
    """Return how picture files are read."""
    red, green, blue = (int(value) for value in settings.background)
    return Reading((red, green, blue), float(settings.white))


def _digits(settings: DataSettings) -> tuple[Decoded, str]:
    table = np.loadtxt(_digits_file(), delimiter=",")  # a line a picture: 8x8 values 0-16, its label
    grey = resize(table[:, :-1].reshape(-1, 1, 8, 8) * (255 / 16), settings.image_size)
    images = np.repeat(grey, 3, axis=1)
    classes = tuple(str(digit) for digit in range(10))
    decoded = Decoded(classes, Pictures(images, table[:, -1].astype(np.int64), None), None)
    return decoded, fingerprint(decoded)


def _digits_file() -> Path:
    """Return the table that scikit-learn comes with; to import it for that would take two seconds."""
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("data=digits needs scikit-learn, which is not installed")
    return Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"


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
