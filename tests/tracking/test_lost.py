"""What becomes of a run whose store was lost, restored, replaced, or tidied by a person."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from experiments.sync import main
from experiments.tracking.delivery import Delivery
from experiments.tracking.mlflow_store import MlflowStore
from experiments.tracking.spool import Spool
from tests.tracking.conftest import history, tracker
from tests.tracking.test_store import Mlflow, same, write

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's, of its database library


def deliver(folder: Path, uri: str) -> bool:
    """Deliver a folder and return whether there was anything to deliver."""
    with closing(Delivery(folder, MlflowStore(uri))) as delivery:
        delivery.deliver()
    return delivery.has_sent


def remove(database: Path) -> None:
    for file in database.parent.glob("mlflow.db*"):
        file.unlink()


def restore(database: Path) -> None:
    remove(database)
    shutil.copy(database.parent / "older.db", database)


def remove_artifacts(database: Path) -> None:
    shutil.rmtree(database.parent / "mlartifacts")


@pytest.mark.parametrize("lose", [remove, restore, remove_artifacts])
def test_a_store_is_asked_and_given_what_it_lost(
    lose: Callable[[Path], None], uri: str, tmp_path: Path
) -> None:
    database, run = tmp_path / "mlflow.db", tmp_path / "run"
    run.mkdir()
    wanted = write(run)
    lines = (run / "tracking.jsonl").read_text().splitlines(keepends=True)
    (run / "tracking.jsonl").write_text("".join(lines[:200]))
    deliver(run, uri)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("VACUUM INTO ?", (str(tmp_path / "older.db"),))
    (run / "tracking.jsonl").write_text("".join(lines))
    assert deliver(run, uri)

    lose(database)
    assert deliver(run, uri)
    [kept] = Mlflow(uri).runs()
    same(kept, wanted)
    assert not deliver(run, uri)


@pytest.mark.parametrize("lose", [remove, restore])
def test_a_database_that_goes_while_a_run_uses_it_gets_all_of_the_run(
    lose: Callable[[Path], None], empty_store: Path, uri: str, tmp_path: Path
) -> None:
    shutil.copy(empty_store, tmp_path / "older.db")
    with tracker(tmp_path / "run", uri, required=True) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        before = run.run_id
        lose(tmp_path / "mlflow.db")
        run.log_metrics({"loss": 0.5}, step=2)
    assert run.run_id != before
    client = MlflowClient(tracking_uri=uri)
    assert history(client, run.run_id, "loss") == [(1, 1.0), (2, 0.5)]
    assert client.get_run(run.run_id).info.status == "FINISHED"


def test_a_run_that_a_person_deleted_stays_deleted_until_it_is_restored(
    uri: str,
    client: MlflowClient,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    with tracker(folder, uri, required=True) as run:
        client.delete_run(run.run_id)
        run.log_metrics({"loss": 1.0}, step=1)
    assert f"its run {run.run_id} was deleted in MLflow" in caplog.messages[0]
    assert main([str(folder)]) == 0
    assert "left alone: its run" in capsys.readouterr().out
    experiment = client.get_experiment_by_name("trials").experiment_id
    assert not client.search_runs([experiment])

    client.restore_run(run.run_id)
    assert main([str(folder)]) == 0
    assert history(client, run.run_id, "loss") == [(1, 1.0)]
    assert client.get_run(run.run_id).info.status == "FINISHED"


def test_a_run_is_found_in_an_experiment_of_another_name(
    uri: str, client: MlflowClient, tmp_path: Path
) -> None:
    with tracker(tmp_path / "run", uri) as first:
        pass
    client.rename_experiment(client.get_experiment_by_name("trials").experiment_id, "trials of May")
    (tmp_path / "run" / "tracking.offset").unlink()
    with tracker(tmp_path / "run", uri) as second:
        second.log_metrics({"loss": 1.0}, step=1)
    assert second.run_id == first.run_id
    assert client.get_experiment_by_name("trials") is None


def test_a_database_of_something_else_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(sqlite3.connect(tmp_path / "photos.db")) as connection:
        connection.execute("CREATE TABLE photos (name TEXT)")
    (tmp_path / "notes.db").write_text("milk")
    before = {path: path.read_bytes() for path in tmp_path.glob("*.db")}
    for name, told in {
        "photos.db": "is a database of something else",
        "notes.db": "is no sqlite database",
        "": "is no file",
        "absent/mlflow.db": "there is no folder",
    }.items():
        with tracker(tmp_path / "run", f"sqlite:///{tmp_path / name}"):
            pass
        assert told in caplog.messages[0]
        caplog.clear()
    assert before == {path: path.read_bytes() for path in tmp_path.glob("*.db")}
    assert not (tmp_path / "absent").exists()
    assert Spool(tmp_path / "run").last("status")["status"] == "FINISHED"
