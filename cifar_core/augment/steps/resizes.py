"""Cutting a box out of each picture and scaling it to one size."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from torch import Tensor

from cifar_core.augment.lowering import (
    Lowering,
    Params,
    beside,
    between,
    block_by_block,
    constant,
    in_blocks,
    rounded,
    whole,
)
from cifar_core.augment.steps.crops import pad

INTERPOLATIONS = (
    cv2.INTER_NEAREST,
    cv2.INTER_LINEAR,
    cv2.INTER_LINEAR_EXACT,
    cv2.INTER_CUBIC,
    cv2.INTER_AREA,
)


def separable(images: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Mix rows by `down` (M, H', H) and columns by `across` (M, W', W); returns uint8 (M, 3, H', W')."""
    down, across = (beside(images, matrix, torch.float32)[:, None] for matrix in (down, across))
    return rounded(down @ (images.float() @ across.transpose(-1, -2)))


def resampled(images: Tensor, boxes: Tensor, size: tuple[int, int], interpolation: int) -> Tensor:
    """Scale the box of each picture, (M, 4) as x, y, width, height, to `size`, as `cv2.resize` does."""
    boxes = beside(images, boxes, torch.int32)
    return separable(images, *weights(boxes, images.shape[-2:], size, interpolation))


def weights(
    boxes: Tensor, shape: Sequence[int], size: Sequence[int], interpolation: int
) -> tuple[Tensor, Tensor]:
    """Return how much each row and each column of pictures of `shape` adds to those of `size`."""
    start, length = boxes[:, :2], boxes[:, 2:]
    shrinks = (length[:, 0] >= size[1]) & (length[:, 1] >= size[0])
    across = axis_weights(start[:, 0], length[:, 0], size[1], shape[1], interpolation, shrinks)
    down = axis_weights(start[:, 1], length[:, 1], size[0], shape[0], interpolation, shrinks)
    return down, across


def axis_weights(
    start: Tensor, length: Tensor, out: int, size: int, interpolation: int, shrinks: Tensor
) -> Tensor:
    """Return how much each of `size` pixels adds to each of `out` ones, (M, out, size)."""
    length = length[:, None].double()
    scale = 1 / (torch.full_like(length, out) / length)  # OpenCV's rounding decides which pixel is nearest
    place = torch.arange(out, device=length.device)
    if interpolation == cv2.INTER_AREA:
        left = torch.floor(place * scale)
        share = ((place + 1) - (left + 1) / scale).clamp(min=0)
        enlarged = taps((left + share.frac()).clamp(max=length - 1), length, size, start, cubic=False)
        return torch.where(
            shrinks[:, None, None], overlaps(place * scale, scale, length, size, start), enlarged
        )
    nearest = interpolation == cv2.INTER_NEAREST
    centre = (place * scale).floor() if nearest else (place + 0.5) * scale - 0.5
    return taps(centre, length, size, start, cubic=interpolation == cv2.INTER_CUBIC)


def taps(centre: Tensor, length: Tensor, size: int, start: Tensor, *, cubic: bool) -> Tensor:
    """Return the weights of the pixels around `centre` (M, out); those outside the box repeat its edge."""
    first = centre.floor()
    weights = torch.zeros(*centre.shape, size, dtype=torch.float64, device=centre.device)
    for offset in range(-1, 3) if cubic else range(2):
        pixel = torch.minimum((first + offset).clamp(min=0), length - 1)
        distance = (centre - first - offset).abs()
        weight = keys_cubic(distance) if cubic else 1 - distance
        weights.scatter_add_(2, (pixel + start[:, None]).long()[..., None], weight[..., None])
    return weights


def keys_cubic(distance: Tensor, a: float = -0.75) -> Tensor:
    """Return the cubic kernel of Keys 1981, with OpenCV's slope `a`."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance <= 1, near, far)


def overlaps(left: Tensor, scale: Tensor, length: Tensor, size: int, start: Tensor) -> Tensor:
    """Return the share of each pixel in the stretches from `left` (M, out) on, `scale` (M, 1) long."""
    pixel = torch.arange(size, device=start.device) - start[:, None, None]
    stop = torch.minimum((left + scale)[..., None], length[..., None])
    covered = torch.minimum(pixel + 1, stop) - torch.maximum(pixel, left[..., None])
    return covered.clamp(min=0) / scale[..., None]


def resized(step: A.Resize, images: Tensor, params: Params) -> Tensor:
    """Scale whole pictures."""
    height, width = images.shape[-2:]
    shrinks = step.height < height or step.width < width
    interpolation = cv2.INTER_AREA if step.area_for_downscale and shrinks else step.interpolation
    fixed = fixed_weights((height, width), (step.height, step.width), interpolation, images.device)
    return separable(images, *fixed)


@lru_cache(maxsize=16)
def fixed_weights(
    shape: tuple[int, int], size: tuple[int, int], interpolation: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the weights for whole pictures, which stay on the device for the next call."""
    box = constant(((0, 0, shape[1], shape[0]),), device, torch.int32)
    down, across = weights(box, shape, size, interpolation)
    return down.float(), across.float()


def box_resized(step: A.RandomResizedCrop, images: Tensor, params: Params) -> Tensor:
    """Scale each picture's `box` (M, 4)."""
    return resampled(images, params["box"], tuple(step.size), step.interpolation)


def draw_box(step: A.RandomResizedCrop, uniforms: Tensor, images: Tensor) -> Params:
    """Draw area and shape up to ten times; where none fits, take the largest middle box of allowed shape."""
    height, width = images.shape[-2:]
    area = between(uniforms[:, :10], *step.scale) * height * width
    ratio = between(uniforms[:, 10:20], math.log(step.ratio[0]), math.log(step.ratio[1])).exp()
    wide, high = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (wide > 0) & (wide <= width) & (high > 0) & (high <= height)
    first = fits.int().argmax(1, keepdim=True)
    wide, high = wide.gather(1, first)[:, 0], high.gather(1, first)[:, 0]
    x, y = whole(uniforms[:, 20], 0, width - wide), whole(uniforms[:, 21], 0, height - high)
    box = torch.stack([x, y, wide.long(), high.long()], 1)
    return {"box": torch.where(fits.any(1, keepdim=True), box, torch.tensor(middle_box(step, height, width)))}


def middle_box(step: A.RandomResizedCrop, height: int, width: int) -> list[int]:
    """Return x, y, width, height of the largest middle box of allowed shape."""
    wide, high = width, height
    if width / height < step.ratio[0]:
        high = round(width / step.ratio[0])
    elif width / height > step.ratio[1]:
        wide = round(height * step.ratio[1])
    return [(width - wide) // 2, (height - high) // 2, wide, high]


def collate_box(step: Any, draws: Sequence[Mapping[str, Any]]) -> Params:
    """Read the box Albumentations recorded as corners."""
    corners = torch.tensor([[int(place) for place in draw["crop_coords"]] for draw in draws])
    return {"box": torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)}


def resize_limits(step: Any) -> str:
    """Name an interpolation without a batched form."""
    if step.interpolation not in INTERPOLATIONS:
        return f"interpolation={step.interpolation}"
    if isinstance(step, A.RandomResizedCrop) and step.area_for_downscale:
        return f"area_for_downscale={step.area_for_downscale!r}"
    return ""


def grown(step: A.CropAndPad, images: Tensor, params: Params) -> Tensor:
    """Move each picture's `sides` (M, 4), top, right, bottom, left, outwards (or inwards, below 0)."""
    sides = params["sides"]
    height, width = images.shape[-2:]
    top, right, bottom, left = sides.clamp(min=0).amax(0).tolist()
    framed = pad(images, (top, bottom, left, right), border_mode=step.border_mode, fill=step.fill)
    x, y = left - sides[:, 3], top - sides[:, 0]
    wide, high = width + sides[:, 1] + sides[:, 3], height + sides[:, 0] + sides[:, 2]
    if step.keep_size:
        boxes = torch.stack([x, y, wide, high], 1)
        return block_by_block(
            lambda part, boxes: resampled(part, boxes, (height, width), step.interpolation), framed, boxes
        )
    return framed[:, :, int(y[0]) : int(y[0] + high[0]), int(x[0]) : int(x[0] + wide[0])]


def side_choices(step: A.CropAndPad) -> list[list[int]]:
    """Return the pixels each side is drawn from: top, right, bottom, left."""
    px: Any = (step.px,) * 4 if isinstance(step.px, int) else step.px
    if len(px) == 2:
        return [list(range(*px))] * 4
    if isinstance(px[0], int):
        return [[side] for side in px]
    pairs = len(px[0]) == 2  # the first side says whether all are ranges or all are lists
    return [list(range(*side)) if pairs else list(side) for side in px]


def draw_sides(step: A.CropAndPad, uniforms: Tensor, images: Tensor) -> Params:
    """Draw the pixels each side moves by."""
    height, width = images.shape[-2:]
    choices = side_choices(step)
    if min(choices[0]) + min(choices[2]) <= -height or min(choices[1]) + min(choices[3]) <= -width:
        raise ValueError(f"CropAndPad must leave a pixel of {height}x{width}, got px={step.px}")
    together = isinstance(step.px, Sequence) and len(step.px) == 2 and not step.sample_independently
    numbers = uniforms[:, :1].expand(-1, 4) if together else uniforms
    sides = [
        torch.tensor(side)[whole(number, 0, len(side) - 1)]
        for side, number in zip(choices, numbers.unbind(1), strict=True)
    ]
    return {"sides": torch.stack(sides, 1)}


def collate_sides(step: A.CropAndPad, draws: Sequence[Mapping[str, Any]]) -> Params:
    """Read the crop and padding Albumentations recorded."""
    sides = []
    for draw in draws:
        height, width = draw["shape"][:2]
        left, top, right, bottom = draw["crop_params"] or (0, 0, width, height)
        above, below, before, after = draw["pad_params"] or (0, 0, 0, 0)
        sides.append([above - top, after - (width - right), below - (height - bottom), before - left])
    return {"sides": torch.tensor(np.array(sides))}


def grow_limits(step: A.CropAndPad) -> str:
    """Name what has no batched form: shares, results of varying size, drawn fills, far-reaching borders."""
    if step.px is None:
        return f"percent={step.percent}"
    choices = side_choices(step)
    if not step.keep_size and any(len(set(side)) > 1 for side in choices):
        return "keep_size=False and a drawn px"
    if isinstance(step.fill, Sequence):
        return f"fill={step.fill}"
    crops = any(min(side) < 0 for side in choices)
    if crops and step.border_mode not in (cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE):
        return f"border_mode={step.border_mode} and a px below 0"
    return resize_limits(step)


LOWERED = {
    A.Resize: Lowering(
        in_blocks(resized),
        limits=resize_limits,
        tolerance=2,
        examples=(
            {"height": 40, "width": 24},
            {"height": 20, "width": 17, "area_for_downscale": "image"},
            {"height": 96, "width": 80, "interpolation": cv2.INTER_AREA},
            {"height": 50, "width": 21, "interpolation": cv2.INTER_CUBIC},
            {"height": 23, "width": 45, "interpolation": cv2.INTER_NEAREST},
            {"height": 23, "width": 45, "interpolation": cv2.INTER_LINEAR_EXACT},
        ),
    ),
    A.RandomResizedCrop: Lowering(
        in_blocks(box_resized),
        draw_box,
        collate_box,
        columns=lambda step: 22,
        limits=resize_limits,
        tolerance=2,
        examples=(
            {"size": (32, 28)},
            {"size": (24, 24), "scale": (0.5, 1.0), "ratio": (0.2, 4.0), "interpolation": cv2.INTER_CUBIC},
            {"size": (24, 30), "scale": (0.9, 1.0), "ratio": (2.0, 3.0), "interpolation": cv2.INTER_AREA},
        ),
    ),
    A.CropAndPad: Lowering(
        grown,
        draw_sides,
        collate_sides,
        columns=lambda step: 4,
        limits=grow_limits,
        tolerance=2,
        examples=(
            {"px": (-4, 5), "fill": 30},
            {"px": (0, 6), "sample_independently": False, "border_mode": cv2.BORDER_REFLECT_101},
            {"px": (3, -2, 0, 5), "keep_size": False, "border_mode": cv2.BORDER_REPLICATE},
            {"px": ((-3, 2), (0, 4), (-9, -6), (2, 3)), "interpolation": cv2.INTER_NEAREST},
            {"px": ([1, -5, 3], [2], [0, 4], [7, 7, -1, 0]), "interpolation": cv2.INTER_CUBIC},
        ),
    ),
}
