"""Files carry the number of their format: newer ones are refused. docs/formats.md has all of them."""

import csv
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from cifar_core.files import FORMAT
from cifar_core.report.tables import ERROR_COLUMNS, ISSUE_COLUMNS
from cifar_core.train import checkpoint
from experiments.config.settings import SweepSettings
from experiments.files import read_json, write_json
from experiments.runs.read import arrays
from experiments.runs.result import Result
from experiments.sweep.home import Home
from experiments.sweep.ledger import Ledger, saved_study
from experiments.sweep.trials import Trial
from tests.conftest import PROJECT, Cli

WORDS = set(re.findall(r"`([^`\n]+)`", (PROJECT / "docs" / "formats.md").read_text(encoding="utf-8")))
LEGACY = PROJECT / "tests" / "legacy"


def a_json(path: Path, number: int | None) -> None:
    write_json(path, {"status": "finished"} | ({} if number is None else {"format": number}))


def an_npz(path: Path, number: int | None) -> None:
    np.savez(path, labels=np.arange(3), **({} if number is None else {"format": np.array(number)}))


def a_checkpoint(path: Path, number: int | None) -> None:
    torch.save({"model": {}, "epoch": 1} | ({} if number is None else {"format": number}), path)


def a_sweep(path: Path, number: int | None) -> None:
    path.write_text(yaml.safe_dump({"over": True} | ({} if number is None else {"format": number})))


def a_ledger(path: Path, number: int | None) -> None:
    ledger = Ledger(path, SweepSettings(), epochs=1)
    if number is not None:
        ledger._study.set_user_attr("format", number)


KINDS: dict[str, tuple[str, Callable[[Path, int | None], None], Callable[[Path], object]]] = {
    "json": ("result.json", a_json, read_json),
    "npz": ("predictions.npz", an_npz, arrays),
    "checkpoint": ("last.pt", a_checkpoint, checkpoint.load),
    "sweep": ("sweep.yaml", a_sweep, lambda path: Home(path.parent).target(1, 0)),
    "ledger": ("ledger.jsonl", a_ledger, saved_study),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_newer_format_is_refused_and_one_without_number_read(kind: str, tmp_path: Path):
    name, write, read = KINDS[kind]
    for number in (None, FORMAT):
        write(tmp_path / name, number)
        assert read(tmp_path / name)
        (tmp_path / name).unlink()
    write(tmp_path / name, FORMAT + 1)
    with pytest.raises(ValueError, match=f"{name} is of a newer version: format {FORMAT + 1}, and this one"):
        read(tmp_path / name)


def test_what_is_read_has_no_number_in_it(tmp_path: Path):
    write_json(tmp_path / "a.json", {"status": "finished"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"format": FORMAT, "status": "finished"}
    assert read_json(tmp_path / "a.json") == {"status": "finished"}
    checkpoint.save(tmp_path / "best.pt", {"model": {}})
    assert torch.load(tmp_path / "best.pt", weights_only=True)["format"] == FORMAT
    assert checkpoint.load(tmp_path / "best.pt") == {"model": {}}


def test_the_page_names_the_keys_of_results_and_trials_and_the_columns_of_tables():
    keys = {field.name for kind in (Result, Trial) for field in dataclasses.fields(kind)} - {"folder"}
    assert keys | set(ERROR_COLUMNS) | set(ISSUE_COLUMNS) <= WORDS


def test_the_page_names_the_files_of_a_sweep():
    names = {path.name for path in (LEGACY / "sweep").iterdir() if path.is_file()}
    assert names <= WORDS


@pytest.mark.slow
def test_the_page_names_what_a_run_leaves_and_it_is_numbered(cli: Cli, tmp_path: Path):
    run = tmp_path / "run"
    words = ["experiment=quickstart", "model.width=8", "trainer.epochs=1", "trainer.keep=all"]
    assert cli(*words, f"hydra.run.dir={run}", f"tracking.uri=sqlite:///{tmp_path}/a.db").returncode == 0
    files = {path.relative_to(run) for path in run.rglob("*") if path.is_file()}
    assert {path.name for path in files if path.parts[0] != "watch"} <= WORDS
    with (run / "metrics.csv").open() as file:
        assert set(csv.DictReader(file).fieldnames or ()) <= WORDS
    contents = {name: json.loads((run / name).read_text()) for name in ("result.json", "environment.json")}
    contents |= {name: dict(np.load(run / "analysis" / name)) for name in ("predictions.npz", "cams.npz")}
    contents |= {name: torch.load(run / name, weights_only=True) for name in ("best.pt", "last.pt")}
    contents["metrics.json"] = json.loads((run / "analysis" / "metrics.json").read_text())
    for name, content in contents.items():
        assert set(content) <= WORDS, name
        assert int(content["format"]) == FORMAT, name
    records = list(map(json.loads, (run / "tracking.jsonl").read_text().splitlines()))
    assert records[0]["format"] == FORMAT
    assert {record["kind"] for record in records} <= WORDS
