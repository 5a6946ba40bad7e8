import pytest
import torch
from torch.optim.lr_scheduler import MultiStepLR, OneCycleLR, ReduceLROnPlateau, StepLR

from cifar_core import schedules


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


def test_one_cycle():
    cycle = {"div_factor": 10.0, "final_div_factor": 10.0, "anneal_strategy": "linear"}
    assert lrs(schedules.one_cycle, epochs=3, warmup_epochs=1, **cycle) == pytest.approx(
        [0.1, 1.0, 0.7525, 0.505, 0.2575, 0.01]
    )


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
        (schedules.one_cycle, {"pct_start": 2}, "pct_start must be in"),
    ],
)
def test_laws(schedule, options, message):
    with pytest.raises(ValueError, match=message):
        schedule(optimizer(), epochs=4, steps_per_epoch=2, **options)


def test_state_goes_on(tmp_path):
    """Saved after three of eight steps and loaded into a fresh schedule, every schedule goes on as before."""
    for schedule, options in [
        (schedules.cosine, {"warmup_epochs": 1}),
        (schedules.one_cycle, {}),
        (schedules.plateau, {"patience": 0, "warmup_epochs": 2}),
    ]:
        opt = optimizer()
        scheduler = schedule(opt, epochs=4, steps_per_epoch=2, **options)
        for _ in range(3):
            opt.step()
            scheduler.step()
        torch.save([opt.state_dict(), scheduler.state_dict()], tmp_path / "state.pt")
        other = optimizer()
        resumed = schedule(other, epochs=4, steps_per_epoch=2, **options)
        for part, state in zip((other, resumed), torch.load(tmp_path / "state.pt"), strict=True):
            part.load_state_dict(state)
        for _ in range(4):
            assert other.param_groups[0]["lr"] == opt.param_groups[0]["lr"]
            for each_opt, each in ((opt, scheduler), (other, resumed)):
                each_opt.step()
                each.step()
