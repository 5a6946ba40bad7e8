"""Runs trials as Slurm jobs through submitit; what became of one is read from scontrol, never from sacct."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor
from submitit.helpers import DelayedSubmission

from experiments.config.settings import SweepSettings
from experiments.files import write_text
from experiments.runs.folder import DONE, RunFolder
from experiments.sweep.jobs import overtime, run_trial
from experiments.sweep.trials import Trial

POLL_SECONDS = 2.0  # between two questions to Slurm
QUEUED = 32  # jobs in the queue at a time where sweep.slots=auto
ALIVE = (
    *("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING"),
    *("REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESIZING", "STAGE_OUT", "SPECIAL_EXIT"),
)


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
        self._process = multiprocessing.get_context("spawn").Process(target=run_trial, args=self._arguments)
        self._began = time.monotonic()
        self._process.start()
        self._process.join(max(0.0, self._timeout - self._used) if self._timeout else None)
        if self._process.is_alive():
            self._end(self._process)
            return None
        code = self._process.exitcode
        if code and code < 0:
            with (self._arguments[2] / "trial.log").open("a") as log:
                log.write(f"killed by {signal.Signals(-code).name}\n")
        return code

    def checkpoint(self) -> DelayedSubmission:
        """Let the trial save its last epoch before a time limit or preemption; submitit requeues the job."""
        if self._process is not None:
            self._process.terminate()
            self._process.join()
        used = self._used + time.monotonic() - self._began
        return DelayedSubmission(Job(self._timeout, used, *self._arguments))

    def _end(self, process: BaseProcess) -> None:
        """End a trial past its time here, where it is also done while no controller looks."""
        try:
            os.killpg(process.pid or 0, signal.SIGKILL)
        except ProcessLookupError:  # it has not come to lead its group yet
            process.kill()
        process.join()
        folder = self._arguments[2]
        if (RunFolder(folder).result() or {}).get("status") not in DONE:  # else it ended just now
            record = {"status": "failed", "error": overtime(self._timeout)}
            write_text(folder / "result.json", json.dumps(record))


class Slurm:
    """Submits, watches and cancels trials; those that another controller submitted are adopted."""

    def __init__(self, settings: SweepSettings, files: dict[str, str | None], folder: Path) -> None:
        """Submit with `sweep.slurm`; submitit keeps its own files in ``folder``.

        Raises FileNotFoundError where there is no Slurm.
        """
        try:
            self._executor = SlurmExecutor(folder=folder, max_num_timeout=1000)
        except RuntimeError as error:
            raise FileNotFoundError("sweep.backend=slurm needs Slurm: srun is not on the path") from error
        self._settings = settings
        self._files = files
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

    def cause(self, trial: Trial) -> str:
        """Say how Slurm saw the job end."""
        state = self._states.get(trial.job, "")
        if state == "OUT_OF_MEMORY":
            return "out of memory"
        killed = "killed by Slurm, " if state in ("CANCELLED", "NODE_FAIL", "PREEMPTED", "TIMEOUT") else ""
        return f"{killed}job {trial.job} {state or 'is no longer known'}"

    def interrupt(self, trial: Trial) -> None:
        """Cancel a job, which saves its last epoch, or let it go on, as `sweep.slurm.on_interrupt` says."""
        if self._settings.slurm.on_interrupt == "leave":
            self._let_go.add(trial.number)
        else:
            _say("scancel", trial.job)

    def kill(self, trial: Trial) -> None:
        """Cancel a job at once."""
        _say("scancel", "--full", "--signal=KILL", trial.job)
        _say("scancel", trial.job)

    def wait(self) -> None:
        """Wait for a moment."""
        time.sleep(POLL_SECONDS / 4)

    def _state(self, job: str, *, anew: bool = False) -> str:
        """Return a job's state as of the last moment; empty for one that Slurm has forgotten."""
        if anew or time.monotonic() - self._asked > POLL_SECONDS:
            listing = _say("scontrol", "--oneliner", "show", "jobs")
            if listing is not None:  # a controller daemon that is away for a moment tells nothing about jobs
                pairs = re.findall(r"^JobId=(\d+) .*? JobState=(\S+)", listing, re.MULTILINE)
                self._states = dict(pairs)
            self._asked = time.monotonic()
        return self._states.get(job, "")


def _say(*command: str) -> str | None:
    """Run one of Slurm's commands; None where it fails."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
