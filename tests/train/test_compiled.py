"""What is compiled gives the figures of what is not, once, and leaves the model as it is."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from cifar_core.train.compiled import compiled
from cifar_core.train.fit import fit
from cifar_core.train.settings import TrainerSettings
from tests.train.test_fit import DATA, SETTINGS, figures, net, noisy

# 20 pictures of validation in batches of 7 leave one of 6.
OPTIONS = SETTINGS | {"eval_batch_size": 7, "ema_decay": 0.5, "grad_clip": 1.0, "label_smoothing": 0.1}
COMPILE = torch.compile
MODES = {True: None, "graphs": "reduce-overhead"}


def blend(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return (images + images.roll(1, 0)) / 2, torch.nn.functional.one_hot(labels, 4).float()


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    """Let no test see what another has compiled."""
    yield
    compiled.cache_clear()
    torch.compiler.reset()


def trained(*, dropout: float = 0.2, **changes: Any) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    model = net()
    model[5].p = dropout
    results = figures(list(fit(model, DATA, augment=noisy, seed=3, **(OPTIONS | changes))))
    return results, model.state_dict()


def assert_same(one: tuple[list, dict], other: tuple[list, dict]) -> None:
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()  # no `_orig_mod.`
    assert all(torch.equal(value, other[1][name]) for name, value in one[1].items())


@pytest.mark.parametrize(
    ("how", "mix", "accumulate"), [(True, None, 1), (True, blend, 2), ("graphs", None, 1)]
)
def test_a_step_and_an_evaluation_are_one_graph_each_in_all_epochs(
    monkeypatch: pytest.MonkeyPatch, how: bool | str, mix: Callable | None, accumulate: int
):
    counter = CompileCounter()

    def counting(function: Callable, *, dynamic: bool, mode: str | None) -> Callable:
        assert mode == MODES[how]
        return COMPILE(function, dynamic=dynamic, backend=counter, fullgraph=True)

    options = {"mix": mix, "accumulate": accumulate}
    expected = trained(**options)
    assert counter.frame_count == 0
    monkeypatch.setattr(torch, "compile", counting)
    assert_same(trained(compile=how, **options), expected)
    assert counter.frame_count == 2  # the ragged batches of three epochs are not compiled
    assert_same(trained(compile=how, **options), expected)
    assert counter.frame_count == 2  # nor is another model of the same kind


def test_nothing_is_kept_of_a_graph_that_its_next_replay_overwrites(monkeypatch: pytest.MonkeyPatch):
    """A graph writes its results, gradients included, over those of its last replay."""
    replays = []

    def overwriting(function: Callable, **_: Any) -> Callable:
        last: list[Tensor] = []

        def replay(*args: Any) -> Any:
            model = args[0]
            grads = [p.grad for p in model.parameters() if p.grad is not None]
            for stale in (*last, *grads):
                stale.data.fill_(-1e6)
            result = function(*args)
            last[:] = result if isinstance(result, tuple) else [result]
            replays.append(function.__name__)
            return result

        return replay

    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: replays.append("step"))
    expected = trained()
    monkeypatch.setattr(torch, "compile", overwriting)
    assert_same(trained(compile="graphs"), expected)
    assert replays[::2] == ["step"] * (3 * (6 + 2))  # epochs, batches of training and full ones of evaluation
    assert replays[1::2] == 3 * (["_loss"] * 6 + ["forward"] * 2)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler: there is no g++")
def test_what_a_compiler_makes_of_it_trains_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    expected, _ = trained(dropout=0)  # which a compiler draws otherwise
    results, _ = trained(dropout=0, compile="graphs")
    for one, other in zip(results, expected, strict=True):
        losses = {key: value for key, value in other.items() if not key.endswith("acc")}
        assert {key: one[key] for key in losses} == pytest.approx(losses, rel=1e-4)
        for key in ("train/acc", "val/acc"):
            assert one[key] == pytest.approx(other[key], abs=0.051)  # one of 20 pictures may tip over


def test_without_it_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    trained()


@pytest.mark.parametrize("value", [1, 0, None, "true", "grahps", "", 1.0])
def test_what_it_cannot_be_is_refused(value: object):
    with pytest.raises(ValueError, match=f"trainer.compile must be true, false or graphs, got {value!r}"):
        TrainerSettings(compile=value)


def test_graphs_do_not_gather_gradients():
    with pytest.raises(ValueError, match="trainer.accumulate must be 1 with trainer.compile=graphs, got 2"):
        TrainerSettings(compile="graphs", accumulate=2)
