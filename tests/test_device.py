"""Pictures written over others: the same whatever their size and type."""

import pytest
import torch

from cifar_core.device import put, words


@pytest.mark.parametrize("size", [(3, 32, 32), (3, 5, 2), (3, 3, 2), (1, 3, 3), (3, 0, 4)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_pictures_are_put_where_they_belong_and_nowhere_else(size, dtype):
    images = torch.randint(256, (9, *size)).to(dtype)
    others = torch.randint(256, (3, *size)).to(dtype)
    rows = torch.tensor([7, 0, 4])
    expected = images.clone()
    expected[rows] = others
    assert torch.equal(put(images.clone(), rows, others), expected)
    assert torch.equal(
        put(images.clone(), rows, others.transpose(0, 1).contiguous().transpose(0, 1)), expected
    )


@pytest.mark.parametrize(
    ("width", "word"), [(8, torch.int64), (12, torch.int32), (6, torch.int16), (7, torch.uint8)]
)
def test_the_widest_words_that_fit_are_moved(width, word):
    assert words(torch.zeros(2, 1, 1, width, dtype=torch.uint8)).dtype == word
