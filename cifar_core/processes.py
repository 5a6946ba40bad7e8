"""Helper processes: they leave signals to the process that started them, and end with it."""

import os
import signal
import tempfile
import threading
from multiprocessing import forkserver, parent_process, resource_tracker, util
from multiprocessing.connection import wait

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # signals that ask a process to end

LONGEST_TEMPORARY = 70  # bytes of a folder for sockets: multiprocessing adds 32


def start_forkserver() -> None:
    """Start the server that helper processes are forked from, unless it runs.

    A terminal or a batch system sends its signals to all processes of a group. The server, what is forked
    from it and multiprocessing's tracker of resources have them blocked, from their first moment on.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        _keep_addresses_short()
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # the line before lets two of them in again
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _keep_addresses_short() -> None:
    """Have multiprocessing keep its sockets elsewhere where TMPDIR is so long that they would have no name.

    The address of a socket is limited to 107 bytes (unix(7)).
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
