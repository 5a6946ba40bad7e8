"""The same validation pictures, drawn as a run learns."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from cifar_core.history import Row
from cifar_core.report.settings import AnalysisSettings
from cifar_core.train import checkpoint
from cifar_core.train.loop import EpochResult
from cifar_core.train.numerics import numerics
from cifar_core.train.settings import TrainerSettings
from cifar_core.train.state import start
from experiments.config.compose import compose
from experiments.runs import story, watch
from experiments.runs.folder import RunFolder
from experiments.runs.watch import SHARE, SHEETS, Watch
from experiments.tracking.tracker import NoTracker
from tests.report.examples import Net, pictures

pytestmark = pytest.mark.slow  # whole runs

SMALL = [
    *("data=digits", "model=resnet20", "model.width=4", "aug=flip", "trainer=quick", "trainer.epochs=2"),
    *("trainer.batch_size=512", "trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1"),
    *("trainer.ema_decay=0.9", "trainer.keep=all", "tracking=none"),
]


class Grid(NoTracker):
    """A tracker that keeps the steps of the pictures it is given, and the time each took."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def log_image(self, path: Path, key: str, step: int) -> None:
        with Image.open(path) as image:
            image.load()
        assert key == "watch"
        self.steps.append(step)


def watching(folder: Path, *, count: int = 4) -> Watch:
    torch.manual_seed(3)
    model, data = Net(10), pictures([0, 1, 2, 3, 4])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    where = numerics(TrainerSettings(device="cpu", precision="fp32"))
    state = start(model, optimizer, schedule, numerics=where, seed=0)
    return Watch(AnalysisSettings(watch=count), state, data, model.body[1], RunFolder(folder))


def ended(epoch: int, seconds: float) -> EpochResult:
    return EpochResult(epoch, epoch, {"train/loss": 1.0, "val/acc": 0.5}, 0.1, seconds, 1.0, None)


def train(one: Watch, tracker: Grid, epochs: int, seconds: float, *, last: int = 0) -> None:
    one.look(tracker, epochs)
    for epoch in range(1, (last or epochs) + 1):
        one.state.epoch = epoch
        one.look(tracker, epochs, ended(epoch, seconds), over=epoch == (last or epochs))


@pytest.fixture
def a_second_each(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every sheet takes a second of this clock."""
    moments = iter(range(10_000))
    monkeypatch.setattr(watch, "time", SimpleNamespace(perf_counter=lambda: float(next(moments))))


@pytest.mark.parametrize(
    ("epochs", "seconds"), [(6, 400), (6, 100), (30, 50), (30, 8), (200, 3), (90, 20), (1, 500)]
)
def test_sheets_are_evenly_spaced_and_take_at_most_their_share_of_the_training(
    a_second_each: None, tmp_path: Path, epochs: int, seconds: int
):
    grid = Grid()
    train(watching(tmp_path), grid, epochs, seconds)
    assert (grid.steps[0], grid.steps[-1]) == (0, 100)
    assert len(grid.steps) * 1.0 <= SHARE * epochs * seconds
    assert len(grid.steps) <= SHEETS + 2
    possible = {round(100 * epoch / epochs) for epoch in range(0, epochs, -(-epochs // SHEETS))}
    assert set(grid.steps[:-1]) <= possible
    if seconds >= 400:  # each is affordable
        assert set(grid.steps[:-1]) == possible
    assert grid.steps == sorted(set(grid.steps))


def test_a_training_too_short_for_its_share_has_the_first_sheet_and_the_last(
    a_second_each: None, tmp_path: Path
):
    grid = Grid()
    train(watching(tmp_path), grid, 10, 2.0)
    assert grid.steps == [0, 100]


def test_a_training_that_stops_early_ends_at_a_hundred_percent(a_second_each: None, tmp_path: Path):
    grid = Grid()
    train(watching(tmp_path), grid, 10, 500.0, last=3)
    assert grid.steps == [0, 10, 20, 100]
    assert sorted(path.name for path in tmp_path.rglob("*.png"))[-1] == "epoch_0003.png"


def test_a_training_that_is_taken_up_goes_on_without_a_first_sheet(tmp_path: Path):
    grid, one = Grid(), watching(tmp_path)
    one.state.epoch = 3
    one.look(grid, 6)
    assert grid.steps == []


def test_no_pictures_are_watched_where_none_are_asked_for_or_there_is_no_validation_split(tmp_path: Path):
    grid, nothing = Grid(), watching(tmp_path, count=0)
    train(nothing, grid, 2, 1.0)
    some = watching(tmp_path)
    empty = replace(some.data, val=pictures([]).val)
    bare = Watch(AnalysisSettings(watch=4), some.state, empty, some.layer, some.folder)
    some.state.epoch = 0
    train(bare, grid, 2, 1.0)
    assert (grid.steps, list(tmp_path.rglob("*.png"))) == ([], [])


def test_a_sheet_that_cannot_be_written_is_one_warning_and_the_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "watch").write_text("a file where the folder should be")
    grid = Grid()
    with caplog.at_level(logging.WARNING):
        train(watching(tmp_path), grid, 3, 500.0)
    (line,) = caplog.messages
    assert "the watched pictures cannot be drawn" in line
    assert "\n" not in line
    assert grid.steps == []


def figures(folder: Path) -> list[Row]:
    saved = checkpoint.load(folder / "last.pt")
    return [
        {key: row[key] for key in row if key not in ("seconds", "images_per_second")}
        for row in saved["history"]
    ]


def test_watching_changes_no_bit_of_a_training(tmp_path: Path):
    for name, count in (("watched", 5), ("alone", 0)):
        story.run(compose([*SMALL, "analysis=light", f"analysis.watch={count}"]), tmp_path / name)
    assert sorted(path.name for path in (tmp_path / "watched" / "watch").iterdir()) == [
        *("epoch_0000.png", "epoch_0002.png")
    ]
    assert not (tmp_path / "alone" / "watch").exists()
    watched, alone = (checkpoint.load(tmp_path / name / "last.pt")["state"] for name in ("watched", "alone"))
    for part in ("model", "ema"):
        assert watched[part].keys() == alone[part].keys()
        assert all(torch.equal(value, alone[part][name]) for name, value in watched[part].items())
    assert figures(tmp_path / "watched") == figures(tmp_path / "alone")
