"""What an argument of a `_target_` may be, read from its annotation or its default."""

import collections.abc
import functools
import inspect
import math
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, Union

from experiments.files import canonical

LISTS = (list, tuple, set, frozenset)
NONE = type(None)
KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    NONE: "null",
}


def check_kinds(key: str, node: Mapping[str, Any], target: Callable[..., Any]) -> None:
    """Raise ValueError for a plain value in ``node`` of another kind than ``target`` says it takes.

    A bool is true or false and nothing else, and a number neither a bool nor a text. What ``target`` says
    nothing of may be anything.
    """
    hints = _hints(target)
    for name, parameter in inspect.signature(target).parameters.items():
        if name not in node or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        value, default = node[name], parameter.default
        if not (default is not parameter.empty and value is default):
            check_value(f"{key}.{name}", value, hints.get(name, _of_default(default)))


def check_value(key: str, value: Any, hint: Any) -> None:
    """Raise ValueError, naming the key, unless ``value`` is of the kind that an annotation names."""
    if hint is Any or _fits(value, hint):
        return
    mapping = next((one for one in (hint, *typing.get_args(hint)) if _is_mapping(one)), None)
    if isinstance(value, dict) and mapping is not None:
        for name, inner in value.items():
            check_value(f"{key}.{name}", inner, typing.get_args(mapping)[1])
    raise ValueError(f"{key} must be {_law(hint)}, got {shown(value)}{_advice(value, hint)}")


def shown(value: Any) -> str:
    """Return a value as a message shows it: a text in quotes, anything else as YAML writes it."""
    return repr(value) if isinstance(value, str) else canonical(value)


@functools.cache
def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of what ``target`` takes; those that cannot be read are left out."""
    home = target
    if inspect.isclass(target):
        home = next((kind for kind in target.__mro__ if "__init__" in vars(kind)), target)
    names = vars(sys.modules.get(home.__module__, types.ModuleType("")))
    hints = {}
    for name, parameter in inspect.signature(target).parameters.items():
        annotation = parameter.annotation
        if isinstance(annotation, str):  # written under `from __future__ import annotations`
            try:
                annotation = eval(annotation, dict(names))  # the code's own words, not the user's
            except Exception:  # a name for type checkers only
                continue
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        if annotation is not parameter.empty:
            hints[name] = annotation
    return hints


def _of_default(default: Any) -> Any:
    """Return what an argument without annotation takes: what its default is."""
    if isinstance(default, bool):
        return bool
    return float if isinstance(default, int | float) else Any


def _fits(value: Any, hint: Any) -> bool:
    hint = NONE if hint is None else hint
    if hint is Any or (isinstance(value, dict) and "_target_" in value):  # what that makes decides
        return True
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Union or origin is types.UnionType:
        known = [one for one in inner if _is_known(one)]
        return not known or any(_fits(value, one) for one in known)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in inner)
    if not _is_known(hint):
        return True
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint in KINDS:
        return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    if _is_list(hint):
        return isinstance(value, list) and _fit_one_by_one(value, origin or hint, inner)
    return isinstance(value, dict) and all(_fits(one, inner[1]) for one in value.values() if inner)


def _fit_one_by_one(values: list[Any], kind: Any, inner: tuple[Any, ...]) -> bool:
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        return len(values) == len(inner) and all(map(_fits, values, inner))
    return not inner or all(_fits(value, inner[0]) for value in values)


def _is_list(hint: Any) -> bool:
    kind = typing.get_origin(hint) or hint
    return kind in LISTS or kind in (
        collections.abc.Sequence,
        collections.abc.Iterable,
        collections.abc.Collection,
    )


def _is_mapping(hint: Any) -> bool:
    return (typing.get_origin(hint) or hint) in (
        dict,
        collections.abc.Mapping,
        collections.abc.MutableMapping,
    )


def _is_known(hint: Any) -> bool:
    """Tell whether plain values can be judged by ``hint``; of other classes only code is made."""
    composed = typing.get_origin(hint) in (Union, types.UnionType, Literal)
    return composed or hint in KINDS or hint is None or _is_list(hint) or _is_mapping(hint)


def _law(hint: Any) -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        laws = dict.fromkeys(_law(one) for one in inner if _is_known(one))
        return " or ".join(sorted(laws, key="null".__eq__))
    if origin is Literal:
        return f"one of {', '.join(canonical(choice) for choice in inner)}"
    if _is_mapping(hint):
        return f"a mapping of names to {_many(inner[1])}" if inner and inner[1] is not Any else "a mapping"
    if _is_list(hint):
        if (origin or hint) is tuple and inner and inner[-1] is not Ellipsis:
            same = len(set(inner)) == 1
            return f"a list of {len(inner)} {_many(inner[0])}" if same else f"a list of {len(inner)}"
        return f"a list of {_many(inner[0])}" if inner else "a list"
    return KINDS.get(hint, "a _target_")


def _many(hint: Any) -> str:
    law = _law(hint)
    many = {"a number": "numbers", "a whole number": "whole numbers", "a text": "texts"}
    return many.get(law, f"values, each {law}")


def _advice(value: Any, hint: Any) -> str:
    """Say how to write what was probably meant."""
    if isinstance(value, str) and not _fits("", hint):
        lower = value.strip().lower()
        meant = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}.get(lower)
        if meant is not None and _fits(meant, hint):
            return f": write {canonical(meant)}"
        try:
            number = float(lower)
        except ValueError:
            return ""
        return ": write it without quotes, or read it by ${oc.decode:...}" if number == number else ""
    if isinstance(value, bool) and _fits("", hint):
        return ": YAML reads on, off, yes and no as true and false, so quote the word"
    return ""
