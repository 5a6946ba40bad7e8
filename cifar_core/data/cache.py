"""Decoded pictures on disk: written once, whole or not at all, then memory-mapped."""

import hashlib
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cifar_core.files import lock

FORMAT = 2  # raise it when the files or the way pictures are decoded change

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pictures:
    """A list of decoded pictures as its source orders it."""

    images: np.ndarray  # uint8 (N, 3, H, W)
    labels: np.ndarray  # int64 (N,)
    names: tuple[str, ...] | None  # relative to data.root; None where the source has no picture files


@dataclass(frozen=True)
class Decoded:
    """All pictures of a source."""

    classes: tuple[str, ...]
    train: Pictures
    test: Pictures | None  # None where the source comes without a test set
    val: Pictures | None = None  # the same for a validation set

    @property
    def parts(self) -> dict[str, Pictures]:
        """The lists that there are, by name, in the order of the fingerprint."""
        some = {"train": self.train, "test": self.test, "val": self.val}
        return {name: part for name, part in some.items() if part is not None}


class FileStamp(NamedTuple):
    """What tells an untouched file from a changed one without reading it.

    Size and time of change can be those of another file: cp -p, rsync -t, tar and touch -r set the time. The
    kernel alone sets ctime, at every write, rename, link and chmod; a file put in another's place by its
    folder or a link has another inode.
    """

    name: str
    size: int
    mtime_ns: int
    ctime_ns: int = 0
    inode: int = 0

    @classmethod
    def of(cls, name: str, stat: os.stat_result) -> "FileStamp":
        """Return the stamp of a file under a name."""
        return cls(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def fingerprint(decoded: Decoded) -> str:
    """Hash classes, pictures and labels to 16 hex digits."""
    digest = hashlib.blake2b("\n".join(decoded.classes).encode("utf-8", "surrogateescape"), digest_size=8)
    for name, part in decoded.parts.items():
        if name == "val":
            digest.update(b"val")  # else one could stand for the other
        digest.update(str(part.images.shape).encode())
        digest.update(np.ascontiguousarray(part.images).data)
        digest.update(part.labels.astype("<i8").data)
    return digest.hexdigest()


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes out of `folder` meanwhile; the kernel frees the lock even of a killed holder."""
    with open(folder / ".lock", "ab") as file:
        try:
            if not lock(file):
                log.info("waiting for another process that writes to %s", folder)
                lock(file, wait=True)
        except OSError as error:  # some network file systems have none
            log.warning(
                "no file lock in %s (%s): processes that start together may repeat work", folder, error
            )
        yield


def cached(
    folder: Path,
    source: str,
    root: Path,
    image_size: int,
    files: Iterable[FileStamp],
    decode: Callable[[], Decoded],
    *,
    reading: str = "",
) -> tuple[Decoded, str]:
    """Return the decoded pictures of `files` and their fingerprint, calling `decode` only when they changed.

    Images are memory-mapped copy-on-write: they can be written to, the cache on disk stays as it is.
    `reading` names how they are read otherwise than by default; each way has a cache of its own.
    One process decodes, others that need the same wait for it. A cache of older versions of the same
    files is removed. Raises `OSError` naming `data.cache` where the folder cannot be written.
    """
    files = list(files)
    name = f"{source}-{image_size}-{_hash([str(root.resolve()), *([reading] if reading else [])])}"
    target = folder / f"{name}-{_hash(str(tuple(file)) for file in files)}-v{FORMAT}"
    ready = _read(target)
    if ready is not None:
        return ready
    _check_writable(folder)
    with alone_in(folder):
        ready = _read(target)
        if ready is not None:
            return ready
        shutil.rmtree(target, ignore_errors=True)  # damaged, or it would have been read
        _let_clock_tick(files)
        decoded = decode()
        stamp = fingerprint(decoded)
        _write(target, decoded, stamp)
        for old in folder.glob(f"{name}-*"):
            if old != target:
                shutil.rmtree(old, ignore_errors=True)
    return decoded, stamp


def _hash(lines: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


def _let_clock_tick(files: Iterable[FileStamp]) -> None:
    """Wait until a change of the newest file would be seen: kernels stamp files in ticks of 1 to 10 ms."""
    newest = max((file.ctime_ns for file in files), default=0)
    tick = 2_000_000_000 if newest % 1_000_000_000 == 0 else 20_000_000  # some file systems have seconds
    age = time.time_ns() - newest
    if 0 <= age < tick:
        time.sleep((tick - age) / 1e9)


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".lock").touch()
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> OSError:
    reason = error.strerror or error
    return OSError(f"data.cache must be a folder that can be written and has room, got {folder}: {reason}")


def _read(target: Path) -> tuple[Decoded, str] | None:
    """Open a finished cache; None where there is none or it is damaged."""
    try:
        meta = json.loads((target / "meta.json").read_text(encoding="utf-8"))
        parts = {name: _read_part(target, name, meta["names"][name]) for name in meta["names"]}
        decoded = Decoded(tuple(meta["classes"]), parts["train"], parts.get("test"), parts.get("val"))
        return decoded, meta["fingerprint"]
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None


def _read_part(target: Path, name: str, names: list[str] | None) -> Pictures:
    images = np.load(target / f"{name}_images.npy", mmap_mode=None if names == [] else "c")
    labels = np.load(target / f"{name}_labels.npy")
    if len(images) != len(labels) or len(labels) != len(names or labels):
        raise ValueError(f"{target} holds lists of different length")
    return Pictures(images, labels, None if names is None else tuple(names))


def _write(target: Path, decoded: Decoded, stamp: str) -> None:
    """Write beside `target`, then rename: a reader sees all or nothing. Needs the folder's lock."""
    part = target.parent / f"{platform.node()}.part"  # locks may not reach other machines
    shutil.rmtree(part, ignore_errors=True)  # left by a writer that was killed
    names = {}
    try:
        part.mkdir()
        for name, pictures in decoded.parts.items():
            np.save(part / f"{name}_images.npy", pictures.images)
            np.save(part / f"{name}_labels.npy", pictures.labels)
            names[name] = pictures.names
        meta = {"classes": decoded.classes, "names": names, "fingerprint": stamp}
        (part / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        for file in part.iterdir():
            _to_disk(file)  # a power cut must leave no file of zeros under the final name
        part.rename(target)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        if _read(target) is None:  # else another machine was faster
            raise _unwritable(target.parent, error) from error


def _to_disk(file: Path) -> None:
    with open(file, "rb") as opened:
        os.fsync(opened.fileno())
