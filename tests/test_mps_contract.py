"""What the design promises of a Mac's GPU, proved on a pretended one (`tests/pretend_mps.py`)."""

import json
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cifar_core.augment.uniforms import picture_keys
from cifar_core.device import beside, doubles
from cifar_core.explain.cams import cam_module, cams
from cifar_core.explain.predictions import Predictions
from cifar_core.train.loop import train
from cifar_core.train.predict import balanced_acc, predict, score, tta_acc
from experiments.cli import GuardStop
from experiments.config import build
from experiments.config.compose import compose
from experiments.config.values import settings
from experiments.runs.story import resume, run
from experiments.tools import prediction
from experiments.tools.evaluation import evaluate, request
from experiments.tools.lr_search import Search, find_lr
from experiments.tools.preview import preview
from tests.pretend_mps import pretend_mps
from tests.test_cuda_contract import DATA, RUN, SMALL

pytestmark = pytest.mark.slow  # whole runs

MISTAKES: dict[str, tuple[Callable[[], object], type[Exception]]] = {
    "float64": (lambda: torch.zeros(3, device="mps").double(), TypeError),
    "float64, made there": (lambda: torch.zeros(3, dtype=torch.float64, device="mps"), TypeError),
    "a copy up that nobody waits for": (lambda: torch.zeros(3).to("mps", non_blocking=True), RuntimeError),
    "an operation that it lacks": (
        lambda: torch.linalg.eigvals(torch.eye(3, device="mps")),
        NotImplementedError,
    ),
    "what is CUDA's": (lambda: torch.cuda.synchronize(), AssertionError),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_pretended_mac_refuses_what_a_real_one_cannot_do(mistake: str):
    act, error = MISTAKES[mistake]
    with pretend_mps(), pytest.raises(error):
        act()


@pytest.mark.parametrize(
    "words",
    [
        "optimizer=muon aug=mixup_or_cutmix trainer.ema_decay=0.9 trainer.tta=mirror trainer.precision=fp16",
        "optimizer=adamw aug=shift trainer.alternating_flip=true trainer.grad_clip=1 trainer.precision=bf16",
    ],
)
def test_a_training_and_what_explains_it_run_on_mps(words: str):
    narrow = "model=resnet20 model.width=4 trainer.batch_size=8"
    cfg = compose([*words.split(), *narrow.split(), *SMALL])
    chosen = settings(cfg)
    with pretend_mps():
        built = build.training(cfg, data=DATA)
        list(train(built.state, built.data, built.augment, chosen.trainer, mix=built.mix))
        model, data, numerics = built.state.best_model, built.data, built.state.numerics
        logits = predict(model, data, data.test, numerics, batch_size=4)
        assert {tensor.device.type for tensor in [logits, *model.state_dict().values()]} == {"mps"}
        assert all(weight.is_contiguous() for weight in model.state_dict().values())
        figures = score(logits, data.test.labels, "test")
        figures |= tta_acc(model, data, "test", numerics, chosen.trainer)
        balanced = balanced_acc(logits.argmax(1), data.test.labels)
        predictions = Predictions.of(data.test.labels, logits)
        layer = cam_module(model, chosen.analysis.layer or cfg.model.cam_layer, data.image_size)
        maps = cams(model, layer, data, data.test.to("cpu"), predictions, torch.arange(3), method="gradcam++")
    assert figures["test/acc"] == balanced == predictions.hits.double().mean()  # a picture a class
    assert len(maps.grids[0]) == 3


def test_pictures_are_augmented_to_the_bit_as_on_a_cpu():
    augment = build.augment(compose(["aug=eva_rotate_hue_cutout", "data=digits"]))
    images, keys = DATA.train.images, picture_keys(16, torch.Generator().manual_seed(0))
    with pretend_mps():
        there = augment(images.to("mps"), keys)
        assert there.device.type == "mps"
        there = there.cpu()
    assert torch.equal(there, augment(images, keys))


def test_numbers_get_there_whole_and_doubles_come_back():
    with pretend_mps() as seen:
        there = beside(torch.zeros(3, device="mps"), torch.arange(3))
        assert [wait.partition("  ")[0] for wait in seen.waits] == ["blocking copy up"]
        assert doubles(there).device.type == "cpu"
        assert doubles(there).tolist() == [0.0, 1.0, 2.0]
    assert doubles(torch.arange(3)).dtype == torch.float64


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a whole run on the pretended Mac, which `auto` finds."""
    folder = tmp_path_factory.mktemp("pretended") / "run"
    with pretend_mps():
        run(compose(RUN), folder)
    return folder


def test_a_run_goes_from_its_configuration_to_its_report_on_mps(finished: Path):
    assert json.loads((finished / "result.json").read_text())["status"] == "finished"
    noted = json.loads((finished / "environment.json").read_text())
    assert noted["device"] == "mps (pretended Mac), fp32, channels_first"
    assert noted["gpu"] is None
    assert (finished / "analysis" / "report.html").exists()


def test_a_run_of_mps_is_trained_longer_and_evaluated_alike_there_and_on_a_cpu(
    finished: Path, tmp_path: Path
):
    figures = json.loads((finished / "result.json").read_text())["metrics"]
    with pretend_mps():
        resume(finished, ["trainer.epochs=2", "analysis.level=none", f"hydra.run.dir={tmp_path / 'longer'}"])
        _, there = evaluate(request(finished, ["trainer.device=mps"]), tmp_path / "there")
    assert json.loads((tmp_path / "longer" / "result.json").read_text())["epochs"] == 2
    _, here = evaluate(request(finished, ["trainer.device=cpu"]), tmp_path / "here")
    assert here["acc"] == there["acc"] == figures["test/acc"]
    assert here["loss"] == pytest.approx(figures["test/loss"], rel=1e-5)


def test_the_tools_run_on_mps(finished: Path, tmp_path: Path):
    Image.fromarray(np.arange(768, dtype=np.uint8).reshape(16, 16, 3)).save(tmp_path / "picture.png")
    answers = []
    for device in ("mps", "cpu"):
        with pretend_mps() if device == "mps" else nullcontext():
            predictor = prediction.load(finished, device=device)
            ((_, line),) = prediction.predict_files(predictor, [tmp_path / "picture.png"], sheet_size=1)
            answers.append(line)
    assert answers[0] == answers[1]
    cfg = compose([*RUN, "trainer.batch_size=8"])
    with pretend_mps():
        sheets = preview(cfg, tmp_path)
        with suppress(GuardStop):  # so few steps may speak for no lr
            find_lr(cfg, Search(start=1e-4, end=10.0, steps=21, diverge=4.0), tmp_path / "lr.png")
    assert all(path.exists() for path in [*sheets, tmp_path / "lr.png"])
