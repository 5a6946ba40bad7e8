import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
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


@pytest.mark.parametrize("damage", ["cut", "gone", "meta"])
def test_a_damaged_cache_is_made_again(tmp_path, damage):
    counter = Counter()
    cached(tmp_path, "folder", tmp_path, 8, FILES, counter)
    (images,) = tmp_path.glob("*/train_images.npy")
    if damage == "cut":
        images.write_bytes(images.read_bytes()[:-1])
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
    assert len({fingerprint(decoded) for decoded in [DECODED, *others]}) == 5
    renamed = Decoded(DECODED.classes, Pictures(DECODED.train.images, DECODED.train.labels, None), test)
    assert fingerprint(renamed) == fingerprint(DECODED)
