"""Reads a configuration: as typed settings, as plain values."""

import copy
import dataclasses
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from cifar_core.data.settings import AUTO, DataSettings
from cifar_core.laws import law
from cifar_core.report.settings import AnalysisSettings
from cifar_core.train.settings import TrainerSettings
from experiments.config import schema
from experiments.config.explain import unknown
from experiments.config.kinds import check_value
from experiments.config.schema import SETTINGS
from experiments.config.settings import SweepSettings


@dataclass(frozen=True)
class Settings:
    """The groups whose options differ by values, typed."""

    data: DataSettings
    trainer: TrainerSettings
    analysis: AnalysisSettings
    sweep: SweepSettings


def settings(cfg: DictConfig) -> Settings:
    """Return the typed settings of a configuration, laws checked."""
    _known(ours(cfg), schema.Config)
    law(0 <= cfg.seed < 2**64, "seed", "at least 0 and below 2**64", cfg.seed)
    schema.expected(cfg)
    for key in ("mean", "std"):  # null, which the typed settings would take for "not given"
        law(cfg.data[key] is not None, f"data.{key}", "auto or three numbers, one a channel", None)
    schema.origin(cfg)
    groups: dict[str, Any] = {group: OmegaConf.to_object(cfg[group]) for group in SETTINGS}
    return Settings(**groups)


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Return the run's own configuration, resolved, as plain containers."""
    values: Any = OmegaConf.to_container(ours(cfg), resolve=True)
    return values


def with_constants(
    cfg: DictConfig, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> DictConfig:
    """Return a copy of ``cfg`` with `data.mean` and `data.std` as floats, those given in place of `auto`."""
    cfg = copy.deepcopy(cfg)
    for key, measured in (("mean", mean), ("std", std)):
        values = measured if cfg.data[key] == AUTO else cfg.data[key]
        if values is not None:
            cfg.data[key] = [float(value) for value in values]
    return cfg


def asks_for_constants(values: dict[str, Any]) -> bool:
    """Tell whether a plain configuration leaves `data.mean` or `data.std` to be measured."""
    data = values.get("data", {})
    return AUTO in (data.get("mean"), data.get("std"))


def ours(cfg: DictConfig) -> DictConfig:
    """Return the configuration without Hydra's part."""
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


def check_words(overrides: Iterable[str]) -> None:
    """Raise ValueError where an override gives a bool or a number of a typed group as another word for it."""
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if not override.is_sweep_override() and not override.is_delete():
            check_word(override.key_or_group, override.value())


def check_word(key: str, value: Any) -> None:
    """Raise ValueError unless ``value`` is what ``key`` is typed as; OmegaConf takes 1, "off" and "3" too."""
    kind: Any = schema.Config
    for part in key.split("."):
        kind = typing.get_type_hints(kind).get(part) if dataclasses.is_dataclass(kind) else None
    if isinstance(value, dict):
        for name, inner in value.items():
            check_word(f"{key}.{name}", inner)
    elif isinstance(value, str) and "${" in value:
        return
    elif kind is bool or (kind in (int, float) and isinstance(value, str)):
        check_value(key, value, kind)


def _known(node: DictConfig, settings_type: Any, prefix: str = "") -> None:
    """Raise ValueError for a key that a typed group lacks: `+trainer.epochz=3` adds one even there."""
    fields = [field.name for field in dataclasses.fields(settings_type)]
    for key in map(str, node):
        if key not in fields:
            raise ValueError(unknown(key, fields, f"{prefix}{key} is not a key"))
        if dataclasses.is_dataclass(inner := OmegaConf.get_type(node, key)):
            _known(node[key], inner, f"{prefix}{key}.")
