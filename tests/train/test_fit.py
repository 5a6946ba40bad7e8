"""A training in one call is the training of a run."""

import copy
from functools import partial

import pytest
import torch
import yaml
from torch import nn

from cifar_core.augment.uniforms import uniforms
from cifar_core.data.split import Data, Split
from cifar_core.train import fit as fit_module
from cifar_core.train import schedules
from cifar_core.train.fit import CALLERS, fit
from cifar_core.train.loop import EpochResult, train
from cifar_core.train.numerics import numerics
from cifar_core.train.settings import TrainerSettings
from cifar_core.train.state import start, steps_per_epoch
from tests.conftest import PROJECT

SETTINGS = {"epochs": 3, "batch_size": 8, "device": "cpu", "precision": "fp32", "progress": False}


def split(count: int, seed: int) -> Split:
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=rng)
    noise = torch.randint(64, (count, 3, 8, 8), generator=rng)
    images = (noise + labels.view(-1, 1, 1, 1) * 48).to(torch.uint8)
    return Split(images, labels, torch.arange(count), None)


DATA = Data("made", tuple("abcd"), split(50, 0), split(20, 1), split(30, 2), (100.0,) * 3, (60.0,) * 3, "0")


def noisy(images: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    return images ^ (uniforms(keys, images[0].numel()) * 8).to(torch.uint8).view_as(images)


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(32, 4))


def figures(results: list[EpochResult]) -> list[dict[str, float]]:
    return [{key: value for key, value in r.row.items() if "second" not in key} for r in results]


def as_a_run_does(model: nn.Module, seed: int, **changes) -> tuple[list[EpochResult], nn.Module]:
    """Train by `start` and `train`, with the optimizer and the schedule of conf/."""
    settings = TrainerSettings(**(SETTINGS | changes))
    hardware = numerics(settings)
    values = yaml.safe_load((PROJECT / "conf/optimizer/sgd.yaml").read_text())
    for key in ("_target_", "decay_norm_bias"):
        del values[key]
    optimizer = torch.optim.SGD(hardware.place(model).parameters(), **values)
    values = yaml.safe_load((PROJECT / "conf/scheduler/cosine.yaml").read_text())
    del values["_target_"]
    steps = steps_per_epoch(len(DATA.train), settings)
    schedule = schedules.cosine(optimizer, epochs=settings.epochs, steps_per_epoch=steps, **values)
    state = start(model, optimizer, schedule, numerics=hardware, seed=seed, ema_decay=settings.ema_decay)
    return list(train(state, DATA, noisy, settings)), state.best_model


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_a_call_gives_the_epochs_and_weights_of_a_run(ema_decay):
    model = net()
    mine = list(fit(model, DATA, augment=noisy, seed=3, ema_decay=ema_decay, **SETTINGS))
    results, best = as_a_run_does(net(), 3, ema_decay=ema_decay)
    assert figures(mine) == figures(results)
    assert [r.epoch for r in mine] == [1, 2, 3]
    for name, tensor in best.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_the_optimizer_and_the_schedule_are_those_of_conf():
    sgd = yaml.safe_load((PROJECT / "conf/optimizer/sgd.yaml").read_text())
    assert sgd.pop("_target_") == "torch.optim.SGD"
    assert sgd.pop("decay_norm_bias") is True
    assert (fit_module.sgd.func, fit_module.sgd.keywords) == (torch.optim.SGD, sgd)
    cosine = yaml.safe_load((PROJECT / "conf/scheduler/cosine.yaml").read_text())
    assert cosine.pop("_target_") == "cifar_core.train.schedules.cosine"
    assert (fit_module.cosine.func, fit_module.cosine.keywords) == (schedules.cosine, cosine)


def test_an_optimizer_and_a_schedule_of_ones_own_are_used():
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    scheduler = partial(schedules.step, step_size=1, gamma=0.5)
    results = list(fit(model, DATA, optimizer=optimizer, scheduler=scheduler, **SETTINGS))
    assert [r.lr for r in results] == pytest.approx([0.02, 0.01, 0.005])
    assert len(optimizer.state) == len(list(model.parameters()))


def test_without_an_augmentation_pictures_stay_as_they_are():
    seen = []
    model = net()
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    next(fit(model, DATA, **SETTINGS))
    shown = torch.cat(seen[:6])  # the training batches; the evaluation comes after them
    normalized = DATA.normalize(DATA.train.images)
    assert all((normalized == picture).flatten(1).all(1).any() for picture in shown)


def test_frozen_parameters_stay_until_the_loop_thaws_them():
    model = net()
    model[0].requires_grad_(False)
    weights = []
    for _ in fit(model, DATA, **SETTINGS):
        weights.append(copy.deepcopy(model.state_dict()))
        model[0].requires_grad_(len(weights) == 2)
    first, second, third = (each["0.weight"] for each in weights)
    assert torch.equal(first, net()[0].weight)
    assert torch.equal(second, first)
    assert not torch.equal(third, first)
    assert not torch.equal(weights[0]["6.weight"], net()[6].weight)


def test_a_loop_that_is_left_early_leaves_the_average_of_the_weights():
    model = net()
    for _ in fit(model, DATA, augment=noisy, seed=3, ema_decay=0.5, **SETTINGS):
        fast = copy.deepcopy(model.state_dict())
        break
    settings = TrainerSettings(**(SETTINGS | {"ema_decay": 0.5}))
    other = net()
    hardware = numerics(settings)
    optimizer = fit_module.sgd(other.parameters())
    schedule = fit_module.cosine(optimizer, epochs=3, steps_per_epoch=6)
    state = start(other, optimizer, schedule, numerics=hardware, seed=3, ema_decay=0.5)
    next(train(state, DATA, noisy, settings))
    assert torch.equal(model.state_dict()["6.weight"], state.best_model.state_dict()["6.weight"])
    assert not torch.equal(model.state_dict()["6.weight"], fast["6.weight"])


@pytest.mark.parametrize("name", CALLERS)
def test_a_setting_without_effect_is_refused_at_the_call(name):
    with pytest.raises(TypeError, match=f"fit\\(\\) takes no {name}"):
        fit(net(), DATA, **SETTINGS, **{name: getattr(TrainerSettings(), name)})


def test_a_wrong_setting_is_refused_at_the_call():
    with pytest.raises(ValueError, match="trainer.epochs must be at least 1, got 0"):
        fit(net(), DATA, epochs=0)
    with pytest.raises(ValueError, match="at most the 50 training pictures, got 128: trainer.batch_size=32"):
        fit(net(), DATA, device="cpu")
