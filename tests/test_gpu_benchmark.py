"""The measurement of a GPU, rehearsed on a CPU: its list of cells, its tables, and a whole small one."""

from itertools import groupby
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import gpu
from benchmarks.gpu_cells import Bench, found, training_gflops
from benchmarks.gpu_page import page, peak
from cifar_core.data.split import Data, Split

SMALL = gpu.Plan(
    device="cpu",
    models=("resnet18",),
    batch_sizes=(16, 128),  # the second is more than all pictures
    recipes=("cutout",),
    modes=("eager",),
    seeds=1,
    levels=("light",),
    words=("model.width=4", "trainer.threads=1"),
    speedrun=("experiment=quickstart", "model.width=4", "trainer.epochs=1", "trainer.threads=1"),
    pictures=64,
    analysed=60,
    epochs=2,
    seconds=0.0,
)
SPREAD = {"median": 2000.0, "q1": 1900.0, "q3": 2100.0, "n": 3}


def cells_of(text: str, heading: str) -> list[list[str]]:
    """The lines of the first table after a heading, without its head."""
    after = text.partition(f"## {heading}\n")[2].split("\n## ")[0]
    lines = [line for line in after.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines[2:]]


def test_the_table_has_every_network_batch_recipe_and_mode_once():
    cells = gpu.Plan().cells()
    steps = [cell for cell in cells if cell.startswith("step/")]
    assert len(set(steps)) == len(steps) == 4 * 3 * 4 * 3
    assert {"step/wrn28_10/2000/trivialaugment/compiled", "step/airbench/128/none/graphs"} <= set(steps)
    processes = [name for name, _ in groupby(steps, gpu.process_of)]
    assert len(processes) == len(set(processes)) == 4 * 3  # what shares a compiled network lies together
    quick = gpu.chosen(gpu.Plan(), [], quick=True)
    assert 0 < gpu.estimate(quick) < gpu.estimate(cells) / 2


def test_cells_are_chosen_by_patterns(capsys: pytest.CaptureFixture, monkeypatch, tmp_path: Path):
    path = tmp_path / "gpu.json"
    gpu.note(path, "analysis/full", {"status": "measured"})
    monkeypatch.setattr("sys.argv", ["gpu", "--json", str(path), "--list", "--only", "analysis"])
    gpu.main()
    first, last = capsys.readouterr().out.splitlines()
    assert first == "analysis/light"
    assert last.startswith("1 of 2 cells are there, 0 of them failed; left: 1, about 1 minutes")
    monkeypatch.setattr("sys.argv", ["gpu", "--json", str(path), "--only", "resnet18"])
    with pytest.raises(SystemExit, match="2"):
        gpu.main()


def test_operations_are_three_times_those_forward_also_of_grouped_convolutions():
    pictures = Split(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2), torch.arange(2), None)
    data = Data("made", ("a", "b"), pictures, pictures, pictures, (0.0,) * 3, (1.0,) * 3, "")
    dense, grouped = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1, groups=6)
    net = nn.Sequential(dense, grouped, nn.Flatten(), nn.Linear(6 * 64, 2))
    forward = 2 * (6 * 3 * 9 * 64 + 6 * 9 * 64 + 6 * 64 * 2)
    assert training_gflops(net, data) == pytest.approx(3 * forward / 1e9)
    assert net.training


def test_shares_are_those_of_the_card_and_of_the_recipe_alone():
    measured = {"status": "measured", "pictures_per_second": SPREAD, "precision": "bfloat16"}
    plan = gpu.Plan(models=("resnet18",), recipes=("cutout",), batch_sizes=(512,), modes=("eager", "graphs"))
    cells = {
        "augmentation/cutout/512": {"status": "measured", "pictures_per_second": SPREAD | {"median": 80_000}},
        "step/resnet18/512/cutout/eager": measured | {"gflop_per_picture": 31.2, "peak_memory_gib": 1.5},
        "step/resnet18/512/cutout/graphs": {"status": "out of memory", "error": "CUDA out of memory"},
    }
    text = page(plan, {"gpu": {"name": "NVIDIA A100-SXM4-80GB"}, "cells": cells})
    eager, graphs = cells_of(text, "A step of training")
    assert eager == [
        *("resnet18", "512", "cutout", "eager", "2,000 (1,900 to 2,100, n=3)"),
        *("2.5", "20.0", "1.50"),  # 2000 / 80000; 2000 * 31.2e9 / 312e12
    ]
    assert graphs[3:] == ["graphs", "out of memory", "", "", ""]
    assert [line[1] for line in cells_of(text, "speedrun94")] == ["not measured"] * 2
    assert (peak("NVIDIA H100 80GB HBM3 MIG 1g.10gb"), peak("Another")) == (None, None)
    assert peak("NVIDIA H200 NVL") == 835.5


def test_a_network_too_large_for_memory_is_tried_once():
    bench = Bench(gpu.Plan(**(vars(SMALL) | {"pictures": 10**12})))
    tries = [found(bench, "step/resnet18/16/cutout/eager") for _ in range(2)]
    assert [one["status"] for one in tries] == ["out of memory"] * 2
    assert "allocate" in tries[0]["error"]
    assert tries[1]["error"] == "as with another recipe"


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gpu") / "gpu.json"
    gpu.measure(SMALL, path, SMALL.cells(), minutes=9)
    return path


@pytest.mark.slow
def test_every_cell_is_measured_or_says_why_not(rehearsed: Path):
    rows = gpu.rows(rehearsed)
    assert rows.keys() == set(SMALL.cells())
    failed = {cell for cell, row in rows.items() if row["status"] != "measured"}
    assert failed == {"augmentation/cutout/128", "step/resnet18/128/cutout/eager"}
    assert "trainer.batch_size" in rows["step/resnet18/128/cutout/eager"]["error"]
    step = rows["step/resnet18/16/cutout/eager"]
    assert step["pictures_per_second"]["n"] >= 2
    assert step["pictures_per_second"]["median"] > 0
    run = rows["speedrun94/eager/0"]
    assert run["process_s"] > run["train_s"] > 0

    text = page(SMALL, gpu.read_json(rehearsed))
    small, large = cells_of(text, "A step of training")
    assert [*small[:4], large[4]] == ["resnet18", "16", "cutout", "eager", "failed"]
    assert float(small[5]) > 0
    assert len(cells_of(text, "The augmentation alone")) == 2
    assert "n=1" in cells_of(text, "speedrun94")[0][1]
    assert len(cells_of(text, "The analysis of a run")[0]) == 3
    assert len([line for line in text.splitlines() if line.startswith("* `")]) == 2


@pytest.mark.slow
def test_the_next_call_measures_what_is_left_alone(rehearsed: Path):
    before, log = gpu.rows(rehearsed), rehearsed.with_suffix(".log").read_text()
    gpu.measure(SMALL, rehearsed, SMALL.cells(), minutes=9)
    assert (gpu.rows(rehearsed), rehearsed.with_suffix(".log").read_text()) == (before, log)
    gpu.note(rehearsed, "augmentation/cutout/16", None)
    gpu.measure(SMALL, rehearsed, SMALL.cells(), minutes=0)  # no time: nothing is begun
    assert "augmentation/cutout/16" not in gpu.rows(rehearsed)
    gpu.measure(SMALL, rehearsed, SMALL.cells(), minutes=9)
    after = gpu.rows(rehearsed)
    assert after.pop("augmentation/cutout/16")["status"] == "measured"
    assert after == {cell: row for cell, row in before.items() if cell != "augmentation/cutout/16"}


@pytest.mark.slow
def test_what_takes_too_long_is_noted_and_the_next_one_goes_on(tmp_path: Path, monkeypatch):
    """A process that is ended ends the run that it has started, and removes the folder of that."""
    path, folders = tmp_path / "gpu.json", tmp_path / "folders"
    folders.mkdir()
    monkeypatch.setenv("TMPDIR", str(folders))
    hasty = gpu.Plan(**(vars(SMALL) | {"limit": 0.0}))
    cells = ["analysis/light", "speedrun94/eager/0"]
    gpu.measure(hasty, path, cells, minutes=9)
    assert gpu.rows(path) == {cell: {"status": "failed", "error": "took more than 0 s"} for cell in cells}
    assert not list(folders.iterdir())


@pytest.mark.slow
def test_figures_of_two_cards_share_no_file(tmp_path: Path):
    path = tmp_path / "gpu.json"
    path.write_text('{"gpu": {"name": "NVIDIA H100 80GB HBM3"}, "cells": {}}')
    with pytest.raises(SystemExit, match="must name a file of one card"):
        gpu.measure(SMALL, path, ["augmentation/cutout/16"], minutes=9)
    assert gpu.rows(path) == {}
