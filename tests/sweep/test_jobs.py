"""What runs in the processes forked from the warm server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from cifar_core.train import checkpoint
from experiments.config import build
from experiments.config.compose import compose
from experiments.config.values import plain
from experiments.runs.result import Result
from experiments.sweep import jobs
from experiments.tracking.spool import Spool
from tests.sweep.conftest import TINY


@pytest.fixture
def machine() -> Iterator[None]:
    """Torch as a new process finds it, and afterwards as it was."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


def test_the_winners_test_sets_the_machine_up_as_its_run_did(machine: None, tmp_path: Path):
    cfg = compose([*TINY, "trainer.threads=2"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain(cfg)))
    model = build.model(cfg, num_classes=10)
    checkpoint.save(tmp_path / "best.pt", {"model": model.state_dict(), "epoch": 3})
    before = Result(metrics={"val/acc_best": 0.5}, seconds={"train": 1.0}, epochs=4, protocol="validation")
    before.write(tmp_path)
    Spool(tmp_path).append("start", spool="x")
    metrics = jobs.test_trial(tmp_path, [])
    assert torch.get_num_threads() == 2
    assert torch.get_float32_matmul_precision() == "high"
    assert {"test/acc", "test/loss"} <= set(metrics)
    after = Result.read(tmp_path)
    assert after is not None
    assert vars(after) == vars(before) | {"metrics": before.metrics | metrics}
    record = Spool(tmp_path).last("metrics")
    assert record is not None
    assert (record["step"], record["data"]) == (3, metrics)
    (tmp_path / "environment.json").write_text('{"data": "those of then"}')
    with pytest.raises(ValueError, match="no longer those that .* was trained on: fingerprint those of then"):
        jobs.test_trial(tmp_path, [])
