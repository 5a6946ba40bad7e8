"""Helper processes: they leave signals to the process that started them, and end with it."""

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import forkserver, get_context, parent_process, resource_tracker, util
from multiprocessing.connection import wait
from typing import Any

# Signals that ask a process to end; Windows lacks two of them.
ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)

# Apple's libraries run threads of their own, which a fork loses: there each helper is a fresh interpreter, as
# Python's own default is (docs of multiprocessing, "Contexts and start methods").
FORKS = sys.platform != "darwin"
LONGEST_TEMPORARY = 70  # bytes of a folder for sockets: multiprocessing adds 32


def cores() -> int:
    """Return how many CPU cores this process may use; those of the machine where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def helpers() -> Iterator[Any]:
    """Yield the multiprocessing context of helper processes, which are to be started within.

    A terminal or a batch system sends its signals to all processes of a group. Those started here, the server
    that they are forked from and multiprocessing's tracker of resources have them blocked, from their first
    moment on; they wait for this process meanwhile.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        _keep_addresses_short()
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # the line before lets two of them in again
        if FORKS:
            forkserver.ensure_running()
        yield get_context("forkserver" if FORKS else "spawn")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _keep_addresses_short() -> None:
    """Have multiprocessing keep its sockets elsewhere where TMPDIR is so long that they would have no name.

    The address of a socket is limited to 107 bytes (unix(7)), on macOS to 103.
    """
    usual = tempfile.gettempdir()
    if len(os.fsencode(usual)) <= LONGEST_TEMPORARY:
        return
    short = next((folder for folder in ("/tmp", "/var/tmp", "/dev/shm") if os.access(folder, os.W_OK)), None)
    if short is None:
        raise OSError(f"TMPDIR must have at most {LONGEST_TEMPORARY} characters, got {usual}")
    tempfile.tempdir = short
    try:
        util.get_temp_dir()  # is made once, and removed at the end
    finally:
        tempfile.tempdir = usual


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, killed perhaps."""
    parent = parent_process()
    assert parent is not None, "only for processes of multiprocessing"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
