"""MLflow as a store: its limits, its client, its pages."""

import getpass
import hashlib
import logging
import os
import re
import socket
import warnings
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from experiments.files import canonical
from experiments.tracking.processes import is_dead
from experiments.tracking.spool import Record
from experiments.tracking.sqlite import artifact_root, create_database
from experiments.tracking.uri import one_line, public_uri, tracking_uri

# MLflow's limits (mlflow/utils/validation.py): characters, and entries of one log_batch.
NAME_LENGTH, PARAM_LENGTH, TAG_LENGTH = 250, 6000, 8000

METRICS_PER_BATCH, PARAMS_PER_BATCH, TAGS_PER_BATCH = 800, 100, 100  # 1000 together

SPOOL_TAG, HOST_TAG, PROCESS_TAG = "tracker.spool", "tracker.host", "tracker.process"


def clean_name(name: str) -> str:
    """Turn any text into a name that MLflow accepts for a metric, a parameter or a tag."""
    parts = re.sub(r"[^\w.\- :/]", "_", name).split("/")
    clean = "/".join(part for part in parts if part not in ("", ".", "..")) or "_"
    if len(clean) <= NAME_LENGTH:
        return clean
    digest = hashlib.sha256(name.encode(errors="replace")).hexdigest()[:8]
    return f"{clean[: NAME_LENGTH - 9]}-{digest}"


def cut(text: str, length: int) -> str:
    """Return a text of at most ``length`` characters, the cut marked."""
    mark = " ... (cut)"  # the full value stays in the run's config.yaml
    return text if len(text) <= length else text[: length - len(mark)] + mark


def is_refusal(error: Exception) -> bool:
    """Whether the store works but does not take this content."""
    return getattr(error, "error_code", None) in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


def tags_of(tags: dict[str, str]) -> list[Any]:
    """Return tags as MLflow takes them."""
    from mlflow.entities import RunTag

    return [RunTag(clean_name(key), cut(canonical(value), TAG_LENGTH)) for key, value in tags.items()]


def open_store(uri: str) -> Any:
    """Return an `MlflowClient` for a store, creating an sqlite one; many processes may do it at once."""
    configure()
    from mlflow import MlflowClient

    if uri.startswith("sqlite"):
        create_database(Path(uri.removeprefix("sqlite:///")))
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def configure() -> None:
    """Set what MLflow reads from the environment, unless the user has; before its first import."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")  # its errors reach us as exceptions
    # MLflow's own defaults, 7 retries of 120 s, hang for minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")  # seconds
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it warns of each retry


def save_model(model: Any, folder: Path, images: Any) -> None:
    """Save a model in MLflow's format to ``folder``, exported by running ``images`` through it."""
    configure()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's import warns of its own type hints
        from mlflow.pytorch import save_model

        torch_version = version("torch").partition("+")[0]
        save_model(model, folder, input_example=images, pip_requirements=[f"torch=={torch_version}"])


def mark_dead_runs(client: Any) -> list[str]:
    """Set runs that this host left RUNNING and whose process is gone to KILLED; returns their ids."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    mine = f"attributes.status = 'RUNNING' AND tags.`{HOST_TAG}` = '{socket.gethostname()}'"
    dead = []
    for run in client.search_runs(experiments, mine):
        if is_dead(run.data.tags[HOST_TAG], run.data.tags.get(PROCESS_TAG, "")):
            client.set_terminated(run.info.run_id, "KILLED")
            dead.append(run.info.run_id)
    return dead


def find_experiment(client: Any, name: str, uri: str) -> str:
    """Return the id of the experiment, creating it; another process may do so at the same moment."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        location = None
        if not uri.startswith(("http", "databricks")):  # there the server decides
            location = (artifact_root(uri) / "mlartifacts" / clean_name(name).replace("/", "_")).as_uri()
        try:
            return client.create_experiment(name, artifact_location=location)
        except MlflowException:
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise ValueError(
            f"tracking.experiment {name!r} is deleted in MLflow: restore it or choose another name"
        )
    return found.experiment_id


def create_run(client: Any, experiment_id: str, start: Record) -> Any:
    """Create the MLflow run that a spool's start record asks for."""
    tags = {SPOOL_TAG: start["spool"]}
    with suppress(KeyError, OSError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    return client.create_run(experiment_id, start_time=start["t"], tags=tags, run_name=start["run_name"])


def import_mlflow() -> None:
    """Import MLflow as runs need it, as in a process that runs are forked from."""
    configure()
    import mlflow.entities  # noqa: F401
    from mlflow import MlflowClient  # noqa: F401


def tagged_runs_page(url: str, tag: str, value: str) -> str:
    """Return the page that shows all runs with a tag, in the experiment of the run at ``url``."""
    search = quote(f"tags.`{tag}` = '{value}'", safe="")
    return f"{url.partition('/runs/')[0]}/runs?searchFilter={search}&workflowType=machine_learning"


def tracked_folders(uri: str | None, experiment: str | None, wanted: str) -> list[Path]:
    """Return the run folders of the runs in a store that MLflow's search finds by the filter ``wanted``.

    ``experiment`` None searches all. Raises FileNotFoundError for an absent sqlite store, ValueError for an
    unknown experiment or a filter that MLflow does not understand, ConnectionError for a silent store.
    """
    uri = tracking_uri(uri)
    if uri.startswith("sqlite") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise FileNotFoundError(f"there is no MLflow store {uri}")
    folders: list[Path] = []
    try:
        client = open_store(uri)
        ids = {each.name: each.experiment_id for each in client.search_experiments()}
        if experiment is not None and experiment not in ids:
            raise ValueError(f"--experiment must be one of {', '.join(ids)}, got {experiment!r}")
        chosen, token = list(ids.values()) if experiment is None else [ids[experiment]], None
        while token != "":
            page = client.search_runs(chosen, wanted, page_token=token)
            tags = (run.data.tags for run in page)
            folders += [Path(some["run_folder"]) for some in tags if "run_folder" in some]
            token = page.token or ""
    except Exception as error:
        if isinstance(error, ValueError):
            raise
        if is_refusal(error):
            raise ValueError(f"--filter: {one_line(error)}") from error
        raise ConnectionError(f"{public_uri(uri)} cannot be searched: {one_line(error)}") from error
    return folders
