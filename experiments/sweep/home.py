"""The folder of a sweep: whose it is, what was asked of it, and which trials it holds."""

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TextIO

import yaml

from cifar_core.files import FORMAT, check_format
from experiments.cli import one_line
from experiments.config.renamed import target
from experiments.files import make_folder, own, write_text
from experiments.runs.names import SEED
from experiments.sweep.space import Space, point_id
from experiments.sweep.trials import Trial

Lists = dict[str, tuple[str, ...]]
STALE_SECONDS = 60.0
SWEEPS = Path("sweeps")


class Home:
    """One sweep's folder, locked against a second controller from `open` to the end of `with`."""

    def __init__(self, path: Path) -> None:
        """Name the folder; `open` creates it."""
        self.path = path.resolve()
        self.ledger = self.path / "ledger.jsonl"
        self._lock: TextIO | None = None

    def check(self, identity: dict[str, Any], lists: Lists | None = None) -> list[str]:
        """Return the keys of ``lists``, values by key, that have more values than in the folder's sweep.

        Raises ValueError, naming each key that differs otherwise, where the folder holds another sweep.
        """
        saved = self._saved().get("identity", identity)
        before, now = _renewed(saved), _renewed(identity)
        keys = sorted(key for key in saved.keys() | identity.keys() if before.get(key) != now.get(key))
        grown = [key for key in keys if key in saved and _has_grown(saved[key], (lists or {}).get(key, ()))]
        changes = [
            f"{key}: {saved.get(key, 'not given')}, got {identity.get(key, 'not given')}"
            for key in keys
            if key not in grown
        ]
        if changes:
            more = " with all values" if lists else ""
            raise ValueError(
                f"{self.path} holds a sweep with {'; '.join(changes)}: "
                f"give the same{more}, or another sweep.name"
            )
        return grown

    def open(self, identity: dict[str, Any], lists: Lists | None = None) -> list[str]:
        """Create and lock the folder, once, and return what `check` does.

        Raises ValueError where another controller has it.
        """
        if self._lock is not None:
            return []
        make_folder(self.path, "hydra.sweep.dir")
        try:
            self._lock = own(self.path)
        except BlockingIOError as owner:
            raise ValueError(f"{self.path} is being worked on by {owner}, which shows its trials") from None
        self._tidy_up()
        grown = self.check(identity, lists)
        if set(grown) - {SEED} and self.ledger.exists():  # it knows no values but those of then
            self.ledger.replace(self.ledger.with_suffix(".before"))  # the folders say what was done
        self._save(self._saved() | {"identity": identity})
        return grown

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

    def begin(self, command: str, sampler: str) -> None:
        """Note the command that works on the sweep now, and its sampler; the sweep is not over."""
        self._save(self._saved() | {"command": command, "sampler": sampler, "over": False})

    def reached(self) -> None:
        """Note that all points asked for are there, so that the next `sweep.add_trials` adds anew."""
        self._save(self._saved() | {"extending": 0, "over": True})

    @property
    def command(self) -> str:
        """The command that the sweep goes on with; empty for one of an earlier version."""
        return self._noted("command", "")

    @property
    def sampler(self) -> str:
        """What chooses the points; empty for a sweep of an earlier version."""
        return self._noted("sampler", "")

    @property
    def points(self) -> int:
        """How many points a search was extended to; 0 where it was not."""
        return self._noted("extended_to", 0)

    @property
    def seeds(self) -> list[str]:
        """The seeds that the sweep was asked for, in their order; empty where none is swept or fixed."""
        seeds = self._noted("identity", {}).get(SEED)
        return [] if seeds is None else str(seeds).split(",")

    @property
    def is_over(self) -> bool:
        """Whether all points had their turn, as far as the folder says."""
        return self._noted("over", True)

    def trials(self) -> dict[str, Trial]:
        """Return the trials that have a folder, by the id of their point, but for damaged records."""
        trials = []
        for path in self.path.glob("*/trial.json"):
            with suppress(OSError):
                trials.append(Trial.read(path))
        return {point_id(t.point): t for t in sorted(trials, key=lambda trial: trial.number)}

    def _tidy_up(self) -> None:
        """Remove what a process left that was killed while it wrote a file, which takes seconds."""
        for path in self.path.glob(".*.[0-9]*"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()

    def _noted(self, key: str, default: Any) -> Any:
        """Return what `sweep.yaml` has for a key; a damaged one has nothing, for no report fails by it."""
        try:
            value = self._saved().get(key, default)
        except OSError:
            return default
        return value if isinstance(value, type(default)) else default

    def _saved(self) -> dict[str, Any]:
        path = self.path / "sweep.yaml"
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except FileNotFoundError:
            return {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            content = one_line(error)
        if not isinstance(content, dict) or not isinstance(content.get("identity", {}), dict):
            raise OSError(f"{path} is damaged ({content}): remove it, and the same command writes it anew")
        check_format(path, content.pop("format", 0))
        return content

    def _save(self, content: dict[str, Any]) -> None:
        write_text(self.path / "sweep.yaml", yaml.safe_dump({"format": FORMAT, **content}, sort_keys=False))


def _renewed(identity: dict[str, Any]) -> dict[str, Any]:
    """Return an identity with the code that it names under today's names."""
    return {key: target(text) if key.endswith("_target_") else text for key, text in identity.items()}


def _has_grown(saved: str, values: Sequence[str]) -> bool:
    """Tell whether all values of a list, as an identity has it, are among ``values``."""
    if any("," in value for value in values):
        return any(saved == ",".join(values[:count]) for count in range(1, len(values)))
    return set(saved.split(",")) <= set(values)


def begun_with_fewer_seeds(folder: Path, name: str, identity: dict[str, Any], lists: Lists) -> str:
    """Return the name of a sweep in ``folder`` that is this one with fewer seeds or the same; else ``name``.

    A name that is made from all that varies is another one for each number of seeds.
    """
    homes = [Home(path.parent) for path in sorted(folder.glob(f"{name[:-9]}-{'?' * 8}/sweep.yaml"))]
    found: list[tuple[int, str]] = []
    for home in homes:
        try:
            grown = home.check(identity, lists)
        except (ValueError, OSError, yaml.YAMLError):
            continue
        if set(grown) <= {SEED}:
            found.append((len(home.trials()), home.path.name))
    return max(found)[1] if found else name


def sweep_name(space: Space, identity: dict[str, Any]) -> str:
    """Return a name made from what varies and a hash of that and of what is fixed."""
    lasts = [key.lstrip("+").rpartition(".")[2] for d in space.dimensions for key in d.keys]
    words = "-".join("".join(c for c in last if c.isalnum() or c == "_") for last in lasts)[:60]
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    return f"{words or 'run'}-{digest}"
