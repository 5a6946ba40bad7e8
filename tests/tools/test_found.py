"""What a folder holds, in lines: counted apart from the code that counts."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar_core.data.settings import DataSettings
from cifar_core.data.sources import load_data
from experiments.cli import UserError
from experiments.config.compose import compose
from experiments.tools.found import CLASSES, found_lines
from experiments.tools.preview import preview


def make(root: Path, classes=("cat", "dog"), counts=(("train", 20), ("test", 5))) -> Path:
    rng = np.random.default_rng(0)
    for split, count in counts:
        for name in classes:
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                picture = rng.integers(0, 256, (10, 12, 3), dtype=np.uint8)
                Image.fromarray(picture).save(root / split / name / f"{number}.png")
    return root


def settings(root: Path, **more) -> DataSettings:
    return DataSettings("folder", root=str(root), cache=str(root.parent / "cache"), image_size=8, **more)


def rows(lines: list[str]) -> dict[str, str]:
    return {line.split()[0]: " ".join(line.split()[1:]) for line in lines}


def test_counts_sizes_modes_copies_labels_and_constants_are_told(tmp_path: Path):
    root = make(tmp_path / "p")
    (root / "train" / "cat" / "notes.txt").write_text("x")
    (root / "train" / "dog" / "copy.png").write_bytes((root / "train" / "cat" / "0.png").read_bytes())
    (root / "train" / "cat" / "twice.png").write_bytes((root / "train" / "cat" / "1.png").read_bytes())
    Image.new("L", (9, 9), 3).save(root / "test" / "dog" / "flat.png")
    data = load_data(settings(root))
    lines = found_lines(settings(root), data)
    told = rows(lines)
    assert told["class"] == "train val test"
    counted = {
        name: [
            sum(data.classes[label] == name for label in part.labels)
            for part in (data.train, data.val, data.test)
        ]
        for name in ("cat", "dog")
    }
    assert {name: [int(number) for number in told[name].split()] for name in ("cat", "dog")} == counted
    assert sum(counted["cat"]) == 26
    assert told["passed"] == "over 1 .txt"
    assert told["sizes"] == "12x10 (52), 9x9 (1)"
    assert told["modes"] == "RGB (52), L (1)"
    assert told["copies"].startswith("1: train/cat/1.png (cat,")
    assert told["two"].startswith("labels 1: train/cat/0.png (cat,")
    assert "train/dog/copy.png (dog," in told["two"]
    assert told["one"].startswith("colour 1: test/dog/flat.png (dog, test)")
    pixels = data.train.images.numpy().astype(np.float64)
    words = told["to"].removeprefix("paste ").split()[:2]
    pasted = compose(["data=digits", *words]).data
    assert list(pasted.mean) == pytest.approx(pixels.mean((0, 2, 3)), abs=0.006)
    assert list(pasted.std) == pytest.approx(pixels.std((0, 2, 3)), abs=0.006)
    assert list(pasted.mean) == list(data.mean)  # which was `auto`


def test_a_thousand_classes_are_a_table_of_the_smallest(tmp_path: Path):
    names = [f"class {number:03}" for number in range(CLASSES + 30)]
    root = make(tmp_path / "p", names, (("train", 2), ("test", 1)))
    Image.new("RGB", (9, 9), (1, 2, 3)).save(root / "train" / names[0] / "more.png")
    lines = found_lines(settings(root, val_size=0), load_data(settings(root, val_size=0)))
    assert len(lines) < CLASSES + 15
    assert "and 30 classes more, of 3 to 4 pictures each" in lines
    assert not any(line.startswith(names[0]) for line in lines)


def test_a_broken_picture_is_named_after_what_the_names_tell(tmp_path: Path):
    root = make(tmp_path / "p")
    (root / "train" / "cat" / "3.png").write_bytes(b"no picture")
    told: list[str] = []
    words = ["data=folder", f"data.root={root}", f"data.cache={tmp_path / 'cache'}", "tracking=none"]
    with pytest.raises(OSError, match=r"1 of 40 pictures cannot be read: .*cat/3.png"):
        preview(compose(words), tmp_path / "out", tell=told.append)
    assert rows(told)["cat"] == "20 5"
    with pytest.raises(UserError, match="nowhere"):
        preview(
            compose(["data=folder", f"data.root={tmp_path / 'nowhere'}"]), tmp_path / "out", tell=told.append
        )
