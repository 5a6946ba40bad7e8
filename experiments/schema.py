"""The typed root of the configuration, registered with Hydra under the name `schema`."""

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore

from cifar_core.settings import AnalysisSettings, DataSettings, SweepSettings, TrainerSettings


@dataclass
class Security:
    """What a configuration may call."""

    allowed_targets: list[str]  # prefixes of the user's own packages, e.g. `my_package.`


@dataclass
class Config:
    """Everything a run is made of: groups of values are typed, groups of code are a `_target_` each."""

    seed: int
    data: DataSettings
    model: Any
    aug: Any
    optimizer: Any
    scheduler: Any
    trainer: TrainerSettings
    tracking: Any
    analysis: AnalysisSettings
    sweep: SweepSettings
    security: Security


ConfigStore.instance().store(name="schema", node=Config)
