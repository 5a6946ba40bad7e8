import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from cifar_core.train import checkpoint
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
        "import sys, torch, pathlib; from cifar_core.train import checkpoint\n"
        "for n in range(10**9): checkpoint.save(pathlib.Path(sys.argv[1]), {'n': torch.full((300_000,), n)})"
    )
    path = tmp_path / "last.pt"
    for pause in (0.0, 0.013, 0.029):
        process = subprocess.Popen([sys.executable, "-c", writer, str(path)], cwd=PROJECT)
        inode = path.stat().st_ino if path.exists() else None
        while not path.exists() or path.stat().st_ino == inode:
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(pause)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(checkpoint.load(path)["n"].unique()) == 1


def net(classes, width=4):
    return nn.Sequential(
        nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width * 4, classes)
    )


@pytest.fixture
def trained():
    torch.manual_seed(7)
    return net(3)


def test_weights_are_found_in_every_kind_of_file(trained, tmp_path):
    ema = AveragedModel(net(3))
    state = {"model": trained.state_dict(), "epoch": 1}
    checkpoint.save(tmp_path / "best.pt", state)
    checkpoint.save(tmp_path / "last.pt", {"state": state, "history": []})
    checkpoint.save(tmp_path / "averaged.pt", {"state": state | {"ema": ema.state_dict()}})
    checkpoint.save(tmp_path / "plain.pt", trained.state_dict())
    for name in ("best.pt", "last.pt", "plain.pt", "."):
        weights = checkpoint.model_weights(tmp_path / name)
        assert weights.keys() == trained.state_dict().keys()
        assert all(torch.equal(weights[key], value) for key, value in trained.state_dict().items())
    averaged = checkpoint.model_weights(tmp_path / "averaged.pt")
    assert torch.equal(averaged["3.weight"], ema.module[3].weight)
    (tmp_path / "best.pt").unlink()
    assert torch.equal(checkpoint.model_weights(tmp_path)["3.weight"], trained[3].weight)  # of last.pt


def test_files_without_weights_are_named(tmp_path):
    checkpoint.save(tmp_path / "notes.pt", {"epoch": 3})
    with pytest.raises(OSError, match=r"notes\.pt holds no weights"):
        checkpoint.model_weights(tmp_path / "notes.pt")
    for number, strange in enumerate(({"state": {0: {}}}, {"state": torch.ones(3)}, {3: torch.ones(3)})):
        checkpoint.save(tmp_path / f"{number}.pt", strange)
        with pytest.raises(OSError, match=rf"{number}\.pt holds no weights"):
            checkpoint.model_weights(tmp_path / f"{number}.pt")
    with pytest.raises(FileNotFoundError, match=r"absent\.pt is not there"):
        checkpoint.model_weights(tmp_path / "absent.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty holds no best\.pt and no last\.pt"):
        checkpoint.model_weights(tmp_path / "empty")


def test_start_from_copies_all_weights(trained):
    model = net(3)
    assert checkpoint.start_from(model, trained.state_dict(), new_head=True) == ""
    for name, value in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_start_from_leaves_the_head_for_other_classes(trained):
    model = net(5)
    head = model[3].weight.clone()
    assert checkpoint.start_from(model, trained.state_dict(), new_head=True) == "3"
    assert torch.equal(model[0].weight, trained[0].weight)
    assert torch.equal(model[1].running_var, trained[1].running_var)
    assert torch.equal(model[3].weight, head)
    with pytest.raises(ValueError, match="2 tensors do not fit, the first: 3.weight"):
        checkpoint.start_from(model, trained.state_dict(), new_head=False)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (net(3, width=8), r"\d tensors do not fit, the first: 0\.weight is \(4, 3, 3, 3\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), "tensors do not fit"),
    ],
)
def test_start_from_refuses_another_model(trained, model, message):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        checkpoint.start_from(model, trained.state_dict(), new_head=True)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
