"""The verdict on a configuration, before anything starts."""

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config.explain import explain
from experiments.config.laws import check_protocol, check_resolvers
from experiments.config.values import ours, settings


def check(cfg: DictConfig) -> None:
    """Raise ValueError unless every key is known, every value lawful and every target callable as given."""
    try:
        check_resolvers(cfg)
        settings(cfg)
        check_protocol(cfg)
        OmegaConf.to_container(ours(cfg), resolve=True, throw_on_missing=True)
        from experiments.config import targets  # imports torch, so only when the values are right

        targets.check(cfg)
    except OmegaConfBaseException as error:
        raise ValueError(explain(error)) from error
