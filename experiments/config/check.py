"""The verdict on a configuration, before anything starts."""

from collections.abc import Callable, Iterable
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config import effects
from experiments.config.explain import explain
from experiments.config.laws import check_protocol, check_resolvers
from experiments.config.values import ours, settings, with_constants

SOME_CONSTANTS = ([127.5] * 3, [63.75] * 3)  # until `auto` is measured, for what reads them as ${data.mean}


def check(cfg: DictConfig, words: Iterable[str] = (), *, first: Callable[[], object] | None = None) -> None:
    """Raise ValueError unless every key is known, every value lawful and every target callable as given.

    Of the command line's ``words`` each must do something. ``first`` is called once the values are right,
    before torch is imported for the rest.
    """
    try:
        check_resolvers(cfg)
        settings(cfg)
        check_protocol(cfg)
        values: Any = OmegaConf.to_container(ours(cfg), resolve=True, throw_on_missing=True)
        effects.refuse(values, words)
        if first:
            first()
        from experiments.config import targets  # imports torch, so only when the values are right

        targets.check(with_constants(cfg, *SOME_CONSTANTS))
    except OmegaConfBaseException as error:
        raise ValueError(explain(error)) from error
