"""Pictures in class folders, with split folders above them or without: listed, then decoded."""

import difflib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cifar_core.data import layout
from cifar_core.data.cache import Decoded, FileStamp, Pictures
from cifar_core.data.picture import FULL, PLAIN, DepthError, Reading, is_picture, read_picture
from cifar_core.processes import cores

CHUNK = 256  # pictures a thread decodes before it reports back
SHOWN = 5  # broken pictures named in an error
DARK = FULL // 4  # a set of 16-bit pictures that stays below has less than 64 of 256 grey levels left
JUNK = ("thumbs.db", "desktop.ini")  # left by Windows


@dataclass(frozen=True)
class Listing:
    """The picture files of one split, class by class, sorted."""

    files: list[FileStamp] = field(default_factory=list)  # names relative to the folder's root
    labels: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Folder:
    """What `scan` found."""

    root: Path
    classes: tuple[str, ...]  # NFC, sorted
    train: Listing
    test: Listing | None
    val: Listing | None = None
    passed: Mapping[str, int] = field(default_factory=dict)  # files in class folders not read, by suffix
    notes: tuple[str, ...] = ()  # what a user should know of it, a line each

    @property
    def splits(self) -> dict[str, Listing]:
        """The splits that have a folder of their own."""
        some = {"train": self.train, "val": self.val, "test": self.test}
        return {name: listing for name, listing in some.items() if listing is not None}

    @property
    def files(self) -> list[FileStamp]:
        """The files of all splits, in the order of the cache's key."""
        return self.train.files + [
            file for listing in (self.test, self.val) if listing is not None for file in listing.files
        ]


def scan(root: Path, *, judge: bool = False) -> Folder:
    """List the pictures below `root`: of its split folders, or class folders directly (all train).

    Hidden names are passed over in silence, other files that are no pictures are counted. To `judge` a
    network, the test folder alone is listed, or the validation folder where there is neither test nor
    train, or all class folders as test where there are no splits; one class is enough, train is empty.
    Raises `FileNotFoundError` for an absent root or one without pictures, `ValueError` for folders that do
    not make sense; both name the path.
    """
    found, folders = class_folders(root, judge=judge)
    classes = tuple(sorted(next(iter(folders.values()))))
    passed: Counter[str] = Counter()
    notes: list[str] = []
    splits = {split: _list_split(root, some, classes, passed) for split, some in folders.items()}
    for split, listing in splits.items():
        present = set(listing.labels)
        lacking = [name for label, name in enumerate(classes) if label not in present]
        path = getattr(found, split)
        if len(lacking) == len(classes):
            raise FileNotFoundError(f"{path} holds no pictures in its class folders{_told(passed)}")
        if lacking and split == "train":
            raise ValueError(
                f"every class folder of {path} must hold pictures, got empty ones: {lacking}{_told(passed)}"
            )
        if lacking and not judge:
            notes.append(
                f"{path} has no pictures of {len(lacking)} of {len(classes)} classes: {_some(lacking)}"
            )
    return Folder(
        root,
        classes,
        splits.get("train", Listing()),
        splits.get("test"),
        splits.get("val"),
        dict(passed),
        (*_layout_notes(root, found), *notes, *_passed_note(passed)),
    )


def class_folders(root: Path, *, judge: bool = False) -> tuple[layout.Layout, dict[str, dict[str, Path]]]:
    """Return the layout of `root` and {split: {class: its folder}}; the first split sets the classes.

    No picture is looked for; raises what `scan` does for folders alone.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"data.root must be a folder of class folders with pictures, got {root}")
    found = layout.find(root, judge=judge)
    folders = {
        split: _classes(path)
        for split, path in (("train", found.train), ("val", found.val), ("test", found.test))
        if path is not None
    }
    first = next(iter(folders))
    classes = tuple(sorted(folders[first]))
    least = 1 if judge and first == "test" else 2
    if len(classes) < least:
        raise ValueError(_too_few(getattr(found, first), classes, least, found.train == root))
    for split in folders.keys() - {first}:
        _check_known(getattr(found, split), folders[split], getattr(found, first), classes)
    return found, folders


def count(root: Path, *, most: int) -> dict[str, int] | None:
    """Return the number of pictures by split, None where there are `most` of them or more."""
    above, folders = _above(root.resolve()), class_folders(root)[1]
    splits = (
        split
        for split, named in folders.items()
        for path in named.values()
        for _ in _pictures(path, "", Counter(), above)
    )
    counts = Counter(islice(splits, most))
    return None if counts.total() == most else {split: counts[split] for split in folders}


def pictures_below(folder: Path) -> tuple[list[Path], dict[str, int]]:
    """Return all pictures below a folder, sorted, and how many other files there are by suffix.

    Hidden names are passed over in silence, links to folders are followed. Raises ValueError for a link to
    a folder that it lies in.
    """
    passed: Counter[str] = Counter()
    above = _above(folder.resolve().parent)
    return sorted(folder / file.name for file in _pictures(folder, "", passed, above)), dict(passed)


def passed_over(passed: Mapping[str, int]) -> str:
    """Say what was passed over, most first: `3 .txt, 1 .heic`; empty for nothing."""
    return ", ".join(
        f"{n} {what}" for what, n in sorted(passed.items(), key=lambda item: (-item[1], item[0]))
    )


def decode(folder: Folder, image_size: int, reading: Reading = PLAIN) -> Decoded:
    """Decode all pictures to RGB, each resized whole to `image_size` squared (antialiased bilinear).

    The aspect ratio is not kept, nothing is cropped; a picture of that size stays as it is. EXIF orientation
    is applied, of an animation the first frame taken; docs/data.md has the laws of depth and alpha. Shows a
    progress bar on a terminal. Raises `OSError` naming the first broken pictures and their number,
    `ValueError` for 16-bit pictures that would lose most of their grey levels.
    """
    decoded, highest = {}, 0.0
    for split, listing in folder.splits.items():
        decoded[split], brightest = _decode_listing(folder.root, listing, image_size, reading)
        highest = max(highest, brightest)
    if 0 < highest <= DARK and not reading.white:
        enough = 2 ** int(highest).bit_length() - 1
        raise ValueError(
            f"the 16-bit pictures of {folder.root} reach {highest:.0f} of {FULL}, so at most "
            f"{int(highest) // 256 + 1} of 256 grey levels would be left: give data.white={enough} if "
            f"that is white in them, or data.white={FULL} if they are as dark as that"
        )
    return Decoded(folder.classes, decoded["train"], decoded.get("test"), decoded.get("val"))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _told(passed: Mapping[str, int]) -> str:
    return f"; passed over: {passed_over(passed)}" if passed else ""


def _passed_note(passed: Mapping[str, int]) -> Iterator[str]:
    if passed:
        yield f"passed over in class folders: {passed_over(passed)}"


def _layout_notes(root: Path, found: layout.Layout) -> Iterator[str]:
    named = [(s, getattr(found, s)) for s in ("train", "val", "test") if getattr(found, s) is not None]
    if any(path != root and path != root / split for split, path in named):
        told = ", ".join(f"{path.relative_to(root).as_posix()}/ is {split}" for split, path in named)
        yield f"splits of {root}: {told}"
    if root in (found.train, found.test) and (same := layout.alike(root)):
        yield (
            f"every folder of {root} is a class, though all hold the same folders ({_some(same)}): "
            "if they are splits, name them train/, val/ and test/"
        )
    if found.unread:
        yield f"not read, beside the splits of {root}: {_some([f'{name}/' for name in found.unread])}"
    for name, count in found.beside.items():
        yield f"not read: {count} pictures of {root / name} that lie in no class folder"


def _too_few(path: Path, classes: Sequence[str], least: int, flat: bool) -> str:
    below = layout.subfolders(path / classes[0]) if flat and classes else []
    hint = f"; is it data.root={path / classes[0]}?" if len(below) > 1 else ""
    folders = "class folders" if least > 1 else "class folder"
    return f"{path} must hold at least {least} {folders}, got {len(classes)}: {list(classes)}{hint}"


def _classes(split: Path) -> dict[str, Path]:
    """Return {class: its folder}; names are composed (NFC), as macOS and Linux write é in two ways."""
    classes: dict[str, Path] = {}
    for folder in layout.subfolders(split):
        name = unicodedata.normalize("NFC", folder.name)
        if name in classes:
            raise ValueError(
                f"{split} has two folders for the class {name}, spelt in two Unicode forms: join them"
            )
        classes[name] = folder
    return classes


def _check_known(path: Path, names: Mapping[str, Path], train: Path, classes: Sequence[str]) -> None:
    unknown = sorted(names.keys() - set(classes))
    if unknown:
        folded = {name.casefold(): name for name in classes}
        close = folded.get(unknown[0].casefold()) or next(
            iter(difflib.get_close_matches(unknown[0], classes, n=1)), ""
        )
        hint = f"; {unknown[0]!r} is {close!r} there?" if close else ""
        raise ValueError(f"{path} must hold the classes of {train}: unknown {unknown}{hint}")


def _list_split(
    root: Path, folders: Mapping[str, Path], classes: Sequence[str], passed: Counter[str]
) -> Listing:
    listing, above = Listing(), _above(root.resolve())
    for label, name in enumerate(classes):
        if name in folders:
            path = folders[name]
            prefix = path.relative_to(root).as_posix() + "/"
            files = sorted(_pictures(path, prefix, passed, (*above, _identity(path.parent))))
            listing.files.extend(files)
            listing.labels.extend([label] * len(files))
    return listing


def _above(folder: Path) -> tuple[tuple[int, int], ...]:
    """Return what tells a folder and all that it lies in."""
    return tuple(map(_identity, (folder, *folder.parents)))


def _identity(folder: Path) -> tuple[int, int]:
    stat = folder.stat()
    return stat.st_dev, stat.st_ino


def _pictures(
    folder: Path, prefix: str, passed: Counter[str], above: tuple[tuple[int, int], ...]
) -> Iterator[FileStamp]:
    """Yield the pictures below a folder; ``above`` tells the folders that it lies in."""
    here = _identity(folder)
    if here in above:
        raise ValueError(f"{folder} is a link to a folder that it lies in: remove it")
    for entry in layout.visible(folder):
        name = entry.name
        if layout.is_folder(entry):
            if is_picture(name):
                raise ValueError(f"{entry.path} has the name of a picture but is a folder")
            yield from _pictures(folder / name, f"{prefix}{name}/", passed, (*above, here))
        elif is_picture(name) and (stat := _stat(entry)):
            yield FileStamp.of(prefix + name, stat)
        elif name.lower() not in JUNK:
            layout.check_link(entry)
            passed[
                "that are no files" if is_picture(name) else Path(name).suffix.lower() or "without suffix"
            ] += 1


def _stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """Return the stamp of a file, and of a link that leads nowhere, which decoding will name; else None."""
    try:
        return (
            entry.stat()
            if entry.is_file()
            else None
            if os.path.exists(entry.path)
            else entry.stat(follow_symlinks=False)
        )
    except OSError:  # a link to itself
        return entry.stat(follow_symlinks=False)


def _decode_listing(
    root: Path, listing: Listing, image_size: int, reading: Reading
) -> tuple[Pictures, float]:
    """Return the pictures and the highest value of those of 16 bits."""
    names = tuple(file.name for file in listing.files)
    images = np.empty((len(names), 3, image_size, image_size), dtype=np.uint8)
    highest = np.zeros(len(names))

    def decode_chunk(start: int) -> list[str]:
        broken = []
        for i in range(start, min(start + CHUNK, len(names))):
            try:
                images[i], highest[i] = read_picture(root / names[i], image_size, reading)
            except DepthError as error:
                lawless.append(f"{root / names[i]}: {error}")
            except Exception as error:  # Pillow's decoders raise whatever a damaged file drives them to
                broken.append(f"{root / names[i]} ({error})")
        return broken

    broken: list[str] = []
    lawless: list[str] = []
    starts = range(0, len(names), CHUNK)
    with (
        ThreadPoolExecutor(cores()) as pool,
        tqdm(total=len(names), desc="decoding", unit=" pictures", disable=None) as bar,
    ):
        for start, failed in zip(starts, pool.map(decode_chunk, starts), strict=True):
            broken += failed
            bar.update(min(CHUNK, len(names) - start))
    if lawless:
        raise ValueError(f"{len(lawless)} of {len(names)} pictures cannot be scaled, as {min(lawless)}")
    if broken:
        shown = "; ".join(broken[:SHOWN]) + ("; ..." if len(broken) > SHOWN else "")
        raise OSError(f"{len(broken)} of {len(names)} pictures cannot be read: {shown}")
    return Pictures(images, np.array(listing.labels, dtype=np.int64), names), highest.max(initial=0)
