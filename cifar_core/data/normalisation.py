"""Mean and standard deviation of training pictures: what `data.mean=auto` and `data.std=auto` stand for."""

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from cifar_core.data.cache import alone_in
from cifar_core.data.settings import AUTO, DataSettings
from cifar_core.data.split import Split
from cifar_core.device import doubles
from cifar_core.files import whole

DECIMALS = 2  # of the figures, in units of 0-255
CHUNK = 1 << 22  # bytes of pictures looked at together
CHANNELS = ("red", "green", "blue")
Triple = tuple[float, float, float]

log = logging.getLogger(__name__)


def statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel of uint8 images (N, 3, H, W), 0-255; exact sums."""
    sums = torch.zeros(2, 3, dtype=torch.int64, device=images.device)
    for chunk in images.split(max(1, CHUNK // images[0].numel())):
        pixels = chunk.int()
        sums += torch.stack([pixels.sum((0, 2, 3)), pixels.square().sum((0, 2, 3))])
    mean, square = doubles(sums) / (images.numel() / 3)
    return mean.tolist(), (square - mean.square()).clamp(min=0).sqrt().tolist()


def constants(
    settings: DataSettings, train: Split, *, cache: Path | None, stamp: str
) -> tuple[Triple, Triple]:
    """Return `data.mean` and `data.std`; `auto` is measured on ``train`` alone, to hundredths.

    With ``cache`` the figures are kept there, by the pictures' fingerprint ``stamp`` and the rows of the
    split, so that the trials of a sweep measure once. A channel without contrast gets std 1, and a line.
    """
    if AUTO not in (settings.mean, settings.std):
        return triple(settings.mean), triple(settings.std)
    mean, std = _measured(train, cache, stamp)
    if settings.std == AUTO and 0 in std:
        flat = ", ".join(name for name, value in zip(CHANNELS, std, strict=True) if value == 0)
        log.warning(
            "all training pictures have one and the same value in %s: data.std=auto is 1 there, "
            "so the network sees 0 in every pixel of it",
            flat,
        )
        std = [value or 1.0 for value in std]
    return (
        triple(mean if settings.mean == AUTO else settings.mean),
        triple(std if settings.std == AUTO else settings.std),
    )


def triple(values: Sequence[float]) -> Triple:
    """Return one number a channel, red, green, blue."""
    red, green, blue = map(float, values)
    return red, green, blue


def _measured(train: Split, cache: Path | None, stamp: str) -> tuple[list[float], list[float]]:
    if not len(train):  # loaded to judge a network, whose own figures must come with it
        return [math.nan] * 3, [math.nan] * 3
    if cache is None:
        return _rounded(train)
    rows = hashlib.blake2b(train.index.numpy().tobytes(), digest_size=8).hexdigest()
    path = cache / f"constants-{stamp}-{rows}.json"
    if known := _read(path):
        return known
    try:
        with alone_in(cache):
            if known := _read(path):  # another process was faster
                return known
            mean, std = _rounded(train)
            with whole(path) as file:
                file.write(json.dumps({"mean": mean, "std": std}).encode())
            return mean, std
    except OSError:  # a cache that may only be read: every process measures for itself
        return _rounded(train)


def _rounded(train: Split) -> tuple[list[float], list[float]]:
    mean, std = statistics(train.images)
    return [round(value, DECIMALS) for value in mean], [round(value, DECIMALS) for value in std]


def _read(path: Path) -> tuple[list[float], list[float]] | None:
    """Return the figures of an earlier measurement; None where there is none or the file is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return list(triple(content["mean"])), list(triple(content["std"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
