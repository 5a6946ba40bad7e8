"""What a data set holds, in figures: counts, files passed over, sizes, modes, copies, mean and std."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from cifar_core.data import folder, pixels
from cifar_core.data.pixels import Place
from cifar_core.data.settings import DataSettings
from cifar_core.data.split import Data
from cifar_core.processes import cores


@dataclass(frozen=True)
class Survey:
    """What `survey` found. Copies are of the decoded pictures, at `data.image_size`."""

    source: str
    root: str
    counts: dict[str, dict[str, int]]  # split -> class -> pictures, as they are trained and judged on
    mean: tuple[float, ...]  # of the training pictures, per channel, 0-255
    std: tuple[float, ...]
    copies: list[tuple[Place, Place]]  # a picture and its copy of the same label, one pair a picture
    contradictions: list[tuple[Place, Place]]  # a picture and its copy of another label
    empty: list[Place]  # of one flat colour
    passed: dict[str, int] = field(default_factory=dict)  # files in class folders not read, by suffix
    notes: tuple[str, ...] = ()  # split folders by other names, folders not read, classes that a split lacks
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)  # (width, height) -> files
    modes: dict[str, int] = field(default_factory=dict)  # Pillow's mode -> files


def survey(settings: DataSettings, data: Data) -> Survey:
    """Survey the loaded ``data`` of ``settings``; of a folder also its files, whose headers are read."""
    places = pixels.copies(data)
    mean, std = pixels.mean_std(data.train.images)
    found = Survey(
        source=settings.source,
        root=settings.root,
        counts={name: _by_class(part.labels.numpy(), data) for name, part in pixels.splits(data).items()},
        mean=tuple(mean),
        std=tuple(std),
        copies=[pair for pair in map(_copy, places.values()) if pair],
        contradictions=pixels.contradictions(places),
        empty=_empty(data),
    )
    return found if settings.source != "folder" else _with_files(found, Path(settings.root).expanduser())


def _by_class(labels: np.ndarray, data: Data) -> dict[str, int]:
    counts = np.bincount(labels, minlength=data.num_classes).tolist()
    return dict(zip(data.classes, counts, strict=True))


def _copy(places: list[Place]) -> tuple[Place, Place] | None:
    first, *others = places
    return next(((first, other) for other in others if other.label == first.label), None)


def _empty(data: Data) -> list[Place]:
    return [
        Place(name, position, int(part.labels[position]), pixels.name(name, part, position))
        for name, part in pixels.splits(data).items()
        if len(part)
        for position in pixels.empty(part.images).nonzero()[:, 0].tolist()
    ]


def _with_files(found: Survey, root: Path) -> Survey:
    listed = folder.scan(root)
    with ThreadPoolExecutor(cores()) as pool:
        heads = list(pool.map(_head, (root / file.name for file in listed.files)))
    sizes, modes = Counter(size for size, _ in heads), Counter(mode for _, mode in heads)
    return replace(
        found,
        passed=dict(listed.passed),
        notes=listed.notes,
        sizes=dict(sizes.most_common()),
        modes=dict(modes.most_common()),
    )


def _head(path: Path) -> tuple[tuple[int, int], str]:
    """Return size and mode of a picture file, without decoding it."""
    with Image.open(path) as opened:
        return opened.size, opened.mode
