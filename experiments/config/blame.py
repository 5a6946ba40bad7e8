"""Finds the argument that an error of foreign code is about, so that its message can name the key."""

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

from hydra.errors import InstantiationException

from experiments.config.kinds import shown

Path = tuple[str | int, ...]
STAND_INS = (0.5, 1)  # for a number that cannot be left out


def blamed(key: str, node: Any, build: Callable[[Any], Any], error: BaseException) -> ValueError:
    """Return an error that names the argument in ``node`` without which, or with another number for which,
    ``build(node)`` does not fail; what came is told with it.
    """
    said = _said(error)
    if re.match(rf"{re.escape(key)}\.\w+", said):  # says it itself
        return ValueError(said)
    for path, value in _leaves(node):
        if _mends(node, path, value, build):
            return _told(key, path, value, said)
    for path, value in _leaves(node):
        if re.search(rf"\b{re.escape(str(path[-1]))}\b", said):
            return _told(key, path, value, said)
    return ValueError(f"{key}: {said}")


def _said(error: BaseException) -> str:
    while isinstance(error, InstantiationException) and error.__cause__ is not None:
        error = error.__cause__
    checked = getattr(error.__cause__, "errors", None)  # pydantic, which checks Albumentations' arguments
    if checked is not None:
        laws = dict.fromkeys(one["msg"].removeprefix("Value error, ") for one in checked())
        return " or ".join(law[:1].lower() + law[1:] for law in laws)
    words = " ".join(str(error).split())
    if re.match("Initializing zero-element|Trying to create tensor with negative dimension", words):
        return "every layer must have at least one channel"
    return words if words and not isinstance(error, LookupError) else f"{type(error).__name__}: {words}"


def _told(key: str, path: Path, value: Any, said: str) -> ValueError:
    came = "" if shown(value).strip("'") in said else f", got {shown(value)}"
    return ValueError(f"{'.'.join(map(str, (key, *path)))}: {said}{came}")


def _leaves(node: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield path and value of every argument that is a value, not code or a collection of it."""
    if isinstance(node, dict):
        for name, child in node.items():
            if not str(name).startswith("_"):
                yield from _leaves(child, (*path, name))
    elif isinstance(node, list) and any(isinstance(child, dict) for child in node):
        for position, child in enumerate(node):
            yield from _leaves(child, (*path, position))
    elif path:
        yield path, node


def _mends(node: Any, path: Path, value: Any, build: Callable[[Any], Any]) -> bool:
    others = [_without(node, path)] if isinstance(path[-1], str) else []
    if isinstance(value, int | float):
        others += [_without(node, path, stand_in) for stand_in in STAND_INS]
    for other in others:
        try:
            build(other)
        except Exception:  # whatever foreign code does with values that it does not like
            continue
        return True
    return False


def _without(node: Any, path: Path, stand_in: Any = None) -> Any:
    other = copy.deepcopy(node)
    inner = other
    for part in path[:-1]:
        inner = inner[part]
    if stand_in is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = stand_in
    return other
