import io
import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from cifar_core.explain.calibration import reliabilities
from cifar_core.explain.metrics import metrics
from cifar_core.explain.predictions import Predictions
from cifar_core.report.plots import class_plot, confusion_plot, curves_plot, reliability_plot
from tests.report.examples import HISTORY, NAMES, guesses


def width(figure: Figure) -> int:
    """Draw the figure; its pixels across."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return int.from_bytes(file.getvalue()[16:20])


@pytest.mark.parametrize("num_classes", [1, 2, 10, 100])
def test_the_confusion_matrix_shows_every_count_where_it_belongs(num_classes: int):
    counts = np.random.default_rng(0).poisson(0.2, (num_classes, num_classes))
    counts[0] = 0  # a class without pictures
    names = [f"a rather long class name {i}" for i in range(num_classes)]
    figure = confusion_plot(counts, names, "title")
    axes = figure.axes[0]
    shown = np.zeros_like(counts)
    for text in axes.texts:
        predicted, true = text.get_position()
        shown[true, predicted] = int(text.get_text())
    np.testing.assert_array_equal(shown, counts)
    shares = np.asarray(axes.images[0].get_array())
    np.testing.assert_allclose(shares.sum(1), counts.any(1))
    assert all(len(label.get_text()) <= 22 for label in axes.get_yticklabels())
    assert 400 < width(figure) < 2600


def test_counts_are_readable_inside_their_cells():
    counts = np.diag([10_000] * 100)
    figure = confusion_plot(counts, [str(i) for i in range(100)], "title")
    width(figure)
    axes = figure.axes[0]
    cell = axes.get_window_extent().width / 100
    assert axes.texts[0].get_window_extent().width < cell


def test_classes_are_sorted_from_the_worst_and_those_without_pictures_come_last():
    # a: 9 of 10 right; b: no pictures, never predicted; c: 1 of 5 right, the others taken for a
    labels = torch.tensor([0] * 10 + [2] * 5)
    preds = torch.tensor([0] * 9 + [2, 2] + [0] * 4)
    rows = metrics(Predictions.of(labels, torch.eye(3)[preds]), "abc")["per_class"]
    figure = class_plot(rows, ["a", "b", "c"], 0.6, "title")
    width(figure)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["c", "a", "b"]
    shown = [text.get_text() for text in axes.texts]
    assert shown == ["20.0%", "F1 28.6%", "90.0%", "F1 78.3%", "no pictures", "-"]
    assert [bar.get_width() for bar in axes.patches] == [0.2, 0.9, 0]
    diamonds = next(line for line in axes.lines if line.get_marker() == "D")
    np.testing.assert_allclose(diamonds.get_xydata(), [(1 / 2, 0), (9 / 13, 1)])


def test_reliability_shows_the_bins_before_and_after():
    predictions = Predictions.of(torch.arange(200) % 10, guesses([i % 10 for i in range(200)]))
    before, after = reliabilities(predictions, 2.0)
    figure = reliability_plot(before, after, "title")
    width(figure)
    bars, counts = figure.axes
    heights = [bar.get_height() for bar in bars.patches]
    np.testing.assert_allclose(heights, before.acc.nan_to_num(0))
    np.testing.assert_array_equal([bar.get_height() for bar in counts.patches], before.counts)
    np.testing.assert_array_equal(bars.lines[1].get_ydata(), after.acc)
    assert len(reliability_plot(before, None, "title").axes[0].lines) == 1


def test_curves_follow_the_history_with_gaps():
    history = [
        *HISTORY,
        {"epoch": 3, "train/loss": math.nan, "val/loss": math.inf, "test/acc": 0.5, "lr": 0.01},
    ]
    figure = curves_plot(history)
    width(figure)
    loss, acc, lr = figure.axes
    lines = {line.get_label(): line for line in loss.lines}
    assert set(lines) == {"train", "val"}
    np.testing.assert_array_equal(lines["train"].get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(lines["train"].get_ydata(), [2.1, 1.7, np.nan])
    np.testing.assert_array_equal(lines["val"].get_ydata(), [2.0, 1.8, np.nan])
    assert [line.get_label() for line in acc.lines] == ["train", "val", "test"]
    np.testing.assert_array_equal(lr.lines[0].get_ydata(), [0.1, 0.05, 0.01])


def test_no_history_gives_empty_axes():
    figure = curves_plot([])
    width(figure)
    assert [len(axes.lines) for axes in figure.axes] == [0, 0, 0]


def test_dollar_signs_in_names_are_no_formula():
    figure = confusion_plot(np.eye(10, dtype=int), ["$x_{", *NAMES[1:]], "title")
    assert width(figure) > 0
    assert figure.axes[0].get_yticklabels()[0].get_text() == "$x_{"
