"""What the tests of this folder run on: a GPU, or what GPU_TESTS_ON names to rehearse them without one.

python -m pytest tests/gpu                     # where there is a GPU; skipped elsewhere
GPU_TESTS_ON=cpu python -m pytest tests/gpu    # the same tests, the CPU in place of the GPU
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from tests.augment.conftest import digits as digits  # fixtures
from tests.augment.conftest import pictures as pictures


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device(os.environ.get("GPU_TESTS_ON", "cuda"))


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Have matrix products and convolutions of float32 keep 10 bits of each factor, or all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions of torch speak of another way to say it, once
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
