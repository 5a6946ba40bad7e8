"""A comparison on a terminal: a table, what it comes to, what to mind."""

import math
import textwrap
import unicodedata

from cifar_core.report.markup import shown
from experiments.comparison.groups import Comparison, Configuration
from experiments.comparison.read import BEST, TEST
from experiments.comparison.verdict import verdict, warnings

WIDTH = 80  # columns, which no line is wider than
ROWS = 20  # configurations that are listed
HEAD = ["", "configuration", "n", "val/acc", "test/acc", "seconds"]


def lines(comparison: Comparison) -> list[str]:
    """Return the configurations, the verdict, the warnings and the causes of failures."""
    listed = comparison.configurations[:ROWS]
    table = _table([HEAD, *map(_cells, listed)])
    if more := len(comparison.configurations) - len(listed):
        table.append(f"and {more:,} more in configurations.csv")
    failed = [f"{len(runs):,} failed: {cause}" for cause, runs in comparison.failures.items()]
    texts = [verdict(comparison), *(f"Mind: {line}" for line in warnings(comparison)), *failed]
    return [*table, "", *(line for text in texts for line in wrapped(text))]


def _cells(c: Configuration) -> list[str]:
    count = f"{len(c.runs)}" if c.standing != "partial" else f"{len(c.runs)} of {c.seeds}"
    seconds = "-" if math.isnan(c.seconds) else f"{c.seconds:,.1f}"
    return [c.letter, shown(c.label), count, str(c.spread(BEST)), str(c.spread(TEST)), seconds]


def _table(rows: list[list[str]]) -> list[str]:
    """Return rows in columns, the second as wide as fits, those of figures right; without a figure none."""
    columns = [column for column in zip(*rows, strict=True) if {*column[1:]} != {"-"}]
    sizes = [max(map(width, column)) for column in columns]
    sizes[1] = min(sizes[1], WIDTH - sum(sizes) + sizes[1] - 2 * (len(sizes) - 1))
    table = []
    for row in zip(*columns, strict=True):
        cells = [cut(cell, size) for cell, size in zip(row, sizes, strict=True)]
        spaces = [" " * (size - width(cell)) for cell, size in zip(cells, sizes, strict=True)]
        left = [cell + space for cell, space in zip(cells[:2], spaces, strict=False)]
        right = [space + cell for cell, space in zip(cells[2:], spaces[2:], strict=True)]
        table.append("  ".join([*left, *right]))
    return table


def wrapped(text: str) -> list[str]:
    """Return a text in lines that fit, the later ones indented; a figure and its unit stay together."""
    text = shown(text).replace(" %", "\u00a0%")
    fits = WIDTH if width(text) == len(text) else WIDTH // 2
    lines = textwrap.wrap(text, fits, subsequent_indent="  ", break_on_hyphens=False)
    return [line.replace("\u00a0", " ") for line in lines]


def width(text: str) -> int:
    """Return how many columns of a terminal a text takes: signs of East Asia take two."""
    return sum(1 + (unicodedata.east_asian_width(sign) in "WF") for sign in text)


def cut(text: str, size: int) -> str:
    """Return a text, or what of it fits into ``size`` columns and an ellipsis."""
    if width(text[: size + 1]) <= size:  # a sign takes a column at least
        return text
    text = text[:size]
    while width(text) >= size:
        text = text[:-1]
    return f"{text}…"
