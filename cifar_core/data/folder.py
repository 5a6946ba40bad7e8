"""Pictures in class folders, `train/<class>/*.png` and `test/<class>/*.png`, of any size and mode."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from cifar_core.data.cache import Decoded, FileStamp, Pictures

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
CHUNK = 256  # pictures a thread decodes before it reports back
SHOWN = 5  # broken pictures named in an error


@dataclass(frozen=True)
class Listing:
    """The picture files of one split, class by class, sorted."""

    files: list[FileStamp]  # names relative to the folder's root
    labels: list[int]


@dataclass(frozen=True)
class Folder:
    """What `scan` found."""

    root: Path
    classes: tuple[str, ...]
    train: Listing
    test: Listing | None

    @property
    def files(self) -> list[FileStamp]:
        """The files of both splits."""
        return self.train.files + (self.test.files if self.test else [])


def scan(root: Path) -> Folder:
    """List the pictures below `root`: `train/` and perhaps `test/`, or class folders directly (all train).

    Hidden names and files that are no pictures are passed over. Raises `FileNotFoundError` for an absent
    root or one without pictures, `ValueError` for class folders that do not make sense; both name the path.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"data.root must be a folder of class folders with pictures, got {root}")
    if (root / "test").is_dir() and not (root / "train").is_dir():
        raise FileNotFoundError(f"data.root has a test folder but no train folder: {root}")
    train = root / "train" if (root / "train").is_dir() else root
    classes = _classes(train)
    if len(classes) < 2:
        raise ValueError(f"{train} must hold at least 2 class folders, got {len(classes)}: {classes}")
    test = root / "test"
    if not test.is_dir():
        return Folder(root, tuple(classes), _list_split(train, classes, root), None)
    missing, extra = sorted(set(classes) - set(_classes(test))), sorted(set(_classes(test)) - set(classes))
    if missing or extra:
        raise ValueError(f"{test} must hold the classes of {train}: missing {missing}, unknown {extra}")
    return Folder(root, tuple(classes), _list_split(train, classes, root), _list_split(test, classes, root))


def decode(folder: Folder, image_size: int) -> Decoded:
    """Decode all pictures to RGB, each resized whole to `image_size` squared (antialiased bilinear).

    The aspect ratio is not kept, nothing is cropped; a picture of that size stays as it is. Alpha is
    dropped, EXIF orientation applied, of an animation the first frame taken. Shows a progress bar on a
    terminal. Raises `OSError` naming the first broken pictures and their number.
    """
    train = _decode_listing(folder.root, folder.train, image_size)
    test = None if folder.test is None else _decode_listing(folder.root, folder.test, image_size)
    return Decoded(folder.classes, train, test)


def _classes(split: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(split) if e.is_dir() and not e.name.startswith("."))


def _list_split(split: Path, classes: list[str], root: Path) -> Listing:
    listed = [sorted(_pictures(split / c, (split / c).relative_to(root).as_posix() + "/")) for c in classes]
    empty = [name for name, files in zip(classes, listed, strict=True) if not files]
    if len(empty) == len(classes):
        raise FileNotFoundError(f"{split} holds no pictures ({' '.join(SUFFIXES)}) in its class folders")
    if empty:
        raise ValueError(f"every class folder of {split} must hold pictures, got empty ones: {empty}")
    return Listing(
        files=[file for files in listed for file in files],
        labels=[label for label, files in enumerate(listed) for _ in files],
    )


def _pictures(folder: Path, prefix: str) -> Iterator[FileStamp]:
    with os.scandir(folder) as scanned:
        entries = [entry for entry in scanned if not entry.name.startswith(".")]
    for entry in entries:
        is_picture = entry.name.lower().endswith(SUFFIXES)
        if entry.is_dir() and is_picture:
            raise ValueError(f"{entry.path} has the name of a picture but is a folder")
        if entry.is_dir():
            yield from _pictures(Path(entry.path), f"{prefix}{entry.name}/")
        elif is_picture:
            stat = entry.stat()
            yield FileStamp(prefix + entry.name, stat.st_size, stat.st_mtime_ns)


def _decode_listing(root: Path, listing: Listing, image_size: int) -> Pictures:
    names = tuple(file.name for file in listing.files)
    images = np.empty((len(names), 3, image_size, image_size), dtype=np.uint8)

    def decode_chunk(start: int) -> list[str]:
        broken = []
        for i in range(start, min(start + CHUNK, len(names))):
            try:
                images[i] = decode_picture(root / names[i], image_size)
            except Exception as error:  # Pillow's decoders raise whatever a damaged file drives them to
                broken.append(f"{root / names[i]} ({error})")
        return broken

    broken: list[str] = []
    starts = range(0, len(names), CHUNK)
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(names), desc="decoding", unit=" pictures", disable=None) as bar,
    ):
        for start, failed in zip(starts, pool.map(decode_chunk, starts), strict=True):
            broken += failed
            bar.update(min(CHUNK, len(names) - start))
    if broken:
        shown = "; ".join(broken[:SHOWN]) + ("; ..." if len(broken) > SHOWN else "")
        raise OSError(f"{len(broken)} of {len(names)} pictures cannot be read: {shown}")
    return Pictures(images, np.array(listing.labels, dtype=np.int64), names)


def decode_picture(path: Path, image_size: int) -> np.ndarray:
    """Read one picture as uint8 (3, image_size, image_size)."""
    with Image.open(path) as opened:
        ImageOps.exif_transpose(opened, in_place=True)
        picture = _rgb(opened)
    if picture.size != (image_size, image_size):
        picture = picture.resize((image_size, image_size), Image.Resampling.BILINEAR)
    return np.asarray(picture).transpose(2, 0, 1)


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F":
        raise ValueError("float pictures have no defined range; save them with 8 or 16 bits")
    if picture.mode.startswith("I"):  # 16 bits a sample, which convert() would clip at 255
        picture = Image.fromarray((np.asarray(picture).clip(0, 65535) >> 8).astype(np.uint8))
    if picture.mode == "P":
        picture = picture.convert("RGBA")  # Pillow warns of palettes with alpha that go straight to RGB
    return picture.convert("RGB")
