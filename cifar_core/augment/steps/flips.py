"""Mirrors and quarter turns."""

from typing import Any

import albumentations as A
import torch
from torch import Tensor

from cifar_core.augment.lowering import Changed, Lowering, Params, beside, stacked, whole


def mirrored(step: Any, images: Tensor, params: Params) -> Tensor:
    """Swap left and right."""
    return images.flip(-1)


def upside_down(step: Any, images: Tensor, params: Params) -> Tensor:
    """Swap top and bottom."""
    return images.flip(-2)


def transposed(step: Any, images: Tensor, params: Params) -> Tensor:
    """Swap rows and columns."""
    return images.transpose(-1, -2)


def quarter_turns(step: A.RandomRotate90, images: Tensor, params: Params) -> Changed:
    """Turn each picture counter-clockwise by `factor` quarters; two sizes come out where sides differ."""
    factors = (0, 2, 1, 3)
    rows = [(params["factor"] == factor).nonzero()[:, 0] for factor in factors]
    there = beside(images, torch.cat(rows)).split([len(chosen) for chosen in rows])
    turned = [
        images.index_select(0, chosen).rot90(factor, (-2, -1))
        for chosen, factor in zip(there, factors, strict=True)
    ]
    return [(torch.cat(rows[span]), torch.cat(turned[span])) for span in (slice(2), slice(2, 4))]


def draw_quarters(step: A.RandomRotate90, uniforms: Tensor, images: Tensor) -> Params:
    """Draw 0 to 3 quarters."""
    return {"factor": whole(uniforms[:, 0], 0, 3)}


LOWERED = {
    A.HorizontalFlip: Lowering(mirrored, on_float=True),
    A.VerticalFlip: Lowering(upside_down, on_float=True),
    A.Transpose: Lowering(transposed, on_float=True),
    A.RandomRotate90: Lowering(
        quarter_turns, draw_quarters, stacked("factor"), columns=lambda step: 1, on_float=True
    ),
}
