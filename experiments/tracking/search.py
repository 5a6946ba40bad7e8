"""Finds the folders of tracked runs by a filter in MLflow's language."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from experiments.files import flatten
from experiments.tracking.limits import PARAM_LENGTH, clean_name, cut
from experiments.tracking.mlflow_store import connect, is_refusal
from experiments.tracking.sqlite import database_of
from experiments.tracking.uri import brief, public_uri, tracking_uri

if TYPE_CHECKING:  # as in `mlflow_store`
    from mlflow import MlflowClient, entities

OF_PARAMS = re.compile(r"\bparam(eter)?s?\b", re.IGNORECASE)  # MLflow's words for them
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def tracked_folders(uri: str | None, experiment: str | None, wanted: str) -> list[Path]:
    """Return the run folders of the runs in a store that MLflow's search finds by the filter ``wanted``.

    ``experiment`` None searches all. MLflow has few parameters of a run: where the filter speaks of some,
    those in the run's config.yaml count too, as far as the folder is here. Raises FileNotFoundError for an
    absent sqlite store, ValueError for an unknown experiment or a filter that MLflow does not understand,
    ConnectionError for a silent store.
    """
    uri = tracking_uri(uri)
    if (path := database_of(uri)) and not path.exists():
        raise FileNotFoundError(f"there is no MLflow store {uri}")
    try:
        tags = [run.data.tags for run in _search(connect(uri), experiment, wanted)]
    except ValueError:
        raise
    except Exception as error:
        if is_refusal(error):
            raise ValueError(f"--filter: {brief(error)}") from error
        raise ConnectionError(f"{public_uri(uri)} cannot be searched: {brief(error)}") from error
    return [Path(each["run_folder"]) for each in tags if "run_folder" in each]


def _search(client: "MlflowClient", experiment: str | None, wanted: str) -> list["entities.Run"]:
    ids = {each.name: each.experiment_id for each in client.search_experiments()}
    if experiment is not None and experiment not in ids:
        raise ValueError(f"--experiment must be one of {', '.join(ids)}, got {experiment!r}")
    chosen = list(ids.values()) if experiment is None else [ids[experiment]]
    if not OF_PARAMS.search(wanted):
        return list(_pages(client, chosen, wanted))
    from mlflow.utils.search_utils import SearchUtils

    SearchUtils.parse_search_filter(wanted)  # a mistake is told before a store with many runs is read
    runs = _pages(client, chosen, "tags.run_folder LIKE '%'")
    return SearchUtils.filter([_completed(run) for run in runs], wanted)


def _pages(client: "MlflowClient", experiments: list[str], wanted: str) -> Iterator["entities.Run"]:
    token: str | None = None
    while token != "":
        page = client.search_runs(experiments, wanted, page_token=token)
        yield from page
        token = page.token or ""


def _completed(run: "entities.Run") -> "entities.Run":
    """Add the settings in the run's folder that are not among its parameters."""
    for key, text in _settings(Path(run.data.tags["run_folder"])).items():
        run.data.params.setdefault(clean_name(key), cut(text, PARAM_LENGTH))
    return run


def _settings(folder: Path) -> dict[str, str]:
    try:
        text = (folder / "config.yaml").read_text(encoding="utf-8")
        values = yaml.load(text, Loader=LOADER)  # noqa: S506 - a safe loader
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return flatten(values) if isinstance(values, dict) else {}
