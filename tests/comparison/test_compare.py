"""The command: a real run found by MLflow and compared, and its user's mistakes."""

import json
from pathlib import Path

import pytest

from experiments.config.compose import compose
from experiments.runs.story import run
from experiments.tracking.search import tracked_folders
from tests.comparison.by_hand import rows
from tests.conftest import Cli
from tests.runs.test_story import SMALL


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's, of its database library
def test_a_real_run_is_found_by_mlflow_and_compared(cli: Cli, tmp_path: Path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    words = [*SMALL, f"tracking.uri={uri}", "tracking.experiment=tiny", "analysis=light"]
    run(compose(words), tmp_path / "run", overrides=words)
    wanted = "params.model._target_ = 'cifar_core.models.resnet.resnet20'"
    assert tracked_folders(uri, None, wanted) == [tmp_path / "run"]
    assert tracked_folders(uri, "tiny", "metrics.`val/acc` > 1") == []
    for clause, finds in (
        ("params.model = 'resnet20'", True),
        ("params.`trainer.ema_decay` = '0.0' and metrics.`val/acc` <= 1", True),  # the default: no parameter
        ("parameters.`trainer.ema_decay` = '0.0' and tags.seed = '7'", False),
        ("params.`trainer.ema_decay` != '0.0'", False),
        ("params.`trainer.ema_decay` like '0%' and dataset.name = 'digits' and status = 'FINISHED'", True),
    ):
        assert tracked_folders(uri, None, clause) == [tmp_path / "run"] * finds
    with pytest.raises(ValueError, match="--filter: Invalid clause"):
        tracked_folders(uri, None, "params.a = '1' bogus")
    with pytest.raises(ValueError, match="--filter: Invalid clause"):
        tracked_folders(uri, None, "bogus")
    with pytest.raises(ValueError, match="--experiment must be one of tiny, Default, got 'large'"):
        tracked_folders(uri, "large", "")
    with pytest.raises(FileNotFoundError, match="there is no MLflow store"):
        tracked_folders(f"sqlite:///{tmp_path / 'absent.db'}", None, "")
    done = cli("--filter", wanted, "--uri", uri, "--out", str(tmp_path / "out"), module="compare")
    assert done.returncode == 0, done.stderr
    (row,) = rows(tmp_path / "out" / "runs.csv")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert float(row["test/acc"]) == result["metrics"]["test/acc"]
    assert "Best by validation: A" in done.stdout
    assert done.stderr == f"page: {tmp_path / 'out' / 'comparison.html'}, with more beside it\n"


def test_mistakes_of_the_command(cli: Cli, tmp_path: Path):
    for words, said in (
        ([], "name at least one folder, or give --filter"),
        ([str(tmp_path)], f"error: {tmp_path} holds no run"),
        (["--uri", "sqlite:///x.db", str(tmp_path)], "say where --filter searches"),
        (["security.allowed_targets=[mine.]", str(tmp_path)], "is for --cams, which is not given"),
    ):
        done = cli(*words, "--out", str(tmp_path / "out"), module="compare")
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        assert not (tmp_path / "out").exists()
