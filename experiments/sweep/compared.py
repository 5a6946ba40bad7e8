"""Is what a sweep would be composed from now what its trials were made from?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from cifar_core.data.sources import load_data
from experiments.config.compose import ALLOWED, compose_chosen, composing_from
from experiments.config.renamed import renew
from experiments.config.schema import TARGETS
from experiments.config.values import plain, settings, with_constants
from experiments.files import read_json
from experiments.runs.folder import past
from experiments.sweep.origin import texts, unpacked
from experiments.sweep.space import Files, Point, Space

NAMED = 5  # keys at most that are told


def composed(overrides: Sequence[str], files: Files) -> DictConfig:
    """Compose and check a configuration from ``files``, which are unpacked."""
    return composed_chosen(overrides, files)[0]


def composed_chosen(overrides: Sequence[str], files: Files) -> tuple[DictConfig, dict[str, str]]:
    """Return what `composed` does and the option chosen of each group."""
    if "allowed" in files:  # a sweep's folder may be a stranger's
        overrides = [*overrides, f"{ALLOWED}=[{','.join(files['allowed'])}]"]
    with composing_from(files.get("conf")):
        return compose_chosen(
            overrides, config_name=files["config_name"], config_dir=files["config_dir"], in_sweep=True
        )


def edited(space: Space, kept: Files, now: Files) -> str:
    """Say what conf/ composes otherwise than the copy that the sweep goes on with; empty where nothing."""
    if texts(kept) == texts(now):
        return ""
    changes: dict[str, str] = {}
    with unpacked(kept) as then:
        for point in _shapes(space):
            overrides = space.overrides(point)
            try:
                was, is_now = (past(plain(composed(overrides, files))) for files in (then, now))
                changes |= _changes(was, is_now)
            except ValueError as error:
                changes["conf/"] = str(error)
    if not changes:
        return ""
    return (
        f"conf/ has changed since the sweep began, which goes on with the values of then: {_told(changes)}; "
        "another sweep.name begins one with the new values"
    )


def conflict(folder: Path, cfg: DictConfig) -> str:
    """Say what the trial in ``folder`` was made from and is not now, as ``cfg``; empty where nothing."""
    saved = renew(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
    measured = (saved.get("data", {}).get(key) for key in ("mean", "std"))
    changes = _changes(past(saved), past(plain(with_constants(cfg, *measured))))
    before = read_json(folder / "environment.json").get("data")
    if not changes and before is not None:
        now = load_data(settings(cfg).data).fingerprint
        if now != before:
            changes = {"the pictures": f"fingerprint {before}, now {now}"}
    if not changes:
        return ""
    return (
        f"{folder.parent} holds trials with other values than this command makes now: {_told(changes)}; "
        "restore what they were made from (pictures, conf/, variables of the environment), "
        "or begin another sweep with another sweep.name"
    )


def _shapes(space: Space) -> Iterator[Point]:
    """Yield points in which every option of a swept group is met once."""
    firsts: dict[str, Any] = {d.name: d.values[0] for d in space.dimensions}
    yield space.point(firsts)
    for dimension in space.dimensions:
        if space.groups.intersection(dimension.keys):
            for value in dimension.values[1:]:
                yield space.point(firsts | {dimension.name: value})


def _changes(before: dict[str, str], now: dict[str, str]) -> dict[str, str]:
    """Return what differs, by key; an option that a later version added to a typed group is no change."""
    free = tuple(f"{group}." for group in TARGETS)
    keys = [key for key in (before | now) if key.startswith(free) or (key in before and key in now)]
    return {
        key: f"{before.get(key, 'not there')}, now {now.get(key, 'not there')}"
        for key in keys
        if before.get(key) != now.get(key)
    }


def _told(changes: dict[str, str]) -> str:
    words = [f"{key}: {text}" for key, text in changes.items()]
    return "; ".join(words[:NAMED]) + (f" and {len(words) - NAMED} more" if len(words) > NAMED else "")
