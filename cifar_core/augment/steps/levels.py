"""Changes of each value by itself: brightness, contrast, inversion, quantisation, normalisation."""

from collections.abc import Mapping, Sequence
from typing import Any

import albumentations as A
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from torch import Tensor

from cifar_core.augment.lowering import (
    Lowering,
    Params,
    beside,
    between,
    broadcastable,
    colour,
    in_blocks,
    looked_up,
    more,
    stacked,
    truncated,
    whole,
)

SURE = 1 - 2.0**-24  # the last float32 below 1; noise ends at 5.4 standard deviations


def inverted(step: Any, images: Tensor, params: Params) -> Tensor:
    """Return 255 - x."""
    return ~images


def solarized(step: A.Solarize, images: Tensor, params: Params) -> Tensor:
    """Invert the values from `threshold`, a share of 255, upwards."""
    least = (params["threshold"] * 255).ceil().clamp(max=256)
    (below,) = broadcastable(images, least - 1, dtype=torch.int16)
    above = (below - images) >> 15  # all bits where true; 3 times as fast as a comparison
    return images ^ above.to(torch.uint8)


def draw_threshold(step: A.Solarize, uniforms: Tensor, images: Tensor) -> Params:
    """Draw the threshold."""
    return {"threshold": between(uniforms[:, 0], *step.threshold_range)}


def posterized(step: A.Posterize, images: Tensor, params: Params) -> Tensor:
    """Keep the highest `num_bits` (M, 1) or (M, 3) bits."""
    mask = 256 - 2 ** (8 - params["num_bits"])
    return images & beside(images, mask, torch.uint8)[:, :, None, None]


def bit_ranges(step: A.Posterize) -> list[tuple[int, int]]:
    """Return the range of bits, one for all channels or one a channel."""
    return step.num_bits if isinstance(step.num_bits, list) else [step.num_bits]


def draw_bits(step: A.Posterize, uniforms: Tensor, images: Tensor) -> Params:
    """Draw the number of bits."""
    ranges = torch.tensor(bit_ranges(step))
    return {"num_bits": whole(uniforms, ranges[:, 0], ranges[:, 1])}


def collate_bits(step: A.Posterize, draws: Sequence[Mapping[str, Any]]) -> Params:
    """Read the bits Albumentations recorded, a number or a list."""
    return {"num_bits": torch.tensor([np.atleast_1d(draw["num_bits"]).tolist() for draw in draws])}


def brightened(step: A.RandomBrightnessContrast, images: Tensor, params: Params) -> Tensor:
    """Return alpha * x + beta."""
    alpha, beta = broadcastable(images, params["alpha"], params["beta"])
    return truncated((images * alpha).add_(beta))


def draw_brightness(step: A.RandomBrightnessContrast, uniforms: Tensor, images: Tensor) -> Params:
    """Draw contrast and brightness; the latter a share of 255 or of each picture's mean."""
    alpha = 1 + between(uniforms[:, 0], *step.contrast_limit)
    beta = between(uniforms[:, 1], *step.brightness_limit)
    if step.brightness_by_max:
        beta = beta * 255
    else:
        alpha, beta = beside(images, alpha), beside(images, beta) * images.double().mean((1, 2, 3))
    if step.ensure_safe_range:
        alpha, beta = safe_range(alpha, beta)
    return {"alpha": alpha, "beta": beta}


def safe_range(alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Narrow alpha and beta so that alpha * x + beta leaves no value of 0..255 out of range."""
    rising = alpha > 0
    beta = torch.where(rising, beta.clamp(0, 255), beta.clamp(max=255))
    alpha = torch.where(rising, torch.minimum(alpha, (255 - beta) / 255), torch.maximum(alpha, -beta / 255))
    return alpha, beta


def gamma_curved(step: A.RandomGamma, images: Tensor, params: Params) -> Tensor:
    """Raise the values, as shares of 255, to the power `gamma`, through one table a picture."""
    levels = torch.arange(256, dtype=torch.float64, device=images.device) * (1 / 255)
    gamma = beside(images, params["gamma"], torch.float64)
    table = (levels ** gamma[:, None] * 255).clamp_(max=255).to(torch.uint8)
    first = torch.arange(len(images), device=images.device, dtype=torch.int32).view(-1, 1, 1, 1) * 256
    return looked_up(table.view(-1), images.int() + first)


def draw_gamma(step: A.RandomGamma, uniforms: Tensor, images: Tensor) -> Params:
    """Draw gamma."""
    return {"gamma": between(uniforms[:, 0], *step.gamma_limit) / 100}


def noised(step: Any, images: Tensor, params: Params) -> Tensor:
    """Add the whole part of `noise_map`, (M, 3) or (M, 3, H, W), in levels."""
    noise = beside(images, params["noise_map"], torch.float32).trunc()
    return truncated(images + (noise if noise.ndim == 4 else noise[:, :, None, None]))


def draw_shift(step: A.RGBShift, uniforms: Tensor, images: Tensor) -> Params:
    """Draw one shift a channel."""
    low, high = torch.tensor(step.noise_params["ranges"], dtype=torch.float64).unbind(1)
    return {"noise_map": between(uniforms, low, high) * 255}


def draw_noise(step: A.GaussNoise, uniforms: Tensor, images: Tensor) -> Params:
    """Draw mean and standard deviation for each picture, then normal noise for each value or pixel."""
    height, width = images.shape[-2:]
    uniforms = beside(images, uniforms)
    spread, centre = between(uniforms[:, 0], *step.std_range), between(uniforms[:, 1], *step.mean_range)
    std, mean = broadcastable(images, spread, centre)
    channels = 3 if step.per_channel else 1
    shares = more(uniforms[:, 2], channels * height * width)
    noise = torch.erfinv((shares * 2 - 1).float().clamp_(-SURE, SURE)) * 2**0.5
    return {"noise_map": (noise.view(-1, channels, height, width) * std + mean).expand(-1, 3, -1, -1) * 255}


def collate_noise(step: A.GaussNoise, draws: Sequence[Mapping[str, Any]]) -> Params:
    """Read the noise Albumentations recorded, (H, W, 3) a picture."""
    return {
        "noise_map": torch.from_numpy(np.stack([draw["noise_map"] for draw in draws])).permute(0, 3, 1, 2)
    }


def noise_limits(step: A.GaussNoise) -> str:
    """Name coarse noise."""
    return "" if step.noise_scale_factor == 1 else f"noise_scale_factor={step.noise_scale_factor}"


def normalized(step: A.Normalize, images: Tensor, params: Params) -> Tensor:
    """Return (x / max_pixel_value - mean) / std, float32."""
    return images.float().sub_(colour(images, step.mean_np)).mul_(colour(images, step.denominator))


def normalize_limits(step: A.Normalize) -> str:
    """Name a normalisation that looks at the picture, or constants not fit for three channels."""
    if step.normalization != "standard":
        return f"normalization={step.normalization!r}"
    fit = all(np.size(values) in (1, 3) for values in (step.mean_np, step.denominator))
    return "" if fit else "mean or std of other than 1 or 3 numbers"


def scaled(step: A.ToFloat, images: Tensor, params: Params) -> Tensor:
    """Return x / max_value, float32."""
    return images.float().div_(255 if step.max_value is None else step.max_value)


def unchanged(step: Any, images: Tensor, params: Params) -> Tensor:
    """Return the pictures as they are."""
    return images


LOWERED = {
    A.InvertImg: Lowering(inverted),
    A.Solarize: Lowering(
        in_blocks(solarized),
        draw_threshold,
        stacked("threshold"),
        columns=lambda step: 1,
        examples=({}, {"threshold_range": (0.0, 1.0)}, {"threshold_range": (0.2, 0.2)}),
    ),
    A.Posterize: Lowering(
        posterized,
        draw_bits,
        collate_bits,
        columns=lambda step: len(bit_ranges(step)),
        examples=({}, {"num_bits": (1, 7)}, {"num_bits": [(1, 3), (4, 4), (2, 7)]}),
    ),
    A.RandomBrightnessContrast: Lowering(
        in_blocks(brightened),
        draw_brightness,
        stacked("alpha", "beta"),
        columns=lambda step: 2,
        tolerance=2,
        examples=(
            {},
            {"brightness_limit": 0.6, "contrast_limit": (-1, 1), "brightness_by_max": False},
            {"ensure_safe_range": True},
        ),
    ),
    A.RandomGamma: Lowering(
        in_blocks(gamma_curved),
        draw_gamma,
        stacked("gamma"),
        columns=lambda step: 1,
        tolerance=2,
        examples=({}, {"gamma_limit": (20, 400)}),
    ),
    A.RGBShift: Lowering(
        in_blocks(noised),
        draw_shift,
        stacked("noise_map"),
        columns=lambda step: 3,
        tolerance=2,
        examples=({}, {"r_shift_limit": 0.2, "g_shift_limit": (-100, 3), "b_shift_limit": (30, 30)}),
    ),
    A.GaussNoise: Lowering(
        in_blocks(noised),
        draw_noise,
        collate_noise,
        columns=lambda step: 3,
        limits=noise_limits,
        examples=({}, {"std_range": (0.01, 0.1), "mean_range": (-0.2, 0.3), "per_channel": False}),
    ),
    A.Normalize: Lowering(
        normalized,
        limits=normalize_limits,
        to_float=True,
        examples=(
            {},
            {"mean": 0.5, "std": 0.5},
            {"mean": (125.3, 123.0, 113.9), "std": (62.1, 61.9, 66.7), "max_pixel_value": 1.0},
        ),
    ),
    A.ToFloat: Lowering(scaled, to_float=True, examples=({}, {"max_value": 128.0})),
    ToTensorV2: Lowering(unchanged, on_float=True),
    A.NoOp: Lowering(unchanged, on_float=True),
}
