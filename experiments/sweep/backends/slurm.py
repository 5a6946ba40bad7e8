"""Runs trials as Slurm jobs through submitit; what became of one is read from scontrol, never from sacct."""

import dataclasses
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor
from submitit.core.utils import JobPaths, pickle_load
from submitit.helpers import DelayedSubmission

from experiments.config.settings import SweepSettings
from experiments.runs.result import Result
from experiments.sweep.backends.backend import Cause, End, overtime
from experiments.sweep.server import work
from experiments.sweep.space import Files
from experiments.sweep.trials import Look, Trial

POLL_SECONDS = 2.0  # between two questions to Slurm
QUEUED = 32  # jobs in the queue at a time where sweep.slots=auto
ALIVE = (
    *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING"),
    *("REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESIZING", "STAGE_OUT", "SPECIAL_EXIT"),
)

KILLED = ("CANCELLED", "NODE_FAIL", "PREEMPTED", "TIMEOUT")  # by Slurm or through it


class Job:
    """What Slurm runs: one trial, in a process of its own that can end without the job."""

    def __init__(self, timeout: float, used: float, *arguments: Any) -> None:
        """Keep the arguments of `run_trial`, the seconds it may take (0 = any) and those it had before."""
        self._timeout = timeout
        self._used = used
        self._began = time.monotonic()
        self._arguments = arguments
        self._process: BaseProcess | None = None

    def __call__(self) -> int | None:
        """Run the trial, from its last checkpoint where there is one, and return its exit code."""
        arguments = ("run_trial", *self._arguments)
        self._process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
        self._began = time.monotonic()
        self._process.start()
        self._process.join(max(0.0, self._timeout - self._used) if self._timeout else None)
        if self._process.is_alive():
            self._end(self._process)
            return None
        code = self._process.exitcode
        if code and code < 0:
            with (self._folder / "trial.log").open("a", encoding="utf-8") as log:
                log.write(f"{_killed_by(-code)}\n")
        return code

    def checkpoint(self) -> DelayedSubmission:
        """Let the trial save its last epoch before a time limit or preemption; submitit requeues the job."""
        if self._process is not None:
            self._process.terminate()
            self._process.join()
        used = self._used + time.monotonic() - self._began
        return DelayedSubmission(Job(self._timeout, used, *self._arguments))

    @property
    def _folder(self) -> Path:
        return self._arguments[2]

    def _end(self, process: BaseProcess) -> None:
        """End a trial past its time here, where it is also done while no controller looks."""
        try:
            os.killpg(process.pid or 0, signal.SIGKILL)
        except ProcessLookupError:  # it has not come to lead its group yet
            process.kill()
        process.join()
        look = Look.at(self._folder)
        if not look.done:  # else it ended just now
            left = look.result or Result(epochs=len(look.history))
            over, why = End.TIMEOUT.value, overtime(self._timeout)
            dataclasses.replace(left, status="failed", cause=over, error=why).write(self._folder)


class Slurm:
    """Submits, watches and cancels trials; those that another controller submitted are adopted."""

    def __init__(self, settings: SweepSettings, files: Files, folder: Path) -> None:
        """Submit with `sweep.slurm`; submitit keeps its own files in ``folder``.

        Raises FileNotFoundError where there is no Slurm.
        """
        try:
            self._executor = SlurmExecutor(folder=folder, max_num_timeout=1000)
        except RuntimeError as error:
            raise FileNotFoundError("sweep.backend=slurm needs Slurm: srun is not on the path") from error
        self._settings = settings
        self._files = files
        self._folder = folder
        self.slots = QUEUED if settings.slots == "auto" else int(settings.slots)
        self._running: dict[int, Trial] = {}
        self._let_go: set[int] = set()
        self._states: dict[str, str] = {}
        self._asked = 0.0

    @property
    def has_room(self) -> bool:
        """Whether another job may be submitted."""
        return len(self._running) < self.slots

    def start(self, trial: Trial, overrides: Sequence[str]) -> None:
        """Submit a trial."""
        self._executor.update_parameters(**self._parameters(trial))
        arguments = (list(overrides), self._files, trial.folder, trial.label, None, self._settings.slurm.cpus)
        trial.job = self._executor.submit(Job(self._settings.timeout, 0.0, *arguments)).job_id
        trial.write()
        self._running[trial.number] = trial
        self._states[trial.job] = "PENDING"

    def _parameters(self, trial: Trial) -> dict[str, Any]:
        slurm = self._settings.slurm
        given = {
            "partition": slurm.partition,
            "account": slurm.account,
            "qos": slurm.qos,
            "gpus_per_node": slurm.gpus,
            "cpus_per_task": slurm.cpus,
            "mem": f"{slurm.mem_gb:g}GB" if slurm.mem_gb else "",
        }
        chosen = {key: value for key, value in given.items() if value}
        requeue = {"additional_parameters": {"requeue": True}}  # after a node failure, too
        return chosen | requeue | {"time": slurm.minutes, "job_name": trial.folder.name}

    def adopt(self, trial: Trial) -> bool:
        """Take charge of a job that is queued or runs; False where there is none."""
        if trial.job and self._state(trial.job, anew=True).startswith(ALIVE):
            self._running[trial.number] = trial
        return trial.number in self._running

    def ended(self, trial: Trial) -> bool:
        """Tell whether a trial's job is over, or was let go."""
        over = trial.number in self._let_go or not self._state(trial.job).startswith(ALIVE)
        if over:
            self._running.pop(trial.number, None)
        return over

    def cause(self, trial: Trial) -> Cause:
        """Say how Slurm saw the job end, and how the job its trial's process."""
        state = self._states.get(trial.job, "")
        if state == "OUT_OF_MEMORY":
            return Cause(End.MEMORY, "out of memory")
        words = f"job {trial.job} {state or 'is no longer known'}"
        if state in KILLED:
            return Cause(End.KILLED, f"killed by Slurm, {words}")
        code = self._returned(trial.job) or 0
        return Cause(End.KILLED, f"{words}: {_killed_by(-code)}") if code < 0 else Cause(End.FAILED, words)

    def _returned(self, job: str) -> int | None:
        """Return the exit code that a `Job` has left with submitit; None where it left none."""
        try:
            outcome, code = pickle_load(JobPaths(self._folder, job_id=job).result_pickle)
        except (OSError, EOFError, pickle.UnpicklingError):
            return None
        return code if outcome == "success" else None

    def interrupt(self, trial: Trial) -> None:
        """Cancel a job, which saves its last epoch, or let it go on, as `sweep.slurm.on_interrupt` says."""
        if self._settings.slurm.on_interrupt == "leave":
            self._let_go.add(trial.number)
        else:
            _ask("scancel", trial.job)

    def kill(self, trial: Trial) -> None:
        """Cancel a job at once."""
        _ask("scancel", "--full", "--signal=KILL", trial.job)
        _ask("scancel", trial.job)

    def wait(self) -> None:
        """Wait for a moment."""
        time.sleep(POLL_SECONDS / 4)

    def _state(self, job: str, *, anew: bool = False) -> str:
        """Return a job's state as of the last moment; empty for one that Slurm has forgotten."""
        if anew or time.monotonic() - self._asked > POLL_SECONDS:
            listing = _ask("scontrol", "--oneliner", "show", "jobs")
            if listing is not None:  # a daemon that is away for a moment tells nothing about jobs
                pairs = re.findall(r"^JobId=(\d+) .*? JobState=(\S+)", listing, re.MULTILINE)
                self._states = dict(pairs)
            self._asked = time.monotonic()
        return self._states.get(job, "")


def _killed_by(signum: int) -> str:
    return f"killed by {signal.Signals(signum).name}"


def _ask(*command: str) -> str | None:
    """Run one of Slurm's commands; None where it fails."""
    try:
        done = subprocess.run(command, check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")
