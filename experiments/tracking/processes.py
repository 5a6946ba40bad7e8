"""Names a process so that another one can tell whether it is gone."""

import os
import socket
import sys
from pathlib import Path

HOST_TAG, PROCESS_TAG = "tracker.host", "tracker.process"  # of a run: by whom it is tracked
MACOS = "macos"  # has no namespaces and no /proc: there a process is known by its number alone


def this_process() -> str:
    """Return `pid start boot namespace`, which no other process shares; `-` for what /proc does not tell."""
    return f"{os.getpid()} {_started(os.getpid()) or '-'} {_boot()} {_namespace()}"


def is_dead(host: str, process: str) -> bool:
    """Whether `process`, as `this_process` named it on `host`, is certainly gone."""
    parts = process.split()
    if host != socket.gethostname() or len(parts) != 4 or "-" in parts and parts[3] != MACOS:
        return False
    pid, started, boot, namespace = parts
    if boot != _boot():
        return True
    return namespace == _namespace() and not _alive(int(pid), started)


def _alive(pid: int, started: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return _started(pid) in (None, started)


def _started(pid: int) -> str | None:
    """Clock ticks from boot to the start of `pid`; "" for a zombie, None where /proc does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return "" if fields[0] in "ZX" else fields[19]  # fields 3 and 22 of proc(5), the name taken off


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:
        return "-"


def _namespace() -> str:
    if sys.platform == "darwin":
        return MACOS
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return "-"
