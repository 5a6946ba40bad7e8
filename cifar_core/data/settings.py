"""Which pictures, how they are split and how they are normalised."""

import copy
import math
import os
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from cifar_core.laws import law, one_of

SOURCES = ("cifar10", "cifar100", "folder", "digits")
AUTO = "auto"  # as mean or std: measured on the training pictures

SUITED: dict[str, dict[str, Any]] = {  # where a source differs from the defaults, which are CIFAR-10's
    "cifar100": {"mean": [129.3, 124.1, 112.4], "std": [68.2, 65.4, 70.4]},
    "folder": {
        "root": "",
        "download": False,
        "mean": AUTO,
        "std": AUTO,
        "val_size": 0.1,
        "test_size": 0.2,
    },
    "digits": {
        "download": False,
        "mean": [77.9, 77.9, 77.9],
        "std": [82.5, 82.5, 82.5],
        "val_size": 0.1,
        "test_size": 0.2,
    },
}


def _are_three(values: Any) -> bool:
    numbers = isinstance(values, Sequence) and not isinstance(values, str)
    return numbers and len(values) == 3 and all(type(value) in (int, float) for value in values)


def _share_or_count(key: str, got: float) -> None:
    whole = float(got).is_integer()
    law(got >= 0 and (got < 1 or whole), key, "0, a share below 1, or a whole number of pictures", got)


def split_count(size: float, count: int) -> int:
    """Return how many of `count` pictures a split of `size`, a share below 1 or a number, takes."""
    return max(1, round(size * count)) if 0 < size < 1 else int(size)


@dataclass(init=False, kw_only=True)
class DataSettings:
    """Which pictures, how they are split and how they are normalised.

    What is not given is as in conf/data/<source>.yaml; a folder's ``root`` must be given.
    """

    source: str = "cifar10"  # one of SOURCES
    # Folder of the archive (cifar10, cifar100) or of train/ and test/ (folder). Here without a default, so
    # that a configuration of data=folder which lacks it is refused.
    root: str
    # folder for decoded pictures
    cache: str = field(default_factory=lambda: os.environ.get("CIFAR_CACHE", "~/.cache/cifar/decoded"))
    download: bool = True  # fetch what is missing from the network
    image_size: int = 32  # pixels a side; other sizes are resized once
    # What transparent pictures of a folder are laid over, per channel, whole numbers of 0-255; Any, so that a
    # word gets this law's line.
    background: Any = field(default_factory=lambda: [255, 255, 255])
    white: float = 0  # the value that is white in pictures of more than 8 bits; 0 = as the file type says
    # Per channel, 0-255, or AUTO; Any, as OmegaConf has no type for "a list or a word".
    mean: Any = field(default_factory=lambda: [125.3, 123.0, 113.9])
    std: Any = field(default_factory=lambda: [63.0, 62.1, 66.7])
    val_size: float = 5000  # split off the training set; below 1 a share, else a number of pictures; 0 = none
    test_size: float = 0  # the same, for sources that come without a test set
    split_seed: int = 0  # the splits' own seed, apart from the run's

    def __init__(
        self,
        source: str = "cifar10",
        *,
        root: str | None = None,
        cache: str | None = None,
        download: bool | None = None,
        image_size: int | None = None,
        background: Sequence[int] | None = None,
        white: float | None = None,
        mean: Sequence[float] | str | None = None,
        std: Sequence[float] | str | None = None,
        val_size: float | None = None,
        test_size: float | None = None,
        split_seed: int | None = None,
    ) -> None:
        one_of("data.source", SOURCES, source)
        self.source = source
        given: dict[str, Any] = {
            "root": root,
            "cache": cache,
            "download": download,
            "image_size": image_size,
            "background": background,
            "white": white,
            "mean": mean,
            "std": std,
            "val_size": val_size,
            "test_size": test_size,
            "split_seed": split_seed,
        }
        for name, suited in _defaults(source).items():
            setattr(self, name, suited if given[name] is None else given[name])
        self._check()

    def _check(self) -> None:
        law(bool(self.root), "data.root", "a folder", self.root)
        law(bool(self.cache), "data.cache", "a folder", self.cache)
        law(self.image_size >= 8, "data.image_size", "at least 8", self.image_size)
        for key in ("background", "mean", "std"):
            values, key = getattr(self, key), f"data.{key}"
            if values == AUTO and key != "data.background":
                continue
            word = isinstance(values, str) and key != "data.background"
            which = "auto or three numbers" if word else "three numbers"
            law(_are_three(values), key, f"{which}, one a channel", values)
            law(all(0 <= v <= 255 for v in values), key, "between 0 and 255", values)
        law(0 <= self.white < math.inf, "data.white", "0 or above", self.white)
        whole = all(type(value) is int for value in self.background)
        law(whole, "data.background", "whole numbers", self.background)
        files = self.source == "folder"
        law(
            files or list(self.background) == [255] * 3,
            "data.background",
            "left out but with data=folder",
            list(self.background),
        )
        law(files or not self.white, "data.white", "left out but with data=folder", self.white)
        law(self.std == AUTO or all(v > 0 for v in self.std), "data.std", "above 0", self.std)
        _share_or_count("data.val_size", self.val_size)
        _share_or_count("data.test_size", self.test_size)
        law(self.split_seed >= 0, "data.split_seed", "at least 0", self.split_seed)


def _defaults(source: str) -> dict[str, Any]:
    """Return what a source's settings are where they are not given."""
    values: dict[str, Any] = {"root": os.environ.get("CIFAR_ROOT", "~/.cache/cifar")}
    for key in fields(DataSettings)[2:]:
        values[key.name] = key.default if key.default_factory is MISSING else key.default_factory()
    return values | copy.deepcopy(SUITED.get(source, {}))
