"""Searches: pruning, the winner's test, refit, the report and what MLflow shows."""

import csv
import json
import re
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from cifar_core.data.sources import load_data
from cifar_core.train import checkpoint, predict
from cifar_core.train.numerics import numerics
from experiments.config import build
from experiments.config.compose import compose_saved
from experiments.config.values import settings
from experiments.runs.names import name_of
from experiments.sweep.home import Home
from experiments.sweep.report import write
from experiments.sweep.winner import winner
from tests.sweep.conftest import TINY, Sweep

pytestmark = pytest.mark.slow


def test_pruning_saves_epochs_and_finds_the_same_best(sweep: Sweep, net: list[str]):
    rates = ["1e-6", "1e-3", "1e-9", "1e-8", "2e-2", "1e-7", "1e-5", "3e-9"]
    grid = [
        *net,
        f"optimizer.lr={','.join(rates)}",
        "trainer.epochs=18",
        "scheduler=constant",
        "trainer.guards=warn",
    ]
    slow = ["+model.seconds=0.06"]  # a step: so that the controller sees each epoch
    done = sweep(*grid, *slow, "sweep.slots=4", "sweep.pruner=asha", "sweep.prune_after=1")
    assert done.returncode == 0, done.stderr
    results = sweep.results()
    pruned = {name for name, result in results.items() if result["status"] == "pruned"}
    assert pruned
    assert sum(result["epochs"] for result in results.values()) <= 0.7 * len(rates) * 18
    assert all((sweep.home / name / "best.pt").exists() for name in pruned)
    assert all("test/acc" not in results[name]["metrics"] for name in pruned)

    whole = sweep(*grid, "sweep.slots=2", "sweep.name=whole")
    assert whole.returncode == 0, whole.stderr
    best = _best(sweep.folder / "sweeps" / "whole")
    assert _best(sweep.home) == best
    full = json.loads((sweep.folder / "sweeps" / "whole" / best / "result.json").read_text())
    assert full["metrics"] == results[best]["metrics"]


def _best(home: Path) -> str:
    (trial,) = winner(Home(home).trials().values())
    return trial.folder.name


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A tracked search of three points over two seeds, whose winner is tested and trained again."""
    sweep = Sweep(tmp_path_factory.mktemp("searched"))
    tracking = ["tracking=mlflow", f"tracking.uri=sqlite:///{sweep.folder / 'mlflow.db'}"]
    untracked = [part for part in TINY if not part.startswith(("tracking", "analysis"))]
    done = sweep(
        *(*untracked, *tracking, "analysis=light", "optimizer.lr=tag(log, interval(0.01, 0.2))", "seed=0,1"),
        *("aug=none,flip", "sweep.n_trials=3", "sweep.slots=2"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("viewStateShareKey=sweep-") == 3  # begin and end
    return sweep


def test_the_winner_alone_reads_the_test_set(searched: Sweep):
    won = {trial.folder.name for trial in winner(Home(searched.home).trials().values())}
    assert len(won) == 2  # seeds
    tested = {name for name, result in searched.results().items() if "test/acc" in result["metrics"]}
    assert tested == won
    assert len(searched.results()) == 6
    page = (searched.home / "report.html").read_text()
    (test,) = re.findall(r"its test accuracy: ([\d.]+)", page)
    accs = [searched.results()[name]["metrics"]["test/acc"] for name in won]
    assert float(test) == pytest.approx(100 * np.mean(accs), abs=0.006)


def test_the_winners_test_is_the_one_its_weights_give(searched: Sweep):
    """The same weights, loaded apart from the sweep's code."""
    trial = winner(Home(searched.home).trials().values())[0]
    cfg = compose_saved(trial.folder, [])
    options = settings(cfg)
    data, device = load_data(options.data), numerics(options.trainer)
    model = device.place(build.model(cfg, num_classes=10))
    model.load_state_dict(checkpoint.load(trial.folder / "best.pt")["model"])
    scores = predict.evaluate(model, data, "test", device, batch_size=100)
    assert scores["test/acc"] == trial.look().metrics["test/acc"]


def test_mlflow_has_flat_runs_with_what_varies(searched: Sweep):
    database = sqlite3.connect(searched.folder / "mlflow.db")

    def rows(query: str) -> list[tuple]:
        return database.execute(query).fetchall()

    trials = searched.trials()
    names = {folder: name_of(searched.home / folder) for folder in trials}
    assert {name for (name,) in rows("SELECT name FROM runs")} == {"sweep test", *names.values()}
    assert all(names[folder].startswith(f"{trial['label']} 20") for folder, trial in trials.items())
    assert {status for (status,) in rows("SELECT status FROM runs")} == {"FINISHED"}
    assert rows("SELECT count(*) FROM tags WHERE key='sweep' AND value='test'") == [(7,)]
    kinds = rows("SELECT value, count(*) FROM tags WHERE key='kind' GROUP BY value ORDER BY value")
    assert kinds == [("sweep", 1), ("trial", 6)]
    points = rows("SELECT count(*) FROM tags WHERE key='point' GROUP BY value")
    assert points == [(2,)] * 3  # the seeds of each
    assert not rows("SELECT * FROM tags WHERE key='mlflow.parentRunId'")
    for folder, trial in trials.items():
        query = "SELECT p.key, p.value FROM params p JOIN runs r USING (run_uuid)"
        assert dict(rows(f"{query} WHERE r.name='{names[folder]}'")).items() >= trial["point"].items()
    tests = [acc for (acc,) in rows("SELECT value FROM latest_metrics WHERE key='test/acc'")]
    figures = [r["metrics"]["test/acc"] for r in searched.results().values() if "test/acc" in r["metrics"]]
    assert sorted(tests) == pytest.approx(sorted(figures))
    ((artifacts,),) = rows("SELECT artifact_uri FROM runs WHERE name='sweep test'")
    assert {"report.html", "report.md", "trials.csv"} <= {
        path.name for path in Path(artifacts.removeprefix("file://")).iterdir()
    }
    database.close()


def test_the_report_holds_every_trial_and_stands_alone(searched: Sweep):
    html, markdown, table = write(searched.home)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["name"] for row in rows} == {trial["label"] for trial in searched.trials().values()}
    accs = [float(row["val/acc_best"]) for row in rows]
    assert accs == sorted(accs, reverse=True)
    assert all(row["run_id"] and Path(row["folder"]).is_dir() for row in rows)
    page = html.read_text()
    for words in ("Configurations", "The best", "Curves", "What matters", "Runs", "Commands"):
        assert f"<h2>{words}</h2>" in page
    assert all(row["run_id"] in page for row in rows)  # the way to it in MLflow
    assert {url for url in re.findall(r"""(?:src|url\()[=("']*([a-z]+:)""", page)} == {
        "data:"
    }  # loads nothing
    assert "Best by validation" in markdown.read_text()


def test_an_extension_and_a_refit(searched: Sweep):
    untracked = [part for part in TINY if not part.startswith("analysis")]
    done = searched(
        *(*untracked, "analysis=none", "optimizer.lr=tag(log, interval(0.01, 0.2))", "seed=0,1"),
        *("aug=none,flip", "sweep.n_trials=3", "sweep.slots=2", "sweep.add_trials=1", "sweep.refit=true"),
    )
    assert done.returncode == 0, done.stderr
    assert len(searched.results()) == 8
    assert set(searched.starts().values()) == {1}
    won = [trial.folder.name for trial in winner(Home(searched.home).trials().values())]
    for name in won:
        result = json.loads((searched.home / "refit" / name / "result.json").read_text())
        assert result["status"] == "finished"
        assert result["protocol"] == "test_once"
        assert "test/acc" in result["metrics"]
        assert "test/acc" not in (searched.home / "refit" / name / "metrics.csv").read_text()
