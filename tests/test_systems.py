"""What other systems lack is asked for: each test takes it away from a fresh interpreter. No Mac was at hand.

What Apple's and Microsoft's own libraries do is not simulated: compilers, Metal, the file system.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cifar_core.files import lock
from cifar_core.processes import cores
from experiments.tracking.processes import is_dead, this_process
from tests.conftest import PROJECT
from tests.sweep.conftest import TINY

# Python reads it at its start, in helpers too: no affinity, /proc and /sys, no fork, short names of sockets.
MACOS = """
import builtins, io, os, socket, sys, sysconfig, types

def without(function):
    def asked(path, *args, **kwargs):
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(("/proc", "/sys")):
            raise FileNotFoundError(2, "No such file or directory", path)
        return function(path, *args, **kwargs)
    return asked

def no_fork():
    raise RuntimeError("a fork, which Apple's libraries do not survive")

def bind(self, address, bind=socket.socket.bind):
    if self.family == socket.AF_UNIX and len(os.fsencode(address)) > 103:
        raise OSError("AF_UNIX path too long")
    return bind(self, address)

for lacking in ("sched_getaffinity", "sched_setaffinity", "pidfd_open", "process_cpu_count"):
    if hasattr(os, lacking):
        delattr(os, lacking)
for name in ("open", "stat", "lstat", "scandir", "listdir", "readlink"):
    setattr(os, name, without(getattr(os, name)))
builtins.open = io.open = without(io.open)
os.fork = no_fork
socket.socket.bind = bind
sys.modules["_scproxy"] = types.SimpleNamespace(_get_proxy_settings=dict, _get_proxies=dict)  # Apple's Python
sys.modules["triton"] = None
sysconfig.get_config_vars()  # of this Python, kept
sys.platform = "darwin"
"""

WINDOWS = """
import os, signal, sys, sysconfig
from multiprocessing import forkserver, resource_tracker  # Linux's own: Windows's need its system
for lacking in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[lacking] = None
for lacking in ("SIGHUP", "SIGUSR1", "pthread_sigmask"):
    delattr(signal, lacking)
del os.sched_getaffinity
sysconfig.get_config_vars()
sys.platform = "win32"
"""

System = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def system(tmp_path: Path) -> System:
    """Run Python's arguments where the first argument, code, has been done to the interpreter."""

    def call(prelude: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        folders = [tmp_path / name for name in ("prelude", "T" * 80)]  # macOS's is /var/folders/<2>/<30>/T
        for folder in folders:
            folder.mkdir(exist_ok=True)
        (folders[0] / "sitecustomize.py").write_text(prelude)
        env = os.environ | {"PYTHONPATH": f"{folders[0]}:{PROJECT}", "TMPDIR": str(folders[1])}
        command = [sys.executable, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)

    return call


@pytest.mark.slow
def test_a_run_with_helpers_goes_where_macos_lacks_what_linux_has(system: System, tmp_path: Path):
    helped = ["aug=flip", "aug.backend=albumentations", "aug.workers=1", "hydra.run.dir=run"]
    done = system(MACOS, "-m", "experiments.run", *TINY, *helped, "trainer.epochs=1")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_a_sweep_goes_where_nothing_can_be_forked(system: System, tmp_path: Path):
    words = [*TINY, "trainer.epochs=1", "seed=1,2", "sweep.name=macos", "sweep.test=none"]
    done = system(MACOS, "-m", "experiments.run", "-m", *words)
    assert done.returncode == 0, done.stderr
    results = list((tmp_path / "sweeps" / "macos").glob("*/result.json"))
    assert [json.loads(path.read_text())["status"] for path in results] == ["finished"] * 2
    assert (tmp_path / "sweeps" / "macos" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    sorted(path.stem for path in (PROJECT / "experiments").glob("[!_]*.py") if "main()" in path.read_text()),
)
def test_a_command_on_windows_is_one_line_that_names_wsl(system: System, module: str):
    done = system(WINDOWS, "-m", f"experiments.{module}", "--help")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert "WSL" in done.stderr


@pytest.mark.slow
def test_on_windows_the_library_can_be_imported_and_the_application_says_why_not(system: System):
    library = "cifar_core.files, cifar_core.processes, cifar_core.train.settings"  # what needs no torch
    done = system(WINDOWS, "-c", f"import {library}; print(cifar_core.processes.cores())\nimport experiments")
    assert done.stdout.strip().isdecimal()
    assert done.stderr.splitlines()[-1].startswith("ImportError: this runs on Linux and macOS")


def test_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7}, raising=False)
    assert cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 11)
    assert cores() == 11
    monkeypatch.setattr(os, "cpu_count", lambda: None)  # as Python's documentation allows
    assert cores() == 1


def test_where_nothing_locks_a_lock_is_an_error_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cifar_core.files.fcntl", None)
    with (tmp_path / "lock").open("w") as file, pytest.raises(OSError, match="no flock"):
        lock(file)


def test_without_proc_a_process_of_macos_is_dead_when_its_number_is_gone(monkeypatch: pytest.MonkeyPatch):
    host = os.uname().nodename
    monkeypatch.setattr("experiments.tracking.processes._started", lambda pid: None)
    monkeypatch.setattr("experiments.tracking.processes._boot", lambda: "-")
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert not is_dead(host, f"{ended.pid} - - -")  # of a container, say: its numbers are not ours
    monkeypatch.setattr(sys, "platform", "darwin")
    mine = this_process()
    assert not is_dead(host, mine)
    assert not is_dead("another host", mine.replace(str(os.getpid()), str(ended.pid)))
    assert is_dead(host, mine.replace(str(os.getpid()), str(ended.pid)))
