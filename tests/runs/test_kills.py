"""A run that is killed again and again ends as if it had never been stopped."""

import csv
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.config.compose import compose
from experiments.runs.story import run
from tests.conftest import PROJECT

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KILLS", "2"))
ARGUMENTS = [
    *(
        "experiment=quickstart",
        "model.width=4",
        "aug=cutout",
        "aug.batch={_target_: torchvision.transforms.v2.MixUp}",
    ),
    *(
        f"trainer.epochs={KILLS + 3}",
        "trainer.batch_size=128",
        "trainer.ema_decay=0.9",
        "trainer.checkpoint_seconds=0",
    ),
    *("trainer.keep=all", "trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1"),
    *("tracking=none", "analysis=light", "analysis.sheet_size=4"),
]


def start(folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "experiments.run", *ARGUMENTS, f"hydra.run.dir={folder}"]
    return subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.DEVNULL)


def wait(folder: Path, process: subprocess.Popen, *, writing: bool, rng: random.Random) -> None:
    """Return at a random moment of the training, or while a checkpoint is being written."""
    log, before = folder / "run.log", (folder / "run.log").stat().st_size if folder.exists() else 0
    while process.poll() is None and (not log.exists() or "device  " not in log.read_text()[before:]):
        time.sleep(0.01)
    if not writing:
        time.sleep(rng.uniform(0, 1.2))
        return
    while process.poll() is None and not any(folder.glob(".*.pt.*")):
        pass


def test_killed_again_and_again(tmp_path: Path):
    folder, whole, rng = tmp_path / "killed", tmp_path / "whole", random.Random(0)
    kills = 0
    for number in range(KILLS):
        process = start(folder)
        wait(folder, process, writing=number % 2 == 1, rng=rng)
        kills += process.poll() is None
        process.kill()
        process.wait()
    assert 2 * kills >= KILLS  # it may have ended before the others
    last = start(folder)
    assert last.wait(timeout=240) == 0
    run(compose(ARGUMENTS), whole)

    ends = [json.loads((each / "result.json").read_text()) for each in (folder, whole)]
    assert ends[0]["metrics"] == ends[1]["metrics"]
    rows = [list(csv.DictReader((each / "metrics.csv").read_text().splitlines())) for each in (folder, whole)]
    for one, other in zip(*rows, strict=True):
        assert all(one[key] == other[key] for key in one if key not in ("seconds", "images_per_second"))
    with (
        np.load(folder / "analysis/predictions.npz") as one,
        np.load(whole / "analysis/predictions.npz") as other,
    ):
        assert np.array_equal(one["logits"], other["logits"])
    best = [torch.load(each / "best.pt", weights_only=True) for each in (folder, whole)]
    assert best[0]["epoch"] == best[1]["epoch"]
    assert all(torch.equal(best[0]["model"][key], best[1]["model"][key]) for key in best[0]["model"])
    states = [torch.load(each / "last.pt", weights_only=True)["state"] for each in (folder, whole)]
    for part in ("model", "ema"):
        assert all(torch.equal(states[0][part][key], states[1][part][key]) for key in states[0][part])
    assert not list(folder.glob(".*.pt.*"))
