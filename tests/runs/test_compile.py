"""A run whose steps and evaluations are compiled is a run like another."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cifar_core.train.compiled import compiled
from experiments.cli import UserError
from experiments.config.compose import compose
from experiments.runs import story
from experiments.runs.story import run

SMALL = [
    *("experiment=quickstart", "model.width=4", "trainer.epochs=1", "trainer.batch_size=256"),
    *("trainer.eval_batch_size=100", "trainer.ema_decay=0.5", "trainer.device=cpu", "trainer.precision=fp32"),
    *("trainer.threads=1", "tracking=none", "analysis.level=light"),
]
COMPILE = torch.compile


def test_a_network_that_torch_cannot_compile_is_told_in_a_line():
    def failing(*_: Any) -> Callable:
        raise RuntimeError("no compiler here")

    line = "trainer.compile must be false here, .*: .*RuntimeError: no compiler here"
    with pytest.raises(UserError, match=line), story._options_explained():
        COMPILE(lambda images: images + 1, backend=failing)(torch.ones(2))
    torch.compiler.reset()


@pytest.mark.slow
def test_it_says_what_it_gains_on_a_cpu_and_is_tested_explained_and_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def traced(function: Callable, **_: Any) -> Callable:  # all of it but the C++ compiler
        return COMPILE(function, dynamic=False, backend="eager", fullgraph=True)

    monkeypatch.setattr(torch, "compile", traced)
    values = [
        run(compose([*SMALL, f"trainer.compile={how}"]), tmp_path / how)
        for how in ("false", "true", "graphs")
    ]
    compiled.cache_clear()
    torch.compiler.reset()
    assert values[0] == values[1]
    for how, said in (("false", 0), ("graphs", 1)):
        log = (tmp_path / how / "run.log").read_text()
        assert log.count("trainer.compile gains nothing on a CPU") == said
        assert (tmp_path / how / "analysis" / "report.html").exists()
    plain, other = (
        torch.load(tmp_path / how / "best.pt", weights_only=True)["model"] for how in ("false", "graphs")
    )
    assert plain.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in plain.items())
