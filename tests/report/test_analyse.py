import csv
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cifar_core.explain.calibration import fit_temperature
from cifar_core.explain.predictions import Predictions
from cifar_core.report.settings import AnalysisSettings
from cifar_core.report.tables import ERROR_COLUMNS, ISSUE_COLUMNS
from tests.report.examples import HISTORY, NAMES, Net, guesses, pictures, run

LABELS = np.random.default_rng(1).integers(0, 10, 60).tolist()
LIGHT = {
    "augmentations.png",
    "cams.npz",
    "contact_sheet.png",
    "correct_sheet.png",
    "label_issues.csv",
    "metrics.json",
    "misclassified.csv",
    "model.txt",
    "predictions.npz",
    "report.html",
}
PLOTS = {"confusion_matrix.png", "curves.png", "per_class.png", "reliability.png"}


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def strict(path: Path) -> dict:
    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.mark.parametrize(("level", "expected"), [("light", LIGHT), ("full", LIGHT | PLOTS)])
def test_a_level_writes_its_files_and_returns_what_metrics_json_holds(
    tmp_path: Path, level: str, expected: set[str]
):
    numbers = run(pictures(LABELS, names=True), guesses(LABELS), tmp_path / "analysis", level=level)
    assert files(tmp_path / "analysis") == expected
    assert strict(tmp_path / "analysis/metrics.json") == {"format": 1} | numbers
    assert numbers["split"] == "test"
    assert numbers["pictures"] == 60
    for name in expected:
        if name.endswith(".png"):
            with Image.open(tmp_path / "analysis" / name) as picture:
                picture.verify()


def test_level_none_writes_nothing(tmp_path: Path):
    assert run(pictures(LABELS), guesses(LABELS), tmp_path / "analysis", level="none") == {}
    assert not (tmp_path / "analysis").exists()


def test_predictions_load_without_pickle(tmp_path: Path):
    data, logits = pictures(LABELS, names=True), guesses(LABELS)
    run(data, logits, tmp_path)
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["labels"], LABELS)
        np.testing.assert_array_equal(arrays["logits"], logits)
        np.testing.assert_array_equal(arrays["index"], data.test.index)
        assert tuple(arrays["classes"]) == NAMES
        assert tuple(arrays["names"]) == data.test.names


def test_val_is_analysed_where_it_is_asked_for(tmp_path: Path):
    data = pictures(LABELS, names=True)
    assert run(data, guesses(LABELS), tmp_path, split="val")["split"] == "val"
    with np.load(tmp_path / "predictions.npz") as arrays:
        assert "names" not in arrays


def test_every_error_stands_in_the_csv_most_confident_first(tmp_path: Path):
    data, logits = pictures(LABELS, names=True), guesses(LABELS)
    run(data, logits, tmp_path, sheet_size=3)
    probs = np.exp(logits.double().numpy())
    probs /= probs.sum(1, keepdims=True)
    order = np.argsort(-probs, axis=1)
    wrong = np.flatnonzero(order[:, 0] != LABELS)
    wrong = wrong[np.argsort(-probs[wrong, order[wrong, 0]])]

    with (tmp_path / "misclassified.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == ERROR_COLUMNS
    assert [int(line["index"]) for line in lines] == [1000 + 3 * row for row in wrong]
    for line, row in zip(lines, wrong, strict=True):
        first, second, label = order[row, 0], order[row, 1], LABELS[row]
        assert line["file"] == f"test/picture {row}.png"
        assert (line["true"], line["predicted"], line["runner_up"]) == (
            NAMES[label],
            NAMES[first],
            NAMES[second],
        )
        assert float(line["confidence"]) == pytest.approx(probs[row, first], rel=1e-5)
        assert float(line["p_true"]) == pytest.approx(probs[row, label], rel=1e-5)
        assert float(line["margin"]) == pytest.approx(probs[row, first] - probs[row, second], rel=1e-5)
        assert float(line["loss"]) == pytest.approx(-math.log(probs[row, label]), rel=1e-5)
        others = np.delete(probs[row], label).max()
        assert float(line["label_quality"]) == pytest.approx((probs[row, label] - others + 1) / 2, rel=1e-5)
        assert line["confident_mistake"] == str(int(probs[row, first] >= 0.9))
    flags = [int(line["confident_mistake"]) for line in lines]
    assert 0 < sum(flags) < len(flags)


def test_label_issues_are_ranked_and_marked_among_the_errors(tmp_path: Path):
    data, logits = pictures(LABELS, names=True), guesses(LABELS)
    numbers = run(data, logits, tmp_path)
    with (tmp_path / "label_issues.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == ISSUE_COLUMNS
    assert len(lines) == numbers["label_issues"]["candidates"] > 3
    assert [int(line["rank"]) for line in lines] == list(range(1, len(lines) + 1))
    quality = [float(line["label_quality"]) for line in lines]
    assert quality == sorted(quality)
    probs = torch.softmax(logits.double(), 1)
    for line in lines:
        row = (int(line["index"]) - 1000) // 3
        suggested = NAMES.index(line["suggested"])
        assert line["file"] == f"test/picture {row}.png"
        assert line["label"] == NAMES[LABELS[row]] != line["suggested"]
        assert float(line["p_label"]) == pytest.approx(probs[row, LABELS[row]].item(), rel=1e-5)
        assert float(line["p_suggested"]) == pytest.approx(probs[row, suggested].item(), rel=1e-5)
        assert float(line["p_suggested"]) >= float(line["threshold"])
    with (tmp_path / "misclassified.csv").open(newline="", encoding="utf-8") as file:
        marked = [line["index"] for line in csv.DictReader(file) if line["label_issue"] == "1"]
    assert sorted(marked) == sorted(line["index"] for line in lines)


def test_the_temperature_is_fitted_on_validation_and_measured_on_the_split(tmp_path: Path):
    data, logits, val_logits = pictures(LABELS), guesses(LABELS), 3 * guesses(LABELS, seed=8)
    scaled = run(data, logits, tmp_path, val_logits=val_logits)["temperature_scaling"]
    temperature = fit_temperature(Predictions.of(data.val.labels, val_logits))
    assert scaled["temperature"] == temperature
    assert scaled["fitted_on"] == "val, 60 pictures"
    cooled = torch.nn.functional.cross_entropy(logits.double() / temperature, torch.tensor(LABELS))
    assert scaled["nll"] == pytest.approx(cooled.item(), rel=1e-5)


def test_a_temperature_of_the_analysed_pictures_themselves_is_told_as_such(tmp_path: Path):
    scaled = run(pictures(LABELS), guesses(LABELS), tmp_path, split="val")["temperature_scaling"]
    assert scaled["fitted_on"] == "val, the pictures it is measured on"
    assert scaled["temperature"] > 0


def test_no_validation_pictures_no_scaling(tmp_path: Path):
    scaled = run(pictures(LABELS), guesses(LABELS), tmp_path, val_logits=torch.zeros(0, 10))
    assert scaled["temperature_scaling"] == {
        "temperature": None,
        "reason": "not scaled: no validation pictures",
    }


def test_the_analysis_counts_its_own_time(tmp_path: Path):
    seconds = run(pictures(LABELS), guesses(LABELS), tmp_path)["seconds"]
    parts = ["numbers", "model", "maps", "sheets", "report"]
    assert list(seconds) == [*parts, "total"]
    assert seconds["total"] == pytest.approx(sum(seconds[part] for part in parts), abs=0.002)


def test_another_method_is_refused():
    law = "^analysis.method must be one of gradcam, gradcam\\+\\+, got 'lime'$"
    with pytest.raises(ValueError, match=law):
        AnalysisSettings("light", "", "lime", 5)


@pytest.mark.parametrize(("level", "num_classes"), [("light", 1), ("light", 100), ("full", 1), ("full", 3)])
@pytest.mark.parametrize("case", ["right", "wrong", "nan", "one picture"])
def test_edge_cases_are_analysed(tmp_path: Path, level: str, num_classes: int, case: str):
    labels = [i % num_classes for i in range(1 if case == "one picture" else 30)]
    sign = -1 if case == "wrong" else 1
    logits = sign * 9.0 * torch.nn.functional.one_hot(torch.tensor(labels), num_classes)
    if case == "nan":
        logits[::2] = math.nan
    classes = [f"class number {i}" for i in range(num_classes)]
    numbers = run(pictures(labels, classes=classes), logits, tmp_path, level=level)
    assert strict(tmp_path / "metrics.json") == {"format": 1} | numbers
    errors = (tmp_path / "misclassified.csv").read_text().splitlines()[1:]
    assert len(errors) == numbers["errors"] == (logits.argmax(1) != torch.tensor(labels)).sum()


@pytest.mark.parametrize("level", ["light", "full"])
@pytest.mark.parametrize("history", [[], [{"epoch": 1, "train/loss": math.nan, "lr": math.inf}]])
def test_a_short_or_diverged_history_is_drawn(tmp_path: Path, level: str, history: list):
    run(pictures(LABELS), guesses(LABELS), tmp_path, level=level, history=history)
    assert (tmp_path / "curves.png").exists() == (level == "full")


def test_strange_class_names_are_kept_in_files_and_drawn(tmp_path: Path):
    classes = ("猫", "a\nb", "$x_{", "x" * 300, "", "жук", "\udcff", "e\u0301", "=1+1", "\u202egnp")
    data = pictures(LABELS, classes=classes, names=True)
    run(data, -guesses(LABELS), tmp_path, level="full")
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as arrays:
        assert tuple(arrays["classes"]) == classes
    assert [row["name"] for row in strict(tmp_path / "metrics.json")["per_class"]] == list(classes)
    with (tmp_path / "misclassified.csv").open(newline="", encoding="utf-8") as file:
        seen = {line["true"] for line in csv.DictReader(file)}
    assert {"猫", "a\nb", "жук", "\\udcff"} <= seen


@pytest.mark.parametrize("name", ["layer9", "fc", "pool", "flat"])
def test_a_layer_without_a_grid_is_refused_with_the_right_ones(tmp_path: Path, name: str):
    law = f"analysis.layer must be a module of the model with a grid, got '{name}'"
    with pytest.raises(ValueError, match=f"^{law}; it has: stem, body.0, body.1, body$"):
        run(pictures(LABELS), guesses(LABELS), tmp_path / "analysis", layer=name)
    assert not (tmp_path / "analysis").exists()


def test_the_model_is_left_as_it_was(tmp_path: Path):
    from cifar_core.report.analyse import analyse

    model = Net(10)
    model.body.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    analyse(
        model,
        pictures(LABELS),
        "test",
        guesses(LABELS),
        settings=AnalysisSettings("light", "", "gradcam", 5),
        cam_layer="stem",
        augment=lambda images, keys: images,
        history=HISTORY,
        out_dir=tmp_path,
    )
    assert (model.training, model.body.training) == (True, False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("level", "before", "after"),
    [
        ("light", "sys.modules['matplotlib'] = None", ""),  # as if not installed
        ("full", "", "assert 'matplotlib.pyplot' not in sys.modules"),
    ],
)
def test_matplotlib_is_imported_for_plots_only_and_without_pyplot(
    tmp_path: Path, level: str, before: str, after: str
):
    code = f"""
import sys
{before}
from pathlib import Path
from tests.report.examples import *
run(pictures([0, 1, 2] * 9), guesses([0, 1, 2] * 9), Path({str(tmp_path)!r}), level="{level}")
{after}
"""
    project = Path(__file__).resolve().parents[2]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(project), str(Path(__file__).parent)])}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=120)
    assert files(tmp_path) >= LIGHT
