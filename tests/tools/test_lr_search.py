import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar_core.train.lr_range import Suggestion
from experiments.cli import GuardStop, UserError
from experiments.config.compose import compose
from experiments.tools.lr_search import Search, advice, find_lr, override
from tests.conftest import Cli

pytestmark = pytest.mark.slow  # whole runs

DIGITS = ["data=digits", "data.image_size=16", "model=resnet20", "aug=none", "trainer.batch_size=32"]
FAST = Search(start=1e-3, end=3.0, steps=60, diverge=4.0)


def test_writes_curve_and_table_and_names_the_override(tmp_path: Path):
    out = tmp_path / "new" / "lr.png"
    told = find_lr(compose([*DIGITS, "scheduler=one_cycle"]), FAST, out)
    assert {path.name for path in out.parent.iterdir()} == {"lr.png", "lr.csv"}
    with Image.open(out) as image:
        assert image.width > 400
    rows = list(csv.DictReader(out.with_suffix(".csv").read_text().splitlines()))
    assert [float(row["lr"]) for row in rows] == pytest.approx(
        np.geomspace(1e-3, 3, 60)[: len(rows)].tolist()
    )
    (line,) = [line for line in told if line.startswith("recommended")]
    word = line.split()[1]
    lr = compose([*DIGITS, word]).optimizer.lr
    assert 1e-3 < lr < 3


def test_batches_are_mixed_and_augmented_and_steps_gathered_as_in_training(tmp_path: Path):
    """Each of them changes the very first loss, which no step of the optimizer has touched."""
    first = set()
    for change in (
        [],
        ["aug=cutout"],
        ["aug=mixup"],
        ["trainer.label_smoothing=0.1"],
        ["trainer.accumulate=2"],
    ):
        with pytest.raises(GuardStop):  # so low an lr teaches nothing
            find_lr(compose([*DIGITS, *change]), Search(1e-9, 1e-8, 21, 4.0), tmp_path / "lr.png")
        first.add((tmp_path / "lr.csv").read_text().splitlines()[1].split(",")[1])
    assert len(first) == 5


def test_a_loss_that_never_falls_gives_no_number(tmp_path: Path):
    with pytest.raises(GuardStop, match="no learning rate to suggest: the loss never falls clearly"):
        find_lr(compose(DIGITS), Search(1e-9, 1e-8, 21, 4.0), tmp_path / "lr.png")
    assert (tmp_path / "lr.png").exists()


def test_the_schedule_decides_which_one_is_recommended():
    suggestion = Suggestion(steepest=0.2, minimum=0.5)

    def recommended(*overrides: str) -> str:
        return advice(compose(["data=digits", *overrides]), suggestion, last=10.0)[-1]

    assert "optimizer.lr=0.2 " in recommended("scheduler=one_cycle")
    assert "optimizer.lr=0.2 " in recommended("scheduler=triangle")
    assert "optimizer.lr=0.05 " in recommended("scheduler=constant")
    assert "optimizer.lr=0.05 " in recommended("scheduler=step")
    assert "optimizer.lr=0.2 " in recommended("scheduler=step", "scheduler.warmup_epochs=1")


def test_of_two_suggestions_far_apart_the_smaller_is_recommended():
    told = advice(compose(["data=digits", "scheduler=one_cycle"]), Suggestion(0.0025, minimum=1.4), last=10.0)
    assert "optimizer.lr=0.0025 " in told[-1]
    assert "far apart" in told[-1]


def test_a_loss_that_falls_to_the_end_is_told():
    told = advice(compose(["data=digits"]), Suggestion(steepest=0.2, minimum=0.5), last=0.5)
    assert told[-1].startswith("note")
    assert "--end" in told[-1]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon", "lookahead"])
def test_the_override_scales_every_lr_of_the_optimizer(optimizer: str):
    group = f"optimizer={optimizer}"
    before = compose([group]).optimizer
    after = compose([group, *override(compose([group]), before.lr * 12).split()]).optimizer
    assert after.lr == pytest.approx(12 * before.lr, rel=0.05)
    if optimizer == "muon":
        assert after.matrices.lr == pytest.approx(12 * before.matrices.lr, rel=0.05)
        assert after.vectors.lr == pytest.approx(12 * before.vectors.lr, rel=0.05)


def test_an_lr_left_to_the_class_is_added():
    cfg = compose(["~optimizer.lr"])
    assert override(cfg, 0.25) == "+optimizer.lr=0.25"
    assert compose(["~optimizer.lr", "+optimizer.lr=0.25"]).optimizer.lr == 0.25


@pytest.mark.parametrize(
    ("search", "overrides", "message"),
    [
        (Search(1.0, 0.1, 60, 4.0), [], "0 < start < end"),
        (Search(1e-6, 1.0, 5, 4.0), [], "steps above 20, got 5"),
        (FAST, ["trainer.batch_size=5000"], "trainer.batch_size=1024"),
    ],
)
def test_mistakes(search: Search, overrides: list[str], message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        find_lr(compose([*DIGITS, *overrides]), search, tmp_path / "lr.png")
    assert list(tmp_path.iterdir()) == []


def test_the_command_leaves_two_files_and_tells_mistakes(cli: Cli, tmp_path: Path):
    options = ["--start", "1e-3", "--end", "3", "--steps", "60"]
    done = cli(*DIGITS[:2], *options, *DIGITS[2:], module="find_lr", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "recommended    optimizer.lr=" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"lr.png", "lr.csv"}
    wrong = cli("--out", "lr.txt", module="find_lr", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "must be a .png" in wrong.stderr
