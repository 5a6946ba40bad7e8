"""Mirrors runs to MLflow: log calls only write to the run's spool, a thread of its own delivers."""

import fcntl
import getpass
import hashlib
import json
import logging
import math
import os
import re
import shlex
import shutil
import socket
import sqlite3
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from experiments.spool import Delivered, Record, Spool, canonical, flatten, is_dead, this_process

log = logging.getLogger(__name__)

PROJECT_ROOT = Path(__file__).resolve().parents[1]
SCHEMES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "databricks")
STATUSES = ("FINISHED", "FAILED", "KILLED")

# MLflow's limits (mlflow/utils/validation.py): characters, and entries of one log_batch.
NAME_LENGTH, PARAM_LENGTH, TAG_LENGTH = 250, 6000, 8000
METRICS_PER_BATCH, PARAMS_PER_BATCH, TAGS_PER_BATCH = 800, 100, 100  # 1000 together

TICK_SECONDS = 2.0  # between two deliveries; doubled after each failure
LONGEST_TICK_SECONDS = 60.0
FAILING_SECONDS = 5.0  # how long closing waits for a store that fails
SILENT_SECONDS = 60.0  # ... and for one that works, counted from its last answer

BATCHED = ("params", "metrics", "tags")  # kinds of records that go into log_batch
SPOOL_TAG, HOST_TAG, PROCESS_TAG = "tracker.spool", "tracker.host", "tracker.process"


def tracking_uri(uri: str | None) -> str:
    """Make the store's URI absolute: `uri`, else MLFLOW_TRACKING_URI, else sqlite in the project root.

    A relative sqlite path counts from the project root, never from the working directory.

    Raises:
        ValueError: for a kind of store MLflow cannot open, such as a plain folder.
    """
    key = "tracking.uri" if uri else "MLFLOW_TRACKING_URI"
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if uri.partition(":")[0].partition("+")[0] not in SCHEMES:
        known = ", ".join(SCHEMES)
        raise ValueError(
            f"{key} must start with one of {known}; MLflow's file store is closed: write "
            f"sqlite:///<file>.db instead, got {uri!r}"
        )
    if not uri.startswith("sqlite"):
        return uri.rstrip("/")
    path = uri.partition(":///")[2]
    if not path or path == ":memory:":
        raise ValueError(f"{key} must name a file, as in sqlite:///mlflow.db, got {uri!r}")
    return f"sqlite:///{PROJECT_ROOT / path}"


def public_uri(uri: str) -> str:
    """Hide the password in a URI, for what is printed or saved."""
    return re.sub(r"(://[^:/@]*):[^/\s]*@", r"\1:***@", uri)


def ui_hint(uri: str) -> str:
    """Say how to look at the runs of a store: an address, or the command for the light local server."""
    if uri.startswith("http"):
        return f"open {public_uri(uri)}"
    if uri == "sqlite:///" + str(PROJECT_ROOT / "mlflow.db"):
        return "make ui"
    light = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --workers 1"  # 2 processes instead of 10
    return f"{light} --backend-store-uri {shlex.quote(public_uri(uri))}"


def clean_name(name: str) -> str:
    """Turn any text into a name that MLflow accepts for a metric, a parameter or a tag."""
    parts = re.sub(r"[^\w.\- :/]", "_", name).split("/")
    clean = "/".join(part for part in parts if part not in ("", ".", "..")) or "_"
    if len(clean) <= NAME_LENGTH:
        return clean
    digest = hashlib.sha256(name.encode(errors="replace")).hexdigest()[:8]
    return f"{clean[: NAME_LENGTH - 9]}-{digest}"


def _cut(text: str, length: int) -> str:
    mark = " ... (cut)"  # the full value stays in the run's config.yaml
    return text if len(text) <= length else text[: length - len(mark)] + mark


def one_line(error: BaseException) -> str:
    """Write an error in one line of at most 300 characters, without passwords."""
    text = public_uri(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:100]} ... {text[-195:]}"


class NoTracker:
    """Tracks nothing and imports nothing."""

    uri: str | None = None
    url: str | None = None
    run_id: str | None = None

    def __init__(self, *, out_dir: Path, run_name: str, tags: dict[str, str]) -> None:
        """Take what every tracker is given."""

    def __enter__(self) -> Self:
        """Do nothing."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Do nothing."""

    def log_params(self, params: dict[str, Any]) -> None:
        """Do nothing."""

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Do nothing."""

    def set_tags(self, tags: dict[str, str]) -> None:
        """Do nothing."""

    def set_note(self, markdown: str) -> None:
        """Do nothing."""

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Do nothing."""

    def log_image(self, path: Path, key: str, step: int) -> None:
        """Do nothing."""

    def log_artifacts(self, path: Path) -> None:
        """Do nothing."""

    def log_model(self, model: Any, images: Any) -> None:
        """Do nothing."""

    def finish(self, status: str) -> None:
        """Do nothing."""


class MlflowTracker:
    """Tracks a run in MLflow without ever delaying or failing it; a context manager.

    Log calls append to `<out_dir>/tracking.jsonl` and return. A thread delivers the file every two seconds;
    what it could not deliver stays there for `python -m experiments.sync <out_dir>`. Entering the same folder
    again continues the same MLflow run.

    Raises:
        ValueError: for a `uri` of an unknown kind.
        ConnectionError: on entering, when `required` and MLflow cannot be used.
    """

    def __init__(
        self,
        *,
        uri: str | None,
        experiment: str,
        required: bool,
        nested: bool,
        log_model: bool,
        out_dir: Path,
        run_name: str,
        tags: dict[str, str],
    ) -> None:
        """Check the options; nothing is written or opened before the `with` block."""
        self.uri = tracking_uri(uri)
        self.out_dir = Path(out_dir)
        self._experiment = experiment
        self._run_name = run_name
        self._required = required
        self._log_model = log_model
        self._tags = {k: v for k, v in tags.items() if nested or k != "mlflow.parentRunId"}
        self._spool = Spool(self.out_dir)
        self._warn = _warn_once()
        self._delivery = Delivery(self.out_dir, self.uri, self._warn)
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._first_try = threading.Event()
        self._closing = threading.Event()
        self._status: str | None = None
        self._known: set[tuple[str, int]] = set()  # points logged before this process took the run up

    @property
    def run_id(self) -> str | None:
        """The MLflow run's id, once the store has created it."""
        return self._delivery.state.run_id

    @property
    def url(self) -> str | None:
        """The run's page, once the store has created it."""
        return self._delivery.url

    def __enter__(self) -> Self:
        """Start, or continue, the run."""
        try:
            self._start()
        except OSError as error:
            self._warn("spool", f"nothing is tracked: {one_line(error)}")
        self._thread.start()
        if self._required and not (self._first_try.wait(SILENT_SECONDS) and self._delivery.is_open):
            self.finish("FAILED")
            self._closing.set()
            reason = self._delivery.trouble or f"no answer in {SILENT_SECONDS:.0f} s"
            raise ConnectionError(f"tracking.required: {public_uri(self.uri)} cannot be used: {reason}")
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: object) -> None:
        """End the run as FINISHED, FAILED or KILLED; waits for its delivery within bounds, never raises."""
        if self._status is None:
            self.finish(_status(exc))
        self._closing.set()
        try:
            self._wait()
        except KeyboardInterrupt:
            log.warning("stopped waiting for MLflow")
        if not self._delivery.is_complete:
            log.warning("not everything reached MLflow; later: python -m experiments.sync %s", self.out_dir)

    def log_params(self, params: dict[str, Any]) -> None:
        """Log parameters; nested dicts become dotted keys. Values over 6000 characters are cut in MLflow."""
        self._append("params", data=flatten(params))

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Log numbers of one step; a NaN or an infinity also sets the tag `diverged`.

        A step that a resumed run does again keeps its first point.
        """
        numbers = {key: float(value) for key, value in metrics.items() if (key, step) not in self._known}
        # JSON has no NaN: it is spelled out, and float() reads it back
        data = {key: value if math.isfinite(value) else str(value) for key, value in numbers.items()}
        self._append("metrics", step=int(step), data=data)
        if not all(map(math.isfinite, numbers.values())):
            self.set_tags({"diverged": "true"})

    def set_tags(self, tags: dict[str, str]) -> None:
        """Set tags; a later value replaces an earlier one."""
        self._append("tags", data={key: canonical(value) for key, value in tags.items()})

    def set_note(self, markdown: str) -> None:
        """Set the run's description, shown as Markdown."""
        self.set_tags({"mlflow.note.content": markdown})

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Log a data set as input of the run; `digest` is its fingerprint, `context` a split's name."""
        texts = {"name": name, "digest": digest, "source": source, "context": context}
        self._append("dataset", **{key: canonical(text) for key, text in texts.items()})

    def log_image(self, path: Path, key: str, step: int) -> None:
        """Add a picture file to the image grid `key`; the file must stay as it is until it is delivered."""
        self._append("image", path=self._relative(path), key=key, step=int(step))

    def log_artifacts(self, path: Path) -> None:
        """Upload a complete file, or folder with all it holds; within the run folder it keeps its place."""
        self._append("artifacts", path=self._relative(path))

    def log_model(self, model: Any, images: Any) -> None:
        """With `tracking.log_model`, save a model in MLflow's format to `<out_dir>/model` and upload it.

        The model must be on the CPU and in eval mode; it is exported by running `images`, a float32 array
        (N >= 2, 3, H, W), through it. What is saved loads without pickle and without this project's code.
        """
        if not self._log_model:
            return
        folder = self.out_dir / "model"
        try:
            shutil.rmtree(folder, ignore_errors=True)  # of the run before it was resumed
            _save_model(model, folder, images)
        except Exception as error:  # torch.export refuses some models, a disk can be full: training goes on
            self._warn("model", f"the model was not saved for MLflow: {one_line(error)}")
        else:
            self.log_artifacts(folder)

    def finish(self, status: str) -> None:
        """End the MLflow run with FINISHED, FAILED or KILLED, whatever the `with` block does afterwards."""
        if status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}, got {status!r}")
        self._status = status
        self._append("status", status=status)

    def _start(self) -> None:
        self.out_dir.mkdir(parents=True, exist_ok=True)
        logged = (record for record, _ in self._spool.read() if record["kind"] == "metrics")
        self._known = {(key, record["step"]) for record in logged for key in record["data"]}
        self._spool.append(
            "start",
            spool=self._spool.id or uuid.uuid4().hex,  # a resumed run keeps it
            uri=public_uri(self.uri),
            experiment=self._experiment,
            run_name=canonical(self._run_name),
            tags=self._tags | {HOST_TAG: socket.gethostname(), PROCESS_TAG: this_process()},
        )

    def _append(self, kind: str, **fields: Any) -> None:
        try:
            self._spool.append(kind, **fields)
        except OSError as error:
            self._warn("spool", f"not tracked: {self._spool.path}: {one_line(error)}")

    def _relative(self, path: Path) -> str:
        path, folder = Path(path).resolve(), self.out_dir.resolve()
        return str(path.relative_to(folder) if path.is_relative_to(folder) else path)

    def _work(self) -> None:
        tick = 0.0
        while True:
            closing = self._closing.wait(tick)
            worked = self._delivery.attempt()
            self._first_try.set()
            if closing or (self._closing.is_set() and not worked):
                break
            tick = TICK_SECONDS if worked else min(2 * max(tick, TICK_SECONDS), LONGEST_TICK_SECONDS)
        self._delivery.close()

    def _wait(self) -> None:
        """Wait for the thread: long while the store answers, briefly once it fails."""
        closed = time.monotonic()
        while self._thread.is_alive():
            self._thread.join(0.05)
            patience = FAILING_SECONDS if self._delivery.trouble else SILENT_SECONDS
            if time.monotonic() - max(closed, self._delivery.answered) > patience:
                break


def _status(exc: BaseException | None) -> str:
    if exc is None or (isinstance(exc, SystemExit) and not exc.code):
        return "FINISHED"
    killed = isinstance(exc, KeyboardInterrupt) or (isinstance(exc, SystemExit) and exc.code in (130, 143))
    return "KILLED" if killed else "FAILED"


def _warn_once() -> Callable[[str, str], None]:
    """Return a function that logs one warning per kind and the rest at debug level."""
    warned: set[str] = set()

    def warn(kind: str, text: str) -> None:
        log.log(logging.DEBUG if kind in warned else logging.WARNING, "tracking: %s", text)
        warned.add(kind)

    return warn


class Delivery:
    """Brings one run folder's spool to one store; the tracker's thread and `experiments.sync` both use it.

    Doing it twice adds nothing: a run is found by its spool's id, points keep their timestamps, parameters
    that the store has are left out.
    """

    def __init__(self, folder: Path, uri: str, warn: Callable[[str, str], None] | None = None) -> None:
        """Read what `folder` says was delivered to `uri`; `warn(kind, text)` tells the user."""
        self.folder = folder
        self.uri = uri
        self.spool = Spool(folder)
        self.state = Delivered.load(folder, public_uri(uri), self.spool.id or "")
        self.trouble: str | None = None  # why the last attempt failed
        self.answered = time.monotonic()  # when the store last did something for us
        self._warn = warn or _warn_once()
        self._client: Any = None
        self._lock: Any = None
        self._params: set[str] = set()

    @property
    def is_open(self) -> bool:
        """Whether the store has been reached and has a run for this spool."""
        return self._client is not None

    @property
    def url(self) -> str | None:
        """The run's page: on the server, or where `mlflow ui` will stand once it is started."""
        if self.state.run_id is None:
            return None
        base = public_uri(self.uri) if self.uri.startswith("http") else "http://127.0.0.1:5000"
        page = f"/#/experiments/{self.state.experiment_id}/runs/{self.state.run_id}"
        return f"{base}{page}?workflowType=machine_learning"  # without it the UI opens in its GenAI mode

    @property
    def is_complete(self) -> bool:
        """Whether the store has everything the spool holds."""
        try:
            nothing_new = next(self.spool.read(self.state.offset), None) is None
        except OSError:
            return False
        return bool(self.state.run_id) and nothing_new and not self.state.missed

    def attempt(self) -> bool:
        """Deliver what is new; on failure warn, keep the reason in `trouble` and return False."""
        try:
            self.deliver()
        except Exception as error:  # whatever MLflow, its database or the network raise: training goes on
            self.trouble = one_line(error)
            self._warn("store", f"{public_uri(self.uri)} does not take what is logged: {self.trouble}")
            return False
        self.trouble = None
        return True

    def deliver(self) -> None:
        """Deliver what is new, in order; raises what the store raises and can be called again."""
        if self._client is None:
            self._open()
            self.state.missed = [part for record in self.state.missed for part in self._upload(record)]
            self._saved()
        for records, end in _batches(self.spool.read(self.state.offset)):
            if records[0]["kind"] in BATCHED:
                self._log_batch(records)
            else:
                self._one(records[0])
            self.state.offset = end
            self._saved()

    def lock(self) -> None:
        """Keep other processes from delivering this folder until `close`; BlockingIOError if one does."""
        if self._lock is None:
            lock = open(self.spool.path, "rb")  # noqa: SIM115 - held until close()
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                raise BlockingIOError(f"another process delivers {self.folder}") from None
            self._lock = lock

    def close(self) -> None:
        """Let another process deliver this folder."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def _saved(self) -> None:
        self.answered = time.monotonic()
        self.state.save(self.folder, public_uri(self.uri))

    def _open(self) -> None:
        self.lock()
        start = self.spool.first("start")
        if start is None:
            raise ValueError(f"{self.spool.path} holds no readable start record")
        client = open_store(self.uri)
        self.answered = time.monotonic()
        experiment_id = _experiment(client, start["experiment"], self.uri)
        self.state = Delivered.load(self.folder, public_uri(self.uri), start["spool"])
        found = client.search_runs([experiment_id], f"tags.`{SPOOL_TAG}` = '{start['spool']}'", max_results=1)
        run = found[0] if found else _create_run(client, experiment_id, start)
        if run.info.run_id != self.state.run_id:  # new here, or removed there: all of it is sent
            self.state = Delivered(start["spool"], run.info.run_id, experiment_id)
        self._params = set(run.data.params)
        self._client = client
        try:
            mark_dead_runs(client)
        except Exception as error:  # a server may forbid to touch the others: not this run's trouble
            self._warn("dead", f"runs whose process is gone were not marked KILLED: {one_line(error)}")

    def _log_batch(self, records: list[Record]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics: list[Any] = []
        params: dict[str, Any] = {}
        tags: dict[str, Any] = {}
        for record in records:
            for name, value in record["data"].items():
                key = clean_name(name)
                if record["kind"] == "metrics":
                    metrics.append(Metric(key, float(value), record["t"], record["step"]))
                elif record["kind"] == "tags":
                    tags[key] = RunTag(key, _cut(value, TAG_LENGTH))
                elif key not in self._params:  # MLflow never changes a parameter and refuses the whole batch
                    params.setdefault(key, Param(key, _cut(value, PARAM_LENGTH)))
        self._send(metrics, list(params.values()), list(tags.values()))
        self._params |= params.keys()

    def _send(self, metrics: list[Any], params: list[Any], tags: list[Any]) -> None:
        """Send entries in as few batches as MLflow allows; one that it refuses costs only itself."""
        while metrics or params or tags:
            batch = {
                "metrics": metrics[:METRICS_PER_BATCH],
                "params": params[:PARAMS_PER_BATCH],
                "tags": tags[:TAGS_PER_BATCH],
            }
            if self._refusal(batch):
                for kind, entries in batch.items():
                    self._send_singly(kind, entries)
            metrics = metrics[METRICS_PER_BATCH:]
            params, tags = params[PARAMS_PER_BATCH:], tags[TAGS_PER_BATCH:]

    def _send_singly(self, kind: str, entries: list[Any]) -> None:
        for entry in entries:
            if reason := self._refusal({kind: [entry]}):
                self._warn("refused", f"MLflow refuses {kind} entry {entry.key!r}: {reason}")

    def _refusal(self, batch: dict[str, list[Any]]) -> str | None:
        """Send a batch; returns why the store refuses its content. Other errors are raised."""
        try:
            self._client.log_batch(self.state.run_id, **batch, synchronous=True)
        except Exception as error:
            if not _is_refusal(error):
                raise
            return one_line(error)
        self.answered = time.monotonic()
        return None

    def _one(self, record: Record) -> None:
        if record["kind"] == "start":
            self._send([], [], _tags(record["tags"]))
            self._client.update_run(self.state.run_id, status="RUNNING")
        elif record["kind"] == "status":
            self._client.set_terminated(self.state.run_id, record["status"], end_time=record["t"])
        elif record["kind"] == "dataset":
            try:
                self._log_dataset(record)
            except Exception as error:
                if not _is_refusal(error):
                    raise
                self._warn("refused", f"MLflow refuses the data set {record['name']!r}: {one_line(error)}")
        else:
            self.state.missed += self._upload(record)

    def _log_dataset(self, record: Record) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": record["source"]})
        dataset = Dataset(record["name"][:500], record["digest"][:36], "local", source)
        tags = [InputTag("mlflow.data.context", record["context"])]
        self._client.log_inputs(self.state.run_id, datasets=[DatasetInput(dataset, tags)])

    def _upload(self, record: Record) -> list[Record]:
        """Upload an image or files; returns the parts that failed alone. A store that is gone raises."""
        failed = []
        for part in self._parts(record):
            try:
                self._upload_part(part)
                self.answered = time.monotonic()
            except Exception as error:  # OSError for a full disk, others by the kind of artifact store
                self._client.get_run(self.state.run_id)  # raises where the store, not the file, is the cause
                self._warn("file", f"{self.folder / part['path']} was not uploaded: {one_line(error)}")
                failed.append(part)
        return failed

    def _upload_part(self, part: Record) -> None:
        if part["kind"] == "image":
            self._upload_image(part)
        else:
            self._client.log_artifact(self.state.run_id, self.folder / part["path"], part["to"])

    def _parts(self, record: Record) -> Iterator[Record]:
        path = self.folder / record["path"]
        if not path.exists():
            self._warn("absent", f"{path} is not there, so it cannot be uploaded")
        elif record["kind"] == "image" or "to" in record:
            yield record
        else:
            outside = Path(record["path"]).is_absolute()
            for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
                place = file.relative_to(path.parent if outside else self.folder)
                to = None if len(place.parts) == 1 else place.parent.as_posix()
                yield {"kind": "artifacts", "path": str(file if outside else place), "to": to}

    def _upload_image(self, record: Record) -> None:
        from PIL import Image

        key = re.sub(r"[^a-zA-Z0-9_\-./ ]", "_", record["key"])  # MLflow's law for image keys
        stem = f"images/{key.replace('/', '~')}+step+{record['step']}+timestamp+{record['t']}+"
        there = [file.path for file in self._client.list_artifacts(self.state.run_id, "images")]
        if any(path.startswith(stem) and path.endswith("+compressed.webp") for path in there):
            return  # MLflow's file names hold a random part: a second upload would be a second picture
        with Image.open(self.folder / record["path"]) as image:
            self._client.log_image(
                self.state.run_id,
                image.convert("RGB"),
                key=key,
                step=record["step"],
                timestamp=record["t"],
                synchronous=True,
            )


def _batches(records: Iterable[tuple[Record, int]]) -> Iterator[tuple[list[Record], int]]:
    """Group up to 100 neighbours that go into log_batch; other records stand alone."""
    group: list[Record] = []
    end = 0
    for record, offset in records:
        if group and (record["kind"] not in BATCHED or len(group) == 100):
            yield group, end
            group = []
        group, end = [*group, record], offset
        if record["kind"] not in BATCHED:
            yield group, end
            group = []
    if group:
        yield group, end


def _is_refusal(error: Exception) -> bool:
    """Whether the store works but does not take this content."""
    return getattr(error, "error_code", None) in ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")


def _tags(tags: dict[str, str]) -> list[Any]:
    from mlflow.entities import RunTag

    return [RunTag(clean_name(key), _cut(canonical(value), TAG_LENGTH)) for key, value in tags.items()]


def open_store(uri: str) -> Any:
    """Return an `MlflowClient` for a store, creating an sqlite one; many processes may do it at once."""
    _configure_mlflow()
    from mlflow import MlflowClient

    if uri.startswith("sqlite"):
        _create_sqlite(Path(uri.removeprefix("sqlite:///")))
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _configure_mlflow() -> None:
    """Set what MLflow reads from the environment, unless the user has; before its first import."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "CRITICAL")  # its errors reach us as exceptions
    # MLflow's own defaults, 7 retries of 120 s, hang for minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")  # seconds
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it warns of each retry


def _save_model(model: Any, folder: Path, images: Any) -> None:
    _configure_mlflow()
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


def _artifact_root(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///")).parent if uri.startswith("sqlite") else PROJECT_ROOT


def _create_sqlite(path: Path) -> None:
    """Create the database if there is none; nobody ever sees a schema that is half made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass  # in a folder that cannot be written, MLflow would take minutes to find out
    if path.exists() and path.stat().st_size:
        return
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (path.exists() and path.stat().st_size):
            _write_schema(path)


def _write_schema(path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder = Path(f"{path}.new")
    shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed here
    folder.mkdir()
    store = SqlAlchemyStore(f"sqlite:///{folder / path.name}", (path.parent / "mlartifacts").as_uri())
    store.engine.dispose()
    with closing(sqlite3.connect(folder / path.name)) as database:
        database.execute("PRAGMA journal_mode=WAL")  # kept in the file; halves the time of a commit
    (folder / path.name).replace(path)
    shutil.rmtree(folder)


def _experiment(client: Any, name: str, uri: str) -> str:
    """Return the id of the experiment, creating it; another process may do so at the same moment."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        location = None
        if not uri.startswith(("http", "databricks")):  # there the server decides
            location = (_artifact_root(uri) / "mlartifacts" / clean_name(name).replace("/", "_")).as_uri()
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


def _create_run(client: Any, experiment_id: str, start: Record) -> Any:
    tags = {SPOOL_TAG: start["spool"]}
    with suppress(KeyError, OSError):  # a container's user may have no name
        tags["mlflow.user"] = getpass.getuser()
    return client.create_run(experiment_id, start_time=start["t"], tags=tags, run_name=start["run_name"])


def import_mlflow() -> None:
    """Import MLflow as runs need it, as in a process that runs are forked from."""
    _configure_mlflow()
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
        if _is_refusal(error):
            raise ValueError(f"--filter: {one_line(error)}") from error
        raise ConnectionError(f"{public_uri(uri)} cannot be searched: {one_line(error)}") from error
    return folders
