"""Whole runs on a GPU, as a user starts them: in every precision, compiled, killed, in a sweep."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.conftest import PROJECT, Cli
from tests.sweep.conftest import Sweep
from tests.sweep.conftest import net as net  # fixtures
from tests.sweep.conftest import sweep as sweep

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

RUN = [
    *("experiment=quickstart", "model.width=8", "trainer.epochs=3", "trainer.batch_size=64"),
    *("tracking=none", "analysis=none", "trainer.checkpoint_seconds=0", "trainer.keep=all"),
]
# A net whose forward pass wants 64 TB where the pictures are.
GREEDY = """
import torch

class Net(torch.nn.Linear):
    def __init__(self, num_classes):
        super().__init__(3072, num_classes)

    def forward(self, images):
        if self.training: torch.empty(2**44, device=images.device)
        return super().forward(images.flatten(1))
"""


@pytest.fixture
def words(device: torch.device) -> list[str]:
    return [*RUN, f"trainer.device={device}"]


def rows(folder: Path) -> list[dict[str, float]]:
    """The figures of the epochs, without those of time."""
    with (folder / "metrics.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    return [
        {key: float(value) for key, value in line.items() if key not in ("seconds", "images_per_second")}
        for line in lines
    ]


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "last.pt", weights_only=True, map_location="cpu")["state"]["model"]


def trained(cli: Cli, folder: Path, *arguments: str) -> list[dict[str, float]]:
    done = cli(*arguments, f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return rows(folder)


def killed_after_an_epoch(folder: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "experiments.run", *arguments, f"hydra.run.dir={folder}"]
    env = os.environ | {"PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(command, cwd=PROJECT, env=env, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not (folder / "last.pt").exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (folder / "result.json").exists() or result(folder)["status"] != "finished"


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_trains(precision, cli, words, device, tmp_path: Path):
    epochs = trained(cli, tmp_path / "run", *words, f"trainer.precision={precision}")
    assert epochs[-1]["val/acc"] > 0.5
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["device"].startswith(str(device))
    assert f", {precision}, " in environment["device"]
    if device.type == "cuda":
        assert environment["gpu"]["name"] == torch.cuda.get_device_name(device)
        assert 0 < environment["gpu"]["peak_memory"] < environment["gpu"]["memory"]


@pytest.fixture(scope="module")
def eager(cli, device, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    folder = tmp_path_factory.mktemp("eager") / "run"
    return trained(cli, folder, *RUN, f"trainer.device={device}", "trainer.precision=fp32")


@pytest.mark.parametrize("mode", ["true", "graphs"])
def test_compiled_training_is_that_of_the_eager_one(mode, cli, words, eager, tmp_path: Path):
    """So is one with an average of the weights, clipping and a recipe."""
    epochs = trained(cli, tmp_path / "run", *words, "trainer.precision=fp32", f"trainer.compile={mode}")
    assert [row["train/loss"] for row in epochs] == pytest.approx(
        [row["train/loss"] for row in eager], rel=0.2
    )  # another order of a sum alone moves the second by 0.05
    assert epochs[-1]["val/acc"] == pytest.approx(eager[-1]["val/acc"], abs=0.1)
    more = ["trainer.ema_decay=0.9", "trainer.grad_clip=1.0", "aug=cutout"]
    further = trained(cli, tmp_path / "more", *words, f"trainer.compile={mode}", *more)
    assert further[-1]["train/loss"] < further[0]["train/loss"]


def test_a_deterministic_run_gives_equal_bits_twice(cli, words, tmp_path: Path):
    fixed = [*words, "trainer.deterministic=true", "aug=cutout", "trainer.ema_decay=0.9"]
    assert trained(cli, tmp_path / "one", *fixed) == trained(cli, tmp_path / "other", *fixed)
    one, other = weights(tmp_path / "one"), weights(tmp_path / "other")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_killed_run_goes_on_to_the_same_end(cli, words, tmp_path: Path):
    fixed = [*words, "trainer.deterministic=true", "trainer.epochs=12"]
    killed_after_an_epoch(tmp_path / "killed", *fixed)
    assert trained(cli, tmp_path / "killed", *fixed) == trained(cli, tmp_path / "whole", *fixed)
    assert result(tmp_path / "killed")["metrics"] == result(tmp_path / "whole")["metrics"]


@pytest.mark.parametrize("back", [False, True], ids=["cpu to gpu", "gpu to cpu"])
def test_a_run_goes_on_where_there_is_another_device(back, cli, device, tmp_path: Path):
    places = [str(device), "cpu"] if back else ["cpu", str(device)]
    common = [*RUN, "trainer.precision=fp32", "trainer.epochs=12"]
    killed_after_an_epoch(tmp_path / "run", *common, f"trainer.device={places[0]}")
    epochs = trained(cli, tmp_path / "run", *common, f"trainer.device={places[1]}")
    assert [row["epoch"] for row in epochs] == list(range(1, 13))
    assert epochs[-1]["train/loss"] < epochs[0]["train/loss"]


def test_lack_of_memory_is_one_line(cli, words, tmp_path: Path):
    (tmp_path / "greedy.py").write_text(GREEDY)
    own = ["security.allowed_targets=[greedy.]", "model._target_=greedy.Net", "trainer.guards=off"]
    own += ["~model.width", "~model.drop_rate", "~model.zero_init_last"]
    plain = [word for word in words if not word.startswith("model.")]
    path = f"{PROJECT}{os.pathsep}{tmp_path}"
    done = cli(*plain, *own, f"hydra.run.dir={tmp_path / 'run'}", PYTHONPATH=path)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "out of memory: use a smaller trainer.batch_size" in errors[0]
    assert "Traceback" not in done.stderr


def test_the_analysis_is_whole(cli, words, tmp_path: Path):
    trained(cli, tmp_path / "run", *words, "trainer.precision=fp32", "analysis=full", "analysis.sheet_size=8")
    folder = tmp_path / "run" / "analysis"
    summary = json.loads((folder / "metrics.json").read_text())
    assert summary["checks"]["predictions_repeated"] == 1  # where the maps are made
    assert {"report.html", "cams.npz", "contact_sheet.png"} <= {path.name for path in folder.iterdir()}


def test_two_trials_share_a_gpu(sweep: Sweep, net: list[str], device: torch.device):
    """Each notes when it began and ended and which GPU it was given: two were there at a time."""
    diary = sweep.folder / "diary"
    slots = "sweep.slots_per_gpu=2" if device.type == "cuda" else "sweep.slots=2"
    arguments = [word for word in net if not word.startswith("trainer.device=")]
    arguments += [f"trainer.device={device}", "seed=range(4)", "trainer.epochs=1", slots]
    done = sweep(*arguments, "+model.seconds=0.2", f"+model.diary={diary}", "sweep.test=none")
    assert done.returncode == 0, done.stderr
    assert [one["status"] for one in sweep.results().values()] == ["finished"] * 4
    spans: dict[str, list[float]] = {}
    gpus = set()
    for line in diary.read_text().splitlines():
        moment, pid, *gpu, what = line.split()
        if what == "step":
            spans.setdefault(pid, []).append(float(moment))
            gpus |= set(gpu)
    assert len(gpus) == (min(4, torch.cuda.device_count()) if device.type == "cuda" else 0)
    times = sorted((min(moments), max(moments)) for moments in spans.values())
    assert len(times) == 4
    assert any(begin < end for (_, end), (begin, _) in zip(times, times[1:], strict=False))
