import os
from collections.abc import Iterator

import pytest
import torch

from cifar_core.train.numerics import indeterminate, numerics, set_up
from cifar_core.train.settings import TrainerSettings


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo what `set_up` does to the process."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is restored
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    benchmark, precision = torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark
    torch.set_float32_matmul_precision(precision)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Have torch see two GPUs; the list holds those that were made the current one."""
    chosen: list[torch.device] = []
    answers = {"is_available": True, "device_count": 2, "get_device_capability": (8, 0)}
    for name, answer in (answers | {"get_device_name": "A100"}).items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


def switches() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark


def test_a_cpu_is_told_in_its_old_line_and_nothing_is_switched_on():
    line = str(set_up(TrainerSettings(device="cpu", precision="fp32", channels_last=False)))
    assert line == f"cpu (CPU, {torch.get_num_threads()} threads), fp32, channels_first"
    told = str(set_up(TrainerSettings(device="cpu", precision="fp32", deterministic=True)))
    assert told.endswith("channels_last, deterministic, as always on a CPU")
    assert switches() == (False, False)
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_a_gpu_gets_its_defaults_and_one_line_says_them(gpus: list[torch.device]):
    told = str(set_up(TrainerSettings(device="cuda:1")))
    assert told == "cuda:1 (A100), bf16, channels_last, TF32, cudnn.benchmark, fused or foreach optimizer"
    assert switches() == (False, True)
    assert gpus == [torch.device("cuda:1")]
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.backends.cudnn.allow_tf32  # of convolutions: torch's default


def test_tf32_is_told_only_where_the_gpu_has_it(gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    told = str(set_up(TrainerSettings()))
    assert told == "cuda (A100), fp16, channels_last, cudnn.benchmark, fused or foreach optimizer"
    assert gpus == []  # torch's own choice


def test_a_deterministic_run_and_the_ordinary_one_after_it(gpus: list[torch.device]):
    told = str(set_up(TrainerSettings(deterministic=True)))
    assert told == "cuda (A100), bf16, channels_last, TF32, deterministic, fused or foreach optimizer"
    assert switches() == (True, False)
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    set_up(TrainerSettings())
    assert switches() == (False, True)
    set_up(TrainerSettings(deterministic=True))
    set_up(TrainerSettings(device="cpu"))
    assert switches() == (False, False)


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have torch see the GPU of a Mac."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "get_name", lambda: "Apple M2")


@pytest.mark.usefixtures("mac")
@pytest.mark.parametrize("name", ["auto", "mps"])
def test_the_gpu_of_a_mac_is_found_and_gets_what_it_does_without_fail(name: str):
    chosen = set_up(TrainerSettings(device=name))
    assert str(chosen) == "mps (Apple M2), fp32, channels_first"
    assert switches() == (False, False)
    assert numerics(TrainerSettings(device=name, precision="bf16")).dtype == torch.bfloat16
    assert numerics(TrainerSettings(device="cpu")).device.type == "cpu"


@pytest.mark.usefixtures("mac")
def test_a_deterministic_run_is_refused_on_mps():
    with pytest.raises(ValueError, match="trainer.deterministic must be false on mps, .* trainer.device=cpu"):
        numerics(TrainerSettings(deterministic=True))


def test_cuda_goes_before_mps(gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert numerics(TrainerSettings()).device.type == "cuda"


def test_without_a_mac_mps_is_refused():
    if torch.backends.mps.is_available():
        pytest.skip("this is a Mac")
    with pytest.raises(ValueError, match="must be a device of this machine, got 'mps'; torch .* sees no GPU"):
        numerics(TrainerSettings(device="mps"))


def test_the_users_own_workspace_stays(gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    set_up(TrainerSettings(deterministic=True))
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_an_operation_without_a_deterministic_form_is_named():
    torch.use_deterministic_algorithms(True)
    with pytest.raises(RuntimeError) as raised:
        torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
    assert indeterminate(raised.value) == "put_"
    assert indeterminate(RuntimeError("CUDA error: out of memory")) == ""


def test_a_device_that_is_not_there_is_refused():
    count = torch.cuda.device_count()
    with pytest.raises(ValueError, match=f"must be a device of this machine, got 'cuda:{count}'"):
        numerics(TrainerSettings(device=f"cuda:{count}"))


@pytest.mark.parametrize("number", [128, 256, 10**20])  # torch reads the first two as -128 and 0
def test_a_number_that_no_device_has_is_refused_however_large(number):
    with pytest.raises(ValueError, match=f"must be a device of this machine, got 'cuda:{number}'"):
        numerics(TrainerSettings(device=f"cuda:{number}"))


@pytest.mark.parametrize("name", ["mps:0", "cuda:01", "cuda:²", "cuda:-1", "cuda:", "cpu:0", "GPU-5d5ba0d6"])
def test_what_torch_does_not_read_as_a_device_is_refused(name):
    with pytest.raises(ValueError, match="trainer.device must be auto, cpu, mps, cuda or cuda:N, got"):
        TrainerSettings(device=name)
