"""Pictures of every size: real digits, natural-like noise, and CIFAR's own where CIFAR10_JPEG names them."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Pictures = Callable[..., Tensor]


def natural(count: int, height: int, width: int) -> Tensor:
    """Coloured noise whose amplitude falls with frequency, as in photographs."""
    generator = torch.Generator().manual_seed(count * height + width)
    total = torch.zeros(count, 3, height, width)
    for side in (2, 4, 8, 16):
        grain = torch.randn(count, 3, side, side, generator=generator) + torch.randn(
            count, 1, side, side, generator=generator
        )
        total += F.interpolate(grain, (height, width), mode="bicubic") / side**0.5
    total += 0.05 * torch.randn(count, 3, height, width, generator=generator)
    return (total * 45 + 120).round().clamp(0, 255).to(torch.uint8)


@cache
def photographs(count: int) -> Tensor:
    """Pictures of the JPEG copy of CIFAR-10, where the environment says it lies."""
    paths = sorted((Path(os.environ["CIFAR10_JPEG"]) / "test").glob("*/*"))
    chosen = [paths[n * len(paths) // count] for n in range(count)]
    return torch.stack(
        [torch.from_numpy(np.array(Image.open(path).convert("RGB"))) for path in chosen]
    ).permute(0, 3, 1, 2)


@pytest.fixture(scope="session")
def digits() -> Tensor:
    """Handwritten digits (N, 3, 8, 8), uint8."""
    from sklearn.datasets import load_digits

    return torch.from_numpy(load_digits().images * 15.9).to(torch.uint8)[:, None].repeat(1, 3, 1, 1)


@pytest.fixture(scope="session")
def pictures(digits: Tensor) -> Pictures:
    """Return a function (count, height, width) -> uint8 pictures, a third of each kind there is."""

    def make(count: int, height: int, width: int) -> Tensor:
        kinds = [natural(count, height, width), F.interpolate(digits[:count].float(), (height, width)).byte()]
        if "CIFAR10_JPEG" in os.environ:
            resized = F.interpolate(
                photographs(count).float(), (height, width), mode="bicubic", antialias=True
            )
            kinds.append(resized.round().clamp(0, 255).to(torch.uint8))
        return torch.stack(kinds, 1).flatten(0, 1)[:count].contiguous()

    return make
