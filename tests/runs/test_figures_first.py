"""The figures of a run are on disk before anything is drawn, and stay there whatever the drawing does."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cifar_core.report import page
from experiments import report
from experiments.config.compose import compose, composing_from
from experiments.runs import console, story
from experiments.runs.result import ANALYSING, Result, recorded
from experiments.sweep.trials import Trial
from tests.conftest import PROJECT

pytestmark = pytest.mark.slow  # whole runs

SMALL = [
    *("data=digits", "model=resnet20", "model.width=4", "aug=none", "trainer=quick", "trainer.epochs=1"),
    *("trainer.batch_size=512", "trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1"),
    *("tracking=none", "analysis.sheet_size=4"),
]


def command(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "experiments.run", *words, f"hydra.run.dir={folder}"]


@pytest.fixture(scope="module")
def without_memory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that had no memory for its report."""
    folder = tmp_path_factory.mktemp("run")

    def too_large(*_: object, **__: object) -> None:
        raise MemoryError("cannot allocate 16 GB")

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(page.write_report.__globals__, "render", too_large)
        story.run(compose([*SMALL, "analysis=light"]), folder)
    return folder


def test_a_run_without_memory_to_draw_has_its_figures_and_says_how_to_draw_later(without_memory: Path):
    result = Result.read(without_memory)
    assert (result.status, result.analysis_error) == ("finished", "cannot allocate 16 GB")
    assert 0 <= result.metrics["test/balanced_acc"] <= 1
    log = (without_memory / "run.log").read_text()
    assert f"python -m experiments.report {without_memory}" in log
    assert "Traceback" not in log
    numbers = json.loads((without_memory / "analysis" / "metrics.json").read_text())
    assert numbers["acc"] == result.metrics["test/acc"]


def test_a_trial_without_an_analysis_has_none_that_failed(tmp_path: Path):
    cfg = compose([*SMALL[:-1], "analysis=none", "data.image_size=8"])
    with composing_from(tmp_path / "gone"):  # a trial has its sweep's conf/ only to begin with
        story.run(cfg, tmp_path / "run")
    result = Result.read(tmp_path / "run")
    assert (result.status, result.analysis_error) == ("finished", "")


def test_the_report_of_a_run_is_drawn_later(without_memory: Path, tmp_path: Path, capsys, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(without_memory, folder)
    before = Result.read(folder)
    monkeypatch.setattr("sys.argv", ["report", str(folder)])
    report.main()
    assert capsys.readouterr().out.split() == [str(folder / "analysis" / "report.html")]
    assert (folder / "analysis" / "report.html").stat().st_size > 50_000
    after = Result.read(folder)
    assert after.analysis_error == ""
    assert after.metrics == before.metrics
    assert json.loads((folder / "analysis" / "metrics.json").read_text())["acc"] == after.metrics["test/acc"]


def test_a_run_without_figures_has_nothing_to_draw(tmp_path: Path, capsys, monkeypatch):
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        report.main()
    assert end.value.code == 2
    assert "must hold a run with its figures to draw them, but it is unfinished" in capsys.readouterr().err


def test_figures_of_a_run_that_was_killed_while_it_drew_stay_until_they_come_again(tmp_path: Path):
    figures = {"test/acc": 0.5, "val/acc_best": 0.4}
    Result(status=ANALYSING, metrics=figures, epochs=3).write(tmp_path)
    assert not Result.read(tmp_path).done

    def attempt() -> None:
        with recorded(tmp_path) as result:
            assert Result.read(tmp_path).metrics == figures == result.metrics
            raise OSError("the data is gone")

    with pytest.raises(OSError, match="data is gone"):
        attempt()
    ended = Result.read(tmp_path)
    assert (ended.status, ended.metrics, ended.epochs) == ("failed", figures, 3)


def test_an_attempt_that_came_to_no_figure_leaves_none_to_the_next(tmp_path: Path):
    Result(status="killed", error="stopped").write(tmp_path)
    with recorded(tmp_path) as result:
        assert Result.read(tmp_path) is None
        assert result.metrics == {}


def test_a_trial_that_was_killed_while_it_drew_is_not_done_and_keeps_its_figures(tmp_path: Path):
    trial = Trial(0, {}, {}, "a", tmp_path)
    Result(status=ANALYSING, metrics={"test/acc": 0.5}).write(tmp_path)
    assert not trial.look().done
    trial.begin()
    assert trial.look().metrics == {"test/acc": 0.5}
    Result(status="failed", error="x").write(tmp_path)
    trial.begin()
    assert trial.look().result is None


def test_a_run_killed_while_it_draws_goes_on_with_its_analysis(tmp_path: Path):
    process = subprocess.Popen(
        command(tmp_path, *SMALL, "analysis=full"), cwd=PROJECT, stderr=subprocess.DEVNULL
    )
    while not (tmp_path / "result.json").exists() and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    killed = Result.read(tmp_path)
    assert killed.status == ANALYSING
    assert killed.metrics.keys() >= {"test/acc", "test/loss", "val/acc_best"}
    epochs = (tmp_path / "metrics.csv").read_text()

    again = [sys.executable, "-m", "experiments.run", f"resume={tmp_path}"]
    done = subprocess.run(again, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "epoch 1/1" not in done.stderr
    assert (tmp_path / "metrics.csv").read_text() == epochs
    ended = Result.read(tmp_path)
    assert (ended.status, ended.metrics) == ("finished", killed.metrics)
    assert (tmp_path / "analysis" / "report.html").exists()


def test_the_closing_lines_tell_what_an_accuracy_alone_hides():
    metrics = {"test/acc": 50 / 51, "test/balanced_acc": 0.5, "val/acc_best": 1.0}
    result = Result(metrics=metrics, remarks=["never predicted: 'rare' (1 picture)"], epochs=2)
    assert dict(console.figures(result, 51)) == {
        "test accuracy": "98.04%  (50 of 51 pictures; 95 %: 89.7 to 99.7 %)",
        "val accuracy": "100.00%  (best of 2 epochs)",
        "balanced": "50.00%  (mean of the classes' own test accuracies)",
        "note": "never predicted: 'rare' (1 picture)",
    }
