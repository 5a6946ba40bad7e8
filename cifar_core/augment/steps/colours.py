"""Hue, saturation, grey, and the channels themselves."""

from collections.abc import Callable
from typing import Any

import albumentations as A
import torch
from torch import Tensor

from cifar_core.augment.lowering import (
    Lowering,
    Params,
    beside,
    between,
    column,
    constant,
    in_blocks,
    kept,
    looked_up,
    per_channel,
    rounded,
    stacked,
    truncated,
    whole,
)

VECTOR = 32  # pixels; OpenCV's vector code for HSV -> RGB truncates, the rest of a row is rounded


def grey(images: Tensor) -> Tensor:
    """Return the luma (M, H, W), int32, of uint8 RGB pictures with OpenCV's integer weights, of 2^15."""
    red, green, blue = images.int().unbind(1)
    return (red * 9798 + green * 19235 + blue * 3735 + (1 << 14)) >> 15


def mask(condition: Tensor) -> Tensor:
    """Return a bool tensor as uint8, 255 where true."""
    return condition.view(torch.uint8).neg()


def to_hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return hue (0..179), saturation and value (0..255), int32 (M, H, W), as OpenCV's 8-bit code does."""
    red, green, blue = images.unbind(1)
    value = torch.maximum(torch.maximum(red, green), blue)
    spread = value - torch.minimum(torch.minimum(red, green), blue)
    red_most = mask(value == red)
    green_most = mask(value == green) & ~red_most
    blue_most = ~(red_most | green_most)
    ahead = (green & red_most) | (blue & green_most) | (red & blue_most)
    behind = (blue & red_most) | (red & green_most) | (green & blue_most)
    sixths = (green_most & 2) | (blue_most & 4)
    steps = torch.arange(256, dtype=torch.int32, device=images.device).clamp(min=1)
    per_value = ((255 << 13) + steps) // (2 * steps)  # 255 / steps, rounded, in fixed point of 12 bits
    per_spread = ((30 << 13) + steps) // (2 * steps)
    value, spread = value.int(), spread.int()
    hue = sixths.int().mul_(spread).add_(ahead.int()).sub_(behind.int())
    hue = looked_up(per_spread, spread).mul_(hue).add_(1 << 11).bitwise_right_shift_(12)
    hue.add_((hue >> 31) & 180)  # where negative
    saturation = looked_up(per_value, value).mul_(spread).add_(1 << 11).bitwise_right_shift_(12)
    return hue, saturation, value


def from_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Return uint8 RGB pictures (M, 3, H, W) of 8-bit hue, saturation and value, as OpenCV does."""
    sector, share, level = (
        values.float().mul_(unit)[:, None]
        for values, unit in ((hue, 6 / 180), (saturation, 1 / 255), (value, 1 / 255))
    )
    corners = constant(((3, 2, 4), (-1, 1, 1), (2, -1, -1)), hue.device, torch.int64)
    centre, slope, foot = corners[..., None, None]
    fade = (sector - centre).abs_().mul_(slope).add_(foot).clamp_(0, 1)
    levels = fade.mul_(share).neg_().add_(1).mul_(level).mul_(255)
    width = hue.shape[-1]
    levels[..., width // VECTOR * VECTOR :] += 0.5
    return levels.to(torch.uint8)  # truncates


def turned(hue: Tensor, shift: Tensor) -> Tensor:
    """Add `shift` (M,) to the hue, of 180."""
    hue = hue + beside(hue, shift.floor() % 180, torch.int32).view(-1, 1, 1)
    return hue.sub_(((179 - hue) >> 31) & 180)  # 5 times as fast as `%`


def hsv_shifted(step: A.HueSaturationValue, images: Tensor, params: Params) -> Tensor:
    """Add `hue_shift` (of 180, wraps around), `sat_shift` and `val_shift`; grey stays grey."""
    hue, saturation, value = to_hsv(images)
    more_sat, more_val = (
        beside(images, params[name].trunc(), torch.int32).view(-1, 1, 1)
        for name in ("sat_shift", "val_shift")
    )
    coloured = (-saturation) >> 31  # all bits where not 0
    saturation = (saturation + more_sat).clamp_(0, 255).bitwise_and_(coloured)
    changed = from_hsv(turned(hue, params["hue_shift"]), saturation, (value + more_val).clamp_(0, 255))
    return kept(images, changed, ~torch.stack(list(params.values())).any(0))


def draw_hsv(step: A.HueSaturationValue, uniforms: Tensor, images: Tensor) -> Params:
    """Draw the three shifts."""
    limits = {
        "hue_shift": step.hue_shift_limit,
        "sat_shift": step.sat_shift_limit,
        "val_shift": step.val_shift_limit,
    }
    return {name: between(uniforms[:, n], *limit) for n, (name, limit) in enumerate(limits.items())}


def greyed(step: A.ToGray, images: Tensor, params: Params) -> Tensor:
    """Return grey pictures of three equal channels."""
    if step.method == "weighted_average":
        level = grey(images)
    elif step.method == "average":
        level = images.sum(1, dtype=torch.int32) // 3
    elif step.method == "max":
        level = images.amax(1)
    else:
        level = (images.amax(1).int() + images.amin(1)) // 2
    return level.to(torch.uint8)[:, None].expand_as(images)


def grey_limits(step: A.ToGray) -> str:
    """Name a method without a batched form, or other than three channels."""
    if step.method in ("from_lab", "pca"):
        return f"method={step.method!r}"
    return "" if step.num_output_channels == 3 else f"num_output_channels={step.num_output_channels}"


def brighter(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the values by `factor` (M,)."""
    return truncated(images.float().mul_(column(images, factor)))


def contrasted(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the distance to each picture's mean luma; a factor of 0 leaves the rounded mean."""
    mean = grey(images).double().mean((1, 2))
    factor = beside(images, factor)
    shift = torch.where(factor == 0, (mean + 0.5).floor(), mean * (1 - factor))
    return truncated(images.float().mul_(column(images, factor)).add_(column(images, shift)))


def saturated(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the distance to the luma."""
    weighted = column(images, 1 - factor) * grey(images)[:, None]
    return rounded(torch.addcmul(weighted, images.float(), column(images, factor)))


def hue_turned(images: Tensor, factor: Tensor) -> Tensor:
    """Turn the hue by `factor` of a circle."""
    hue, saturation, value = to_hsv(images)
    return kept(images, from_hsv(turned(hue, 180 * factor), saturation, value), factor == 0)


JITTERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": brighter,
    "contrast": contrasted,
    "saturation": saturated,
    "hue": hue_turned,
}


def jittered(step: A.ColorJitter, images: Tensor, params: Params) -> Tensor:
    """Change brightness, contrast, saturation and hue in each picture's own `order` (M, 4)."""
    images = images.clone()
    for turn in range(len(JITTERS)):
        for position, (name, change) in enumerate(JITTERS.items()):
            rows = (params["order"][:, turn] == position).nonzero()[:, 0]
            here = beside(images, rows)
            images.index_copy_(0, here, change(images.index_select(0, here), params[name][rows]))
    return images


def draw_jitter(step: A.ColorJitter, uniforms: Tensor, images: Tensor) -> Params:
    """Draw the four factors and their order."""
    factors = {name: between(uniforms[:, n], *getattr(step, name)) for n, name in enumerate(JITTERS)}
    return {**factors, "order": uniforms[:, 4:].argsort(1)}


def shuffled(step: A.ChannelShuffle, images: Tensor, params: Params) -> Tensor:
    """Reorder the channels: the new one i is the old one channels_shuffled[i]."""
    order = beside(images, params["channels_shuffled"])
    return images[torch.arange(len(images), device=images.device)[:, None], order]


def draw_shuffle(step: A.ChannelShuffle, uniforms: Tensor, images: Tensor) -> Params:
    """Draw an order of the channels."""
    return {"channels_shuffled": uniforms.argsort(1)}


def channels_dropped(step: A.ChannelDropout, images: Tensor, params: Params) -> Tensor:
    """Set the marked channels, bool (M, 3), to the fill value."""
    marked = beside(images, params["dropped"], torch.uint8)[:, :, None, None]
    return images * (1 - marked) + marked * int(step.fill)


def draw_channels(step: A.ChannelDropout, uniforms: Tensor, images: Tensor) -> Params:
    """Draw how many channels to drop, then which."""
    number = whole(uniforms[:, :1], *step.channel_drop_range)
    rank = uniforms[:, 1:].argsort(1).argsort(1)
    return {"dropped": rank < number}


def collate_channels(step: A.ChannelDropout, draws: Any) -> Params:
    """Read the channels Albumentations dropped."""
    return {"dropped": torch.tensor([[n in draw["channels_to_drop"] for n in range(3)] for draw in draws])}


def drop_limits(step: A.ChannelDropout) -> str:
    """Name a fill that is no level, or a range that could drop all channels."""
    if step.channel_drop_range[1] > 2:
        return f"channel_drop_range={step.channel_drop_range}"
    return "" if all(0 <= value <= 255 for value in per_channel(step.fill)) else f"fill={step.fill}"


LOWERED = {
    A.HueSaturationValue: Lowering(
        in_blocks(hsv_shifted),
        draw_hsv,
        stacked("hue_shift", "sat_shift", "val_shift"),
        columns=lambda step: 3,
        tolerance=2,
        examples=(
            {},
            {"hue_shift_limit": 3, "sat_shift_limit": 2, "val_shift_limit": 20},
            {"hue_shift_limit": (-400, 400), "sat_shift_limit": 255, "val_shift_limit": 0},
        ),
    ),
    A.ToGray: Lowering(
        greyed,
        limits=grey_limits,
        examples=tuple(
            {"method": method} for method in ("weighted_average", "average", "max", "desaturation")
        ),
    ),
    A.ColorJitter: Lowering(
        jittered,
        draw_jitter,
        stacked("brightness", "contrast", "saturation", "hue", "order"),
        columns=lambda step: 8,
        tolerance=2,
        examples=(
            {},
            {"brightness": (0, 3), "contrast": (0, 3), "saturation": (0, 3), "hue": 0},
            {"contrast": (0, 0), "hue": 0.1},
        ),
    ),
    A.ChannelShuffle: Lowering(shuffled, draw_shuffle, stacked("channels_shuffled"), columns=lambda step: 3),
    A.ChannelDropout: Lowering(
        channels_dropped,
        draw_channels,
        collate_channels,
        columns=lambda step: 4,
        limits=drop_limits,
        examples=({}, {"channel_drop_range": (1, 2), "fill": 200.9}),
    ),
}
