"""Which folders are runs, which runs count, and what of a run makes a configuration."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from experiments.comparison.markdown import markdown
from experiments.comparison.read import run_folders
from experiments.comparison.write import write
from tests.comparison.by_hand import LABELS, compared, make


def test_folders_are_searched_once_and_not_within_runs(runs: Path, tmp_path: Path):
    make(runs / "low0" / "evaluations" / "inner")
    found = run_folders([runs / "low0", runs, runs / "deep" / ".."])
    assert [folder.name for folder in found] == ["low0", "high0", "high1", "high2", "low1"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty holds no run"):
        run_folders([tmp_path / "empty"])
    with pytest.raises(FileNotFoundError, match="absent is not a folder"):
        run_folders([tmp_path / "absent"])


def test_only_finished_runs_count_and_the_others_say_why_not(runs: Path):
    for status in ("failed", "pruned", "killed", "unfinished"):
        make(runs / status, status=status, val=0.99)
    (make(runs / "torn") / "result.json").write_text('{"status": ')
    found = compared(runs)
    assert sorted(run.status for run in found.others) == [
        "damaged",
        "failed",
        "killed",
        "pruned",
        "unfinished",
    ]
    assert sum(len(c.runs) for c in found.configurations) == 5
    assert "why \\<b>not\\</b> \\| so" in markdown(found)


def test_what_changes_no_figure_makes_no_configuration(runs: Path):
    make(runs / "elsewhere", seed=7, lr=0.5, val=0.8, device="cuda", words=("tracking=none",))
    assert len(compared(runs).configurations) == 2


LOGITS = np.eye(3, dtype=np.float32)[LABELS]
DAMAGED = {
    "result.json": [{"status": []}, {"epochs": "many"}, {"error": 5}, {"log": 3}, {"metrics": [1]}],
    "trial.json": [{"seeds": math.inf}],
    "config.yaml": ["[1]", "data: 5", "data: {val_size: [}"],
    "metrics.csv": ["epoch,val/acc\nnan,1\n", "epoch,val/acc\ninf,1\n", "step,val/acc\n1,1\n"],
    "analysis/predictions.npz": [
        {"logits": LOGITS[:50]},
        {"logits": LOGITS[:, :2]},
        {"logits": np.full(LOGITS.shape, "x")},
        {"labels": LABELS + 1},
        {"labels": LABELS - 1},
        {"labels": LABELS / 2},
        {"index": LABELS[:5]},
        {"names": np.array(["one"])},
        {"classes": np.array("cat")},
    ],
}


@pytest.mark.parametrize("name", DAMAGED)
def test_whatever_a_file_holds_it_is_one_damaged_run_at_most(runs: Path, tmp_path: Path, name: str):
    file = make(runs / "bad", lr=0.9) / name
    if name == "config.yaml":  # which tells the protocol of a run that has not
        (runs / "bad" / "result.json").write_text('{"status": "failed"}')
    whole = dict(np.load(file)) if file.suffix == ".npz" else {"status": "failed"}
    for damage in DAMAGED[name]:
        if isinstance(damage, str):
            file.write_text(damage)
        elif file.suffix == ".npz":
            np.savez(file, **(whole | damage))
        else:
            file.write_text(json.dumps(whole | damage))
        (bad,) = write(run_folders([runs]), tmp_path / "out").damaged
        assert (bad.folder.name, bad.status) == ("bad", "damaged"), damage


def test_figures_that_are_none_cost_no_page(runs: Path, tmp_path: Path):
    text = "epoch,train/loss,images_per_second\n1,1e308,inf\n2,-1e308,nan\n"
    (make(runs / "wild", lr=0.9) / "metrics.csv").write_text(text)
    (runs / "wild" / "overrides.yaml").write_text("[5, null, {a: b}]")
    assert not write(run_folders([runs]), tmp_path / "out").damaged
