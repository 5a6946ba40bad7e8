"""What backends and the warm server owe the controller, without a process."""

import pickle
import signal
from pathlib import Path
from typing import get_args

import pytest
from submitit.core.utils import JobPaths

from experiments.config.settings import SweepSettings
from experiments.runs.result import Result
from experiments.sweep import trials
from experiments.sweep.backends import slurm
from experiments.sweep.backends.backend import Cause, End
from experiments.sweep.backends.local import Local, Slots
from experiments.sweep.jobs import JOBS
from experiments.sweep.server import Job, Server, _sendable
from experiments.sweep.trials import Trial

FILES = {"config_name": "config", "config_dir": None}


def test_every_job_that_may_be_asked_for_can_be_done():
    assert set(JOBS) == set(get_args(Job))


@pytest.mark.parametrize(
    ("cause", "error", "end"),
    [
        ("memory", "use a smaller one", End.MEMORY),
        ("failed", "this network ran out of memory cells", End.FAILED),
        ("timeout", "sweep.timeout: longer than 3 s", End.TIMEOUT),
        ("of a later version", "some reason", End.FAILED),
        # An earlier version recorded words alone.
        ("", "out of memory: use a smaller trainer.batch_size", End.MEMORY),
        ("", "CUDA out of memory. Tried to allocate 2.00 GiB.", End.MEMORY),
        ("", "CUDA error: out of memory", End.MEMORY),
        ("", "the loss is not finite", End.FAILED),
        ("", "worker killed by signal 9", End.FAILED),
    ],
)
def test_a_run_that_lacked_memory_says_so_itself(cause: str, error: str, end: End):
    assert Cause.told(Result(status="failed", error=error, cause=cause)) == Cause(end, error)


def test_a_job_that_lacked_memory_is_no_defect():
    lacking = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    sent = _sendable("test_trial", lacking)
    assert (type(sent), str(sent)) == (MemoryError, str(lacking))


@pytest.mark.parametrize(
    ("state", "returned", "cause"),
    [
        ("COMPLETED", 7, Cause(End.FAILED, "job 12 COMPLETED")),
        ("COMPLETED", -9, Cause(End.KILLED, "job 12 COMPLETED: killed by SIGKILL")),
        ("FAILED", None, Cause(End.FAILED, "job 12 FAILED")),
        ("CANCELLED", None, Cause(End.KILLED, "killed by Slurm, job 12 CANCELLED")),
        ("OUT_OF_MEMORY", None, Cause(End.MEMORY, "out of memory")),
        ("", None, Cause(End.FAILED, "job 12 is no longer known")),
    ],
)
def test_slurms_state_and_the_trials_exit_code_say_how_a_job_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, returned: int | None, cause: Cause
):
    monkeypatch.setattr(slurm, "SlurmExecutor", lambda **_: None)
    backend = slurm.Slurm(SweepSettings(), FILES, tmp_path)
    monkeypatch.setattr(slurm, "_ask", lambda *_: f"JobId=12 JobName=x JobState={state}" if state else "")
    trial = Trial(0, {}, {}, "x", tmp_path, job="12")
    assert backend.ended(trial)
    if returned is not None:
        JobPaths(tmp_path, job_id="12").result_pickle.write_bytes(pickle.dumps(("success", returned)))
    assert backend.cause(trial) == cause


class Clocks:
    """A machine's two clocks; one of them stands still while it sleeps."""

    def __init__(self) -> None:
        self.wall, self.awake = 1.7e9, 500.0

    def time(self) -> float:
        return self.wall

    def monotonic(self) -> float:
        return self.awake

    def sleep(self, seconds: float, *, lid_closed: bool) -> None:
        self.wall += seconds
        self.awake += 0 if lid_closed else seconds


@pytest.mark.parametrize("adopted", [False, True])
@pytest.mark.parametrize("old", [False, True])
def test_the_time_that_the_machine_sleeps_is_not_the_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adopted: bool, old: bool
):
    clocks, killed = Clocks(), []
    monkeypatch.setattr(trials, "time", clocks)
    monkeypatch.setattr(Trial, "runs", lambda trial: True)
    monkeypatch.setattr(Trial, "signal", lambda trial, signum: killed.append(signum))
    trial = Trial(0, {}, {}, "x", tmp_path)
    trial.begin()
    clocks.sleep(5, lid_closed=False)
    if old:
        trial.clock = 0.0  # an earlier version wrote none
        trial.write()
    if adopted:
        trial = Trial.read(tmp_path / "trial.json")
    backend = Local(Server(tracked=False), Slots(1, (), 1), FILES, timeout=10)
    assert backend.adopt(trial)
    assert not backend.ended(trial)
    clocks.sleep(8 * 3600, lid_closed=True)
    assert not backend.ended(trial)
    assert killed == []
    clocks.sleep(6, lid_closed=False)
    assert not backend.ended(trial)
    assert killed == [signal.SIGKILL]
