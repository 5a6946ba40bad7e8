"""What swept keys do to a result, as inline SVG: slices, parallel axes, importances. charts.js brushes."""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from markupsafe import Markup

from cifar_core.report.frame import (
    BOTTOM,
    LEFT,
    RIGHT,
    Frame,
    Scale,
    ends,
    figure,
    fit,
    is_share,
    polyline,
    quantity,
    svg,
)
from cifar_core.report.markup import cut, percent, text

RUNS = 400  # drawn at most, the best and the worst
CHOICES = 16  # of an axis up to which each has its name and its mean
SPREAD = 0.6  # of a choice's room, that its points take
LEVELS = 6  # of colour
LOG_FROM = 20  # times the least value, from where on an axis is logarithmic
LETTERS = 40  # of a value that are told

SLICE, SLANTED = (300, 240), 76  # units: a slice, below its plotted area where labels are slanted
APART, SIDE, UPPER, LOWER = 160, 76, 44, 290  # parallel axes: between two, beside them, their ends


@dataclass(frozen=True)
class Axis:
    """What each run has of a key or of a result: numbers, choices, or None."""

    name: str
    values: Sequence[float | str | None]


class _Spread:
    """Where the values of an axis stand on [0, 1], and what is written beside them.

    Numbers of which there are few, each often, are choices too, or their points would cover each other. The
    points of a choice are spread over its room, always in the same way.
    """

    def __init__(self, axis: Axis) -> None:
        self.name = axis.name
        known = [value for value in axis.values if _is_known(value)]
        numeric = all(_is_number(value) for value in known)
        distinct: list[Any] = sorted(set(known)) if numeric else list(dict.fromkeys(map(str, known)))
        self.texts = [self.told(value) if _is_known(value) else "" for value in axis.values]
        repeated = len(distinct) <= CHOICES and len(known) >= 2 * len(distinct)
        self.scale: Scale | None = None
        self.middles: dict[str, float] = {}
        if numeric and known and not repeated:
            low, high = distinct[0], distinct[-1]
            self.scale = scale = Scale(low, high, log=low > 0 and high / low >= LOG_FROM)
            self.places = [scale(v) if _is_number(v) and _is_known(v) else None for v in axis.values]
            self.ticks = [(scale(value), quantity(value, self.name)) for value in scale.ticks()]
            return
        room = 1 / max(1, len(distinct))
        self.middles = {self.told(value): (place + 0.5) * room for place, value in enumerate(distinct)}
        self.places = [
            self.middles[told] + (row * 0.618034 % 1 - 0.5) * SPREAD * room if told else None
            for row, told in enumerate(self.texts)
        ]
        step = math.ceil(len(self.middles) / CHOICES) or 1
        self.ticks = [(place, name) for name, place in list(self.middles.items())[::step]]

    def told(self, value: Any, digits: int = 4) -> str:
        """Return a value as it is written."""
        return quantity(value, self.name, digits) if _is_number(value) else cut(str(value), LETTERS) or '""'

    def brush(self, along: str, span: tuple[float, float], area: str) -> str:
        """Return the part of an axis that the script lets one brush; `span` is where 0 and 1 are along it."""
        facts: dict[str, Any] = {"key": self.name, "along": along, "span": f"{span[0]:g} {span[1]:g}"}
        facts["places"] = " ".join("-" if place is None else f"{place:.3f}" for place in self.places)
        if self.scale:
            facts["ends"] = f"{self.scale.low!r} {self.scale.high!r}"
            facts |= {"log": ""} if self.scale.log else {}
            facts |= {"share": ""} if is_share(self.name) else {}
        elif len(self.middles) <= CHOICES:
            facts["choices"] = json.dumps(list(self.middles))
        attributes = " ".join(f'data-{name}="{text(value)}"' for name, value in facts.items())
        return f'<g class="brush" {attributes}><rect class="hit" {area}/>'


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_known(value: Any) -> bool:
    return value is not None and not (_is_number(value) and not math.isfinite(value))


@dataclass(frozen=True)
class _Runs:
    """The runs that are drawn: their values by axis, their results, their ids."""

    axes: Sequence[_Spread]
    result: _Spread
    values: Sequence[float]
    ids: Sequence[str]
    note: str

    @classmethod
    def of(cls, axes: Sequence[Axis], result: Axis, ids: Sequence[str]) -> "_Runs":
        known = [place for place, value in enumerate(result.values) if _is_known(value)]
        kept = ends([float(result.values[place]) for place in known], RUNS)  # type: ignore[arg-type]
        rows = [known[place] for place in sorted(kept)]
        note = (
            f"{len(rows)} of {len(known):,} are drawn: the best and the worst."
            if len(rows) < len(known)
            else ""
        )
        drawn = [_Spread(Axis(axis.name, [axis.values[row] for row in rows])) for axis in axes]
        values = [float(result.values[row]) for row in rows]  # type: ignore[arg-type]
        return cls(drawn, _Spread(Axis(result.name, values)), values, [ids[row] for row in rows], note)

    @property
    def attribute(self) -> str:
        return f'data-ids="{text(json.dumps(self.ids))}"'

    def told(self, row: int, axes: Sequence[_Spread]) -> str:
        """Return a run's values of some axes and its result."""
        values = ", ".join(f"{axis.name} = {axis.texts[row]}" for axis in axes if axis.texts[row])
        return f"{self.result.name} {quantity(self.values[row], self.result.name)}: {values}"


def slices(axes: Sequence[Axis], result: Axis, ids: Sequence[str]) -> Markup:
    """Draw the result over each axis by itself, side by side; a thick stroke is the mean of a choice."""
    runs = _Runs.of(axes, result, ids)
    if not runs.values:
        return Markup("")
    slanted = any(not fit([name for _, name in axis.ticks], SLICE[0] - LEFT - RIGHT) for axis in runs.axes)
    foot = SLANTED if slanted else BOTTOM
    figures = "".join(figure("", _slice(axis, runs, foot)) for axis in runs.axes)
    note = f'<p class="hint">{runs.note}</p>' if runs.note else ""
    return Markup(f'<div class="slices">{figures}{note}</div>')


def _slice(axis: _Spread, runs: _Runs, foot: float) -> Markup:
    frame = Frame([-0.04, 1.04], runs.values, SLICE, foot)
    area = f'x="{frame.x.start:g}" y="{frame.y.end:g}" width="{frame.x.end - frame.x.start:g}" '
    area += f'height="{SLICE[1] - frame.y.end:g}"'
    parts = [frame.axes(axis.name, runs.result.name, [(frame.x(place), name) for place, name in axis.ticks])]
    parts.append(axis.brush("x", (frame.x(0), frame.x(1)), area))
    groups: dict[str, list[float]] = defaultdict(list)
    for row, (place, value) in enumerate(zip(axis.places, runs.values, strict=True)):
        if place is not None:
            groups[axis.texts[row]].append(value)
            at = f'cx="{frame.x(place):.1f}" cy="{frame.y(value):.1f}"'
            tip = text(runs.told(row, [axis]))
            parts.append(f'<circle data-id="{text(runs.ids[row])}" {at} r="4"><title>{tip}</title></circle>')
    means = {name: sum(some) / len(some) for name, some in groups.items() if name in axis.middles}
    if len(means) <= CHOICES:
        room = 0.4 / max(1, len(axis.middles))
        for name, mean in means.items():
            left, right = (frame.x(axis.middles[name] + side * room) for side in (-1, 1))
            parts.append(f'<path class="mean" d="M{left:.1f} {frame.y(mean):.1f}H{right:.1f}"/>')
    best = max(range(len(runs.values)), key=lambda row: runs.values[row])
    label = f"{runs.result.name} over {axis.name}. Best: {runs.told(best, [axis])}"
    return svg(label, f"{''.join(parts)}</g>", size=SLICE, attributes=f'class="chart slice" {runs.attribute}')


def parallel(title: str, axes: Sequence[Axis], result: Axis, ids: Sequence[str]) -> Markup:
    """Draw each run as a line over all axes, the result last, coloured by the result, the best on top."""
    runs = _Runs.of(axes, result, ids)
    if not runs.values:
        return figure(title, "<p>nothing to draw</p>")
    columns = [*runs.axes, runs.result]
    down = Scale(0, 1, LOWER, UPPER)
    colour = Scale(min(runs.values), max(runs.values), 0, LEVELS - 0.001)
    parts = []
    for row in sorted(range(len(runs.values)), key=lambda row: runs.values[row]):
        places = [math.nan if (place := column.places[row]) is None else place for column in columns]
        path = polyline(list(enumerate(places)), Scale(0, 1, SIDE, SIDE + APART), down)
        parts.append(
            f'<g data-id="{text(runs.ids[row])}"><title>{text(runs.told(row, runs.axes))}</title>'
            f'<path class="line r{int(colour(runs.values[row]))}" d="{path}"/></g>'
        )
    parts += [_axis(column, SIDE + APART * place) for place, column in enumerate(columns)]
    size = (2 * SIDE + APART * (len(columns) - 1) + 20, LOWER + 24)
    best = max(range(len(runs.values)), key=lambda row: runs.values[row])
    label = f"{title}: {len(runs.values)} runs over {', '.join(c.name for c in columns)}. Best: "
    room = f"min-width:{0.9 * size[0]:g}px;max-width:{1.05 * size[0]:g}px"  # below, it scrolls in its box
    picture = svg(
        label + runs.told(best, runs.axes),
        "".join(parts),
        size=size,
        attributes=f'class="chart parallel" style="{room}" {runs.attribute}',
    )
    return figure(title, f'<div class="scroll">{picture}</div>', runs.note)


def _axis(axis: _Spread, x: float) -> str:
    """Draw one of the parallel axes, on top of the lines, with what is written beside it."""
    down = Scale(0, 1, LOWER, UPPER)
    area = f'x="{x - 18:g}" y="{UPPER - 8}" width="36" height="{LOWER - UPPER + 16}"'
    parts = [axis.brush("y", (LOWER, UPPER), area), f'<path class="axis" d="M{x:g} {UPPER}V{LOWER}"/>']
    parts.append(f'<text class="middle" x="{x:g}" y="{UPPER - 24}">{text(cut(axis.name, 22))}</text>')
    ticks = list(axis.ticks)
    if axis.scale:  # its ends, and what does not touch them
        ticks = [(place, name) for place, name in ticks if 0.07 < place < 0.93]
        ticks += [
            (place, axis.told(value, 3)) for place, value in ((0, axis.scale.low), (1, axis.scale.high))
        ]
    parts += [
        f'<path class="axis" d="M{x - 4:g} {down(place):.1f}h8"/>'
        f'<text class="tick" x="{x + 8:g}" y="{down(place) + 4:.1f}">{text(cut(name, 16))}</text>'
        for place, name in ticks
    ]
    return f"{''.join(parts)}</g>"


def bars(title: str, shares: Mapping[str, float]) -> Markup:
    """Draw shares as bars with their names, the largest on top."""
    order = sorted(shares, key=lambda name: -shares[name])
    largest = max(shares.values(), default=0) or 1
    left, width, line = 172, 170, 26
    parts = []
    for place, name in enumerate(order):
        y, long = 4 + line * place, width * shares[name] / largest
        parts.append(
            f"<g><title>{text(name)}: {percent(shares[name])}</title>"
            f'<text class="end" x="{left - 8}" y="{y + 13}">{text(cut(name, 22))}</text>'
            f'<rect class="bar" x="{left}" y="{y}" width="{long:.1f}" height="18"/>'
            f'<text x="{left + long + 6:.1f}" y="{y + 13}">{percent(shares[name], 0)}</text></g>'
        )
    told = ", ".join(f"{name} {percent(shares[name], 0)}" for name in order)
    return figure(
        title,
        svg(
            f"{title}: {told}", "".join(parts), size=(400, line * len(order) + 6), attributes='class="shares"'
        ),
    )
