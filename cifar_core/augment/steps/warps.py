"""Rotation, shear, scale and shift: affine maps with interpolation."""

from collections.abc import Sequence
from typing import Any

import albumentations as A
import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from cifar_core.augment.lowering import (
    Lowering,
    Params,
    beside,
    between,
    colour,
    constant,
    in_blocks,
    nearest_level,
    per_channel,
    rounded,
    stacked,
    whole,
)
from cifar_core.augment.steps.crops import pad

MODES = {
    cv2.INTER_NEAREST: "nearest",
    cv2.INTER_LINEAR: "bilinear",
    cv2.INTER_AREA: "bilinear",
    cv2.INTER_CUBIC: "bicubic",
}
BORDERS = {  # OpenCV's border -> padding mode of grid_sample, and its align_corners
    cv2.BORDER_CONSTANT: ("zeros", False),
    cv2.BORDER_REPLICATE: ("border", False),
    cv2.BORDER_REFLECT: ("reflection", False),
    cv2.BORDER_REFLECT_101: ("reflection", True),
}
Warp = Any  # Rotate, Affine or ShiftScaleRotate


def warped(step: Warp, images: Tensor, params: Params) -> Tensor:
    """Map each picture by its own `matrix` (M, 3, 3), from input to output pixels, as `cv2.warpAffine`."""
    places = sources(params["matrix"], images)
    if step.interpolation == cv2.INTER_NEAREST:
        places = places.add_(0.5).floor_()
    if step.border_mode == cv2.BORDER_CONSTANT:
        fill = colour(images, nearest_level(step.fill))
        return rounded(sampled(images - fill, places, step.interpolation, step.border_mode).add_(fill))
    return rounded(sampled(images.float(), places, step.interpolation, step.border_mode))


def sources(matrices: Tensor, images: Tensor) -> Tensor:
    """Return where in `images` each output pixel comes from, as x and y (M, 2, H, W)."""
    height, width = images.shape[-2:]
    inverse = beside(images, torch.linalg.inv(matrices.double())[:, :2])
    x = inverse[:, :, 0, None] * torch.arange(width, device=images.device)
    y = inverse[:, :, 1, None] * torch.arange(height, device=images.device) + inverse[:, :, 2, None]
    return x.float()[:, :, None, :] + y.float()[:, :, :, None]


def sampled(images: Tensor, places: Tensor, interpolation: int, border_mode: int) -> Tensor:
    """Interpolate float pictures (M, C, H, W) at `places`, x and y (M, 2, H', W'), which change in place."""
    if border_mode == cv2.BORDER_WRAP:
        return sampled_around(images, places, interpolation)
    padding_mode, aligned = BORDERS[border_mode]
    height, width = images.shape[-2:]
    if min(height, width) == 1:
        padding_mode, aligned = ("border" if padding_mode == "reflection" else padding_mode), False
    if aligned:
        grid = places.mul_(of_axes(images, 2 / (width - 1), 2 / (height - 1))).sub_(1)
    else:
        grid = places.mul_(2).add_(1).div_(of_axes(images, width, height)).sub_(1)
    grid = grid.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, MODES[interpolation], padding_mode, align_corners=aligned)


def of_axes(images: Tensor, x: float, y: float) -> Tensor:
    """Return a number for each axis so that it broadcasts over places (M, 2, H, W)."""
    return constant((x, y), images.device, torch.float32).view(1, 2, 1, 1)


def sampled_around(images: Tensor, places: Tensor, interpolation: int) -> Tensor:
    """Interpolate pictures that repeat without end."""
    height, width = images.shape[-2:]
    rim = 2  # pixels, for the widest kernel
    framed = pad(images, (rim,) * 4, border_mode=cv2.BORDER_WRAP, fill=0)
    places = places.remainder_(of_axes(images, width, height)).add_(rim)
    return sampled(framed, places, interpolation, cv2.BORDER_REPLICATE)


def warp_limits(step: Warp) -> str:
    """Name an interpolation or fill without a batched form, or an output of varying size."""
    if step.interpolation not in MODES:
        return f"interpolation={step.interpolation}"
    if getattr(step, "crop_border", False) or getattr(step, "fit_output", False):
        return "crop_border" if isinstance(step, A.Rotate) else "fit_output"
    return "" if len(per_channel(step.fill)) == 3 else f"fill={step.fill}"


def matrices(turn: Tensor, scale: Tensor, shear: Tensor, shift: Tensor, size: Sequence[int]) -> Tensor:
    """Return the maps (M, 3, 3): about the centre scale, turn, shear, then shift.

    `turn` (M,) and `shear` (M, 2) are in degrees, `scale` and `shift` (M, 2) in x, y.
    """
    cosine, sine = turn.deg2rad().cos(), turn.deg2rad().sin()
    turned = torch.stack([torch.stack([cosine, sine], 1), torch.stack([-sine, cosine], 1)], 1)
    sheared = torch.eye(2, dtype=turn.dtype).repeat(len(turn), 1, 1)
    sheared[:, 0, 1], sheared[:, 1, 0] = shear.deg2rad().tan().unbind(1)
    linear = sheared @ turned * scale[:, None, :]
    centre = torch.tensor([size[1] / 2 - 0.5, size[0] / 2 - 0.5], dtype=turn.dtype)
    full = torch.eye(3, dtype=turn.dtype).repeat(len(turn), 1, 1)
    full[:, :2, :2] = linear
    full[:, :2, 2] = centre + shift - linear @ centre
    return full


def draw_rotation(step: A.Rotate, uniforms: Tensor, images: Tensor) -> Params:
    """Draw the angle."""
    angle = between(uniforms[:, 0], *step.limit)
    still = torch.zeros(len(angle), 2, dtype=angle.dtype)
    return {"matrix": matrices(angle, still + 1, still, still, images.shape[-2:])}


def draw_affine(step: A.Affine | A.ShiftScaleRotate, uniforms: Tensor, images: Tensor) -> Params:
    """Draw shift, shear, scale and angle."""
    u = uniforms.unbind(1)
    height, width = images.shape[-2:]
    shift = torch.stack([drawn_shift(step, "x", width, u[0]), drawn_shift(step, "y", height, u[1])], 1)
    shear = -torch.stack([between(u[2], *step.shear["x"]), between(u[3], *step.shear["y"])], 1)
    across = drawn_scale(step.scale["x"], step.balanced_scale, u[4], u[5])
    down = across if step.keep_ratio else drawn_scale(step.scale["y"], step.balanced_scale, u[6], u[7])
    angle = between(u[8], *step.rotate)
    return {"matrix": matrices(angle, torch.stack([across, down], 1), shear, shift, (height, width))}


def drawn_shift(step: A.Affine | A.ShiftScaleRotate, axis: str, size: int, uniforms: Tensor) -> Tensor:
    """Draw a whole number of pixels."""
    if step.translate_px is not None:
        low, high = step.translate_px[axis]
        return whole(uniforms, int(low), int(high)).double()
    return (between(uniforms, *step.translate_percent[axis]) * size).trunc()


def drawn_scale(span: tuple[float, float], balanced: bool, choice: Tensor, uniforms: Tensor) -> Tensor:
    """Draw a factor; a balanced one is as often below 1 as above."""
    if not balanced:
        return between(uniforms, *span)
    below, above = (min(span[0], 1.0), 1.0), (1.0, max(span[1], 1.0))
    share_below = 0.5 if span[0] < 1 < span[1] else float(span[0] < 1)
    return torch.where(choice < share_below, between(uniforms, *below), between(uniforms, *above))


MAPS = (
    {"border_mode": cv2.BORDER_REFLECT_101},
    {"border_mode": cv2.BORDER_REFLECT, "interpolation": cv2.INTER_AREA},
    {"border_mode": cv2.BORDER_REPLICATE, "interpolation": cv2.INTER_NEAREST},
    {"border_mode": cv2.BORDER_WRAP, "interpolation": cv2.INTER_CUBIC},
    {"fill": (125.3, 20.0, 200.0), "interpolation": cv2.INTER_CUBIC},
    {"fill": 50, "interpolation": cv2.INTER_NEAREST},
)
LOWERED = {
    A.Rotate: Lowering(
        in_blocks(warped),
        draw_rotation,
        stacked("matrix"),
        columns=lambda step: 1,
        limits=warp_limits,
        tolerance=2,
        examples=({}, {"limit": 10}, *MAPS),
    ),
    A.Affine: Lowering(
        in_blocks(warped),
        draw_affine,
        stacked("matrix"),
        columns=lambda step: 9,
        limits=warp_limits,
        tolerance=2,
        examples=(
            {"rotate": (-30, 60), "scale": (0.5, 1.5), "translate_percent": (-0.2, 0.2), "shear": (-20, 20)},
            {"shear": {"x": (5, 25), "y": (-30, 0)}},
            {"rotate": (40, 42), "shear": {"x": (20, 21)}, "scale": {"x": (0.6, 0.62)}},
            {"translate_percent": {"x": (-0.3, 0.1), "y": (0.0, 0.4)}, "border_mode": cv2.BORDER_REPLICATE},
            {"scale": {"x": (0.3, 2), "y": (0.8, 1)}, "balanced_scale": True, "border_mode": cv2.BORDER_WRAP},
            {"scale": (0.8, 1.4), "keep_ratio": True, "translate_px": {"x": (-5, 8), "y": 3}, "fill": 99},
        ),
    ),
    A.ShiftScaleRotate: Lowering(
        in_blocks(warped),
        draw_affine,
        stacked("matrix"),
        columns=lambda step: 9,
        limits=warp_limits,
        tolerance=2,
        examples=(
            {},
            {
                "shift_limit_x": 0.3,
                "scale_limit": 0.5,
                "border_mode": cv2.BORDER_REFLECT_101,
                "rotate_limit": 180,
            },
        ),
    ),
}
