"""Hydra's way to our sweeps; `hydra/sweeper=basic` is the way around them, to Hydra's own launchers."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from experiments.cli import UserError
from experiments.files import flatten
from experiments.sweep.first import restored


@dataclass
class CifarSweeperConf:
    """What `hydra/sweeper=cifar` instantiates."""

    _target_: str = "hydra_plugins.cifar_sweeper.sweeper.CifarSweeper"
    _convert_: str = "all"
    params: dict[str, Any] = field(default_factory=dict)  # what a preset sweeps: key -> list, range, interval
    groups: list[str] | None = None  # swept groups, whose first options stand on the command line meanwhile


ConfigStore.instance().store(
    group="hydra/sweeper", name="cifar", node=CifarSweeperConf, provider="cifar_sweeper"
)


class CifarSweeper(Sweeper):
    """Hands a multirun over to experiments.sweep."""

    def __init__(self, params: dict[str, Any], groups: list[str] | None = None) -> None:
        self._params = flatten(params)
        self._groups = groups or []

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra found; the trials compose their own configuration and need no task function."""
        self._loader = hydra_context.config_loader
        self._cfg = config

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep, `hydra.sweeper.params` first and the command line's ``arguments`` over them."""
        from experiments.sweep.sweep import sweep  # Hydra loads every plugin at every start

        launcher = self._cfg.hydra.runtime.choices["hydra/launcher"]
        if launcher != "basic":
            raise UserError(
                f"hydra/launcher={launcher} is for hydra/sweeper=basic; here sweep.backend says where"
            )
        preset = [f"{key}={value}" for key, value in self._params.items()]
        arguments = restored([*preset, *arguments], self._groups)
        HydraConfig.instance().set_config(self._cfg)  # for what is read by ${hydra:...}
        sweep(arguments, self._cfg, self._loader, config_dir=self._config_dir())

    def _config_dir(self) -> str | None:
        """Return the folder given by --config-dir."""
        sources = self._cfg.hydra.runtime.config_sources
        return next((source.path for source in sources if source.provider == "command-line"), None)
