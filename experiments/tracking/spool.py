"""A run's tracking spool: JSON lines that say what to track, and a state that says how much was delivered."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from experiments.files import write_text

Record = dict[str, Any]


class Spool:
    """The file `tracking.jsonl` of a run folder; appending is the only way it changes."""

    def __init__(self, folder: Path) -> None:
        """Name the file; it is made by the first record."""
        self.folder = folder
        self.path = folder / "tracking.jsonl"

    def append(self, kind: str, **fields: Any) -> None:
        """Write one record, stamped with the time in milliseconds; a torn last line is closed first."""
        record = {"kind": kind, "t": int(time.time() * 1000), **fields}
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        with open(self.path, "a+b") as file:
            if file.tell() and not _ends_with_newline(file):
                line = b"\n" + line
            file.write(line)

    def read(self, offset: int = 0) -> Iterator[tuple[Record, int]]:
        """Yield each record after byte `offset` with the offset behind it; unreadable lines are skipped."""
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # still being written, or its writer was killed
                offset += len(line)
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if isinstance(record, dict) and "kind" in record:
                    yield record, offset

    def first(self, kind: str) -> Record | None:
        """Return the first record of this kind."""
        return next((record for record, _ in self.read() if record["kind"] == kind), None)

    def last(self, *kinds: str) -> Record | None:
        """Return the last record of these kinds."""
        last = None
        for record, _ in self.read():
            if record["kind"] in kinds:
                last = record
        return last

    @property
    def id(self) -> str | None:
        """The id its first start record gave it; None before that."""
        start = self.first("start")
        return start["spool"] if start else None


def _ends_with_newline(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


@dataclass
class Delivered:
    """How much of a spool one store has received."""

    spool: str  # id of the spool this belongs to
    run_id: str | None = None
    experiment_id: str | None = None
    view: str = ""  # key of the store's prepared view of the run and its like
    offset: int = 0  # bytes of the spool that the store has
    missed: list[Record] = field(default_factory=list)  # files before the offset that could not be uploaded

    @classmethod
    def load(cls, folder: Path, uri: str, spool: str) -> "Delivered":
        """Read the state kept for `uri`; a fresh one where there is none or it belongs to another spool."""
        saved = _states(folder).get(uri)
        return cls(**saved) if saved and saved["spool"] == spool else cls(spool=spool)

    def save(self, folder: Path, uri: str) -> None:
        """Write `tracking.offset` beside the spool, atomically."""
        write_text(folder / "tracking.offset", json.dumps(_states(folder) | {uri: asdict(self)}, indent=1))


def _states(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "tracking.offset").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent, or emptied by a power cut: delivering again adds nothing
        return {}
