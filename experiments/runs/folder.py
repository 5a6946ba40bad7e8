"""The folder of one run: everything the run knows, written so that a kill at any moment loses nothing."""

import csv
import hashlib
import io
import json
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import yaml

from experiments.cli import command
from experiments.config.renamed import completed, renew
from experiments.config.values import asks_for_constants
from experiments.files import check_links, flatten, make_folder, own, read_json, write_json, write_text

CHECKPOINTS = ("best", "last")  # names of those that may be read back
# Keys that may differ when a run is taken up again: where it runs, what is shown or kept of it.
HARMLESS = (
    "analysis.",
    "data.cache",
    "data.download",
    "data.root",  # the pictures themselves are compared
    "expected",
    "origin.folder",
    "security.",
    "sweep.",
    "tracking.",
    "trainer.checkpoint_seconds",
    "trainer.device",
    "trainer.eval_batch_size",
    "trainer.guards",
    "trainer.keep",
    "trainer.progress",
    "trainer.threads",
)


def past(values: dict[str, Any]) -> dict[str, str]:
    """Return the part of a configuration that a run cannot change once it has begun, flat."""
    flat = flatten(values)
    if flat.get("origin") == "null":  # a run that began anew, as all did before there were others
        del flat["origin"]
    return {key: value for key, value in flat.items() if not key.startswith(HARMLESS)}


class RunFolder:
    """One run's files, locked against a second process from `open` to the end of `with`."""

    def __init__(self, path: Path) -> None:
        """Name the folder; `open` creates it."""
        self.path = path.resolve()
        self.last = self.path / "last.pt"
        self.previous = self.path / "previous.pt"
        self.best = self.path / "best.pt"
        self.analysis = self.path / "analysis"
        self.watch = self.path / "watch"

    def open(self) -> None:
        """Create and lock the folder and start run.log; raise ValueError where another process has it.

        Also for a link that leads out of it.
        """
        make_folder(self.path, "hydra.run.dir")
        check_links(self.path)
        self._was_empty, self._has_epochs = not any(self.path.iterdir()), False
        try:
            self._lock = own(self.path)
        except BlockingIOError as owner:
            raise ValueError(f"{self.path} is in use by {owner}: a run folder belongs to one run") from None
        for place in (self.path, self.watch):
            for torn in place.glob(".*.*.*"):  # what a killed process was writing: .last.pt.<pid>
                torn.unlink()
        self._handlers = self._log_to_file()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handler in self._handlers:
            logging.getLogger().removeHandler(handler)
            handler.close()
        self._lock.close()

    def _log_to_file(self) -> list[logging.Handler]:
        """Send the log to run.log and, as bare lines, to the screen."""
        screen = logging.StreamHandler(sys.stderr)
        screen.setFormatter(logging.Formatter("%(message)s"))
        screen.addFilter(lambda record: record.levelno < logging.ERROR)  # those the command line tells
        screen.addFilter(lambda record: not getattr(record, "told", False))
        file = logging.FileHandler(self.path / "run.log", encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        root = logging.getLogger()
        for ours in ("cifar_core", "experiments", "__main__"):
            logging.getLogger(ours).setLevel(logging.INFO)
        for handler in (screen, file):
            root.addHandler(handler)
        return [screen, file]

    def discard(self) -> None:
        """Remove the folder if it was empty when opened and no epoch has been added since."""
        if self._was_empty and not self._has_epochs:
            shutil.rmtree(self.path, ignore_errors=True)

    def claim(self, values: dict[str, Any], overrides: Sequence[str]) -> None:
        """Write config.yaml and overrides.yaml once; raise ValueError where they belong to another run.

        Nothing is written yet for ``values`` that leave `data.mean` or `data.std` to be measured.
        """
        config = self.path / "config.yaml"
        if config.exists():
            self.compare(values)
        elif not asks_for_constants(values):
            write_text(self.path / "overrides.yaml", yaml.safe_dump(list(overrides)))
            write_text(config, yaml.safe_dump(values, sort_keys=False))

    @property
    def constants(self) -> tuple[Any, Any]:
        """The `data.mean` and `data.std` of config.yaml; None each where there is none."""
        config = self.path / "config.yaml"
        data = (
            (yaml.safe_load(config.read_text(encoding="utf-8")) or {}).get("data")
            if config.exists()
            else None
        )
        return ((data or {}).get("mean"), (data or {}).get("std"))

    @property
    def identity(self) -> str:
        """A hash of what the run cannot change, from config.yaml as it was first written."""
        saved = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))
        text = json.dumps(past(saved), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def saved(self) -> dict[str, Any]:
        """Return config.yaml under today's names; {} where there is none."""
        path = self.path / "config.yaml"
        return renew(yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}

    def words(self) -> list[str]:
        """Return what was asked for, as overrides.yaml has it; nothing where it is gone or damaged."""
        try:
            words = yaml.safe_load((self.path / "overrides.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return []
        return list(map(str, words)) if isinstance(words, list) else []

    def compare(self, values: dict[str, Any], *, but: Sequence[str] = ()) -> None:
        """Raise ValueError, naming the keys, where config.yaml is another run's; ``but`` may differ."""
        before, now = completed(past(self.saved())), completed(past(values))
        changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
        changed = [key for key in changed if not key.startswith(tuple(but))]
        if changed:
            pairs = ", ".join(f"{key}={before.get(key)}, got {now.get(key)}" for key in changed[:5])
            ways = "give the same values, or another hydra.run.dir"
            ways += self._longer(now["trainer.epochs"]) if "trainer.epochs" in changed else ""
            raise ValueError(f"{self.path} holds a run with {pairs}: {ways}")

    def _longer(self, epochs: str) -> str:
        train = command("run", f"resume={self.path}", f"trainer.epochs={epochs}")
        over = read_json(self.path / "result.json").get("status")
        first = "" if over in ("finished", "pruned") else " once it is finished"
        return f"; to train it longer{first}: {train}"

    def write_history(self, history: Sequence[dict[str, float]]) -> None:
        """Write metrics.csv anew, as after taking up a run at an earlier epoch."""
        text = io.StringIO()
        for row in history:
            _write_row(text, row)
        write_text(self.path / "metrics.csv", text.getvalue())
        self._has_epochs |= bool(history)

    def append(self, row: dict[str, float]) -> None:
        """Add one epoch to metrics.csv."""
        self._has_epochs = True
        with (self.path / "metrics.csv").open("a", newline="", encoding="utf-8") as file:
            _write_row(file, row)

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write ``content`` to the file ``name``, whole or not at all."""
        write_json(self.path / name, content)


def _write_row(file: TextIO, row: dict[str, float]) -> None:
    writer = csv.DictWriter(file, fieldnames=list(row))
    if file.tell() == 0:
        writer.writeheader()
    writer.writerow(row)
