"""Which parameters a tracker gets of a run: what tells it apart, and no more."""

import json
from pathlib import Path

import pytest

from experiments.config.compose import compose, compose_chosen, composing_from, differences
from experiments.config.values import plain
from experiments.files import flatten
from experiments.runs.params import ABSENT, GROUPS, KEYS, params
from experiments.runs.story import resume, run
from tests.runs.test_story import SMALL

pytestmark = pytest.mark.slow  # whole runs


def logged(folder: Path) -> dict[str, str]:
    records = map(json.loads, (folder / "tracking.jsonl").read_text().splitlines())
    (record,) = [record for record in records if record["kind"] == "params"]
    return record["data"]


def of(*words: str) -> dict[str, str]:
    return params(*compose_chosen(words), words)


def test_the_default_run_has_its_groups_and_main_figures_alone():
    found = of()
    assert {group: found[group] for group in GROUPS} == {
        "model": "resnet18",
        "aug": "crop_flip",
        "optimizer": "sgd",
        "scheduler": "cosine",
        "data": "cifar10",
    }
    assert found.keys() == {*GROUPS, *KEYS}
    assert {key: found[key] for key in KEYS} == {key: flatten(plain(compose([])))[key] for key in KEYS}


def test_what_was_asked_for_is_there_also_where_it_is_the_default():
    words = [
        "optimizer.momentum=0.9",
        "+optimizer.maximize=false",
        "~aug.image.flip",
        "trainer=quick",
        "seed=3",
    ]
    found = of(*words, "sweep.name=lr", "analysis=none", "tracking=none", "security.allowed_targets=[mine.]")
    asked = {"optimizer.momentum": "0.9", "optimizer.maximize": "false", "trainer": "quick", "seed": "3"}
    assert asked.items() <= found.items()
    assert found["aug.image.flip"] == ABSENT
    assert not [key for key in found if key.startswith(("sweep", "analysis", "tracking", "security"))]


def test_of_the_rest_what_differs_from_the_default_is_there():
    words = ["experiment=notebook_001_fixed", "data.root=elsewhere"]
    found, flat = of(*words), flatten(plain(compose(words)))
    assert found["experiment"] == "notebook_001_fixed"
    rest = found.keys() - {*GROUPS, *KEYS, "experiment", "data.root"}
    assert "trainer.label_smoothing" in rest
    assert rest < differences(compose(words)).keys()
    assert {key: found[key] for key in rest} == {key: flat[key] for key in rest}
    assert max(map(len, of("aug=trivialaugment").values())) <= 100


def test_without_its_options_a_configuration_is_named_by_its_code():
    words = ["model=resnet20", "aug=cutmix"]
    cfg = compose(words)
    assert params(cfg, {}, words).items() >= {"model": "resnet20", "aug": "cutmix"}.items()
    found = params(cfg, {}, [])
    assert {group: found[group] for group in GROUPS} == {
        "model": "resnet20",
        "aug": "pad_crop_flip_CutMix",
        "optimizer": "SGD",
        "scheduler": "cosine",
        "data": "cifar10",
    }


def test_a_conf_that_is_gone_costs_only_what_differs(tmp_path: Path):
    words = ["trainer.label_smoothing=0.3", "model=resnet20"]
    cfg, choices = compose_chosen(words)
    with composing_from(tmp_path / "gone"):
        found = params(cfg, choices, words[:1])
    assert found.keys() == {*GROUPS, *KEYS, "trainer.label_smoothing"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's, of its database library
def test_a_run_that_is_trained_longer_keeps_the_names_of_its_options(tmp_path: Path):
    words = [
        *SMALL,
        "analysis=none",
        "aug=shift",
        "trainer.epochs=1",
        f"tracking.uri=sqlite:///{tmp_path}/m.db",
    ]
    cfg, choices = compose_chosen(words)
    run(cfg, tmp_path / "run", overrides=words, choices=choices)
    resume(tmp_path / "run", ["trainer.epochs=2", f"hydra.run.dir={tmp_path / 'on'}"])
    first, longer = (logged(tmp_path / name) for name in ("run", "on"))
    assert first == params(cfg, choices, words)
    origin = {"origin.epochs": "1", "origin.weights": "best"}
    assert longer == first | {"trainer.epochs": "2"} | origin


OWN = """
class Own:
    def __init__(self, *, out_dir, run_name, tags):
        self.uri = self.url = self.run_id = None
        self.path = out_dir / "own.txt"

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass

    def log_params(self, params):
        self.path.write_text(params["model"])

    def __getattr__(self, name):
        if not name.startswith(("log_", "set_", "finish")):
            raise AttributeError(name)
        return lambda *args, **named: None
"""


def test_a_tracker_of_ones_own_that_only_takes_what_is_logged_gets_the_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "trackers_of_mine.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    config = tmp_path / "conf" / "tracking"
    config.mkdir(parents=True)
    (config / "mine.yaml").write_text("_target_: trackers_of_mine.Own\n")
    words = [*SMALL, "analysis=none", "trainer.epochs=1", "tracking=mine"]
    words += ["security.allowed_targets=[trackers_of_mine.]"]
    cfg, choices = compose_chosen(words, config_dir=str(tmp_path / "conf"))
    run(cfg, tmp_path / "run", overrides=words, choices=choices)
    assert (tmp_path / "run" / "own.txt").read_text() == choices["model"]
