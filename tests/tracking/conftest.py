"""What the tests of tracking share: an empty MLflow store, a tracker, runs in processes of their own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from experiments.files import PROJECT
from experiments.tracking.mlflow_store import connect
from experiments.tracking.mlflow_tracker import MlflowTracker

# Runs of a process of its own: URI, epochs, what happens at the end of each, folders
RUNS = """
import os, signal, sys
from pathlib import Path
from experiments.tracking.mlflow_tracker import MlflowTracker
uri, epochs, end, *folders = sys.argv[1:]
for folder in map(Path, folders):
    with MlflowTracker(uri=uri, experiment="trials", required=end == "kill", nested=False,
                       out_dir=folder, run_name=folder.name, tags={}) as tracker:
        for epoch in range(1, int(epochs) + 1):
            tracker.log_metrics({"train/loss": 1 / epoch, "val/acc": epoch / 100}, step=epoch)
        if end == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
"""


def start_runs(*folders: Path, uri: str, epochs: int = 3, end: str = "") -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-c", RUNS, uri, str(epochs), end, *map(str, folders)]
    return subprocess.Popen(command, env=environment, cwd=folders[0].parent)


def tracker(out_dir: Path, uri: str, **options: Any) -> MlflowTracker:
    given = {"experiment": "trials", "required": False, "nested": False}
    given |= {"run_name": "a run", "tags": {}} | options
    return MlflowTracker(uri=uri, out_dir=out_dir, **given)


def history(client: MlflowClient, run_id: str, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in client.get_metric_history(run_id, key)]


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "empty.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def uri(empty_store: Path, tmp_path: Path) -> str:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def client(uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri=uri)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for 3 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
