import copy
import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from cifar_core.train import loop, schedules
from cifar_core.train import state as state_module
from cifar_core.train.lr_range import (
    SKIPPED,
    NoSuggestionError,
    RangeTest,
    lr_range_test,
    range_plot,
    suggest,
)
from tests.train.test_loop import FP32, SETTINGS, data, net, noisy, same  # noqa: F401

SHORT = {"start": 1e-4, "end": 10.0, "steps": 30}


def begin(made, settings=SETTINGS, *, model=None, schedule=schedules.cosine, optimizer=None, **options):
    torch.manual_seed(0)
    model = FP32.place(model or net())
    optimizer = optimizer(model) if optimizer else torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    steps = state_module.steps_per_epoch(len(made.train), settings)
    scheduler = schedule(optimizer, epochs=settings.epochs, steps_per_epoch=steps, **options)
    return state_module.start(
        model, optimizer, scheduler, numerics=FP32, seed=0, ema_decay=settings.ema_decay
    )


def everything(state) -> list[torch.Tensor | float | bool | None]:
    """Return all that a range test could change, flat."""
    found = [torch.get_rng_state(), state.epoch, state.step]
    found += [module.training for module in state.model.modules()]
    found += [parameter.grad for parameter in state.model.parameters()]

    def walk(node):
        if isinstance(node, dict):
            for key in node:
                found.append(str(key))
                walk(node[key])
        elif isinstance(node, (list, tuple)):
            for each in node:
                walk(each)
        else:
            found.append(node)

    walk(copy.deepcopy(state.state_dict()))
    return found


def assert_equal(before, after):
    assert len(before) == len(after)
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_lr_rises_exponentially_from_start_to_end(data):  # noqa: F811
    seen = lr_range_test(begin(data), data, same, SETTINGS, **SHORT, diverge=1e9)
    assert seen.lrs == pytest.approx(np.geomspace(1e-4, 10, 30).tolist())
    assert len(seen.losses) == len(seen.smoothed) == 30
    assert seen.ended == ""


def test_smoothed_loss_is_the_weighted_mean_of_the_past():
    seen = RangeTest(smoothing=0.8)
    losses = torch.rand(12, generator=torch.Generator().manual_seed(0)).tolist()
    for step, loss in enumerate(losses):
        seen.add(0.1, loss)
        weights = 0.8 ** np.arange(step, -1, -1)
        assert seen.smoothed[-1] == pytest.approx(np.average(losses[: step + 1], weights=weights))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_is_the_trainings_own(data, accumulate: int):  # noqa: F811
    """Under a constant lr, losses are those that `train` sees: same batches, augmentation, clipping."""
    settings = dataclasses.replace(
        SETTINGS, accumulate=accumulate, label_smoothing=0.1, grad_clip=0.5, epochs=20
    )
    losses = []

    def recorded(logits, targets):
        losses.append(nn.functional.cross_entropy(logits, targets, label_smoothing=0.1))
        return losses[-1]

    state = begin(data, settings, schedule=schedules.constant)
    for result in loop.train(state, data, noisy, settings, criterion=recorded):
        if result.step >= 21:
            break
    expected = torch.stack(losses).view(-1, accumulate).mean(1).tolist()[:21]
    options = {"start": 0.1, "end": 0.1 * (1 + 1e-12), "steps": 21}
    seen = lr_range_test(begin(data, settings), data, noisy, settings, **options)
    assert seen.losses == pytest.approx(expected, rel=1e-5)


def test_every_group_keeps_its_ratio_and_a_cycled_momentum_its_base(data):  # noqa: F811
    seen = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            seen.append([(group["lr"], group["momentum"]) for group in self.param_groups])
            return super().step(closure)

    def optimizer(model):
        conv, *others = model.parameters()
        groups = [{"params": [conv], "lr": 0.2}, {"params": others, "lr": 0.02}]
        return Watched(groups, momentum=0.9)

    state = begin(data, optimizer=optimizer, schedule=schedules.one_cycle, base_momentum=0.7)
    test = lr_range_test(state, data, same, SETTINGS, **SHORT)
    assert [first[0] for first, _ in seen] == pytest.approx(test.lrs)
    assert [second[0] for _, second in seen] == pytest.approx([lr / 10 for lr in test.lrs])
    assert {momentum for groups in seen for _, momentum in groups} == {0.7}


class Interrupted(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("schedule", [schedules.one_cycle, schedules.plateau, schedules.linear])
@pytest.mark.parametrize("interrupted", [False, True])
def test_everything_is_as_before(data, schedule, interrupted: bool):  # noqa: F811
    """In the midst of a training with dropout, EMA, momentum buffers, a frozen norm and gradients waiting."""
    settings = dataclasses.replace(SETTINGS, ema_decay=0.9)
    options = {"model": net(dropout=0.5), "schedule": schedule}
    state = begin(data, settings, **options)
    next(loop.train(state, data, noisy, settings))
    state.model[1].eval()
    state.model(data.normalize(data.train.images[:4])).sum().backward()
    calls = []

    def interrupt():
        calls.append(1)
        if interrupted and len(calls) == 12:
            raise Interrupted

    before = everything(state)
    if interrupted:
        with pytest.raises(Interrupted):
            lr_range_test(state, data, noisy, settings, **SHORT, between_batches=interrupt)
    else:
        lr_range_test(state, data, noisy, settings, **SHORT, between_batches=interrupt)
    assert len(calls) >= 12
    assert_equal(before, everything(state))


def test_a_training_goes_on_as_if_there_had_been_no_test(data):  # noqa: F811
    results = []
    for tested in (False, True):
        torch.manual_seed(0)
        state = begin(data, model=net(dropout=0.5))
        if tested:
            lr_range_test(state, data, noisy, SETTINGS, **SHORT)
        results.append([result.metrics for result in loop.train(state, data, noisy, SETTINGS)])
    assert results[0] == results[1]


def test_a_loss_that_diverges_ends_it(data):  # noqa: F811
    bare = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    options = SHORT | {"end": 1e4, "steps": 60}
    seen = lr_range_test(begin(data, model=bare), data, same, SETTINGS, **options)
    assert len(seen.lrs) < 60
    assert "above 4 times its best" in seen.ended
    assert seen.smoothed[-1] > 4 * min(seen.smoothed) >= max(seen.smoothed[:-1])


def test_a_loss_that_is_not_finite_ends_it_and_is_not_kept(data):  # noqa: F811
    def broken(logits, targets):
        return logits.sum() * math.nan

    seen = lr_range_test(begin(data), data, same, SETTINGS, **SHORT, criterion=broken)
    assert (seen.lrs, seen.ended) == ([], "the loss was nan at lr 0.0001")
    with pytest.raises(NoSuggestionError, match="after 0 steps .the loss was nan"):
        suggest(seen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": 0.0}, "0 < start < end, got start=0.0"),
        ({"start": 2.0, "end": 1.0}, "0 < start < end"),
        ({"end": math.inf}, "0 < start < end"),
        ({"steps": 20}, "steps above 20, got 20"),
        ({"smoothing": 1.0}, "smoothing in"),
        ({"diverge": 1.0}, "diverge above 1"),
    ],
)
def test_laws(data, options, message):  # noqa: F811
    with pytest.raises(ValueError, match=message):
        lr_range_test(begin(data), data, same, SETTINGS, **options)


def test_an_lr_of_zero_has_no_ratios(data):  # noqa: F811
    state = begin(data, optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.0))
    before = everything(state)
    with pytest.raises(ValueError, match="optimizer.lr must be above 0"):
        lr_range_test(state, data, same, SETTINGS)
    assert_equal(before, everything(state))


def curve(losses, smoothing=0.0) -> RangeTest:
    seen = RangeTest(smoothing)
    for lr, loss in zip(np.geomspace(1e-6, 10, len(losses)).tolist(), losses, strict=True):
        seen.add(lr, float(loss))
    return seen


def test_suggestions_of_a_curve_that_is_known():
    """A logistic fall centred at lr 1e-3, then a rise from 0.1 on."""
    x = np.linspace(-6, 1, 141)
    found = suggest(curve(2.3 - 1.5 / (1 + np.exp(-4 * (x + 3))) + 3 * np.maximum(0, x + 1)))
    assert found.steepest == pytest.approx(1e-3)
    assert found.minimum == pytest.approx(0.1)
    assert found.tenth == pytest.approx(0.01)


def test_noise_is_no_fall():
    for seed in range(50):
        losses = 2.3 + 0.2 * np.random.default_rng(seed).standard_normal(100)
        with pytest.raises(NoSuggestionError, match="never falls clearly"):
            suggest(curve(losses, smoothing=0.95))


@pytest.mark.parametrize(
    "losses", [np.full(100, 2.3), np.linspace(2.3, 2.29, 100), np.linspace(2.3, 9, 100)], ids=str
)
def test_a_flat_or_rising_loss_is_no_fall(losses):
    with pytest.raises(NoSuggestionError, match="never falls clearly"):
        suggest(curve(losses))


def test_the_plot_has_the_curve_the_marks_and_both_axes_named():
    seen = curve(3 - np.sin(np.linspace(0, 3, 100)))
    (axes,) = range_plot(seen, suggest(seen), "a title").axes
    assert axes.get_xscale() == "log"
    assert axes.get_xlabel()
    assert axes.get_ylabel()
    drawn = {line.get_label(): line.get_xdata() for line in axes.lines}
    assert [name.split(":")[0] for name in drawn] == [
        "loss of each step",
        "smoothed loss",
        "steepest fall",
        "a tenth of the lr at the minimum",
        "minimum",
    ]
    assert len(range_plot(RangeTest(0.9), None, "nothing seen").axes) == 1


def digits():
    """Return scikit-learn's digits as a run has them."""
    from cifar_core.data.sources import load_data
    from experiments.config.compose import compose
    from experiments.config.values import settings

    return load_data(settings(compose(["data=digits"])).data)


def digits_net() -> nn.Module:
    """Return the net of torch-lr-finder's MNIST example, for three channels of 32x32."""
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 10, 5), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(10, 20, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(500, 50), nn.ReLU(), nn.Linear(50, 10)),
    )


def their_test(batches, make_optimizer, smooth: float):
    """Return torch-lr-finder's test of the digits net on ``batches``."""
    finders = pytest.importorskip("torch_lr_finder")
    model = FP32.place(digits_net())  # the same kernels as ours: a rounding grows as the loss diverges
    finder = finders.LRFinder(model, make_optimizer(model), nn.CrossEntropyLoss(), device="cpu")
    loader = DataLoader(batches, batch_size=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it reads torch's schedules in a way that torch warns of
        options = {"start_lr": 1e-6, "end_lr": 10, "num_iter": 100, "diverge_th": 5}
        finder.range_test(loader, **options, smooth_f=smooth)
    return finder


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5),
        lambda model: torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-2),
    ],
    ids=["sgd", "adam"],
)
def test_equal_to_torch_lr_finder(make_optimizer):
    """Its MNIST example on digits: the same losses on the same batches, and the same place of the fall.

    Its suggestion is the steepest place of the average. Up to the minimum - after it, it can be a place where
    the average recovers from a divergence - ours is that one less at most the lag of the average.
    """
    made = digits()
    settings = dataclasses.replace(SETTINGS, batch_size=64)
    model, batches = digits_net(), []
    state = begin(made, settings, model=model, optimizer=make_optimizer)

    def recorded(logits, targets):
        batches[-1] = (batches[-1], targets)
        return nn.functional.cross_entropy(logits, targets)

    def record(module, inputs):
        if module.training:
            batches.append(inputs[0])

    model.register_forward_pre_hook(record)
    ours = lr_range_test(state, made, same, settings, diverge=5, criterion=recorded)

    raw = their_test(batches, make_optimizer, smooth=0)
    count = min(len(ours.lrs), len(raw.history["lr"]))
    assert count > 60
    assert raw.history["lr"][:count] == pytest.approx(ours.lrs[:count])
    assert raw.history["loss"][:count] == pytest.approx(ours.losses[:count], rel=1e-3)

    averaged = their_test(batches, make_optimizer, smooth=0.05)
    ahead = [place for place, lr in enumerate(averaged.history["lr"]) if lr <= suggest(ours).minimum]
    falls = np.gradient(averaged.history["loss"])[ahead]
    place = SKIPPED + falls[SKIPPED:].argmin()
    theirs = averaged.history["lr"][place]
    slopes = np.gradient(ours.smoothed)[ahead]
    assert slopes[place] < 0.8 * slopes[SKIPPED:].min() < 0  # noise may make another place steeper still
    lag = ours.smoothing / (1 - ours.smoothing)  # steps that the average comes behind
    assert 1 < theirs / suggest(ours).steepest < (ours.lrs[1] / ours.lrs[0]) ** lag
