import math
import re

import numpy as np
import pytest
import torch

from cifar_core.explain.calibration import reliabilities
from cifar_core.explain.metrics import confusion_matrix, metrics
from cifar_core.explain.predictions import Predictions
from cifar_core.report.confusion import class_bars, confusion_chart, reliability_chart
from tests.report.examples import NAMES, guesses
from tests.report.test_charts import EVIL, inside, parse

LABELS = np.random.default_rng(3).integers(0, 10, 500).tolist()


@pytest.mark.parametrize("num_classes", [1, 2, 10, 30])
def test_the_confusion_matrix_has_a_cell_for_every_count(num_classes: int):
    counts = np.random.default_rng(0).poisson(0.6, (num_classes, num_classes))
    svg = parse(confusion_chart("Confusion matrix", counts, [f"{EVIL} {i}" for i in range(num_classes)]))
    assert inside(svg)
    seen = np.zeros_like(counts)
    for cell in svg.findall("g[@class='cell']"):
        seen[int(cell.get("data-t")), int(cell.get("data-p"))] = int(cell.get("data-n"))
        kind = "hit" if cell.get("data-t") == cell.get("data-p") else "miss"
        assert cell.find("rect").get("class") == kind
    np.testing.assert_array_equal(seen, counts)


def test_many_classes_are_drawn_as_one_path_a_colour():
    counts = np.random.default_rng(0).poisson(0.6, (100, 100))
    svg = parse(confusion_chart("Confusion matrix", counts, ["name"] * 100))
    left, top, side = map(int, svg.get("data-box").split())
    opacity = np.zeros(counts.shape)
    for path in svg.findall("path"):
        for x, y in re.findall(r"M(\d+) (\d+)", path.get("d")):
            true, pred = (int(y) - top) // side, (int(x) - left) // side
            assert path.get("class") == ("hit" if true == pred else "miss")
            opacity[true, pred] = float(path.get("fill-opacity"))
    np.testing.assert_array_equal(opacity > 0, counts > 0)
    shares = counts / counts.sum(1, keepdims=True)
    np.testing.assert_allclose(opacity, np.sqrt(shares), atol=1 / 16)


def test_the_confusion_matrix_is_drawn_true_class_down_predicted_class_across():
    counts = np.array([[3, 1], [0, 4]])
    svg = parse(confusion_chart("Confusion matrix", counts, ["a", "b"]))
    places = {cell.find("text").text: cell.find("rect") for cell in svg.findall("g[@class='cell']")}
    assert float(places["1"].get("x")) > float(places["3"].get("x"))
    assert places["1"].get("y") == places["3"].get("y")
    assert float(places["4"].get("y")) > float(places["1"].get("y"))


def test_bars_of_the_classes_are_as_long_as_their_recall():
    predictions = Predictions.of(torch.tensor(LABELS), guesses(LABELS))
    rows = metrics(predictions, [*NAMES, EVIL])["per_class"]  # the last one has no pictures
    svg = parse(class_bars("Classes", rows, [*NAMES, EVIL]))
    assert inside(svg)
    bars = [float(bar.get("width")) for bar in svg.iter("rect") if bar.get("class") == "bar"]
    track = float(next(bar for bar in svg.iter("rect") if bar.get("class") == "track").get("width"))
    recalls = sorted(row["recall"] for row in rows[:-1])
    assert bars == pytest.approx([track * recall for recall in recalls], abs=0.06)
    assert svg.findall("text")[-1].text == "no pictures"


def test_bars_of_reliability_are_as_high_as_the_accuracy():
    predictions = Predictions.of(torch.tensor(LABELS), guesses(LABELS))
    before, after = reliabilities(predictions, 1.5)
    svg = parse(reliability_chart("Reliability", before, after))
    assert inside(svg)
    bars = [bar for bar in svg.iter("rect") if bar.get("class") == "bar"]
    known = before.counts > 0
    full = 260 - 34 - 40
    assert [float(bar.get("height")) / full for bar in bars] == pytest.approx(
        before.acc[known].tolist(), abs=0.001
    )
    assert len(svg.findall("circle")) == int((after.counts > 0).sum())


def test_charts_of_unknown_confidences_are_empty_but_there():
    predictions = Predictions.of(torch.tensor([0, 1]), torch.full((2, 3), math.nan))
    svg = parse(reliability_chart("Reliability", *reliabilities(predictions, None)))
    assert not [bar for bar in svg.iter("rect")]
    assert len(svg.findall("text")) > 5
    counts = confusion_matrix(predictions.labels, predictions.preds, 3).numpy()
    assert len(parse(confusion_chart("Confusion", counts, "abc")).findall("g")) == 2
