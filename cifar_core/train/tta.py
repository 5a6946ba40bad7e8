"""Test-time augmentation: the mean of a network's logits over several views of each picture."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

KINDS = ("none", "mirror", "multicrop")


def averaged(model: Callable[[Tensor], Tensor], kind: str) -> Callable[[Tensor], Tensor]:
    """Return ``model`` as a function that averages its logits over the views of ``kind``, one of KINDS.

    `mirror` takes pictures (N, C, H, W) and their mirror images. `multicrop` gives half of the weight to
    these two and half to the same two of the picture shifted by one pixel along its diagonal, both ways;
    the border is filled by reflection. So a picture is seen once, twice or six times.
    Source: Jordan 2024, arXiv:2404.00498, section 3.5.
    """

    def mirror(images: Tensor) -> Tensor:
        return (model(images) + model(images.flip(-1))) / 2

    def multicrop(images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        wide = F.pad(images, (1, 1, 1, 1), mode="reflect")
        shifted = mirror(wide[:, :, :height, :width]) + mirror(wide[:, :, 2:, 2:])
        return mirror(images) / 2 + shifted / 4

    if kind not in KINDS:
        raise ValueError(f"tta must be one of {', '.join(KINDS)}, got {kind!r}")
    return {"none": model, "mirror": mirror, "multicrop": multicrop}[kind]
