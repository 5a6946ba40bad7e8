"""How far a sweep is, and the commands that go on with it, repeat it and extend it."""

import re
import shlex
from pathlib import Path

import pytest

from experiments.cli import command
from experiments.config import arguments
from experiments.config.compose import check_run
from experiments.config.words import value
from experiments.runs.result import Result
from experiments.sweep.commands import extended, repeated, state
from experiments.sweep.home import Home
from experiments.sweep.space import Space
from tests.sweep.conftest import space_of
from tests.sweep.test_controller import control, labels


def begun(folder: Path, *words: str, **options: object) -> tuple[Home, dict[str, str]]:
    """A sweep that has run, and what its command line says by key."""
    space, told = pasted(command("run", *words, "-m"))
    control(folder, space, sampler="grid" if space.discrete else "tpe", **options)
    home = Home(folder)
    home.begin(command("run", *words, "-m"), "grid" if space.discrete else "tpe")
    return home, told


def pasted(line: str) -> tuple[Space, dict[str, str]]:
    """The space of a command line as our parser and Hydra's read it, and its words by key."""
    args = arguments.read(shlex.split(line)[3:])
    assert args.multirun
    keys = {word.partition("=")[0]: word.partition("=")[2] for word in args.overrides}
    assert len(keys) == len(args.overrides)
    zipped = keys.get("sweep.zip", "").strip("[]").split(",")
    return space_of(*args.overrides, zipped=tuple(filter(None, zipped))), keys


def words_without(words: dict[str, str], key: str) -> dict[str, str]:
    return {name: text for name, text in words.items() if name != key}


@pytest.mark.parametrize(
    "seeds",
    ["seed=0,1", "seed=range(3,1,-1)", "seed=0,1 trainer.label_smoothing=0.1 sweep.pruner=median"],
)
def test_a_grid_is_extended_by_one_seed_and_runs_that_alone(tmp_path: Path, seeds: str):
    home, _ = begun(tmp_path, "optimizer.lr=1,2", *seeds.split(), "data.root='a b'")
    line = extended(home, list(home.trials().values()))
    space, _ = pasted(line)
    assert home.check(space.identity(), space.lists) == ["seed"]
    assert space.seeds[0] == {"seed": home.seeds[0]}  # by which a pruner judges
    further = max(map(int, home.seeds)) + 1
    _, backend = control(tmp_path, space)
    assert labels(backend) == [f"lr=1 s{further}", f"lr=2 s{further}"]


def test_a_search_is_extended_by_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    home, _ = begun(tmp_path / "sweeps/1.10", "optimizer.lr=interval(1,2)", "sweep.add_trials=3", n_trials=2)
    space, words = pasted(extended(home, list(home.trials().values())))
    assert home.check(space.identity()) == []
    assert (words["sweep.add_trials"], words["sweep.name"]) == ("20", '"1.10"')


@pytest.mark.parametrize(
    "words",
    [
        ["optimizer.lr=1,2"],
        ["optimizer.lr=1,2", "seed=3"],
        ["optimizer.lr=1,2", "seed=3,4", "sweep.zip=[seed,optimizer.lr]"],
    ],
)
def test_a_grid_without_seeds_of_its_own_is_not_extended(tmp_path: Path, words: list[str]):
    home, _ = begun(tmp_path, *words)
    assert extended(home, list(home.trials().values())) == ""


@pytest.mark.parametrize(
    "given", [[], ["sweep.name=a"], ["hydra.sweep.dir=/x/${sweep.name}", "sweep.name=a"]]
)
@pytest.mark.parametrize("place", ["sweeps", "an archive, far='off'"])
def test_commands_lead_to_where_the_sweep_lies_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], place: str
):
    """Wherever it was begun: a sweep may have been moved since, and is repeated in a folder beside it."""
    monkeypatch.chdir(tmp_path)
    home, words = begun(tmp_path / place / "b.1", "optimizer.lr=interval(1,2)", *given, n_trials=2)
    (tmp_path / place / "b.1-2").mkdir()
    for line, name in ((extended(home, []), "b.1"), (repeated(home), "b.1-3")):
        space, led = pasted(line)
        assert space.identity() == pasted(home.command)[0].identity()
        led.pop("sweep.add_trials", "")
        if place == "sweeps":
            assert led == words_without(words, "hydra.sweep.dir") | {"sweep.name": name}
        else:
            folder = value(f"hydra.sweep.dir={led['hydra.sweep.dir']}")
            assert folder == str(tmp_path / place / name)
            assert words_without(led, "hydra.sweep.dir") == words_without(words, "hydra.sweep.dir")


def test_an_extended_search_is_repeated_with_all_its_points(tmp_path: Path):
    home, _ = begun(
        tmp_path / "a", "optimizer.lr=interval(1,2)", "sweep.add_trials=1", n_trials=3, add_trials=1
    )
    _, words = pasted(repeated(home))
    assert words["sweep.n_trials"] == "4"
    assert "sweep.add_trials" not in words


def test_a_page_says_how_far_its_sweep_is(tmp_path: Path):
    home, _ = begun(tmp_path, "seed=range(12)")
    trials = list(home.trials().values())
    for trial in trials[:9]:
        (trial.folder / "result.json").unlink()
    Result(status="analysing").write(trials[8].folder)
    Result(status="killed").write(trials[7].folder)
    assert state(home, trials, live=True, total=20) == (
        "Running: 3 of 20 trials have ended; now s0, s1, s2, s3, s4, s5, 2 more."
    )
    assert state(home, trials[9:], live=True, total=3) == "Running: 3 of 3 trials have ended."
    assert state(home, trials, live=False, total=0) == (
        "Not over: 3 trials have ended. The same command goes on with it."
    )
    home.reached()
    assert state(home, trials, live=False, total=20) == ""


def test_who_would_take_up_a_sweep_as_a_run_is_given_its_command(tmp_path: Path):
    home = Home(tmp_path)
    home.begin("python -m experiments.run -m seed=0,1", "grid")
    with pytest.raises(FileNotFoundError, match=f"a sweep goes on with {re.escape(home.command)}"):
        check_run(tmp_path)


@pytest.mark.parametrize("content", ["identity: {seed: 0,1}\n", "{broken"])
def test_a_sweep_that_does_not_know_its_command_gives_none(tmp_path: Path, content: str):
    """One of an earlier version, and one whose record is damaged."""
    (tmp_path / "sweep.yaml").write_text(content)
    home = Home(tmp_path)
    assert (repeated(home), extended(home, []), state(home, [], live=False, total=0)) == ("", "", "")
    with pytest.raises(FileNotFoundError, match="a sweep goes on with the command that began it"):
        check_run(tmp_path)
