"""Networks that answer otherwise than with logits: said before the first epoch, in any mode and policy."""

from collections import namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cifar_core import guards
from cifar_core.explain.gradcam import grad_cam
from cifar_core.train.predict import check_logits, predict
from tests.test_guards import FP32, made

Aux = namedtuple("Aux", "logits aux")


class Odd(nn.Module):
    """Answers with ``answer(logits)`` in the modes given, with dropout and a norm on the way."""

    def __init__(self, answer: Any, *, training: bool = True, evaluation: bool = True) -> None:
        super().__init__()
        self.conv, self.norm, self.drop, self.fc = (
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.Dropout(),
            nn.Linear(4, 10),
        )
        self.answer, self.modes = answer, {True: training, False: evaluation}

    def forward(self, images: Tensor) -> Any:
        logits = self.fc(self.drop(self.norm(self.conv(images)).mean((2, 3))))
        return self.answer(logits) if self.modes[self.training] else logits


def fails(logits: Tensor) -> Tensor:
    raise RuntimeError("no such\nsize")


HOPELESS = {
    "a tuple": (lambda logits: (logits, logits), "got tuple of 2 ((32, 10), (32, 10))"),
    "a list": (lambda logits: [logits], "got list of 1 ((32, 10))"),
    "a named tuple": (lambda logits: Aux(logits, None), "got Aux of 2 ((32, 10), NoneType)"),
    "a dict": (lambda logits: {"out": logits, "aux": logits}, "got dict of out, aux"),
    "nothing": (lambda logits: None, "got NoneType"),
    "a map": (lambda logits: logits[:, :, None, None], "got (32, 10, 1, 1)"),
    "one row": (lambda logits: logits[0], "got (10,)"),
    "too few classes": (lambda logits: logits[:, :9], "got (32, 9)"),
    "too few pictures": (lambda logits: logits[:9], "got (9, 10)"),
    "sparse": (lambda logits: logits.to_sparse(), "got (32, 10)"),
    "labels": (lambda logits: logits.argmax(1), "got (32,) of int64"),
    "choices": (lambda logits: logits > 0, "got (32, 10) of bool"),
    "an error": (fails, "got RuntimeError (no such size)"),
}


@pytest.mark.parametrize("kind", HOPELESS)
@pytest.mark.parametrize("mode", ["training", "evaluation", "both"])
def test_what_came_is_told_for_the_mode_it_came_in(kind: str, mode: str):
    answer, got = HOPELESS[kind]
    model = Odd(answer, training=mode != "evaluation", evaluation=mode != "training")
    (found,) = guards.check_model(model, made(), FP32)
    assert found.guard == "outputs"
    assert found.always
    assert "\n" not in found.message
    assert f"for 32 pictures, {got}{'' if mode == 'both' else f' in {mode}'}: " in found.message
    for policy in ("stop", "warn", "off"):
        with pytest.raises(guards.GuardError, match=r"^outputs: [^\n]*$"):
            guards.act([found], policy=policy, logged=set())


def test_nan_before_training_ends_the_run_unless_it_is_to_go_on():
    (found,) = guards.check_model(Odd(lambda logits: logits * torch.nan, evaluation=False), made(), FP32)
    assert "got (32, 10) with NaN in training: look at how its weights are made" in found.message
    assert (found.guard, found.stops, found.always) == ("outputs", True, False)


def test_logits_without_a_way_to_the_weights_are_hopeless_and_one_in_evaluation_alone_is_not():
    (found,) = guards.check_model(Odd(lambda logits: logits.detach()), made(), FP32)
    assert "the logits depend on no weight that is trained" in found.message
    with pytest.raises(guards.GuardError) as stop:
        guards.act([found], policy="off", logged=set())
    assert stop.value.hopeless
    assert guards.check_model(Odd(lambda logits: logits.detach(), training=False), made(), FP32) == []


def test_a_class_too_many_can_be_trained_and_is_told():
    model = Odd(lambda logits: torch.cat([logits, logits[:, :1]], 1))
    (found,) = guards.check_model(model, made(), FP32)
    assert (found.guard, found.stops, found.always) == ("outputs", True, False)
    guards.act([found], policy="off", logged=set())


def test_both_modes_leave_the_model_and_the_random_numbers_as_they_were():
    model = Odd(lambda logits: logits)
    model.drop.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    assert guards.check_model(model, made(), FP32) == []
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert (model.training, model.drop.training, model.norm.training) == (True, False, True)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("kind", ["a tuple", "a dict", "a map", "nothing"])
def test_predictions_and_maps_say_what_came(kind: str):
    model, data = Odd(HOPELESS[kind][0]), made()
    with pytest.raises(ValueError, match=r"^the model must return logits \(N, K\) alone"):
        predict(model, data, data.test, FP32, batch_size=32)
    images = data.normalize(data.test.images[:2])
    with pytest.raises(ValueError, match=r"^the model must return logits \(N, K\) alone"):
        grad_cam(model, model.conv, images, [torch.zeros(2, dtype=torch.int64)])


def test_logits_pass():
    logits = torch.zeros(2, 3)
    assert check_logits(logits) is logits
