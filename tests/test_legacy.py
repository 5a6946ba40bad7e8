"""What was made stays usable: folders, YAML files and names of commit 58896a5 work with every command.

`tests/legacy/make.py` says how the folders were made. They are used as copies, in another place than the one
that they were made in.
"""

import csv
import io
import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from cifar_core.data.sources import load_data
from experiments.config.compose import compose, compose_saved
from experiments.config.renamed import target
from experiments.config.targets import resolve
from experiments.config.values import plain, settings
from experiments.runs.story import run
from tests.conftest import PROJECT, Cli

LEGACY = PROJECT / "tests" / "legacy"
USER_CONF = LEGACY / "user_conf"
EXPECTED = json.loads((LEGACY / "expected.json").read_text())
NAMES = (LEGACY / "names.txt").read_text().split()
UNFINISHED = {"killed": 2, "stopped": 1}  # folder: epochs it has
LARGEST = 300_000  # bytes of everything under tests/legacy
SWEPT = ("trial", "status", "name", "optimizer.lr", "seed", "val/acc_best", "test/acc", "epochs")


def resolved(name: str) -> Any:
    """Return what a configuration gets for a `_target_`."""
    return resolve("legacy", target(name), ())


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def overrides(folder: Path) -> list[str]:
    return yaml.safe_load((folder / "overrides.yaml").read_text())


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def asked(store: str, question: str, *values: str) -> list[tuple]:
    with closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as database:
        return database.execute(question, values).fetchall()


def points(store: str, run_id: str, key: str) -> list[tuple]:
    return asked(
        store, "SELECT step, value FROM metrics WHERE run_uuid=? AND key=? ORDER BY step", run_id, key
    )


def good(done: CompletedProcess[str]) -> CompletedProcess[str]:
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The four folders, moved elsewhere."""
    place = tmp_path_factory.mktemp("moved")
    for name in ("finished", "killed", "stopped", "sweep"):
        shutil.copytree(LEGACY / name, place / name)
    return place


@pytest.fixture(scope="module")
def delivered(cli: Cli, copies: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A new store that has got everything which was tracked before it was there."""
    store = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    folders = [str(copies / name) for name in ("finished", "killed", "sweep")]
    done = good(cli(*folders, "--uri", store, module="sync"))
    assert done.stdout.count(": delivered, ") == 7
    return store


def test_the_folders_are_small_and_name_no_machine():
    files = [path for path in LEGACY.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < LARGEST
    for path in files:
        if path.suffix != ".py":
            places = re.findall(rb"[\"'`\s=(]/+([a-z]+/[a-z]+)", path.read_bytes())
            assert set(places) <= {b"home/student", b"usr/lib"}, path


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_old_can_still_be_a_target(name: str):
    assert callable(resolved(name))


@pytest.mark.parametrize("path", sorted(USER_CONF.glob("*/my_*.yaml")), ids=lambda path: path.stem)
def test_a_user_s_own_file_composes_and_keeps_its_values(path: Path):
    group = path.parent.name
    cfg = plain(compose(["data=digits", f"{group}={path.stem}"], config_dir=str(USER_CONF)))
    given = yaml.safe_load(path.read_text())
    found = cfg if group == "experiment" else cfg[group]
    for key in given.keys() - {"defaults", "_target_", "base", "image", "batch"}:
        assert found[key] == given[key] or given[key].items() <= found[key].items()
    assert [*found.get("image", {})] == [*given.get("image", {})]


@pytest.mark.slow
def test_a_run_with_a_user_s_own_files_in_all_groups(cli: Cli, delivered: str, tmp_path: Path):
    words = ["--config-dir", str(USER_CONF), "experiment=my_thesis", f"hydra.run.dir={tmp_path / 'run'}"]
    good(cli(*words, "trainer.device=cpu", MLFLOW_TRACKING_URI=delivered))
    end = result(tmp_path / "run")
    assert (end["status"], end["epochs"]) == ("finished", 1)
    ((experiment,),) = asked(
        delivered,
        "SELECT e.name FROM runs r JOIN experiments e USING (experiment_id) WHERE run_uuid=?",
        end["run_id"],
    )
    assert experiment == "my-thesis"


@pytest.mark.slow
def test_evaluating_the_finished_run_gives_its_own_figures(cli: Cli, copies: Path):
    done = good(cli(str(copies / "finished"), module="evaluate"))
    (path,) = copies.glob("finished/evaluations/*/evaluation.json")
    record, metrics = json.loads(path.read_text()), result(copies / "finished")["metrics"]
    assert (record["same_data"], record["changes"], record["epoch"]) == (True, {}, 3)
    assert record["acc"] == pytest.approx(metrics["test/acc"], abs=0.02)
    assert record["loss"] == pytest.approx(metrics["test/loss"], rel=1e-3)
    assert "pictures       the data the run was trained from" in done.stdout


@pytest.mark.slow
def test_predicting_a_test_picture_gives_the_run_s_own_answer(cli: Cli, copies: Path, tmp_path: Path):
    folder = copies / "finished"
    picture = load_data(settings(compose_saved(folder, [])).data).test.images[7]
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(tmp_path / "digit.png")
    done = good(
        cli(str(folder), str(tmp_path / "digit.png"), "--out", str(tmp_path / "out"), module="predict")
    )
    with np.load(folder / "analysis" / "predictions.npz") as file:
        probs = np.exp(file["logits"][7]) / np.exp(file["logits"][7]).sum()
        name = str(file["classes"][probs.argmax()])
    (row,) = rows(done.stdout)
    assert row["class"] == name
    assert float(row["confidence"]) == pytest.approx(probs.max(), abs=1e-3)


@pytest.mark.slow
def test_comparing_the_run_with_the_trials_finds_all_of_them(cli: Cli, copies: Path, tmp_path: Path):
    folders = [str(copies / "finished"), str(copies / "sweep")]
    good(cli(*folders, "--out", str(tmp_path), module="compare"))
    found = {Path(row["folder"]).name: row for row in rows((tmp_path / "runs.csv").read_text())}
    trials = {path.parent.name: path.parent for path in (LEGACY / "sweep").glob("*/trial.json")}
    for name, folder in (trials | {"finished": LEGACY / "finished"}).items():
        row = found.pop(name)
        assert float(row["test/acc"]) == result(folder)["metrics"]["test/acc"]
    assert found == {}
    configurations = rows((tmp_path / "configurations.csv").read_text())
    assert [(row["letter"], row["runs"]) for row in configurations] == [("A", "1"), ("B", "2"), ("C", "2")]
    assert len(rows((tmp_path / "pairs.csv").read_text())) == 4  # of the trials, which share their pictures


@pytest.mark.slow
def test_the_sweep_s_report_is_made_again_and_the_same_command_trains_nothing(cli: Cli, copies: Path):
    folder = copies / "sweep"
    trials = rows((folder / "trials.csv").read_text())
    for name in ("report.md", "trials.csv"):
        (folder / name).unlink()
    good(cli(str(folder), module="report"))
    again = rows((folder / "trials.csv").read_text())
    assert [[row[key] for key in SWEPT] for row in again] == [[row[key] for key in SWEPT] for row in trials]
    page = (folder / "report.html").read_text()
    assert "Best by validation: A (lr=0.2)" in page
    assert "of 20 pictures, 4 runs" in page

    before = {path: content for path, content in contents(folder).items() if len(path.parts) > 1}
    ledger = (folder / "ledger.jsonl").read_text()
    done = good(cli(*EXPECTED["sweep_command"], f"hydra.sweep.dir={folder}", "tracking=none"))
    after = {path: content for path, content in contents(folder).items() if len(path.parts) > 1}
    assert after == before
    assert (folder / "ledger.jsonl").read_text().count('"params"') == ledger.count('"params"')
    assert "[" not in done.stderr  # no line of a trial


@pytest.mark.slow
@pytest.mark.parametrize("name", UNFINISHED)
def test_an_unfinished_run_goes_on_from_its_checkpoint(cli: Cli, copies: Path, delivered: str, name: str):
    """One by `resume=`, the other by its own command; and both end as they did with the code of then."""
    folder, epochs = copies / name, UNFINISHED[name]
    words = [f"resume={folder}"] if name == "killed" else [*overrides(folder), f"hydra.run.dir={folder}"]
    done = good(cli(*words, MLFLOW_TRACKING_URI=delivered))
    assert f"goes on after epoch {epochs} of {folder}" in done.stderr
    lines = (folder / "metrics.csv").read_text().splitlines()
    begun = (LEGACY / name / "metrics.csv").read_text().splitlines()
    assert lines[: epochs + 1] == begun
    expected = EXPECTED["resumed"][name]
    history = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)]
    assert [(row["epoch"], row["step"]) for row in history] == [
        (row["epoch"], row["step"]) for row in expected["history"]
    ]
    for row, then in zip(history, expected["history"], strict=True):
        assert row["lr"] == pytest.approx(then["lr"], rel=1e-9)
        for key in ("train/loss", "val/loss"):
            assert row[key] == pytest.approx(then[key], rel=0.05)
    end = result(folder)
    assert (end["status"], end["epochs"]) == ("finished", len(history))
    assert end["metrics"]["test/loss"] == pytest.approx(expected["metrics"]["test/loss"], rel=0.05)
    assert end["metrics"]["test/acc"] == pytest.approx(expected["metrics"]["test/acc"], abs=0.1)
    if name == "killed":  # whose first epochs the store had before
        ((run_id,),) = asked(delivered, "SELECT run_uuid FROM runs WHERE name='killed'")
        assert end["run_id"] == run_id
        tracked = points(delivered, run_id, "val/acc")
        assert tracked == [(row["epoch"], row["val/acc"]) for row in history]


@pytest.mark.slow
def test_a_new_store_gets_what_was_tracked(delivered: str):
    runs = dict(asked(delivered, "SELECT name, run_uuid FROM runs WHERE name NOT LIKE 'my_%'"))
    trials = [f"lr={lr} s{seed}" for lr in (0.1, 0.2) for seed in (0, 1)]
    assert sorted(runs) == sorted(["finished", "killed", "sweep lr", *trials])
    acc = result(LEGACY / "finished")["metrics"]["test/acc"]
    assert points(delivered, runs["finished"], "test/acc") == [(3, acc)]
    assert points(delivered, runs["killed"], "val/acc")[:2] == [(1, 13 / 60), (2, 20 / 60)]
    params = dict(asked(delivered, "SELECT key, value FROM params WHERE run_uuid=?", runs["finished"]))
    saved = yaml.safe_load((LEGACY / "finished" / "config.yaml").read_text())
    assert params["scheduler._target_"] == saved["scheduler"]["_target_"]


def test_trained_weights_of_old_start_a_new_run(copies: Path, tmp_path: Path):
    words = [*overrides(copies / "finished"), f"model.weights={copies / 'finished'}"]
    words += ["trainer.epochs=1", "optimizer.lr=1e-4", "tracking=none"]
    trained = result(copies / "finished")["metrics"]["val/acc_best"]
    assert run(compose(words), tmp_path / "run") == pytest.approx(trained, abs=0.1)
