"""What is noted of the machine, wherever some of it is missing."""

import json
import os
import subprocess
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments.config.compose import compose
from experiments.files import read_json
from experiments.runs import environment as module
from experiments.runs import story
from experiments.runs.environment import git, gpu
from experiments.runs.folder import RunFolder
from tests.pretend_cuda import pretend_cuda

GIT = """#!/bin/sh
case "$*" in
  *rev-parse*) echo 0123abcd ;;
  *) {status} ;;
esac
"""


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("printf ' M caf\\351.py\\n'", {"commit": "0123abcd", "dirty": True}),  # a name that is no UTF-8
        ("true", {"commit": "0123abcd", "dirty": False}),
        ("exit 128", {"commit": "0123abcd", "dirty": None}),  # as where its index cannot be read
    ],
)
def test_git_tells_what_it_can(
    status: str, told: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "git").write_text(GIT.format(status=status))
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert git.__wrapped__() == told


def test_without_git_or_a_checkout_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        assert git.__wrapped__() is None
    monkeypatch.setattr(module, "PROJECT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git.__wrapped__() is None


def test_a_checkout_of_another_user_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own: "dubious ownership"
    monkeypatch.setattr(module, "PROJECT", tmp_path)
    assert git.__wrapped__() is None


Card = namedtuple("Card", "name total_memory major minor")


def test_a_cpu_has_no_card():
    assert gpu(torch.device("cpu"), None) is None


@pytest.mark.parametrize(
    ("in_sys", "smi", "driver"),
    [
        ("550.54.15\n", "exit 9", "550.54.15"),
        (None, "echo 535.129.03; echo 535.129.03", "535.129.03"),  # a line a card
        (None, "exit 9", None),
    ],
)
@pytest.mark.parametrize(("earlier", "peak"), [(None, None), ({"peak_memory": 7}, 7), ({}, None)])
def test_of_a_gpu_card_driver_and_versions_are_noted(
    in_sys: str | None,
    smi: str,
    driver: str | None,
    earlier: dict | None,
    peak: int | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    card = Card("NVIDIA H100 80GB HBM3", 85_000_000_000, 9, 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setattr(module, "DRIVER", tmp_path / "version")
    if in_sys:
        (tmp_path / "version").write_text(in_sys)
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{smi}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-abc")
    assert gpu(torch.device("cuda:0"), earlier) == {
        **{"name": "NVIDIA H100 80GB HBM3", "capability": "9.0", "memory": 85_000_000_000},
        **{"peak_memory": peak, "visible": "MIG-abc", "driver": driver, "cuda": "13.0", "cudnn": 91002},
    }


@pytest.mark.parametrize(("earlier", "peak"), [(None, 5), (3, 5), (7, 7)])
def test_the_largest_peak_of_all_attempts_is_noted_however_one_ends(
    earlier: int | None, peak: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5)
    state = SimpleNamespace(numerics=SimpleNamespace(device=torch.device("cuda:0")))
    environment = {"gpu": {"name": "H100", "peak_memory": earlier}}
    job = SimpleNamespace(state=state, environment=environment, folder=RunFolder(tmp_path))
    with pytest.raises(KeyboardInterrupt), story._peak_memory_noted(job):
        raise KeyboardInterrupt
    written = read_json(tmp_path / "environment.json")
    assert written == {"gpu": {"name": "H100", "peak_memory": peak}}


def test_a_run_on_a_gpu_notes_the_card_and_says_how_much_of_it_was_used(tmp_path: Path):
    words = [
        "model.width=1",
        "trainer.epochs=2",
        "trainer.batch_size=1000",
        "trainer.checkpoint_seconds=1000",
    ]
    words += ["tracking=none", "analysis=none", "trainer.guards=off", "trainer.precision=fp32"]
    with pretend_cuda():
        story.run(compose(["experiment=quickstart", *words, "trainer.device=cuda"]), tmp_path)
    card = json.loads((tmp_path / "environment.json").read_text())["gpu"]
    assert (card["name"], card["capability"], card["peak_memory"]) == ("pretended GPU", "9.0", 0)
    assert "GB at most, of 68.7 GB (pretended GPU)" in (tmp_path / "run.log").read_text()
