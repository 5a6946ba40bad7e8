"""What charts share: scales, ticks, texts of values, axes, the svg element."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cifar_core.report.markup import cut, text

WIDTH, HEIGHT = 400, 260  # of a chart, in its own units
LETTER = 7.2  # units that one takes, about
CURVE = (560, 320)  # of one that is as wide as its column
LEFT, RIGHT, TOP, BOTTOM = 52, 18, 34, 40  # margins around the plotted area

Points = Sequence[tuple[float, float]]  # y not finite = a gap
Ticks = Sequence[tuple[float, str]]  # place and label


@dataclass(frozen=True)
class Scale:
    """Maps values from `low` to `high` to places from `start` to `end`; all equal ones to the middle."""

    low: float
    high: float
    start: float = 0.0
    end: float = 1.0
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        if not self.high > self.low:
            return (self.start + self.end) / 2
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    @property
    def slope(self) -> float:
        """Places a unit of value."""
        return (self.end - self.start) / (self.high - self.low) if self.high > self.low else 1.0

    def ticks(self) -> list[float]:
        """Return round values within the scale."""
        if not self.high > self.low:
            return [self.low]
        values = _log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high)
        slack = 0 if self.log else 1e-9 * (self.high - self.low)
        return [value for value in values if self.low - slack <= value <= self.high + slack]


class Frame:
    """The plotted area of a chart and its two scales; `xs` and `ys` are the values to make room for."""

    def __init__(
        self,
        xs: Iterable[float],
        ys: Iterable[float],
        size: tuple[float, float] = (WIDTH, HEIGHT),
        bottom: float = BOTTOM,
        top: float = TOP,
    ) -> None:
        xs, ys = list(xs), list(ys)
        rules = ticks(min(ys), max(ys))
        self.size, self.right, self.foot = size, size[0] - RIGHT, size[1] - bottom
        self.x = Scale(min(xs), max(xs), LEFT, self.right)
        self.y = Scale(min(*ys, rules[0]), max(*ys, rules[-1]), self.foot, top)

    def axes(self, x_name: str, y_name: str, x_ticks: Ticks | None = None) -> str:
        """Draw rules, ticks and the names of both axes; `x_ticks` are places and labels of other ones.

        Without room on top the name of y is left to the caption.
        """
        if x_ticks is None:
            values = [value for value in self.x.ticks() if x_name != "epoch" or value == int(value)]
            x_ticks = [(self.x(value), number(value)) for value in values]
        parts = []
        for value in self.y.ticks():
            y = self.y(value)
            parts.append(f'<path class="rule" d="M{LEFT} {y:.1f}H{self.right}"/>')
            parts.append(f'<text class="end" x="{LEFT - 6}" y="{y + 4:.1f}">{quantity(value, y_name)}</text>')
        upright = fit([name for _, name in x_ticks], self.right - LEFT)
        parts += _upright(x_ticks, self.foot + 18) if upright else _slanted(x_ticks, self.foot + 14)
        middle, low = (LEFT + self.right) / 2, self.size[1] - 6
        low = min(low, self.foot + 40) if upright else low
        parts.append(f'<text class="middle faint" x="{middle}" y="{low}">{text(x_name)}</text>')
        if self.y.end >= TOP:
            parts.append(f'<text class="faint" x="4" y="{TOP - 16}">{text(y_name)}</text>')
        return "".join(parts)


def _upright(ticks: Ticks, y: float) -> list[str]:
    return [f'<text class="middle" x="{x:.1f}" y="{y}">{text(name)}</text>' for x, name in ticks]


def _slanted(ticks: Ticks, y: float) -> list[str]:
    labels = [(f"translate({x + 4:.1f} {y}) rotate(-28)", cut(name, 12)) for x, name in ticks]
    return [f'<text class="end" transform="{place}">{text(name)}</text>' for place, name in labels]


def fit(labels: Sequence[str], width: float) -> bool:
    """Return whether labels at equal distances have room beside each other."""
    return max(map(len, labels), default=0) * LETTER <= width / max(1, len(labels))


def ends(values: Sequence[float], count: int) -> set[int]:
    """Return the places of the highest and the lowest values, `count` together."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    return set(order) if len(order) <= count else {*order[: count // 2], *order[-(count - count // 2) :]}


def is_share(name: str) -> bool:
    """Return whether values of this name are shares, told in percent: accuracies are."""
    return name.lower().rpartition("/")[2].startswith("acc")


def quantity(value: float, name: str, digits: int = 4) -> str:
    """Write a value of a metric or key, accuracies in percent."""
    return f"{number(100 * value, digits)}\u00a0%" if is_share(name) else number(value, digits)


def number(value: float, digits: int = 4) -> str:
    """Write a number as one types it: 0.05, 1e-5, 100000."""
    if abs(value) < 1e6 and value == int(value):
        return str(int(value))
    shown = f"{value:.{digits}g}"
    return shown.replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers from at most `low` to at least `high`."""
    if not high - low > 1e-9 * max(abs(low), abs(high)):  # means that are equal differ by their rounding
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [place * step for place in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return powers of ten, every second or third where there are many, and 2 and 5 times where few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    step = max(1, math.ceil((last - first) / 6))
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    return [factor * 10.0**power for power in range(first, last + 1, step) for factor in factors]


def polyline(points: Points, x: Scale, y: Scale) -> str:
    """Return the path through the points, with gaps where y is not finite; a point by itself is a dot."""
    parts: list[str] = []
    for at, value in points:
        if not math.isfinite(value):
            parts.append("")
        elif parts and parts[-1]:
            parts.append(f"L{x(at):.1f} {y(value):.1f}")
        else:
            parts.append(f"M{x(at):.1f} {y(value):.1f}h0")
    return "".join(parts)


def svg(
    label: str,
    content: str,
    *,
    size: tuple[float, float] = (WIDTH, HEIGHT),
    attributes: str = 'class="chart"',
) -> Markup:
    """Return a picture with a text for those who do not see it."""
    return Markup(
        f'<svg {attributes} viewBox="0 0 {size[0]:g} {size[1]:g}" role="img" aria-label="{text(label)}">'
        f"{content}</svg>"
    )


def figure(caption: str, content: str, note: str = "") -> Markup:
    """Return a figure with its caption and a note below; charts.js writes what the pointer is at into it."""
    top = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    low = f'<p class="hint">{text(note)}</p>' if note else ""
    return Markup(f'<figure class="plot">{top}{content}{low}</figure>')
