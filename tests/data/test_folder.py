from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar_core.data.folder import decode, scan
from cifar_core.data.picture import Reading, decode_picture


def write(path: Path, colour=(200, 100, 50), size=(32, 32)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture
def root(tmp_path) -> Path:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            for i in range(3):
                write(tmp_path / split / name / f"{i}.png")
    return tmp_path


def test_scan_lists_classes_and_files_in_order(root):
    found = scan(root)
    assert found.classes == ("cat", "dog")
    assert [file.name for file in found.train.files] == [
        f"train/{c}/{i}.png" for c in ("cat", "dog") for i in range(3)
    ]
    assert found.train.labels == [0, 0, 0, 1, 1, 1]
    assert found.test is not None
    assert found.test.files[-1].name == "test/dog/2.png"


def test_class_folders_directly_in_root_are_train(root):
    found = scan(root / "train")
    assert found.test is None
    assert [file.name for file in found.train.files][:2] == ["cat/0.png", "cat/1.png"]


def test_what_is_no_picture_is_passed_over(root):
    before = scan(root)
    (root / "train/cat/Thumbs.db").write_bytes(b"x")
    (root / "train/cat/notes.txt").write_text("x")
    (root / "train/cat/._0.png").write_bytes(b"x")
    (root / "train/.DS_Store").write_bytes(b"x")
    write(root / "train/.hidden/0.png")
    write(root / "train/cat/.ipynb_checkpoints/0.png")
    found = scan(root)
    assert (found.train, found.test) == (before.train, before.test)
    assert found.passed == {".txt": 1}


def test_subfolders_of_a_class_belong_to_it(root):
    write(root / "train/cat/b/7.JPG")
    assert "train/cat/b/7.JPG" in [file.name for file in scan(root).train.files]


def break_nothing_but(root: Path, what: str) -> None:
    if what == "empty class":
        for picture in (root / "train/dog").iterdir():
            picture.unlink()
    elif what == "no pictures":
        for picture in root.glob("train/*/*"):
            picture.unlink()
    elif what == "unknown class in test":
        write(root / "test/horse/0.png")
    elif what == "one class":
        (root / "train/dog").rename(root / "train/.dog")
    elif what == "folder named as picture":
        (root / "train/cat/9.png").mkdir()
    elif what == "test only":
        (root / "train").rename(root / ".train")


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("empty class", ValueError, r"{root}/train must .* empty ones: \['dog'\]"),
        ("no pictures", FileNotFoundError, r"{root}/train holds no pictures"),
        ("unknown class in test", ValueError, r"{root}/test must hold .* unknown \['horse'\]"),
        ("one class", ValueError, r"{root}/train must hold at least 2 class folders, got 1: \['cat'\]"),
        ("folder named as picture", ValueError, r"{root}/train/cat/9.png has the name of a picture"),
        ("test only", FileNotFoundError, r"no train folder: {root}"),
    ],
)
def test_mistakes_name_the_path(root, what, kind, message):
    break_nothing_but(root, what)
    with pytest.raises(kind, match=message.format(root=root)):
        scan(root)


@pytest.mark.parametrize("make", ["absent", "a file", "empty"])
def test_root_that_is_none(tmp_path, make):
    root = tmp_path / "root"
    if make == "a file":
        root.write_text("x")
    elif make == "empty":
        root.mkdir()
    with pytest.raises((FileNotFoundError, ValueError), match=str(root)):
        scan(root)


def test_broken_pictures_are_counted_and_the_first_named(root):
    for i in range(7):
        (root / f"train/cat/broken{i}.jpg").write_bytes(b"not a picture")
    good = write(root / "train/dog/cut.png", size=(300, 300))
    good.write_bytes(good.read_bytes()[:-60])
    with pytest.raises(OSError, match="8 of 14 pictures cannot be read") as error:
        decode(scan(root), 32)
    message = str(error.value)
    assert "\n" not in message
    assert [f"{root}/train/cat/broken{i}.jpg" in message for i in range(7)] == [True] * 5 + [False] * 2


def test_truncated_and_empty_pictures_are_broken(root):
    whole = write(root / "train/cat/cut.jpg", size=(200, 200)).read_bytes()
    (root / "train/cat/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "train/dog/empty.png").write_bytes(b"")
    with pytest.raises(OSError, match="2 of 8 pictures cannot be read.*cut.jpg.*empty.png"):
        decode(scan(root), 32)


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "expected"),
    [
        ("RGB", (200, 100, 50), "png", (200, 100, 50)),
        ("RGB", (200, 100, 50), "webp", (200, 100, 50)),
        ("L", 77, "png", (77, 77, 77)),
        ("1", 1, "png", (255, 255, 255)),
        ("LA", (77, 255), "png", (77, 77, 77)),
        ("LA", (77, 0), "png", (255, 255, 255)),
        ("RGBA", (200, 100, 50, 0), "png", (255, 255, 255)),
        ("RGBA", (200, 100, 50, 51), "png", (244, 224, 214)),
        ("CMYK", (55, 155, 205, 0), "jpg", (200, 100, 50)),
        ("I;16", 77 * 257, "png", (77, 77, 77)),
        ("P", 1, "gif", (200, 100, 50)),
        ("P", 1, "png", (227, 177, 152)),  # its alpha is 128
        ("P", 1, "bmp", (200, 100, 50)),
    ],
)
def test_modes_become_rgb(tmp_path, mode, colour, suffix, expected):
    picture = Image.new(mode, (40, 24), colour)
    options = {}
    if mode == "P":
        picture.putpalette([0, 0, 0, 200, 100, 50])
        options = {"transparency": b"\x00\x80"} if suffix == "png" else {}
    picture.save(tmp_path / f"a.{suffix}", **options)
    image = decode_picture(tmp_path / f"a.{suffix}", 32)
    assert image.shape == (3, 32, 32)
    assert image.dtype == np.uint8
    assert np.abs(image.reshape(3, -1).T.astype(int) - expected).max() <= 3


def test_a_picture_of_the_right_size_stays_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(decode_picture(tmp_path / "a.png", 32), pixels.transpose(2, 0, 1))


def test_shrinking_averages(tmp_path):
    """Antialiased: a fine checkerboard becomes grey instead of stripes."""
    pixels = np.indices((256, 256)).sum(axis=0) % 2 * 255
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "a.png")
    image = decode_picture(tmp_path / "a.png", 32).astype(int)
    assert np.abs(image - 127).max() <= 3


def test_exif_orientation_is_applied(tmp_path):
    picture = Image.new("RGB", (32, 32))
    picture.paste((255, 255, 255), (0, 0, 16, 32))  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a turn of 90 degrees clockwise
    picture.save(tmp_path / "a.png", exif=exif)
    image = decode_picture(tmp_path / "a.png", 32)
    assert image[:, :16].min() == 255  # the left became the top
    assert image[:, 16:].max() == 0


def test_float_pictures_are_refused(tmp_path):
    Image.new("F", (8, 8), 0.5).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="float"):
        decode_picture(tmp_path / "a.tif", 32)


def grey16(root: Path, highest: int) -> None:
    """Add a 16-bit picture to each class, the brightest pixel of all as given."""
    for name, top in (("cat", highest), ("dog", highest // 2)):
        values = np.linspace(0, top, 64).round().astype(np.uint16).reshape(8, 8)
        Image.fromarray(values).save(root / f"train/{name}/deep.png")


def test_a_set_of_dark_16_bit_pictures_is_refused_unless_white_is_given(root):
    grey16(root, 4000)
    with pytest.raises(
        ValueError, match="reach 4000 of 65535, so at most 16 of 256 grey.* data.white=4095 if"
    ):
        decode(scan(root), 8)
    bright = decode(scan(root), 8, Reading(white=4095)).train.images[3, 0]
    assert len(np.unique(bright)) == 64
    assert decode(scan(root), 8, Reading(white=65535)).train.images[3].max() == 4000 >> 8
    grey16(root, 20000)  # one bright picture in the set: all are scaled by one law
    assert decode(scan(root), 8).train.images[3].max() == 20000 >> 8


def test_files_without_a_law_are_counted_and_the_first_named(root):
    for name in ("cat", "dog"):
        Image.new("F", (8, 8), 0.5).save(root / f"test/{name}/float.tif")
    with pytest.raises(
        ValueError, match=r"2 of 8 pictures cannot be scaled, as .*test/cat/float.tif: a picture"
    ):
        decode(scan(root), 8)


def test_a_link_to_nothing_is_a_broken_picture(root):
    (root / "train/cat/link.png").symlink_to("absent")
    with pytest.raises(OSError, match=r"1 of 7 pictures cannot be read: .*link.png"):
        decode(scan(root), 8)
