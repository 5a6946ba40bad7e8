import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from hydra.utils import instantiate
from mlflow import MlflowClient
from PIL import Image

from experiments.files import PROJECT
from experiments.tracking.limits import clean_name
from experiments.tracking.spool import Record, Spool
from experiments.tracking.store import Ids
from experiments.tracking.tracker import NoTracker, SpooledTracker, Tracker
from tests.tracking.conftest import history, start_runs, tracker
from tests.tracking.test_store import MemoryStore

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's, of its database library

CLOSED_PORT = "http://127.0.0.1:9"


def test_what_is_logged_arrives_wherever_the_run_stands(
    uri: str, client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "mlruns" / "0").mkdir(parents=True)  # of an old MLflow, in the working directory
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("MLFLOW_RUN_ID", "0123456789abcdef0123456789abcdef")
    out_dir = tmp_path / "run"
    with tracker(out_dir, uri, tags={"kind": "trial", "mlflow.parentRunId": "a sweep"}) as run:
        run.log_params({"optimizer": {"lr": 0.1, "nesterov": True}, "seeds": [0, 1], "note": None})
        run.log_metrics({"train/loss": 1.5, "lr": 1e-5}, step=1)
        run.log_metrics({"train/loss": 1.25}, step=2)
        run.set_note("# Title")
        run.log_dataset("digits", "1f2e", "digits", "train")
        Image.new("RGB", (40, 20), "red").save(out_dir / "sheet.png")
        run.log_image(out_dir / "sheet.png", "Grad-CAM", step=2)
        (out_dir / "analysis" / "maps").mkdir(parents=True)
        (out_dir / "analysis" / "maps" / "a.txt").write_text("a")
        (out_dir / "config.yaml").write_text("seed: 0")
        run.log_artifacts(out_dir / "analysis")
        run.log_artifacts(out_dir / "config.yaml")
    found = client.get_run(run.run_id)
    assert client.get_experiment(found.info.experiment_id).name == "trials"
    assert (found.info.run_name, found.info.status) == ("a run", "FINISHED")
    assert found.data.params == {
        "optimizer.lr": "0.1",
        "optimizer.nesterov": "true",
        "seeds": "[0, 1]",
        "note": "null",
    }
    assert history(client, run.run_id, "train/loss") == [(1, 1.5), (2, 1.25)]
    assert found.data.metrics["lr"] == 1e-5
    assert found.data.tags["kind"] == "trial"
    assert found.data.tags["mlflow.note.content"] == "# Title"
    assert "mlflow.parentRunId" not in found.data.tags  # nested=False
    assert [(d.dataset.name, d.dataset.digest, d.tags[0].value) for d in found.inputs.dataset_inputs] == [
        ("digits", "1f2e", "train")
    ]
    files = {file.path for file in client.list_artifacts(run.run_id)}
    assert files == {"analysis", "config.yaml", "images"}
    assert [file.path for file in client.list_artifacts(run.run_id, "analysis/maps")] == [
        "analysis/maps/a.txt"
    ]
    assert len(client.list_artifacts(run.run_id, "images")) == 2  # the picture and its thumbnail
    assert found.info.artifact_uri.startswith((tmp_path / "mlartifacts").as_uri())
    assert [path.name for path in elsewhere.rglob("*")] == ["mlruns", "0"]


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (None, "FINISHED"),
        (SystemExit(0), "FINISHED"),
        (ValueError("a defect"), "FAILED"),
        (SystemExit(1), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(143), "KILLED"),
    ],
)
def test_the_end_of_the_block_becomes_the_status(
    end: BaseException | None, status: str, uri: str, client: MlflowClient, tmp_path: Path
) -> None:
    def block() -> None:
        with tracker(tmp_path / "run", uri):
            if end:
                raise end

    if end:
        with pytest.raises(type(end)):
            block()
    else:
        block()
    [run] = client.search_runs([client.get_experiment_by_name("trials").experiment_id])
    assert run.info.status == status
    assert run.info.end_time == Spool(tmp_path / "run").last("status")["t"]


def test_finish_decides_before_the_block_ends(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    with tracker(tmp_path / "run", uri) as run:
        run.finish("FAILED")
    assert client.get_run(run.run_id).info.status == "FAILED"
    with pytest.raises(ValueError, match="FINISHED, FAILED, KILLED"):
        run.finish("pruned")


def test_numbers_that_are_not_finite(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    with tracker(tmp_path / "run", uri) as run:
        run.log_metrics({"loss": 0.5}, step=1)
        run.log_metrics({"loss": float("nan"), "norm": float("inf"), "lr": 0.1}, step=2)
    (_, first), (_, second) = history(client, run.run_id, "loss")
    assert first == 0.5
    assert second != second
    assert history(client, run.run_id, "norm")[0][1] > 1e300  # MLflow stores the largest float for infinity
    assert history(client, run.run_id, "lr") == [(2, 0.1)]
    assert client.get_run(run.run_id).data.tags["diverged"] == "true"


def test_hostile_names_and_values(
    uri: str, client: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [
        "lr=[1](2)%+@,",
        "/a//b/",
        "../up",
        ".",
        "",
        "ünï cøde",
        "x" * 300,
        "x" * 299 + "y",
        "new\nline",
        "a\0b",
    ]
    with tracker(tmp_path / "run", uri, run_name="<b>\0\ud800" + "r" * 300) as run:
        run.log_params(
            {name: "value" for name in names} | {"long": "v" * 10_000, "odd": "nul\0 \ud800", "empty": ""}
        )
        run.log_metrics(dict.fromkeys(names, 1.0), step=1)
        run.set_tags({name: "t" * 10_000 for name in names})
    name = client.get_run(run.run_id).info.run_name
    assert (name[:6], len(name)) == ("<b>?rr", 250)
    found = client.get_run(run.run_id).data
    clean = {clean_name(name) for name in names}
    assert len(clean) == len(names) - 1  # "." and "" are both "_"
    assert clean <= found.params.keys()
    assert clean == found.metrics.keys()
    assert clean <= found.tags.keys()
    assert len(found.params["long"]) == 6000
    assert found.params["long"].endswith("(cut)")
    assert (found.params["odd"], found.params["empty"]) == ("nul ?", "")
    assert caplog.messages == []


def test_a_refused_entry_costs_only_itself(
    uri: str, client: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "experiments")
    with tracker(tmp_path / "run", uri, required=True) as run:
        client.log_param(
            run.run_id, "lr", "0.1"
        )  # behind the tracker's back: now MLflow refuses another value
        run.log_params({"before": 1, "lr": 0.2, "after": 2})
        run.log_dataset("digits", "1f2e", "a source longer than MLflow takes " * 2000, "train")
        run.log_metrics({"loss": 1.0}, step=1)
    found = client.get_run(run.run_id).data
    assert found.params == {"before": "1", "lr": "0.1", "after": "2"}
    assert found.metrics == {"loss": 1.0}
    levels = {record.message.split(":")[1]: record.levelname for record in caplog.records}
    assert levels == {
        " MLflow refuses params entry 'lr'": "WARNING",
        " MLflow refuses the data set 'digits'": "DEBUG",
    }


def test_a_resumed_run_stays_one_run(
    uri: str, client: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with tracker(tmp_path / "run", uri) as first:
        first.log_params({"lr": 0.1, "trainer.epochs": 2})
        first.log_metrics({"loss": 1.0}, step=1)
        first.log_metrics({"loss": 0.5}, step=2)
        first.finish("KILLED")
    began = client.get_run(first.run_id).info
    with tracker(tmp_path / "run", uri, required=True) as second:
        again = client.get_run(second.run_id).info
        assert (again.status, again.start_time, again.end_time or None) == ("RUNNING", began.start_time, None)
        second.log_params({"lr": 0.1, "trainer.epochs": 3, "new": 1})  # MLflow cannot change a parameter
        second.log_metrics({"loss": 0.5}, step=2)  # the interrupted epoch again
        second.log_metrics({"loss": 0.25}, step=3)
    with tracker(tmp_path / "run", uri) as third:
        third.log_metrics({"loss": 0.25}, step=3)  # nothing new at all
    assert third.run_id == second.run_id == first.run_id
    found = client.get_run(first.run_id)
    assert (found.info.status, found.info.start_time) == ("FINISHED", began.start_time)
    assert found.info.end_time > began.end_time
    assert found.data.params == {"lr": "0.1", "trainer.epochs": "2", "new": "1"}
    assert history(client, first.run_id, "loss") == [(1, 1.0), (2, 0.5), (3, 0.25)]
    assert caplog.messages == []


def test_a_line_torn_by_a_kill_costs_only_itself(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    with tracker(tmp_path / "run", uri) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        with (tmp_path / "run" / "tracking.jsonl").open("a") as file:
            file.write('7\n{"kind": "metrics", "t": 17, "st')
        run.log_metrics({"loss": 0.5}, step=2)
    assert history(client, run.run_id, "loss") == [(1, 1.0), (2, 0.5)]
    assert client.get_run(run.run_id).info.status == "FINISHED"


def test_a_run_deleted_in_mlflow_is_made_again(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    with tracker(tmp_path / "run", uri) as first:
        first.log_metrics({"loss": 1.0}, step=1)
    client.delete_run(first.run_id)
    with tracker(tmp_path / "run", uri) as second:
        second.log_metrics({"loss": 0.5}, step=2)
    assert second.run_id != first.run_id
    assert history(client, second.run_id, "loss") == [(1, 1.0), (2, 0.5)]


@pytest.mark.slow
def test_a_killed_process_is_found_by_the_next_run(uri: str, client: MlflowClient, tmp_path: Path) -> None:
    killed = start_runs(tmp_path / "killed", uri=uri, end="kill")
    assert killed.wait(100) == -signal.SIGKILL
    experiment = client.get_experiment_by_name("trials").experiment_id
    (dead,) = client.search_runs([experiment])
    assert dead.info.status == "RUNNING"
    client.log_metric(dead.info.run_id, "loss", 0.5, timestamp=dead.info.start_time + 77)
    with tracker(tmp_path / "next", uri, required=True):
        runs = {run.info.run_name: run.info for run in client.search_runs([experiment])}
    assert {name: run.status for name, run in runs.items()} == {"killed": "KILLED", "a run": "RUNNING"}
    assert runs["killed"].end_time == dead.info.start_time + 77  # it has not lasted until it was found


def test_a_full_artifact_disk_costs_one_warning(
    small_disk: Path, empty_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    (tmp_path / "mlartifacts").symlink_to(small_disk)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    analysis = tmp_path / "run" / "analysis"
    analysis.mkdir(parents=True)
    for name, size in (("a.npz", 2_000_000), ("b.npz", 2_000_000), ("c.npz", 2_000_000), ("d.txt", 10)):
        (analysis / name).write_bytes(os.urandom(size))
    with tracker(tmp_path / "run", uri) as run:
        run.log_artifacts(analysis)
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert "b.npz was not uploaded" in warnings[0]
    assert "python -m experiments.sync" in warnings[1]
    client = MlflowClient(tracking_uri=uri)
    assert client.get_run(run.run_id).info.status == "FINISHED"

    subprocess.run(["mount", "-o", "remount,size=30m", small_disk], check=True)
    with tracker(tmp_path / "run", uri):
        pass
    assert {(file.path, file.file_size) for file in client.list_artifacts(run.run_id, "analysis")} == {
        (f"analysis/{file.name}", file.stat().st_size) for file in analysis.iterdir()
    }


def test_a_full_run_folder_never_reaches_the_training(
    small_disk: Path, uri: str, client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    filler = small_disk / "filler"
    with tracker(small_disk / "run", uri) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(bytes(4_000_000))
        for step in range(2, 200):
            run.log_metrics({"loss": 1.0, "a metric with a long name " * 8: 1.0}, step=step)
        filler.unlink()
        run.log_metrics({"loss": 0.5}, step=200)
    points = history(client, run.run_id, "loss")
    assert (points[0], points[-1]) == ((1, 1.0), (200, 0.5))
    assert len(points) < 200
    assert len([message for message in caplog.messages if message.startswith("tracking: not tracked")]) >= 1
    assert client.get_run(run.run_id).info.status == "FINISHED"


def test_a_store_folder_that_cannot_be_written(
    small_disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with tracker(tmp_path / "run", f"sqlite:///{small_disk / 'mlflow.db'}") as run:
        run.log_metrics({"loss": 1.0}, step=1)
    assert run.run_id is None
    assert "Read-only file system" in caplog.messages[0]


def test_required_stops_before_the_first_epoch(tmp_path: Path) -> None:
    refused = f"tracking.required: {CLOSED_PORT} cannot be used: .*Connection refused"
    with pytest.raises(ConnectionError, match=refused) as error:
        tracker(tmp_path / "run", CLOSED_PORT, required=True).__enter__()
    assert "\n" not in str(error.value)


def test_a_deleted_experiment_is_named(
    uri: str, client: MlflowClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client.delete_experiment(client.create_experiment("trials"))
    with tracker(tmp_path / "run", uri):
        pass
    assert "tracking.experiment 'trials' is deleted" in caplog.messages[0]


@pytest.mark.slow
def test_without_a_tracker_mlflow_is_never_imported(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from experiments.tracking.tracker import NoTracker
with NoTracker(out_dir=Path({str(tmp_path)!r}), run_name="", tags={{}}) as tracker:
    tracker.log_params({{"a": 1}})
    tracker.log_metrics({{"a": 1.0}}, step=1)
assert "mlflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(PROJECT)}, check=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "option", sorted((PROJECT / "conf" / "tracking").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_option_makes_a_tracker(option: Path, tmp_path: Path) -> None:
    made = instantiate(yaml.safe_load(option.read_text()), out_dir=tmp_path, run_name="", tags={})
    assert isinstance(made, SpooledTracker | NoTracker)
    assert made.records == (option.stem != "none")
    public = {name for name in dir(Tracker) if not name.startswith("_")}
    assert public <= set(dir(made))


def test_the_password_of_a_store_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with tracker(tmp_path / "run", "http://me:s3cret@127.0.0.1:9"):
        pass
    saved = "".join(path.read_text() for path in (tmp_path / "run").iterdir())
    assert json.loads(saved.splitlines()[0])["uri"] == "http://me:***@127.0.0.1:9"
    assert "s3cret" not in saved


def test_a_store_that_neither_answers_nor_fails_is_named_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a database that does not answer, for which MLflow tries again and again."""
    answer = threading.Event()

    class Silent(MemoryStore):
        def open(self, start: Record, *, again: bool) -> Ids:
            answer.wait(60)
            return super().open(start, again=again)

    monkeypatch.setattr("experiments.tracking.tracker.SILENT_SECONDS", 1.0)
    given = {"experiment": "trials", "required": False, "run_name": "a run", "tags": {}}
    with SpooledTracker(Silent({}, set()), out_dir=tmp_path, **given) as run:
        run.log_metrics({"val/acc": 0.5}, step=1)
    answer.set()
    assert caplog.messages == [
        "tracking: memory: has not answered for 1 s",
        f"not everything reached memory; later: python -m experiments.sync {tmp_path}",
    ]
