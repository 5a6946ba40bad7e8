"""Random numbers that belong to a picture, not to a batch: the same for any batch size and on any device."""

import torch
from torch import Tensor

GOLDEN = -0x61C8864680B583EB  # 2^64 / golden ratio, as a signed number


def picture_keys(count: int, generator: torch.Generator) -> Tensor:
    """Draw one key (N,), int64, per picture; ``generator`` is one of the CPU."""
    return torch.randint(2**62, (count,), generator=generator)


def uniforms(keys: Tensor, columns: int) -> Tensor:
    """Return numbers (N, columns), float64 in [0, 1): each row is the splitmix64 stream of its key.

    Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators".
    """
    state = keys[:, None] + torch.arange(1, columns + 1, device=keys.device) * GOLDEN
    state = (state ^ _shifted(state, 30)) * -0x40A7B892E31B1A47
    state = (state ^ _shifted(state, 27)) * -0x6B2FB644ECCEEE15
    state = state ^ _shifted(state, 31)
    return _shifted(state, 11).to(torch.float64) * 2.0**-53


def _shifted(state: Tensor, bits: int) -> Tensor:
    return (state >> bits) & ((1 << (64 - bits)) - 1)  # `>>` copies the sign bit
