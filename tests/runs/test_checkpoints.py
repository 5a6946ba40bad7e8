"""When a run's checkpoints are written, and that they hold what they should."""

import copy
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from cifar_core.train import schedules
from cifar_core.train import state as state_module
from cifar_core.train.checkpoint import load, save
from cifar_core.train.numerics import Numerics
from experiments.runs.checkpoints import Checkpoints
from experiments.runs.folder import RunFolder

IDENTITY = {"config": "a", "data": "b"}

NEVER = 1e9  # seconds


def begin(ema_decay: float = 0.0) -> state_module.TrainState:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 64), nn.BatchNorm1d(64), nn.Linear(64, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = schedules.constant(optimizer, epochs=9, steps_per_epoch=1)
    where = Numerics(torch.device("cpu"), torch.float32, channels_last=False)
    return state_module.start(model, optimizer, scheduler, numerics=where, seed=0, ema_decay=ema_decay)


def go_on(state: state_module.TrainState) -> None:
    """Take one step, as an epoch of its own."""
    state.model(torch.randn(8, 3, 4, 4)).square().mean().backward()
    state.optimizer.step()
    if state.ema is not None:
        state.ema.update_parameters(state.model)
    state.epoch += 1


def rows(state: state_module.TrainState) -> list[dict[str, float]]:
    return [{"epoch": epoch} for epoch in range(1, state.epoch + 1)]


def checkpoints(folder: Path, every_seconds: float = NEVER, **identity: str) -> Checkpoints:
    return Checkpoints(RunFolder(folder), IDENTITY | identity, every_seconds=every_seconds)


def keep(
    kept: Checkpoints, state: state_module.TrainState, *, is_best: bool = False, over: bool = False
) -> None:
    kept.keep(state, rows(state), is_best=is_best, over=over)


def assert_same(one: object, other: object) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_what_a_signal_saves_is_the_last_finished_epoch_not_the_one_after(tmp_path: Path, ema_decay: float):
    state, kept = begin(ema_decay), checkpoints(tmp_path)
    go_on(state)
    keep(kept, state)
    finished = copy.deepcopy(state.state_dict())
    go_on(state)  # the signal comes in the middle of it
    kept.save_unsaved()
    saved = load(tmp_path / "last.pt")
    assert (saved["state"]["epoch"], saved["history"]) == (1, [{"epoch": 1}])
    for part in ("model", "optimizer", "ema")[: 3 if ema_decay else 2]:
        assert_same(saved["state"][part], finished[part])
    assert not torch.equal(saved["state"]["model"]["1.weight"], state.model[1].weight)


@pytest.mark.parametrize(
    ("every_seconds", "over", "written"), [(0, False, True), (NEVER, True, True), (NEVER, False, False)]
)
def test_a_checkpoint_is_written_when_it_is_due_and_at_the_end(
    tmp_path: Path, every_seconds: float, over: bool, written: bool
):
    state, kept = begin(), checkpoints(tmp_path, every_seconds)
    go_on(state)
    keep(kept, state, over=over)
    assert (tmp_path / "last.pt").exists() == written


def test_after_a_checkpoint_the_next_one_is_not_due_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[-1])
    state, kept, written = begin(), checkpoints(tmp_path, 60), []
    for second in (59.0, 60.0, 61.0, 119.0, 120.0):
        clock.append(second)
        go_on(state)
        keep(kept, state)
        written.append(load(kept.folder.last)["state"]["epoch"] if kept.folder.last.exists() else None)
    assert written == [None, 2, 2, 2, 5]


def test_a_signal_after_the_last_epoch_leaves_the_newest_checkpoint(tmp_path: Path):
    state, kept = begin(), checkpoints(tmp_path)
    for over in (False, True):
        go_on(state)
        keep(kept, state, over=over)
    kept.save_unsaved()
    assert load(tmp_path / "last.pt")["state"]["epoch"] == 2
    assert not (tmp_path / "previous.pt").exists()


def test_the_newer_generation_is_resumed_and_the_older_one_where_it_is_damaged(tmp_path: Path):
    state, kept = begin(), checkpoints(tmp_path, 0)
    for _ in range(2):
        go_on(state)
        keep(kept, state)
    resumed = begin()
    assert checkpoints(tmp_path).resume(resumed) == rows(state)
    assert_same(resumed.state_dict(), state.state_dict())
    (tmp_path / "last.pt").write_bytes(b"")
    assert checkpoints(tmp_path).resume(resumed) == [{"epoch": 1}]
    assert resumed.epoch == 1


def test_another_configurations_checkpoint_is_left_out_and_other_pictures_are_refused(tmp_path: Path):
    state, kept = begin(), checkpoints(tmp_path, 0)
    go_on(state)
    keep(kept, state)
    fresh = begin()
    assert checkpoints(tmp_path, config="another").resume(fresh) == []
    assert fresh.epoch == 0
    with pytest.raises(ValueError, match="fingerprint b, got others"):
        checkpoints(tmp_path, data="others").resume(fresh)


def test_the_best_weights_are_the_ones_evaluated(tmp_path: Path):
    state, kept = begin(ema_decay=0.5), checkpoints(tmp_path)
    for is_best in (True, True, False):
        go_on(state)
        if is_best:
            average = copy.deepcopy(state.best_model.state_dict())
        keep(kept, state, is_best=is_best)
    assert not list(tmp_path.iterdir())  # none is due
    kept.save_unsaved()
    assert load(tmp_path / "best.pt")["epoch"] == 2
    other = begin().model
    kept.load_best(other, 2)
    assert_same(other.state_dict(), average)


class Killed(BaseException):
    """Stands for SIGKILL, which no code sees."""


@pytest.mark.parametrize("moment", range(1, 9))  # of the files put in place: 2 + 3 + 3
def test_wherever_a_kill_falls_the_best_weights_are_those_of_the_epoch_that_the_history_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: int
):
    """Each epoch is better than the one before; those trained again after the kill are not, as on a GPU."""
    state, kept, average, placed = begin(ema_decay=0.5), checkpoints(tmp_path, 0), {}, []
    into_place = Path.replace

    def replace(path: Path, target: Path) -> Path:
        placed.append(path)
        if len(placed) == moment:
            raise Killed
        return into_place(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    with suppress(Killed):
        while True:
            go_on(state)
            average[state.epoch] = copy.deepcopy(state.best_model.state_dict())
            keep(kept, state, is_best=True)
    monkeypatch.undo()

    state, kept = begin(ema_decay=0.5), checkpoints(tmp_path)
    best = len(kept.resume(state))
    assert max(average) - 1 <= best == state.epoch
    while state.epoch < 5:
        go_on(state)
        if is_best := best == 0:  # nothing was left, and all is trained again
            best, average[1] = 1, copy.deepcopy(state.best_model.state_dict())
        keep(kept, state, is_best=is_best, over=state.epoch == 5)
    saved = load(tmp_path / "best.pt")
    assert saved["epoch"] == best
    assert_same(saved["model"], average[best])


def test_where_an_epoch_could_not_be_written_the_one_before_is_with_its_own_best_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    state, kept = begin(), checkpoints(tmp_path)
    go_on(state)
    keep(kept, state, is_best=True)
    first = copy.deepcopy(state.model.state_dict())
    go_on(state)

    def full(*_: object) -> None:
        raise OSError("full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="full"):
            keep(kept, state, is_best=True, over=True)
    kept.save_unsaved()  # as the error ends the run
    last, best = load(tmp_path / "last.pt"), load(tmp_path / "best.pt")
    assert (last["state"]["epoch"], last["best"]["epoch"], best["epoch"]) == (1, 1, 1)
    assert_same(best["model"], first)


def test_what_is_kept_between_two_writes_lies_in_the_cpus_memory_whatever_the_device(tmp_path: Path):
    state, kept = begin(), checkpoints(tmp_path)
    state.model.to("meta")
    with pytest.raises(NotImplementedError, match="meta"):  # a copy to the CPU, which a meta tensor refuses
        keep(kept, state)


@pytest.mark.parametrize(
    ("wanted", "left"), [("all", {"best.pt", "last.pt"}), ("best", {"best.pt"}), ("none", set())]
)
def test_what_stays_of_a_finished_run(tmp_path: Path, wanted: str, left: set[str]):
    for name in ("best.pt", "last.pt", "previous.pt"):
        (tmp_path / name).touch()
    checkpoints(tmp_path).tidy(wanted)
    assert {path.name for path in tmp_path.iterdir()} == left


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_the_space_that_is_asked_for_holds_all_checkpoints_at_their_most(tmp_path: Path, ema_decay: float):
    """While last.pt is being replaced there are three of it, and two of best.pt."""
    state, kept = begin(ema_decay), checkpoints(tmp_path, 0)
    needed = kept.bytes_needed(state)
    go_on(state)
    saved = state.state_dict() | {"best": state.model.state_dict()}

    def size(values: object) -> int:
        if isinstance(values, torch.Tensor):
            return values.numel() * values.element_size()
        parts = values.values() if isinstance(values, dict) else values if isinstance(values, list) else ()
        return sum(map(size, parts))

    most = 3 * size(saved) + 2 * size(state.model.state_dict())
    assert needed == pytest.approx(most, rel=0.05)


@pytest.mark.parametrize("content", [{}, {"identity": ["config"]}, {"identity": {"config": "a"}, "state": 1}])
def test_what_is_no_checkpoint_of_a_run_is_left_out(tmp_path: Path, content: dict, caplog):
    save(tmp_path / "last.pt", content)
    assert checkpoints(tmp_path).resume(begin()) == []
    assert "last.pt is not a checkpoint of a run; it is left out" in caplog.text
