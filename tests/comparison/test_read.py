"""Which folders are runs, which runs count, and what of a run makes a configuration."""

from pathlib import Path

import pytest

from experiments.comparison.markdown import markdown
from experiments.comparison.read import run_folders
from tests.comparison.by_hand import compared, make


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
