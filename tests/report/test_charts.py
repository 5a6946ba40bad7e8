"""Lines over epochs: what is drawn, of what there is too much, and what it tells those who see nothing."""

import math
import random
import re
import xml.etree.ElementTree as ET
from itertools import accumulate

import numpy as np
import pytest

from cifar_core.report.charts import COLOURED, LINES, Line, curves, line_chart
from cifar_core.report.keys import Axis, bars, parallel, slices

EVIL = '<script>"&'


def parse(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def inside(tree: ET.Element) -> bool:
    """Whether every rectangle, circle and text of each picture lies in its view box."""
    for svg in tree.iter("svg"):
        _, _, width, height = map(float, svg.get("viewBox").split())
        for shape in svg.iter():
            x = float(shape.get("x", shape.get("cx", 0)))
            y = float(shape.get("y", shape.get("cy", 0)))
            right, low = x + float(shape.get("width", 0)), y + float(shape.get("height", 0))
            if min(x, y) < 0 or right > width or low > height:
                return False
    return True


def chart(figure: str) -> ET.Element:
    """The picture of a figure, without those of its legend."""
    return next(svg for svg in parse(figure).iter("svg") if svg.get("role") == "img")


def values(figure: str, name: str) -> list[list[tuple[float, float]]]:
    """The points of a line by the numbers of its path, which is split where it has gaps."""
    svg = chart(figure)
    (x0, dx), (y0, dy) = (map(float, svg.get(f"data-{axis}").split()) for axis in "xy")
    line = next(group for group in svg.findall("g") if group.findtext("title") == name).find("path").get("d")
    parts = []
    for part in line.split("M")[1:]:
        steps = np.array(re.findall(r"-?\d+", part), float).reshape(-1, 2)
        parts.append([(x0 + dx * x, y0 + dy * y) for x, y in accumulate(steps, np.add)][1:])
    return parts


def test_a_line_goes_through_its_points_and_leaves_gaps():
    points = [(1, 0.0), (2, 1.0), (3, math.nan), (4, 0.5), (5, math.inf), (6, 0.25)]
    figure = line_chart("Loss", {"train": points, EVIL: [(1, 0.3), (6, 0.4)]})
    assert inside(parse(figure))
    assert values(figure, "train") == [[(1, 0.0), (2, 1.0)], [(4, 0.5)], [(6, 0.25)]]
    names = ["".join(row.itertext()) for row in parse(figure).iter("li")]
    assert names == ["train", EVIL]


@pytest.mark.parametrize("epochs", [1, 2, 3, 200])
def test_ticks_of_epochs_are_whole(epochs: int):
    svg = chart(line_chart("Loss", {"train": [(epoch, 1 / epoch) for epoch in range(1, epochs + 1)]}))
    ticks = [node.text for node in svg.findall("text") if node.get("class") == "middle"]
    assert min(epochs, 2) <= len(ticks) < 9
    assert all(text.isdecimal() for text in ticks)


def test_values_that_rounding_alone_makes_differ_have_the_ticks_of_one():
    figure = curves("val/acc", [Line("a", "a", [(1, 1 / 3), (2, math.nextafter(1 / 3, 1))])])
    ticks = [node.text for node in chart(figure).findall("text") if node.get("class") == "end"]
    assert 3 < len(ticks) == len(set(ticks))


def test_the_numbers_of_a_line_are_drawn_at_the_places_of_its_dots():
    figure = line_chart("Loss", {"train": [(1, 0.2), (3, 0.9), (9, 0.4)]})
    path = chart(figure).find("g/path")
    numbers = re.findall(r"\(([^)]*)", path.get("transform"))
    corner, slope = (np.array(pair.split(), float) for pair in numbers)
    steps = np.cumsum(np.array(re.findall(r"-?\d+", path.get("d")), float).reshape(-1, 2), axis=0)[1:]
    dots = [(float(dot.get("cx")), float(dot.get("cy"))) for dot in chart(figure).iter("circle")]
    np.testing.assert_allclose(corner + slope * steps, dots, atol=0.1)


@pytest.mark.parametrize(
    "points", [[], [(1, math.nan)], [(1, 5.0)], [(1, 0.0), (2, 0.0)], [(1, 1e-9), (2, 3e12)], [(1, -2.0)]]
)
def test_any_history_can_be_drawn(points: list):
    figure = line_chart("Loss", {"train": points}, mark=1)
    assert inside(parse(figure))
    if known := [point for point in points if math.isfinite(point[1])]:
        room = max(abs(value) for _, value in known)
        np.testing.assert_allclose(values(figure, "train")[0], known, rtol=1e-3, atol=1e-3 * room + 1e-9)


def test_pruned_and_failed_lines_end_in_marks_that_the_legend_explains():
    points = [(1, 0.1), (2, 0.4)]
    few = curves("val/acc", [Line("a", "one", points), Line("b", "two", points, "pruned")])
    assert ["".join(row.itertext()) for row in parse(few).iter("li")] == ["one", "two (pruned)"]
    lines = [Line(str(k), f"line {k}", points, kind) for k, kind in enumerate(["", "pruned", "failed"] * 3)]
    many = curves("val/acc", [*lines, Line("x", EVIL, points, "best")])
    legend = {"".join(row.itertext()): row for row in parse(many).iter("li")}
    assert list(legend) == [f"best: {EVIL}", "other (3)", "pruned (3)", "failed (3)"]
    shapes = {}
    for group in chart(many).findall("g"):
        marks = [path.get("d").partition("m")[2] for path in group.findall("path[@class='end-mark']")]
        shapes.setdefault(group.get("class"), set()).update(marks)
    assert shapes["best"] == shapes[""] == set()
    assert len(shapes["pruned"] | shapes["failed"]) == 2
    assert chart(many).findall("g")[-1].get("class") == "best"  # on top
    told = chart(many).get("aria-label")
    assert told == f"val/acc of 10 lines (1 best, 3 pruned, 3 failed) up to epoch 2: {EVIL} ends at 40\u00a0%"


def test_a_failed_line_does_not_squeeze_the_others():
    fine = [Line(str(k), str(k), [(1, 2.0), (2, 1.0 + k)]) for k in range(2)]
    figure = curves("train/loss", [*fine, Line("bad", "bad", [(1, 2.3), (2, 1e30)], "failed")])
    assert values(figure, "bad") == [[(1, 2.3)]]
    assert max(value for _, value in values(figure, "0")[0]) == 2


def test_of_too_many_lines_the_highest_and_the_lowest_are_drawn_and_the_best_always():
    lines = [Line(str(k), str(k), [(1, 0.5), (2, k / 1000)]) for k in range(500)]
    lines[250] = Line("250", "250", lines[250].points, "best")
    lines.append(Line("none", "none", [(1, math.nan)]))
    random.Random(0).shuffle(lines)
    figure = curves("val/acc", lines)
    drawn = sorted(int(group.findtext("title")) for group in chart(figure).findall("g"))
    half = LINES // 2
    assert drawn == [*range(half), 250, *range(500 - half, 500)]
    note = parse(figure).findtext("p")
    assert note.startswith(f"{LINES + 1} of 500 lines are drawn")
    assert note.endswith("1 of 501 have no value that can be drawn.")


def test_colours_are_for_few_lines():
    for count in (COLOURED, COLOURED + 1):
        svg = chart(curves("val/acc", [Line(str(k), str(k), [(1, k)]) for k in range(count)]))
        styles = {group.get("class") for group in svg.findall("g")}
        assert styles == ({f"s{k}" for k in range(COLOURED)} if count == COLOURED else {""})


def test_all_charts_of_two_hundred_trials_of_two_hundred_epochs_are_under_900_kb():
    noise = random.Random(0)
    lines = [
        Line(f"trial-{k:03}", f"resnet18 lr=0.{k:03} s0", [(e, noise.random()) for e in range(1, 201)])
        for k in range(200)
    ]
    axes = [Axis(f"optimizer.key_{k}", [noise.random() for _ in lines]) for k in range(4)]
    result, ids = Axis("val/acc", [noise.random() for _ in lines]), [line.id for line in lines]
    charts = [curves("val/acc", lines), curves("train/loss", lines), slices(axes, result, ids)]
    charts += [parallel("all", axes, result, ids), bars("importance", {axis.name: 0.25 for axis in axes})]
    assert sum(map(len, charts)) < 900_000
    assert sum(map(len, values(charts[0], lines[0].name))) == 200  # none is left out
