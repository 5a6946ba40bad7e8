"""Which GPUs a sweep shares out: as CUDA_VISIBLE_DEVICES and `nvidia-smi -L` name them."""

import os
from pathlib import Path

import pytest
import torch

from experiments.config.settings import SweepSettings
from experiments.sweep.backends.local import share_out
from experiments.sweep.gpus import MPS, listed, meant, names
from experiments.sweep.jobs import gpu_names

# As in NVIDIA's MIG User Guide, "Running CUDA Applications on Bare-Metal", and before driver R470.
TWO = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-e86cb44c-6756-fd30-cd4a-1e6da3caf9b0)
"""
SPLIT = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 3g.20gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 1c.3g.20gb  Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-e86cb44c-6756-fd30-cd4a-1e6da3caf9b0)
"""
OLD = """GPU 0: A100-SXM4-40GB (UUID: GPU-e86cb44c-6756-fd30-cd4a-1e6da3caf9b0)
  MIG 3g.20gb Device 0: (UUID: MIG-GPU-e86cb44c-6756-fd30-cd4a-1e6da3caf9b0/1/0)
  MIG 3g.20gb Device 1: (UUID: MIG-GPU-e86cb44c-6756-fd30-cd4a-1e6da3caf9b0/2/0)
"""
WHOLE = "GPU-e86cb44c-6756-fd30-cd4a-1e6da3caf9b0"
PARTS = ["MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", "MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb"]


@pytest.mark.parametrize(
    ("count", "visible", "listing", "expected"),
    [
        (0, None, "", []),
        (0, "", TWO, []),
        (0, "-1", TWO, []),
        (2, None, TWO, ["0", "1"]),
        (2, None, "", ["0", "1"]),  # without nvidia-smi
        (1, "1", TWO, ["1"]),
        (2, "1, 0", TWO, ["1", "0"]),
        (1, "1,-1,0", TWO, ["1"]),  # CUDA, and so torch's count, stops at the first that is not there
        (2, "GPU-e86cb44c,GPU-5d5ba0d6", TWO, ["GPU-e86cb44c", "GPU-5d5ba0d6"]),  # abbreviated
        (1, ",".join(PARTS), SPLIT, PARTS),  # torch sees the first one alone
        (1, PARTS[1], SPLIT, PARTS[1:]),
        (1, f"{PARTS[0][:12]},MIG-absent", SPLIT, [PARTS[0][:12]]),
        (1, ",".join(PARTS), "", PARTS),
        (2, None, SPLIT, [*PARTS, WHOLE]),
        (2, "1,0", SPLIT, [WHOLE, *PARTS]),
        (1, "0", SPLIT, PARTS),
        (1, "GPU-5d5b", SPLIT, PARTS),
        (1, "GPU-e86c,7", SPLIT, [WHOLE]),
        (1, None, OLD, [f"MIG-{WHOLE}/1/0", f"MIG-{WHOLE}/2/0"]),
        (1, f"MIG-{WHOLE}/2/0", OLD, [f"MIG-{WHOLE}/2/0"]),
    ],
)
def test_every_gpu_and_every_instance_of_a_split_one_has_a_name(
    count: int, visible: str | None, listing: str, expected: list[str]
):
    assert names(count, visible, listing) == expected


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("auto", ["5", "7"]),
        ("cuda", ["5", "7"]),
        ("cuda:0", ["5"]),
        ("cuda:1", ["7"]),
        ("cuda:2", []),
        ("cpu", []),
        ("mps", []),  # not a device of this machine, which the check of the points tells
    ],
)
def test_the_device_says_which_of_them_are_meant(device: str, expected: list[str]):
    assert meant(device, ["5", "7"]) == expected


@pytest.mark.parametrize(("device", "slots"), [("auto", 1), ("mps", 1), ("cpu", 8), ("cuda", 8)])
def test_a_mac_has_one_gpu_which_trials_have_to_themselves(
    device: str, slots: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    gpus = meant(device, gpu_names())
    shared = share_out(SweepSettings(threads=1), gpus=gpus, cores=8, most=20)
    assert (shared.count, shared.threads) == (slots, 8 // slots)
    assert share_out(SweepSettings(slots_per_gpu=2), gpus=[MPS], cores=8, most=20).count == 2


@pytest.mark.parametrize(("script", "said"), [(f"cat <<'END'\n{TWO}END", TWO), ("echo broken; exit 9", "")])
def test_nvidia_smi_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str):
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert listed() == said


def test_without_nvidia_smi_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert listed() == ""
