"""`data.mean=auto` and `data.std=auto`: of the training pictures after the split, against NumPy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cifar_core.data import normalisation
from cifar_core.data.normalisation import statistics
from cifar_core.data.settings import DataSettings
from cifar_core.data.sources import load_data
from cifar_core.data.split import Data


def pictures(root: Path, splits=("train", "test"), *, channels=(0, 1, 2), seed: int = 0) -> Path:
    """Class folders of noise, in the given channels only."""
    rng = np.random.default_rng(seed)
    for split in splits:
        for name in ("a", "b"):
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(20):
                picture = np.full((8, 8, 3), 7, dtype=np.uint8)
                picture[..., channels] = rng.integers(0, 200 + 20 * number % 50, (8, 8, len(channels)))
                Image.fromarray(picture).save(root / split / name / f"{number}.png")
    return root


def loaded(root: Path, **changes) -> Data:
    values = {"mean": "auto", "std": "auto", "cache": str(root.parent / "cache"), "image_size": 8}
    return load_data(DataSettings("folder", root=str(root), **(values | changes)))


def by_numpy(images: torch.Tensor) -> tuple[list[float], list[float]]:
    pixels = images.numpy().astype(np.float64)
    return pixels.mean((0, 2, 3)).tolist(), pixels.std((0, 2, 3)).tolist()


def test_sums_are_exact_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch):
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (37, 3, 9, 9), dtype=np.uint8))
    monkeypatch.setattr(normalisation, "CHUNK", 1000)
    for seen, expected in zip(statistics(images), by_numpy(images), strict=True):
        assert seen == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("split_seed", [0, 1])
def test_auto_is_the_mean_and_std_of_the_train_split_to_hundredths(tmp_path: Path, split_seed: int):
    data = loaded(pictures(tmp_path / "p"), split_seed=split_seed)
    mean, std = by_numpy(data.train.images)
    assert data.mean == tuple(round(value, 2) for value in mean)
    assert data.std == tuple(round(value, 2) for value in std)
    assert (len(data.train), len(data.val)) == (36, 4)


def test_another_split_has_other_figures_and_each_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = pictures(tmp_path / "p")
    first, second = (loaded(root, split_seed=seed).mean for seed in (0, 1))
    assert first != second
    monkeypatch.delattr(normalisation, "statistics")  # whoever measures again ends here
    assert [loaded(root, split_seed=seed).mean for seed in (0, 1)] == [first, second]


def test_pictures_that_are_not_trained_on_change_nothing(tmp_path: Path):
    root = pictures(tmp_path / "p")
    before = loaded(root)
    for name in [*before.val.names, *before.test.names]:
        Image.new("RGB", (8, 8), "white").save(root / name)
    after = loaded(root)
    assert before.fingerprint != after.fingerprint
    assert (after.mean, after.std) == (before.mean, before.std)
    Image.new("RGB", (8, 8), "white").save(root / before.train.names[0])
    assert loaded(root).mean != before.mean


def test_each_of_the_two_by_itself(tmp_path: Path):
    root = pictures(tmp_path / "p")
    both = loaded(root)
    assert (loaded(root, std=[1, 2, 3]).mean, loaded(root, std=[1, 2, 3]).std) == (both.mean, (1, 2, 3))
    assert (loaded(root, mean=[1, 2, 3]).mean, loaded(root, mean=[1, 2, 3]).std) == ((1, 2, 3), both.std)


def test_digits_are_measured_too():
    data = load_data(DataSettings("digits", mean="auto", std="auto", image_size=8))
    assert data.mean == pytest.approx(by_numpy(data.train.images)[0], abs=0.006)


def test_a_channel_without_contrast_is_named_and_normalised_to_zero(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    data = loaded(pictures(tmp_path / "p", channels=(0, 2)))
    assert (data.mean[1], data.std[1]) == (7, 1)
    assert data.normalize(data.train.images)[:, 1].abs().max() == 0
    assert "one and the same value in green: data.std=auto is 1 there" in caplog.text


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = pictures(tmp_path / "p")
    expected = loaded(root, mean=[1, 2, 3], std=[1, 2, 3])  # decoded, nothing measured

    def refuse(*_: object):
        raise PermissionError("read-only")

    monkeypatch.setattr(normalisation, "alone_in", refuse)
    assert loaded(root).mean == tuple(round(value, 2) for value in by_numpy(expected.train.images)[0])


def test_a_damaged_note_of_the_figures_is_measured_again(tmp_path: Path):
    root = pictures(tmp_path / "p")
    mean = loaded(root).mean
    (note,) = (tmp_path / "cache").glob("constants-*.json")
    note.write_text('{"mean": [1, 2')
    assert loaded(root).mean == mean
