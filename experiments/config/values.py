"""Reads a configuration: as typed settings, as plain values."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from cifar_core.data.settings import DataSettings
from cifar_core.report.settings import AnalysisSettings
from cifar_core.train.settings import TrainerSettings
from experiments.config import schema
from experiments.config.explain import unknown
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
    schema.expected(cfg)
    groups: dict[str, Any] = {group: OmegaConf.to_object(cfg[group]) for group in SETTINGS}
    return Settings(**groups)


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Return the run's own configuration, resolved, as plain containers."""
    values: Any = OmegaConf.to_container(ours(cfg), resolve=True)
    return values


def ours(cfg: DictConfig) -> DictConfig:
    """Return the configuration without Hydra's part."""
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])


def _known(node: DictConfig, settings_type: Any, prefix: str = "") -> None:
    """Raise ValueError for a key that a typed group lacks: `+trainer.epochz=3` adds one even there."""
    fields = [field.name for field in dataclasses.fields(settings_type)]
    for key in map(str, node):
        if key not in fields:
            raise ValueError(unknown(key, fields, f"{prefix}{key} is not a key"))
        if dataclasses.is_dataclass(inner := OmegaConf.get_type(node, key)):
            _known(node[key], inner, f"{prefix}{key}.")
