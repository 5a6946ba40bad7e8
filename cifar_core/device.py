"""How numbers get to the device that the pictures are on."""

import torch
from torch import Tensor


def beside(images: Tensor, values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return `values` on the device of `images`, without waiting for it."""
    dtype = dtype or values.dtype
    if values.device == images.device:
        return values.to(dtype)
    if dtype.itemsize <= values.dtype.itemsize:
        values = values.to(dtype)  # fewer bytes go up
    if images.device.type == "cuda":
        values = values.pin_memory()  # from other memory a copy waits
    return values.to(images.device, dtype, non_blocking=True)
