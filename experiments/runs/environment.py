"""Records where and with what a run was made."""

import functools
import os
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from experiments.cli import this_command
from experiments.files import INSTALLED, PROJECT

DRIVER = Path("/sys/module/nvidia/version")  # where Linux tells it at once; not in every container

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


def gpu(device: torch.device, earlier: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the card of ``device``, its driver and CUDA's versions; None for any other device.

    ``visible`` is CUDA_VISIBLE_DEVICES, in a sweep the trial's slot. Memory is in bytes; that of tensors at
    their most is that of an ``earlier`` attempt, as far as it is known.
    """
    if device.type != "cuda":
        return None
    card = torch.cuda.get_device_properties(device)
    return {
        "name": card.name,
        "capability": f"{card.major}.{card.minor}",
        "memory": card.total_memory,
        "peak_memory": (earlier or {}).get("peak_memory"),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "driver": _driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def _driver() -> str | None:
    with suppress(OSError):
        return DRIVER.read_text(encoding="utf-8").strip()
    said = _answer("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")  # a line a card
    return said.partition("\n")[0] if said else None


def _processor() -> str | None:
    """Return the name of the CPU, as Linux or macOS tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return _answer("sysctl", "-n", "machdep.cpu.brand_string")
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
    """Return what git answers of the code; None where there is no git or checkout."""
    return None if INSTALLED else _answer("git", "-C", str(PROJECT), *arguments)


def _answer(*command: str) -> str | None:
    """Return what a command says; None where it is not there or fails, or has not ended in 10 seconds."""
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip()
