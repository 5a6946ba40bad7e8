"""A split is exact, seeded and fair for any class sizes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifar_core.data.split import is_drawn, split_off

KEY = "data.val_size"


def labels_of(counts: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


@st.composite
def cases(draw) -> tuple[np.ndarray, float, int]:
    """Labels of classes of any sizes, a size that leaves every class a picture, a seed."""
    counts = draw(st.lists(st.integers(1, 30), min_size=1, max_size=40).filter(lambda c: sum(c) > len(c)))
    labels = draw(st.permutations(labels_of(counts).tolist()))
    room = sum(counts) - len(counts)
    size = draw(st.integers(0, room) | st.floats(0, 0.99).filter(lambda s: round(s * len(labels)) <= room))
    return np.array(labels), size, draw(st.integers(0, 2**40))


@settings(max_examples=150)
@given(cases())
def test_any_split_is_exact_and_leaves_every_class_a_picture(case):
    labels, size, seed = case
    rest, off = split_off(labels, size, seed, key=KEY)
    assert sorted([*rest, *off]) == list(range(len(labels)))
    expected = size if size >= 1 or size == 0 else max(1, round(size * len(labels)))
    assert len(off) == expected
    assert set(labels[rest]) == set(labels)
    again = split_off(labels, size, seed, key=KEY)[1]
    assert np.array_equal(off, again)


@settings(max_examples=150)
@given(cases())
def test_every_class_gives_its_share_rounded_up_or_down(case):
    labels, size, seed = case
    off = split_off(labels, size, seed, key=KEY)[1]
    counts, given_ = np.bincount(labels), np.bincount(labels[off], minlength=labels.max() + 1)
    quotas = counts * len(off) / len(labels)
    if np.all(np.ceil(quotas) < counts):  # no class would give its last picture
        assert np.all((np.floor(quotas) <= given_) & (given_ <= np.ceil(quotas)))


@pytest.mark.parametrize(
    ("counts", "size"), [([5] * 40, 0.1), ([1, 2, 3, 4, 90], 10), ([7, 300, 7, 7, 2, 2, 2], 0.06)]
)
def test_small_classes_give_by_a_fair_lot(counts, size):
    """Over many seeds each class gives its share on average; the bound is five standard errors."""
    labels, seeds = labels_of(counts), range(400)
    splits = [split_off(labels, size, seed, key=KEY)[1] for seed in seeds]
    given_ = np.array([np.bincount(labels[off], minlength=len(counts)) for off in splits])
    single = np.array(counts) == 1
    quotas = np.where(single, 0, counts) * len(splits[0]) / sum(c for c in counts if c > 1)
    assert np.all(np.abs(given_.mean(0) - quotas) <= 5 * 0.5 / np.sqrt(len(seeds)))
    assert len({off.tobytes() for off in splits}) > 100
    assert not given_[:, single].any()


def test_classes_that_lie_side_by_side_are_not_drawn_together():
    labels = labels_of([5] * 40)
    splits = [split_off(labels, 20, seed, key=KEY)[1] for seed in range(300)]
    given_ = np.array([np.bincount(labels[off], minlength=40) for off in splits])
    together = np.corrcoef(given_[:, 0], given_[:, 1])[0, 1]
    assert abs(together) < 0.3


def test_large_classes_are_split_as_they_always_were():
    """Pinned: by largest remainders, first classes first, so that older runs go on with the same split."""
    off = split_off(labels_of([15] * 10), 0.1, 0, key=KEY)[1]
    assert np.bincount(off // 15).tolist() == [2] * 5 + [1] * 5
    assert off.tolist()[:7] == [3, 11, 22, 25, 30, 44, 53]
    assert not is_drawn(labels_of([15] * 10), 0.1)
    assert is_drawn(labels_of([15] * 9 + [8]), 0.1)


def test_classes_of_one_picture_are_trained_on():
    labels = labels_of([1] * 50 + [10])
    rest, off = split_off(labels, 9, 3, key=KEY)
    assert set(labels[off]) == {50}
    assert len(rest) == 51
    with pytest.raises(
        ValueError, match="data.val_size must leave every class a picture to train on, got 10"
    ):
        split_off(labels, 10, 3, key=KEY)
