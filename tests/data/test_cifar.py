import hashlib
import http.server
import io
import os
import pickle
import re
import socket
import struct
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from cifar_core.data import cifar
from cifar_core.data.cifar import ARCHIVES, Archive, decode, locate
from cifar_core.data.settings import DataSettings
from cifar_core.data.sources import load_data
from tests.conftest import PROJECT

CONF = PROJECT / "conf" / "data"


def settings(source: str, root: Path, **changes) -> DataSettings:
    """The values of conf/data, kept away from the user's own folders."""
    values = yaml.safe_load((CONF / f"{source}.yaml").read_text())
    return DataSettings(**{**values, "root": str(root), "cache": str(root / "cache"), **changes})


class Python2Pickler(pickle._Pickler):
    """Writes what Python 2 and NumPy 1 wrote: 8-bit strings, flags as 0 and 1, numpy.core.multiarray."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, text: bytes | str) -> None:
        data = text.encode("latin1") if isinstance(text, str) else text
        short = len(data) < 256
        head = (
            pickle.SHORT_BINSTRING + bytes([len(data)])
            if short
            else pickle.BINSTRING + struct.pack("<i", len(data))
        )
        self.write(head + data)
        self.memoize(text)

    dispatch[bytes] = dispatch[str] = save_string

    def save_bool(self, flag: bool) -> None:
        self.save(int(flag))  # of a dtype, as NumPy 1 wrote them

    dispatch[bool] = save_bool

    def save_global(self, obj, name=None) -> None:
        if getattr(obj, "__name__", "") == "_reconstruct":
            self.write(pickle.GLOBAL + b"numpy.core.multiarray\n_reconstruct\n")
            self.memoize(obj)
        else:
            super().save_global(obj, name)


def python2_pickle(value) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue()


def batch(count: int, label_key: bytes, num_classes: int, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    return {
        b"batch_label": b"a batch",
        label_key: rng.integers(0, num_classes, count).tolist(),
        b"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
        b"filenames": [b"%d.png" % i for i in range(count)],
    }


def made(source: str, **changed: bytes) -> tuple[Archive, dict[str, bytes], dict[str, dict]]:
    """A small archive of that layout: its table of checksums, its members, and what they hold."""
    known = ARCHIVES[source]
    num_classes = {"cifar10": 10, "cifar100": 100}[source]
    held = {
        name: batch(300, known.label_key, num_classes, seed)
        for seed, name in enumerate([*known.train, *known.test])
    }
    held[next(iter(known.meta))] = {known.class_key: [b"class %d" % i for i in range(num_classes)]}
    contents = {name: python2_pickle(value) for name, value in held.items()} | changed
    checked = {
        part: {name: hashlib.md5(contents[name]).hexdigest() for name in getattr(known, part)}
        for part in ("train", "test", "meta")
    }
    return replace(known, **checked), contents, held


def tar(archive: Archive, contents: dict[str, bytes], **extra: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        members = {f"{archive.folder}/{name}": content for name, content in contents.items()} | extra
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Put an archive with these bytes into data.root, and make it the one that is expected."""

    def place(source: str, archive: Archive, content: bytes) -> Path:
        archive = replace(archive, sha256=hashlib.sha256(content).hexdigest())
        monkeypatch.setitem(ARCHIVES, source, archive)
        (tmp_path / archive.file).write_bytes(content)
        return tmp_path / archive.file

    return place


@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
def test_archive_is_decoded(source, tmp_path, place):
    archive, contents, held = made(source)
    path = place(source, archive, tar(archive, contents))
    data = load_data(settings(source, tmp_path, val_size=100))
    assert data.num_classes == {"cifar10": 10, "cifar100": 100}[source]
    assert data.classes[3] == "class 3"
    assert [len(data.train), len(data.val), len(data.test)] == [300 * len(archive.train) - 100, 100, 300]
    rows = {"train": np.concatenate([held[name][b"data"] for name in archive.train])}
    labels = {"train": sum((held[name][archive.label_key] for name in archive.train), [])}
    (test,) = archive.test
    rows["test"], labels["test"] = held[test][b"data"], held[test][archive.label_key]
    for split, part in (("train", "train"), ("val", "train"), ("test", "test")):
        found = getattr(data, split)
        assert found.labels.tolist() == [labels[part][i] for i in found.index]
        # A row holds 1,024 red, then green, then blue values, each line by line.
        assert np.array_equal(found.images.flatten(1).numpy(), rows[part][found.index.numpy()])
    again = load_data(settings(source, tmp_path, val_size=100))
    assert again.fingerprint == data.fingerprint
    assert torch.equal(again.train.images, data.train.images)
    assert [p.name for p in tmp_path.iterdir() if p.name != "cache"] == [path.name]  # nothing unpacked


def test_unpacked_folder_gives_the_same(tmp_path, place, monkeypatch):
    archive, contents, _ = made("cifar10")
    path = place("cifar10", archive, tar(archive, contents))
    packed = load_data(settings("cifar10", tmp_path, val_size=100))
    path.unlink()
    for name, content in contents.items():
        (tmp_path / archive.folder).mkdir(exist_ok=True)
        (tmp_path / archive.folder / name).write_bytes(content)
    unpacked = load_data(settings("cifar10", tmp_path, val_size=100, download=False))
    assert unpacked.fingerprint == packed.fingerprint


def test_other_image_sizes(tmp_path, place):
    archive, contents, _ = made("cifar10")
    place("cifar10", archive, tar(archive, contents))
    data = load_data(settings("cifar10", tmp_path, val_size=100, image_size=16))
    full = load_data(settings("cifar10", tmp_path, val_size=100))
    averaged = torch.nn.functional.interpolate(
        full.test.images.float(), (16, 16), mode="bilinear", antialias=True
    )
    assert (data.test.images - averaged).abs().max() <= 0.51


def test_wrong_archive_checksum_names_file_expected_and_got(tmp_path, place):
    archive, contents, _ = made("cifar10")
    path = place("cifar10", archive, tar(archive, contents))
    path.write_bytes(path.read_bytes()[:-1000])
    got = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(OSError, match=f"{path} is damaged.*{ARCHIVES['cifar10'].sha256}.*{got}"):
        load_data(settings("cifar10", tmp_path))


def test_wrong_member_checksum_names_the_file(tmp_path):
    archive, contents, _ = made("cifar10")
    (tmp_path / archive.folder).mkdir()
    for name, content in contents.items():
        (tmp_path / archive.folder / name).write_bytes(content)
    damaged = tmp_path / archive.folder / "data_batch_3"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    with pytest.raises(OSError, match=f"{damaged} is damaged.*{archive.members['data_batch_3']}"):
        decode(archive, tmp_path / archive.folder)


def test_missing_member_is_named(tmp_path, place):
    archive, contents, _ = made("cifar10")
    del contents["data_batch_2"]
    path = place("cifar10", archive, tar(archive, contents))
    with pytest.raises(OSError, match=f"{path} lacks data_batch_2"):
        load_data(settings("cifar10", tmp_path))


class Hostile:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_nothing_is_unpickled_before_it_is_verified(tmp_path):
    hostile = pickle.dumps(Hostile(tmp_path / "owned"), protocol=2)
    archive, contents, _ = made("cifar10")
    (tmp_path / archive.file).write_bytes(tar(archive, contents | {"data_batch_1": hostile}))
    with pytest.raises(OSError, match="checksum"):
        decode(archive, tmp_path / archive.file)
    (tmp_path / archive.folder).mkdir()
    for name in archive.members:
        (tmp_path / archive.folder / name).write_bytes(hostile)
    with pytest.raises(OSError, match="checksum"):
        decode(archive, tmp_path / archive.folder)
    assert not (tmp_path / "owned").exists()


def test_members_that_lead_elsewhere_are_passed_over(tmp_path, place):
    archive, contents, _ = made("cifar10")
    escape = {
        "../escaped": b"x",
        str(tmp_path / "absolute"): b"x",
        f"{archive.folder}/../up": b"x",
        "data_batch_1": b"x",
    }
    place("cifar10", archive, tar(archive, contents, **escape))
    load_data(settings("cifar10", tmp_path, val_size=0))
    assert {p.name for p in tmp_path.iterdir()} == {archive.file, "cache"}
    assert not (tmp_path.parent / "escaped").exists()


@pytest.mark.parametrize(
    "changed",
    [
        {b"labels": [10] * 300},
        {b"labels": [0] * 299},
        {b"data": np.zeros((300, 3072), dtype=np.float32)},
        {b"data": np.zeros((300, 100), dtype=np.uint8)},
        {b"data": None},
    ],
)
def test_a_batch_of_another_shape_is_refused(tmp_path, place, changed):
    content = python2_pickle(batch(300, b"labels", 10, 0) | changed)
    archive, contents, _ = made("cifar10", data_batch_1=content)
    place("cifar10", archive, tar(archive, contents))
    with pytest.raises(OSError, match="does not hold what CIFAR-10 does"):
        load_data(settings("cifar10", tmp_path))


@pytest.mark.parametrize("source", ["cifar10", "cifar100"])
def test_without_download_the_ways_out_are_named(source, tmp_path):
    file = tmp_path / ARCHIVES[source].file
    with pytest.raises(FileNotFoundError, match=re.escape(str(file))) as error:
        load_data(settings(source, tmp_path, download=False))
    message = str(error.value)
    assert "\n" not in message
    for way in ("data.download", "data=folder data.root=", "data=digits"):
        assert way in message


class Mirror(http.server.BaseHTTPRequestHandler):
    """Serves `content`; of the first answers only as many bytes as `cuts` says."""

    content = b""
    cuts: list[int]
    starts: list[int]
    ranges = True

    def do_GET(self) -> None:
        start = int((self.headers["Range"] or "bytes=0-")[6:-1]) if self.ranges else 0
        self.starts.append(start)
        if start >= len(self.content):
            self.send_error(416)
            return
        body = self.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.cuts.pop(0)] if self.cuts else body)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def mirror() -> Iterator[tuple[type[Mirror], str]]:
    handler = type("OneMirror", (Mirror,), {"cuts": [], "starts": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield handler, f"http://127.0.0.1:{server.server_port}/archive"
        server.shutdown()
        thread.join()


@pytest.fixture
def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/archive"


@pytest.fixture
def served(mirror) -> Archive:
    """A table entry whose only mirror is ours."""
    handler, url = mirror
    archive, contents, _ = made("cifar10")
    handler.content = tar(archive, contents)
    return replace(archive, sha256=hashlib.sha256(handler.content).hexdigest(), mirrors=(url,))


def test_download_then_load(tmp_path, served, monkeypatch):
    monkeypatch.setitem(ARCHIVES, "cifar10", served)
    data = load_data(settings("cifar10", tmp_path / "new" / "root", val_size=100))
    assert len(data.train) == 1400
    assert (tmp_path / "new" / "root" / served.file).is_file()
    assert not list(tmp_path.glob("new/root/*.part"))


def test_the_next_mirror_is_asked(tmp_path, served, closed_port, mirror):
    path = locate(replace(served, mirrors=(closed_port, *served.mirrors)), tmp_path, download=True)
    assert path.read_bytes() == mirror[0].content


def test_an_interrupted_download_goes_on_where_it_stopped(tmp_path, served, mirror):
    handler, _ = mirror
    handler.cuts = [5000]
    with pytest.raises(
        FileNotFoundError, match=f"broke off, {len(handler.content) - 5000:,} bytes are missing"
    ):
        locate(served, tmp_path, download=True)
    assert not (tmp_path / served.file).exists()
    with pytest.raises(FileNotFoundError):
        locate(served, tmp_path, download=False)
    assert locate(served, tmp_path, download=True).read_bytes() == handler.content
    assert handler.starts == [0, 5000]


def test_a_mirror_without_ranges_starts_again(tmp_path, served, mirror):
    handler, _ = mirror
    handler.ranges = False
    (tmp_path / f"{served.file}.part").write_bytes(handler.content[:777])
    assert locate(served, tmp_path, download=True).read_bytes() == handler.content


@pytest.mark.parametrize("left", [b"x" * 100, None], ids=["wrong bytes", "too many bytes"])
def test_a_part_of_something_else_is_thrown_away(tmp_path, served, mirror, left):
    handler, _ = mirror
    (tmp_path / f"{served.file}.part").write_bytes(left or handler.content + b"x")
    twice = replace(served, mirrors=served.mirrors * 2)
    assert locate(twice, tmp_path, download=True).read_bytes() == handler.content


def test_a_wrong_file_never_counts(tmp_path, served, mirror):
    mirror[0].content = b"<html>moved</html>"
    with pytest.raises(FileNotFoundError, match="wrong checksum"):
        locate(served, tmp_path, download=True)
    assert [p.name for p in tmp_path.iterdir()] == [".lock"]


def test_without_network_one_message_names_the_ways_out(tmp_path, served, closed_port, monkeypatch):
    monkeypatch.setattr(cifar, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes the connection and never answers
        silent = f"http://127.0.0.1:{mute.getsockname()[1]}/archive"
        unknown = "http://mirror.invalid/archive"  # a name that RFC 2606 keeps out of use
        archive = replace(served, mirrors=(closed_port, silent, unknown))
        with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / archive.file))) as error:
            locate(archive, tmp_path, download=True)
    message = str(error.value)
    assert "\n" not in message
    for part in (
        "refused",
        "no answer within 0.5 s",
        "mirror.invalid",
        "data=folder data.root=",
        "data=digits",
    ):
        assert part in message


def test_a_root_that_cannot_be_written_is_named(tmp_path, served):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=f"data.root must be a folder .* got {tmp_path}/file/root"):
        locate(served, tmp_path / "file" / "root", download=True)


def test_all_waiting_for_mirrors_fits_into_twelve_seconds():
    assert all(len(archive.mirrors) * cifar.ANSWER_SECONDS <= 12 for archive in ARCHIVES.values())


def test_tables_name_the_archives_as_torchvision_does():
    from torchvision.datasets import CIFAR10, CIFAR100

    for known, archive in ((CIFAR10, ARCHIVES["cifar10"]), (CIFAR100, ARCHIVES["cifar100"])):
        assert (archive.file, archive.folder) == (known.filename, known.base_folder)
        assert list(archive.train.items()) == [tuple(pair) for pair in known.train_list]
        assert list(archive.test.items()) == [tuple(pair) for pair in known.test_list]
        assert archive.meta == {known.meta["filename"]: known.meta["md5"]}
        assert archive.mirrors[-1] == known.url
