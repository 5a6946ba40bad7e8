"""Shared fixtures: a home of its own for every test session, and the command line as a user calls it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import settings

from cifar_core.train.settings import TrainerSettings

settings.register_profile("steady", deadline=None, derandomize=True, database=None, print_blob=False)
settings.load_profile("steady")  # the same examples on every machine, however slow it is

PROJECT = Path(__file__).resolve().parents[1]
Cli = Callable[..., subprocess.CompletedProcess[str]]


def trainer_settings(**changes: Any) -> TrainerSettings:
    """Return the defaults of conf/trainer, on the CPU and without a progress bar, with ``changes``."""
    values = yaml.safe_load((PROJECT / "conf" / "trainer" / "default.yaml").read_text())
    return TrainerSettings(**(values | {"device": "cpu", "progress": False} | changes))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked gpu where there is none, unless GPU_TESTS_ON names a device to rehearse it on."""
    if torch.cuda.is_available() or "GPU_TESTS_ON" in os.environ:
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


@pytest.fixture(scope="session", autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep caches and databases of the user out of the tests, and the tests' out of the user's."""
    home = tmp_path_factory.mktemp("home")
    saved = dict(os.environ)
    os.environ |= {
        "HOME": str(home),
        "CIFAR_ROOT": str(home / "cifar"),
        "CIFAR_CACHE": str(home / "decoded"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{home / 'mlflow.db'}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
    }
    torch.set_num_threads(1)
    yield home
    os.environ.clear()
    os.environ.update(saved)


@pytest.fixture(scope="session")
def cli() -> Cli:
    """Run `python -m experiments.<module>` in a process of its own and return what came out."""

    def call(*arguments: str, module: str = "run", cwd: Path = PROJECT, **environment: str):
        command = [sys.executable, "-m", f"experiments.{module}", *arguments]
        env = os.environ | {"PYTHONPATH": str(PROJECT)} | environment
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)

    return call
