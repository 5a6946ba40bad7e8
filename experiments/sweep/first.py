"""The first point of a sweep over groups, with which Hydra can compose what stays fixed."""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep
from hydra.errors import HydraException

from experiments.files import CONF

KEY = "hydra.sweeper.groups"


def first_point(words: Sequence[str], config_dir: str | None = None) -> dict[str, str]:
    """Return for each of ``words`` that sweeps over the options of a group the word for the first of them.

    Hydra itself leaves out what is swept, and `optimizer.eps` would then have to be a key of the default.
    """
    folders = [CONF, *([Path(config_dir)] if config_dir else [])]
    groups = {path.name for folder in folders for path in folder.glob("*") if path.is_dir()}
    options = {word: _first(word) for word in words if word.partition("=")[0] in groups and "'" not in word}
    return {word: option for word, option in options.items() if option}


def told_to_sweeper(first: dict[str, str]) -> str:
    """Return the override that tells the sweeper which words the first point stands for."""
    return f"{KEY}=[{','.join(map(repr, first))}]"


def restored(arguments: Sequence[str], swept: Sequence[str]) -> list[str]:
    """Return ``arguments`` with the words of `told_to_sweeper` where their first options stand."""
    words = {_first(word): word for word in swept}
    return [words.get(argument, argument) for argument in arguments]


def _first(word: str) -> str:
    """Return ``word`` with the first of the options that it sweeps over; empty where it sweeps over none."""
    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException:  # which Hydra tells, with the whole command line
        return ""
    if not override.is_sweep_override() or not isinstance(override.value(), ChoiceSweep):
        return ""
    return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"
