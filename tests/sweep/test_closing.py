"""The end of a sweep: what it has come to, and what to paste next."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from experiments.runs.result import Result
from experiments.sweep.closing import closing
from experiments.sweep.screen import Screen
from experiments.sweep.trials import Trial


def trial(folder: Path, number: int, lr: str, seed: str, result: Result, commit: str = "a" * 40) -> Trial:
    point = {"optimizer.lr": lr, "seed": seed}
    made = Trial(number, point, {}, f"lr={lr} s{seed}", folder / f"{lr}_{seed}", seeds=2)
    made.write()
    result.write(made.folder)
    (made.folder / "environment.json").write_text(json.dumps({"git": {"commit": commit}}))
    return made


def test_a_sweep_ends_with_its_best_point_its_failures_and_the_command_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    accs = {("1", "0"): (0.5, 0.4), ("1", "1"): (0.7, 0.6), ("2", "0"): (0.3, 0.9), ("2", "1"): (0.2, 0.9)}
    trials = [
        trial(tmp_path, n, *key, Result(metrics={"val/acc_best": val, "test/acc": test}))
        for n, (key, (val, test)) in enumerate(accs.items())
    ]
    assert closing(trials, again=False) == [
        f"best          lr=1  val/acc 60.00 ± 14.14 %, test/acc 50.00 ± 14.14 % (n=2)  {tmp_path / '1_0'}"
    ]
    for lr, error in (("3", "out of memory: use a smaller one"), ("4", "the loss is not finite")):
        for seed in ("0", "1") if lr == "3" else ("0",):
            failed = Result(status="failed", error=error)
            trials.append(trial(tmp_path, len(trials), lr, seed, failed, commit="b" * 40))
    words = ["-m", "optimizer.lr=1,2,3,4", "data.root='a b'", "seed=0,1"]
    monkeypatch.setattr(sys, "orig_argv", ["/x/bin/python", "-m", "experiments.run", *words])
    lines = closing(trials, again=True)
    log = tmp_path / "3_0" / "trial.log"
    assert lines[1:4] == [
        f"failed        2 trials: out of memory: use a smaller one  ({log})",
        f"failed        lr=4 s0: the loss is not finite  ({tmp_path / '4_0' / 'trial.log'})",
        "commits       trials ran with the code of different ones: aaaaaaaaaa (4), bbbbbbbbbb (3)",
    ]
    assert shlex.split(lines[4]) == ["go", "on", Path(sys.executable).name, "-m", "experiments.run", *words]


@pytest.mark.parametrize("name", ["val/acc", "test/acc"])
def test_an_accuracy_is_shown_under_its_name(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The live table has a row for each running trial, too."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    screen = Screen(2)
    metrics = {"val/acc_best": 0.5, "test/acc": 0.6} if name == "val/acc" else {"test/acc": 0.5}
    for number in range(2):
        assert "best" not in capsys.readouterr().err  # a point is judged when all its seeds are there
        done = trial(tmp_path, number, "1", str(number), Result(metrics=metrics))
        (done.folder / "metrics.csv").write_text(f"epoch,{name}\n1,0.7\n2,0.5\n")
        screen.ended(done, done.look())
        screen.show([], 1)
    monkeypatch.setattr(screen, "_next", 0.0)
    screen.show([done], 1)
    ended, summary, row = capsys.readouterr().err.splitlines()[-3:]
    assert ended.endswith(f"lr=1 s1  {name} 50.00%")
    assert f"epoch   2  {name} 50.00%" in row
    assert ("best 70.00%" in row, "best 50.00 ± 0.00 % lr=1" in summary) == (
        name == "val/acc",
        name == "val/acc",
    )


def test_where_nothing_chose_nothing_is_best(tmp_path: Path):
    only = trial(tmp_path, 0, "1", "0", Result(metrics={"test/acc": 0.5}))
    assert closing([only], again=False) == [
        "best          none: there is no validation split (data.val_size=0)"
    ]
    assert closing([], again=False) == []
