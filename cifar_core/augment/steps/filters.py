"""Small convolutions."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cifar_core.augment.lowering import Lowering, Params, beside, between, in_blocks, rounded, stacked, whole
from cifar_core.augment.steps.crops import source_index
from cifar_core.augment.steps.resizes import separable


def sharpened(step: A.Sharpen, images: Tensor, params: Params) -> Tensor:
    """Convolve each picture with its own 3x3 `sharpening_matrix`; borders are mirrored."""
    count, channels, height, width = images.shape
    kernels = beside(images, params["sharpening_matrix"], torch.float32).repeat_interleave(channels, 0)
    framed = F.pad(images.float(), (1, 1, 1, 1), mode="reflect").reshape(1, -1, height + 2, width + 2)
    result = F.conv2d(framed, kernels[:, None], groups=count * channels)
    return rounded(result.view_as(images))


def draw_sharpening(step: A.Sharpen, uniforms: Tensor, images: Tensor) -> Params:
    """Draw strength and lightness, as one matrix."""
    alpha, lightness = between(uniforms[:, 0], *step.alpha), between(uniforms[:, 1], *step.lightness)
    matrix = -alpha[:, None, None].repeat(1, 3, 3)
    matrix[:, 1, 1] = 1 - alpha + alpha * (8 + lightness)
    return {"sharpening_matrix": matrix}


def sharpen_limits(step: A.Sharpen) -> str:
    """Name the method that blurs."""
    return "" if step.method == "kernel" else f"method={step.method!r}"


def blurred(step: A.Blur | A.GaussianBlur, images: Tensor, params: Params) -> Tensor:
    """Convolve rows and columns of each picture with its own `kernel` (M, K), K odd; borders are mirrored."""
    kernel = beside(images, params["kernel"], torch.float64)
    height, width = images.shape[-2:]
    down = mirror_matrix(kernel, height)
    return separable(images, down, down if width == height else mirror_matrix(kernel, width))


def mirror_matrix(kernel: Tensor, size: int) -> Tensor:
    """Return the convolution of `size` pixels, mirrored at the ends, as matrices (M, size, size)."""
    return torch.einsum("mk,ikj->mij", kernel, mirrors(size, kernel.shape[1], kernel.device))


@lru_cache(maxsize=64)
def mirrors(size: int, width: int, device: torch.device) -> Tensor:
    """Mark which pixel lies under each place of a kernel at each pixel, as float64 (size, width, size)."""
    reach = width // 2
    source = source_index(-reach, size + reach, size, cv2.BORDER_REFLECT_101, device).unfold(0, width, 1)
    return (source[..., None] == torch.arange(size, device=device)).double()


def boxes(widths: Tensor, most: int) -> Tensor:
    """Return flat kernels (M, most), `widths` (M,) wide, centred."""
    inside = (torch.arange(most) - most // 2).abs() <= widths[:, None] // 2
    return inside / widths[:, None].double()


def box_widths(step: A.Blur) -> list[int]:
    """Return the odd widths a box is drawn from."""
    low, high = (max(3, limit + (limit % 2 == 0)) for limit in step.blur_limit)
    return list(range(low, max(low, high) + 1, 2))


def draw_box(step: A.Blur, uniforms: Tensor, images: Tensor) -> Params:
    """Draw the width of the box."""
    widths = torch.tensor(box_widths(step))
    return {"kernel": boxes(widths[whole(uniforms[:, 0], 0, len(widths) - 1)], box_widths(step)[-1])}


def collate_box(step: A.Blur, draws: Sequence[Mapping[str, Any]]) -> Params:
    """Read the width Albumentations recorded."""
    return {"kernel": boxes(torch.tensor([draw["kernel"] for draw in draws]), box_widths(step)[-1])}


def gaussian_reach(sigma: Tensor, width: Tensor) -> Tensor:
    """Return how many pixels a kernel reaches to each side; a width of 0 follows sigma."""
    return torch.where(width == 0, (sigma * 3.5).long(), width // 2)


def most_reach(step: A.GaussianBlur) -> int:
    """Return the reach of the widest kernel the step can draw."""
    sigma = torch.tensor(step.sigma_limit[1], dtype=torch.float64)
    return int(gaussian_reach(sigma, torch.tensor(step.blur_limit)).max())


def draw_gaussian(step: A.GaussianBlur, uniforms: Tensor, images: Tensor) -> Params:
    """Draw sigma and width, as a kernel."""
    sigma = between(uniforms[:, 0], *step.sigma_limit)
    reach = gaussian_reach(sigma, whole(uniforms[:, 1], *step.blur_limit))
    most = most_reach(step)
    place = torch.arange(-most, most + 1)
    kernel = torch.exp(-0.5 * (place / sigma[:, None]) ** 2) * (place.abs() <= reach[:, None])
    return {"kernel": kernel / kernel.sum(1, keepdim=True)}


def collate_gaussian(step: A.GaussianBlur, draws: Sequence[Mapping[str, Any]]) -> Params:
    """Read the kernels Albumentations recorded, of one width."""
    most = most_reach(step)
    kernels = np.zeros((len(draws), 2 * most + 1))
    for row, draw in zip(kernels, draws, strict=True):
        reach = len(draw["kernel"]) // 2
        row[most - reach : most + reach + 1] = draw["kernel"]
    return {"kernel": torch.from_numpy(kernels)}


LOWERED = {
    A.Sharpen: Lowering(
        in_blocks(sharpened),
        draw_sharpening,
        stacked("sharpening_matrix"),
        columns=lambda step: 2,
        limits=sharpen_limits,
        tolerance=2,
        examples=({}, {"alpha": (0.0, 1.0), "lightness": (0.0, 3.0)}),
    ),
    A.Blur: Lowering(
        in_blocks(blurred),
        draw_box,
        collate_box,
        columns=lambda step: 1,
        tolerance=2,
        examples=({}, {"blur_limit": (5, 12)}),
    ),
    A.GaussianBlur: Lowering(
        in_blocks(blurred),
        draw_gaussian,
        collate_gaussian,
        columns=lambda step: 2,
        tolerance=2,
        examples=(
            {},
            {"blur_limit": (3, 8), "sigma_limit": (0.2, 2.0)},
            {"blur_limit": (0, 3), "sigma_limit": 0.8},
        ),
    ),
}
