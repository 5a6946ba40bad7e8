"""What a place that keeps runs must be able to do: MLflow is one, any other is one class more."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

from experiments.tracking.spool import Record


class Refused(Exception):
    """The store works but does not take this content, now or later; the message says why."""


class Deleted(Exception):
    """A person has deleted the run in the store, so that nothing is to be kept of it; the message says so."""


class Missed(Exception):
    """The store works but could not take this file; it may at another time. The message says why."""


class Ids(NamedTuple):
    """Where a store keeps a run."""

    experiment: str
    run: str
    view: str = ""  # key of a prepared view of the runs that it belongs to; empty where there is none


@dataclass(frozen=True)
class Param:
    """A parameter of the run; the first value stays."""

    key: str
    value: str


@dataclass(frozen=True)
class Tag:
    """A label of the run; the last value stays."""

    key: str
    value: str


@dataclass(frozen=True)
class Point:
    """A metric's value at one step; `t` is the time in milliseconds at which it was logged."""

    key: str
    value: float  # or a NaN, an infinity
    step: int
    t: int


Entry = Param | Tag | Point


class Store(Protocol):
    """Keeps one run; `open` comes first, then the others in any order.

    Whatever has no answer is sent again, in this process or in another, so everything may come twice and must
    be kept once. What goes wrong is raised: `Refused` and `Missed` cost only what they are about, after any
    other error the delivery stops and is tried again later, from `open`. Making the object must neither wait
    nor fail.
    """

    name: ClassVar[str]  # what messages call it

    @property
    def uri(self) -> str:
        """Where it is, without passwords: for messages, and for what is noted down as delivered to it."""

    def open(self, start: Record, *, again: bool) -> Ids:
        """Find the run with the spool id of a start record, or create it.

        One that a person has deleted is created `again`, or else raises Deleted.
        """

    def is_stale(self) -> bool:
        """Tell whether the place was removed or replaced since `open`, which is then called again."""

    def lacks(self, entries: Sequence[Entry], files: Collection[str], status: str | None) -> bool:
        """Tell whether any of what was delivered is not there, as in a store restored from an older copy.

        `files` are paths with slashes of what was given to `upload`, `status` the last one set; None: any.
        """

    def page(self, ids: Ids) -> str:
        """Return the address at which a person sees the run; also called before `open`."""

    def overview(self, ids: Ids, tags: Mapping[str, str]) -> str:
        """Return the address at which a person compares the run, which has these tags, with others."""

    def log(self, entries: Sequence[Entry]) -> None:
        """Keep entries, any number of them. Where one is `Refused`, they are sent again one by one."""

    def log_dataset(self, *, name: str, digest: str, source: str, context: str) -> None:
        """Keep a data set as input of the run."""

    def upload(self, file: Path, folder: str | None) -> None:
        """Keep a file under its name in `folder`, a path with slashes; None is the run's own folder."""

    def upload_image(self, file: Path, *, key: str, step: int) -> None:
        """Keep a picture as the one of `key` at this step, in the place of an earlier one."""

    def set_status(self, status: str, t: int) -> None:
        """Set RUNNING, FINISHED, FAILED or KILLED; all but the first end the run at this time."""

    def mark_dead_runs(self) -> None:
        """Set runs that this host left RUNNING and whose process is gone to KILLED."""
