"""The warm server: a process with the heavy modules imported, from which trials and short jobs are forked.

On macOS, where processes that have imported torch cannot be forked, each trial and job imports them itself.
"""

import os
import signal
import traceback
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from cifar_core.memory import out_of_memory
from cifar_core.processes import ENDING, helpers
from experiments.cli import UserError, one_line

Job = Literal[  # by name: whoever asks for one need not import what it takes
    "check_again",
    "check_points",
    "gpu_names",
    "run_trial",
    "sync_trials",
    "test_trial",
    "track_sweep",
    "write",
    "write_live",
]


class Defect(Exception):
    """A job broke in a way that is no mistake of the user's; its traceback stands in the notes."""


TROUBLE = (ValueError, OSError, MemoryError, Defect)  # of a job whose failure is told and no more


class Server:
    """Forks processes that start in milliseconds, so that a sweep can give each trial its own."""

    def __init__(self, *, tracked: bool) -> None:
        """Name what is imported; the first use starts the server, which takes some seconds."""
        tracking = ["experiments.sweep.warm_tracking"] if tracked else []
        forkserver.set_forkserver_preload(["experiments.sweep.warm", *tracking])

    def start(self, job: Job, *args: Any) -> BaseProcess:
        """Start a job in a process of its own, which outlives this one."""
        with helpers() as context:
            process = context.Process(target=work, args=(job, *args))
            process.start()
        return process

    def call(self, job: Job, *args: Any, **options: Any) -> Any:
        """Do a job in a process of its own and return what it returns, or raise as `Call.answer` does."""
        return self.ask(job, *args, **options).answer()

    def ask(self, job: Job, *args: Any, **options: Any) -> "Call":
        """Start a job whose answer is fetched later."""
        with helpers() as context:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_answer, args=(theirs, job, args, options))
            process.start()
        theirs.close()
        return Call(job, process, ours)


class Call:
    """A job that has been asked for, in its process."""

    def __init__(self, job: Job, process: BaseProcess, pipe: Connection) -> None:
        self._job = job
        self._process = process
        self._pipe = pipe

    @property
    def is_over(self) -> bool:
        """Whether the job is done or dead, so that nobody waits for its answer."""
        return self._pipe.poll()

    def answer(self) -> Any:
        """Wait for what the job returns.

        Raises what it raised: a mistake or trouble of the machine under its own name, anything else as
        `Defect`; OSError where the process died.
        """
        try:
            kind, content = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise OSError(f"{self._job} ended with exit code {self._process.exitcode}") from None
        except BaseException:
            self._process.kill()
            raise
        self._process.join()
        if kind != "value":
            raise content
        return content

    def end(self) -> int:
        """End the job's process at once and return the number that it had."""
        self._process.kill()
        self._process.join()
        return self._process.pid or 0


def work(job: Job, *args: Any, **options: Any) -> Any:
    """Do a job in this process, which has been started for it."""
    from experiments.sweep.jobs import JOBS  # imports torch, which the controller does without

    return JOBS[job](*args, **options)


def _answer(pipe: Connection, job: Job, args: tuple[Any, ...], options: dict[str, Any]) -> None:
    os.setsid()  # Ctrl-C is the controller's
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)  # its server has them blocked
    try:
        pipe.send(("value", work(job, *args, **options)))
    except Exception as error:
        pipe.send(("error", _sendable(job, error)))


def _sendable(job: Job, error: Exception) -> Exception:
    """Return an error that another process can raise, of the kind that its exit code follows from."""
    if out_of_memory(error):
        return MemoryError(one_line(error))
    for kind in (UserError, FileNotFoundError, OSError, MemoryError, ValueError):
        if isinstance(error, kind):
            return kind(one_line(error))
    defect = Defect(f"{job}: {type(error).__name__}: {one_line(error)}")
    defect.add_note("".join(traceback.format_exception(error)))
    return defect
