"""The words of a command line: what Hydra's grammar cannot read is told with the form to paste instead."""

import dataclasses
import functools
import re
import shlex
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from experiments.config import schema
from experiments.config.laws import RESOLVERS
from experiments.files import CONF

KEY = re.compile(r"~|\+{0,2}[\w./@:$-]+")
UNQUOTED = re.compile(r"[A-Za-z0-9_/\-+.$%*@?|\\: ]")  # what a value may hold without quotes
OPENING = re.compile(r"(\\*)\$\{(?:([\w.]+)([:}]))?")
PART = re.compile(r"""\s*(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^,"']+)\s*""")
PARTS = re.compile(rf"{PART.pattern}(?:,{PART.pattern})*")
UNTYPED = ("model.weights", "tracking.uri", "tracking.experiment")  # texts in groups that name code


def check(words: Sequence[str], *, multirun: bool = False) -> None:
    """Raise ValueError, with the form to paste, for a word that Hydra cannot read or reads as something else.

    ``multirun`` says that a list of values is a sweep.
    """
    for position, word in enumerate(words):
        _printable(word)
        if "=" not in word and not word.startswith("~"):
            raise ValueError(_no_assignment(word, words[position + 1 : position + 2]))
        try:
            override = _parser().parse_override(word)
        except (HydraException, ValueError, OverflowError) as error:
            raise ValueError(_unreadable(word, multirun)) from error
        if not multirun and override.is_sweep_override():
            raise ValueError(_several(word, override))
        _number_for_text(word, override)
        _no_option(override)


def quoted(text: str) -> str:
    """Return a value in the quotes with which Hydra reads it as exactly this text.

    ``${...}`` that names a key or a resolver of this project stays an interpolation.
    """
    return QuotedString(OPENING.sub(_escaped, text), Quote.double).with_quotes()


def is_place(word: str) -> bool:
    """Tell whether a word says where a run folder is to lie."""
    return word.startswith("hydra.run.dir=")


def pasted(*words: str) -> str:
    """Return words as a shell takes them."""
    return shlex.join(words)


def value(word: str) -> Any:
    """Return the value of ``key=value`` as Hydra reads it. Raises ValueError as `check` does."""
    check([word])
    return _parser().parse_override(word).value()


def folder(text: str) -> Path:
    """Return the folder that ``resume=`` names: the text as it is, also in the quotes that Hydra would want.

    Raises ValueError for no text.
    """
    in_quotes = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    if in_quotes and not Path(text).exists():
        text = str(value(f"resume={text}"))
    if not text.strip():
        raise ValueError("resume must name a run folder, as in resume=runs/<date>/<run>, got nothing")
    return Path(text).expanduser()


@functools.cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


def _escaped(opening: re.Match[str]) -> str:
    backslashes, name, end = opening.groups()
    roots = [field.name for field in dataclasses.fields(schema.Config)]
    known = name and (name in RESOLVERS if end == ":" else name.partition(".")[0] in roots)
    return (
        opening[0] if known and not backslashes else backslashes * 2 + "\\" + opening[0][len(backslashes) :]
    )


def _printable(word: str) -> None:
    bad = next((c for c in word if unicodedata.category(c) in ("Cs", "Zl", "Zp")), None)
    if bad is not None:
        raise ValueError(f"{word!r} must be text in UTF-8 on one line, got {bad!r}")


def _no_assignment(word: str, following: Sequence[str]) -> str:
    key, colon, text = word.partition(":")
    if colon and text and KEY.fullmatch(key):
        return f"{word} must be written with =: {pasted(f'{key}={text}')}"
    if following and "=" not in following[0]:
        return f"{word} {following[0]} must be one word with =: {pasted(f'{word}={following[0]}')}"
    return f"{word} must be a key and its value, as in {pasted(f'{word}=...')}"


def _unreadable(word: str, multirun: bool) -> str:
    key, _, text = word.partition("=")
    if not KEY.fullmatch(key):
        return f"{word!r} must be a key of letters, digits, '_' and '.', then = and a value"
    control = next((c for c in text if unicodedata.category(c) == "Cc"), None)
    if control is not None:
        return f"{word!r} must be text without control characters, got {control!r}"
    odd = next((c for c in text if not UNQUOTED.match(c)), None)
    reason = "cannot be read as it is written" if odd is None else f"has {odd!r}, which must stand in quotes"
    return f"{key}={text} {reason}: write {pasted(f'{key}={_parts(text, multirun)}')}"


def _parts(text: str, multirun: bool) -> str:
    """Return the value in quotes; of a sweep's plain list each value by itself that has none."""
    if multirun and not re.search(r"[\[\](){}]", text) and PARTS.fullmatch(text):
        parts = (part.strip() for part in PART.findall(text))
        return ",".join(part if part[:1] in ("'", '"') else quoted(part) for part in parts)
    return quoted(text)


def _several(word: str, override: Override) -> str:
    key, _, text = word.partition("=")
    sweep = f"{pasted(word)} has several values: add -m for a sweep over them"
    return f"{sweep}, or write {pasted(f'{key}={quoted(text)}')} if it is one text"


def _number_for_text(word: str, override: Override) -> None:
    """Refuse a folder named 1.10, which is read as the number 1.1."""
    key, _, text = word.partition("=")
    name = key.lstrip("+")
    read = None if override.is_sweep_override() else override.value()
    if not isinstance(read, (bool, int, float)) or name not in _texts():
        return
    if name in UNTYPED or str(read) != text:
        kind = "true or false" if isinstance(read, bool) else f"the number {read}"
        raise ValueError(f"{word} is read as {kind}: write {pasted(f'{key}={quoted(text)}')}")


def _no_option(override: Override) -> None:
    """Refuse a value for a whole group that is neither the name of an option nor a mapping to merge."""
    group = override.get_key_element().lstrip("+")
    if group not in (*schema.SETTINGS, *schema.TARGETS) or override.is_sweep_override():
        return
    read = override.value()
    names = read if isinstance(read, list) else [read]
    if not all(isinstance(name, (str, QuotedString, dict)) for name in names) and not override.is_delete():
        there = ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))
        shown = override.input_line.partition("=")[2] if override.input_line else read
        raise ValueError(f"{group} must be an option of conf/{group}, got {shown}; there is: {there}")


@functools.cache
def _texts() -> frozenset[str]:
    """Return the keys whose values are texts."""
    groups = {field.name: field.type for field in dataclasses.fields(schema.Config)}
    typed = [
        f"{name}.{field.name}"
        for name, group in groups.items()
        if dataclasses.is_dataclass(group)
        for field in dataclasses.fields(group)
        if field.type is str
    ]
    return frozenset((*typed, *UNTYPED))
