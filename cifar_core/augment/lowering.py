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
from cifar_core.device import beside, put

BLOCK = 2**18  # values that a CPU changes at once: a megabyte as float32, the size of its second cache
Params = dict[str, Tensor]  # one row a picture, on the CPU or on the pictures' device
Changed = Tensor | list[tuple[Tensor, Tensor]]  # pictures, or (rows, pictures) of each size


@dataclass(frozen=True)
class Lowering:
    """How one Albumentations class runs on a batch of M pictures.

    `apply(step, images, params)` returns the changed pictures (M, 3, H', W') and leaves its input as it is;
    where pictures come out in several sizes it returns a list of (rows, pictures).
    `draw(step, uniforms, images)` turns uniform numbers (M, columns), float64 in [0, 1) on the CPU, into
    parameters that follow Albumentations' own law. `collate(step, draws)` makes the same parameters of what
    Albumentations recorded, on the CPU. `limits(step)` says which of the step's settings is not lowered, or
    nothing.

    Few numbers a picture are drawn on the CPU; what is made of them, and all that looks at pictures, lies on
    the pictures' device. Nothing is read back from there: shapes follow from the step, not from the draws.
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


def block_by_block(change: Callable[..., Tensor], images: Tensor, *values: Tensor) -> Tensor:
    """Return `change(images, *values)`; a CPU makes it of few pictures at a time, which stay in its cache.

    `values` have one row a picture, as the result has.
    """
    count = min(-(-images.numel() // BLOCK), len(images))
    if images.device.type != "cpu" or count <= 1:
        return change(images, *values)
    parts = zip(*(rows.chunk(count) for rows in (images, *values)), strict=True)
    return torch.cat([change(*part) for part in parts])


def in_blocks(apply: Callable[[Any, Tensor, Params], Tensor]) -> Callable[[Any, Tensor, Params], Tensor]:
    """Let an `apply` run block by block."""

    def blockwise(step: Any, images: Tensor, params: Params) -> Tensor:
        def change(images: Tensor, *values: Tensor) -> Tensor:
            return apply(step, images, dict(zip(params, values, strict=True)))

        return block_by_block(change, images, *params.values())

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


def broadcastable(images: Tensor, *values: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Return values of each picture, (M,) each, so that they broadcast over `images` (M, C, H, W).

    They go up together, so they must lie on one device.
    """
    return beside(images, torch.stack(values), dtype)[:, :, None, None, None].unbind()


def colour(images: Tensor, fill: float | Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a fill value so that it broadcasts over `images` (M, 3, H, W)."""
    return constant(tuple(per_channel(fill)), images.device, dtype).view(1, 3, 1, 1)


def nearest_level(fill: float | Sequence[float]) -> list[float]:
    """Return a fill value as whole levels, one a channel, as OpenCV takes it."""
    return torch.tensor(per_channel(fill)).round_().clamp_(0, 255).tolist()


def kept(images: Tensor, changed: Tensor, same: Tensor) -> Tensor:
    """Put the pictures marked by `same`, bool (M,) on the CPU, back as they were in `images`."""
    if not same.any():
        return changed
    rows = beside(images, same.nonzero()[:, 0])
    return put(changed, rows, images.index_select(0, rows))


def per_channel(fill: float | Sequence[float]) -> list[float]:
    """Return a fill value as one number a channel."""
    return [float(fill)] * 3 if np.ndim(fill) == 0 else [float(value) for value in fill]  # type: ignore


def truncated(values: Tensor) -> Tensor:
    """Return float pictures as uint8: clipped, fractions cut off, as albucore's `clip` does."""
    return as_bytes(values.clamp_(0, 255))


def rounded(values: Tensor) -> Tensor:
    """Return float pictures as uint8: to the nearest level, clipped."""
    return as_bytes(values.round_().clamp_(0, 255))


def as_bytes(values: Tensor) -> Tensor:
    """Return float values of 0..255 as uint8, fractions cut off."""
    if values.device.type == "cpu":
        values = values.to(torch.int16)  # on this way a CPU takes a third of the time
    return values.to(torch.uint8)


def looked_up(table: Tensor, places: Tensor) -> Tensor:
    """Return table[places]; `index_select` is 8 times as fast as indexing."""
    return table.index_select(0, places.reshape(-1)).view(places.shape)


def more(numbers: Tensor, columns: int) -> Tensor:
    """Turn one uniform number a picture, (M,), into many, (M, columns)."""
    keys = (numbers * 2.0**53).long()
    rows = max(BLOCK // max(columns, 1), 1) if keys.device.type == "cpu" else len(keys)
    return torch.cat([uniforms(block, columns) for block in keys.split(rows)])
