"""Slices, parallel axes and importances: where values stand, what is said, what is bounded."""

import itertools
import json
import math
import random
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from cifar_core.report.keys import CHOICES, LEVELS, RUNS, Axis, bars, parallel, slices
from tests.report.test_charts import EVIL, chart, inside, parse

NOISE = random.Random(0)
ACCS = [NOISE.random() for _ in range(40)]
IDS = [f"run {k}" for k in range(40)]


def places(brush: ET.Element) -> list[float]:
    return [math.nan if one == "-" else float(one) for one in brush.get("data-places").split()]


def brush(values: list, name: str = "optimizer.lr") -> ET.Element:
    """What the script gets to know of the axis of these values."""
    results = Axis("val/acc", ACCS[: len(values)])
    return chart(parallel("all", [Axis(name, values)], results, IDS[: len(values)])).find("g[@class='brush']")


def test_points_of_a_slice_stand_at_their_key_and_their_result():
    rates = [10 ** NOISE.uniform(-5, 0) for _ in IDS]
    svg = chart(slices([Axis("optimizer.lr", rates)], Axis("val/acc", ACCS), IDS))
    dots = svg.findall(".//circle")
    assert [dot.get("data-id") for dot in dots] == IDS
    for name, values in (("cx", np.log(rates)), ("cy", np.array(ACCS))):
        drawn = np.array([float(dot.get(name)) for dot in dots])
        assert abs(np.corrcoef(drawn, values)[0, 1]) == pytest.approx(1, abs=1e-5)
    assert float(dots[ACCS.index(max(ACCS))].get("cy")) == min(float(dot.get("cy")) for dot in dots)
    best = max(range(40), key=lambda k: ACCS[k])
    told = f"val/acc {100 * ACCS[best]:.4g}\u00a0%: optimizer.lr = {rates[best]:.4g}"
    assert svg.get("aria-label").endswith(told.replace("e-0", "e-"))
    words = [text.text for text in svg.iter("text")]
    assert {"val/acc", "optimizer.lr", "0.1", "0.001", "20\u00a0%"} <= set(words)


@pytest.mark.parametrize(
    ("values", "log"), [([0.1, 0.2, 1.9], False), ([0.1, 0.2, 2.0], True), ([0.0, 0.2, 9.0], False)]
)
def test_an_axis_is_logarithmic_where_values_are_positive_and_far_apart(values: list, log: bool):
    axis = brush(values)
    assert ("data-log" in axis.attrib) == log
    low, middle, high = np.log(values) if log else values
    assert places(axis) == pytest.approx([0, (middle - low) / (high - low), 1], abs=1e-3)


def test_choices_have_rooms_of_their_own_in_the_order_given_and_points_spread_in_them():
    names = ["none", EVIL, "cutout"]
    values = [names[0], *NOISE.choices(names, k=39)]
    axis = brush(values, "aug")
    order = list(dict.fromkeys(values))
    assert json.loads(axis.get("data-choices")) == order
    for name, group in itertools.groupby(sorted(zip(values, places(axis), strict=True))):
        assert order.index(name[0]) / 3 < min(p for _, p in group) < (order.index(name[0]) + 1) / 3
    assert len(set(places(axis))) == 40
    assert places(brush(values, "aug")) == places(axis)
    assert json.loads(brush([0.9, 0.0] * 20).get("data-choices")) == ["0", "0.9"]  # numbers, but few


def test_the_mean_of_a_choice_is_a_stroke_at_its_height():
    values = NOISE.choices(["a", "b"], k=40)
    svg = chart(slices([Axis("aug", values)], Axis("val/acc", ACCS), IDS))
    heights = np.array([float(dot.get("cy")) for dot in svg.findall(".//circle")])
    strokes = [path.get("d") for path in svg.findall(".//path[@class='mean']")]
    drawn = [float(stroke.split()[1].split("H")[0]) for stroke in strokes]
    expected = [heights[[value == name for value in values]].mean() for name in dict.fromkeys(values)]
    assert drawn == pytest.approx(expected, abs=0.1)


def test_a_run_without_a_key_or_a_result_leaves_a_gap():
    results = [0.5, None, 0.7, math.nan, 0.9]
    axes = [
        Axis("a", [1.0, 2.0, None, 4.0, 50.0]),
        Axis("b", ["x", "y", "x", "y", None]),
        Axis("c", [1.0] * 5),
    ]
    picture = parallel("all", axes, Axis("val/acc", results), IDS[:5])
    svg = chart(picture)
    assert json.loads(svg.get("data-ids")) == ["run 0", "run 2", "run 4"]
    assert [math.isnan(p) for p in places(svg.find("g[@class='brush']"))] == [False, True, False]
    lines = {group.get("data-id"): group.find("path").get("d") for group in svg.findall("g[@data-id]")}
    assert {name: (path.count("M"), path.count("L")) for name, path in lines.items()} == {
        "run 0": (1, 3),
        "run 2": (1, 2),
        "run 4": (2, 1),
    }
    shown = parse(slices(axes, Axis("val/acc", results), IDS[:5]))
    assert [len(one.findall(".//circle")) for one in shown.iter("svg")] == [2, 2, 3]


def test_the_best_line_is_on_top_and_colours_grow_with_the_result():
    svg = chart(parallel("all", [Axis("a", ACCS)], Axis("val/acc", ACCS), IDS))
    groups = svg.findall("g[@data-id]")
    assert [group.get("data-id") for group in groups] == [IDS[k] for k in np.argsort(ACCS)]
    levels = [int(group.find("path").get("class").removeprefix("line r")) for group in groups]
    assert levels == sorted(levels)
    assert set(levels) == set(range(LEVELS))
    assert [axis.get("data-key") for axis in svg.findall("g[@class='brush']")] == ["a", "val/acc"]


@pytest.mark.parametrize(
    "values", [[0.5] * 6, [None] * 6, [EVIL] * 6, [math.inf, -1e300, 0, 1e300, 1, None], [True] * 6]
)
def test_any_values_can_be_drawn(values: list):
    for results in ([0.5] * 6, ACCS[:6], [None] * 6):
        axes, result = [Axis(EVIL, values)], Axis("val/acc", results)
        assert inside(parse(parallel(EVIL, axes, result, [EVIL] * 6)))
        if any(results):
            assert inside(parse(slices(axes, result, [EVIL] * 6)))


def test_thousands_of_runs_and_choices_stay_bounded():
    count = 3_000
    results = [NOISE.random() for _ in range(count)]
    axes = [Axis("aug", [f"choice {k % 1000} {'x' * 500}" for k in range(count)])]
    ids = [str(k) for k in range(count)]
    order = [ids[k] for k in np.argsort(results)]
    for picture in (
        slices(axes, Axis("val/acc", results), ids),
        parallel("all", axes, Axis("val/acc", results), ids),
    ):
        assert len(picture) < 300_000
        assert f"{RUNS} of 3,000 are drawn: the best and the worst." in picture
        drawn = json.loads(chart(picture).get("data-ids"))
        assert set(drawn) == {*order[: RUNS // 2], *order[-RUNS // 2 :]}
        labels = [text.text for text in chart(picture).iter("text") if (text.text or "").startswith("choice")]
        assert 1 < len(labels) <= CHOICES


def test_bars_are_as_long_as_their_shares_and_the_largest_is_on_top():
    shares = {"optimizer.lr": 0.2, EVIL: 0.7, "aug": 0.1, "none": 0.0}
    svg = chart(bars("Importance", shares))
    widths = [float(bar.get("width")) for bar in svg.iter("rect")]
    assert np.array(widths) / widths[0] == pytest.approx([1, 2 / 7, 1 / 7, 0], abs=1e-3)
    assert (
        svg.get("aria-label")
        == f"Importance: {EVIL} 70\u00a0%, optimizer.lr 20\u00a0%, aug 10\u00a0%, none 0\u00a0%"
    )
    assert bars("Importance", {})
