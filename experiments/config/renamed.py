"""What names of earlier versions are called now, and keys that came later: no other place knows them."""

import functools
import logging
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

TARGETS = {  # what a `_target_` begins with: old -> new
    "cifar_core.optim.": "cifar_core.train.optim.",
    "cifar_core.schedules.": "cifar_core.train.schedules.",
    "experiments.tracking.MlflowTracker": "experiments.tracking.mlflow_tracker.MlflowTracker",
    "experiments.tracking.NoTracker": "experiments.tracking.tracker.NoTracker",
}

ADDED = {  # keys that came later, as they are written flat: what a configuration without them means
    "data.background": "[255, 255, 255]",  # pictures with alpha were read otherwise; their fingerprint tells
    "data.white": "0.0",
    "trainer.deterministic": "false",
}

log = logging.getLogger(__name__)


def target(name: str) -> str:
    """Return today's name of what a configuration calls ``name``."""
    for old, new in TARGETS.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def renew(values: Any) -> Any:
    """Return plain containers with every `_target_` in them, at any depth, under today's name."""
    if isinstance(values, Mapping):
        return {
            key: target(value) if key == "_target_" and isinstance(value, str) else renew(value)
            for key, value in values.items()
        }
    return [renew(value) for value in values] if isinstance(values, list) else values


def completed(flat: Mapping[str, str]) -> dict[str, str]:
    """Return a saved configuration, flat, with the keys that came later where it has their groups."""
    groups = {key.partition(".")[0] for key in flat}
    return {key: value for key, value in ADDED.items() if key.partition(".")[0] in groups} | dict(flat)


def renew_config(cfg: DictConfig, *, tell: bool = False) -> None:
    """Put today's names into ``cfg``, in place; ``tell`` names each new one once, in a line of the log."""
    for key in list(cfg):  # which YAML makes a bool of `on`
        if key == "hydra" or OmegaConf.is_missing(cfg, key) or OmegaConf.is_interpolation(cfg, key):
            continue
        value = cfg[key]
        if key == "_target_" and isinstance(value, str) and (new := target(value)) != value:
            if tell:
                _tell(value, new)
            cfg[key] = new
        for node in value if OmegaConf.is_list(value) else [value]:
            if OmegaConf.is_dict(node):
                renew_config(node, tell=tell)


@functools.cache
def _tell(old: str, new: str) -> None:
    log.warning("%s is called %s now; the old name still works", old, new)
