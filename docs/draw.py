"""Draws docs/architecture.svg from the imports in the code, in the rooms that docs/architecture.md lists."""

import ast
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from graphlib import TopologicalSorter
from html import escape
from itertools import combinations
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple

DOCS = Path(__file__).resolve().parent
PACKAGES = ("experiments", "cifar_core")  # a band of the picture each, the upper one first
UNDRAWN = "experiments/sweep/warm.py"  # imports all of the project, so that trials can be forked from it
WIDTH, BOX, GAP, LINE, EDGE = 900, 232, 58, 15, 36  # picture, room, between layers, line of text, margin
SPACE = WIDTH - 2 * EDGE - BOX  # that a room can be moved by
STYLE = """
svg { --ground: #fff; --band: #f3f5f8; --box: #fff; --ink: #1f2328; --dim: #59636e; --line: #7b8a9c }
@media (prefers-color-scheme: dark) { svg { --ground: #0d1117; --band: #161b22; --box: #21262d;
  --ink: #f0f6fc; --dim: #a9b3be; --line: #8593a5 } }
text { font: 12px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: var(--dim); text-anchor: middle }
.name { font-weight: 600; font-size: 15px; fill: var(--ink) } .count { font-weight: 600; fill: var(--ink) }
.left { text-anchor: start }
.ground { fill: var(--ground) } .band { fill: var(--band) } .box { fill: var(--box); stroke: var(--line) }
.line { stroke: var(--line); stroke-width: 1.4; marker-end: url(#head) } .head { fill: var(--line) }
"""
HEAD = """<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto"
 markerUnits="userSpaceOnUse"><path class="head" d="M0 0L8 4L0 8z"/></marker>"""


class Room(NamedTuple):
    """A row of the table in architecture.md."""

    package: str  # whose band it is in
    paths: list[str]
    question: str
    below: set[str]  # the rooms of its band, but the last, that it may import


class Box(NamedTuple):
    """Where a room is drawn."""

    x: float
    y: float
    high: float
    wide: float = BOX


Line = tuple[float, float, float, float]
Arrows = dict[tuple[str, str], int]  # (room, imported room): how many modules, counted for each importing one


@cache
def rooms() -> dict[str, Room]:
    """Return the rooms by name, in the order of the table: the last of a band is imported by all others."""
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \*\*(.+?)\*\* \| (.+?) \| (.+?) \| (.+?) \|$", page, re.MULTILINE)
    paths = {name: re.findall("`(.+?)`", cell) for name, cell, _, _ in rows}
    return {
        name: Room(
            PACKAGES[paths[name][0].startswith(PACKAGES[1])],
            paths[name],
            question.replace("`", ""),
            set(re.findall("`(.+?)`", below)),
        )
        for name, _, question, below in rows
    }


@cache
def arrows() -> Arrows:
    """Return which room imports which, imports within functions included."""
    files = [file for top in (*PACKAGES, "hydra_plugins") for file in (DOCS.parent / top).rglob("*.py")]
    paths = {file.relative_to(DOCS.parent).as_posix(): file for file in sorted(files)}
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", "."): path for path in paths}
    counts: Counter[tuple[str, str]] = Counter()
    for path, file in paths.items():
        names = set(_imports(file)) if path != UNDRAWN else set()
        taken = {next((m for m in (name, name.rpartition(".")[0]) if m in modules), "") for name in names}
        counts.update((_room(path), _room(modules[module])) for module in taken - {""})
    return {(a, b): count for (a, b), count in sorted(counts.items()) if a != b}


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _room(path: str) -> str:
    """Return the room of a file: that of the longest pattern that fits."""
    fits = [(len(p), name) for name, room in rooms().items() for p in room.paths if fnmatch(path, p)]
    if not fits:
        raise ValueError(f"{path} is in no room of docs/architecture.md")
    return max(fits)[1]


def layers(names: list[str], drawn: Arrows) -> list[list[str]]:
    """Return the rooms in layers, the lowest last; raise CycleError where they import each other."""
    below = {name: [b for a, b in drawn if a == name] for name in names}
    level: dict[str, int] = {}
    for name in TopologicalSorter(below).static_order():
        level[name] = max((level[other] + 1 for other in below[name]), default=0)
    return [[name for name in names if level[name] == n] for n in range(max(level.values()), -1, -1)]


def _direct(drawn: Arrows) -> Arrows:
    """Leave out the arrows that a way over other rooms implies."""
    reach: dict[str, set[str]] = defaultdict(set)
    for name in TopologicalSorter({a: [b for x, b in drawn if x == a] for a, _ in drawn}).static_order():
        for a, b in drawn:
            reach[name] |= {b} | reach[b] if a == name else set()
    return {
        (a, b): n for (a, b), n in drawn.items() if not any(b in reach[c] for x, c in drawn if x == a != c)
    }


def _lines(boxes: dict[str, Box], drawn: Arrows) -> dict[tuple[str, str], Line]:
    """Return a straight line for each arrow, those at one side of a box spread in the order they come."""
    ends: dict[tuple[str, int], list[tuple[float, tuple[str, str]]]] = defaultdict(list)
    for pair in drawn:
        for end in (0, 1):
            box, other = boxes[pair[end]], boxes[pair[1 - end]]
            ends[pair[end], end].append(((other.x - box.x) / abs(other.y - box.y), pair))
    at = {
        (pair, end): boxes[name].x + BOX * number / (len(pairs) + 1)
        for (name, end), pairs in ends.items()
        for number, (_, pair) in enumerate(sorted(pairs), 1)
    }
    return {(a, b): (at[(a, b), 0], boxes[a].y + boxes[a].high, at[(a, b), 1], boxes[b].y) for a, b in drawn}


def _x(line: Line, y: float) -> float:
    return line[0] + (line[2] - line[0]) * (y - line[1]) / (line[3] - line[1])


def _cost(boxes: dict[str, Box], drawn: Arrows) -> float:
    """Tell how bad a placing is: boxes that touch, lines through boxes, crossings, length."""
    close = [BOX + 20 - abs(a.x - b.x) for a, b in combinations(boxes.values(), 2) if a.y == b.y]
    cost = 20 * sum(max(0, each) for each in close)
    lines = list(_lines(boxes, drawn).values())
    for line in lines:
        cost += abs(line[0] - line[2]) / 20
        for box in boxes.values():
            if line[1] < box.y and box.y + box.high < line[3]:  # it lies between the line's ends
                sides = sorted((_x(line, box.y), _x(line, box.y + box.high)))
                cost += 300 * (sides[0] < box.x + BOX + 12 and sides[1] > box.x - 12)
    for one, other in combinations(lines, 2):
        high, low = max(one[1], other[1]), min(one[3], other[3])
        cost += 12 * (high < low and (_x(one, high) - _x(other, high)) * (_x(one, low) - _x(other, low)) < 0)
    return cost


def _place(boxes: dict[str, Box], drawn: Arrows) -> dict[str, Box]:
    """Move boxes along their layers until no move makes the picture better; the same each time."""
    chance, best = random.Random(0), boxes
    for _ in range(16):
        now = {name: box._replace(x=EDGE + chance.random() * SPACE) for name, box in boxes.items()}
        for _ in range(250):
            name = chance.choice(list(boxes))
            moved = now | {name: now[name]._replace(x=EDGE + chance.randint(0, 24) * SPACE / 24)}
            now = min(moved, now, key=lambda each: _cost(each, drawn))
        best = min(best, now, key=lambda each: _cost(each, drawn))
    return best


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{x:.0f}" y="{y:.0f}">{escape(text)}</text>'


def _framed(box: Box, name: str, lines: list[str]) -> str:
    x = box.x + box.wide / 2
    return (
        f'<rect class="box" x="{box.x:.0f}" y="{box.y:.0f}" width="{box.wide}" height="{box.high}" rx="6"/>'
        + _text("name", x, box.y + 21, name)
        + "".join(_text("", x, box.y + 24 + LINE * n, line) for n, line in enumerate(lines, 1))
    )


def _arrow(line: Line, count: int) -> str:
    a, b, c, d = line
    y, wide = b + GAP / 2, 8 * len(str(count)) + 6
    x = _x(line, y)
    return (
        f'<line class="line" x1="{a:.0f}" y1="{b:.0f}" x2="{c:.0f}" y2="{d - 2:.0f}"/>'
        f'<rect class="band" x="{x - wide / 2:.0f}" y="{y - 8:.0f}" width="{wide}" height="16"/>'
        + _text("count", x, y + 4, str(count))
    )


def _band(package: str, top: float) -> tuple[list[str], float]:
    """Draw one package, its last room as a bar under all others; return the pieces and where it ends."""
    *names, base = [name for name, room in rooms().items() if room.package == package]
    within = {pair: count for pair, count in arrows().items() if set(pair) <= set(names)}
    drawn = _direct(within)
    lines: dict[str, list[str]] = {}
    for name in names:
        rest = [(n, b) for (a, b), n in arrows().items() if a == name and (a, b) not in drawn]
        more = ", ".join(f"{b}\u00a0{n}" for n, b in sorted(rest, reverse=True) if "," not in b)
        lines[name] = wrap(rooms()[name].question, 34) + wrap(f"also imports {more}" if more else "", 36)
    boxes: dict[str, Box] = {}
    y = top + 44
    for layer in layers(names, within):
        high = 36 + LINE * max(len(lines[name]) for name in layer)
        boxes |= {name: Box(EDGE + (BOX + 20) * place, y, high) for place, name in enumerate(layer)}
        y += high + GAP
    boxes = _place(boxes, drawn)
    users = sorted(((n, a) for (a, b), n in arrows().items() if b == base), reverse=True)
    texts = [rooms()[base].question, "imported by " + "; ".join(f"{a} {n}" for n, a in users)]
    bar = Box(EDGE, y - GAP / 2, 36 + LINE * len(texts), WIDTH - 2 * EDGE)
    end = bar.y + bar.high + 20
    return [
        f'<rect class="band" x="12" y="{top:.0f}" width="{WIDTH - 24}" height="{end - top:.0f}" rx="10"/>',
        _text("name left", EDGE, top + 26, f"{package}/"),
        *(_arrow(line, drawn[pair]) for pair, line in _lines(boxes, drawn).items()),
        *(_framed(boxes[name], name, lines[name]) for name in names),
        _framed(bar, base, texts),
    ], end


def svg() -> str:
    """Return the picture."""
    upper, y = _band(PACKAGES[0], 12)
    lower, end = _band(PACKAGES[1], y + 56)
    end += 12
    size, middle = f'width="{WIDTH}" height="{end:.0f}"', WIDTH // 2
    across = sum(n for (a, b), n in arrows().items() if rooms()[a].package != rooms()[b].package)
    pieces = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {end:.0f}" {size} role="img">',
        f"<title>Which room imports which</title><style>{STYLE}</style>{HEAD}",
        f'<rect class="ground" {size} rx="10"/>',
        *upper,
        f'<line class="line" x1="{middle}" y1="{y:.0f}" x2="{middle}" y2="{y + 54:.0f}"/>',
        _text("left", middle + 14, y + 32, f"{across} imports, by room above"),
        *lower,
    ]
    return "\n".join([*pieces, "</svg>", ""])


if __name__ == "__main__":
    (DOCS / "architecture.svg").write_text(svg(), encoding="utf-8")
