"""What it takes to run one Albumentations transform on a batch, and the table of all that are lowered."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cifar_core.augment import steps
from cifar_core.augment.uniforms import uniforms
from cifar_core.device import beside

BLOCK = 64  # pictures
Params = dict[str, Tensor]  # one row a picture, on the CPU
Changed = Tensor | list[tuple[Tensor, Tensor]]  # pictures, or (rows, pictures) of each size


@dataclass(frozen=True)
class Lowering:
    """How one Albumentations class runs on a batch of M pictures.

    `apply(step, images, params)` returns the changed pictures (M, 3, H', W') and leaves its input as it is;
    where pictures come out in several sizes it returns a list of (rows, pictures).
    `draw(step, uniforms, images)` turns uniform numbers (M, columns), float64 in [0, 1), into parameters that
    follow Albumentations' own law. `collate(step, draws)` makes the same parameters of what Albumentations
    recorded. `limits(step)` says which of the step's settings is not lowered, or nothing.
    """

    apply: Callable[[Any, Tensor, Params], Changed]
    draw: Callable[[Any, Tensor, Tensor], Params] = lambda step, uniforms, images: {}
    collate: Callable[[Any, Sequence[Mapping[str, Any]]], Params] = lambda step, draws: {}
    columns: Callable[[Any], int] = lambda step: 0
    limits: Callable[[Any], str] = lambda step: ""
    tolerance: int = 0  # largest difference to Albumentations on 99 % of the values, of 255
    on_float: bool = False  # may follow a step that returns float pictures
    to_float: bool = False  # returns float pictures
    examples: tuple[dict[str, Any], ...] = ({},)  # settings that the contract tests try


@cache
def lowered() -> dict[type, Lowering]:
    """Return the table of all modules in `cifar_core/augment/steps/`: Albumentations class -> Lowering."""
    table: dict[type, Lowering] = {}
    for module in pkgutil.iter_modules(steps.__path__, f"{steps.__name__}."):
        table |= importlib.import_module(module.name).LOWERED
    return table


def stacked(*names: str) -> Callable[[Any, Sequence[Mapping[str, Any]]], Params]:
    """Return a `collate` that stacks the recorded parameters `names`."""

    def collate(step: Any, draws: Sequence[Mapping[str, Any]]) -> Params:
        return {name: torch.from_numpy(np.stack([draw[name] for draw in draws])) for name in names}

    return collate


def in_blocks(apply: Callable[[Any, Tensor, Params], Tensor]) -> Callable[[Any, Tensor, Params], Tensor]:
    """Let an `apply` that makes many float pictures see a few at a time, where they stay in a CPU's cache."""

    def blockwise(step: Any, images: Tensor, params: Params) -> Tensor:
        if images.device.type != "cpu" or len(images) <= BLOCK:
            return apply(step, images, params)
        blocks = torch.arange(len(images)).chunk(-(-len(images) // BLOCK))
        spans = [slice(int(block[0]), int(block[-1]) + 1) for block in blocks]
        rows = [{name: values[span] for name, values in params.items()} for span in spans]
        return torch.cat([apply(step, images[span], part) for span, part in zip(spans, rows, strict=True)])

    return blockwise


def between(uniforms: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Map uniform numbers to [low, high)."""
    return low + (high - low) * uniforms


def whole(uniforms: Tensor, low: int | Tensor, high: int | Tensor) -> Tensor:
    """Map uniform numbers to the integers low..high, both included."""
    return (low + (uniforms * (high - low + 1)).floor()).long()


@lru_cache(maxsize=256)
def constant(values: tuple[Any, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return numbers on a device, where they stay for the next call: not to be changed in place."""
    return beside(torch.empty(0, device=device), torch.tensor(values, dtype=dtype))


def column(images: Tensor, values: Tensor) -> Tensor:
    """Return one value a picture, (M,), as float32 that broadcasts over `images` (M, C, H, W)."""
    return beside(images, values, torch.float32).view(-1, 1, 1, 1)


def colour(images: Tensor, fill: float | Sequence[float]) -> Tensor:
    """Return a fill value as float32 that broadcasts over `images` (M, 3, H, W)."""
    return constant(tuple(per_channel(fill)), images.device, torch.float32).view(1, 3, 1, 1)


def kept(images: Tensor, changed: Tensor, same: Tensor) -> Tensor:
    """Put the pictures marked by `same`, bool (M,), back into `changed` as they were in `images`."""
    rows = beside(images, same.nonzero()[:, 0])
    return changed.index_copy_(0, rows, images.index_select(0, rows))


def per_channel(fill: float | Sequence[float]) -> list[float]:
    """Return a fill value as one number a channel."""
    return [float(fill)] * 3 if np.ndim(fill) == 0 else [float(value) for value in fill]  # type: ignore


def truncated(values: Tensor) -> Tensor:
    """Return float pictures as uint8: clipped, fractions cut off, as albucore's `clip` does."""
    return values.clamp_(0, 255).to(torch.uint8)


def rounded(values: Tensor) -> Tensor:
    """Return float pictures as uint8: to the nearest level, clipped."""
    return values.round_().clamp_(0, 255).to(torch.uint8)


def looked_up(table: Tensor, places: Tensor) -> Tensor:
    """Return table[places]; `index_select` is 8 times as fast as indexing."""
    return table.index_select(0, places.reshape(-1)).view(places.shape)


def more(numbers: Tensor, columns: int) -> Tensor:
    """Turn one uniform number a picture, (M,), into many, (M, columns)."""
    keys = (numbers * 2.0**53).long()
    return torch.cat([uniforms(block, columns) for block in keys.split(BLOCK)])
