"""What is drawn and embedded is bounded, whatever there is to show."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cifar_core.report.charts import BINS_OF_EPOCHS, line_chart
from cifar_core.report.confusion import CELLS, class_bars, confusion_chart, drawn_cells
from cifar_core.report.embed import SPRITE_BYTES, sprite, thumbnail
from cifar_core.report.gallery import FILE
from cifar_core.report.plots import class_plot, confusion_plot, curves_plot
from cifar_core.report.settings import AnalysisSettings
from tests.conftest import PROJECT
from tests.report.examples import pictures, run
from tests.report.test_charts import inside, parse
from tests.report.test_charts import values as drawn
from tests.report.test_page import embedded, report
from tests.report.test_plots import width

PAGE = 3_000_000  # bytes of report.html
PIXELS = 10_000_000  # of a plot
EVIL = '<script>alert("\u202e😀\U0010ffff")</script>&'


def noisy(num_classes: int, count: int) -> tuple[list[int], torch.Tensor]:
    labels = np.random.default_rng(0).integers(0, num_classes, count).tolist()
    return labels, torch.randn(count, num_classes, generator=torch.Generator().manual_seed(0))


def test_the_confusion_plot_stops_to_grow_at_a_hundred_classes():
    assert width(confusion_plot(np.eye(400, dtype=int), [f"class {i}" for i in range(400)], "t")) < 2600


def test_the_confusion_plot_of_many_classes_keeps_every_cell_and_names_some():
    counts = np.diag([7] * 2500)
    counts[3, 2401] = 1
    figure = confusion_plot(counts, [str(i) for i in range(2500)], "t")
    axes = figure.axes[0]
    shares = np.asarray(axes.images[0].get_array())
    assert shares.shape == (834, 834)
    assert list(np.argwhere(shares - np.diag(shares.diagonal()))[0]) == [3 // 3, 2401 // 3]
    assert (shares.diagonal() > 0.8).all()
    assert [label.get_text() for label in axes.get_yticklabels()][:3] == ["0", "25", "50"]
    assert not axes.texts


def test_beyond_a_hundred_classes_the_hardest_are_drawn():
    rows = [
        {
            "name": str(k),
            "recall": k / 400,
            "recall_interval": [0, 1],
            "precision": 0.5,
            "f1": 0.5,
            "support": 9,
        }
        for k in reversed(range(400))
    ]
    names = [row["name"] for row in rows]
    figure = class_plot(rows, names, 0.5, "t")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [str(k) for k in range(100)]
    assert "The 100 hardest of 400 classes" in figure.axes[0].get_title()
    svg = parse(class_bars("Classes", rows, names))
    assert inside(svg)
    assert [text.text for text in svg.iterfind(".//text[@class='end']")] == [str(k) for k in range(100)]


def test_of_very_many_confusions_the_frequent_ones_are_drawn():
    counts = np.ones((400, 400), dtype=int)
    counts[:, 7] = 9
    cells = drawn_cells(counts)
    assert len(cells) == CELLS
    assert {(k, k) for k in range(400)} | {(k, 7) for k in range(400)} <= set(map(tuple, cells.tolist()))
    assert len(confusion_chart("Confusion matrix", counts, ["name"] * 400)) < 300_000
    np.testing.assert_array_equal(drawn_cells(np.eye(3)), [[0, 0], [1, 1], [2, 2]])


@pytest.mark.parametrize("num_classes", [31, 400, 1500])
def test_the_confusion_chart_has_a_bounded_side(num_classes: int):
    svg = parse(confusion_chart("Confusion matrix", np.eye(num_classes, dtype=int), ["x"] * num_classes))
    assert max(map(float, svg.get("viewBox").split())) < 2500


def test_a_line_of_ten_thousand_epochs_keeps_its_peaks_and_gaps():
    values = np.sin(np.arange(10_000) / 900)
    values[[1234, 8765]] = 5, -5
    values[5000:6000] = np.nan
    svg = line_chart("Loss", {"train": list(enumerate(values, 1))})
    parts = drawn(svg, "train")
    points = [point for part in parts for point in part]
    assert len(points) <= 2 * BINS_OF_EPOCHS
    assert sorted(point for point in points if abs(point[1]) == 5) == [(1235, 5), (8766, -5)]
    assert 1 < len(parts) < 5
    assert len(svg) < 10_000
    history = [{"epoch": k, "train/loss": v, "lr": 0.1} for k, v in enumerate(values, 1)]
    assert width(curves_plot(history)) < 1400


def test_a_sprite_of_many_pictures_is_shrunk_until_it_fits():
    noise = torch.randint(256, (1, 3, 64, 64), dtype=torch.uint8).expand(5000, 3, 64, 64)
    sheet = sprite(noise)
    assert len(sheet.uri) < SPRITE_BYTES * 4 / 3 + 100
    assert sheet.width < 64


def test_a_sheet_is_bounded_by_a_law():
    with pytest.raises(ValueError, match="^analysis.sheet_size must be from 1 to 500, got 501$"):
        AnalysisSettings(sheet_size=501)
    with pytest.raises(ValueError, match="^analysis.watch must be from 0 to 100, got -1$"):
        AnalysisSettings(watch=-1)


@pytest.mark.slow
def test_four_hundred_classes_with_evil_names_are_shown_in_bounded_files(tmp_path: Path):
    labels, logits = noisy(400, 12_000)
    data = pictures(labels, size=8, classes=[f"{i} {EVIL} {'x' * 300}" for i in range(400)], names=True)
    data.test.__dict__["names"] = tuple(f"{'dir/' * 60}{EVIL} {i}.png" for i in range(len(labels)))
    history = [
        {"epoch": k, "train/loss": 1 / k, "train/acc": 0.5, "val/acc": 0.1, "lr": 0.1}
        for k in range(1, 2_001)
    ]
    facts = {"environment": {"classes": list(data.classes)}, "config": {"a": {"b": "y" * 100_000}}}
    run(data, logits, tmp_path, level="full", history=history, facts=facts, sheet_size=4)
    page = report(tmp_path)
    assert (tmp_path / "report.html").stat().st_size < PAGE
    assert page.count("<script") == 3
    assert "\u202e" not in page
    cards = embedded(page)
    assert len(cards["cells"]) == CELLS
    assert all(len(name) <= 80 for name in cards["classes"])
    assert all(name.endswith(".png") and len(name) < FILE + 40 for name in cards["pictures"]["file"])
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as picture:
            assert picture.width * picture.height < PIXELS, path.name


@pytest.mark.parametrize(("size", "layer"), [(8, ""), (224, "stem")])
@pytest.mark.parametrize("case", ["right", "wrong", "one picture"])
def test_pictures_of_any_size_and_any_luck_are_shown_in_bounded_files(
    tmp_path: Path, size: int, layer: str, case: str
):
    labels = [1] if case == "one picture" else [0, 1] * 8
    right = torch.nn.functional.one_hot(torch.tensor(labels), 2) * 4.0
    logits = -right if case == "wrong" else right
    run(pictures(labels, classes=("a", "b"), size=size), logits, tmp_path, layer=layer)
    assert (tmp_path / "report.html").stat().st_size < PAGE
    data = embedded(report(tmp_path))
    assert len(data["pictures"]["index"]) == (16 if case == "wrong" else 0)
    assert max(data["grid"]) <= 32
    for path in tmp_path.glob("*.png"):
        assert path.stat().st_size < 6_000_000, path.name


def test_maps_of_a_fine_layer_are_fewer(tmp_path: Path):
    from cifar_core.report import analyse

    labels = [0, 1] * 40
    wrong = -4.0 * torch.nn.functional.one_hot(torch.tensor(labels), 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analyse, "MAPS_BYTES", 30 * 4 * 4 * 16 * 16)  # four targets, float32, 16x16 cells
        run(pictures(labels, classes=("a", "b")), wrong, tmp_path, layer="stem", sheet_size=6)
    with np.load(tmp_path / "cams.npz") as file:
        assert file["grids"].shape == (4, 30, 16, 16)


@pytest.mark.slow
def test_a_full_analysis_of_four_hundred_classes_fits_into_a_gigabyte_of_its_own(tmp_path: Path):
    code = f"""
import resource
from pathlib import Path
from tests.report.examples import *
from tests.report.test_bounds import noisy
import matplotlib.figure, cifar_core.report.plots
labels, logits = noisy(400, 4000)
data = pictures(labels, classes=[f"class {{i}}" for i in range(400)], size=8)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 1_000_000_000, resource.RLIM_INFINITY))
run(data, logits, Path({str(tmp_path)!r}), level="full")
"""
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True, timeout=300)
    assert (tmp_path / "confusion_matrix.png").exists()


def test_a_small_picture_is_of_a_png_of_bounded_size_alone(tmp_path: Path, monkeypatch):
    file = tmp_path / "sheet.png"
    for kind in ("PNG", "GIF"):  # of others some start programs
        Image.new("RGB", (30, 20)).save(file, kind)
        assert bool(thumbnail(file)) == (kind == "PNG")
    Image.new("RGB", (30, 20)).save(file)
    monkeypatch.setattr("cifar_core.report.embed.SHEET_PIXELS", 599)
    assert thumbnail(file) == ""
    file.write_bytes(b"torn")
    assert thumbnail(file) == thumbnail(tmp_path / "absent.png") == ""
