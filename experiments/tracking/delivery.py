"""Brings a run's spool to a store, once each and in order."""

import fcntl
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from experiments.tracking.mlflow_store import (
    METRICS_PER_BATCH,
    PARAM_LENGTH,
    PARAMS_PER_BATCH,
    SPOOL_TAG,
    TAG_LENGTH,
    TAGS_PER_BATCH,
    clean_name,
    create_run,
    cut,
    find_experiment,
    is_refusal,
    mark_dead_runs,
    open_store,
    tags_of,
)
from experiments.tracking.spool import Delivered, Record, Spool
from experiments.tracking.uri import one_line, public_uri

log = logging.getLogger(__name__)

BATCHED = ("params", "metrics", "tags")  # kinds of records that go into log_batch


def warn_once() -> Callable[[str, str], None]:
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
        self._warn = warn or warn_once()
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
        experiment_id = find_experiment(client, start["experiment"], self.uri)
        self.state = Delivered.load(self.folder, public_uri(self.uri), start["spool"])
        found = client.search_runs([experiment_id], f"tags.`{SPOOL_TAG}` = '{start['spool']}'", max_results=1)
        run = found[0] if found else create_run(client, experiment_id, start)
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
                    tags[key] = RunTag(key, cut(value, TAG_LENGTH))
                elif key not in self._params:  # MLflow never changes a parameter and refuses the whole batch
                    params.setdefault(key, Param(key, cut(value, PARAM_LENGTH)))
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
            if not is_refusal(error):
                raise
            return one_line(error)
        self.answered = time.monotonic()
        return None

    def _one(self, record: Record) -> None:
        if record["kind"] == "start":
            self._send([], [], tags_of(record["tags"]))
            self._client.update_run(self.state.run_id, status="RUNNING")
        elif record["kind"] == "status":
            self._client.set_terminated(self.state.run_id, record["status"], end_time=record["t"])
        elif record["kind"] == "dataset":
            try:
                self._log_dataset(record)
            except Exception as error:
                if not is_refusal(error):
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
