"""Optimizers without torch's compiler step as torch has them step."""

from types import SimpleNamespace

import pytest
import torch
from torch.optim.optimizer import _use_grad_for_differentiable as of_torch

from cifar_core.train.eager import _with_grad_mode, spare_compiler


def modes(wrap, *, differentiable: bool, before: bool, fails: bool) -> list[bool]:
    """Return whether gradients are taken within a step and after it."""
    seen = []

    def step(self, amount: int) -> int:
        seen.append(torch.is_grad_enabled())
        if fails:
            raise ArithmeticError
        return amount

    optimizer = SimpleNamespace(defaults={"differentiable": differentiable})
    with torch.set_grad_enabled(before):
        try:
            assert wrap(step)(optimizer, amount=3) == 3
        except ArithmeticError:
            assert fails
        return [*seen, torch.is_grad_enabled()]


@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_a_step_takes_gradients_where_torchs_own_does(differentiable: bool, before: bool, fails: bool):
    case = {"differentiable": differentiable, "before": before, "fails": fails}
    assert modes(_with_grad_mode, **case) == modes(of_torch, **case) == [differentiable, before]


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.NAdam])
def test_hooks_and_schedules_go_with_the_step_as_before(kind: type[torch.optim.Optimizer]):
    spare_compiler()
    weight, hooked = torch.nn.Parameter(torch.ones(2)), []
    optimizer = kind([weight], lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    optimizer.register_step_post_hook(lambda *_: hooked.append(weight.detach().clone()))
    weight.grad = torch.ones(2)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    assert weight.grad is None
    assert len(hooked) == 1
    assert (hooked[0] < 1).all()
    copy = kind([weight])
    copy.load_state_dict(optimizer.state_dict())
    assert copy.param_groups[0]["lr"] == pytest.approx(0.01)
