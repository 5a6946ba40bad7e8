"""The warm server: a process with the heavy modules imported, from which trials and short jobs are forked."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from experiments.cli import one_line


class Server:
    """Forks processes that start in milliseconds, so that a sweep can give each trial its own."""

    def __init__(self, *, tracked: bool) -> None:
        """Name what is imported; the first use starts the server, which takes some seconds."""
        self._context = multiprocessing.get_context("forkserver")
        tracking = ["experiments.sweep.warm_tracking"] if tracked else []
        self._context.set_forkserver_preload(["experiments.sweep.warm", *tracking])

    def start(self, function: Callable[..., None], *args: Any) -> BaseProcess:
        """Start ``function`` in a process of its own, which outlives this one."""
        process = self._context.Process(target=function, args=args)
        process.start()
        return process

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Run ``function`` in a process of its own and return what it returns.

        Raises ValueError with the message of what it raised, or OSError where the process died.
        """
        ours, theirs = self._context.Pipe(duplex=False)
        process = self.start(_answer, theirs, function, args, options)
        theirs.close()
        try:
            kind, content = ours.recv()
        except EOFError:
            process.join()
            raise OSError(f"{function.__name__} ended with exit code {process.exitcode}") from None
        finally:
            if sys.exc_info()[0] is not None and process.is_alive():
                process.kill()
        process.join()
        if kind == "error":
            raise ValueError(content)
        return content


def _answer(pipe: Connection, function: Callable[..., Any], args: Any, options: Any) -> None:
    os.setsid()  # Ctrl-C is the controller's
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        pipe.send(("value", function(*args, **options)))
    except Exception as error:
        pipe.send(("error", one_line(error)))
