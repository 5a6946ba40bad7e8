"""How a comparison reads as Markdown."""

from cifar_core.report.markup import shown
from experiments.comparison.groups import Comparison
from experiments.comparison.tables import Table, configurations, tables
from experiments.comparison.verdict import verdict, warnings

ROWS = 10  # of a table; the CSV files have all


def markdown(comparison: Comparison) -> str:
    """Return the comparison in Markdown."""
    return "\n".join(_said("Comparison", comparison) + _shown(tables(comparison)))


def note(title: str, comparison: Comparison) -> str:
    """Return what a sweep has come to; the test figure of the best alone, so that nobody chooses by it."""
    rows = configurations(comparison, tested=False)
    cost = ", ".join(f"{value:,g} {name}" for name, value in comparison.cost.items())
    return "\n".join([*_said(title, comparison), *_shown(rows), f"{cost}.", ""])


def _said(title: str, comparison: Comparison) -> list[str]:
    lines = [f"# {_escaped(title)}", "", _escaped(verdict(comparison)), ""]
    return lines + [f"> **Warning:** {_escaped(line)}\n" for line in warnings(comparison)]


def _shown(rows: list[Table]) -> list[str]:
    lines = []
    for one in rows:
        lines += [f"## {one.title}", ""]
        if hint := one.note(ROWS):
            lines += [_escaped(hint), ""]
        if one.rows:
            cells = [list(one.columns), ["---"] * len(one.columns), *one.cells(ROWS)]
            lines += ["| " + " | ".join(map(_escaped, row)) + " |" for row in cells] + [""]
    return lines


def _escaped(line: str) -> str:
    """Keep a text from ending a Markdown cell, a line, or turning into HTML."""
    line = shown(line)
    for mark in "\\`*<[|":
        line = line.replace(mark, f"\\{mark}")
    return line
