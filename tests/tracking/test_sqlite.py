import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.tracking.conftest import history, start_runs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's, of its database library


@pytest.mark.slow
def test_eight_processes_without_a_database(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    killed = start_runs(tmp_path / "killed", uri=uri)
    while killed.poll() is None and not (tmp_path / "new" / "mlflow.db.new" / "mlflow.db").exists():
        time.sleep(0.02)
    killed.kill()  # half-way through the schema
    killed.wait()
    assert not (tmp_path / "new" / "mlflow.db").exists()

    names = [f"run{number}" for number in range(16)]
    folders = [tmp_path / name for name in names]
    runs = [start_runs(*folders[first : first + 2], uri=uri, epochs=20) for first in range(0, 16, 2)]
    assert [run.wait(300) for run in runs] == [0] * 8

    client = MlflowClient(tracking_uri=uri)
    found = client.search_runs([client.get_experiment_by_name("trials").experiment_id])
    assert sorted(run.info.run_name for run in found) == sorted(names)
    assert {run.info.status for run in found} == {"FINISHED"}
    for run in found:
        expected = [(epoch, 1 / epoch) for epoch in range(1, 21)]
        assert history(client, run.info.run_id, "train/loss") == expected
    assert not (tmp_path / "new" / "mlflow.db.new").exists()
