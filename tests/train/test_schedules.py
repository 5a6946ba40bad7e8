from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import (
    CosineAnnealingWarmRestarts,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)

from cifar_core.train import schedules
from experiments.files import CONF


def optimizer(lr: float = 1.0) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)


def lrs(
    schedule, *, epochs: int = 4, steps: int = 2, accs: list[float] | None = None, **options
) -> list[float]:
    """Return the lr of every optimizer step of a training of ``epochs`` times ``steps``."""
    opt = optimizer()
    scheduler = schedule(opt, epochs=epochs, steps_per_epoch=steps, **options)
    seen = []
    for epoch in range(epochs):
        for _ in range(steps):
            seen.append(opt.param_groups[0]["lr"])
            opt.step()
            scheduler.step()
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(accs[epoch])
    return seen


def test_constant():
    assert lrs(schedules.constant) == [1.0] * 8
    assert lrs(schedules.constant, warmup_epochs=2) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]


def test_step():
    assert lrs(schedules.step, step_size=2, gamma=0.5) == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]
    assert lrs(schedules.step, step_size=2, gamma=0.5, warmup_epochs=1) == [0.5, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]


def test_multistep():
    assert lrs(schedules.multistep, milestones=[1, 3], gamma=0.5) == [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]
    warm = lrs(schedules.multistep, milestones=[1, 3], gamma=0.5, warmup_epochs=0.5)
    assert warm == [1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_cosine():
    assert lrs(schedules.cosine, epochs=2) == pytest.approx([1.0, 0.8535534, 0.5, 0.1464466])
    assert lrs(schedules.cosine, epochs=2, warmup_epochs=2) == [0.25, 0.5, 0.75, 1.0]
    assert lrs(schedules.cosine, epochs=2, final_factor=0.5) == pytest.approx(
        [1.0, 0.9267767, 0.75, 0.5732233]
    )
    assert lrs(schedules.cosine, epochs=3, warmup_epochs=1) == pytest.approx(
        [0.5, 1.0, 1.0, 0.8535534, 0.5, 0.1464466]
    )


def test_linear():
    assert lrs(schedules.linear, epochs=2) == [1.0, 0.75, 0.5, 0.25]
    assert lrs(schedules.linear, epochs=2, final_factor=0.2) == pytest.approx([1.0, 0.8, 0.6, 0.4])
    assert lrs(schedules.linear, epochs=3, warmup_epochs=1) == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert lrs(schedules.linear, epochs=2, warmup_epochs=2) == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(("period", "multiplier", "final"), [(3, 1, 0.0), (1, 2, 0.0), (2, 3, 0.25)])
def test_cosine_restarts_are_torchs(period: int, multiplier: int, final: float):
    """Stepped by fractions of an epoch, as torch's documentation does it, and begun anew after a warm-up."""
    opt = optimizer()
    scheduler = CosineAnnealingWarmRestarts(opt, T_0=period, T_mult=multiplier, eta_min=final)
    expected = []
    for step in range(40):
        scheduler.step(step / 4)
        expected.append(opt.param_groups[0]["lr"])
    options = {"period": period, "multiplier": multiplier, "final_factor": final, "steps": 4}
    assert lrs(schedules.cosine_restarts, epochs=10, **options) == pytest.approx(expected)
    warm = lrs(schedules.cosine_restarts, epochs=12, warmup_epochs=2, **options)
    assert warm == pytest.approx([*np.arange(1, 9) / 8, *expected])


def test_cosine_restarts_begin_each_fall_at_the_full_lr():
    seen = lrs(schedules.cosine_restarts, epochs=7, steps=3, period=1, multiplier=2)
    assert [step for step, lr in enumerate(seen) if lr == 1.0] == [0, 3, 9]


def test_triangle_of_airbench():
    """Its own: numpy's interpolation between the steps 0, int(0.23 * steps) and steps; here 46 of 200."""
    expected = np.interp(np.arange(200), [0, 46, 200], [0.2, 1, 0.07])
    seen = lrs(schedules.triangle, epochs=8, steps=25)
    assert seen == pytest.approx(expected.tolist())
    assert (seen[0], seen[46], max(seen)) == (0.2, 1.0, 1.0)


def test_triangle_of_davidnet():
    """Page's peak is given as an epoch, 5 of 24, between two zeros."""
    options = {"warmup_epochs": 5, "start_factor": 0.0, "final_factor": 0.0}
    seen = lrs(schedules.triangle, epochs=24, steps=3, **options)
    assert seen == pytest.approx(np.interp(np.arange(72) / 3, [0, 5, 24], [0, 1, 0]).tolist())
    assert (seen[0], seen[15], seen[-1]) == (0.0, 1.0, pytest.approx(1 / 57))


def test_triangle_without_a_rise_is_a_line():
    assert lrs(schedules.triangle, epochs=2, pct_start=0, final_factor=0.0) == [1.0, 0.75, 0.5, 0.25]


def test_one_cycle():
    cycle = {"div_factor": 10.0, "final_div_factor": 10.0, "anneal_strategy": "linear"}
    assert lrs(schedules.one_cycle, epochs=3, warmup_epochs=1, **cycle) == pytest.approx(
        [0.1, 1.0, 0.7525, 0.505, 0.2575, 0.01]
    )


@pytest.mark.parametrize("epochs", [1, 2, 3, 10])
@pytest.mark.parametrize("rise", [0.0, 0.1, 1 / 3, 0.5, 0.9])
def test_one_cycle_of_a_few_steps(epochs: int, rise: float):
    """A rise of one step peaks there: torch's own class divides by zero."""
    seen = lrs(schedules.one_cycle, epochs=epochs, steps=1, pct_start=rise, anneal_strategy="linear")
    assert all(0 < lr <= 1 + 1e-9 for lr in seen)
    if round(rise * epochs, 9) == 1:
        assert seen[0] == pytest.approx(1.0, abs=1e-5)


def test_plateau():
    accs = [0.5, 0.5, 0.6, 0.6]
    assert lrs(schedules.plateau, accs=accs, factor=0.5, patience=0) == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]
    warm = lrs(schedules.plateau, accs=accs, factor=0.5, patience=0, warmup_epochs=1)
    assert warm == [0.5, 1, 1, 1, 0.5, 0.5, 0.5, 0.5]


def test_equal_to_torch_stepped_per_epoch():
    """A notebook that steps torch's class once an epoch gets the same lr in every epoch."""
    theirs = {
        (schedules.step, "step_size", 6): lambda opt: StepLR(opt, 6, 0.1),
        (schedules.multistep, "milestones", (17, 22)): lambda opt: MultiStepLR(opt, [17, 22], 0.1),
    }
    for (schedule, option, value), torch_class in theirs.items():
        opt = optimizer()
        scheduler = torch_class(opt)
        expected = []
        for _ in range(25):
            expected.append(opt.param_groups[0]["lr"])
            opt.step()
            scheduler.step()
        assert lrs(schedule, epochs=25, steps=3, **{option: value})[::3] == pytest.approx(expected)


def test_one_cycle_is_torchs():
    opt = optimizer()
    scheduler = OneCycleLR(opt, max_lr=1.0, total_steps=40, pct_start=0.3)
    expected = []
    for _ in range(40):
        expected.append((opt.param_groups[0]["lr"], opt.param_groups[0]["momentum"]))
        opt.step()
        scheduler.step()
    assert lrs(schedules.one_cycle, epochs=20, steps=2) == pytest.approx([lr for lr, _ in expected])


@pytest.mark.parametrize(
    ("schedule", "options", "message"),
    [
        (
            schedules.constant,
            {"warmup_epochs": 5},
            "warmup_epochs must be at least 0 and at most .* 4, got 5",
        ),
        (schedules.constant, {"warmup_epochs": -1}, "warmup_epochs"),
        (schedules.step, {"step_size": 0}, "step_size must be at least 1 epoch, got 0"),
        (schedules.step, {"gamma": 0}, "gamma must be above 0"),
        (schedules.multistep, {"milestones": [3, 1]}, "milestones must be rising epochs"),
        (schedules.cosine, {"final_factor": 2}, "final_factor must be in"),
        (schedules.linear, {"final_factor": -0.1}, "final_factor must be in"),
        (schedules.cosine_restarts, {"period": 0}, "period must be at least 1 epoch, got 0"),
        (schedules.cosine_restarts, {"period": 1, "multiplier": 0.5}, "multiplier must be at least 1"),
        (schedules.cosine_restarts, {"period": 1, "final_factor": 2}, "final_factor must be in"),
        (schedules.triangle, {"start_factor": 2}, "start_factor must be in"),
        (schedules.triangle, {"final_factor": 2}, "final_factor must be in"),
        (schedules.triangle, {"warmup_epochs": 4}, "warmup_epochs must be .* below trainer.epochs, 4, got 4"),
        (schedules.one_cycle, {"pct_start": 1}, "pct_start must be at least 0 and below 1, got 1"),
        (schedules.one_cycle, {"warmup_epochs": 4}, "warmup_epochs must be .* below trainer.epochs, 4"),
        (schedules.one_cycle, {"div_factor": 0}, "div_factor must be above 0"),
        (schedules.one_cycle, {"final_div_factor": 0}, "final_div_factor must be above 0"),
        (schedules.plateau, {"factor": 1}, "factor must be above 0 and below 1, got 1"),
    ],
)
def test_laws(schedule, options, message):
    with pytest.raises(ValueError, match=message):
        schedule(optimizer(), epochs=4, steps_per_epoch=2, **options)


ALL = {  # every schedule, with the options that bring most of it into play
    "constant": {"warmup_epochs": 2},
    "step": {"step_size": 1, "gamma": 0.5, "warmup_epochs": 1},
    "multistep": {"milestones": [1, 3], "warmup_epochs": 0.5},
    "linear": {"warmup_epochs": 1, "final_factor": 0.1},
    "cosine": {"warmup_epochs": 1},
    "cosine_restarts": {"period": 1, "multiplier": 2, "warmup_epochs": 1},
    "triangle": {"warmup_epochs": 2},
    "one_cycle": {"warmup_epochs": 2},
    "plateau": {"factor": 0.5, "patience": 0, "warmup_epochs": 1},
}


def test_all_shipped_schedules_are_tested_here():
    assert {path.stem for path in (CONF / "scheduler").glob("*.yaml")} == set(ALL)


def two_groups() -> torch.optim.SGD:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.01)]
    return torch.optim.SGD(groups, momentum=0.9)


def advance(optimizer, scheduler, steps: range) -> list[tuple[float, ...]]:
    """Take the given steps of two an epoch; return each group's lr and momentum in every one."""
    seen = []
    for step in steps:
        seen.append(tuple(group[key] for group in optimizer.param_groups for key in ("lr", "momentum")))
        optimizer.step()
        scheduler.step()
        if isinstance(scheduler, ReduceLROnPlateau) and step % 2:
            scheduler.step(0.5)
    return seen


@pytest.mark.parametrize("name", ALL)
def test_every_group_keeps_its_own_lr(name: str):
    opt = two_groups()
    scheduler = getattr(schedules, name)(opt, epochs=4, steps_per_epoch=2, **ALL[name])
    assert scheduler.get_last_lr() == [group["lr"] for group in opt.param_groups]
    for first, _, second, _ in advance(opt, scheduler, range(8)):
        assert second == pytest.approx(first / 100)


@pytest.mark.parametrize("stop", range(9))
@pytest.mark.parametrize("name", ALL)
def test_state_goes_on(name: str, stop: int, tmp_path: Path):
    """Saved after any step and loaded into a fresh one, every schedule goes on as if it had not stopped."""

    def begin():
        opt = two_groups()
        return opt, getattr(schedules, name)(opt, epochs=4, steps_per_epoch=2, **ALL[name])

    whole = advance(*begin(), range(8))
    opt, scheduler = begin()
    before = advance(opt, scheduler, range(stop))
    torch.save([opt.state_dict(), scheduler.state_dict()], tmp_path / "state.pt")
    resumed = begin()
    for part, state in zip(resumed, torch.load(tmp_path / "state.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    assert before + advance(*resumed, range(stop, 8)) == whole
    assert len(set(whole)) > 2
