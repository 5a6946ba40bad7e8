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
    pieces = []
    for factors in ((0, 2), (1, 3)):
        rows = [(params["factor"] == factor).nonzero()[:, 0] for factor in factors]
        turned = [
            images.index_select(0, beside(images, chosen)).rot90(factor, (-2, -1))
            for chosen, factor in zip(rows, factors, strict=True)
        ]
        pieces.append((torch.cat(rows), torch.cat(turned)))
    return pieces


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
