"""The folder of a sweep: whose it is, what was asked of it, and which trials it holds."""

import hashlib
import json
from pathlib import Path
from typing import Any, Self, TextIO

import yaml

from experiments.config.renamed import target
from experiments.files import own, write_text
from experiments.sweep.space import Space, point_id
from experiments.sweep.trials import Trial


class Home:
    """One sweep's folder, locked against a second controller from `open` to the end of `with`."""

    def __init__(self, path: Path) -> None:
        """Name the folder; `open` creates it."""
        self.path = path.resolve()
        self.ledger = self.path / "ledger.jsonl"
        self._lock: TextIO | None = None

    def check(self, identity: dict[str, Any]) -> None:
        """Raise ValueError, naming each key that differs, where the folder holds another sweep."""
        saved = self._saved().get("identity", identity)
        before, now = _renewed(saved), _renewed(identity)
        changes = [
            f"{key}: {saved.get(key, 'not given')}, got {identity.get(key, 'not given')}"
            for key in sorted(saved.keys() | identity.keys())
            if before.get(key) != now.get(key)
        ]
        if changes:
            raise ValueError(
                f"{self.path} holds a sweep with {'; '.join(changes)}: give the same, or another sweep.name"
            )

    def open(self, identity: dict[str, Any]) -> None:
        """Create and lock the folder, once; raise ValueError where another controller has it."""
        if self._lock is not None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = own(self.path)
        except BlockingIOError as owner:
            raise ValueError(f"{self.path} is being worked on by {owner}, which shows its trials") from None
        self.check(identity)
        self._save(self._saved() | {"identity": identity})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    @property
    def is_begun(self) -> bool:
        """Whether the folder holds a sweep already."""
        return (self.path / "sweep.yaml").exists()

    def target(self, n_trials: int, add_trials: int) -> int:
        """Return how many points a search is to have; an interrupted extension is not added twice."""
        saved = self._saved()
        if not add_trials:
            return max(n_trials, saved.get("extended_to", 0))
        if saved.get("extending") == add_trials:
            return saved["extended_to"]
        before = max(n_trials, saved.get("extended_to", 0))
        self._save(saved | {"extending": add_trials, "extended_to": before + add_trials})
        return before + add_trials

    def reached(self) -> None:
        """Note that all points asked for are there, so that the next `sweep.add_trials` adds anew."""
        self._save(self._saved() | {"extending": 0})

    def trials(self) -> dict[str, Trial]:
        """Return the trials that have a folder, by the id of their point."""
        trials = map(Trial.read, self.path.glob("*/trial.json"))
        return {point_id(t.point): t for t in sorted(trials, key=lambda trial: trial.number)}

    def _saved(self) -> dict[str, Any]:
        try:
            return yaml.safe_load((self.path / "sweep.yaml").read_text()) or {}
        except FileNotFoundError:
            return {}

    def _save(self, content: dict[str, Any]) -> None:
        write_text(self.path / "sweep.yaml", yaml.safe_dump(content, sort_keys=False))


def _renewed(identity: dict[str, Any]) -> dict[str, Any]:
    """Return an identity with the code that it names under today's names."""
    return {key: target(text) if key.endswith("_target_") else text for key, text in identity.items()}


def sweep_name(space: Space, identity: dict[str, Any]) -> str:
    """Return a name made from what varies and a hash of that and of what is fixed."""
    lasts = [key.lstrip("+").rpartition(".")[2] for d in space.dimensions for key in d.keys]
    words = "-".join("".join(c for c in last if c.isalnum() or c == "_") for last in lasts)[:60]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    return f"{words or 'run'}-{digest}"
