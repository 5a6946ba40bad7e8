"""Brings a run's spool to a store, once each and in order."""

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from cifar_core.files import check_format, lock
from experiments.files import canonical
from experiments.tracking.spool import Delivered, Record, Spool
from experiments.tracking.store import Entry, Ids, Missed, Param, Point, Refused, Store, Tag
from experiments.tracking.uri import brief

log = logging.getLogger(__name__)

ENTRIES = ("params", "metrics", "tags")  # kinds of records whose neighbours are sent together
RECORDS_TOGETHER = 100
PARENT_TAG = "mlflow.parentRunId"  # of a nested trial, whatever the store: spools call it so


def warn_once() -> Callable[[str, str], None]:
    """Return a function that logs one warning per kind and the rest at debug level."""
    warned: set[str] = set()

    def warn(kind: str, text: str) -> None:
        log.log(logging.DEBUG if kind in warned else logging.WARNING, "tracking: %s", text)
        warned.add(kind)

    return warn


class Delivery:
    """Brings one run folder's spool to one store; the tracker's thread and `experiments.sync` both use it.

    Doing it twice adds nothing: `tracking.offset` notes what the store was given, the store is asked whether
    it has that still, and what is sent again, it keeps once.
    """

    def __init__(
        self,
        folder: Path,
        store: Store,
        warn: Callable[[str, str], None] | None = None,
        *,
        again: bool = False,
    ) -> None:
        """Read what `folder` says was delivered to `store`; `warn(kind, text)` tells the user.

        A run that a person has deleted in the store is made `again`, as when it is taken up, or left alone.
        """
        self.folder = folder
        self.store = store
        self.spool = Spool(folder)
        self.state = Delivered.load(folder, store.uri, self.spool.id or "")
        self.trouble: str | None = None  # why the last attempt failed
        self.answered = time.monotonic()  # when the store last did something for us
        self.is_open = False  # whether the store has been reached and has a run for this spool
        self.has_sent = False  # whether there was anything to deliver
        self._is_settled = False  # whether the store is open and has failed at nothing since
        self._warn = warn or warn_once()
        self._again = again
        self._lock: BinaryIO | None = None

    @property
    def url(self) -> str | None:
        """The run's page, once the store has created it."""
        if self.state.run_id is None or self.state.experiment_id is None:
            return None
        return self.store.page(Ids(self.state.experiment_id, self.state.run_id))

    @property
    def overview(self) -> str | None:
        """The page that shows the run beside its like, once the store has created it."""
        start = self.spool.first("start")
        if start is None or self.state.run_id is None or self.state.experiment_id is None:
            return None
        ids = Ids(self.state.experiment_id, self.state.run_id, self.state.view)
        return self.store.overview(ids, start["tags"])

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
        except Exception as error:  # whatever a store, its database or the network raise: training goes on
            self.trouble = brief(error)
            self._warn("store", f"{self.store.uri} does not take what is logged: {self.trouble}")
            return False
        self.trouble = None
        return True

    def deliver(self) -> None:
        """Deliver what is new, in order; raises what the store raises and can be called again."""
        if not self._is_settled or self.store.is_stale():
            self._open()
            if self.state.missed:
                self.has_sent = True
                self.state.missed = [part for record in self.state.missed for part in self._upload(record)]
            self._save()
        self._is_settled = False
        for records, end in _batches(self.spool.read(self.state.offset)):
            if records[0]["kind"] in ENTRIES:
                self._log([entry for record in records for entry in _entries(self._placed(record))])
            else:
                self._one(records[0])
            self.state.offset = end
            self.has_sent = True
            self._save()
        self._is_settled = True

    def lock(self) -> None:
        """Keep other processes from delivering this folder until `close`; BlockingIOError if one does."""
        if self._lock is None:
            file = open(self.spool.path, "rb")  # noqa: SIM115 - held until close()
            if not lock(file):
                file.close()
                raise BlockingIOError(f"another process delivers {self.folder}")
            self._lock = file

    def close(self) -> None:
        """Let another process deliver this folder."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def _save(self) -> None:
        self.answered = time.monotonic()
        self.state.save(self.folder, self.store.uri)

    def _open(self) -> None:
        self.lock()
        start = self.spool.first("start")
        if start is None:
            raise ValueError(f"{self.spool.path} holds no readable start record")
        check_format(self.spool.path, start.get("format"))
        ids = self.store.open(start, again=self._again and not self.is_open)
        self.answered = time.monotonic()
        self.state = Delivered.load(self.folder, self.store.uri, start["spool"])
        if ids.run != self.state.run_id:  # new here, or removed there: all of it is sent
            self.state = Delivered(start["spool"], ids.run, ids.experiment)
        elif self.state.offset and self.store.lacks(*self._delivered()):
            log.info("tracking: %s has lost some of run %s: it is sent again", self.store.uri, ids.run)
            self.state = Delivered(start["spool"], ids.run, ids.experiment)
        self.is_open, self.state.view = True, ids.view
        try:
            self.store.mark_dead_runs()
        except Exception as error:  # a server may forbid to touch the others: not this run's trouble
            self._warn("dead", f"runs whose process is gone were not marked KILLED: {brief(error)}")

    def _delivered(self) -> tuple[list[Entry], set[str], str | None]:
        """Return what the store is to have by now: entries, files, and how the run has ended if it has."""
        entries: list[Entry] = []
        files: set[str] = set()
        status = None
        for record, end in self.spool.read():
            if end > self.state.offset:
                break
            if record["kind"] in ENTRIES:
                entries += _entries(record)
            elif record["kind"] in ("start", "status"):
                status = record.get("status")
            elif record["kind"] == "artifacts" and (self.folder / record["path"]).exists():
                parts = [part for part in self._parts(record) if part not in self.state.missed]
                names = [(part["to"], Path(part["path"]).name) for part in parts]
                files |= {f"{to}/{name}" if to else name for to, name in names}
        return entries, files, status

    def _log(self, entries: Sequence[Entry]) -> None:
        """Send entries together; one that is refused costs only itself."""
        if not entries:  # the figures of an epoch that is trained again, all of them known
            return
        try:
            self.store.log(entries)
        except Refused as refused:
            if len(entries) > 1:
                for entry in entries:
                    self._log([entry])
            else:
                self._warn("refused", str(refused))
        self.answered = time.monotonic()

    def _one(self, record: Record) -> None:
        if record["kind"] == "start":
            tags = record["tags"] | self._place(record["tags"])
            self._log([Tag(key, canonical(value)) for key, value in tags.items()])
            self.store.set_status("RUNNING", record["t"])
        elif record["kind"] == "status":
            self.store.set_status(record["status"], record["t"])
        elif record["kind"] == "dataset":
            try:
                self.store.log_dataset(
                    name=record["name"],
                    digest=record["digest"],
                    source=record["source"],
                    context=record["context"],
                )
            except Refused as refused:
                self._warn("refused", str(refused))
        else:
            self.state.missed += self._upload(record)

    def _placed(self, record: Record) -> Record:
        """Return a record with its tags, if it has any, as they are here and now."""
        if record["kind"] != "tags":
            return record
        return record | {"data": record["data"] | self._place(record["data"])}

    def _place(self, tags: Mapping[str, str]) -> dict[str, str]:
        """Return the tags that depend on where the folder is now and, in this store, its sweep's run."""
        sweep = self.folder.parent
        parent = Delivered.load(sweep, self.store.uri, Spool(sweep).id or "").run_id
        now = {"run_folder": str(self.folder.resolve()), PARENT_TAG: parent}
        return {key: value for key, value in now.items() if key in tags and value}

    def _upload(self, record: Record) -> list[Record]:
        """Upload an image or files; returns the parts that failed alone. A store that is gone raises."""
        failed = []
        for part in self._parts(record):
            file = self.folder / part["path"]
            try:
                if part["kind"] == "image":
                    self.store.upload_image(file, key=part["key"], step=part["step"])
                else:
                    self.store.upload(file, part["to"])
            except Missed as missed:
                self._warn("file", f"{file} was not uploaded: {missed}")
                failed.append(part)
            self.answered = time.monotonic()
        return failed

    def _parts(self, record: Record) -> Iterator[Record]:
        """Yield the record of each file that one of a folder stands for, of those in the run folder alone.

        The spool may be a stranger's, who would be sent whatever it names.
        """
        home = self.folder.resolve()
        for part in self._named(record):
            if (file := self.folder / part["path"]).resolve().is_relative_to(home):
                yield part
            else:
                self._warn("outside", f"{file} lies outside the run folder, so it is not uploaded")

    def _named(self, record: Record) -> Iterator[Record]:
        path = self.folder / record["path"]
        if not path.exists():
            self._warn("absent", f"{path} is not there, so it cannot be uploaded")
        elif record["kind"] == "image" or "to" in record:
            yield record
        else:
            for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
                place = Path(os.path.relpath(file, self.folder))
                to = None if len(place.parts) == 1 else place.parent.as_posix()
                yield {"kind": "artifacts", "path": str(place), "to": to}


def _entries(record: Record) -> list[Entry]:
    """Return what a record of params, metrics or tags holds."""
    items = record["data"].items()
    if record["kind"] == "metrics":
        return [Point(key, float(value), record["step"], record["t"]) for key, value in items]
    entry = Param if record["kind"] == "params" else Tag
    return [entry(key, value) for key, value in items]


def _batches(records: Iterable[tuple[Record, int]]) -> Iterator[tuple[list[Record], int]]:
    """Group neighbours that hold entries, with the offset behind the last; other records stand alone."""
    group: list[Record] = []
    end = 0
    for record, offset in records:
        if group and (record["kind"] not in ENTRIES or len(group) == RECORDS_TOGETHER):
            yield group, end
            group = []
        group, end = [*group, record], offset
        if record["kind"] not in ENTRIES:
            yield group, end
            group = []
    if group:
        yield group, end
