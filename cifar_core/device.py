"""How numbers get to the device that the pictures are on, and pictures from place to place there."""

import torch
from torch import Tensor

WORDS = (torch.int64, torch.int32, torch.int16)


def beside(images: Tensor, values: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return `values` on the device of `images`, without waiting for it where it is CUDA's."""
    dtype = dtype or values.dtype
    if values.device == images.device:
        return values.to(dtype)
    if dtype.itemsize <= values.dtype.itemsize:
        values = values.to(dtype)  # fewer bytes go up
    # Not on mps, which reads memory that is gone: github.com/pytorch/pytorch/issues/189690
    on_cuda = images.device.type == "cuda"
    if on_cuda:
        values = values.contiguous().pin_memory()  # from other memory, or with gaps, a copy waits
    return values.to(images.device, non_blocking=on_cuda).to(dtype)


def doubles(values: Tensor) -> Tensor:
    """Return `values` as float64: on the CPU where they are on mps, which has none."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def put(images: Tensor, rows: Tensor, others: Tensor) -> Tensor:
    """Write the pictures `others` (K, ...) over those of contiguous `images` (N, ...) at `rows` (K,)."""
    words(images).index_copy_(0, beside(images, rows), words(others.contiguous()))
    return images


def words(images: Tensor) -> Tensor:
    """View contiguous pictures as rows (N, K) of the widest whole numbers: a tenth of the time of bytes."""
    rows = images.view(len(images), -1)
    size = rows.shape[1] * rows.itemsize
    return next((rows.view(word) for word in WORDS if size and size % word.itemsize == 0), rows)
