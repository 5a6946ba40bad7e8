"""What a run calls to be recorded: `Tracker`, one that does nothing, and one that never holds a run up."""

import logging
import math
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from cifar_core.files import FORMAT
from experiments.files import canonical, flatten
from experiments.tracking.delivery import Delivery, warn_once
from experiments.tracking.processes import HOST_TAG, PROCESS_TAG, this_process
from experiments.tracking.spool import Spool
from experiments.tracking.store import Store
from experiments.tracking.uri import brief

log = logging.getLogger(__name__)

STATUSES = ("FINISHED", "FAILED", "KILLED")
NOTE_TAG = "mlflow.note.content"  # whatever the store: spools call it so

TICK_SECONDS = 2.0  # between two deliveries; doubled after each failure
LONGEST_TICK_SECONDS = 60.0
FAILING_SECONDS = 5.0  # how long closing waits for a store that fails
SILENT_SECONDS = 60.0  # ... and for one that works, counted from its last answer


class Tracker(Protocol):
    """Records a run while it lasts; a context manager, made with `out_dir`, `run_name` and `tags`.

    A class of one's own is named by `tracking._target_`; the group's other keys are its further arguments.
    Making the object writes nothing, for every check of a configuration makes one.
    """

    records: ClassVar[bool]  # whether anything is recorded outside the run folder

    @property
    def uri(self) -> str | None:
        """Where runs are recorded, without passwords."""

    @property
    def url(self) -> str | None:
        """The run's page, once there is one."""

    @property
    def overview(self) -> str | None:
        """The page that shows the run beside its like, once there is one."""

    @property
    def run_id(self) -> str | None:
        """The run's id where it is recorded, once there is one."""

    def __enter__(self) -> Self:
        """Start, or continue, the run."""

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: object) -> None:
        """End the run; never raises for what the tracker itself could not do."""

    def log_params(self, params: dict[str, Any]) -> None:
        """Log parameters, nested dicts among them."""

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Log numbers of one step."""

    def set_tags(self, tags: dict[str, str]) -> None:
        """Set tags; a later value replaces an earlier one."""

    def set_note(self, markdown: str) -> None:
        """Set the run's description."""

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Log a data set as input of the run; `digest` is its fingerprint, `context` a split's name."""

    def log_image(self, path: Path, key: str, step: int) -> None:
        """Log a picture file, which stays as it is, under `key`."""

    def log_artifacts(self, path: Path) -> None:
        """Log a complete file, or folder with all it holds."""

    def finish(self, status: str) -> None:
        """End the run with FINISHED, FAILED or KILLED, whatever the `with` block does afterwards."""


class NoTracker:
    """Tracks nothing and imports nothing."""

    records: ClassVar[bool] = False
    uri: str | None = None
    url: str | None = None
    overview: str | None = None
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

    def finish(self, status: str) -> None:
        """Do nothing."""


class SpooledTracker:
    """Tracks a run in a store without ever delaying or failing it; a context manager.

    Log calls append to `<out_dir>/tracking.jsonl` and return. A thread delivers the file every two seconds;
    what it could not deliver stays there for `python -m experiments.sync <out_dir>`. Entering the same folder
    again continues the same run in the store.

    Raises:
        ConnectionError: on entering, when `required` and the store cannot be used.
    """

    records: ClassVar[bool] = True

    def __init__(
        self,
        store: Store,
        *,
        experiment: str,
        required: bool,
        out_dir: Path,
        run_name: str,
        tags: dict[str, str],
    ) -> None:
        """Keep the options; nothing is written or opened before the `with` block."""
        self.uri = store.uri
        self.out_dir = Path(out_dir)
        self._store = store
        self._experiment = experiment
        self._run_name = run_name
        self._required = required
        self._tags = tags
        self._spool = Spool(self.out_dir)
        self._warn = warn_once()
        self._delivery = Delivery(self.out_dir, store, self._warn, again=True)
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._first_try = threading.Event()
        self._closing = threading.Event()
        self._writing = threading.Lock()  # a subclass may log from a thread of its own
        self._status: str | None = None
        self._known: set[tuple[str, int]] = set()  # points logged before this process took the run up

    @property
    def run_id(self) -> str | None:
        """The run's id in the store, once the store has created it."""
        return self._delivery.state.run_id

    @property
    def url(self) -> str | None:
        """The run's page, once the store has created it."""
        return self._delivery.url

    @property
    def overview(self) -> str | None:
        """The page that shows the run beside its like, once there is one."""
        return self._delivery.overview

    def __enter__(self) -> Self:
        """Start, or continue, the run."""
        try:
            self._start()
        except OSError as error:
            self._warn("spool", f"nothing is tracked: {brief(error)}")
        self._thread.start()
        if self._required and not (self._first_try.wait(SILENT_SECONDS) and self._delivery.is_open):
            self.finish("FAILED")
            self._closing.set()
            reason = self._delivery.trouble or f"no answer in {SILENT_SECONDS:.0f} s"
            raise ConnectionError(f"tracking.required: {self.uri} cannot be used: {reason}")
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: object) -> None:
        """End the run as FINISHED, FAILED or KILLED; waits for its delivery within bounds, never raises."""
        if self._status is None:
            self.finish(_status(exc))
        self._closing.set()
        try:
            self._wait()
        except KeyboardInterrupt:
            log.warning("stopped waiting for %s", self._store.name)
        if not self._delivery.is_complete:
            command = f"python -m experiments.sync {self.out_dir}"
            log.warning("not everything reached %s; later: %s", self._store.name, command)

    def log_params(self, params: dict[str, Any]) -> None:
        """Log parameters; nested dicts become dotted keys. A store may cut long values."""
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
        self.set_tags({NOTE_TAG: markdown})

    def log_dataset(self, name: str, digest: str, source: str, context: str) -> None:
        """Log a data set as input of the run; `digest` is its fingerprint, `context` a split's name."""
        texts = {"name": name, "digest": digest, "source": source, "context": context}
        self._append("dataset", **{key: canonical(text) for key, text in texts.items()})

    def log_image(self, path: Path, key: str, step: int) -> None:
        """Add a picture file to the image grid `key`; the file must stay as it is until it is delivered."""
        self._append("image", path=self._relative(path), key=key, step=int(step))

    def log_artifacts(self, path: Path) -> None:
        """Upload a complete file of the run folder, or one of its folders with all it holds, in its place."""
        self._append("artifacts", path=self._relative(path))

    def finish(self, status: str) -> None:
        """End the run with FINISHED, FAILED or KILLED, whatever the `with` block does afterwards."""
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
            format=FORMAT,
            spool=self._spool.id or uuid.uuid4().hex,  # a resumed run keeps it
            uri=self.uri,
            experiment=self._experiment,
            run_name=canonical(self._run_name),
            tags=self._tags | {HOST_TAG: socket.gethostname(), PROCESS_TAG: this_process()},
        )

    def _append(self, kind: str, **fields: Any) -> None:
        try:
            with self._writing:
                self._spool.append(kind, **fields)
        except OSError as error:
            self._warn("spool", f"not tracked: {self._spool.path}: {brief(error)}")

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
                if not self._delivery.trouble:  # what troubles it has been told
                    self._warn("silent", f"{self.uri} has not answered for {patience:.0f} s")
                break


def _status(exc: BaseException | None) -> str:
    if exc is None or (isinstance(exc, SystemExit) and not exc.code):
        return "FINISHED"
    killed = isinstance(exc, KeyboardInterrupt) or (
        isinstance(exc, SystemExit) and exc.code in (129, 130, 143)
    )
    return "KILLED" if killed else "FAILED"
