import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from cifar_core import checkpoint
from tests.conftest import PROJECT


def test_round_trip(tmp_path):
    checkpoint.save(tmp_path / "last.pt", {"weights": torch.arange(5), "epoch": 3})
    loaded = checkpoint.load(tmp_path / "last.pt")
    assert loaded["epoch"] == 3
    assert loaded["weights"].tolist() == [0, 1, 2, 3, 4]
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 torn"])
def test_broken_file_is_named(tmp_path, content):
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(OSError, match=r"last\.pt is not a readable checkpoint"):
        checkpoint.load(tmp_path / "last.pt")


def test_truncated_file_is_named(tmp_path):
    checkpoint.save(tmp_path / "last.pt", {"weights": torch.zeros(1000)})
    whole = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OSError, match=r"last\.pt is not a readable checkpoint"):
        checkpoint.load(tmp_path / "last.pt")


def test_code_is_not_unpickled(tmp_path):
    class Hostile:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "hacked"),)

    torch.save({"model": Hostile()}, tmp_path / "last.pt")
    with pytest.raises(OSError, match="not a readable checkpoint"):
        checkpoint.load(tmp_path / "last.pt")
    assert not (tmp_path / "hacked").exists()


def test_another_content_is_named(tmp_path):
    torch.save([1, 2], tmp_path / "last.pt")
    with pytest.raises(OSError, match="holds a list"):
        checkpoint.load(tmp_path / "last.pt")


def test_killed_while_writing_leaves_a_whole_checkpoint(tmp_path):
    """SIGKILL at many moments of an endless rewriting: what is there always loads."""
    writer = (
        "import sys, torch, pathlib; from cifar_core import checkpoint\n"
        "for n in range(10**9): checkpoint.save(pathlib.Path(sys.argv[1]), {'n': torch.full((300_000,), n)})"
    )
    path = tmp_path / "last.pt"
    for pause in (0.0, 0.013, 0.029):
        process = subprocess.Popen([sys.executable, "-c", writer, str(path)], cwd=PROJECT)
        inode = path.stat().st_ino if path.exists() else None
        while not path.exists() or path.stat().st_ino == inode:
            time.sleep(0.001)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(checkpoint.load(path)["n"].unique()) == 1
