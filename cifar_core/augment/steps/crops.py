"""Padding and cropping, without resampling."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import albumentations as A
import cv2
import torch
from torch import Tensor

from cifar_core.augment.lowering import (
    Lowering,
    Params,
    beside,
    block_by_block,
    colour,
    nearest_level,
    per_channel,
    whole,
)

SIDES = ("pad_top", "pad_bottom", "pad_left", "pad_right")


@lru_cache(maxsize=64)
def source_index(start: int, stop: int, size: int, border_mode: int, device: torch.device) -> Tensor:
    """Return which of `size` pixels lies at each of the places start..stop - 1, of which some lie outside."""
    place = torch.arange(start, stop, device=device)
    if border_mode == cv2.BORDER_REPLICATE:
        return place.clamp(0, size - 1)
    if border_mode == cv2.BORDER_WRAP:
        return place % size
    if border_mode == cv2.BORDER_REFLECT:
        place = place % (2 * size)
        return torch.minimum(place, 2 * size - 1 - place)
    period = max(2 * size - 2, 1)  # BORDER_REFLECT_101 does not repeat the edge
    place = place % period
    return torch.minimum(place, period - place) if size > 1 else torch.zeros_like(place)


def pad(images: Tensor, sides: Sequence[int], *, border_mode: int, fill: float | Sequence[float]) -> Tensor:
    """Pad all `images` by (top, bottom, left, right) pixels as `cv2.copyMakeBorder` does."""
    top, bottom, left, right = sides
    height, width = images.shape[-2:]
    if not any(sides):
        return images
    if border_mode != cv2.BORDER_CONSTANT:
        rows = source_index(-top, height + bottom, height, border_mode, images.device)
        columns = source_index(-left, width + right, width, border_mode, images.device)
        return block_by_block(lambda part: part.index_select(2, rows).index_select(3, columns), images)
    padded = images.new_empty(*images.shape[:2], top + height + bottom, left + width + right)
    padded.copy_(colour(images, fill if images.is_floating_point() else nearest_level(fill), images.dtype))
    padded[:, :, top : top + height, left : left + width] = images
    return padded


def windows(images: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Cut one window out of each picture, at its own place (M,).

    The windows at all places are one strided view of the same memory, so a crop is one `index_select`.
    """
    count, channels, rows, columns = images.shape
    over_pictures, over_channels, over_rows, over_columns = images.stride()
    first = torch.arange(count) * over_pictures + top * over_rows + left * over_columns
    last = (count - 1) * over_pictures + (rows - height) * over_rows + (columns - width) * over_columns
    places = images.as_strided(
        (last + 1, channels, height, width), (1, over_channels, over_rows, over_columns)
    )
    return places.index_select(0, beside(images, first))


def padded(step: Any, images: Tensor, params: Params) -> Tensor:
    """Pad each picture by its own `pad` (top, bottom, left, right); the sums are one number a batch."""
    sides = params["pad"]
    first = sides[0].tolist()
    if bool((sides == sides[0]).all()):
        return pad(images, first, border_mode=step.border_mode, fill=step.fill)
    high, wide = first[0] + first[1], first[2] + first[3]
    all_round = pad(images, (high, high, wide, wide), border_mode=step.border_mode, fill=step.fill)
    height, width = images.shape[-2:]
    return windows(all_round, high - sides[:, 0], wide - sides[:, 2], height + high, width + wide)


def cropped(step: A.RandomCrop | A.CenterCrop, images: Tensor, params: Params) -> Tensor:
    """Cut each picture's window at `corner` (x, y) out of the padded picture."""
    x, y = params["corner"].unbind(1)
    return windows(padded(step, images, params), y, x, step.height, step.width)


def fixed_sides(step: A.Pad, uniforms: Tensor, images: Tensor) -> Params:
    """Return the step's own padding for every picture."""
    padding = step.padding
    if not isinstance(padding, Sequence):
        padding = (padding, padding)
    left, top, right, bottom = padding if len(padding) == 4 else (*padding, *padding)
    return {"pad": torch.tensor([[top, bottom, left, right]]).expand(len(uniforms), 4)}


def missing(size: int, least: int | None, divisor: int | None) -> int:
    """Return by how many pixels a side of `size` must grow."""
    if least is not None:
        return max(least - size, 0)
    return -size % divisor if divisor is not None else 0


def placed(position: str, high: int, wide: int, uniforms: Tensor) -> Tensor:
    """Split the padding `high` and `wide` over the sides, (M, 4): top, bottom, left, right."""
    top = whole(uniforms[:, 0], 0, high) if position == "random" else torch.full((len(uniforms),), high // 2)
    left = whole(uniforms[:, 1], 0, wide) if position == "random" else torch.full((len(uniforms),), wide // 2)
    if position not in ("random", "center"):
        top = torch.full_like(top, 0 if position.startswith("top") else high)
        left = torch.full_like(left, 0 if position.endswith("left") else wide)
    return torch.stack([top, high - top, left, wide - left], 1)


def needed_sides(step: A.PadIfNeeded, uniforms: Tensor, images: Tensor) -> Params:
    """Draw the padding that lifts pictures to the least size."""
    height, width = images.shape[-2:]
    high = missing(height, step.min_height, step.pad_height_divisor)
    wide = missing(width, step.min_width, step.pad_width_divisor)
    return {"pad": placed(step.position, high, wide, uniforms)}


def crop_sides(step: A.RandomCrop | A.CenterCrop, uniforms: Tensor, images: Tensor) -> Tensor:
    """Draw the padding that a crop needs, none where the picture is large enough."""
    height, width = images.shape[-2:]
    high, wide = missing(height, step.height, None), missing(width, step.width, None)
    if (high or wide) and not step.pad_if_needed:
        raise ValueError(
            f"{type(step).__name__} of {step.height}x{step.width} must fit, got {height}x{width}"
        )
    return placed(step.pad_position, high, wide, uniforms)


def draw_corner(step: A.RandomCrop, uniforms: Tensor, images: Tensor) -> Params:
    """Draw a window, every place equally likely."""
    sides = crop_sides(step, uniforms[:, 2:], images)
    height, width = images.shape[-2:]
    y = whole(uniforms[:, 0], 0, height + int(sides[0, :2].sum()) - step.height)
    x = whole(uniforms[:, 1], 0, width + int(sides[0, 2:].sum()) - step.width)
    return {"corner": torch.stack([x, y], 1), "pad": sides}


def centre(step: A.CenterCrop, uniforms: Tensor, images: Tensor) -> Params:
    """Return the middle window."""
    sides = crop_sides(step, uniforms, images)
    height, width = images.shape[-2:]
    y = (height + int(sides[0, :2].sum()) - step.height) // 2
    x = (width + int(sides[0, 2:].sum()) - step.width) // 2
    return {"corner": torch.tensor([[x, y]]).expand(len(uniforms), 2), "pad": sides}


def collate_sides(step: Any, draws: Sequence[Mapping[str, Any]]) -> Params:
    """Read the padding Albumentations recorded."""
    return {"pad": torch.tensor([[draw[side] for side in SIDES] for draw in draws])}


def collate_crop(step: Any, draws: Sequence[Mapping[str, Any]]) -> Params:
    """Read the window and padding Albumentations recorded."""
    none = dict.fromkeys(SIDES, 0)
    corner = torch.tensor([[int(place) for place in draw["crop_coords"][:2]] for draw in draws])
    return {"corner": corner, **collate_sides(step, [draw["pad_params"] or none for draw in draws])}


def fill_limits(step: Any) -> str:
    """Name a fill that is not one number or three."""
    return "" if len(per_channel(step.fill)) == 3 else f"fill={step.fill}"


LOWERED = {
    A.Pad: Lowering(
        padded,
        fixed_sides,
        collate_sides,
        limits=fill_limits,
        on_float=True,
        examples=(
            {"padding": 4, "fill": (125.3, 123.0, 113.9)},
            {"padding": (3, 5), "border_mode": cv2.BORDER_REFLECT_101},
            {"padding": (1, 2, 3, 4), "border_mode": cv2.BORDER_WRAP, "fill": 300},
        ),
    ),
    A.PadIfNeeded: Lowering(
        padded,
        needed_sides,
        collate_sides,
        columns=lambda step: 2,
        limits=fill_limits,
        on_float=True,
        examples=(
            {"min_height": 71, "min_width": 80, "fill": 7},
            {"min_height": 72, "min_width": 70, "position": "random", "border_mode": cv2.BORDER_REFLECT_101},
            {"min_height": 70, "min_width": 300, "position": "random", "border_mode": cv2.BORDER_REFLECT},
            {
                "min_height": 67,
                "min_width": 67,
                "position": "bottom_left",
                "border_mode": cv2.BORDER_REPLICATE,
            },
            {
                "min_height": None,
                "min_width": None,
                "pad_height_divisor": 24,
                "pad_width_divisor": 7,
                "position": "top_right",
            },
        ),
    ),
    A.RandomCrop: Lowering(
        cropped,
        draw_corner,
        collate_crop,
        columns=lambda step: 4,
        limits=fill_limits,
        on_float=True,
        examples=(
            {"height": 20, "width": 24},
            {"height": 72, "width": 30, "pad_if_needed": True, "pad_position": "random", "fill": (9, 8, 7)},
            {"height": 36, "width": 36, "pad_if_needed": True, "border_mode": cv2.BORDER_REFLECT_101},
        ),
    ),
    A.CenterCrop: Lowering(
        cropped,
        centre,
        collate_crop,
        columns=lambda step: 2,
        limits=fill_limits,
        on_float=True,
        examples=({"height": 21, "width": 24}, {"height": 70, "width": 20, "pad_if_needed": True, "fill": 3}),
    ),
}
