"""The folder of a sweep: what it agrees to hold."""

import os
from pathlib import Path

import pytest
import yaml

from experiments.config.renamed import TARGETS
from experiments.sweep.home import Home, begun_with_fewer_seeds, sweep_name
from tests.sweep.conftest import space_of


def identity(target: str, lr: str = "0.1,0.2") -> dict:
    return space_of(f"optimizer._target_={target}", f"optimizer.lr={lr}").identity()


@pytest.mark.parametrize(("old", "new"), TARGETS.items())
def test_code_under_an_old_and_under_its_new_name_is_the_same_sweep(tmp_path: Path, old: str, new: str):
    with Home(tmp_path) as home:
        home.open(identity(f"{old}Muon"))
    Home(tmp_path).check(identity(f"{new}Muon"))
    Home(tmp_path).check(identity(f"{old}Muon"))
    with pytest.raises(ValueError, match=f"optimizer._target_: {old}Muon, got {new}Lookahead: give the same"):
        Home(tmp_path).check(identity(f"{new}Lookahead"))
    with pytest.raises(ValueError, match="sweep with optimizer.lr: 0.1,0.2, got 0.3,0.4: give the same"):
        Home(tmp_path).check(identity(f"{new}Muon", lr="0.3,0.4"))
    with Home(tmp_path) as home:
        home.open(identity(f"{new}Muon"))
    saved = yaml.safe_load((tmp_path / "sweep.yaml").read_text())
    assert saved["identity"]["optimizer._target_"] == f"{new}Muon"
    Home(tmp_path).check(identity(f"{old}Muon"))


def test_a_second_controller_is_told_who_works_on_a_folder(tmp_path: Path):
    with Home(tmp_path) as first:
        first.open({})
        first.open({})  # its own
        owner = (tmp_path / "lock").read_text()
        with pytest.raises(ValueError, match=f"is being worked on by {owner}, which shows its trials"):
            Home(tmp_path).open({})
    with Home(tmp_path) as second:
        second.open({})


def test_what_a_kill_left_of_a_file_is_removed_and_what_is_being_written_stays(tmp_path: Path):
    names = {".report.html.123", ".sweep.yaml.4567", ".hidden", "sweep.yaml"}
    for name in (*names, ".report.html.89"):
        (tmp_path / name).touch()
    for name in names:
        os.utime(tmp_path / name, (1, 1))
    with Home(tmp_path) as home:
        home.open({})
    assert {path.name for path in tmp_path.iterdir()} == {".hidden", ".report.html.89", "sweep.yaml", "lock"}


def test_the_same_command_with_further_seeds_finds_its_sweep(tmp_path: Path):
    def found(*arguments: str) -> str:
        space = space_of(*arguments)
        name = sweep_name(space, space.identity())
        return begun_with_fewer_seeds(tmp_path, name, space.identity(), space.lists)

    few = ["optimizer.lr=0.1,0.2", "seed=0,1"]
    with Home(tmp_path / found(*few)) as home:
        home.open(space_of(*few).identity())
    assert found("optimizer.lr=0.1,0.2", "seed=0,1,2") == home.path.name
    for other in (["optimizer.lr=0.1,0.2,0.3", "seed=0,1,2"], ["optimizer.lr=0.1,0.2", "seed=1,2"]):
        assert found(*other) != home.path.name
    assert found("optimizer.lr=0.1,0.2", "seed=0,1,2", "trainer.epochs=3") != home.path.name
