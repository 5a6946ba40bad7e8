"""Which folders below a root are splits: their names in any case, and what beside them is not read."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cifar_core.data.picture import is_picture

NAMES = {  # of splits; docs/data.md has the same table
    "train": ("train", "training", "trainset", "trainingset"),
    "val": ("val", "valid", "validation", "dev", "valset", "validationset", "devset"),
    "test": ("test", "testing", "testset", "testingset"),
}
SYSTEM = ("__macosx", "@eadir", "__pycache__", "lost+found", "$recycle.bin", "system volume information")


@dataclass(frozen=True)
class Layout:
    """The folders whose subfolders are classes."""

    train: Path | None = None  # None only where a network is judged
    val: Path | None = None
    test: Path | None = None
    unread: tuple[str, ...] = ()  # names of other folders beside them
    beside: dict[str, int] = field(default_factory=dict)  # pictures beside class folders, by split folder


def split_named(name: str) -> tuple[str, bool]:
    """Return the split that a folder's name stands for, "" for none, and whether it is that word alone.

    Words are runs of letters: `seg_train`, `test-images`, `train2017` and `ValSet` have one each. A name
    with words of two splits, `train_val`, stands for none.
    """
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]
    found = {split for split, names in NAMES.items() for word in words if word in names}
    whole = {split for split, names in NAMES.items() if name.lower() in names}
    if whole:
        return whole.pop(), True
    return (found.pop() if len(found) == 1 else "", False)


def visible(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the entries of a folder but for hidden ones and what systems leave there.

    Raises PermissionError, one line, where it cannot be read.
    """
    try:
        with os.scandir(folder) as scanned:
            entries = sorted(scanned, key=lambda entry: entry.name)
    except PermissionError as error:
        raise PermissionError(f"{folder} cannot be read: permission denied") from error
    for entry in entries:
        if not entry.name.startswith(".") and entry.name.lower() not in SYSTEM:
            yield entry


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one; a link in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def subfolders(folder: Path) -> list[Path]:
    """List the visible folders in a folder by name, links to folders too.

    Raises ValueError for a link that leads nowhere: a class or a split would be missing.
    """
    folders = []
    for entry in visible(folder):
        if is_folder(entry):
            folders.append(folder / entry.name)
        else:
            check_link(entry)
    return folders


def check_link(entry: os.DirEntry[str]) -> None:
    """Raise ValueError for a link that leads nowhere and, having no suffix, was one to a folder."""
    if entry.is_symlink() and not os.path.exists(entry.path) and "." not in entry.name:
        raise ValueError(f"{entry.path} is a link that leads nowhere: mend or remove it")


def find(root: Path, *, judge: bool = False) -> Layout:
    """Find the split folders of `root`; where it has none, its own subfolders are the classes.

    A folder named for a split is one if it holds folders. One that holds pictures itself is a class among
    others, as `train` beside `bus` and `car`; only `test` never is. To `judge` a network, the test folder
    alone is enough. Raises ValueError or FileNotFoundError that names the folders where it is not clear
    which are meant.
    """
    folders = subfolders(root)
    claims = _claims(folders)
    if not _are_splits(claims, folders):
        _check_classes(root, folders)
        return _layout(root, {"test" if judge else "train": root}, [])
    for split, some in claims.items():
        if len(some) > 1:
            names = " and ".join(f"{folder.name}/" for folder in some)
            raise ValueError(f"{root} has more than one {split} folder: {names}; rename or move all but one")
    used = {split: _inner(folder) for split, (folder,) in claims.items()}
    unread = [folder.name for folder in folders if [folder] not in claims.values()]
    if judge and ("test" in used or "train" not in used):
        used = {"test": used.get("test") or used["val"]}
    _check(root, used, unread, {split: folder.name for split, (folder,) in claims.items()}, judge)
    return _layout(root, used, unread)


def alike(root: Path) -> list[str]:
    """Return the names of the folders that all folders of `root` hold, [] where not all hold the same few."""
    first, *others = subfolders(root)
    names = [inner.name for inner in subfolders(first)]
    same = len(names) > 1 and all([inner.name for inner in subfolders(other)] == names for other in others)
    return names if same and others else []


def _claims(folders: Sequence[Path]) -> dict[str, list[Path]]:
    """Return {split: folders with its name}: those named so alone, else those that have it as a part."""
    alone: dict[str, list[Path]] = {}
    part: dict[str, list[Path]] = {}
    for folder in folders:
        split, whole = split_named(folder.name)
        if whole:
            alone.setdefault(split, []).append(folder)
        elif split and subfolders(folder):
            part.setdefault(split, []).append(folder)
    return {split: alone.get(split) or part[split] for split in NAMES if split in alone or split in part}


def _are_splits(claims: dict[str, list[Path]], folders: Sequence[Path]) -> bool:
    """Tell split folders from classes that happen to be named so."""
    if any(map(subfolders, claims.get("train", []))):
        return True
    named = sum(claims.values(), [])
    alone = {split: [f for f in some if split_named(f.name)[1]] for split, some in claims.items()}
    return bool(alone.get("test") or any(map(subfolders, alone.get("val", [])))) or (
        bool(folders) and len(named) == len(folders)
    )


def _check_classes(root: Path, folders: Sequence[Path]) -> None:
    """Raise ValueError where the splits lie within the classes, whose test pictures would be trained on."""
    common = set(NAMES)
    for folder in folders:
        common &= {
            split for split, whole in (split_named(inner.name) for inner in subfolders(folder)) if whole
        }
        if not common:
            return
    if len(folders) > 1 < len(common):
        raise ValueError(
            f"each class folder of {root} holds split folders ({', '.join(sorted(common))}): put the splits "
            "above the classes, as train/<class>, or rename these folders"
        )


def _check(
    root: Path, used: dict[str, Path], unread: Sequence[str], names: dict[str, str], judge: bool
) -> None:
    if "train" not in used and not judge:
        split, name = next(iter(names.items()))
        raise FileNotFoundError(
            f"data.root has a {split} folder but no train folder: {root} holds {name}/; put "
            "the class folders to train on into train/"
        )
    for split, folder in used.items():
        if not subfolders(folder) and _count_pictures(folder):
            raise ValueError(
                f"{folder} is the {split} folder by its name, but its pictures lie in no class folders: sort "
                "them into such, or rename or move it"
            )
    if unread and list(used) == ["train"] and not split_named(names["train"])[1]:
        raise ValueError(
            f"{root} may hold splits or classes: is {names['train']}/ the training pictures, beside "
            f"{', '.join(unread[:5])}? Name it train/, or put all class folders into train/"
        )


def _inner(folder: Path) -> Path:
    """Return the folder of the same name within, where there is nothing else: seg_train/seg_train."""
    inner = subfolders(folder)
    doubled = len(inner) == 1 and inner[0].name.lower() == folder.name.lower()
    return inner[0] if doubled and not _count_pictures(folder) else folder


def _layout(root: Path, used: dict[str, Path], unread: Sequence[str]) -> Layout:
    beside = {folder.relative_to(root).as_posix(): _count_pictures(folder) for folder in used.values()}
    return Layout(**used, unread=tuple(unread), beside={name: n for name, n in beside.items() if n})


def _count_pictures(folder: Path) -> int:
    return sum(is_picture(entry.name) and not is_folder(entry) for entry in visible(folder))
