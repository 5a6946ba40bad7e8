"""Shared fixtures and the two speeds: what starts a process, sweep, server or browser is marked `slow`."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import settings

from cifar_core.processes import cores
from cifar_core.train.settings import TrainerSettings

settings.register_profile("steady", deadline=None, derandomize=True, database=None, print_blob=False)
settings.load_profile("steady")  # the same examples on every machine, however slow it is

PROJECT = Path(__file__).resolve().parents[1]
Cli = Callable[..., subprocess.CompletedProcess[str]]

SLOW_FIXTURES = {"cli", "sweep", "browser"}  # what asks for one of them is slow without a mark
STARTS = {"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "multiprocessing"}
ALLOWED = {"git", "uname", "lscpu", "nvidia-smi", "fc-list", "mount", "umount", "true"}  # end at once
LONGEST = (  # begin first, so that no worker is left alone with them
    *("sweep/test_slurm.py", "sweep/test_search.py", "sweep/test_kills.py", "runs/test_story.py"),
    *("test_legacy.py", "test_readme.py", "test_gpu_benchmark.py", "sweep/test_trials.py"),
    *("test_cuda_contract.py", "augment/test_steps.py", "test_guards.py", "config/test_compose.py"),
)
fast: list[str] = []  # the test that runs and must start nothing


def trainer_settings(**changes: Any) -> TrainerSettings:
    """Return the defaults of conf/trainer, on the CPU and without a progress bar, with ``changes``."""
    values = yaml.safe_load((PROJECT / "conf" / "trainer" / "default.yaml").read_text())
    return TrainerSettings(**(values | {"device": "cpu", "progress": False} | changes))


def narrow(model: str) -> list[str]:
    """Return the words for few channels where an option of the group has a width, or growth."""
    values = yaml.safe_load((PROJECT / "conf" / "model" / f"{model}.yaml").read_text())
    channels = 1 if model.startswith("wrn") else 8  # widened by up to 40; oneDNN for AVX2 fails on 2
    return [f"model.{key}={channels}" for key in ("width", "growth") if key in values]


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of workers: one a core, and one more for slow tests, which often wait; 2 GB each."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(cores() + (config.option.markexpr == "slow"), memory // 2_000_000_000))


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked gpu where there is none, unless GPU_TESTS_ON names a device to rehearse it on."""
    items.sort(key=_rank)
    no_gpu = not torch.cuda.is_available() and "GPU_TESTS_ON" not in os.environ
    for item in items:
        if no_gpu and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


def _rank(item: pytest.Item) -> int:
    name = item.path.relative_to(PROJECT / "tests").as_posix()
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Have a test that is not marked slow fail where it starts a process."""
    if not item.get_closest_marker("slow"):
        fast.append(item.nodeid)
    try:
        return (yield)
    finally:
        fast.clear()


def _refuse(event: str, arguments: tuple) -> None:
    if not fast or event not in STARTS:
        return
    program = Path(os.fsdecode(arguments[0])).name if event == "subprocess.Popen" else ""
    if program not in ALLOWED:
        pytest.fail(f"{fast[0]} starts a process ({event} {program}): mark it slow")


def _start(process: BaseProcess) -> None:
    _refuse("multiprocessing", ())  # which tells no hook
    start(process)


sys.addaudithook(_refuse)
start, BaseProcess.start = BaseProcess.start, _start  # type: ignore[method-assign]


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
