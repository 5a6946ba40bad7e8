"""What the loop calls an augmentation."""

from typing import Protocol

import torch
from torch import Tensor


class Augment(Protocol):
    """A random change of training pictures."""

    def __call__(self, images: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return uint8 pictures (N, 3, H', W') for uint8 ``images`` (N, 3, H, W), on their device."""
