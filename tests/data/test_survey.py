import numpy as np
from PIL import Image

from cifar_core.data.settings import DataSettings
from cifar_core.data.sources import load_data
from cifar_core.data.survey import survey


def test_a_survey_tells_what_a_folder_holds(tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / "pictures"
    for split, count in (("train", 6), ("val", 2), ("test", 3)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    Image.new("L", (8, 8), 7).save(root / "train/cat/flat.jpg")
    for source, copy in (("train/cat/0", "test/dog/x"), ("train/dog/0", "val/dog/x")):
        (root / f"{copy}.png").write_bytes((root / f"{source}.png").read_bytes())
    (root / "train/cat/a.heic").write_bytes(b"x")
    (root / "pred").mkdir()
    settings = DataSettings("folder", root=str(root), cache=str(tmp_path / "cache"), image_size=8)
    data = load_data(settings)
    found = survey(settings, data)
    assert found.counts == {
        "train": {"cat": 7, "dog": 6},
        "val": {"cat": 2, "dog": 3},
        "test": {"cat": 3, "dog": 4},
    }
    assert found.passed == {".heic": 1}
    assert any("pred/" in note for note in found.notes)
    assert found.sizes == {(24, 16): 24, (8, 8): 1}
    assert found.modes == {"RGB": 24, "L": 1}
    assert [[p.name for p in pair] for pair in found.contradictions] == [
        ["train/cat/0.png", "test/dog/x.png"]
    ]
    assert [[p.name for p in pair] for pair in found.copies] == [["train/dog/0.png", "val/dog/x.png"]]
    assert [place.name for place in found.empty] == ["train/cat/flat.jpg"]
    pixels = data.train.images.numpy().astype(float)
    np.testing.assert_allclose(found.mean, pixels.mean((0, 2, 3)), atol=1e-3)
    np.testing.assert_allclose(found.std, pixels.std((0, 2, 3)), atol=1e-3)


def test_a_source_without_files_has_counts_and_figures():
    settings = DataSettings("digits", image_size=8)
    found = survey(settings, load_data(settings))
    assert sum(sum(counts.values()) for counts in found.counts.values()) == 1797
    assert (found.sizes, found.passed, found.contradictions) == ({}, {}, [])
