"""Small pieces of HTML; every text that comes from outside is escaped here."""

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def shown(value: Any) -> str:
    """Return a text of printable characters: line ends, controls and lone surrogates become escapes.

    So a name cannot turn the direction of the text after it, nor break a file's encoding.
    """
    return "".join(
        c if c.isprintable() or c == "\u00a0" else c.encode("unicode_escape").decode() for c in str(value)
    )


def cut(name: str, letters: int) -> str:
    """Return the name, or what fits into `letters` and an ellipsis."""
    return name if len(name) <= letters else name[: letters - 1].rstrip() + "\u2026"


def text(value: Any) -> str:
    """Escape a value for HTML text and for quoted attributes."""
    return html.escape(shown(value))


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, numbers: bool = False) -> str:
    """Return a table of escaped cells, the first of a row its header; `numbers` aligns the rest right."""
    top = "".join(f'<th scope="col">{text(name)}</th>' for name in head)
    lines = (
        f'<tr><th scope="row">{text(first)}</th>{"".join(f"<td>{text(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    kind = ' class="numbers"' if numbers else ""
    return f"<table{kind}><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def script_json(value: Any) -> str:
    """Return JSON that can stand in a script element: ASCII, without <, > and &, so nothing can end it."""
    plain = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


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
