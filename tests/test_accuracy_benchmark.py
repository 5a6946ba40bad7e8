"""The table of accuracies: measured by real sweeps on the digits, computed again here from what they left."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import pytest
from scipy.stats import t

from benchmarks import accuracy
from tests.conftest import PROJECT

PAGE = "# Title\n\n<!-- accuracy:begin -->\nold\n<!-- accuracy:end -->\n\nThe end.\n"
SMALL = ["trainer.epochs=1", "trainer.threads=1", "trainer.device=cpu", "tracking=none", "analysis=none"]
# A net that cannot be built with seed 1.
NET = """
import torch

class Net(torch.nn.Linear):
    def __init__(self, num_classes):
        if torch.initial_seed() == 1: raise RuntimeError("seed 1 is unlucky")
        super().__init__(3072, num_classes)

    def forward(self, images):
        return super().forward(images.flatten(1))
"""


def measure(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the benchmark with page and CSV file in ``folder``, which gets a page if it has none."""
    readme = folder / "README.md"
    if not readme.exists():
        readme.write_text(PAGE)
    files = ["--readme", str(readme), "--csv", str(folder / "accuracy.csv")]
    command = [sys.executable, "-m", "benchmarks.accuracy", *arguments, *files]
    env = os.environ | {"PYTHONPATH": str(PROJECT)} | environment
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def lines(folder: Path) -> list[dict[str, str]]:
    with (folder / "accuracy.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def cells(text: str) -> list[dict[str, str]]:
    """The rows of the Markdown table in ``text`` by their headings."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    head, _, *body = [[cell.strip() for cell in row] for row in rows]
    return [dict(zip(head, row, strict=True)) for row in body]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of the quickstart, one epoch each."""
    folder = tmp_path_factory.mktemp("measured")
    done = measure(folder, "quickstart", "--seeds", "2", "--slots", "2", *SMALL, "model.width=4")
    assert done.returncode == 0, done.stderr
    return folder


def results(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(folder.glob("sweeps/accuracy-quickstart-*/*/result.json"))
    return [json.loads(path.read_text()) for path in paths]


@pytest.mark.slow
def test_the_table_is_what_the_runs_say(measured: Path):
    accs = [100 * result["metrics"]["test/acc"] for result in results(measured)]
    page = (measured / "README.md").read_text()
    (row,) = cells(page)
    assert row["preset"] == "quickstart with `trainer.epochs=1 model.width=4`"
    assert (row["pictures"], row["seeds"], row["epochs"]) == ("digits", "2", "1")
    assert row["test accuracy, %"] == f"{mean(accs):.2f} ± {stdev(accs):.2f}"
    half = t.ppf(0.975, 1) * stdev(accs) / 2**0.5
    assert row["95 % interval"] == f"{max(0, mean(accs) - half):.2f} to {min(100, mean(accs) + half):.2f}"
    seconds = median(result["seconds"]["train"] for result in results(measured))
    assert row["training, s"] == f"{seconds:,.1f}"
    assert (row["with TTA"], row["elsewhere"], row["protocol"]) == ("", "", "validation")
    assert "1 threads" in row["hardware"]
    assert re.match(r"\d{4}-\d\d-\d\d", row["made"])
    assert page.startswith("# Title\n\n<!-- accuracy:begin -->\n| preset")
    assert page.endswith("<!-- accuracy:end -->\n\nThe end.\n")
    assert "old" not in page


@pytest.mark.slow
def test_the_same_command_again_trains_nothing_and_changes_nothing(measured: Path):
    logs = {path: path.read_text() for path in measured.glob("sweeps/*/*/run.log")}
    before = (measured / "README.md").read_text(), lines(measured)
    done = measure(measured, "quickstart", "--seeds", "2", "--slots", "2", *SMALL, "model.width=4")
    assert done.returncode == 0, done.stderr
    assert ((measured / "README.md").read_text(), lines(measured)) == before
    assert {path: path.read_text() for path in measured.glob("sweeps/*/*/run.log")} == logs
    assert len(logs) == 2


@pytest.mark.slow
def test_a_failed_seed_is_told_and_other_rows_stay(tmp_path: Path):
    (tmp_path / "unlucky.py").write_text(NET)
    other = seed(preset="other", test_acc="0.5")
    (tmp_path / "accuracy.csv").write_text(accuracy.csv_text([vars(other)]))
    own = ["security.allowed_targets=[unlucky.]", "model._target_=unlucky.Net"]
    done = measure(
        tmp_path,
        *("quickstart", "--seeds=2", "--data-name=Digits (8x8)", *SMALL, *own),
        *("~model.width", "~model.drop_rate", "~model.zero_init_last"),
        PYTHONPATH=f"{PROJECT}{os.pathsep}{tmp_path}",
    )
    assert done.returncode == 1, done.stderr
    kept, row = cells((tmp_path / "README.md").read_text())
    assert (kept["preset"], kept["test accuracy, %"]) == ("other", "50.00")
    assert (row["seeds"], row["pictures"], row["95 % interval"]) == ("1 of 2", "Digits (8x8)", "")
    finished, failed = [line for line in lines(tmp_path) if line["preset"] == "quickstart"]
    assert (finished["seed"], finished["status"], failed["seed"], failed["status"]) == (
        *("0", "finished"),
        *("1", "failed"),
    )
    assert (float(finished["test_acc"]) > 0, failed["test_acc"]) == (True, "")


@pytest.mark.slow
def test_a_mistake_ends_it_before_anything_runs(tmp_path: Path):
    done = measure(tmp_path, "quickstart", "quickstrat")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "error: experiment=quickstrat is not an option of experiment (did you mean quickstart?)"
    )
    assert {path.name for path in tmp_path.iterdir()} == {"README.md"}
    with pytest.raises(ValueError, match=r"trainer.epochz is not a key"):
        accuracy.configuration("quickstart", ["trainer.epochz=1"])
    with pytest.raises(ValueError, match="experiment=sweep_models is a sweep itself"):
        accuracy.configuration("sweep_models", [])


def test_a_page_without_its_place_is_refused(tmp_path: Path):
    (tmp_path / "README.md").write_text("<!-- accuracy:begin -->\n")
    with pytest.raises(ValueError, match="must have <!-- accuracy:begin --> and, after it"):
        accuracy.show(tmp_path / "README.md", [])
    assert (tmp_path / "README.md").read_text() == "<!-- accuracy:begin -->\n"


def seed(**changes: str) -> accuracy.Seed:
    values = {
        **{"preset": "speedrun94", "overrides": "", "pictures": "CIFAR-10", "hardware": "A GPU, bf16"},
        **{"seed": "0", "status": "finished", "test_acc": "0.93", "test_acc_tta": "", "seconds": "2.5"},
        **{"expected_acc": "", "expected_epochs": "", "epochs": "8", "protocol": "validation"},
        **{"date": "2026-01-02", "commit": "abcdef0"},
    }
    return accuracy.Seed(**values | changes)


def test_tta_stands_beside_the_plain_figure_and_others_figures_too():
    seeds = [
        seed(seed=str(n), test_acc=acc, test_acc_tta=tta, expected_acc="0.9401", expected_epochs="8")
        for n, (acc, tta) in enumerate([("0.93", "0.94"), ("0.94", "0.945"), ("0.935", "0.943")])
    ]
    (row,) = cells(accuracy.table(seeds))
    assert row["test accuracy, %"] == "93.50 ± 0.50"
    assert row["with TTA"] == "94.27 ± 0.25"
    assert row["elsewhere"] == "94.01% in 8"


def test_a_row_measured_again_replaces_its_older_seeds_alone():
    before = [seed(seed=str(n)) for n in range(5)] + [seed(hardware="CPU, bf16"), seed(pictures="digits")]
    again = [seed(seed=str(n), commit="1234567") for n in range(2)]
    after = accuracy.merged(before, again)
    assert {(one.hardware, one.pictures): one.commit for one in after} == {
        ("A GPU, bf16", "CIFAR-10"): "1234567",
        ("CPU, bf16", "CIFAR-10"): "abcdef0",
        ("A GPU, bf16", "digits"): "abcdef0",
    }
    assert len(after) == 4
    assert accuracy.merged(after, again) == after


def test_the_csv_file_comes_back_as_it_was(tmp_path: Path):
    seeds = [seed(overrides='aug.image={a: "b, c"}'), seed(hardware="CPU, 2 threads, bf16")]
    (tmp_path / "accuracy.csv").write_text(accuracy.csv_text([vars(one) for one in seeds]))
    assert accuracy.read(tmp_path / "accuracy.csv") == seeds
    assert accuracy.read(tmp_path / "none.csv") == []
    (tmp_path / "accuracy.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="must have the columns preset,overrides"):
        accuracy.read(tmp_path / "accuracy.csv")
