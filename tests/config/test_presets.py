"""Presets: the course notebooks value by value, published recipes, and what a run says of their figures."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import MultiStepLR, OneCycleLR, ReduceLROnPlateau, StepLR

from cifar_core import guards
from cifar_core.data.split import Data, Split
from experiments.config import build, schema
from experiments.config.compose import compose, compose_saved, differences
from experiments.config.values import plain
from experiments.files import CONF
from experiments.runs import console
from experiments.runs.folder import past
from experiments.runs.result import Result
from experiments.runs.story import run

PRESETS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
NUMBERS = ("000", "001", "002", "003", "004")
STEPS = 3  # per epoch


@cache
def configuration(preset: str) -> DictConfig:
    return compose([f"experiment={preset}"])


def resolved(preset: str) -> dict[str, Any]:
    return plain(configuration(preset))


def built(preset: str) -> tuple[Optimizer, Any]:
    """The preset's optimizer over one weight, and its schedule with `STEPS` steps an epoch."""
    cfg = configuration(preset)
    optimizer = build.optimizer(cfg, [("weight", nn.Parameter(torch.zeros(2, 2)))])
    return optimizer, build.scheduler(cfg, optimizer, steps_per_epoch=STEPS)


def lrs(preset: str, epochs: int) -> list[float]:
    """The lr of each step."""
    optimizer, scheduler = built(preset)
    seen = []
    for _ in range(epochs * STEPS):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_opens_with_its_command_and_its_accuracy(preset: str):
    lines = (CONF / "experiment" / f"{preset}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].removesuffix(" -m") == f"# python -m experiments.run experiment={preset}"
    assert sum(line.startswith("# accuracy: ") for line in lines) == 1


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_builds(preset: str):
    cfg = compose([f"experiment={preset}", "aug.backend=batched"])  # refuses what has no batched form
    images = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    augmented = build.augment(cfg)(images, torch.arange(len(images)))
    assert (augmented.shape, augmented.dtype) == (images.shape, torch.uint8)
    optimizer = build.optimizer(cfg, build.model(cfg, num_classes=10).named_parameters())
    build.scheduler(cfg, optimizer, steps_per_epoch=STEPS)
    assert all(group["params"] for group in optimizer.param_groups)


# What the notebooks' logs and code say: written apart from conf/, as their authors wrote it.
FINAL_PERCENT = {"000": 76.45, "001": 10.56, "002": 88.97, "003": 88.72, "004": 90.26}
EPOCHS = {"000": 25, "001": 20, "002": 24, "003": 20, "004": 50}
BATCH = {"000": 128, "001": 64, "002": 128, "003": 64, "004": 64}
DROP2D = {  # stem, block, shortcut, stage
    "000": (0, 0, 0, 0),
    "001": (0, 0, 0, 0),
    "002": (0.05, 0.15, 0.15, 0),
    "003": (0, 0, 0, 0),
    "004": (0.15, 0.15, 0, 0.15),
}
NORMALIZATION = {  # of pictures in 0-1; 000 says nothing
    "001": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "002": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "003": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "004": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
OPTIMIZERS = {
    "000": (SGD, {"lr": 0.01, "momentum": 0.9, "weight_decay": 0, "nesterov": False}),
    "001": (Adam, {"lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 1e-4}),
    "002": (SGD, {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4, "nesterov": False}),
    "003": (SGD, {"lr": 1e-3, "momentum": 0.9, "weight_decay": 0.1, "nesterov": False}),
    "004": (SGD, {"lr": 0.01, "momentum": 0.9, "weight_decay": 0, "nesterov": False}),
}
MEAN = "mean"  # filled with the mean colour
SHIFT = {"height": 32, "width": 32, "p": 1.0}


def pad(side: int) -> tuple[str, dict[str, Any]]:
    return "PadIfNeeded", {"min_height": side, "min_width": side, "border_mode": 4, "p": 1.0}


def holes(count: int, size: int, fill: Any, p: float) -> tuple[str, dict[str, Any]]:
    ranges = {"num_holes_range": [count] * 2, "hole_height_range": [size] * 2, "hole_width_range": [size] * 2}
    return "CoarseDropout", ranges | {"fill": fill, "p": p}


AUGMENTATION = {
    "000": [("Pad", {"padding": 4, "fill": MEAN, "p": 1.0}), ("RandomCrop", SHIFT), holes(1, 16, MEAN, 1.0)],
    "001": [
        holes(1, 5, 0, 0.2),
        ("Sequential", {"p": 0.2, "transforms": [pad(36), ("RandomCrop", SHIFT)]}),
    ],
    "002": [
        ("HorizontalFlip", {"p": 0.5}),
        ("Rotate", {"limit": 2, "border_mode": 4, "p": 0.5}),
        (
            "HueSaturationValue",
            {"hue_shift_limit": 3, "sat_shift_limit": 2, "val_shift_limit": 20, "p": 0.5},
        ),
        holes(3, 8, 0, 0.5),
    ],
    "003": [
        (
            "OneOf",
            {
                "p": 0.5,
                "transforms": [
                    ("Sequential", {"p": 1.0, "transforms": [pad(40), ("RandomCrop", SHIFT)]}),
                    holes(1, 16, MEAN, 1.0),
                ],
            },
        )
    ],
    "004": [
        ("HorizontalFlip", {"p": 0.5}),
        ("Rotate", {"limit": 10, "border_mode": 4, "p": 0.5}),
        holes(8, 8, MEAN, 0.5),
    ],
}


def written(step: dict[str, Any], mean: list[float]) -> tuple[str, dict[str, Any]]:
    """A step of the configuration in the form of `AUGMENTATION`."""
    rest = {key: MEAN if value == mean else value for key, value in step.items() if key != "_target_"}
    if "transforms" in rest:
        rest["transforms"] = [written(inner, mean) for inner in rest["transforms"]]
    return step["_target_"].removeprefix("albumentations."), rest


@pytest.mark.parametrize("number", NUMBERS)
def test_a_notebook_is_trained_as_it_was(number: str):
    values = resolved(f"notebook_{number}")
    trainer = values["trainer"]
    assert (trainer["epochs"], trainer["batch_size"]) == (EPOCHS[number], BATCH[number])
    assert trainer["accumulate"] == 1
    for key in ("label_smoothing", "ema_decay", "grad_clip", "early_stop", "alternating_flip"):
        assert not trainer[key], key
    assert (trainer["tta"], trainer["test"], values["aug"]["batch"]) == ("none", True, None)
    assert values["data"]["val_size"] == 0
    assert values["data"]["source"] == "cifar10"


@pytest.mark.parametrize("number", NUMBERS)
def test_a_notebook_has_its_network(number: str):
    values = resolved(f"notebook_{number}")["model"]
    assert values["_target_"] == "cifar_core.models.resnet.resnet18"
    assert (
        tuple(values["drop2d"][place] for place in ("stem", "block", "shortcut", "stage")) == DROP2D[number]
    )
    model = build.model(configuration(f"notebook_{number}"), num_classes=10)
    assert sum(p.numel() for p in model.parameters()) == 11_173_962


@pytest.mark.parametrize("number", NUMBERS)
def test_a_notebook_has_its_augmentation(number: str):
    values = resolved(f"notebook_{number}")
    mean = values["data"]["mean"]
    assert [written(step, mean) for step in values["aug"]["image"].values()] == AUGMENTATION[number]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_notebook_has_its_optimizer(number: str):
    weight = [("weight", nn.Parameter(torch.zeros(2, 2)))]
    optimizer = build.optimizer(configuration(f"notebook_{number}"), weight)  # a schedule would change it
    kind, settings = OPTIMIZERS[number]
    assert type(optimizer) is kind
    (group,) = optimizer.param_groups
    assert {key: group[key] for key in settings} == settings


@pytest.mark.parametrize("number", NORMALIZATION)
def test_a_notebook_has_its_normalisation(number: str):
    data = resolved(f"notebook_{number}")["data"]
    for given, shares in zip((data["mean"], data["std"]), NORMALIZATION[number], strict=True):
        assert given == pytest.approx([255 * share for share in shares])


@pytest.mark.parametrize("number", NUMBERS)
def test_a_notebooks_normalisation_passes_the_guard(number: str):
    """Pictures with CIFAR-10's mean and deviation, as Krizhevsky's files have them."""
    data = resolved(f"notebook_{number}")["data"]
    noise = torch.randn(200, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([125.3, 123.0, 113.9]), torch.tensor([63.0, 62.1, 66.7])
    images = (noise * std[:, None, None] + mean[:, None, None]).clamp(0, 255).byte()
    labels, index = torch.arange(200) % 10, torch.arange(200)
    whole = Split(images, labels, index, None)
    none = Split(images[:0], labels[:0], index[:0], None)
    classes = tuple("abcdefghij")
    pictures = Data("test", classes, whole, none, none, tuple(data["mean"]), tuple(data["std"]), "")
    assert "normalization" not in {finding.guard for finding in guards.check_data(pictures)}


def test_a_notebook_has_its_schedule():
    """Against torch's own schedules, stepped as the notebooks stepped them: each epoch, or each batch."""
    epochwise = {
        "000": lambda optimizer: StepLR(optimizer, 6, 0.1),
        "002": lambda optimizer: MultiStepLR(optimizer, [17, 22], 0.1),
        "003": lambda optimizer: StepLR(optimizer, 5, 0.1),
    }
    for number, scheduler in epochwise.items():
        expected = reference(OPTIMIZERS[number][1]["lr"], scheduler, EPOCHS[number])
        assert lrs(f"notebook_{number}", EPOCHS[number])[::STEPS] == pytest.approx(expected), number
    steps = STEPS * EPOCHS["001"]
    expected = reference(1.0, lambda optimizer: OneCycleLR(optimizer, 1e-3, total_steps=steps), steps)
    assert lrs("notebook_001", EPOCHS["001"]) == pytest.approx(expected)


def reference(lr: float, scheduler: Any, steps: int) -> list[float]:
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)
    schedule, seen = scheduler(optimizer), []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_notebook_004_lowers_lr_on_the_accuracy_as_torch_does():
    accs = [0.5, 0.6, 0.6, 0.59, 0.58, 0.7, 0.7, 0.7, 0.7, 0.69, 0.68, 0.67, 0.9]
    optimizer, schedule = built("notebook_004")
    theirs = SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
    plateau = ReduceLROnPlateau(theirs, mode="max", factor=0.5, patience=2)
    seen = []
    for acc in accs:
        schedule.step(acc)
        plateau.step(100 * acc)  # they gave percent, which is nothing to a relative threshold
        seen.append((optimizer.param_groups[0]["lr"], theirs.param_groups[0]["lr"]))
    assert [ours for ours, _ in seen] == pytest.approx([lr for _, lr in seen])
    assert len({lr for _, lr in seen}) == 4


@pytest.mark.parametrize("number", NUMBERS)
def test_a_notebook_says_what_it_reached(number: str):
    expected = resolved(f"notebook_{number}")["expected"]
    assert expected["test_acc"] == pytest.approx(FINAL_PERCENT[number] / 100)
    assert expected["epochs"] == EPOCHS[number]
    assert expected["source"].startswith(f"course notebook {number} on CIFAR-10, its log")
    text = (CONF / "experiment" / f"notebook_{number}.yaml").read_text()
    assert ("nferred" in text) == (number == "000")
    assert ("cript defaults" in text) == (number == "003")


@pytest.mark.parametrize("number", NUMBERS)
def test_a_fixed_twin_changes_the_recipe_alone_and_is_fair(number: str):
    twin, original = resolved(f"notebook_{number}_fixed"), resolved(f"notebook_{number}")
    assert twin["model"] == original["model"]
    assert twin["trainer"]["epochs"] <= original["trainer"]["epochs"]
    assert twin["data"]["source"] == original["data"]["source"]
    assert twin["data"]["val_size"] == 5000
    assert twin["expected"] is None  # its own figure is for benchmarks/accuracy.py to measure


def test_davidnet_24_has_pages_schedule():
    """Linear from 0 to 0.4 at epoch 5 and back to 0 at epoch 24, a step late where he starts at 0."""
    expected = [0.4 * (i / 15 if i <= 15 else (72 - i) / 57) for i in range(24 * STEPS)]
    assert lrs("davidnet_24", 24) == pytest.approx(expected, abs=0.4 / 15 + 1e-9)
    assert max(lrs("davidnet_24", 24)) == pytest.approx(0.4)
    values = resolved("davidnet_24")
    assert values["trainer"]["batch_size"] == 512
    assert values["aug"]["image"]["cutout"]["hole_height_range"] == [8, 8]
    assert values["aug"]["image"]["cutout"]["fill"] == values["data"]["mean"]


def test_wrn28_10_200_has_the_papers_schedule():
    expected = [0.1 * 0.2 ** sum(epoch >= m for m in (60, 120, 160)) for epoch in range(200)]
    assert lrs("wrn28_10_200", 200)[::STEPS] == pytest.approx(expected)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_figure_of_others_is_compared_under_their_protocol(preset: str):
    """They trained on all training pictures; a run on fewer would be compared with more than it had."""
    values = resolved(preset)
    if values["expected"] is not None:
        assert values["data"]["val_size"] == 0
        assert values["trainer"]["epochs"] == values["expected"]["epochs"]


REACHED = {"test_acc": 0.8897, "epochs": 24, "source": "their log"}
WRONG = {
    "expected={test_acc: 88.97, epochs: 24, source: log}": "got 88.97: write 0.8897 for 88.97 %",
    "expected={test_acc: -0.1, epochs: 24, source: log}": r"expected.test_acc must be a share in \[0, 1\]",
    "expected={test_acc: high, epochs: 24, source: log}": "expected.test_acc must be a number, got 'high'",
    "expected={test_acc: 0.9, epochs: 0, source: log}": "expected.epochs must be at least 1, got 0",
    "expected={test_acc: 0.9, epochs: 1.5, source: log}": "expected.epochs must be a whole number",
    "expected={test_acc: 0.9, epochs: 24, source: ' '}": "expected.source must say where the figure stands",
    "expected={test_acc: 0.9, epochs: 24}": "expected.source must be given",
    "expected={test_acc: 0.9, epochs: 24, source: log, seeds: 3}": "expected.seeds is not a key",
    "expected=0.9": "expected must be null or have test_acc, epochs and source, got 0.9",
}


@pytest.mark.parametrize("override", WRONG)
def test_a_wrong_expectation_is_told_in_one_line(override: str):
    with pytest.raises(ValueError, match=WRONG[override]) as caught:
        compose([override])
    assert "\n" not in str(caught.value)


def test_an_expectation_is_typed():
    assert schema.expected(OmegaConf.create({"expected": REACHED})) == schema.Expected(
        0.8897, 24, "their log"
    )
    assert schema.expected(OmegaConf.create({"expected": None})) is None
    assert schema.expected(OmegaConf.create({})) is None


def test_an_expectation_is_no_part_of_a_run(tmp_path: Path):
    """Nor does a folder saved before there was the key become another run."""
    given = "expected={test_acc: 0.8897, epochs: 24, source: their log}"
    with_it, without = compose([given]), compose([])
    assert past(plain(with_it)) == past(plain(without))
    assert differences(with_it) == {}
    values = plain(without)
    del values["expected"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    assert past(plain(compose_saved(tmp_path, []))) == past(plain(without))
    assert plain(compose_saved(tmp_path, [f"+{given}"]))["expected"] == REACHED


def test_the_end_compares_with_the_expectation():
    result = Result(metrics={"test/acc": 0.896}, epochs=24)
    told = "88.97% in 24 epochs (their log); this run 89.60% in 24 epochs"
    assert console.comparison(result, REACHED) == [("elsewhere", told)]
    untested = console.comparison(Result(metrics={"val/acc_best": 0.9}, epochs=1), REACHED)
    assert untested[0][1].endswith("this run has not read the test set")
    assert console.comparison(result, None) == []


def test_a_notebook_runs_and_shows_what_it_reached(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    small = ["data=digits", "model.width=4", "trainer.epochs=1", "trainer.device=cpu", "trainer.threads=1"]
    with caplog.at_level("INFO"):
        run(compose(["experiment=notebook_002", *small, "analysis=light", "tracking=none"]), tmp_path)
    (line,) = [line for line in caplog.text.splitlines() if line.startswith("elsewhere ")]
    assert "88.97% in 24 epochs (course notebook 002 on CIFAR-10, its log)" in line
    assert line.endswith("% in 1 epoch")
    assert "recipe reached 88.97" in (tmp_path / "analysis" / "report.html").read_text()
