import argparse
import datetime
import os
import re
import signal
import subprocess
import sys
import time
import types

import numpy as np
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


@pytest.mark.slow
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


def wrapped(prefix):
    return lambda state: {f"{prefix}{name}": value for name, value in state.items()}


LIGHTNING = {"loss.weight": torch.ones(3), "train_acc.total": torch.tensor(0)}
FOREIGN = {
    "a state dict": lambda state: state,
    "kuangliu": lambda state: {"net": wrapped("module.")(state), "acc": 95.1, "epoch": 3},
    "an accuracy of NumPy": lambda state: {"net": state, "acc": np.float64(95.1), "n": np.int64(3)},
    "PyTorch's ImageNet example": lambda state: {
        "epoch": 3,
        "arch": "x",
        "state_dict": wrapped("module.")(state),
        "best_acc1": torch.tensor(0.9),
    },
    "PyTorch's tutorial": lambda state: {"epoch": 3, "model_state_dict": state, "loss": 0.1},
    "torch.compile": wrapped("_orig_mod."),
    "torch.compile around DDP": wrapped("_orig_mod.module."),
    "a compiled part": lambda state: {name.replace(".", "._orig_mod.", 1): v for name, v in state.items()},
    "Lightning": lambda state: {"state_dict": wrapped("model.")(state) | LIGHTNING, "global_step": 9},
    "Lightning, compiled": lambda state: {"state_dict": wrapped("net._orig_mod.")(state)},
    "a backbone": wrapped("backbone."),
    "timm": lambda state: {"state_dict": wrapped("nonsense.")(state), "state_dict_ema": state},
    "an average beside": lambda state: {"model": {"x": torch.ones(1)}, "ema": state},
    "nested": lambda state: {"state": {"model": {"state_dict": wrapped("module.")(state)}}},
    "a profiler's counts": lambda state: (
        state | {"total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)}
    ),
    "before num_batches_tracked": lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
    "half": lambda state: {name: value.half() for name, value in state.items()},
    "bfloat16": lambda state: {name: value.bfloat16() for name, value in state.items()},
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_the_checkpoints_of_other_training_scripts_are_read(trained, tmp_path, kind):
    torch.save(FOREIGN[kind](trained.state_dict()), tmp_path / "other.ckpt")
    model = net(3)
    assert (
        checkpoint.start_from(model, checkpoint.model_weights(tmp_path / "other.ckpt"), new_head=True) == ""
    )
    tolerance = 1e-2 if kind in ("half", "bfloat16") else 0
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, trained.get_parameter(name), atol=tolerance, rtol=tolerance)
        assert parameter.dtype == torch.float32


def test_safetensors_are_read(trained, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    safetensors.save_file(wrapped("model.")(trained.state_dict()), tmp_path / "model.safetensors")
    model = net(5)
    weights = checkpoint.model_weights(tmp_path / "model.safetensors")
    assert checkpoint.start_from(model, weights, new_head=True) == "3"
    assert torch.equal(model[0].weight, trained[0].weight)
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    with pytest.raises(OSError, match=r"torn\.safetensors is not a readable checkpoint"):
        checkpoint.model_weights(tmp_path / "torn.safetensors")


def test_the_model_may_have_a_name_that_looks_like_a_wrapper(tmp_path):
    model = nn.Sequential()
    model.add_module("model", net(3))
    torch.save({"state_dict": model.state_dict()}, tmp_path / "own.pt")
    again = nn.Sequential()
    again.add_module("model", net(3))
    checkpoint.start_from(again, checkpoint.model_weights(tmp_path / "own.pt"), new_head=False)
    assert torch.equal(again.state_dict()["model.3.bias"], model.state_dict()["model.3.bias"])


def test_numbers_of_numpy_become_those_of_python(tmp_path):
    numbers = [np.float64(0.25), np.float32(-2), np.int64(-7), np.uint8(200), np.bool_(True), np.float16(1.5)]
    big = np.array([1.5], dtype=">f8")[0]
    torch.save({"numbers": [*numbers, big]}, tmp_path / "numbers.pt")
    read = checkpoint.load(tmp_path / "numbers.pt")["numbers"]
    assert read == [0.25, -2.0, -7, 200, True, 1.5, 1.5]
    assert {type(number) for number in read} == {float, int, bool}


def test_arrays_of_objects_and_other_kinds_are_not_rebuilt(tmp_path):
    for number, value in enumerate((np.array([{}], dtype=object), np.datetime64("2020-01-01"), np.str_("x"))):
        torch.save({"value": value}, tmp_path / f"{number}.pt")
        with pytest.raises(OSError, match="is not a readable checkpoint"):
            checkpoint.load(tmp_path / f"{number}.pt")


@pytest.mark.parametrize("content", [lambda: net(3), lambda: {"model": net(3)}])
def test_a_pickled_network_is_refused_with_what_to_do(tmp_path, content):
    torch.save(content(), tmp_path / "whole.pt")
    with pytest.raises(OSError, match=r"it holds torch\.nn\.\S+, code .*state_dict\(\), path\)$") as told:
        checkpoint.model_weights(tmp_path / "whole.pt")
    assert not re.search(r"[\n\x1b]", str(told.value))


def test_names_that_do_not_fit_are_told_on_both_sides(trained):
    weights = {name.replace("0.", "stem.conv."): value for name, value in trained.state_dict().items()}
    with pytest.raises(ValueError, match="the file has 2 that the model lacks: stem.conv.weight, ") as told:
        checkpoint.start_from(net(3), weights, new_head=True)
    assert "the model has 2 that the file lacks: 0.weight, 0.bias" in str(told.value)
    assert "\n" not in str(told.value)


def test_what_a_file_without_weights_holds_is_told(tmp_path):
    torch.save({"epoch": 3, "optimizer": {"state": {}}}, tmp_path / "other.pt")
    with pytest.raises(OSError, match=r"it has epoch \(int\), optimizer \(dict\)$"):
        checkpoint.model_weights(tmp_path / "other.pt")


def test_what_training_scripts_keep_beside_the_weights_is_passed_over(tmp_path):
    weights = nn.Linear(2, 3).state_dict()
    beside = {
        "args": argparse.Namespace(lr=0.1, out=tmp_path),
        "when": datetime.datetime(2026, 1, 1),
        "log": types.SimpleNamespace(best=np.float64(0.5)),
    }
    torch.save({"model": weights} | beside, tmp_path / "theirs.pt")
    read = checkpoint.model_weights(tmp_path / "theirs.pt")
    assert all(torch.equal(read[name], value) for name, value in weights.items())


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:a\n",
            "a pointer of Git LFS.*: git lfs pull",
        ),
        ("\n<!DOCTYPE html><p>404", "a web page"),
        ("", "empty"),
    ],
)
def test_what_stands_in_place_of_the_weights_is_told(tmp_path, text, what):
    (tmp_path / "a.pt").write_text(text)
    with pytest.raises(OSError, match=rf"a\.pt is not a readable checkpoint: it is {what}"):
        checkpoint.load(tmp_path / "a.pt")
