"""Split folders are read as splits by any usual name, or what is unclear is refused by name."""

import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from cifar_core.data.folder import Folder, pictures_below, scan
from cifar_core.data.layout import NAMES, split_named
from tests.conftest import PROJECT


def make(root: Path, *folders: str, count: int = 2, suffix: str = "png") -> Path:
    """Write pictures into folders below ``root``; one whose name ends in / stays empty."""
    for name in folders:
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(0 if name.endswith("/") else count):
            Image.new("RGB", (8, 8), (i, 9, 9)).save(root / name / f"{i}.{suffix}")
    return root


def of(*splits: str, classes: tuple[str, ...] = ("cat", "dog")) -> list[str]:
    return [f"{split}/{name}" for split in splits for name in classes]


def counts(found: Folder) -> dict[str, int]:
    return {split: len(listing.labels) for split, listing in found.splits.items()}


@pytest.mark.parametrize(
    "names",
    [
        {"train": "train", "test": "test"},
        {"train": "Train", "test": "Test"},
        {"train": "TRAIN", "val": "VAL", "test": "TEST"},
        {"train": "Training", "test": "Testing"},
        {"train": "seg_train", "test": "seg_test"},
        {"train": "train", "val": "valid", "test": "test"},
        {"train": "train", "val": "validation"},
        {"train": "training_set", "test": "test_set"},
        {"train": "train-images", "val": "val-images", "test": "test-images"},
        {"train": "train2017", "val": "val2017"},
        {"train": "TrainSet", "test": "TestSet"},
        {"train": "dataset.train", "test": "dataset.test"},
        {"train": "train", "val": "dev", "test": "test"},
    ],
)
@pytest.mark.parametrize("doubled", [False, True])
def test_split_folders_are_read_by_any_usual_name(tmp_path, names, doubled):
    paths = {split: f"{name}/{name}" if doubled else name for split, name in names.items()}
    found = scan(make(tmp_path, *of(*paths.values())))
    assert found.classes == ("cat", "dog")
    assert counts(found) == dict.fromkeys(names, 4)
    for split, listing in found.splits.items():
        assert listing.files[0].name == f"{paths[split]}/cat/0.png"
    told = [note for note in found.notes if note.startswith(f"splits of {tmp_path}: ")]
    assert len(told) == any(path != split for split, path in paths.items())


def test_the_page_has_the_same_names():
    page = (PROJECT / "docs" / "data.md").read_text(encoding="utf-8")
    for split, names in NAMES.items():
        assert f"| `{split}` | {' '.join(f'`{name}`' for name in names)} |" in page


@pytest.mark.parametrize("name", ["train_val", "bullet", "pred", "trains", "attest", "unlabeled", "contest"])
def test_other_names_stand_for_no_split(name):
    assert split_named(name) == ("", False)


@pytest.mark.parametrize(
    ("folders", "named"),
    [
        (of("train", "Train"), "more than one train folder: Train/ and train/"),
        (of("train", "val", "valid"), "more than one val folder: val/ and valid/"),
        (of("old_train", "new_train"), "more than one train folder: new_train/ and old_train/"),
        (["train", "test"], "its pictures lie in no class folders"),
        (
            [*of("train"), "test"],
            "{root}/test is the test folder by its name, but its pictures lie in no class",
        ),
        (["train"], "its pictures lie in no class folders"),
        (["cat", "dog", "test"], "a test folder but no train folder"),
        (of("test"), "a test folder but no train folder: {root} holds test/"),
        (of("seg_test", "seg_val"), "folder but no train folder"),
        (["cat", "dog", *of("test")], "a test folder but no train folder"),
        ([*of("seg_train"), "seg_pred"], "may hold splits or classes: is seg_train/ the training pictures"),
        (of("archive/train", "archive/test"), "is it data.root={root}/archive?"),
        (["train/cat"], "{root}/train must hold at least 2 class folders, got 1"),
        ([*of("train"), "val/cat/", "val/dog/"], "{root}/val holds no pictures in its class folders"),
    ],
)
def test_what_is_unclear_is_refused_by_name(tmp_path, folders, named):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        scan(make(tmp_path, *folders))
    assert named.format(root=tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "classes",
    [
        ("bus", "car", "train"),
        ("invalid", "valid"),
        ("resting", "training"),
        ("bullet_train", "steam_train"),
        ("crash-test", "pre-test"),
        ("Train", "bus"),
    ],
)
def test_classes_that_are_named_as_splits_are_classes(tmp_path, classes):
    found = scan(make(tmp_path, *classes))
    assert found.classes == tuple(sorted(classes))
    assert counts(found) == {"train": 2 * len(classes)}


def test_what_is_not_read_is_said_once(tmp_path):
    make(tmp_path, *of("train", "test"), "pred", "unlabeled", "__MACOSX/train/cat", ".git")
    make(tmp_path, "train", count=3)  # beside the class folders
    (tmp_path / "train/cat/a.heic").write_bytes(b"x")
    (tmp_path / "train/dog/b.HEIC").write_bytes(b"x")
    (tmp_path / "test/dog/README").write_bytes(b"x")
    (tmp_path / "test/dog/Thumbs.db").write_bytes(b"x")
    found = scan(tmp_path)
    assert found.passed == {".heic": 2, "without suffix": 1}
    assert found.notes == (
        f"not read, beside the splits of {tmp_path}: pred/, unlabeled/",
        f"not read: 3 pictures of {tmp_path}/train that lie in no class folder",
        "passed over in class folders: 2 .heic, 1 without suffix",
    )


def test_a_class_whose_files_are_all_passed_over_is_refused_with_their_suffixes(tmp_path):
    make(tmp_path, "cat", "dog/")
    (tmp_path / "dog/a.heic").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"empty ones: \['dog'\]; passed over: 1 .heic"):
        scan(tmp_path)


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("left", ["absent", "empty"])
def test_a_class_without_pictures_to_judge_is_a_note(tmp_path, split, left):
    make(tmp_path, *of("train"), f"{split}/cat", *([f"{split}/dog/"] if left == "empty" else []))
    found = scan(tmp_path)
    assert found.notes == (f"{tmp_path}/{split} has no pictures of 1 of 2 classes: dog",)
    assert found.splits[split].labels == [0, 0]


def test_labels_count_in_the_training_classes_where_the_test_lacks_the_first(tmp_path):
    found = scan(make(tmp_path, *of("train", classes=("ant", "bee", "cat")), "test/cat", "test/bee"))
    assert found.test.labels == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("unknown", "hint"), [("Cat", "'Cat' is 'cat' there?"), ("dogs", "'dogs' is 'dog' there?")]
)
def test_an_unknown_class_to_judge_is_refused_with_the_nearest(tmp_path, unknown, hint):
    with pytest.raises(ValueError, match="test must hold the classes of") as error:
        scan(make(tmp_path, *of("train"), "test/cat", f"test/{unknown}"))
    assert hint in str(error.value)


def test_two_spellings_of_one_name_are_one_class(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    make(tmp_path, f"train/{composed}", "train/tea", f"test/{decomposed}", "test/tea")
    found = scan(tmp_path)
    assert found.classes == (composed, "tea")
    assert found.test.labels == [0, 0, 1, 1]
    assert found.test.files[0].name == f"test/{decomposed}/0.png"  # as it is on disk
    make(tmp_path, f"train/{decomposed}")
    with pytest.raises(ValueError, match="two folders for the class café"):
        scan(tmp_path)


def test_linked_folders_and_files_are_read(tmp_path):
    elsewhere = make(tmp_path / "elsewhere", "d")
    root = make(tmp_path / "root", "cat", "cow")
    (root / "dog").symlink_to(elsewhere / "d")
    (root / "cat/more").symlink_to(elsewhere / "d")
    (root / "cow/9.png").symlink_to(elsewhere / "d/0.png")
    found = scan(root)
    assert found.classes == ("cat", "cow", "dog")
    assert found.train.labels == [0] * 4 + [1] * 3 + [2] * 2
    assert [path.name for path in pictures_below(root)[0]][:4] == ["0.png", "1.png", "0.png", "1.png"]


@pytest.mark.parametrize("target", ["..", "../..", ".", "../cat"])
def test_a_link_in_a_circle_is_one_line(tmp_path, target):
    make(tmp_path, *of("train"))
    (tmp_path / "train/cat/loop").symlink_to(target, target_is_directory=True)
    for look in (scan, pictures_below):
        with pytest.raises(
            ValueError, match="train/cat/loop is a link to a folder that it lies in: remove it"
        ):
            look(tmp_path)


def test_a_link_that_leads_nowhere_is_told(tmp_path):
    make(tmp_path, "cat", "dog")
    (tmp_path / "cow").symlink_to("absent")
    with pytest.raises(ValueError, match="cow is a link that leads nowhere"):
        scan(tmp_path)
    (tmp_path / "cow").unlink()
    for name in ("cat/7.png", "cat/8.png"):
        (tmp_path / name).symlink_to("absent" if "7" in name else "8.png")
    assert [file.name for file in scan(tmp_path).train.files] == [
        *("cat/0.png", "cat/1.png", "cat/7.png", "cat/8.png", "dog/0.png", "dog/1.png")  # decoding names them
    ]


def test_what_is_no_file_is_passed_over(tmp_path):
    make(tmp_path, "cat", "dog")
    os.mkfifo(tmp_path / "cat/pipe.png")
    assert scan(tmp_path).passed == {"that are no files": 1}


def test_a_folder_without_permission_is_one_line(tmp_path, monkeypatch):
    make(tmp_path, "cat", "dog")
    scandir = os.scandir

    def forbidden(path):  # root, who runs some tests, may read everything
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(PermissionError, match=f"^{tmp_path}/dog cannot be read: permission denied$"):
        scan(tmp_path)


def test_a_network_is_judged_on_whatever_is_there(tmp_path):
    flat = scan(make(tmp_path / "flat", "cat"), judge=True)
    assert (flat.classes, counts(flat)) == (("cat",), {"train": 0, "test": 2})
    only = scan(make(tmp_path / "only", "Testing/cat", "pred"), judge=True)
    assert (only.classes, counts(only)) == (("cat",), {"train": 0, "test": 2})
    val = scan(make(tmp_path / "val", *of("val")), judge=True)
    assert counts(val) == {"train": 0, "test": 4}
    both = scan(make(tmp_path / "both", *of("train"), "test/dog"), judge=True)
    assert (both.classes, both.test.labels) == (("dog",), [0, 0])
    usual = scan(make(tmp_path / "usual", *of("train", "val")), judge=True)
    assert counts(usual) == {"train": 4, "val": 4}
    with pytest.raises(FileNotFoundError, match="holds no pictures"):
        scan(make(tmp_path / "none", "cat/"), judge=True)


def test_splits_below_the_classes_are_refused(tmp_path):
    make(tmp_path, "cat/train", "cat/test", "dog/train", "dog/test", "dog/more")
    with pytest.raises(ValueError, match=r"each class folder of .* holds split folders \(test, train\)"):
        scan(tmp_path)


def test_classes_that_all_hold_the_same_folders_are_told_to_be_classes(tmp_path):
    (note,) = scan(make(tmp_path / "a", *of("prueba", "entrenamiento"))).notes
    assert "all hold the same folders (cat, dog): if they are splits, name them train/" in note
    assert not scan(make(tmp_path / "b", "cat/front", "cat/back", "dog/front")).notes
    assert not scan(make(tmp_path / "c", *of("train", "test"))).notes


def test_a_link_below_a_class_that_leads_nowhere_is_refused(tmp_path):
    make(tmp_path, "cat", "dog")
    (tmp_path / "cat" / "more").symlink_to(tmp_path / "unmounted")
    with pytest.raises(ValueError, match=r"cat/more is a link that leads nowhere: mend or remove it"):
        scan(tmp_path)
