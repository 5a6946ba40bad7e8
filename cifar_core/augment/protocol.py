"""What the loop calls an augmentation."""

from typing import Protocol

from torch import Tensor


class Augment(Protocol):
    """A random change of training pictures."""

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Return uint8 pictures (N, 3, H', W') for uint8 ``images`` (N, 3, H, W), on their device.

        ``keys`` (N,), int64 on the CPU, are drawn anew for every picture in every epoch. All that happens to
        a picture follows from its key (`uniforms` makes numbers of it), so that no result depends on how many
        pictures come at once.
        """
