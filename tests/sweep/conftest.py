"""Sweeps of tiny nets on the embedded digits, by the command line, in processes that can be killed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path

from experiments.files import CONF, PROJECT
from experiments.sweep.space import Space, parse
from tests.report.conftest import browser as browser  # a fixture

TINY = [
    *("experiment=quickstart", "model.width=4", "trainer.epochs=2", "trainer.batch_size=64"),
    "trainer.ema_decay=0",  # an average of so few steps tells nothing
    *("tracking=none", "analysis=none", "trainer.threads=1", "trainer.device=cpu", "trainer.precision=fp32"),
    *("trainer.checkpoint_seconds=0", "data.val_size=0.5", "data.test_size=0.5"),
]

# A net that behaves as `mode` says in its first training pass; one takes `seconds` until <diary>.go exists.
NET = """
import os, signal, sys, time, torch
from pathlib import Path

class Net(torch.nn.Module):
    def __init__(self, num_classes, mode="ok", seconds=0.0, diary=""):
        super().__init__()
        self.head = torch.nn.Linear(3072, num_classes)
        self.mode, self.seconds, self.diary = mode, seconds, diary
        self._note("begin")

    def _note(self, what):
        if self.diary:
            gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            with open(self.diary, "a") as file:
                file.write(f"{time.monotonic()} {os.getpid()} {gpu} {what}\\n")

    def forward(self, x):
        if self.training:
            if not Path(self.diary + ".go").exists(): time.sleep(self.seconds)
            self._note("step")
            once = Path(self.diary + ".once")
            if self.mode == "raise": raise RuntimeError("no forward today")
            if self.mode == "exit": os._exit(7)
            if self.mode == "hang": signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)
            if self.mode == "oom": raise MemoryError("out of memory")
            if self.mode == "kill": os.kill(os.getpid(), signal.SIGKILL)
            if self.mode == "once" and not once.exists(): once.touch(); os.kill(os.getpid(), signal.SIGKILL)
        return self.head(x.flatten(1))
"""


@pytest.fixture(scope="session")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Arguments that train the net above."""
    folder = tmp_path_factory.mktemp("own_code")
    (folder / "sweep_net.py").write_text(NET)
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = f"{folder}:{PROJECT}"
    sys.path.insert(0, str(folder))
    yield [
        *(part for part in TINY if not part.startswith(("model.", "analysis"))),
        *("analysis=none", "security.allowed_targets=[sweep_net.]", "model._target_=sweep_net.Net"),
        *("~model.width", "~model.drop_rate", "~model.zero_init_last"),
    ]
    sys.path.remove(str(folder))
    os.environ["PYTHONPATH"] = before


class Sweep:
    """The command line `python -m experiments.run -m` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "sweeps" / "test"
        self.said = ""  # by the last call, on stderr

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "experiments.run", "-m", *arguments]
        if not any(part.startswith("sweep.name=") for part in arguments):
            command.append("sweep.name=test")
        env = {"PYTHONPATH": str(PROJECT)} | os.environ
        return subprocess.Popen(
            command, cwd=self.folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        _, self.said = process.communicate(timeout=240)
        return subprocess.CompletedProcess(process.args, process.returncode, "", self.said)

    def results(self) -> dict[str, dict]:
        """What each trial's folder says, by its name."""
        return {p.parent.name: json.loads(p.read_text()) for p in sorted(self.home.glob("*/result.json"))}

    def trials(self) -> dict[str, dict]:
        return {p.parent.name: json.loads(p.read_text()) for p in sorted(self.home.glob("*/trial.json"))}

    def starts(self) -> dict[str, int]:
        """How often each trial's folder was trained in, fresh or taken up."""
        return {p.parent.name: p.read_text().count("INFO run folder ") for p in self.home.glob("*/run.log")}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return Sweep(tmp_path)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Wait while the process lives; fail where it ends, or the time is over, before the condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.02)


def space_of(*arguments: str, zipped: tuple[str, ...] = ()) -> Space:
    """The space that command-line arguments span over this project's conf/."""
    return parse(arguments, ConfigLoaderImpl(create_config_search_path(str(CONF))), zipped)
