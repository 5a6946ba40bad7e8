"""Holes in pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

import albumentations as A
import numpy as np
import torch
from torch import Tensor

from cifar_core.augment.lowering import (
    Lowering,
    Params,
    beside,
    between,
    colour,
    constant,
    in_blocks,
    more,
    per_channel,
    whole,
)


def inside(start: Tensor, stop: Tensor, size: int) -> Tensor:
    """Mark, as uint8 (M, K, 2, size), the places in start..stop - 1, both (M, K, 2)."""
    place = torch.arange(size, dtype=start.dtype, device=start.device)
    return ((place >= start[..., None]) & (place < stop[..., None])).view(torch.uint8)


def holed(step: Any, images: Tensor, params: Params) -> Tensor:
    """Fill the `holes` (M, K, 4), x_min, y_min, x_max, y_max, with the step's colour."""
    holes = beside(images, params["holes"], torch.int16)
    height, width = images.shape[-2:]
    marks = inside(holes[..., :2], holes[..., 2:], max(height, width))
    columns, rows = marks[:, :, 0, :width], marks[:, :, 1, :height]
    if holes.shape[1] == 1:
        hole = rows.transpose(1, 2) * columns
    else:
        hole = (rows.float().transpose(1, 2) @ columns.float()).clamp_(max=1).to(torch.uint8)
    fill = colour(images, step.fill, images.dtype)
    if images.is_floating_point():
        return torch.where(hole[:, None] > 0, fill, images)
    rest = images * (1 - hole)[:, None]
    return rest.addcmul_(hole[:, None], fill) if np.any(step.fill) else rest  # `where` is slow on uint8


def lengths(span: tuple[float, float], size: int, pixels: bool, uniforms: Tensor) -> Tensor:
    """Draw the sides of holes, in pixels or as shares of `size`."""
    if not pixels:
        return (size * between(uniforms, *span)).long()
    low, high = int(span[0]), int(min(span[1], size))
    if low > high:
        raise ValueError(f"CoarseDropout's holes must fit into {size} pixels, got at least {low}")
    return whole(uniforms, low, high)


def draw_holes(step: A.CoarseDropout, uniforms: Tensor, images: Tensor) -> Params:
    """Draw number, sizes and places of holes; those above the number are empty."""
    height, width = images.shape[-2:]
    most = step.num_holes_range[1]
    number = whole(uniforms[:, :1], *step.num_holes_range)
    u = uniforms[:, 1:].view(len(uniforms), 4, most)
    pixels = step.hole_height_range[1] >= 1  # decides for the width too, in Albumentations
    high = lengths(step.hole_height_range, height, pixels, u[:, 0])
    wide = lengths(step.hole_width_range, width, pixels, u[:, 1])
    top, left = whole(u[:, 2], 0, height - high), whole(u[:, 3], 0, width - wide)
    holes = torch.stack([left, top, left + wide, top + high], -1)
    return {"holes": holes * (torch.arange(most) < number)[..., None]}


def draw_grid(step: A.GridDropout, uniforms: Tensor, images: Tensor) -> Params:
    """Draw a grid and one hole in each of its cells; where cells are fewer, holes are empty."""
    height, width = images.shape[-2:]
    choices = grid_choices(step, height, width)
    rows, columns = (max(sides) for sides in zip(*choices, strict=True))
    uniforms = beside(images, uniforms)
    grids = constant(tuple(choices), images.device, torch.int64)
    grids = grids[whole(uniforms[:, 0], 0, len(grids) - 1)]
    top, high = cells(height, grids[:, 0], more(uniforms[:, 1], rows))
    left, wide = cells(width, grids[:, 1], more(uniforms[:, 2], columns))
    u = more(uniforms[:, 3], 2 * rows * columns).view(-1, 2, rows, columns)
    y0, y1 = hole_in(step, top[:, :, None], high[:, :, None], u[:, 0], height, axis=1)
    x0, x1 = hole_in(step, left[:, None, :], wide[:, None, :], u[:, 1], width, axis=0)
    real = (high[:, :, None] > 0) & (wide[:, None, :] > 0)
    holes = (torch.stack([x0, y0, x1, y1], -1) * real[..., None]).flatten(1, 2)
    filled_first = (~real).flatten(1).int().argsort(dim=1, stable=True)
    return {"holes": holes.gather(1, filled_first[..., None].expand_as(holes))}


def grid_choices(step: A.GridDropout, height: int, width: int) -> list[tuple[int, int]]:
    """Return the grids, rows and columns, that the step chooses from."""
    if step.holes_number_xy:
        return [tuple(step.holes_number_xy)]  # Albumentations takes x for the rows here
    if step.unit_size_range is None:
        return [(height // max(2, height // 10), width // max(2, width // 10))]
    if step.unit_size_range[1] > min(height, width):
        raise ValueError(f"GridDropout's units must fit into {height}x{width}, got {step.unit_size_range}")
    return [(height // unit, width // unit) for unit in range(*step.unit_size_range)]


def cells(size: int, parts: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Cut `size` pixels into `parts` (M,) nearly equal stretches, the longer ones at random places.

    Returns starts and lengths, (M, most parts); those above a picture's parts have length 0.
    """
    parts = parts[:, None]
    real = torch.arange(uniforms.shape[1], device=uniforms.device) < parts
    rank = uniforms.masked_fill(~real, 2.0).argsort(1).argsort(1)
    lengths = (size // parts + (rank < size % parts)) * real
    return lengths.cumsum(1) - lengths, lengths


def hole_in(
    step: A.GridDropout, start: Tensor, length: Tensor, uniforms: Tensor, size: int, axis: int
) -> tuple[Tensor, Tensor]:
    """Place a hole in each cell along one axis (0 is x); returns start and stop, (M, rows, columns)."""
    hole = torch.minimum((length * step.ratio).clamp(min=1), length - 1).long()
    offset = whole(uniforms, 0, length - hole) if step.random_offset else step.shift_xy[axis]
    first = torch.minimum((start + offset).clamp(min=0), size - hole).expand_as(uniforms)
    return first, first + hole


def collate_holes(step: Any, draws: Sequence[Mapping[str, Any]]) -> Params:
    """Read the holes Albumentations recorded; pictures with fewer than the most get empty ones."""
    holes = np.zeros((len(draws), max(len(draw["holes"]) for draw in draws), 4), np.int64)
    for row, draw in zip(holes, draws, strict=True):
        row[: len(draw["holes"])] = draw["holes"]
    return {"holes": torch.from_numpy(holes)}


def fill_limits(step: Any) -> str:
    """Name a fill that is no colour."""
    if isinstance(step.fill, str) or len(per_channel(step.fill)) != 3:
        return f"fill={step.fill!r}"
    return "" if all(0 <= value <= 255 for value in per_channel(step.fill)) else f"fill={step.fill!r}"


LOWERED = {
    A.CoarseDropout: Lowering(
        holed,
        draw_holes,
        collate_holes,
        columns=lambda step: 1 + 4 * step.num_holes_range[1],
        limits=fill_limits,
        on_float=True,
        examples=(
            {"num_holes_range": (1, 1), "hole_height_range": (16, 16), "hole_width_range": (16, 16)},
            {
                "num_holes_range": (2, 9),
                "hole_height_range": (3, 11),
                "hole_width_range": (1, 20),
                "fill": 77.7,
            },
            {"hole_height_range": (0.1, 0.4), "hole_width_range": (0.2, 0.9), "fill": (125.3, 123.0, 113.9)},
        ),
    ),
    A.GridDropout: Lowering(
        in_blocks(holed),
        draw_grid,
        collate_holes,
        columns=lambda step: 4,
        limits=fill_limits,
        on_float=True,
        examples=(
            {},
            {"ratio": 0.3, "unit_size_range": (6, 11), "fill": (1, 2, 3)},
            {"holes_number_xy": (3, 5), "random_offset": False, "shift_xy": (2, 1)},
        ),
    ),
}
