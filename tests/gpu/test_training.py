"""A GPU trains as a CPU does: steps, averages, whole epochs, checkpoints, maps; and no epoch waits for it."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cifar_core.augment.protocol import Augment
from cifar_core.data.split import Data, Split
from cifar_core.explain.cams import cam_module
from cifar_core.explain.gradcam import grad_cam
from cifar_core.models.resnet import resnet20
from cifar_core.train import checkpoint
from cifar_core.train.loop import train
from cifar_core.train.numerics import numerics
from cifar_core.train.schedules import cosine
from cifar_core.train.settings import TrainerSettings
from cifar_core.train.state import TrainState, start, steps_per_epoch
from experiments.config import build
from experiments.config.compose import compose
from tests.augment.test_recipes import RECIPES
from tests.conftest import PROJECT, trainer_settings
from tests.models.test_models import NAMES, make_narrow, option

pytestmark = pytest.mark.gpu

OPTIMIZERS = sorted(path.stem for path in (PROJECT / "conf" / "optimizer").glob("*.yaml"))
STEPS = 6  # of an epoch


class Exact(nn.Module):
    """A network that computes in float64, in which the order of a sum changes next to nothing."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net.double()

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.double())


def split(count: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (count,), generator=generator)
    noise = torch.randint(96, (count, 3, 32, 32), generator=generator)
    return Split((noise + labels.view(-1, 1, 1, 1) * 16).to(torch.uint8), labels, torch.arange(count), None)


def made() -> Data:
    names = tuple(f"class {label}" for label in range(10))
    return Data(
        "made", names, split(32 * STEPS, 0), split(40, 1), split(40, 2), (120.0,) * 3, (60.0,) * 3, ""
    )


def options(device: torch.device, **changes: Any) -> TrainerSettings:
    small = {"epochs": 2, "batch_size": 32, "precision": "fp32", "device": str(device)}
    return trainer_settings(**(small | changes))


def begun(settings: TrainerSettings, model: nn.Module, optimizer: str) -> TrainState:
    """Return the state before the first epoch, as a run builds it."""
    hardware = numerics(settings)
    hardware.place(model)
    made_by = build.optimizer(compose([f"optimizer={optimizer}"]), model.named_parameters())
    steps = steps_per_epoch(32 * STEPS, settings)
    schedule = cosine(made_by, epochs=settings.epochs, steps_per_epoch=steps)
    return start(model, made_by, schedule, numerics=hardware, seed=3, ema_decay=settings.ema_decay)


def augmentation(name: str) -> Augment:
    return build.augment(compose([f"aug={name}", "data=cifar10"]))


def relative(ours: Tensor, reference: Tensor) -> float:
    """The largest difference as a share of the largest value."""
    ours, reference = ours.detach().cpu().double(), reference.detach().double()
    return float((ours - reference).abs().max() / reference.abs().max().clamp(min=1e-12))


def tensors(state: TrainState) -> list[Tensor]:
    both = [state.model, *([state.ema.module] if state.ema else [])]
    return [tensor for model in both for tensor in model.state_dict().values()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_takes_the_steps_of_the_cpu(name, dtype, device):
    torch.manual_seed(0)
    net = resnet20(num_classes=10, width=8).to(dtype)
    nets = [net, copy.deepcopy(net).to(device)]
    optimizers = [build.optimizer(compose([f"optimizer={name}"]), each.named_parameters()) for each in nets]
    before = copy.deepcopy(net)
    for number in range(STEPS):
        generator = torch.Generator().manual_seed(number)
        for pair in zip(*(each.parameters() for each in nets), strict=True):
            gradient = torch.randn(pair[0].shape, generator=generator, dtype=torch.float64).to(dtype)
            for parameter in pair:
                parameter.grad = gradient.to(parameter.device)
        for optimizer in optimizers:
            optimizer.step()
    bound = 1e-9 if dtype == torch.float64 else 1e-3
    bound = 5e-2 if name == "muon" else bound  # it multiplies in bfloat16
    for own, other, old in zip(*(each.parameters() for each in nets), before.parameters(), strict=True):
        assert relative(other.detach().cpu() - old, own - old) < bound


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_an_epoch_on_a_gpu_is_that_of_a_cpu(optimizer, device):
    changes = {"ema_decay": 0.8, "grad_clip": 1.0, "accumulate": 2, "alternating_flip": True}
    states, results = [], []
    for place in (torch.device("cpu"), device):
        settings = options(place, label_smoothing=0.1, **changes)
        torch.manual_seed(1)
        state = begun(settings, Exact(resnet20(num_classes=10, width=4)), optimizer)
        results.append(list(train(state, made().to(place), augmentation("cutout"), settings)))
        states.append(state)
    for own, other in zip(*results, strict=True):
        assert other.metrics == pytest.approx(own.metrics, rel=1e-3)
        assert other.lr == own.lr
    for own, other in zip(*map(tensors, states), strict=True):
        assert relative(other, own) < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_grad_cam_on_a_gpu_is_that_of_a_cpu(name, device):
    torch.manual_seed(0)
    model = make_narrow(name).double().eval()  # in float32 a map of little contrast shows the roundings
    images = torch.randn(6, 3, 32, 32, dtype=torch.float64)
    targets = [torch.arange(6), torch.arange(6).flip(0)]
    maps = []
    for place in ("cpu", device):
        placed = copy.deepcopy(model).to(place)
        layer = cam_module(placed, option(name)["cam_layer"], 32)
        maps.append(grad_cam(placed, layer, images.to(place), [each.to(place) for each in targets]))
    for own, other in zip(*maps, strict=True):
        assert other.shape == own.shape
        assert (other.cpu() - own).abs().max() < 1e-3  # of 1: a map is stretched to [0, 1]


def test_a_checkpoint_goes_from_cpu_to_gpu_and_back(device, tmp_path: Path):
    """Three epochs on CPU, GPU, CPU end as three on the CPU."""

    def epoch(place: torch.device | str, path: Path | None) -> TrainState:
        place = torch.device(place)
        settings = options(place, epochs=3, ema_decay=0.8)
        torch.manual_seed(1)
        state = begun(settings, Exact(resnet20(num_classes=10, width=4)), "adamw")
        if path:
            state.load_state_dict(checkpoint.load(path, place))
        next(train(state, made().to(place), augmentation("crop_flip"), settings))
        checkpoint.save(tmp_path / f"{place.type}{state.epoch}.pt", state.state_dict())
        return state

    def last(*places: torch.device | str) -> TrainState:
        path = None
        for place in places:
            state = epoch(place, path)
            path = tmp_path / f"{state.numerics.device.type}{state.epoch}.pt"
        return state

    moved, stayed = last("cpu", device, "cpu"), last("cpu", "cpu", "cpu")
    assert (moved.epoch, moved.step) == (stayed.epoch, stayed.step) == (3, 3 * STEPS)
    for other, own in zip(tensors(moved), tensors(stayed), strict=True):
        assert relative(other, own) < 1e-3


@contextmanager
def waits_forbidden(device: torch.device) -> Iterator[Any]:
    """Yield a function (bool) that has every wait for the GPU raise, or again none."""

    def forbid(yes: bool) -> None:
        if device.type == "cuda":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it is called a prototype
                torch.cuda.set_sync_debug_mode("error" if yes else "default")

    try:
        yield forbid
    finally:
        forbid(False)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_no_optimizer_waits_for_the_gpu(optimizer, device):
    assert_no_waits(optimizer, "cutout", device, ema_decay=0.9, grad_clip=1.0, accumulate=2)


@pytest.mark.parametrize("recipe", RECIPES)
def test_no_recipe_waits_for_the_gpu(recipe, device):
    assert_no_waits("sgd", recipe, device, alternating_flip=True)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # a compiler's advice
@pytest.mark.parametrize("mode", [True, "graphs"])
def test_no_compiled_step_waits_for_the_gpu(mode, device):
    assert_no_waits("sgd", "cutout", device, compile=mode, ema_decay=0.9)


def assert_no_waits(optimizer: str, recipe: str, device: torch.device, **changes: Any) -> None:
    """Train two epochs in which any wait raises, up to the last batch, after which figures are read."""
    settings = options(device, precision="bf16", **changes)
    state = begun(settings, resnet20(num_classes=10, width=4), optimizer)
    batches = 0
    with waits_forbidden(device) as forbid:

        def watch() -> None:
            nonlocal batches
            batches += 1
            if batches == STEPS:
                forbid(False)

        cfg = compose([f"aug={recipe}", "data=cifar10"])
        epochs = train(
            state,
            made().to(device),
            build.augment(cfg),
            settings,
            mix=build.mix(cfg, num_classes=10),
            between_batches=watch,
        )
        for number in range(settings.epochs):
            batches = 0
            forbid(number > 0)  # the first epoch makes constants and chooses algorithms
            assert next(epochs).step == (number + 1) * STEPS // settings.accumulate


def test_a_wait_would_be_seen(device):
    """What the tests above rely on: reading a number raises while waits are forbidden."""
    numbers = torch.ones(3, device=device)
    if device.type != "cuda":
        pytest.skip("a CPU waits for nothing")
    with waits_forbidden(device) as forbid:
        forbid(True)
        with pytest.raises(RuntimeError, match="synchron"):
            numbers.sum().item()
