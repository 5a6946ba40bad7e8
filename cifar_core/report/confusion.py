"""How a run tells classes apart, as inline SVG: confusions, recall, confidence."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from cifar_core.explain.calibration import BINS, Reliability
from cifar_core.report.frame import LEFT, RIGHT, WIDTH, Frame, polyline, svg
from cifar_core.report.markup import cut, percent, text

NAMED_CLASSES = 30  # up to here the confusion matrix has room for names
WIDEST = 2400  # of the confusion matrix, unless it has more classes
COUNTED_CLASSES = 16  # up to here its cells have room for counts
CELLS = 10_000  # of the confusion matrix that are drawn at most
BARRED_CLASSES = 100  # classes that have a bar, those of the lowest recall


def reliability_chart(title: str, before: Reliability, after: Reliability | None) -> Markup:
    """Draw accuracy over confidence as bars, after scaling as a line, and how many pictures each bin has."""
    frame = Frame([0, 1], [0, 1])
    parts = [
        frame.axes("confidence", "accuracy"),
        f'<path class="mark" d="M{frame.x(0)} {frame.y(0)}L{frame.x(1)} {frame.y(1)}"/>',
    ]
    wide = (WIDTH - LEFT - RIGHT) / BINS
    largest = max(1, int(before.counts.max()))
    for place, (count, acc) in enumerate(zip(before.counts.tolist(), before.acc.tolist(), strict=True)):
        if not count:
            continue
        x, y = frame.x(place / BINS), frame.y(acc)
        thick = max(1.0, 9 * count / largest)
        across = f'x="{x + 1:.1f}" width="{wide - 2:.1f}"'
        tip = f"confidence {place / BINS:.2f} to {(place + 1) / BINS:.2f}"
        parts.append(
            f"<g><title>{tip}: {count:,} pictures, {percent(acc)} right</title>"
            f'<rect class="bar" {across} y="{y:.1f}" height="{frame.y(0) - y:.1f}"/>'
            f'<rect class="count" {across} y="{frame.y(0) - thick:.1f}" height="{thick:.1f}"/></g>'
        )
    if after is not None:
        points = [
            point
            for point in zip(after.confidence.tolist(), after.acc.tolist(), strict=True)
            if math.isfinite(point[0])
        ]
        parts.append(f'<path class="line s1" d="{polyline(points, frame.x, frame.y)}"/>')
        parts += [
            f'<circle class="s1" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3"/>' for x, y in points
        ]
    return svg(title, "".join(parts))


def class_bars(title: str, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Markup:
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
    return svg(title, "".join(parts), size=(WIDTH + 60, line * len(order) + 8))


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


def confusion_chart(title: str, counts: np.ndarray, names: Sequence[str]) -> Markup:
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
    return svg(title, "".join(parts), size=(left + side + 4, top + side + 4), attributes=attributes)


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
