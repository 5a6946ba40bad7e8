"""Hydra's basic sweeper, which first composes and checks every point of the sweep."""

from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser


@dataclass
class CifarSweeperConf:
    """What `hydra/sweeper=cifar` instantiates."""

    _target_: str = "hydra_plugins.cifar_sweeper.sweeper.CifarSweeper"
    max_batch_size: int | None = None
    params: dict[str, str] | None = None


ConfigStore.instance().store(
    group="hydra/sweeper", name="cifar", node=CifarSweeperConf, provider="cifar_sweeper"
)


class CifarSweeper(BasicSweeper):
    """A grid over all points, started only if every point is in order."""

    def sweep(self, arguments: list[str]) -> Any:
        """Run all points; raise UserError, naming the point, before the first one if any is wrong."""
        from experiments.cli import UserError  # Hydra loads every plugin at every start
        from experiments.compose import compose

        parser = OverridesParser.create(self.hydra_context.config_loader)
        (points,) = self.split_arguments(parser.parse_overrides(arguments), max_batch_size=None)
        for point in points:
            try:
                compose(point, config_name=self.config.hydra.job.config_name, config_dir=self._config_dir())
            except ValueError as error:
                raise UserError(f"{error} (at point {' '.join(point)})") from error
        return super().sweep(arguments)

    def _config_dir(self) -> str | None:
        """Return the folder given by --config-dir."""
        sources = self.config.hydra.runtime.config_sources
        return next((source.path for source in sources if source.provider == "command-line"), None)
