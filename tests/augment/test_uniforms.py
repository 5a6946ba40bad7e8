import numpy as np
import torch
from scipy import stats

from cifar_core.augment.uniforms import picture_keys, uniforms


def splitmix64(state, count):
    """The published algorithm in plain Python."""
    numbers = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        numbers.append(((z ^ (z >> 31)) >> 11) / 2**53)
    return numbers


def test_rows_are_splitmix64_streams():
    keys = torch.tensor([0, 1, 2**61 + 12345])
    assert uniforms(keys, 6).tolist() == [splitmix64(key, 6) for key in keys.tolist()]


def test_numbers_are_uniform_and_independent():
    numbers = uniforms(picture_keys(3000, torch.Generator().manual_seed(0)), 8).numpy()
    assert all(stats.kstest(column, "uniform").pvalue > 1e-3 for column in numbers.T)
    apart = np.corrcoef(numbers.T) - np.eye(8)
    assert np.abs(apart).max() < 5 / 3000**0.5


def test_keys_do_not_depend_on_the_batch():
    generator = torch.Generator().manual_seed(4)
    parts = torch.cat([picture_keys(count, generator) for count in (3, 1, 6)])
    assert torch.equal(parts, picture_keys(10, torch.Generator().manual_seed(4)))
