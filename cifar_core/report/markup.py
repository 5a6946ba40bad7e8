"""How pages are made: templates, and the one place where texts from outside are escaped."""

import base64
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Cell:
    """A cell of a table that sorts by another value than it shows; None sorts last."""

    shown: Any
    sort: float | str | None


def render(
    template: Path, *, scripts: Sequence[str] = (), data: Any = None, reload: int = 0, **fields: Any
) -> str:
    """Return a page made of a template, which can use those beside it and those of TEMPLATES.

    ``scripts`` are files in the same folders; they alone may run in the page, and read ``data`` from the
    element of that id. A page with ``reload`` is loaded again after that many seconds (page.js).
    """
    environment = _environment(template.parent)
    return environment.get_template(template.name).render(
        fields,
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        scripts=[_script(environment, name) for name in scripts],
        data=data if data is None or isinstance(data, Markup) else script_json(data),
        reload=reload,
    )


@cache
def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        finalize=text,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "commas": commas, "cut": cut}
    return environment


def _script(environment: Environment, name: str) -> dict[str, Markup]:
    assert environment.loader is not None
    source = environment.loader.get_source(environment, name)[0]
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return {"source": Markup(source), "hash": Markup(f"sha256-{digest}")}


def shown(value: Any) -> str:
    """Return a text of printable characters: line ends, controls and lone surrogates become escapes.

    So a name cannot turn the direction of the text after it, nor break a file's encoding.
    """
    line = str(value)
    if line.isprintable():
        return line
    return "".join(
        c if c.isprintable() or c == "\u00a0" else c.encode("unicode_escape").decode() for c in line
    )


def text(value: Any) -> Markup:
    """Make a value printable and escape it, for HTML text and quoted attributes; what is Markup stays.

    Templates do so with all that they show.
    """
    return value if isinstance(value, Markup) else escape(shown(value))


def address(path: Path | str) -> str:
    """Return a path, relative to the page, as the address of a link."""
    return quote(os.fsencode(path))


def cut(name: str, letters: int) -> str:
    """Return the name, or what fits into `letters` and an ellipsis."""
    return name if len(name) <= letters else name[: letters - 1].rstrip() + "\u2026"


def script_json(value: Any) -> Markup:
    """Return JSON that can stand in a script element: ASCII, without <, > and &, so nothing can end it."""
    plain = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def flatten(values: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Return (dotted key, value) of nested mappings; other containers stay values."""
    if not isinstance(values, Mapping):
        return [(prefix, values)]
    return [
        pair
        for key, value in values.items()
        for pair in flatten(value, f"{prefix}.{key}" if prefix else str(key))
    ]


def percent(value: float | None, digits: int = 1, *, space: str = "\u00a0") -> str:
    """Return a share as `78.8 %`, a dash for None and NaN; ``space`` does not break by default."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.{digits}f}{space}%"


def commas(value: int) -> str:
    """Return a number as `10,000`."""
    return f"{value:,}"
