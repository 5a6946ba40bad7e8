"""How a comparison reads as one HTML file that needs nothing else."""

from collections.abc import Sequence
from importlib import resources

from cifar_core.report.charts import line_chart
from cifar_core.report.markup import table, text
from experiments.comparison.groups import Comparison, Configuration
from experiments.comparison.tables import Table, tables
from experiments.comparison.verdict import verdict, warnings

CURVES = 4  # lines of one chart
ROWS = 200  # of a table; the CSV files have all

STYLE = """
.line.s3 { stroke: var(--focus); stroke-dasharray: 8 3 2 3; }
circle.s3 { fill: var(--focus); }
.warn { border-left: 4px solid var(--orange); }
td:first-of-type { white-space: normal; }
"""
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>Comparison</title>
<style>
{style}
</style>
</head>
<body>
<header><h1>{title}</h1><p class="lead">{verdict}</p></header>
<main>
{sections}
</main>
</body>
</html>
"""


def page(comparison: Comparison) -> str:
    """Return the comparison as one HTML page, without scripts or anything to load."""
    css = resources.files("cifar_core.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    sections = [_section(one) for one in tables(comparison)]
    sections.insert(bool(comparison.ranked) + bool(comparison.apart), _curves(comparison))
    if lines := warnings(comparison):
        items = "".join(f"<li>{text(line)}</li>" for line in lines)
        sections.insert(0, f'<section class="warn"><h2>Mind</h2><ul class="findings">{items}</ul></section>')
    count = sum(len(c.runs) for c in comparison.configurations)
    title = f"{count} runs in {len(comparison.configurations)} configurations"
    return PAGE.format(
        style=css + STYLE, title=title, verdict=text(verdict(comparison)), sections="\n".join(sections)
    )


def _section(one: Table) -> str:
    limit = ROWS
    grid = table(list(one.columns), one.cells(limit), numbers=one.numbers) if one.rows else ""
    return (
        f'<section><h2>{text(one.title)}</h2><p class="hint">{text(one.note(limit))}</p>'
        f'<div class="scroll tall">{grid}</div></section>'
    )


def _curves(comparison: Comparison) -> str:
    charts = []
    for configurations, metric in (
        (comparison.ranked, "val/acc"),
        (comparison.apart, "test/acc"),
        (comparison.ranked, "train/loss"),
    ):
        for group in _with_first([c for c in configurations if c.curve(metric)]):
            series = {c.letter: c.curve(metric) for c in group}
            title = f"{metric}: {', '.join(series)}"
            charts.append(line_chart(title, series))
    hint = "Mean over seeds by epoch; the first configuration is in each chart, to compare with."
    drawn = f'<div class="charts">{"".join(charts)}</div>'
    return f'<section><h2>Curves</h2><p class="hint">{hint}</p>{drawn}</section>'


def _with_first(configurations: Sequence[Configuration]) -> list[list[Configuration]]:
    """Split into charts of at most CURVES lines, each with the first configuration."""
    if not configurations:
        return []
    first, *rest = configurations
    step = CURVES - 1
    return [[first, *rest[n : n + step]] for n in range(0, max(1, len(rest)), step)]
