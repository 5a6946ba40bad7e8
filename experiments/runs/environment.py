"""Records where and with what a run was made."""

import functools
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from experiments.cli import this_command
from experiments.files import PROJECT

PACKAGES = (
    "torch",
    "torchvision",
    "albumentations",
    "albucore",
    "opencv-python-headless",
    "numpy",
    "pillow",
    "hydra-core",
    "omegaconf",
    "mlflow",
)


def environment(command: str = "") -> dict[str, Any]:
    """Return versions, machine, command and the project's git commit (null outside a checkout).

    ``command`` is what to call again; empty is what started this process.
    """
    return {
        "command_line": command or this_command(),
        "folder": str(Path.cwd()),
        "host": platform.node(),
        "pid": os.getpid(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": git(),
    }


def _processor() -> str | None:
    """Return the name of the CPU, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@functools.cache
def git() -> dict[str, Any] | None:
    """Return the commit of the code and whether it was changed since, as of the first call of this process.

    None outside a checkout.
    """
    commit = _git_says("rev-parse", "HEAD")
    if commit is None:
        return None
    changes = _git_says("status", "--porcelain")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git_says(*arguments: str) -> str | None:
    """Return what git answers; None where there is no git or checkout, or no answer in 10 seconds."""
    command = ["git", "-C", str(PROJECT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip()
