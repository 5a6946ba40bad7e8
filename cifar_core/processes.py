"""Helper processes: they leave signals to the process that started them, and end with it."""

import os
import signal
import threading
from multiprocessing import forkserver, parent_process, resource_tracker
from multiprocessing.connection import wait

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # signals that ask a process to end


def start_forkserver() -> None:
    """Start the server that helper processes are forked from, unless it runs.

    A terminal or a batch system sends its signals to all processes of a group. The server, what is forked
    from it and multiprocessing's tracker of resources have them blocked, from their first moment on.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # the line before lets two of them in again
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone, killed perhaps."""
    parent = parent_process()
    assert parent is not None, "only for processes of multiprocessing"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
