"""Kills and signals, of trials and controllers: in the end every point is done once, as without them."""

import html
import json
import os
import random
import shlex
import signal
import time
from pathlib import Path

import pytest

from experiments.sweep.home import Home
from experiments.sweep.ledger import saved_study
from tests.sweep.conftest import Sweep, wait_until

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KILLS", "2"))
NAMES = ["flip_lr-0.05", "flip_lr-0.1", "none_lr-0.05", "none_lr-0.1"]


@pytest.fixture(scope="module")
def grid(net: list[str]) -> list[str]:
    """Four points of three epochs, of half a second each."""
    space = ["aug=none,flip", "optimizer.lr=0.05,0.1"]
    return [*net, *space, "sweep.slots=2", "trainer.epochs=3", "+model.seconds=0.04"]


@pytest.fixture(scope="module")
def whole(grid: list[str], tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """An uninterrupted sweep."""
    sweep = Sweep(tmp_path_factory.mktemp("whole"))
    done = sweep(*grid)
    assert done.returncode == 0, done.stderr
    return sweep


def figures(sweep: Sweep) -> dict[str, tuple]:
    return {name: (r["status"], r["metrics"], r["epochs"]) for name, r in sweep.results().items()}


def test_a_grid_runs_every_point_once_in_its_order(grid: list[str], whole: Sweep):
    assert sorted(whole.results()) == NAMES
    assert set(whole.starts().values()) == {1}
    assert {r["status"] for r in whole.results().values()} == {"finished"}
    by_number = sorted(whole.trials().values(), key=lambda trial: trial["number"])
    assert [trial["point"] for trial in by_number] == [
        {"aug": aug, "optimizer.lr": lr} for aug in ("none", "flip") for lr in ("0.05", "0.1")
    ]
    assert all("test/acc" in r["metrics"] for r in whole.results().values())


def test_a_changed_sweep_of_the_same_name_is_refused(grid: list[str], whole: Sweep):
    changed = [part for part in grid if not part.startswith("optimizer")]
    done = whole(*changed, "optimizer.lr=0.05,0.2", "trainer.label_smoothing=0.1")
    assert done.returncode == 2
    assert "optimizer.lr: 0.05,0.1, got 0.05,0.2" in done.stderr
    assert "trainer.label_smoothing: not given, got 0.1" in done.stderr
    assert "another sweep.name" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_controller_may_be_killed_at_any_moment_and_its_ledger_be_broken(
    grid: list[str], whole: Sweep, sweep: Sweep, tmp_path: Path
):
    if KILLS > 3:  # more of them need more points
        grid = [*grid, f"seed=range({KILLS // 2})", "trainer.guards=warn"]
        whole = Sweep(tmp_path / "whole")
        whole.folder.mkdir()
        assert whole(*grid).returncode == 0
    points = len(whole.results())
    generator, amid = random.Random(os.environ.get("PYTEST_SEED", 1)), 0
    for _ in range(KILLS):
        process = sweep.start(*grid)
        begun = len(sweep.trials())
        wait_until(lambda begun=begun: len(sweep.trials()) > begun or len(sweep.results()) == points, process)
        time.sleep(generator.uniform(0, 1.5))
        amid += len(sweep.results()) < points
        process.kill()
        process.communicate()
    assert 2 * amid >= KILLS  # the others came when all was done
    ledger = sweep.home / "ledger.jsonl"
    ledger.write_text(ledger.read_text()[:300] + "\n{broken\n" + ledger.read_text()[300:])
    last = sweep.start(*grid)
    wait_until((sweep.home / "lock").exists, last)
    done = last.communicate(timeout=240)[1]
    assert last.returncode == 0, done
    assert figures(sweep) == figures(whole)
    assert ledger.with_suffix(".broken").exists()
    entries = {}
    for trial in saved_study(ledger).trials:
        assert trial.state.is_finished()
        if trial.state.name == "COMPLETE":
            assert entries.setdefault(trial.user_attrs["point"], trial.value) == trial.value
    assert sorted(entries.values()) == sorted(r["metrics"]["val/acc_best"] for r in whole.results().values())


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_a_stopped_sweep_goes_on_and_so_does_a_killed_trial(grid: list[str], whole: Sweep, sweep: Sweep):
    page, diary = sweep.home / "report.html", sweep.folder / "diary"
    slow = [*grid[:-1], "+model.seconds=0.3", f"+model.diary={diary}"]  # until all has been seen
    process = sweep.start(*slow)
    wait_until(lambda: _epochs(sweep) and "Running: " in _read(page), process)
    second = sweep(*slow)
    assert second.returncode == 2
    assert f"is being worked on by process {process.pid}" in second.stderr
    process.send_signal(signal.SIGTERM)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 143, stderr
    assert "stopping: trials save their last epoch" in stderr
    assert stderr.count(" -m experiments.run ") == 1, stderr  # the one line to paste
    assert stderr.count(str(page)) == 2  # at the start and at the end
    killed = [name for name, result in sweep.results().items() if result["status"] == "killed"]
    assert killed
    assert "Not over: " in _read(page)
    assert Home(sweep.home).command in html.unescape(_read(page))
    assert not list(sweep.home.glob(".*"))  # half a file

    again = sweep.start(*shlex.split(Home(sweep.home).command)[4:])
    wait_until(lambda: sweep.starts()[killed[0]] == 2, again)
    if not (sweep.home / killed[0] / "result.json").exists():
        os.kill(int((sweep.home / killed[0] / "lock").read_text().split()[1]), signal.SIGKILL)
    diary.with_suffix(".go").touch()
    stderr = again.communicate(timeout=240)[1]
    assert again.returncode == 0, stderr
    assert figures(sweep) == figures(whole)
    assert set(sweep.starts().values()) <= {1, 2, 3}
    assert "Not over: " not in _read(page)


def _epochs(sweep: Sweep) -> list[Path]:
    """The trials that have an epoch behind them."""
    return [path for path in sweep.home.glob("*/metrics.csv") if path.read_text().count("\n") > 1]


def test_one_trial_can_be_taken_up_by_hand(grid: list[str], whole: Sweep, cli):
    folder = whole.home / "none_lr-0.05"
    kept = json.loads((folder / "result.json").read_text())
    (folder / "result.json").unlink()
    allowed = "security.allowed_targets=[sweep_net.]"  # what a folder allows itself is not believed
    done = cli(f"resume={folder}", allowed, PYTHONPATH=os.environ["PYTHONPATH"])
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "result.json").read_text())["metrics"] == kept["metrics"]
