"""What the design promises of CUDA, proved without one: no device error, and no wait within an epoch.

Every option of a group, found by glob, trains on a pretended GPU (`tests/pretend_cuda.py`) at least once.
"""

import itertools
import json
from collections import Counter
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cifar_core.augment.uniforms import picture_keys
from cifar_core.data.split import Data, Split
from cifar_core.explain.cams import cam_module, cams
from cifar_core.explain.predictions import Predictions
from cifar_core.explain.summary import summarize
from cifar_core.train.loop import train
from cifar_core.train.predict import balanced_acc, predict, score, tta_acc
from experiments.cli import GuardStop
from experiments.config import build
from experiments.config.compose import compose
from experiments.config.values import settings
from experiments.files import CONF
from experiments.runs.story import resume, run
from experiments.tools import prediction
from experiments.tools.evaluation import evaluate, request
from experiments.tools.lr_search import Search, find_lr
from experiments.tools.preview import preview
from tests.conftest import narrow
from tests.pretend_cuda import pretend_cuda

STEPS = 2  # an epoch
READS = 4  # at the end of an epoch: its losses and hits, loss and accuracy of the evaluation
SMALL = [
    *("data=digits", "trainer.epochs=2", "trainer.threads=1", "trainer.progress=false"),
]
NEEDS = {  # of an option in so short a training
    "multistep": "scheduler.milestones=[1]",
    "timm": "+model.options.channels=[2,2,2,2]",
}
SWITCHES = [
    ["trainer.precision=fp32", "trainer.precision=bf16", "trainer.precision=fp16"],
    ["trainer.channels_last=true", "trainer.channels_last=false"],
    ["trainer.batch_size=8", "trainer.batch_size=4 trainer.accumulate=2"],
    ["trainer.ema_decay=0", "trainer.ema_decay=0.9"],
    ["trainer.grad_clip=0", "trainer.grad_clip=1"],
    ["trainer.label_smoothing=0", "trainer.label_smoothing=0.1"],
    ["trainer.tta=none", "trainer.tta=mirror", "trainer.tta=multicrop"],
    ["analysis.method=gradcam", "analysis.method=gradcam++"],
]


def options(group: str) -> list[str]:
    """Return the words that choose each option of a group, of a model with a width the narrowest."""
    names = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    return [
        " ".join(
            [f"{group}={name}", *(narrow(name) if group == "model" else []), *NEEDS.get(name, "").split()]
        )
        for name in names
    ]


def trainings() -> list[str]:
    """Return the words of some forty trainings, in which every option occurs.

    Column by column the option is taken that has not yet met most of those chosen before it.
    """
    recipes = [*options("aug"), "aug=shift trainer.alternating_flip=true"]
    columns = [options("model"), recipes, options("optimizer"), options("scheduler"), *SWITCHES]
    met: Counter[object] = Counter()
    chosen = []
    for _ in range(max(40, *map(len, columns))):
        row: list[str] = []
        for column in columns:
            news = {option: sum(not met[option, other] for other in row) for option in column}
            row.append(min(column, key=lambda option: (-news[option], met[option])))
        met.update(itertools.permutations(row, 2))
        met.update(row)
        chosen.append(" ".join(row))
    return chosen


TRAININGS = trainings()


def pictures(count: int, seed: int) -> Split:
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=random)
    return Split(images, torch.arange(count) % 10, torch.arange(count), None)


DATA = Data(
    "made",
    tuple("abcdefghij"),
    pictures(16, 0),
    pictures(10, 1),
    pictures(10, 2),
    (99.0,) * 3,
    (60.0,) * 3,
    "",
)


@pytest.mark.parametrize("group", ["model", "aug", "optimizer", "scheduler"])
def test_every_option_is_trained(group: str):
    trained = {word for training in TRAININGS for word in training.split()}
    assert {f"{group}={path.stem}" for path in (CONF / group).glob("*.yaml")} <= trained


def test_every_optimizer_meets_every_precision():
    met = {
        tuple(word for word in training.split() if word.startswith(("optimizer=", "trainer.precision=")))
        for training in TRAININGS
    }
    assert len(met) == len(options("optimizer")) * 3


@pytest.mark.parametrize("words", TRAININGS)
def test_a_training_runs_on_cuda_and_waits_at_the_ends_of_its_epochs_only(words: str):
    if "model=timm" in words:
        pytest.importorskip("timm")
    cfg = compose([*words.split(), *SMALL])
    chosen = settings(cfg)
    with pretend_cuda() as seen:
        built = build.training(cfg, data=DATA)
        epochs = train(built.state, built.data, built.augment, chosen.trainer, mix=built.mix)
        next(epochs)  # constants go up once
        seen.clear()
        epoch = next(epochs)
        waits = list(seen.waits)

        model, data, numerics = built.state.best_model, built.data, built.state.numerics
        logits = predict(model, data, data.test, numerics, batch_size=4)
        figures = score(logits, data.test.labels, "test")
        figures |= tta_acc(model, data, "test", numerics, chosen.trainer)
        figures["test/balanced_acc"] = balanced_acc(logits.argmax(1), data.test.labels)
        predictions = Predictions.of(data.test.labels, logits)
        layer = cam_module(model, chosen.analysis.layer or cfg.model.cam_layer, data.image_size)
        rows, method = torch.arange(3), chosen.analysis.method
        maps = cams(model, layer, data, data.test.to("cpu"), predictions, rows, method=method)
        summary = summarize(model, data.image_size)
    # GradScaler asks once a step whether the gradients are finite; a fused optimizer sees for itself.
    asked = "fp16" in words and not built.state.optimizer.defaults.get("fused")
    assert len(waits) == READS + STEPS * asked, "\n".join(waits)
    assert epoch.step == 2 * STEPS
    assert {tensor.device.type for tensor in [logits, *model.state_dict().values()]} == {"cuda"}
    assert figures["test/acc"] == predictions.hits.double().mean()
    assert len(maps.grids[0]) == 3
    assert "parameters" in summary


# Kernels and copies up that a block may take, whatever its size; a few more than were counted.
BLOCK = {
    "none": (0, 0),
    "flip": (5, 3),
    "shift": (4, 2),
    "crop_flip": (8, 4),
    "mixup": (8, 4),  # what mixes labels comes later, once a batch
    "cutmix": (8, 4),
    "mixup_or_cutmix": (8, 4),
    "crop_cutout": (14, 3),
    "cutout": (16, 5),
    "coarse_dropout_crop": (22, 9),
    "one_of_crop_cutout": (22, 9),
    "rotate_cutout": (40, 10),
    "eva_rotate_hue_cutout": (120, 14),
    "trivialaugment": (200, 45),
    "randaugment": (370, 80),
}


@pytest.mark.parametrize("words", options("aug"))
def test_a_block_takes_few_kernels_and_copies_whatever_its_size_and_no_wait(words: str):
    augment = build.augment(compose([words, "data=digits", "data.image_size=16"]))
    counts = []
    with pretend_cuda() as seen:
        for size in (256, 1024, 4096):
            images = torch.zeros(size, 3, 16, 16, dtype=torch.uint8, device="cuda")
            seen.clear()
            augment(images, picture_keys(size, torch.Generator().manual_seed(0)))
            counts.append((len(seen.kernels), len(seen.uploads)))
            assert not seen.waits
    _, small, large = counts  # with the first, constants go up
    assert small == large
    kernels, uploads = BLOCK.get(words.partition("=")[2], (400, 100))
    assert large[0] <= kernels
    assert large[1] <= uploads


# Kernels that a step may take for a ResNet-18, one of foreach counted as one. Slow weights move one by one.
STEP = {"sgd": 1, "adam": 2, "adamw": 2, "nadam": 10, "rmsprop": 10, "lookahead": 135, "muon": 149}


@pytest.mark.parametrize("words", options("optimizer"))
def test_a_step_and_the_moving_average_take_few_kernels_and_no_wait(words: str):
    narrow = ["model=resnet18", "model.width=8"]  # its number of shapes is that of any width
    cfg = compose([words, *narrow, "trainer.ema_decay=0.9", "trainer.batch_size=8", "trainer.threads=1"])
    with pretend_cuda() as seen:
        state = build.training(cfg, data=DATA).state
        for _ in range(5):  # slow weights move with the fifth
            for parameter in state.model.parameters():
                parameter.grad = torch.ones_like(parameter)
            seen.clear()
            state.optimizer.step()
            step = len(seen.kernels)
            state.ema.update_parameters(state.model)
            average = len(seen.kernels) - step
        assert not seen.waits
        assert not seen.uploads
    assert step <= STEP.get(words.partition("=")[2], 150)
    assert average <= 8


RUN = [
    *("experiment=quickstart", "data.image_size=16", "model.width=2", "aug=shift", "tracking=none"),
    *("trainer.epochs=1", "trainer.batch_size=256", "trainer.precision=fp32", "trainer.threads=1"),
    *(
        "trainer.ema_decay=0.9",
        "trainer.keep=all",
        "analysis=light",
        "analysis.sheet_size=4",
        "analysis.watch=4",
    ),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a whole run on the pretended GPU."""
    folder = tmp_path_factory.mktemp("pretended") / "run"
    with pretend_cuda():
        run(compose(RUN), folder)
    return folder


def test_a_run_goes_from_its_configuration_to_its_report_on_cuda(finished: Path):
    assert json.loads((finished / "result.json").read_text())["status"] == "finished"
    assert json.loads((finished / "environment.json").read_text())["device"].startswith("cuda")
    assert (finished / "analysis" / "report.html").exists()


def test_a_run_of_cuda_is_evaluated_alike_on_cuda_and_where_there_is_none(finished: Path, tmp_path: Path):
    figures = json.loads((finished / "result.json").read_text())["metrics"]
    with pretend_cuda():
        _, there = evaluate(request(finished, ["trainer.device=cuda"]), tmp_path / "there")
    _, here = evaluate(request(finished, ["trainer.device=cpu"]), tmp_path / "here")
    assert here["acc"] == there["acc"] == figures["test/acc"]
    assert here["loss"] == pytest.approx(figures["test/loss"], rel=1e-5)


def test_a_run_of_cuda_is_trained_longer(finished: Path, tmp_path: Path):
    with pretend_cuda():
        resume(finished, ["trainer.epochs=2", "analysis.level=none", f"hydra.run.dir={tmp_path / 'longer'}"])
    assert json.loads((tmp_path / "longer" / "result.json").read_text())["epochs"] == 2


def test_pictures_are_predicted_on_cuda(finished: Path, tmp_path: Path):
    Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save(tmp_path / "picture.png")
    answers = []
    for device in ("cuda", "cpu"):
        with pretend_cuda() if device == "cuda" else nullcontext():
            predictor = prediction.load(finished, device=device)
            ((_, line),) = prediction.predict_files(predictor, [tmp_path / "picture.png"], sheet_size=1)
            answers.append(line)
    assert answers[0] == answers[1]


def test_the_other_tools_run_on_cuda(tmp_path: Path):
    cfg = compose([*RUN, "trainer.batch_size=8"])
    with pretend_cuda():
        sheets = preview(cfg, tmp_path)
        with suppress(GuardStop):  # so few steps may speak for no lr
            find_lr(cfg, Search(start=1e-4, end=10.0, steps=21, diverge=4.0), tmp_path / "lr.png")
    assert all(path.exists() for path in [*sheets, tmp_path / "lr.png"])
