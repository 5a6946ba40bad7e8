"""Under torchrun with several processes nothing starts, for each would do all of the work."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import run
from tests.conftest import PROJECT

TOLD = (
    "error: torchrun must start one process, got WORLD_SIZE=2: a run uses one GPU; without torchrun, "
    "a sweep (-m) uses all of them, one a trial"
)
OF_TORCHRUN = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1"}


def surrounded(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in OF_TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("words", [["aug=none"], ["-m", "seed=0,1"], ["resume=old"]])
def test_a_run_and_a_sweep_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
):
    surrounded(monkeypatch, OF_TORCHRUN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["experiments.run", *words])
    with pytest.raises(SystemExit) as end:
        run.main()
    assert (end.value.code, capsys.readouterr().err) == (2, f"{TOLD}\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "variables",
    [
        {},
        OF_TORCHRUN | {"WORLD_SIZE": "1"},
        {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "OMPI_COMM_WORLD_SIZE": "2"},
        {"WORLD_SIZE": "2"},
        {"WORLD_SIZE": "all", "RANK": "0", "MASTER_ADDR": "127.0.0.1"},
    ],
)
def test_one_process_is_not_nor_what_a_batch_system_sets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variables: dict[str, str]
):
    surrounded(monkeypatch, variables)
    monkeypatch.setattr(sys, "argv", ["experiments.run", "--multi", "seed=0,1"])  # the next mistake
    with pytest.raises(SystemExit):
        run.main()
    assert capsys.readouterr().err.startswith("error: --multi is not a flag")


@pytest.mark.slow  # two processes, and torchrun's own
def test_torchrun_itself(tmp_path: Path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "experiments.run"]
    env = {"PYTHONPATH": str(PROJECT)} | os.environ
    done = subprocess.run([*command, "aug=none"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert TOLD in done.stderr.splitlines()
    assert not list(tmp_path.iterdir())
