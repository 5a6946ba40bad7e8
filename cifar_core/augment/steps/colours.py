"""Hue, saturation, grey, and the channels themselves."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import albumentations as A
import torch
from torch import Tensor

from cifar_core.augment.lowering import (
    Lowering,
    Params,
    as_bytes,
    beside,
    between,
    block_by_block,
    broadcastable,
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
from cifar_core.device import put

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
    value, spread = value.int(), spread.int()
    per_spread, per_value = (
        looked_up(constant(quotients(number), images.device, torch.int32), divisor)
        for number, divisor in ((30, spread), (255, value))
    )
    hue = sixths.int().mul_(spread).add_(ahead).sub_(behind)
    hue = hue.mul_(per_spread).add_(1 << 11).bitwise_right_shift_(12)
    hue.add_((hue >> 31) & 180)  # where negative
    saturation = per_value.mul_(spread).add_(1 << 11).bitwise_right_shift_(12)
    return hue, saturation, value


@cache
def quotients(number: int) -> tuple[int, ...]:
    """Return number / n for n of 0..255 (0 as 1), rounded, in fixed point of 12 bits."""
    divisors = [max(n, 1) for n in range(256)]
    return tuple(((number << 13) + n) // (2 * n) for n in divisors)


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
    rest = hue.shape[-1] % VECTOR
    if rest:
        levels[..., -rest:] += 0.5
    return as_bytes(levels)


def turned(hue: Tensor, shift: Tensor) -> Tensor:
    """Add `shift`, of 0..179, to the hue."""
    hue = hue + shift
    return hue.sub_(((179 - hue) >> 31) & 180)  # 5 times as fast as `%`


def hsv_shifted(step: A.HueSaturationValue, images: Tensor, params: Params) -> Tensor:
    """Add `hue_shift` (of 180, wraps around), `sat_shift` and `val_shift`; grey stays grey."""
    hue, saturation, value = to_hsv(images)
    shifts = params["hue_shift"].floor() % 180, params["sat_shift"].trunc(), params["val_shift"].trunc()
    turn, more_sat, more_val = broadcastable(images, *shifts, dtype=torch.int32)
    coloured = (-saturation) >> 31  # all bits where not 0
    saturation = (saturation + more_sat[:, 0]).clamp_(0, 255).bitwise_and_(coloured)
    changed = from_hsv(turned(hue, turn[:, 0]), saturation, (value + more_val[:, 0]).clamp_(0, 255))
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
    (scale,) = broadcastable(images, factor)
    return truncated(images * scale)


def contrasted(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the distance to each picture's mean luma; a factor of 0 leaves the rounded mean."""
    total = grey(images).sum((1, 2), dtype=torch.int32)  # exact below 8 million pixels
    mean = total.double() / (images.shape[-2] * images.shape[-1])
    factor = beside(images, factor)
    shift = torch.where(factor == 0, (mean + 0.5).floor(), mean * (1 - factor))
    scale, shift = broadcastable(images, factor, shift)
    return truncated((images * scale).add_(shift))


def saturated(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the distance to the luma."""
    scale, rest = broadcastable(images, factor, 1 - factor)
    return rounded((rest * grey(images)[:, None]).addcmul(images.float(), scale))


def hue_turned(images: Tensor, factor: Tensor) -> Tensor:
    """Turn the hue by `factor` of a circle."""
    hue, saturation, value = to_hsv(images)
    (turn,) = broadcastable(images, (180 * factor).floor() % 180, dtype=torch.int32)
    return from_hsv(turned(hue, turn[:, 0]), saturation, value)


JITTERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": brighter,
    "contrast": contrasted,
    "saturation": saturated,
    "hue": hue_turned,
}
WITHOUT_EFFECT = {"brightness": 1, "contrast": 1, "saturation": 1, "hue": 0}


def jittered(step: A.ColorJitter, images: Tensor, params: Params) -> Tensor:
    """Change brightness, contrast, saturation and hue in each picture's own `order` (M, 4)."""
    changed = images = images.contiguous()
    for turn in turns(params):
        for position, (name, change) in enumerate(JITTERS.items()):
            rows = (turn == position).nonzero()[:, 0]
            if len(rows) == len(images):
                changed = block_by_block(change, changed, params[name])
            elif len(rows):
                changed = changed.clone() if changed is images else changed
                here = beside(images, rows)
                part = block_by_block(change, changed.index_select(0, here), params[name][rows])
                changed = put(changed, here, part)
    return changed


def turns(params: Params) -> Sequence[Tensor]:
    """Return which factor each picture meets first, second and so on, (M,) each; -1 where none is left.

    Factors without effect take no turn, so a jitter of one factor is one pass over all pictures.
    """
    acts = torch.stack([params[name] != same for name, same in WITHOUT_EFFECT.items()], 1)
    in_order = acts.gather(1, params["order"])
    first = (~in_order).byte().argsort(dim=1, stable=True)
    order = params["order"].masked_fill(~in_order, -1).gather(1, first)
    return order[:, : int(acts.sum(1).max())].unbind(1)


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
