"""What the pixels of a data set say: mean and std, copies, other labels of one picture, empty pictures."""

from collections import defaultdict
from hashlib import blake2b
from typing import NamedTuple

import torch
from torch import Tensor

from cifar_core.data.normalisation import statistics
from cifar_core.data.split import Data, Split

EMPTY = 2  # levels of 256 that the pixels of an empty picture may differ by, in each channel
CHUNK = 500  # pictures at a time: bounds the memory that float32 takes


class Place(NamedTuple):
    """Where a picture stands."""

    split: str  # train, val, test
    position: int
    label: int
    name: str  # its file, or split and number


def splits(data: Data) -> dict[str, Split]:
    """Return the splits by name."""
    return {"train": data.train, "val": data.val, "test": data.test}


def name(split: str, part: Split, position: int) -> str:
    """Return the file of a picture, or its number where the source has no files."""
    return part.names[position] if part.names else f"{split} picture {int(part.index[position])}"


def mean_std(images: Tensor) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel of uint8 images (N, 3, H, W), 0-255; std above 0."""
    mean, std = statistics(images)
    return mean, [value if value >= 0.1 else 1.0 for value in std]


def copies(data: Data) -> dict[bytes, list[Place]]:
    """Return the places of every picture by its pixels' hash, in the order train, val, test."""
    places: dict[bytes, list[Place]] = defaultdict(list)
    for split, part in splits(data).items():
        rows, labels = part.images.flatten(1).cpu().numpy(), part.labels.tolist()
        files = part.names or [f"{split} picture {number}" for number in part.index.tolist()]
        for position, (row, label, file) in enumerate(zip(rows, labels, files, strict=True)):
            place = Place(split, position, label, file)
            places[blake2b(row, digest_size=16).digest()].append(place)
    return dict(places)


def contradictions(copies: dict[bytes, list[Place]]) -> list[tuple[Place, Place]]:
    """Return pairs of places of one picture under two labels, one pair a picture."""
    pairs = []
    for places in copies.values():
        other = next((place for place in places if place.label != places[0].label), None)
        if other is not None:
            pairs.append((places[0], other))
    return pairs


def empty(images: Tensor) -> Tensor:
    """Return bool (N,): which uint8 images (N, 3, H, W) are one flat colour, but for 2 levels of 256."""
    spans = [chunk.flatten(2).amax(2) - chunk.flatten(2).amin(2) for chunk in images.split(CHUNK)]
    return (torch.cat(spans) <= EMPTY).all(1)
