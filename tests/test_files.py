from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cifar_core.files import lock, whole


def test_a_file_is_there_when_the_block_ends_and_not_before(tmp_path: Path):
    path = tmp_path / "file"
    with whole(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fails() -> None:
        with whole(path, previous=tmp_path / "previous") as file:
            file.write(b"half")
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        fails()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_the_file_before_is_kept_on_request(tmp_path: Path):
    path, previous = tmp_path / "file", tmp_path / "previous"
    for content in (b"1", b"2", b"3"):
        with whole(path, previous=previous) as file:
            file.write(content)
    assert (path.read_bytes(), previous.read_bytes()) == (b"3", b"2")


def test_one_holder_at_a_time(tmp_path: Path):
    with (tmp_path / "lock").open("a") as mine, (tmp_path / "lock").open("a") as other:
        assert lock(mine)
        assert not lock(other)
        mine.close()
        assert lock(other)


def test_who_waits_gets_the_lock_when_the_holder_is_gone(tmp_path: Path):
    with (tmp_path / "lock").open("a") as mine, (tmp_path / "lock").open("a") as other:
        assert lock(mine)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(lock, other, wait=True)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.1)
            mine.close()
            assert waiting.result(timeout=60)
