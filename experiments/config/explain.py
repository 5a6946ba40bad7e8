"""One line for every mistake in a configuration."""

import difflib
from collections.abc import Iterable
from typing import Any

from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import (
    InterpolationKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)

from experiments.config.schema import SETTINGS, TARGETS


def unknown(name: str, choices: Iterable[str], what: str) -> str:
    """Return a line that says ``name`` is not there, what was perhaps meant and what there is."""
    choices = sorted(map(str, choices))
    close = difflib.get_close_matches(str(name), choices, n=1)
    meant = f" (did you mean {close[0]}?)" if close else ""
    return f"{what}{meant}; there is: {', '.join(choices)}"


def explain(error: Exception) -> str:
    """Return one line for an error of Hydra or OmegaConf: the key, the law, what came."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return unknown(option, error.options, f"{group}={option} is not an option of {group}")
    if isinstance(cause, MissingMandatoryValue):
        return f"{cause.full_key} must be given, e.g. {cause.full_key}=..."
    if isinstance(cause, InterpolationKeyError) and cause.full_key:
        return f"{cause.full_key} reads {str(cause).split(chr(39))[1]!r}, which is not a key"
    if isinstance(cause, InterpolationResolutionError) and "Recursive interpolation" in str(cause):
        return f"{cause.full_key or 'a key'} reads itself, by way of its interpolation"
    if isinstance(cause, ValidationError):
        return _wrong_type(cause)
    if isinstance(cause, (AttributeError, KeyError)) and getattr(cause, "parent_node", None) is not None:
        return _unknown_key(cause)
    if "Cannot merge DictConfig with ListConfig" in str(cause):  # whichever it is that was given
        key = getattr(cause, "full_key", "") or "a key"
        return f"{key} was given a list in place of names with values, or these in place of a list"
    if isinstance(error, ConfigCompositionException) and "No match in the defaults list" in str(error):
        name = str(error).split("'")[1]
        return unknown(name, [*SETTINGS, *TARGETS, "experiment", "seed"], f"{name} is not a group or a key")
    return " ".join(line.strip() for line in str(cause).splitlines() if "_type=" not in line)


def _wrong_type(cause: Any) -> str:
    said = str(cause).splitlines()[0]
    if "is not Optional" in said:
        return f"{cause.full_key} must have a value, got null"
    kinds = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}
    kind = next(
        (kind for name, kind in kinds.items() if f"to {name}" in said or f"valid {name}" in said), None
    )
    return (
        f"{cause.full_key} must be {kind}, got {said.split(chr(39))[1]!r}"
        if kind
        else f"{cause.full_key}: {said}"
    )


def _unknown_key(cause: Any) -> str:
    keys = [str(key) for key in cause.parent_node] if isinstance(cause.parent_node, DictConfig) else []
    return unknown(str(cause.key), keys, f"{cause.full_key} is not a key")
