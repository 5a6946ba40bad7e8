"""Charts as inline SVG, coloured by the page's style sheet (the variables and classes of style.css)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cifar_core.explain.calibration import BINS, Reliability
from cifar_core.report.markup import cut, percent, text

WIDTH, HEIGHT = 400, 260  # of a chart, in its own units

LEFT, RIGHT, TOP, BOTTOM = 52, 12, 34, 40  # margins around the plotted area

NAMED_CLASSES = 30  # up to here the confusion matrix has room for names
WIDEST = 2400  # of the confusion matrix, unless it has more classes
COUNTED_CLASSES = 16  # up to here its cells have room for counts
CELLS = 10_000  # of the confusion matrix that are drawn at most
BARRED_CLASSES = 100  # classes that have a bar, those of the lowest recall
BINS_OF_EPOCHS = 200  # of a line with more points than two in each, the extremes of each are drawn

Points = Sequence[tuple[float, float]]  # y not finite = a gap


def line_chart(title: str, series: Mapping[str, Points], *, mark: float | None = None) -> str:
    """Draw lines over epochs; `mark` is an epoch to point out.

    Of a line of many points the least and the largest of each of BINS_OF_EPOCHS are drawn.
    """
    series = {name: _thinned(points) for name, points in series.items()}
    known = [point for points in series.values() for point in points if math.isfinite(point[1])]
    if not known:
        return _svg(title, f'<text x="{LEFT}" y="{HEIGHT / 2}">nothing to draw</text>')
    xs, ys = ([point[axis] for point in known] for axis in (0, 1))
    scale = _Scale(min(xs), max(xs), min(ys), max(ys))
    parts = [scale.axes("epoch")]
    if mark is not None:
        x = scale.x(mark)
        parts.append(f'<path class="mark" d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
    for place, (name, points) in enumerate(series.items()):
        parts.append(f'<path class="line s{place}" d="{_path(points, scale)}"/>')
        dots = [point for point in points if math.isfinite(point[1])] if len(points) <= 40 else []
        parts += [
            f'<circle class="s{place}" cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}" r="2.5"/>' for x, y in dots
        ]
        x = LEFT + 6 + 90 * place
        parts.append(f'<path class="line s{place}" d="M{x} {TOP - 8}h18"/>')
        parts.append(f'<text x="{x + 24}" y="{TOP - 4}">{text(name)}</text>')
    return _svg(title, "".join(parts))


def reliability_chart(title: str, before: Reliability, after: Reliability | None) -> str:
    """Draw accuracy over confidence as bars, after scaling as a line, and how many pictures each bin has."""
    scale = _Scale(0, 1, 0, 1)
    parts = [
        scale.axes("confidence"),
        f'<path class="mark" d="M{scale.x(0)} {scale.y(0)}L{scale.x(1)} {TOP}"/>',
    ]
    wide = (WIDTH - LEFT - RIGHT) / BINS
    largest = max(1, int(before.counts.max()))
    for place, (count, acc) in enumerate(zip(before.counts.tolist(), before.acc.tolist(), strict=True)):
        if not count:
            continue
        x, y = scale.x(place / BINS), scale.y(acc)
        thick = max(1.0, 9 * count / largest)
        across = f'x="{x + 1:.1f}" width="{wide - 2:.1f}"'
        tip = f"confidence {place / BINS:.2f} to {(place + 1) / BINS:.2f}"
        parts.append(
            f"<g><title>{tip}: {count:,} pictures, {percent(acc)} right</title>"
            f'<rect class="bar" {across} y="{y:.1f}" height="{scale.y(0) - y:.1f}"/>'
            f'<rect class="count" {across} y="{scale.y(0) - thick:.1f}" height="{thick:.1f}"/></g>'
        )
    if after is not None:
        points = [
            point
            for point in zip(after.confidence.tolist(), after.acc.tolist(), strict=True)
            if math.isfinite(point[0])
        ]
        parts.append(f'<path class="line s1" d="{_path(points, scale)}"/>')
        parts += [
            f'<circle class="s1" cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}" r="3"/>' for x, y in points
        ]
    return _svg(title, "".join(parts))


def class_bars(title: str, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """Draw recall of each class with its interval, and precision as a diamond; the lowest recall on top.

    Of many classes only the BARRED_CLASSES of the lowest recall have a bar.
    """
    order = sorted(range(len(rows)), key=lambda k: (rows[k]["recall"] is None, rows[k]["recall"] or 0))
    order = order[:BARRED_CLASSES]
    line, left, right = 22, 112, 128
    span = WIDTH + 60 - left - right
    parts = []
    for place, number in enumerate(order):
        parts.append(_class_bar(rows[number], names[number], 6 + line * place, left, span))
    return _svg(title, "".join(parts), size=(WIDTH + 60, line * len(order) + 8))


def drawn_cells(counts: np.ndarray) -> np.ndarray:
    """Return the cells (M, 2) of counts (K, K) that are drawn: those with pictures, at most CELLS of them.

    Right predictions come before confusions, frequent ones before rare ones.
    """
    cells = np.argwhere(counts)
    if len(cells) <= CELLS:
        return cells
    true, pred = cells.T
    order = np.lexsort((-counts[true, pred], true != pred))[:CELLS]
    return cells[np.sort(order)]


def confusion_chart(title: str, counts: np.ndarray, names: Sequence[str]) -> str:
    """Draw counts (K, K), true class in rows; only `drawn_cells` are drawn.

    Colour grows with the square root of the share of the row, so that rare confusions show. Up to
    NAMED_CLASSES, cells carry data-t, data-p and data-n: true, predicted, number. Beyond, when there can be
    thousands, cells of one colour are one path, and the script lays its own over them by the svg's data-box:
    left, top and side of a cell.
    """
    num_classes = len(names)
    named = num_classes <= NAMED_CLASSES
    cell = max(1, min(36, max(6, 480 // num_classes), WIDEST // num_classes))
    left = 96 if named else 24
    side, top = cell * num_classes, left + 16
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    parts = [f'<rect class="ground" x="{left}" y="{top}" width="{side}" height="{side}"/>']
    if named:
        parts += [_edge_names(place, cell, left, top, name) for place, name in enumerate(names)]
        for true, pred in drawn_cells(counts).tolist():
            corner = (left + pred * cell, top + true * cell)
            parts.append(_cell(true, pred, int(counts[true, pred]), shares[true, pred], corner, cell, names))
    else:
        parts += _cell_paths(drawn_cells(counts), shares, left, top, cell)
    parts.append(f'<text x="{left}" y="14">predicted class \u2192</text>')
    parts.append(f'<text transform="translate(12 {top + side}) rotate(-90)">true class \u2192</text>')
    attributes = f'class="confusion" data-box="{left} {top} {cell}"'
    return _svg(title, "".join(parts), size=(left + side + 4, top + side + 4), attributes=attributes)


def _cell_paths(cells: np.ndarray, shares: np.ndarray, left: int, top: int, cell: int) -> list[str]:
    true, pred = cells.T
    levels = np.ceil(np.sqrt(shares[true, pred]) * 16).astype(int)  # 1 to 16
    parts = []
    for kind, mask in (("hit", true == pred), ("miss", true != pred)):
        for level in range(1, 17):
            chosen = cells[mask & (levels == level)].tolist()
            path = "".join(f"M{left + p * cell} {top + t * cell}h{cell}v{cell}h-{cell}z" for t, p in chosen)
            if path:
                parts.append(f'<path class="{kind}" fill-opacity="{level / 16:g}" d="{path}"/>')
    return parts


def _cell(
    true: int, pred: int, count: int, share: float, corner: tuple[int, int], cell: int, names: Sequence[str]
) -> str:
    x, y = corner
    kind = "hit" if true == pred else "miss"
    opacity = 0.06 + 0.94 * math.sqrt(share)
    digits = _count(count, share, (x + cell / 2, y + cell / 2), cell) if len(names) <= COUNTED_CLASSES else ""
    return (
        f'<g class="cell" data-t="{true}" data-p="{pred}" data-n="{count}">'
        f"<title>{text(names[true])} predicted as {text(names[pred])}: {count:,}</title>"
        f'<rect class="{kind}" x="{x}" y="{y}" width="{cell}" height="{cell}" fill-opacity="{opacity:.2f}"/>'
        f"{digits}</g>"
    )


def _count(count: int, share: float, middle: tuple[float, float], cell: int) -> str:
    tone = "strong" if share > 0.3 else "weak"
    size = min(13, int(1.5 * cell / max(2, len(str(count)))))
    place = f'x="{middle[0]:g}" y="{middle[1] + 0.35 * size:.1f}"'
    return f'<text class="{tone}" {place} style="font-size:{size}px">{count}</text>'


def _edge_names(place: int, cell: int, left: int, top: int, name: str) -> str:
    middle = place * cell + cell / 2 + 4
    label = f'style="font-size:{min(13, cell - 2)}px">{text(cut(name, 13))}</text>'
    return (
        f'<text class="end" x="{left - 6}" y="{top + middle:g}" {label}'
        f'<text transform="translate({left + middle:g} {top - 6}) rotate(-60)" {label}'
    )


def _class_bar(row: Mapping[str, Any], name: str, y: float, left: float, span: float) -> str:
    label = f'<text class="end" x="{left - 6}" y="{y + 13}">{text(cut(name, 15))}</text>'
    if row["recall"] is None:
        return f'{label}<text x="{left + 4}" y="{y + 13}" class="faint">no pictures</text>'
    low, high = (left + span * end for end in row["recall_interval"])
    diamond = "" if row["precision"] is None else _diamond(left + span * row["precision"], y + 8)
    tip = (
        f"{text(name)}: recall {percent(row['recall'])}, precision {percent(row['precision'])}, "
        f"F1 {percent(row['f1'])}, {row['support']:,} pictures"
    )
    return (
        f'<g><title>{tip}</title>{label}<rect class="track" x="{left}" y="{y}" width="{span}" height="16"/>'
        f'<rect class="bar" x="{left}" y="{y}" width="{span * row["recall"]:.1f}" height="16"/>'
        f'<path class="whisker" d="M{low:.1f} {y + 8}H{high:.1f}M{low:.1f} {y + 4}v8M{high:.1f} {y + 4}v8"/>'
        f'{diamond}<text x="{left + span + 8}" y="{y + 13}">{percent(row["recall"])}'
        f'<tspan class="faint"> F1 {percent(row["f1"])}</tspan></text></g>'
    )


def _diamond(x: float, y: float) -> str:
    return f'<path class="s1 dot" d="M{x - 5:.1f} {y}l5 -5l5 5l-5 5z"/>'


class _Scale:
    """Maps values to the plotted area; a range without width is widened."""

    def __init__(self, x_low: float, x_high: float, y_low: float, y_high: float) -> None:
        self.x_ticks = _ticks(x_low, x_high)
        self.y_ticks = _ticks(y_low, y_high)
        self.x_low, self.x_high = (x_low, x_high) if x_high > x_low else (x_low - 0.5, x_low + 0.5)
        self.y_low, self.y_high = min(y_low, self.y_ticks[0]), max(y_high, self.y_ticks[-1])

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def axes(self, label: str) -> str:
        parts = []
        for tick in self.y_ticks:
            y = self.y(tick)
            parts.append(f'<path class="rule" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            parts.append(f'<text class="end" x="{LEFT - 6}" y="{y + 4:.1f}">{tick:.4g}</text>')
        for tick in self.x_ticks:
            if self.x_low <= tick <= self.x_high:
                x, y = self.x(tick), HEIGHT - BOTTOM + 17
                parts.append(f'<text class="middle" x="{x:.1f}" y="{y}">{tick:.4g}</text>')
        middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
        parts.append(f'<text class="middle faint" x="{middle}" y="{HEIGHT - 6}">{label}</text>')
        return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers from at most `low` to at least `high`."""
    if not high > low:
        low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _thinned(points: Points) -> Points:
    if len(points) <= 2 * BINS_OF_EPOCHS:
        return points
    kept = []
    for some in np.array_split(np.arange(len(points)), BINS_OF_EPOCHS):
        finite = [place for place in some if math.isfinite(points[place][1])]
        ends = [find(finite, key=lambda place: points[place][1]) for find in (min, max) if finite]
        gap = [place for place in some if place not in finite][:1]
        kept += [points[place] for place in sorted({*ends, *gap})]
    return kept


def _path(points: Points, scale: _Scale) -> str:
    drawn, parts = False, []
    for x, y in points:
        if math.isfinite(y):
            parts.append(f"{'L' if drawn else 'M'}{scale.x(x):.1f} {scale.y(y):.1f}")
        drawn = math.isfinite(y)
    return "".join(parts)


def _svg(
    title: str,
    content: str,
    *,
    size: tuple[float, float] = (WIDTH, HEIGHT),
    attributes: str = 'class="chart"',
) -> str:
    return (
        f'<svg {attributes} viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{text(title)}">'
        f"{content}</svg>"
    )
