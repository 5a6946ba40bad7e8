"""An option has an effect or is refused: what is refused, and what never is."""

import re
from pathlib import Path

import pytest
import yaml

from experiments.config.compose import compose, compose_saved
from experiments.config.effects import RULES, SWEEP_RULES, Everywhere, idle, refuse_single
from experiments.config.values import plain
from experiments.files import CONF
from tests.conftest import PROJECT
from tests.test_bad_input import call_main

IDLE = {  # words -> the key that does nothing, and why
    "data=digits data.root=x": "data.root has no effect with data=digits: leave it out",
    "data=digits data.cache=x": "data.cache has no effect with data=digits",
    "data=digits data.download=true": "data.download has no effect with data=digits",
    "data=folder data.root=x data.download=true": "data.download has no effect with data=folder",
    "data.test_size=0.1": "data.test_size has no effect with data=cifar10, which has its own test set",
    "data=cifar100 data.test_size=100": "data.test_size has no effect with data=cifar100",
    "data=digits data.val_size=0 data.split_seed=1": "data.split_seed has no effect with data.val_size=0",
    "data=digits data.val_size=0 trainer.test=false": "trainer.test has no effect with data.val_size=0",
    "aug.backend=batched aug.workers=4": "aug.workers has no effect with aug.backend=batched",
    "optimizer=adam optimizer.decay_norm_bias=false": "optimizer.decay_norm_bias has no effect",
    "scheduler=one_cycle optimizer.momentum=0.5": "optimizer.momentum has no effect with scheduler=one_cycle",
    "scheduler=triangle scheduler.warmup_epochs=2 scheduler.pct_start=0.1": "scheduler.pct_start",
    "scheduler=one_cycle scheduler.cycle_momentum=false scheduler.base_momentum=0.5": "base_momentum",
    "scheduler=one_cycle scheduler.cycle_momentum=false scheduler.max_momentum=0.5": "max_momentum",
    "analysis=none analysis.layer=layer3": "analysis.layer has no effect with analysis.level=none",
    "analysis=none analysis.method=gradcam++": "analysis.method has no effect",
    "analysis=none analysis.watch=4": "analysis.watch has no effect with analysis.level=none: leave it out",
    "data=digits data.val_size=0 analysis.watch=12": "analysis.watch has no effect with data.val_size=0",
    "analysis.layer=layer3 model.cam_layer=layer2": "model.cam_layer has no effect with analysis.layer",
    "sweep.prune_after=3": "sweep.prune_after has no effect with sweep.pruner=none",
    "sweep.on_fail=stop sweep.max_failures=3": "sweep.max_failures has no effect with sweep.on_fail=stop",
    "sweep.backend=slurm sweep.threads=3": "sweep.threads has no effect with sweep.backend=slurm",
    "sweep.backend=slurm sweep.slots_per_gpu=3": "sweep.slots_per_gpu has no effect with sweep.backend=slurm",
    "sweep.slurm.minutes=3": "sweep.slurm.minutes has no effect with sweep.backend=local: leave it out",
}
AT_WORK = (  # the same keys where they do something, or say what they say anyhow
    "data=digits data.download=false",
    "data.root=x data.cache=y data.download=false",
    "data=digits data.test_size=0.1 data.split_seed=3 trainer.test=false",
    "data=digits data.val_size=0 trainer.test=true",
    "aug.workers=4",
    "optimizer.decay_norm_bias=false",
    "optimizer=adam optimizer.weight_decay=0.1 optimizer.decay_norm_bias=false",
    "scheduler=one_cycle scheduler.cycle_momentum=false optimizer.momentum=0.5",
    "scheduler=one_cycle scheduler.pct_start=0.1 scheduler.base_momentum=0.5",
    "analysis=light analysis.layer=layer3 analysis.method=gradcam++ analysis.sheet_size=4",
    "analysis=none analysis.sheet_size=4",
    "analysis=none analysis.watch=0",
    "analysis=light analysis.watch=4",
    "model.cam_layer=layer2",
    "sweep=search sweep.prune_after=3",
    "sweep.backend=slurm sweep.slurm.minutes=3",
)
GROUPS = ("data", "optimizer", "scheduler", "analysis", "tracking", "sweep")  # that a rule speaks of


def options() -> list[list[str]]:
    files = [path for path in CONF.glob("*/*.yaml") if path.parent.name in GROUPS]
    needed = {("data", "folder"): ["data.root=x"]}
    return [
        [f"{path.parent.name}={path.stem}", *needed.get((path.parent.name, path.stem), [])]
        for path in sorted(files)
    ]


@pytest.mark.parametrize("words", IDLE)
def test_a_key_that_does_nothing_is_refused_with_its_reason(words: str):
    with pytest.raises(ValueError, match=re.escape(IDLE[words])) as told:
        compose(words.split())
    assert "\n" not in str(told.value)


def test_every_rule_is_in_the_table():
    told = " ".join(IDLE.values())
    told += "scheduler.base_momentum scheduler.max_momentum"
    assert all(rule.key in told or rule.key.startswith("sweep.slurm.") for rule in (*RULES, *SWEEP_RULES))


@pytest.mark.parametrize("words", AT_WORK)
def test_a_key_that_does_something_or_says_its_default_is_not(words: str):
    compose(words.split())


@pytest.mark.parametrize("words", options(), ids=lambda words: words[0])
def test_every_shipped_value_may_be_given_again_on_the_command_line(words: list[str]):
    """The values of an option, each written out as a word: what is shipped is never refused."""
    values = plain(compose(words))
    group = words[0].partition("=")[0]
    again = [f"{group}.{key}={value}" for key, value in values[group].items()]
    assert idle(values, again) == {}


def test_a_saved_configuration_is_never_refused_but_a_new_word_is():
    folder = PROJECT / "tests" / "legacy" / "finished"
    assert compose_saved(folder, []).data.source == "digits"
    with pytest.raises(ValueError, match="data.root has no effect with data=digits"):
        compose_saved(folder, ["data.root=elsewhere"])


def test_in_a_sweep_a_key_must_do_something_at_one_point():
    everywhere = Everywhere()
    points = [["data=digits", "data.root=x"], ["data=cifar10", "data.root=x"]]
    for words in points:
        everywhere.look(plain(compose(words, in_sweep=True)), words)
    everywhere.refuse()
    nowhere = Everywhere()
    for words in ([*points[0], "seed=0"], [*points[0], "seed=1"]):
        nowhere.look(plain(compose(words, in_sweep=True)), words)
    with pytest.raises(ValueError, match="data.root has no effect with data=digits"):
        nowhere.refuse()


def test_a_swept_key_that_does_nothing_is_refused_although_one_value_is_its_default():
    seen = Everywhere()
    for value in ("false", "true"):
        words = ["data=digits", f"data.download={value}"]
        seen.look(plain(compose(words, in_sweep=True)), words)
    with pytest.raises(ValueError, match="data.download has no effect"):
        seen.refuse()


@pytest.mark.parametrize(
    ("word", "key"),
    [
        ("sweep.n_trials=5", "sweep.n_trials"),
        ("sweep=search", "sweep=search"),
        ("sweep.slurm.minutes=5", "sweep.slurm.minutes"),
        ("sweep.zip=[model,seed]", "sweep.zip"),
        ("+tracking.nested=true", "tracking.nested"),
    ],
)
def test_what_only_a_sweep_reads_is_refused_in_a_single_run(word: str, key: str):
    with pytest.raises(ValueError, match=f"{key} has no effect in a single run: add -m"):
        refuse_single([word])


def test_a_single_run_may_have_a_sweep_s_name_and_its_defaults():
    refuse_single(["sweep.name=mine", "sweep=default", "sweep.n_trials=40", "sweep.refit=false", "seed=3"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("data=digits data.root=x", "data.root has no effect with data=digits: leave it out"),
        ("data=digits sweep.n_trials=5", "sweep.n_trials has no effect in a single run: add -m for a sweep"),
    ],
)
def test_the_command_line_says_it_in_one_line(words: str, line: str, tmp_path: Path):
    folder = tmp_path / "empty"
    folder.mkdir()
    code, _, err = call_main(words.split(), folder)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: {line}")


def test_conf_says_where_a_key_is_not_used():
    """What conf/data calls `not used` is what is refused there."""
    for path in (CONF / "data").glob("*.yaml"):
        text = path.read_text()
        unused = re.findall(r"^(\w+):.*# not used", text, flags=re.M)
        source = yaml.safe_load(text)["source"]
        values = {"data": {"source": source, "val_size": 1}}
        ruled = [rule for rule in RULES if rule.key.startswith("data.") and rule.beside(values)]
        unused = [key for key in unused if key not in ("background", "white")]  # a law of DataSettings
        assert sorted(unused) == sorted(rule.key.removeprefix("data.") for rule in ruled)
