"""How far a sweep is, and the commands that go on with it, repeat it and extend it."""

import re
import shlex
from pathlib import Path

import pytest

from experiments.cli import command
from experiments.config import arguments
from experiments.config.compose import check_run
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


def test_a_search_is_extended_by_points(tmp_path: Path):
    home, _ = begun(tmp_path / "1.10", "optimizer.lr=interval(1,2)", "sweep.add_trials=3", n_trials=2)
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
    ("given", "key", "value"),
    [
        (['sweep.name="1.10"'], "sweep.name", "{}-3"),
        (["hydra.sweep.dir=/x/1.1"], "hydra.sweep.dir", "/x/1.1-3"),
        (["hydra.sweep.dir=/x/${sweep.name}", "sweep.name=a"], "sweep.name", "{}-3"),
    ],
)
def test_a_sweep_is_repeated_in_a_folder_that_is_not_there(
    tmp_path: Path, given: list[str], key: str, value: str
):
    for number, folder in enumerate((tmp_path / "1.1", tmp_path / "the second")):
        home, words = begun(
            folder, "optimizer.lr=interval(1,2)", *given, n_trials=2 + number, add_trials=number
        )
        folder.with_name(f"{folder.name}-2").mkdir()
        space, again = pasted(repeated(home))
        assert space.identity() == pasted(home.command)[0].identity()
        expected = words | {key: value.format(folder.name)} | ({"sweep.n_trials": "4"} if number else {})
        assert {name: text.strip('"') for name, text in again.items()} == expected


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
