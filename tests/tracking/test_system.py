"""System metrics: figures of the machine under a run, logged from a thread of their own."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from experiments.config.compose import compose
from experiments.files import PROJECT
from experiments.runs.story import run
from experiments.sweep.jobs import track_sweep
from experiments.tracking.spool import Spool
from experiments.tracking.system import SystemMetrics
from tests.tracking.conftest import history, tracker

psutil = pytest.importorskip("psutil")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's, of its database library

MEMORY = "system/system_memory_usage_megabytes"
RUN = [
    "experiment=quickstart",
    "trainer.epochs=2",
    "trainer.threads=1",
    "trainer.device=cpu",
    "analysis=none",
]


def samplers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "system metrics"]


def steps(folder: Path, key: str = MEMORY) -> list[int]:
    records = [record for record, _ in Spool(folder).read() if record["kind"] == "metrics"]
    return [record["step"] for record in records if key in record["data"]]


def start(*words: str, path: Path = PROJECT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "experiments.run", *RUN, "tracking.system_metrics=true", *words]
    environment = os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{PROJECT}"}
    return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)


def test_samples_are_of_this_machine_one_step_after_the_other() -> None:
    taken: list[tuple[int, dict[str, float]]] = []
    metrics = SystemMetrics(lambda numbers, step: taken.append((step, numbers)), seconds=0.02)
    metrics.start(step=7)
    while len(taken) < 3:
        time.sleep(0.01)
    metrics.stop()
    assert [step for step, _ in taken] == list(range(7, 7 + len(taken)))
    assert samplers() == []
    for _, numbers in taken:
        assert all(key.startswith("system/") for key in numbers)
        assert numbers["system/cpu_utilization_percentage"] <= 100
        assert numbers[MEMORY] == pytest.approx(psutil.virtual_memory().used / 1e6, rel=0.5)
        assert numbers["system/network_receive_megabytes"] >= 0


@pytest.mark.parametrize("end", [None, ValueError("a defect"), KeyboardInterrupt(), SystemExit(143)])
def test_the_thread_ends_with_the_run_and_its_last_sample_comes_before_the_status(
    end: BaseException | None, uri: str, client: MlflowClient, tmp_path: Path
) -> None:
    def block() -> None:
        with run:
            assert len(samplers()) == 1
            if end:
                raise end

    run = tracker(tmp_path / "run", uri, system_metrics=True)
    if end:
        with pytest.raises(type(end)):
            block()
    else:
        block()
    assert samplers() == []
    kinds = [record["kind"] for record, _ in Spool(tmp_path / "run").read()]
    assert kinds == ["start", "metrics", "status"]
    assert [step for step, _ in history(client, run.run_id, MEMORY)] == [0]


def test_a_run_that_is_taken_up_again_goes_on_with_the_next_step(
    uri: str, client: MlflowClient, tmp_path: Path
) -> None:
    for _ in range(2):
        with tracker(tmp_path / "run", uri, system_metrics=True) as run:
            run.log_metrics({"train/loss": 1.0}, step=5)
    assert steps(tmp_path / "run") == [0, 1]
    assert [step for step, _ in history(client, run.run_id, MEMORY)] == [0, 1]


def test_what_two_threads_log_is_kept_whole(tmp_path: Path) -> None:
    run = tracker(tmp_path / "run", "http://127.0.0.1:9", system_metrics=True)
    run._system = SystemMetrics(run.log_metrics, seconds=0.0005)
    with run:
        while len(steps(tmp_path / "run")) < 20:
            for step in range(100):
                run.log_metrics({f"train/{'x' * 9000}": 1.0}, step=step)
    lines = (tmp_path / "run" / "tracking.jsonl").read_text().splitlines()
    assert {json.loads(line)["kind"] for line in lines} == {"start", "metrics", "status"}
    assert steps(tmp_path / "run") == list(range(len(steps(tmp_path / "run"))))


def test_a_machine_that_does_not_tell_costs_one_line_and_no_run(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(psutil, "disk_usage", lambda path: (_ for _ in ()).throw(PermissionError("no /proc")))
    with tracker(tmp_path / "run", uri, system_metrics=True) as run:
        run.log_metrics({"train/loss": 1.0}, step=1)
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        "tracking: no more system metrics: no /proc"
    ]
    assert [record["kind"] for record, _ in Spool(tmp_path / "run").read()] == ["start", "metrics", "status"]


def test_the_run_of_a_sweep_itself_has_none(uri: str, tmp_path: Path) -> None:
    options = {
        "_target_": "experiments.tracking.mlflow_tracker.MlflowTracker",
        "uri": uri,
        "system_metrics": True,
    }
    options |= {"experiment": "trials", "required": False, "nested": False}
    track_sweep(tmp_path / "sweep", options, "", {"trials/finished": 2.0}, "", [])
    assert steps(tmp_path / "sweep", "trials/finished") == [0]
    assert steps(tmp_path / "sweep") == []


@pytest.mark.slow
def test_without_psutil_a_run_and_a_sweep_are_refused_before_they_start(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['psutil'] = None")
    for words in [[f"hydra.run.dir={tmp_path}/run"], ["-m", "seed=0,1", f"hydra.sweep.dir={tmp_path}/sweep"]]:
        done = start(*words, path=tmp_path)
        assert done.returncode == 2
        (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert "tracking.system_metrics needs psutil" in error
        assert "pip install psutil" in error
    assert not [path for path in tmp_path.iterdir() if path.name in ("run", "sweep")]


def test_a_run_with_system_metrics_learns_what_one_without_does(uri: str, tmp_path: Path) -> None:
    for name, value in {"on": "true", "off": "false"}.items():
        words = [*RUN, "model.width=4", f"tracking.uri={uri}", f"tracking.system_metrics={value}"]
        run(compose(words), tmp_path / name)
    assert steps(tmp_path / "on")
    assert not steps(tmp_path / "off")
    losses = [
        [line.split(",")[:7] for line in (tmp_path / name / "metrics.csv").read_text().splitlines()]
        for name in ("on", "off")
    ]
    assert losses[0] == losses[1]
