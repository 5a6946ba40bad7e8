"""Lines over epochs as inline SVG: of one run, or of hundreds. charts.js adds what a pointer and keys do."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from markupsafe import Markup

from cifar_core.report.frame import CURVE, Frame, Points, ends, figure, is_share, number, quantity, svg
from cifar_core.report.markup import text

COLOURED = 6  # lines up to which each has its colour and dashes
LINES = 300  # drawn at most, the highest and the lowest
POINTS = 40_000  # of all lines of a chart, about
BINS_OF_EPOCHS = 200  # of a line with more points than two in each, the extremes of each are drawn
DOTTED = 40  # points of a line up to which each is marked
LARGEST = 1e100  # value that is drawn: the span between two is finite
MARKS = {"pruned": "m-4 -4l8 8m0 -8l-8 8", "failed": "m0 -6l5.5 10h-11z"}  # a cross, a triangle
KINDS = ("failed", "pruned", "", "best")  # in the order in which they are drawn


@dataclass(frozen=True)
class Line:
    """A line over epochs; `kind` is best, pruned, failed or nothing; the same id may come again elsewhere."""

    id: str
    name: str
    points: Points
    kind: str = ""

    @cached_property
    def known(self) -> Points:
        """The points that can be drawn."""
        return [point for point in self.points if _can_be_drawn(point[1])]


def _can_be_drawn(value: float) -> bool:
    return abs(value) < LARGEST  # no NaN is


def line_chart(title: str, series: Mapping[str, Points], *, mark: float | None = None) -> Markup:
    """Draw the lines of one run over epochs; `mark` is an epoch to point out."""
    return curves(title, [Line(name, name, points) for name, points in series.items()], mark=mark)


def curves(title: str, lines: Sequence[Line], *, mark: float | None = None) -> Markup:
    """Return a figure of lines over epochs; `title`, its caption, is the name of what they show.

    Up to COLOURED lines have colours, beyond they are faint and the best ones bold; a pruned one ends in a
    cross, a failed one in a triangle. Of more lines than LINES the highest and the lowest are drawn.
    """
    seen = _in_range(lines)
    if not seen:
        return figure(
            title, svg(title, f'<text x="52" y="{CURVE[1] / 2}">nothing to draw</text>', size=CURVE)
        )
    kept = ends([line.known[-1][1] for line in seen], LINES)
    drawn = [line for place, line in enumerate(seen) if place in kept or line.kind == "best"]
    points = [point for line in drawn for point in line.known]
    frame = Frame([at for at, _ in points], [value for _, value in points], CURVE, bottom=46, top=12)
    pen = _Pen(title, frame, drawn)
    content = frame.axes("epoch", title)
    if mark is not None:
        content += f'<path class="mark" d="M{frame.x(mark):.1f} {frame.y.end}V{frame.foot}"/>'
    content += "".join(map(pen.line, sorted(range(len(drawn)), key=lambda k: KINDS.index(drawn[k].kind))))
    notes = []
    if len(drawn) < len(seen):
        notes.append(
            f"{len(drawn)} of {len(seen):,} lines are drawn: the highest and the lowest at their ends."
        )
    if len(seen) < len(lines):
        notes.append(f"{len(lines) - len(seen):,} of {len(lines):,} have no value that can be drawn.")
    picture = svg(_told(title, drawn), content, size=CURVE, attributes=pen.attributes)
    return figure(title, f'{picture}<ul class="legend">{pen.legend()}</ul>', " ".join(notes))


class _Pen:
    """Draws lines; the numbers of their paths are epochs and values in fine units, for the script to read."""

    def __init__(self, title: str, frame: Frame, lines: Sequence[Line]) -> None:
        self.share, self.lines, self.scales = is_share(title), lines, (frame.x, frame.y)
        self.few = len(lines) <= COLOURED
        self.bins = min(BINS_OF_EPOCHS, max(10, POINTS // (2 * len(lines))))
        whole = all(float(at).is_integer() for line in lines for at, _ in line.known)
        self.units = (1.0 if whole else _unit(frame.x.high - frame.x.low), _unit(frame.y.high - frame.y.low))
        slopes = (scale.slope * unit for scale, unit in zip(self.scales, self.units, strict=True))
        corner = f"{frame.x(frame.x.low):g} {frame.y(frame.y.low):g}"
        self.transform = f"translate({corner}) scale({' '.join(f'{slope:.6g}' for slope in slopes)})"

    @property
    def attributes(self) -> str:
        x, y = (f"{scale.low!r} {unit!r}" for scale, unit in zip(self.scales, self.units, strict=True))
        kind, share = "few" if self.few else "many", ' data-share=""' * self.share
        return f'class="chart curves {kind}" data-x="{x}" data-y="{y}"{share}'

    def line(self, place: int) -> str:
        """Draw a line with the mark of its end and dots where it has few points."""
        line, (x, y) = self.lines[place], self.scales
        points = _thinned(line.points, self.bins)
        dotted = line.known if len(line.known) == 1 or (self.few and len(points) <= DOTTED) else []
        marks = "".join(f'<circle cx="{x(at):.1f}" cy="{y(value):.1f}" r="2.5"/>' for at, value in dotted)
        if line.kind in MARKS:
            at, value = line.known[-1]
            marks += f'<path class="end-mark" d="M{x(at):.1f} {y(value):.1f}{MARKS[line.kind]}"/>'
        return (
            f'<g class="{self._style(place)}" data-id="{text(line.id)}"><title>{text(line.name)}</title>'
            f'<path class="line" transform="{self.transform}" d="{self._path(points)}"/>{marks}</g>'
        )

    def legend(self) -> str:
        """Return a row for each line, or of many lines for each kind."""
        if self.few:
            return "".join(
                _row(self._style(place), line.kind, f"{line.name}{line.kind and f' ({line.kind})'}", line.id)
                for place, line in enumerate(self.lines)
            )
        rows = []
        for kind in reversed(KINDS):
            some = [line for line in self.lines if line.kind == kind]
            if some:
                alone = kind == "best" and len(some) == 1
                name = f"best: {some[0].name}" if alone else f"{kind or 'other'} ({len(some):,})"
                rows.append(_row(kind, kind, name))
        return "".join(rows)

    def _style(self, place: int) -> str:
        kind = self.lines[place].kind
        return f"s{place} {kind}".rstrip() if self.few else kind

    def _path(self, points: Points) -> str:
        """Return a path in relative whole numbers, which are short; a point by itself is a dot."""
        parts: list[str] = []
        last = None
        for point in points:
            if not _can_be_drawn(point[1]):
                last = None
                continue
            x, y = (
                round((value - scale.low) / unit)
                for value, scale, unit in zip(point, self.scales, self.units, strict=True)
            )
            parts.append(f"M{x} {y}l0 0" if last is None else f" {x - last[0]} {y - last[1]}")
            last = (x, y)
        return "".join(parts)


def _unit(span: float) -> float:
    """Return a power of ten of which 1,000 to 10,000 make the span."""
    return 10.0 ** (math.floor(math.log10(span)) - 3) if span > 0 else 1.0


def _row(style: str, kind: str, name: str, of: str = "") -> str:
    mark = f'<path class="end-mark" d="M21 7{MARKS[kind]}"/>' if kind in MARKS else ""
    attribute = f' data-id="{text(of)}"' if of else ""
    return (
        f'<li{attribute}><svg class="key" viewBox="0 0 28 14" aria-hidden="true"><g class="{style}">'
        f'<path class="line" d="M1 7h26"/>{mark}</g></svg>{text(name)}</li>'
    )


def _in_range(lines: Sequence[Line]) -> list[Line]:
    """Return the lines that have a point; of a failed one, no point far beyond those of the others."""
    healthy = [value for line in lines if line.kind != "failed" for _, value in line.known]
    if healthy:
        room = (max(healthy) - min(healthy)) or abs(healthy[0]) or 1
        low, high = min(healthy) - room, max(healthy) + room
        lines = [
            line
            if line.kind != "failed"
            else replace(line, points=[(at, v if low <= v <= high else math.nan) for at, v in line.points])
            for line in lines
        ]
    return [line for line in lines if line.known]


def _told(title: str, lines: Sequence[Line]) -> str:
    """Return what the lines show, in a sentence."""
    chosen = [line for line in lines if line.kind == "best"][:3] or lines[:COLOURED]
    values = "; ".join(f"{line.name} ends at {quantity(line.known[-1][1], title, 3)}" for line in chosen)
    counts = {kind: sum(line.kind == kind for line in lines) for kind in reversed(KINDS) if kind}
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    last = max(line.known[-1][0] for line in lines)
    return (
        f"{title} of {len(lines)} line{'s' * (len(lines) > 1)}{f' ({kinds})' if kinds else ''} "
        f"up to epoch {number(last)}: {values}"
    )


def _thinned(points: Points, bins: int) -> Points:
    if len(points) <= 2 * bins:
        return points
    kept = []
    for some in np.array_split(np.arange(len(points)), bins):
        finite = [place for place in some if _can_be_drawn(points[place][1])]
        ends = [find(finite, key=lambda place: points[place][1]) for find in (min, max) if finite]
        gap = [place for place in some if place not in finite][:1]
        kept += [points[place] for place in sorted({*ends, *gap})]
    return kept
