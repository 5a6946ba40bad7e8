"""`auto` for `data.mean` and `data.std`, from the command to every record: the run's folder holds numbers."""

import json
import re
from pathlib import Path

import pytest
import yaml

from cifar_core.data.sources import load_data
from experiments.cli import UserError
from experiments.config.compose import compose, compose_saved
from experiments.config.values import settings
from experiments.runs.story import resume, run
from experiments.tools.evaluation import evaluate, request
from experiments.tools.prediction import load
from tests.data.test_normalisation import by_numpy, pictures

TINY = [
    "data=folder",
    "data.image_size=8",
    "model=resnet20",
    "model.width=4",
    "aug=crop_flip",
    "aug.workers=0",
]
TINY += [
    "trainer=quick",
    "trainer.epochs=1",
    "trainer.batch_size=8",
    "trainer.device=cpu",
    "trainer.guards=off",
]
TINY += ["tracking=none", "analysis=none", "trainer.progress=false"]


def words(root: Path) -> list[str]:
    return [*TINY, f"data.root={root}", f"data.cache={root.parent / 'cache'}"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The pictures and a finished run of `data=folder`, whose mean and std are `auto`."""
    place = tmp_path_factory.mktemp("auto")
    root = pictures(place / "p")
    asked = [*words(root), "data.std=auto"]
    run(compose(asked), place / "run", overrides=asked)
    return root, place / "run"


def saved(folder: Path) -> dict:
    return yaml.safe_load((folder / "config.yaml").read_text())


def test_config_yaml_has_the_figures_and_overrides_yaml_what_was_asked(made: tuple[Path, Path]):
    root, folder = made
    data = load_data(settings(compose(words(root))).data)
    mean, std = by_numpy(data.train.images)
    config = saved(folder)
    assert config["data"]["mean"] == [round(value, 2) for value in mean]
    assert config["data"]["std"] == [round(value, 2) for value in std]
    assert config["aug"]["image"]["pad"]["fill"] == config["data"]["mean"]  # it says ${data.mean}
    assert "data.std=auto" in yaml.safe_load((folder / "overrides.yaml").read_text())


def test_the_tools_see_numbers(made: tuple[Path, Path]):
    _, folder = made
    config = saved(folder)["data"]
    assert list(load(folder).data.mean) == config["mean"]
    assert evaluate(request(folder, []))[1]["same_data"]
    assert list(load_data(settings(compose_saved(folder, [])).data).std) == config["std"]


def test_the_same_command_finds_its_run_again(made: tuple[Path, Path], caplog: pytest.LogCaptureFixture):
    root, folder = made
    before = (folder / "result.json").read_bytes()
    run(compose(words(root)), folder)
    assert "nothing to do" in caplog.text
    assert (folder / "result.json").read_bytes() == before


def test_an_unfinished_run_goes_on_with_the_same_command_and_by_resume(tmp_path: Path):
    root = pictures(tmp_path / "p")
    whole = [*words(root), "trainer.keep=all"]
    run(compose([*whole, "trainer.epochs=2"]), tmp_path / "run")
    config = (tmp_path / "run" / "config.yaml").read_bytes()
    for again in (
        lambda: run(compose([*whole, "trainer.epochs=2"]), tmp_path / "run"),
        lambda: resume(tmp_path / "run", []),
    ):
        (tmp_path / "run" / "result.json").unlink()
        again()
        assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "finished"
        assert (tmp_path / "run" / "config.yaml").read_bytes() == config


def test_other_figures_are_another_run(tmp_path: Path):
    root = pictures(tmp_path / "p")
    fixed = [*words(root), "data.mean=[100,100,100]", "data.std=[50,50,50]"]
    run(compose(fixed), tmp_path / "run")
    assert saved(tmp_path / "run")["data"]["mean"] == [100.0, 100.0, 100.0]
    (tmp_path / "run" / "result.json").unlink()
    run(compose(fixed), tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    with pytest.raises(
        UserError,
        match=r"holds a run with .*mean=|holds a run with aug.image.pad.fill=\[100.0, 100.0, 100.0\], got",
    ):
        run(compose(words(root)), tmp_path / "run")


@pytest.mark.parametrize(
    ("word", "law"),
    [
        ("data.mean=atuo", "data.mean must be auto or three numbers, one a channel, got 'atuo'"),
        ("data.std=AUTO", "data.std must be auto or three numbers, one a channel, got 'AUTO'"),
        ("data.mean=null", "data.mean must be auto or three numbers, one a channel, got None"),
        ("data.mean=125", "data.mean must be three numbers, one a channel, got 125"),
        ("data.mean=[auto,auto,auto]", "data.mean must be three numbers"),
        ("data.std=[true,1,1]", "data.std must be three numbers"),
        ("data.std=[nan,1,1]", "data.std must be between 0 and 255"),
    ],
)
def test_anything_but_numbers_or_auto_is_refused(word: str, law: str):
    with pytest.raises(ValueError, match=re.escape(law)):
        compose(["data=digits", word])
