import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

import pytest
from mlflow import MlflowClient
from PIL import Image

from experiments.files import PROJECT
from experiments.sync import main
from experiments.tracking.delivery import Delivery
from experiments.tracking.mlflow_store import MlflowStore, connect
from experiments.tracking.mlflow_tracker import MlflowTracker
from experiments.tracking.processes import HOST_TAG, PROCESS_TAG
from experiments.tracking.spool import Spool
from tests.tracking.conftest import tracker

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's, of its database library


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def server(folder: Path, port: int) -> Iterator[None]:
    """An MLflow server on a folder; all its processes are killed at the end."""
    uri = f"sqlite:///{folder / 'server.db'}"
    connect(uri)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
    command += [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("ab") as out:
        started = subprocess.Popen(
            command, env=environment, stdout=out, stderr=out, start_new_session=True, cwd=folder
        )
    try:
        until(lambda: answers(port))
        yield
    finally:
        os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
            return reply.status == 200
    except (URLError, OSError):
        return False


def until(condition) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "nothing happened for two minutes"
        time.sleep(0.1)


def everything(client: MlflowClient) -> dict[str, object]:
    """All that a store knows of the runs of `trials`, by their names."""
    experiment = client.get_experiment_by_name("trials").experiment_id
    return {run.info.run_name: told(client, run) for run in client.search_runs([experiment])}


def told(client: MlflowClient, run) -> dict[str, object]:
    points = [point for key in run.data.metrics for point in client.get_metric_history(run.info.run_id, key)]
    return {
        "id": run.info.run_id,
        "status": run.info.status,
        "times": (run.info.start_time, run.info.end_time),
        "params": run.data.params,
        "metrics": sorted((point.key, point.step, point.timestamp, point.value) for point in points),
        "files": sorted(file.path for file in client.list_artifacts(run.info.run_id, "analysis")),
        "images": sorted(file.path for file in client.list_artifacts(run.info.run_id, "images")),
    }


def spooled(folder: Path) -> list[tuple[str, int, int, float]]:
    metrics = [record for record, _ in Spool(folder).read() if record["kind"] == "metrics"]
    return sorted(
        (key, record["step"], record["t"], value)
        for record in metrics
        for key, value in record["data"].items()
    )


def epochs(run: MlflowTracker, numbers: range) -> None:
    for epoch in numbers:
        run.log_metrics({"train/loss": 1 / epoch, "val/acc": epoch / 100}, step=epoch)


def finish(run: MlflowTracker) -> None:
    analysis = run.out_dir / "analysis"
    analysis.mkdir()
    (analysis / "report.html").write_text("<p>")
    run.log_artifacts(analysis)
    Image.new("RGB", (40, 20), "red").save(run.out_dir / "sheet.png")
    run.log_image(run.out_dir / "sheet.png", "grad-cam/sheet", step=5)


@pytest.mark.slow
def test_what_a_dead_server_missed_is_delivered_later_and_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    with tracker(tmp_path / "runs" / "never", uri, run_name="never") as never:  # nobody listens
        never.log_params({"lr": 0.1})
        epochs(never, range(1, 6))
        finish(never)
        closing = time.monotonic()
    assert time.monotonic() - closing < 30  # the tracker's own deadline, not a speed
    assert never.run_id is None

    with server(tmp_path, port):
        with tracker(tmp_path / "runs" / "whole", uri, run_name="whole") as whole:
            epochs(whole, range(1, 4))
            finish(whole)
        killed_under = tracker(tmp_path / "runs" / "half", uri, run_name="half")
        killed_under.__enter__()
        killed_under.log_params({"lr": 0.2})
        epochs(killed_under, range(1, 4))
        until(lambda: Delivery(tmp_path / "runs" / "half", MlflowStore(uri)).is_complete)
    epochs(killed_under, range(4, 8))
    finish(killed_under)
    closing = time.monotonic()
    killed_under.__exit__(None, None, None)
    assert time.monotonic() - closing < 30
    assert main([str(tmp_path / "runs" / "half")]) == 1
    capsys.readouterr()

    with server(tmp_path, port):
        client = MlflowClient(tracking_uri=uri)
        before = everything(client)
        assert before.keys() == {"whole", "half"}
        assert before["half"]["status"] == "RUNNING"
        assert main([str(tmp_path / "runs")]) == 0
        first = everything(client)
        lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
        for name in ("never", "half", "whole"):
            folder = tmp_path / "runs" / name
            assert first[name]["metrics"] == spooled(folder)
            assert first[name]["status"] == "FINISHED"
            assert first[name]["files"] == ["analysis/report.html"]
            assert len(first[name]["images"]) == 2  # the picture and its thumbnail
            assert first[name]["times"][1] == Spool(folder).last("status")["t"]
            page = f"/runs/{first[name]['id']}?workflowType=machine_learning"
            assert lines[str(folder)].startswith("nothing new" if name == "whole" else "delivered")
            assert lines[str(folder)].endswith(page)
        assert first["half"]["id"] == before["half"]["id"]
        assert (first["never"]["params"], first["half"]["params"]) == ({"lr": "0.1"}, {"lr": "0.2"})

        assert main([str(tmp_path / "runs")]) == 0
        assert everything(client) == first
        for offset in (tmp_path / "runs").rglob("tracking.offset"):
            offset.unlink()  # as if nothing of what was delivered had been noted down
        assert main([str(tmp_path / "runs")]) == 0
        assert everything(client) == first


@pytest.mark.slow
def test_a_killed_run_is_closed_and_delivered_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spool = Spool(tmp_path)
    gone = subprocess.Popen(["true"])
    gone.wait()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    process = f"{gone.pid} 1 {boot} {os.readlink('/proc/self/ns/pid')}"
    spool.append(
        "start",
        spool="ab12",
        uri="http://127.0.0.1:9",
        experiment="trials",
        run_name="killed",
        tags={HOST_TAG: socket.gethostname(), PROCESS_TAG: process},
    )
    spool.append("metrics", step=1, data={"loss": "nan"}, t=1_700_000_000_000)
    assert main([str(tmp_path)]) == 1
    assert "Connection refused" in capsys.readouterr().out

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert main([str(tmp_path), "--uri", uri]) == 0
    [run] = everything(MlflowClient(tracking_uri=uri)).values()
    assert run["status"] == "KILLED"
    assert len(run["metrics"]) == 1


def test_a_nested_trial_lies_under_its_sweep_in_a_store_that_it_was_moved_to(
    uri: str, client: MlflowClient, tmp_path: Path
) -> None:
    sweep, first = tmp_path / "sweep", f"sqlite:///{tmp_path / 'first.db'}"
    with tracker(sweep, first) as its_own:
        pass
    with tracker(sweep / "trial", first, nested=True) as trial:
        trial.set_tags({"mlflow.parentRunId": its_own.run_id})  # as a sweep does
    assert main([str(sweep), "--uri", uri]) == 0
    under, moved = client.search_runs([client.get_experiment_by_name("trials").experiment_id])
    assert under.data.tags["mlflow.parentRunId"] == moved.info.run_id != its_own.run_id


def test_a_run_that_still_runs_is_left_to_its_own_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with tracker(tmp_path / "run", uri) as run:
        until(lambda: run.run_id)
        assert main([str(tmp_path)]) == 0
        assert capsys.readouterr().out == f"{tmp_path / 'run'}: still running: its own process delivers\n"
    assert Spool(tmp_path / "run").last("status")["status"] == "FINISHED"


def test_mistakes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path)])
    assert "holds no tracking.jsonl" in capsys.readouterr().err
    (tmp_path / "tracking.jsonl").write_text("nonsense\n")
    with pytest.raises(SystemExit, match="2"):
        main([str(tmp_path), "--uri", "mlruns"])
    assert "must start with one of sqlite" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 1
    assert "no readable start record" in capsys.readouterr().out


def test_a_password_comes_from_the_environment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with tracker(tmp_path, "http://me:s3cret@127.0.0.1:9"):
        pass
    assert main([str(tmp_path)]) == 1
    assert "give --uri or MLFLOW_TRACKING_URI" in capsys.readouterr().out
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:s3cret@127.0.0.1:9")
    assert main([str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "Connection refused" in told
    assert "s3cret" not in told


@pytest.mark.slow
def test_the_command_waits_for_neither_torch_nor_mlflow(tmp_path: Path) -> None:
    code = "import sys, experiments.sync; sys.exit(bool({'torch', 'mlflow'} & sys.modules.keys()))"
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, cwd=tmp_path)
