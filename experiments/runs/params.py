"""Which few settings of a run does its tracker show as parameters? The whole is its config.yaml."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from omegaconf import DictConfig

from experiments.config.compose import differences
from experiments.config.values import plain
from experiments.files import flatten
from experiments.runs.folder import HARMLESS

NO_CHOICES: Mapping[str, str] = MappingProxyType({})
GROUPS = ("model", "aug", "optimizer", "scheduler", "data")
KEYS = ("optimizer.lr", "optimizer.weight_decay", "trainer.epochs", "trainer.batch_size", "seed")
APART = ("hydra", "sweep", "tracking", "security", "analysis", "expected", "origin")  # not of the training
LENGTH = 100  # characters; of what nobody asked for, a longer text hides the others
ABSENT = "-"  # what `differences` says of a key that is not there


def params(cfg: DictConfig, choices: Mapping[str, str], words: Sequence[str]) -> dict[str, str]:
    """Return what a run is told apart by: dotted key -> text.

    That is the option of each group, the main figures, what ``words`` of the command line or of a sweep ask
    for and, as far as it may change a figure, what differs from the default run. ``choices`` are the options
    of the groups; of a configuration that does not come from them, the group's code names it.
    """
    values = plain(cfg)
    flat, asked = flatten(values), dict(_asked(words))
    groups = {
        group: choices.get(group) or asked.get(group) or _option(group, values[group]) for group in GROUPS
    }
    chosen = {key: flat[key] for key in KEYS if key in flat}
    for key, text in asked.items():
        below = {name: value for name, value in flat.items() if f"{name}.".startswith(f"{key}.")}
        chosen |= below if below and not isinstance(values.get(key), dict) else {key: text}
    return groups | {key: text for key, text in chosen.items() if key not in groups} | _differing(cfg, chosen)


def _asked(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield key and text of each word that is about the training."""
    for word in words:
        key, _, text = word.lstrip("+~").partition("=")
        if key.partition("@")[0].partition(".")[0].partition("/")[0] not in APART:
            yield key, ABSENT if word.startswith("~") else text


def _differing(cfg: DictConfig, besides: Mapping[str, str]) -> dict[str, str]:
    try:
        pairs = differences(cfg)
    except Exception:  # a conf/ edited meanwhile: the run itself has been composed long ago
        return {}
    return {
        key: text
        for key, (_, text) in pairs.items()
        if key not in besides and not key.startswith(HARMLESS) and text != ABSENT and len(text) <= LENGTH
    }


def _option(group: str, node: dict[str, Any]) -> str:
    """Return what a group's code is called, for want of its option's name."""
    if group == "data":
        return str(node["source"])
    if group == "aug":
        steps = [name for name, step in (node["image"] or {}).items() if step is not None]
        return "_".join([*steps, *([_last(node["batch"])] if node["batch"] else [])]) or "none"
    return _last(node)


def _last(node: dict[str, Any]) -> str:
    return str(node["_target_"]).rpartition(".")[2]
