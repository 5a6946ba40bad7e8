"""A project that is moved, copied or taken apart: its store is found, and none is made elsewhere."""

import shutil
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.tracking._tracking_service.utils import _artifact_repos_cache as artifact_repositories

from experiments.sync import main
from experiments.tracking.moved import carried
from tests.tracking.conftest import tracker

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's, of its database library


@pytest.fixture
def project(empty_store: Path, tmp_path: Path) -> Path:
    """A folder with a store and a run of which all was delivered."""
    folder = tmp_path / "my project"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    track(folder, "first")
    return folder


def track(project: Path, name: str) -> str:
    """Track a run and return its id."""
    run_folder = project / "runs" / name
    run_folder.mkdir(parents=True)
    (run_folder / "config.yaml").write_text("seed: 0")
    artifact_repositories.clear()  # of MLflow, by run: a move comes between two processes
    uri, tags = f"sqlite:///{project / 'mlflow.db'}", {"run_folder": str(run_folder)}
    with tracker(run_folder, uri, run_name=name, tags=tags, required=True) as run:
        run.log_metrics({"loss": 1.0}, step=1)
        run.log_artifacts(run_folder / "config.yaml")
    assert run.run_id
    return run.run_id


def files(project: Path) -> dict[str, Path]:
    """Where MLflow says the config.yaml of each run is."""
    client = MlflowClient(tracking_uri=f"sqlite:///{project / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("trials").experiment_id])
    assert all(Path(run.data.tags["run_folder"]).is_relative_to(project) for run in runs)
    addresses = {run.info.run_name: unquote(urlparse(run.info.artifact_uri).path) for run in runs}
    found = {name: Path(address) / "config.yaml" for name, address in addresses.items()}
    assert all(file.read_text() == "seed: 0" for file in found.values())
    return found


@pytest.mark.parametrize("how", ["move", "copy"])
def test_the_store_of_a_project_goes_with_it(
    how: str, project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "elsewhere" / "renamed"
    (shutil.copytree if how == "copy" else shutil.move)(project, new)
    before = sorted(project.rglob("*"))
    artifact_repositories.clear()
    for offset in new.rglob("tracking.offset"):
        offset.unlink()
    assert main([str(new / "runs")]) == 0
    assert f"delivered to sqlite:///{new / 'mlflow.db'}, " in capsys.readouterr().out
    track(new, "second")
    assert sorted(project.rglob("*")) == before
    assert project.exists() == (how == "copy")
    assert set(files(new)) == {"first", "second"}
    assert all(path.is_relative_to(new / "mlartifacts") for path in files(new).values())
    assert main([str(new / "runs")]) == 0
    assert capsys.readouterr().out.count("nothing new") == 2

    shutil.move(new, tmp_path / "back")  # and once more
    track(tmp_path / "back", "third")
    assert all(path.is_relative_to(tmp_path / "back") for path in files(tmp_path / "back").values())


def test_a_database_alone_keeps_the_addresses_of_files_that_stayed(project: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for file in project.glob("mlflow.db*"):
        shutil.move(file, tmp_path / "new")
    track(tmp_path / "new", "second")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}")
    for run in client.search_runs([client.get_experiment_by_name("trials").experiment_id]):
        assert Path(client.download_artifacts(run.info.run_id, "config.yaml")).read_text() == "seed: 0"


def test_run_folders_without_their_store_make_none(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken" / "runs"
    shutil.move(project / "runs", taken)
    assert main([str(taken)]) == 0  # the store stayed where it was
    assert "nothing new" in capsys.readouterr().out
    shutil.rmtree(project)
    assert main([str(taken)]) == 1
    told = capsys.readouterr().out
    assert f"failed: its store sqlite:///{project / 'mlflow.db'} is not there" in told
    assert "--uri" in told
    assert not project.exists()
    assert not list(tmp_path.rglob("*.db"))


def test_a_store_that_was_lost_is_made_again_where_it_was(project: Path) -> None:
    for file in project.glob("mlflow.db*"):
        file.unlink()
    assert main([str(project / "runs")]) == 0
    assert set(files(project)) == {"first"}


NAMES = st.lists(st.sampled_from(["a", "b", "runs"]), min_size=1, max_size=4)


@given(tail=NAMES, old=NAMES, new=NAMES, inside=NAMES)
def test_what_lay_beside_a_moved_folder_is_found_beside_it(
    tail: list[str], old: list[str], new: list[str], inside: list[str]
) -> None:
    was, now = Path("/", *old), Path("/", *new)
    found = carried(was.joinpath(*inside), was.joinpath(*tail), now.joinpath(*tail))
    assert found in (None, now.joinpath(*inside))
    if old[-1] != new[-1]:
        assert found == now.joinpath(*inside)
    assert carried(Path("/c/mlflow.db"), was.joinpath(*tail), now.joinpath(*tail)) is None
