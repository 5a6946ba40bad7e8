import errno
import fcntl
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cifar_core.data.cache import Decoded, FileStamp, Pictures, cached, fingerprint
from cifar_core.data.folder import decode, scan
from tests.conftest import PROJECT


def pictures(count: int, value: int = 0) -> Pictures:
    images = np.full((count, 3, 8, 8), value, dtype=np.uint8)
    return Pictures(images, np.arange(count) % 2, tuple(f"a/{i}.png" for i in range(count)))


DECODED = Decoded(("a", "b"), pictures(6, 1), pictures(2, 2))
FILES = [FileStamp("a/0.png", 10, 1)]


class Counter:
    """Decodes, and knows how often it was asked to."""

    def __init__(self, decoded: Decoded = DECODED):
        self.decoded, self.calls = decoded, 0

    def __call__(self) -> Decoded:
        self.calls += 1
        return self.decoded


def same(a: Decoded, b: Decoded) -> bool:
    pairs = [(a.train, b.train), (a.test, b.test)]
    return a.classes == b.classes and all(
        np.array_equal(x.images, y.images) and np.array_equal(x.labels, y.labels) and x.names == y.names
        for x, y in pairs
    )


def entries(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_second_call_reads_what_the_first_wrote(tmp_path):
    counter = Counter()
    for _ in range(2):
        decoded, stamp = cached(tmp_path / "new" / "cache", "folder", tmp_path, 8, FILES, counter)
        assert same(decoded, DECODED)
        assert stamp == fingerprint(DECODED)
    assert counter.calls == 1
    assert isinstance(decoded.train.images, np.memmap)


@pytest.mark.parametrize(
    "change",
    [
        {"files": [FileStamp("a/1.png", 10, 1)]},
        {"files": [FileStamp("a/0.png", 11, 1)]},
        {"files": [FileStamp("a/0.png", 10, 2)]},
        {"files": [*FILES, FileStamp("a/1.png", 10, 1)]},
        {"image_size": 16},
        {"source": "cifar10"},
        {"root": Path("/")},
    ],
)
def test_any_change_decodes_again(tmp_path, change):
    same_call = {"source": "folder", "root": tmp_path, "image_size": 8, "files": FILES}
    counter = Counter()
    cached(tmp_path, **same_call, decode=counter)
    cached(tmp_path, **{**same_call, **change}, decode=counter)
    assert counter.calls == 2


def test_the_cache_of_changed_files_is_removed(tmp_path):
    cached(tmp_path, "folder", tmp_path, 8, FILES, Counter())
    cached(tmp_path, "folder", tmp_path, 16, FILES, Counter())
    before = entries(tmp_path)
    cached(tmp_path, "folder", tmp_path, 8, [FileStamp("a/0.png", 10, 2)], Counter())
    assert len(set(entries(tmp_path)) & set(before)) == 1
    assert len(entries(tmp_path)) == 2


def test_touching_adding_and_removing_pictures_is_seen(tmp_path):
    root = tmp_path / "pictures"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(root / name / "0.png")

    def load() -> tuple[int, int]:
        calls = []
        found = scan(root)
        decoded, _ = cached(
            tmp_path / "cache", "folder", root, 8, found.files, lambda: calls.append(0) or decode(found, 8)
        )
        return len(calls), len(decoded.train.labels)

    assert load() == (1, 2)
    assert load() == (0, 2)
    os.utime(root / "a/0.png", ns=(0, 0))
    assert load() == (1, 2)
    Image.new("RGB", (8, 8)).save(root / "a/1.png")
    assert load() == (1, 3)
    (root / "a/0.png").unlink()
    assert load() == (1, 2)
    assert load() == (0, 2)


def bmp(path: Path, value: int) -> Path:
    """Write a picture; all of them have one size in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, 255 - value, 7)).save(path)
    return path


def with_time_of(path: Path, change) -> None:
    """Change a file and set its times back, as cp -p, rsync -t and touch -r do."""
    before = path.stat()
    change()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def swap(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def replace_by_archive(root: Path, value: int) -> None:
    """Unpack another picture of the same name, size and time."""
    path, content = root / "a/0.bmp", io.BytesIO()
    new = bmp(root.parent / "new.bmp", value)
    os.utime(new, ns=(0, path.stat().st_mtime_ns))
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.add(new, "a/0.bmp")
    content.seek(0)
    with tarfile.open(fileobj=content) as archive:
        archive.extractall(root, filter="fully_trusted")


def retarget(root: Path, value: int) -> None:
    """Let a link lead to another picture of the same size and time."""
    first, second = bmp(root.parent / "1.bmp", 255 - value), bmp(root.parent / "2.bmp", value)
    for path in (first, second):
        os.utime(path, ns=(0, 0))
    link = root / "a/link.bmp"
    now = link.resolve() if link.is_symlink() else second
    link.unlink(missing_ok=True)
    link.symlink_to(first if now == second else second)


def hard_link(root: Path, value: int) -> None:
    other = bmp(root.parent / "hard.bmp", value)
    shutil.copystat(root / "b/0.bmp", other)
    (root / "b/0.bmp").unlink()
    os.link(other, root / "b/0.bmp")
    other.unlink()


REPLACEMENTS = {
    "written in place, time set back": lambda r, v: with_time_of(
        r / "a/0.bmp", lambda: bmp(r / "a/0.bmp", v)
    ),
    "cp -p over it": lambda r, v: with_time_of(
        r / "a/1.bmp", lambda: shutil.copy2(bmp(r.parent / "x.bmp", v), r / "a/1.bmp")
    ),
    "another renamed over it": lambda r, v: with_time_of(
        r / "b/1.bmp", lambda: os.replace(bmp(r.parent / "x.bmp", v), r / "b/1.bmp")
    ),
    "unpacked over it": replace_by_archive,
    "files swapped": lambda r, _: swap(r / "a/0.bmp", r / "b/1.bmp"),
    "class folders swapped": lambda r, _: swap(r / "a", r / "b"),
    "link to another": retarget,
    "hard link to another": hard_link,
}


@settings(max_examples=12)
@given(st.lists(st.tuples(st.sampled_from(sorted(REPLACEMENTS)), st.integers(0, 255)), max_size=4))
@example([(name, 200) for name in REPLACEMENTS])
def test_pictures_replaced_in_any_way_are_read_anew(changes):
    with tempfile.TemporaryDirectory() as made:
        root = Path(made, "pictures")
        for name, value in (("a/0", 1), ("a/1", 2), ("b/0", 3), ("b/1", 4)):
            os.utime(bmp(root / f"{name}.bmp", value), ns=(0, 0))
        for what in [None, *changes]:
            if what:
                REPLACEMENTS[what[0]](root, what[1])
            found = scan(root)
            decoded, _ = cached(
                Path(made, "cache"), "folder", root, 8, found.files, lambda found=found: decode(found, 8)
            )
            for name, image in zip(decoded.train.names, decoded.train.images, strict=True):
                assert tuple(image[:, 0, 0]) == Image.open(root / name).getpixel((0, 0)), (what, name)


def test_each_way_of_reading_has_a_cache_of_its_own(tmp_path):
    counter = Counter()
    for reading in ("", "background black", "", "background black"):
        cached(tmp_path, "folder", tmp_path, 8, FILES, counter, reading=reading)
    assert counter.calls == 2


def test_lists_of_different_length_are_a_damage(tmp_path):
    counter = Counter()
    cached(tmp_path, "folder", tmp_path, 8, FILES, counter)
    (labels,) = tmp_path.glob("*/train_labels.npy")
    np.save(labels, np.arange(3))
    assert same(cached(tmp_path, "folder", tmp_path, 8, FILES, counter)[0], DECODED)
    assert counter.calls == 2


def test_an_empty_list_is_read_back(tmp_path):
    none = Pictures(np.empty((0, 3, 8, 8), np.uint8), np.empty(0, np.int64), ())
    counter = Counter(Decoded(("a",), none, pictures(2), pictures(3)))
    for _ in range(2):
        decoded, _ = cached(tmp_path, "folder", tmp_path, 8, FILES, counter)
    assert counter.calls == 1
    assert [len(part.labels) for part in (decoded.train, decoded.test, decoded.val)] == [0, 2, 3]


@pytest.mark.parametrize("damage", ["cut", "emptied", "zeros", "gone", "meta"])
def test_a_damaged_cache_is_made_again(tmp_path, damage):
    counter = Counter()
    cached(tmp_path, "folder", tmp_path, 8, FILES, counter)
    (images,) = tmp_path.glob("*/train_images.npy")
    if damage == "cut":
        images.write_bytes(images.read_bytes()[:-1])
    elif damage == "emptied":
        images.write_bytes(b"")
    elif damage == "zeros":
        images.write_bytes(bytes(images.stat().st_size))
    elif damage == "gone":
        images.unlink()
    else:
        images.with_name("meta.json").write_text('{"classes": [')
    for _ in range(2):
        assert same(cached(tmp_path, "folder", tmp_path, 8, FILES, counter)[0], DECODED)
    assert counter.calls == 2


def test_a_failed_decoding_leaves_nothing(tmp_path):
    def fail() -> Decoded:
        raise OSError("broken.png cannot be read")

    with pytest.raises(OSError, match="^broken.png cannot be read$"):
        cached(tmp_path, "folder", tmp_path, 8, FILES, fail)
    assert entries(tmp_path) == []


def test_a_cache_that_cannot_be_made_names_its_key(tmp_path):
    (tmp_path / "file").write_text("")
    counter = Counter()
    with pytest.raises(OSError, match=f"data.cache must be a folder .* got {tmp_path}/file/cache: Not a dir"):
        cached(tmp_path / "file" / "cache", "folder", tmp_path, 8, FILES, counter)
    assert counter.calls == 0


def test_a_full_disk_names_its_key_and_leaves_nothing(tmp_path):
    big = Decoded(("a", "b"), pictures(2000), None)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=f"data.cache must be a folder .* room, got {tmp_path}"):
            cached(tmp_path, "folder", tmp_path, 8, FILES, Counter(big))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert entries(tmp_path) == []


WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from cifar_core.data.cache import Decoded, FileStamp, Pictures, cached

def decode():
    Path(sys.argv[1], f"decoding{time.time_ns()}").touch()
    time.sleep(float(sys.argv[2]))
    images = np.ones((int(sys.argv[3]), 3, 32, 32), np.uint8)
    return Decoded(("a", "b"), Pictures(images, np.arange(2), None), None)

root = Path(sys.argv[1])
cached(root / "cache", "folder", root, 32, [FileStamp("a", 1, 1)], decode)
print("done", flush=True)
time.sleep(float(sys.argv[4]))
"""


def writer(root: Path, *, decoding: float, count: int, lingering: float) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, str(root), str(decoding), str(count), str(lingering)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=PROJECT)


def kill_when(process: subprocess.Popen, seen) -> None:
    for _ in range(60_000):
        if seen() or process.poll() is not None:
            break
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["decoding", "writing"])
def test_a_writer_killed_at_any_moment_leaves_no_half_cache(tmp_path, moment):
    cache = tmp_path / "cache"
    if moment == "decoding":
        process = writer(tmp_path, decoding=60, count=2, lingering=60)
        kill_when(process, lambda: any(tmp_path.glob("decoding*")))
    else:
        process = writer(tmp_path, decoding=0, count=30_000, lingering=60)
        kill_when(process, lambda: any(cache.glob("*/train_images.npy")))
    whole = Decoded(("a", "b"), Pictures(np.ones((2, 3, 32, 32), np.uint8), np.arange(2), None), None)
    decoded, _ = cached(cache, "folder", tmp_path, 32, [FileStamp("a", 1, 1)], Counter(whole))
    assert decoded.train.images.min() == 1  # an unfinished file would be cut or hold zeros
    assert len(entries(cache)) == 1
    assert entries(cache)[0].startswith("folder-32-")


@pytest.mark.slow
def test_two_processes_at_once_decode_once_and_both_end_well(tmp_path):
    processes = [writer(tmp_path, decoding=0.5, count=2, lingering=0) for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in processes] == [b"done\n", b"done\n"]
    assert [process.returncode for process in processes] == [0, 0]
    assert len(list(tmp_path.glob("decoding*"))) == 1
    assert len(entries(tmp_path / "cache")) == 1


def test_without_file_locks_a_faster_machine_is_no_harm(tmp_path, monkeypatch):
    def unsupported(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    def decode_while_another_machine_finishes() -> Decoded:
        cached(tmp_path, "folder", tmp_path, 8, FILES, Counter())
        return DECODED

    monkeypatch.setattr(fcntl, "flock", unsupported)
    decoded, _ = cached(tmp_path, "folder", tmp_path, 8, FILES, decode_while_another_machine_finishes)
    assert same(decoded, DECODED)
    counter = Counter()
    assert same(cached(tmp_path, "folder", tmp_path, 8, FILES, counter)[0], DECODED)
    assert counter.calls == 0
    assert len(entries(tmp_path)) == 1


def test_fingerprint_depends_on_pictures_labels_and_classes():
    test = DECODED.test
    others = [
        Decoded(("a", "c"), DECODED.train, test),
        Decoded(DECODED.classes, pictures(6, 3), test),
        Decoded(DECODED.classes, Pictures(DECODED.train.images, DECODED.train.labels[::-1], None), test),
        Decoded(DECODED.classes, DECODED.train, None),
    ]
    others.append(Decoded(DECODED.classes, DECODED.train, None, test))  # as val
    assert len({fingerprint(decoded) for decoded in [DECODED, *others]}) == 6
    renamed = Decoded(DECODED.classes, Pictures(DECODED.train.images, DECODED.train.labels, None), test)
    assert fingerprint(renamed) == fingerprint(DECODED)
