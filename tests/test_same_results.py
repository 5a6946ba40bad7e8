"""The comparison of two makings: it notices a digit in every kind of file, and nothing passes unseen."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
import yaml
from PIL import Image

from tests.same_results import MADE, NEEDED, READERS, main, told

METRICS = "epoch,val/acc,seconds\n1,0.25,{seconds}\n2,nan,{seconds}\n"
STORE = """
CREATE TABLE experiments (experiment_id, name);
CREATE TABLE runs (run_uuid, experiment_id, name, status);
CREATE TABLE params (run_uuid, key, value);
CREATE TABLE tags (run_uuid, key, value);
CREATE TABLE metrics (run_uuid, key, step, value);
CREATE TABLE datasets (dataset_uuid, name, digest, dataset_source);
CREATE TABLE inputs (source_id, destination_id);
INSERT INTO experiments VALUES (1, 'all');
INSERT INTO runs VALUES ('{id}', 1, 'one 2026-11-27 12:{seconds:02.0f}', 'FINISHED');
INSERT INTO params VALUES ('{id}', 'model', 'core.net.small');
INSERT INTO tags VALUES ('{id}', 'tracker.spool', '{id}'), ('{id}', 'run_folder', '{out}/run');
INSERT INTO metrics VALUES ('{id}', 'val/acc', 1, 0.25), ('{id}', 'seconds', 1, {seconds});
INSERT INTO datasets VALUES ('d', 'digits', 'abc', '{out}/home');
INSERT INTO inputs VALUES ('d', '{id}');
"""


def write_making(out: Path, *, seconds: float, run_id: str) -> Path:
    """Write a small making by hand: all that `compare` needs, with times, ids and folders of its own."""
    run, sweep = out / "runs" / "one", out / "sweeps" / "grid"
    for folder in (run / "analysis", sweep, out / "comparison", out / "printed", out / "home"):
        folder.mkdir(parents=True)
    (out / "home" / "font.json").write_text(run_id)
    for name in ("misclassified.csv", "label_issues.csv"):
        (run / "analysis" / name).write_text("index,true\n")
    (run / "metrics.csv").write_text(METRICS.format(seconds=seconds))
    result = {"metrics": {"val/acc": 0.25}, "seconds": {"train": seconds}, "run_id": run_id}
    (run / "result.json").write_text(json.dumps(result))
    config = {"data": {"root": f"{out}/home"}, "model": {"_target_": "core.net.small", "width": 4}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "analysis" / "metrics.json").write_text('{"ece": NaN}')
    (run / "evaluation.json").write_text(json.dumps({"run": str(run), "acc": 0.5}))
    np.savez(run / "analysis" / "predictions.npz", logits=np.eye(2, dtype=np.float32))
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(run / "analysis" / "sheet.png")
    weights = {"conv": torch.ones(2, 2), "bn": torch.tensor(3)}
    torch.save({"model": weights, "epoch": 2}, run / "best.pt")
    torch.save(
        {"identity": {"config": run_id}, "history": [{"seconds": seconds, "lr": 0.1}]}, run / "last.pt"
    )
    (out / "printed" / "predict.csv").write_text(f"file,class\n{out}/a.png,disc\n")
    table = f"| run | acc | seconds |\n| --- | --- | --- |\n| {run} | 0.25 | {seconds} |\n"
    (out / "comparison" / "comparison.md").write_text(
        f"# Runs\n\n{table}\n1 finished, {seconds} training seconds\n"
    )
    (out / "comparison" / "runs.csv").write_text("run,acc\none,0.25\n")
    (sweep / "trials.csv").write_text(f"name,acc,seconds\nlr=0.1,0.25,{seconds}\n")
    write_ledger(sweep / "ledger.jsonl", 0.25)
    with closing(sqlite3.connect(out / "mlflow.db")) as database:
        database.executescript(STORE.format(id=run_id, out=out, seconds=seconds))
    artifacts = out / "mlartifacts" / run_id / "images"
    artifacts.mkdir(parents=True)
    (artifacts / f"sheet+step+1+timestamp+{int(seconds * 1000)}+{'-'.join([run_id] * 2)[:36]}.webp").touch()
    (out / MADE).write_text(json.dumps({"checkout": f"{out}/code", "out": str(out), "commands": [["run"]]}))
    return out


def write_ledger(path: Path, value: float) -> None:
    path.unlink(missing_ok=True)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    study = optuna.create_study(storage=storage, study_name="sweep", direction="maximize")
    space = {"lr": optuna.distributions.FloatDistribution(0.01, 1)}
    study.add_trial(
        optuna.create_trial(
            value=value,
            params={"lr": 0.1},
            distributions=space,
            user_attrs={"point": "abc"},
            intermediate_values={1: 0.125},
        )
    )


@pytest.fixture(scope="module")
def makings(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = tmp_path_factory.mktemp("makings")
    before = write_making(folder / "before", seconds=1.5, run_id="0123456789abcdef" * 2)
    return before, write_making(folder / "after", seconds=22.25, run_id="fedcba9876543210" * 2)


@pytest.fixture
def after(makings: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the later making, to be changed."""
    return shutil.copytree(makings[1], tmp_path / "copy")


@pytest.fixture
def said(
    makings: tuple[Path, Path], after: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    """Compare the earlier making with the copy; return the lines that tell of differences and of renames."""

    def call(*options: str, code: int) -> list[str]:
        assert main(["compare", str(makings[0]), str(after), *options]) == code
        return [
            line for line in capsys.readouterr().out.splitlines() if line.startswith(("DIFFERS", "renamed"))
        ]

    return call


def test_time_ids_and_folders_are_no_difference_and_all_kinds_of_files_are_compared(
    makings: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
):
    assert main(["compare", *map(str, makings)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("0 differences in 18 files with ")
    counts = {
        line[19:].split()[0]: int(line[19:].split()[1]) for line in lines if line.startswith("compared")
    }
    assert counts.keys() == READERS.keys() - {"*.txt"}
    assert min(counts.values()) > 0
    assert "known to be there, not compared: 1 .webp" in lines


def replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(out: Path) -> None:
        text = (out / name).read_text()
        assert text.count(old) == 1
        (out / name).write_text(text.replace(old, new))

    return change


def change_store(query: str) -> Callable[[Path], None]:
    def change(out: Path) -> None:
        with closing(sqlite3.connect(out / "mlflow.db")) as database, database:
            assert database.execute(query).rowcount == 1

    return change


def change_weight(out: Path) -> None:
    saved = torch.load(out / "runs/one/best.pt", weights_only=True)
    saved["model"]["conv"][1, 0] += 2**-23  # the last bit
    torch.save(saved, out / "runs/one/best.pt")


def change_logit(out: Path) -> None:
    np.savez(out / "runs/one/analysis/predictions.npz", logits=np.array([[1, 0], [-0.0, 1]], np.float32))


def change_pixel(out: Path) -> None:
    with Image.open(out / "runs/one/analysis/sheet.png") as image:
        image.putpixel((1, 0), (0, 0, 1))
        image.save(out / "runs/one/analysis/sheet.png")


RUN, STORED = "runs/one", "mlflow.db: one"
CHANGES = [
    (replace(f"{RUN}/metrics.csv", "0.25", "0.26"), f"{RUN}/metrics.csv: row 0 val/acc: '0.25' | '0.26'"),
    (replace(f"{RUN}/metrics.csv", "nan", "0.2"), f"{RUN}/metrics.csv: row 1 val/acc: 'nan' | '0.2'"),
    (replace(f"{RUN}/result.json", "0.25", "0.5"), f"{RUN}/result.json: metrics.val/acc: 0.25 | 0.5"),
    (replace(f"{RUN}/config.yaml", "width: 4", "width: 4.0"), f"{RUN}/config.yaml: model.width: 4 | 4.0"),
    (replace(f"{RUN}/analysis/metrics.json", "NaN", "0"), f"{RUN}/analysis/metrics.json: ece: nan | 0"),
    (replace("printed/predict.csv", "disc", "bar"), "printed/predict.csv: row 0 class: 'disc' | 'bar'"),
    (
        replace("comparison/comparison.md", "0.25", "0.2"),
        "comparison/comparison.md: line 4 acc: '0.25' | '0.2'",
    ),
    (replace("sweeps/grid/trials.csv", "0.25", "0.2"), "sweeps/grid/trials.csv: row 0 acc: '0.25' | '0.2'"),
    (change_weight, f"{RUN}/best.pt: model.conv: 1 of 4 elements, the first at (1, 0): 1.0 | 1.000000"),
    (change_logit, f"{RUN}/analysis/predictions.npz: logits: other bits of equal numbers"),
    (change_pixel, f"{RUN}/analysis/sheet.png: pixels: 1 of 12 elements, the first at (0, 1, 2): 0 | 1"),
    (
        lambda out: write_ledger(out / "sweeps/grid/ledger.jsonl", 0.5),
        "sweeps/grid/ledger.jsonl: abc.values.0: 0.25 | 0.5",
    ),
    (change_store("UPDATE params SET value='b'"), f"{STORED} param model: 'core.net.small' | 'b'"),
    (
        change_store("UPDATE metrics SET value=1 WHERE key='val/acc'"),
        f"{STORED} metric val/acc step 1: 0.25 | 1",
    ),
    (
        change_store("UPDATE tags SET value='b' WHERE key='run_folder'"),
        f"{STORED} tag run_folder: '<out>/run' | 'b'",
    ),
    (change_store("UPDATE runs SET status='FAILED'"), f"{STORED} status: 'FINISHED' | 'FAILED'"),
    (
        change_store("UPDATE datasets SET digest='b'"),
        f"{STORED} dataset: 'digits abc <out>/home' | 'digits b ",
    ),
]


@pytest.mark.parametrize(("change", "start"), CHANGES, ids=[start.partition(" |")[0] for _, start in CHANGES])
def test_one_digit_is_a_difference(said, after: Path, change: Callable[[Path], None], start: str):
    change(after)
    (line,) = said(code=1)
    assert line.startswith(f"DIFFERS  {start}")


def test_of_long_texts_the_place_that_differs_is_told():
    before, after = told("-" * 900 + "1" + "-" * 900, "-" * 900 + "2" + "-" * 900).split(" | ")
    assert before.replace("1", "2") == after != before
    assert len(before) < 300


def test_a_file_or_a_key_that_one_side_lacks_is_a_difference_even_where_it_may_vary(said, after: Path):
    (after / RUN / "analysis" / "sheet.png").rename(after / RUN / "analysis" / "page.png")
    replace(f"{RUN}/metrics.csv", "seconds", "took")(after)
    replace(f"{RUN}/result.json", '"run_id"', '"id"')(after)
    assert {line.removeprefix("DIFFERS  ") for line in said(code=1)} == {
        f"{RUN}/analysis/sheet.png: is not there after",
        f"{RUN}/analysis/page.png: is not there before",
        f"{RUN}/metrics.csv: column 2: 'seconds' | 'took'",
        *(f"{RUN}/metrics.csv: row {row} seconds: is not there after" for row in (0, 1)),
        *(f"{RUN}/metrics.csv: row {row} took: is not there before" for row in (0, 1)),
        f"{RUN}/result.json: run_id: is not there after",
        f"{RUN}/result.json: id: is not there before",
        "*/analysis/*.png: no such file was compared",
    }


def test_moved_names_are_told_as_renamed_and_explain_nothing_else(said, after: Path):
    moved = "core.models.net.small"
    replace(f"{RUN}/config.yaml", "core.net.small", moved)(after)
    change_store(f"UPDATE params SET value='{moved}'")(after)
    assert len(said(code=1)) == 2
    (line,) = said("--renamed", "core.net=core.models.net", code=0)
    assert line == f"renamed  core.net.small -> {moved}, in 2 places"
    for part in ("core.ne=core.models.ne", "net=models.net"):  # neither is a whole name or its beginning
        assert len(said("--renamed", part, code=1)) == 2
    replace(f"{RUN}/config.yaml", moved, f"{moved}er")(after)
    differs, renamed = said("--renamed", "core.net=core.models.net", code=1)
    assert differs == f"DIFFERS  {RUN}/config.yaml: model._target_: 'core.net.small' | '{moved}er'"
    assert renamed.endswith("in 1 places")
    replace(f"{RUN}/config.yaml", f"{moved}er", moved)(after)
    two = ("--renamed", "model._target_=target", "--renamed", "model.width=target")
    assert f"DIFFERS  {RUN}/config.yaml: by --renamed, two of its keys become one" in said(*two, code=1)


def test_what_cannot_be_read_is_a_difference(said, after: Path):
    for name in ("best.pt", "metrics.csv"):
        (after / RUN / name).write_bytes(b"")
    (after / RUN / "result.json").write_text("{}")
    lines = said(code=1)
    assert len([line for line in lines if ": cannot be read: " in line]) == 2
    assert (
        len([line for line in lines if "result.json: " in line and line.endswith("is not there after")]) == 3
    )


def test_a_column_that_comes_twice_or_a_file_of_times_alone_is_a_difference(makings, tmp_path: Path, capsys):
    folders = [shutil.copytree(making, tmp_path / making.name) for making in makings]
    for folder in folders:
        (folder / "comparison" / "runs.csv").write_text("acc,acc\n0.1,0.2\n")
        (folder / "times.json").write_text('{"seconds": 1}')
    assert main(["compare", *map(str, folders)]) == 1
    said = capsys.readouterr().out
    assert "DIFFERS  comparison/runs.csv: cannot be read: " in said
    assert "has two values called row 0 acc" in said
    assert "DIFFERS  times.json: holds nothing to compare" in said


def test_nothing_is_proved_without_a_file_of_each_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
        (folder / MADE).write_text(json.dumps({"checkout": "/code", "out": str(folder), "commands": []}))
    assert main(["compare", *map(str, folders)]) == 1
    said = capsys.readouterr().out
    assert all(f"DIFFERS  {needed}: no such file was compared" in said for needed in NEEDED)


def test_a_making_that_did_not_end_is_refused(makings: tuple[Path, Path], after: Path):
    (after / MADE).unlink()
    with pytest.raises(SystemExit, match="2"):
        main(["compare", str(makings[0]), str(after)])
