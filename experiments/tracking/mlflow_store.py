"""MLflow as a store: its limits, its laws, its client, its pages."""

import getpass
import json
import logging
import os
import re
import shutil
import socket
import tempfile
import threading
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from PIL import Image

from experiments.tracking.limits import (
    DATASET_LENGTH,
    DIGEST_LENGTH,
    METRICS_PER_BATCH,
    NAME_LENGTH,
    PARAM_LENGTH,
    PARAMS_PER_BATCH,
    TAG_LENGTH,
    TAGS_PER_BATCH,
    clean_name,
    cut,
)
from experiments.tracking.processes import HOST_TAG, PROCESS_TAG, is_dead
from experiments.tracking.spool import Record
from experiments.tracking.sqlite import artifact_root, database_of, identity, open_database
from experiments.tracking.store import Deleted, Entry, Ids, Missed, Param, Point, Refused, Tag
from experiments.tracking.uri import brief, page_uri, public_uri
from experiments.tracking.views import TAG, query, view_of

if TYPE_CHECKING:  # MLflow reads its environment when it is imported, and that takes seconds
    from mlflow import MlflowClient, entities

SPOOL_TAG = "tracker.spool"
PREVIEW = 320  # pixels: two stand side by side in a window of 1,400

log = logging.getLogger(__name__)

_opened: dict[str, tuple[int, int]] = {}  # sqlite stores of which MLflow keeps files open, and which files
_importing = threading.Lock()  # two threads that import MLflow at once break protobuf's registry


class MlflowStore:
    """An MLflow server or database; an sqlite file is made where there is none."""

    name: ClassVar[str] = "MLflow"

    def __init__(self, uri: str) -> None:
        """Name the store by its absolute URI; nothing is opened yet."""
        self._uri = uri
        self._client: MlflowClient
        self._run_id: str
        self._params: set[str] = set()  # names of those that MLflow has
        self._file: tuple[int, int] | None = None  # which file an sqlite store was when it was opened

    @property
    def uri(self) -> str:
        """Where it is, without passwords."""
        return public_uri(self._uri)

    def open(self, start: Record, *, again: bool) -> Ids:
        """Find the run of the spool id of a start record, in whatever experiment, or create it."""
        client = connect(self._uri)
        path = database_of(self._uri)
        self._file = identity(path) if path else None
        run = _find_run(client, start["spool"])
        if run is not None and run.info.lifecycle_stage == "deleted":
            if not again:
                raise _deleted(run)
            run = None
        if run is None:
            experiment_id = _find_experiment(client, start["experiment"], self._uri)
            run = _create_run(client, experiment_id, start)
        self._client, self._run_id, self._params = client, run.info.run_id, set(run.data.params)
        return Ids(run.info.experiment_id, run.info.run_id, _keep_view(client, run, start["tags"]))

    def is_stale(self) -> bool:
        """Tell whether the database's file was removed or replaced since `open`."""
        path = database_of(self._uri)
        return path is not None and self._file is not None and identity(path) != self._file

    def lacks(self, entries: Sequence[Entry], files: Collection[str], status: str | None) -> bool:
        """Tell whether MLflow misses names of parameters or tags, points, files, or has another status."""
        run = self._client.get_run(self._run_id)
        points = {(clean_name(e.key), e.step, e.t) for e in entries if isinstance(e, Point)}
        names = {(type(e), clean_name(e.key)) for e in entries if not isinstance(e, Point)}
        has = {(Param, key) for key in run.data.params} | {(Tag, key) for key in run.data.tags}
        if names - has or (status is not None and run.info.status != status):
            return True
        for key in {key for key, _, _ in points}:
            points -= {(key, p.step, p.timestamp) for p in self._client.get_metric_history(self._run_id, key)}
        return bool(points) or bool(set(files) - self._files({file.rpartition("/")[0] for file in files}))

    def _files(self, folders: Collection[str]) -> set[str]:
        """Return the paths of the artifacts that lie in these folders."""
        listed = [self._client.list_artifacts(self._run_id, folder or None) for folder in folders]
        return {each.path for files in listed for each in files}

    def page(self, ids: Ids) -> str:
        """Return the run's page: on the server, or where `mlflow ui` will stand once it is started."""
        return f"{self._pages(ids)}/{ids.run}?workflowType=machine_learning"

    def overview(self, ids: Ids, tags: Mapping[str, str]) -> str:
        """Return the prepared view of the run's sweep or of all runs, or MLflow's own page of them."""
        return f"{self._pages(ids)}?{query(tags, ids.view)}"

    def _pages(self, ids: Ids) -> str:
        base = page_uri(self._uri) if self._uri.startswith("http") else "http://127.0.0.1:5000"
        return f"{base}/#/experiments/{ids.experiment}/runs"

    def log(self, entries: Sequence[Entry]) -> None:
        """Send entries in as few batches as MLflow allows, without the parameters that it has."""
        from mlflow import entities

        metrics: list[entities.Metric] = []
        params: dict[str, entities.Param] = {}
        tags: dict[str, entities.RunTag] = {}
        for entry in entries:
            key = clean_name(entry.key)
            if isinstance(entry, Point):
                metrics.append(entities.Metric(key, entry.value, entry.t, entry.step))
            elif isinstance(entry, Tag):
                tags[key] = entities.RunTag(key, cut(entry.value, TAG_LENGTH))
            elif key not in self._params:  # MLflow never changes a parameter and refuses the whole batch
                params.setdefault(key, entities.Param(key, cut(entry.value, PARAM_LENGTH)))
        with self._refusals(_called(entries)):
            self._send(metrics, list(params.values()), list(tags.values()))

    def log_dataset(self, *, name: str, digest: str, source: str, context: str) -> None:
        """Keep a data set as input of the run; `context` is a tag of the pair."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        location = json.dumps({"uri": source})
        dataset = Dataset(name[:DATASET_LENGTH], digest[:DIGEST_LENGTH], "local", location)
        tags = [InputTag("mlflow.data.context", context)]
        with self._refusals(f"the data set {name!r}"):
            self._client.log_inputs(self._run_id, datasets=[DatasetInput(dataset, tags)])

    def upload(self, file: Path, folder: str | None) -> None:
        """Upload a file as an artifact."""
        with self._missed():
            self._client.log_artifact(self._run_id, str(file), folder)

    def upload_image(self, file: Path, *, key: str, step: int) -> None:
        """Add a picture to the run's image grid; of one that is sent again the last stays.

        Under the names of MLflow's own `log_image`, whose previews of 256 pixels show nothing of a sheet, and
        whose names hold the time and a random part, so that what is drawn again would be there twice.
        """
        key = re.sub(r"[^a-zA-Z0-9_\-./ ]", "_", key)  # MLflow's law for image keys
        name = f"{key.replace('/', '~')}+step+{step}+timestamp+0+{uuid.UUID(int=step)}"
        with self._missed(), tempfile.TemporaryDirectory() as folder:
            whole, small = Path(folder, f"{name}.png"), Path(folder, f"{name}+compressed.webp")
            shutil.copyfile(file, whole)
            with Image.open(file) as image:
                preview(image).save(small)
            for each in (whole, small):
                self._client.log_artifact(self._run_id, str(each), "images")
            self._client.set_tag(self._run_id, "mlflow.loggedImages", "True")

    def set_status(self, status: str, t: int) -> None:
        """Set RUNNING, or end the run at this time."""
        if status == "RUNNING":
            self._client.update_run(self._run_id, status=status)
            if self._client.get_run(self._run_id).info.end_time:  # of an earlier attempt, and MLflow keeps it
                store = self._client._tracking_client.store  # null changes nothing; 0 is shown as none
                store.update_run_info(self._run_id, None, end_time=0, run_name=None)
        else:
            self._client.set_terminated(self._run_id, status, end_time=t)

    def mark_dead_runs(self) -> None:
        """Set dead runs that this host left RUNNING to KILLED at the time of their last figure."""
        experiments = [experiment.experiment_id for experiment in self._client.search_experiments()]
        mine = f"attributes.status = 'RUNNING' AND tags.`{HOST_TAG}` = '{socket.gethostname()}'"
        for run in self._client.search_runs(experiments, mine):
            if is_dead(run.data.tags[HOST_TAG], run.data.tags.get(PROCESS_TAG, "")):
                ended = max((metric.timestamp for metric in run.data._metric_objs), default=None)
                self._client.set_terminated(run.info.run_id, "KILLED", end_time=ended)

    def _send(
        self,
        metrics: list["entities.Metric"],
        params: list["entities.Param"],
        tags: list["entities.RunTag"],
    ) -> None:
        while metrics or params or tags:
            self._client.log_batch(
                self._run_id,
                metrics=metrics[:METRICS_PER_BATCH],
                params=params[:PARAMS_PER_BATCH],
                tags=tags[:TAGS_PER_BATCH],
                synchronous=True,
            )
            self._params |= {param.key for param in params[:PARAMS_PER_BATCH]}
            metrics = metrics[METRICS_PER_BATCH:]
            params, tags = params[PARAMS_PER_BATCH:], tags[TAGS_PER_BATCH:]

    @contextmanager
    def _refusals(self, what: str) -> Iterator[None]:
        """Raise Refused for content that MLflow does not take, Deleted where it takes nothing for the run."""
        try:
            yield
        except Exception as error:
            if not is_refusal(error):
                raise
            run = self._client.get_run(self._run_id)
            if run.info.lifecycle_stage == "deleted":
                raise _deleted(run) from error
            raise Refused(f"MLflow refuses {what}: {brief(error)}") from error

    @contextmanager
    def _missed(self) -> Iterator[None]:
        """Raise Missed for an error of which the store itself is not the cause."""
        try:
            yield
        except Exception as error:  # OSError for a full disk, others by the kind of artifact store
            run = self._client.get_run(self._run_id)  # raises where the store is the cause
            if run.info.lifecycle_stage == "deleted":
                raise _deleted(run) from error
            raise Missed(brief(error)) from error


def connect(uri: str) -> "MlflowClient":
    """Return a client for a store, creating an sqlite one; many processes may do it at once."""
    import_mlflow()
    from mlflow import MlflowClient

    if (path := database_of(uri)) is None:
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    file = open_database(path)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    if _opened.setdefault(uri, file) != file:  # MLflow has a file open that was removed or replaced
        client._tracking_client.store.engine.dispose()
    _opened[uri] = file
    return client


def configure() -> None:
    """Set what MLflow reads from the environment, unless the user has; before its first import."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")  # its errors reach us as exceptions
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # we print our own
    # MLflow's own defaults, 7 retries of 120 s, hang for minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")  # seconds
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it warns of each retry


def import_mlflow() -> None:
    """Import MLflow as runs need it, as in a process that runs are forked from."""
    configure()
    with _importing:
        import mlflow.entities  # noqa: F401
        from mlflow import MlflowClient  # noqa: F401


def is_refusal(error: Exception) -> bool:
    """Whether the store works but does not take this content."""
    return getattr(error, "error_code", None) in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


def _find_run(client: "MlflowClient", spool: str) -> "entities.Run | None":
    """Return the run of a spool, a deleted one if there is no other; its experiment may have a new name."""
    from mlflow.entities import ViewType

    experiments = [each.experiment_id for each in client.search_experiments(view_type=ViewType.ALL)]
    wanted = f"tags.`{SPOOL_TAG}` = '{spool}'"
    runs = client.search_runs(experiments, wanted, run_view_type=ViewType.ALL)
    return min(runs, key=lambda run: run.info.lifecycle_stage != "active", default=None)


def _deleted(run: "entities.Run") -> Deleted:
    return Deleted(f"its run {run.info.run_id} was deleted in MLflow; once restored there, it goes on")


def _find_experiment(client: "MlflowClient", name: str, uri: str) -> str:
    """Return the id of the experiment, creating it; another process may do so at the same moment."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        location = None
        if not uri.startswith(("http", "databricks")):  # there the server decides
            location = (artifact_root(uri) / clean_name(name).replace("/", "_")).as_uri()
        try:
            return client.create_experiment(name, artifact_location=location)
        except MlflowException:
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise ValueError(
            f"tracking.experiment {name!r} is deleted in MLflow: restore it or choose another name"
        )
    return experiment.experiment_id


def preview(image: Image.Image) -> Image.Image:
    """Return what the grid shows of a sheet, a square at most: of a tall one the upper left."""
    side = min(image.width, image.height)
    if image.height > 1.2 * image.width:
        side = side * 2 // 3
        image = image.crop((0, 0, side, side))
    small = image.convert("RGB")
    small.thumbnail((PREVIEW, PREVIEW))
    return small


def _keep_view(client: "MlflowClient", run: "entities.Run", tags: Mapping[str, str]) -> str:
    """Keep the view that a run belongs to in its experiment and return its key; "" where the store does not.

    Many processes may do it at once, for all of them write the same.
    """
    key, state = view_of(tags)
    key, text = clean_name(key), json.dumps(state)
    try:
        experiment = client.get_experiment(run.info.experiment_id)
        if experiment.tags.get(TAG + key) != text:
            client.set_experiment_tag(run.info.experiment_id, TAG + key, text)
    except Exception as error:  # a server may forbid it, and what is wrong with the store is told by the next
        log.debug("tracking: no view is kept: %s", brief(error))
        return ""
    return key


def _create_run(client: "MlflowClient", experiment_id: str, start: Record) -> "entities.Run":
    tags = {SPOOL_TAG: start["spool"]}
    with suppress(KeyError, OSError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    name = cut(start["run_name"], NAME_LENGTH)
    return client.create_run(experiment_id, start_time=start["t"], tags=tags, run_name=name)


def _called(entries: Sequence[Entry]) -> str:
    if len(entries) > 1:
        return f"one of {len(entries)} entries"
    kind = {Point: "metrics", Param: "params", Tag: "tags"}[type(entries[0])]
    return f"{kind} entry {clean_name(entries[0].key)!r}"
