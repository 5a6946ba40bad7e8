import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from cifar_core.data.settings import SOURCES, DataSettings
from cifar_core.data.sources import LOADERS, load_data, resize
from cifar_core.data.split import Data, split_off
from tests.conftest import PROJECT

CONF = PROJECT / "conf" / "data"
JPEG = os.environ.get("CIFAR10_JPEG")


def settings(source: str, tmp_path: Path, **changes) -> DataSettings:
    """The values of conf/data, kept away from the user's own folders."""
    values = yaml.safe_load((CONF / f"{source}.yaml").read_text())
    return DataSettings(**{**values, "root": str(tmp_path), "cache": str(tmp_path / "cache"), **changes})


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Data:
    return load_data(settings("digits", tmp_path_factory.mktemp("digits")))


def test_every_source_has_a_loader_and_a_yaml():
    assert set(LOADERS) == set(SOURCES) == {path.stem for path in CONF.glob("*.yaml")}


@pytest.mark.parametrize("source", SOURCES)
def test_yaml_names_its_source_and_sets_every_field(source):
    values = yaml.safe_load((CONF / f"{source}.yaml").read_text())
    assert list(values) == list(DataSettings.__dataclass_fields__)
    assert values["source"] == source


def test_digits_are_those_of_scikit_learn(digits):
    source = load_digits()
    assert digits.classes == tuple("0123456789")
    assert digits.num_classes == 10
    assert digits.image_size == 32
    seen = []
    for split in (digits.train, digits.val, digits.test):
        assert split.images.shape == (len(split), 3, 32, 32)
        assert split.images.dtype == torch.uint8
        assert torch.equal(split.images[:, 0], split.images[:, 2])
        assert split.labels.tolist() == source.target[split.index].tolist()
        # Enlarged 4 times and averaged over 4x4 again, a picture is a slightly smoothed copy of its own.
        small = split.images[:, 0].double().reshape(-1, 8, 4, 8, 4).mean((2, 4)).numpy()
        correlation = [
            np.corrcoef(a.ravel(), source.images[i].ravel())[0, 1]
            for a, i in zip(small, split.index, strict=True)
        ]
        assert min(correlation) > 0.95
        seen += split.index.tolist()
    assert sorted(seen) == list(range(1797))


def test_digits_splits_are_stable(digits):
    """Pinned: published numbers refer to these pictures."""
    pinned = {
        split: hashlib.sha256(getattr(digits, split).index.numpy().astype("<i8").tobytes()).hexdigest()[:16]
        for split in ("train", "val", "test")
    }
    assert pinned == {"train": "82109a1324ce3d81", "val": "219935e1d37a5943", "test": "2f597062c63468e2"}
    assert digits.fingerprint == "1725321491df6a42"


def test_digits_constants_are_those_of_the_training_pictures(digits):
    images = digits.train.images.numpy().astype(np.float64)
    np.testing.assert_allclose(digits.mean, images.mean(axis=(0, 2, 3)), atol=0.05)
    np.testing.assert_allclose(digits.std, images.std(axis=(0, 2, 3)), atol=0.05)


def test_split_seed_moves_val_but_not_test(digits, tmp_path):
    other = load_data(settings("digits", tmp_path, split_seed=1))
    assert torch.equal(other.test.index, digits.test.index)
    assert not torch.equal(other.val.index, digits.val.index)
    assert other.fingerprint == digits.fingerprint


def test_val_size_zero_gives_an_empty_val(tmp_path):
    data = load_data(settings("digits", tmp_path, val_size=0))
    assert len(data.val) == 0
    assert data.val.images.shape == (0, 3, 32, 32)
    assert len(data.train) + len(data.test) == 1797


@pytest.mark.parametrize(
    ("key", "value"),
    [("val_size", 1438), ("val_size", 5000), ("val_size", 0.999), ("test_size", 1797), ("test_size", 0)],
)
def test_impossible_sizes_name_their_key(tmp_path, key, value):
    with pytest.raises(ValueError, match=f"data.{key} must"):
        load_data(settings("digits", tmp_path, **{key: value}))


def test_image_size_changes_pictures_and_fingerprint(tmp_path, digits):
    data = load_data(settings("digits", tmp_path, image_size=16))
    assert data.train.images.shape[1:] == (3, 16, 16)
    assert data.fingerprint != digits.fingerprint


def test_to_moves_every_tensor(digits):
    moved = digits.to("meta")
    for split in (moved.train, moved.val, moved.test):
        assert {split.images.device.type, split.labels.device.type, split.index.device.type} == {"meta"}
    assert moved.classes == digits.classes


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_normalize_against_numpy(tmp_path, memory_format):
    mean, std = [10.0, 120.0, 250.0], [1.0, 60.0, 5.5]
    data = load_data(settings("digits", tmp_path, mean=mean, std=std))
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8).contiguous(memory_format=memory_format)
    before = images.clone()
    normalized = data.normalize(images)
    assert normalized.dtype == torch.float32
    assert normalized.is_contiguous(memory_format=memory_format)
    assert torch.equal(images, before)
    expected = (images.numpy() - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_allclose(normalized.numpy(), expected, rtol=1e-6, atol=1e-5)
    assert torch.equal(data.normalize(images.float()), normalized)


def test_split_is_disjoint_exact_and_stratified():
    labels = np.repeat(np.arange(4), [1000, 333, 77, 5])
    np.random.default_rng(0).shuffle(labels)
    for size in (1, 3, 100, 0.1, 0.5, 999):
        rest, off = split_off(labels, size, 0, key="data.val_size")
        taken = size if size >= 1 else round(size * 1415)
        assert len(off) == taken
        assert sorted([*rest, *off]) == list(range(1415))
        assert np.all(np.diff(rest) > 0)
        expected = np.bincount(labels) * taken / 1415
        assert np.abs(np.bincount(labels[off], minlength=4) - expected).max() < 1


def test_split_is_a_fair_draw():
    """Every picture is as likely as any other: the counts over many seeds pass a chi-square bound."""
    labels = np.repeat([0, 1], 50)
    counts = np.zeros(100)
    for seed in range(400):
        counts[split_off(labels, 20, seed, key="data.val_size")[1]] += 1
    chi_square = ((counts - 80) ** 2 / (80 * 0.8)).sum()  # 98 degrees of freedom, std 14
    assert 98 - 5 * 14 < chi_square < 98 + 5 * 14


def test_rounding_does_not_take_the_last_picture_of_a_class():
    labels = np.array([0] * 9 + [1])
    rest, off = split_off(labels, 5, 0, key="data.val_size")
    assert len(off) == 5
    assert set(labels[rest]) == {0, 1}


def test_resize_against_numpy():
    """Bilinear by hand: sample positions at pixel centres, edges repeated."""
    images = np.random.default_rng(0).uniform(0, 255, (3, 1, 8, 8))
    positions = np.clip((np.arange(32) + 0.5) / 4 - 0.5, 0, 7)
    low = np.minimum(positions.astype(int), 6)
    matrix = np.zeros((32, 8))
    matrix[np.arange(32), low] = 1 - (positions - low)
    matrix[np.arange(32), low + 1] += positions - low
    expected = np.round(matrix @ images @ matrix.T)
    assert np.abs(resize(images, 32) - expected).max() <= 1
    assert np.mean(resize(images, 32) != expected) < 0.001


def write_folder(root: Path, *, splits: dict[str, int]) -> None:
    """Write pictures of one colour for two classes: red tells the number, blue the class."""
    for split, count in splits.items():
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (32, 32), (i, 0, label * 100)).save(root / split / name / f"{i:03}.png")


def test_folder_with_test_folder(tmp_path):
    write_folder(tmp_path, splits={"train": 20, "test": 7})
    data = load_data(settings("folder", tmp_path, val_size=4))
    assert data.classes == ("cat", "dog")
    assert [len(data.train), len(data.val), len(data.test)] == [36, 4, 14]
    for folder, split in (("train", data.train), ("train", data.val), ("test", data.test)):
        for image, label, name in zip(split.images, split.labels, split.names, strict=True):
            red, _, blue = image[:, 0, 0].tolist()
            assert name == f"{folder}/{data.classes[label]}/{red:03}.png"
            assert blue == 100 * label
    assert set(data.train.names).isdisjoint(data.val.names)


def test_folder_without_test_folder_splits_one_off_and_says_so(tmp_path, caplog):
    write_folder(tmp_path, splits={"train": 20})
    with caplog.at_level("INFO"):
        data = load_data(settings("folder", tmp_path, val_size=0.25))
    assert "no test folder" in caplog.text
    assert "20%" in caplog.text
    assert [len(data.train), len(data.val), len(data.test)] == [24, 8, 8]
    assert data.test.labels.bincount().tolist() == [4, 4]
    indices = torch.cat([data.train.index, data.val.index, data.test.index])
    assert sorted(indices.tolist()) == list(range(40))
    for split in (data.train, data.val, data.test):
        pairs = zip(split.names, split.labels.tolist(), strict=True)
        numbers = [int(Path(name).stem) + 20 * label for name, label in pairs]
        assert numbers == split.index.tolist()


def test_folder_is_the_same_from_the_cache(tmp_path):
    write_folder(tmp_path, splits={"train": 20})
    first, second = (load_data(settings("folder", tmp_path)) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    for name in ("train", "val", "test"):
        a, b = getattr(first, name), getattr(second, name)
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
        assert a.names == b.names


def test_cached_pictures_can_be_written_to_without_harm(tmp_path):
    write_folder(tmp_path, splits={"train": 5, "test": 2})
    load_data(settings("folder", tmp_path))
    load_data(settings("folder", tmp_path)).test.images.fill_(7)
    assert load_data(settings("folder", tmp_path)).test.images.max() == 100


@pytest.mark.skipif(JPEG is None, reason="CIFAR10_JPEG is not set")
def test_cifar10_as_jpegs(tmp_path):
    data = load_data(settings("folder", tmp_path, root=JPEG, val_size=5000))
    assert [len(data.train), len(data.val), len(data.test)] == [45000, 5000, 10000]
    assert data.num_classes == 10
    for split in (data.train, data.val, data.test):
        assert split.labels.bincount().tolist() == [len(split) // 10] * 10
    images = data.train.images[::10].double()
    assert (images.mean((0, 2, 3)) - torch.tensor(data.mean)).abs().max() < 2
    assert (images.std((0, 2, 3)) - torch.tensor(data.std)).abs().max() < 2


def test_a_val_folder_is_the_validation_split(tmp_path, caplog):
    write_folder(tmp_path, splits={"train": 20, "val": 6, "test": 7})
    with caplog.at_level("INFO"):
        data = load_data(settings("folder", tmp_path))
    assert [len(data.train), len(data.val), len(data.test)] == [40, 12, 14]
    assert {name.split("/")[0] for name in data.val.names} == {"val"}
    assert "validation folder in" in caplog.text
    assert "12 pictures are the validation split; data.val_size splits off none" in caplog.text
    again = load_data(settings("folder", tmp_path))  # from the cache
    assert torch.equal(again.val.images, data.val.images)
    assert again.fingerprint == data.fingerprint


def test_without_a_validation_split_the_val_folder_is_trained_on(tmp_path):
    write_folder(tmp_path, splits={"train": 20, "val": 6})
    split, joined = (load_data(settings("folder", tmp_path, val_size=size)) for size in (0.1, 0))
    assert [len(split.train), len(split.val), len(split.test)] == [32, 12, 8]
    assert [len(joined.train), len(joined.val), len(joined.test)] == [44, 0, 8]
    assert joined.test.names == split.test.names
    for image, label, name in zip(joined.train.images, joined.train.labels, joined.train.names, strict=True):
        red, _, blue = image[:, 0, 0].tolist()
        assert (f"{red:03}", blue) == (Path(name).stem, 100 * label)
    assert {*joined.train.names} == {*split.train.names, *split.val.names}
    assert len(set(joined.train.index.tolist())) == 44


def test_classes_without_a_picture_to_judge_are_counted(tmp_path, caplog):
    root = str(tmp_path / "c")
    for label in range(20):
        (tmp_path / f"c/{label:02}").mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (8, 8), (i, label, 0)).save(tmp_path / f"c/{label:02}/{i}.png")
    drawn = load_data(settings("folder", tmp_path, root=root, test_size=20, val_size=5))
    assert "15 of 20 classes have no val picture: data.val_size=5 takes 5 of 60 pictures" in caplog.text
    assert "test picture" not in caplog.text
    whole = load_data(settings("folder", tmp_path, root=root, test_size=20, val_size=0))
    assert (
        whole.fingerprint != drawn.fingerprint
    )  # earlier versions drew other pictures for the same settings
    assert (
        load_data(settings("folder", tmp_path, root=root, test_size=20, val_size=20)).fingerprint
        == whole.fingerprint
    )


def test_background_and_white_change_what_is_read(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "c" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("RGBA", (8, 8), (i, 0, 0, 0)).save(tmp_path / "c" / name / f"{i}.png")
    for _ in range(2):
        for grey in (255, 0, 80):
            data = load_data(settings("folder", tmp_path, root=str(tmp_path / "c"), background=[grey] * 3))
            assert (data.train.images == grey).all()


def test_a_folder_to_judge_needs_nothing_to_train_on(tmp_path):
    write_folder(tmp_path, splits={"test": 7})
    for _ in range(2):
        data = load_data(settings("folder", tmp_path), judge=True)
        assert [len(data.train), len(data.val), len(data.test)] == [0, 0, 14]
    cached = [path.name for path in (tmp_path / "cache").iterdir()]
    one = load_data(settings("folder", tmp_path, root=str(tmp_path / "test")), judge=True)
    assert torch.equal(one.test.images, data.test.images)
    with pytest.raises(FileNotFoundError, match="no train folder"):
        load_data(settings("folder", tmp_path))
    write_folder(tmp_path, splits={"train": 5})
    assert len(load_data(settings("folder", tmp_path)).test) == 14
    assert set(cached) < {path.name for path in (tmp_path / "cache").iterdir()}  # neither takes the other's


def test_pictures_that_change_while_they_are_read_are_not_kept(tmp_path, monkeypatch):
    """Class folders swapped in between and back again would give the cache of the swapped ones."""
    write_folder(tmp_path, splits={"train": 5, "test": 2})
    opened = Image.open

    def swap_first(path):
        if not (tmp_path / "swapped").exists():
            for old, new in (("cat", "../swapped"), ("dog", "cat"), ("../swapped", "dog")):
                (tmp_path / "train" / old).rename(tmp_path / "train" / new)
            (tmp_path / "swapped").touch()
        return opened(path)

    monkeypatch.setattr(Image, "open", swap_first)
    with pytest.raises(OSError, match="was changed while its pictures were read"):
        load_data(settings("folder", tmp_path))
    assert len(load_data(settings("folder", tmp_path)).test) == 4


def test_a_cache_that_would_become_a_class_is_refused_from_the_first_run_on(tmp_path):
    root = folder_of(tmp_path)
    for cache in (root, root / "cache", root / "cache" / "deep"):
        with pytest.raises(ValueError, match="data.cache must not lie among the class folders of data.root"):
            load_data(DataSettings("folder", root=str(root), cache=str(cache), image_size=8))
    for cache in (root / ".cache", root.parent / "cache"):
        for _ in range(2):
            data = load_data(DataSettings("folder", root=str(root), cache=str(cache), image_size=8))
            assert data.classes == ("a", "b")


def folder_of(path: Path) -> Path:
    for name in "ab":
        (path / "root" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", (8, 8), (i, ord(name), 9)).save(path / "root" / name / f"{i}.png")
    return path / "root"
