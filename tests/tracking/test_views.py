"""The views that MLflow's page opens on: kept in the experiment, found by their address, read by the UI."""

import json
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from PIL import Image

from experiments.files import PROJECT
from experiments.tracking.mlflow_store import PREVIEW, preview
from experiments.tracking.sync import sync
from experiments.tracking.views import SWEEP_VIEW_TAG, TAG, SweepView, charts, view_of
from tests.tracking.conftest import tracker

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's, of its database library

VIEW = SweepView(["aug", "optimizer.lr"])
SWEEP = {"kind": "sweep", "sweep": "shown", SWEEP_VIEW_TAG: VIEW.text()}


def kept(client: MlflowClient, key: str) -> dict:
    return json.loads(client.get_experiment_by_name("trials").tags[TAG + key])


def test_a_run_leads_to_the_view_of_all_runs_and_a_sweep_to_that_of_its_trials(
    tmp_path: Path, uri: str, client: MlflowClient
) -> None:
    with tracker(tmp_path / "run", uri, tags={"seed": "0"}) as run:
        pass
    with tracker(tmp_path / "sweep", uri, tags=SWEEP) as sweep:
        pass
    assert run.overview.endswith("/runs?workflowType=machine_learning&viewStateShareKey=runs")
    assert sweep.overview.endswith("/runs?workflowType=machine_learning&viewStateShareKey=sweep-shown")
    columns = kept(client, "sweep-shown")["selectedColumns"]
    assert columns[:4] == [
        *("metrics.`val/acc_best`", "metrics.`test/acc`"),
        *("params.`aug`", "params.`optimizer.lr`"),
    ]
    assert "metrics.`val/acc_best`" in kept(client, "runs")["selectedColumns"]


def test_a_view_finds_the_trials_of_its_sweep_best_first_and_nothing_else(
    tmp_path: Path, uri: str, client: MlflowClient
) -> None:
    with tracker(tmp_path / "sweep", uri, tags=SWEEP):
        pass
    for number, acc in enumerate((0.3, 0.9, 0.6)):
        place = {"sweep": "shown", "seed": str(number)}
        with tracker(tmp_path / str(number), uri, run_name=f"trial {number}", tags=place) as trial:
            trial.log_metrics({"val/acc_best": acc}, step=1)
    with tracker(tmp_path / "other", uri, run_name="other", tags={"sweep": "other", "seed": "0"}):
        pass
    number = client.get_experiment_by_name("trials").experiment_id
    client.create_run(number, run_name="foreign")

    view, runs = kept(client, "sweep-shown"), kept(client, "runs")
    order = [f"{view['orderByKey']} {'ASC' if view['orderByAsc'] else 'DESC'}"]
    names = [run.info.run_name for run in client.search_runs([number], view["searchFilter"], order_by=order)]
    assert names == ["trial 1", "trial 2", "trial 0"]
    ours = {run.info.run_name for run in client.search_runs([number], runs["searchFilter"])}
    assert ours == {"trial 0", "trial 1", "trial 2", "other"}


def test_sync_keeps_a_view_that_a_dead_server_missed_and_heals_one_that_was_changed(
    tmp_path: Path, uri: str, client: MlflowClient
) -> None:
    with tracker(tmp_path / "sweep", uri, tags=SWEEP):
        pass
    number = client.get_experiment_by_name("trials").experiment_id
    client.set_experiment_tag(number, f"{TAG}sweep-shown", "{}")
    assert not any(outcome.failed for outcome in sync([tmp_path / "sweep"], uri))
    assert kept(client, "sweep-shown") == view_of(SWEEP)[1]


@pytest.mark.parametrize("name", ["lr", "it's"])
def test_the_filter_of_a_sweep_holds_any_name(client: MlflowClient, name: str) -> None:
    run = client.create_run("0", tags={"sweep": name, "seed": "0"}).info.run_id
    wanted = view_of(SWEEP | {"sweep": name})[1]["searchFilter"]
    assert [found.info.run_id for found in client.search_runs(["0"], wanted)] == [run]


def test_only_a_page_of_many_runs_has_charts() -> None:
    assert charts("http://a/#/experiments/1/runs?workflowType=x").endswith("x&compareRunsMode=CHART")
    assert charts("https://elsewhere/project/run") is None


def test_where_the_store_refuses_a_view_the_address_holds_its_filter(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError("experiment tags are the administrator's")

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuse)
    with tracker(tmp_path / "sweep", uri, tags=SWEEP) as sweep:
        sweep.log_metrics({"trials/finished": 1.0}, step=0)
    assert "searchFilter=tags.sweep%20%3D%20%27shown%27%20AND" in sweep.overview
    assert "viewStateShareKey" not in sweep.overview
    assert sweep.run_id
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_view_of_a_sweep_over_many_keys_fits_into_a_tag(uri: str, client: MlflowClient) -> None:
    many = SweepView([f"aug.image.step_{n}.a_parameter_with_a_long_name" for n in range(200)])
    key, state = view_of(SWEEP | {SWEEP_VIEW_TAG: many.text()})
    client.set_experiment_tag("0", TAG + key, json.dumps(state))
    assert json.loads(client.get_experiment("0").tags[TAG + key]) == state


def test_only_a_sweep_that_watches_has_a_card_for_it() -> None:
    """Of the state at the end, which every run has at the same step."""
    for watched in (False, True):
        tags = SWEEP | {SWEEP_VIEW_TAG: SweepView(["aug"], watched=watched).text()}
        cards = view_of(tags)[1]["compareRunCharts"]
        steps = [card["step"] for card in cards if card.get("imageKeys") == ["watch"]]
        assert steps == [100] * watched


def test_a_sweep_of_an_earlier_version_has_a_view_without_its_keys() -> None:
    key, state = view_of({"kind": "sweep", "sweep": "old"})
    assert (key, state["orderByKey"]) == ("sweep-old", "metrics.`val/acc_best`")
    assert "params.`seed`" in state["selectedColumns"]


def test_the_ui_of_the_installed_mlflow_reads_every_field_of_a_view() -> None:
    """Where this fails, that version of MLflow shows its own page, and `views.py` wants its new fields."""
    scripts = Path(mlflow.__file__).parent.glob("server/js/build/static/js/*.js")
    code = "".join(path.read_text(encoding="utf-8", errors="replace") for path in scripts)
    states = [view_of(SWEEP)[1], view_of({})[1]]
    fields = {name for state in states for name in state}
    fields |= {
        name
        for state in states
        for part in ("Charts", "Sections")
        for card in state[f"compareRun{part}"]
        for name in card
    }
    assert fields
    missing = [name for name in sorted(fields) if name not in code]
    assert not missing
    assert TAG in code
    assert "viewStateShareKey" in code


@pytest.mark.slow
def test_make_ui_says_where_to_look(tmp_path: Path, uri: str) -> None:
    with tracker(tmp_path / "run", uri, tags={"seed": "0"}) as run:
        pass
    command = [sys.executable, "-m", "experiments.tracking.ui", str(tmp_path / "mlflow.db")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout == f"trials: {run.overview}\n"
    for wrong in (b"", b"no database"):
        (tmp_path / "mlflow.db").write_bytes(wrong)
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == ("", "")


def test_a_picture_of_the_grid_is_there_once_and_readable(
    tmp_path: Path, uri: str, client: MlflowClient
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    Image.new("RGB", (1368, 2048), "red").save(folder / "sheet.png")
    for _ in range(2):  # as of a run that is taken up again
        with tracker(folder, uri) as run:
            run.log_image(folder / "sheet.png", key="contact_sheet", step=0)
    (folder / "tracking.offset").unlink()  # so that all is sent again
    assert not any(outcome.failed for outcome in sync([folder], uri))
    files = [Path(each.path) for each in client.list_artifacts(run.run_id, "images")]
    assert sorted(path.suffix for path in files) == [".png", ".webp"]
    small = next(path for path in files if path.name.endswith("+compressed.webp"))
    with Image.open(client.download_artifacts(run.run_id, small.as_posix())) as image:
        assert image.size == (PREVIEW, PREVIEW)
    assert client.get_run(run.run_id).data.tags["mlflow.loggedImages"] == "True"


@pytest.mark.parametrize(
    ("size", "shown"), [((1368, 7348), (320, 320)), ((1200, 900), (320, 240)), ((90, 60), (90, 60))]
)
def test_a_preview_of_a_tall_sheet_is_its_upper_left(size: tuple[int, int], shown: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "white")
    image.paste("red", (0, 0, 5, 5))
    small = preview(image)
    assert small.size == shown
    assert small.getpixel((0, 0)) != small.getpixel((shown[0] - 1, shown[1] - 1))
