"""Names of runs: what differs first, the time last."""

import json
import re
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from experiments.runs.names import LENGTH, UNTOLD, dated, label, longer_name, name_of, run_name, without_seed

DEFAULT = {"model": "resnet18", "aug": "crop_flip", "optimizer": "sgd"}


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["model=resnet18", "aug=cutout", "optimizer.lr=0.05", "seed=0"], "resnet18 cutout lr=0.05"),
        (["optimizer.lr=0.05", "optimizer=muon", "aug=flip", "model=airbench"], "airbench flip lr=0.05 muon"),
        (["experiment=speedrun94", "+trainer.epochs=5"], "speedrun94 epochs=5"),
        (["optimizer.lr=1", "scheduler.lr=2", "data.val_size=3"], "optimizer.lr=1 scheduler.lr=2 val_size=3"),
        (["trainer.epochs=3", "model=vgg16_bn", "trainer.epochs=4"], "vgg16_bn epochs=4"),
        (["tracking=none", "+analysis.level=none", "hydra.run.dir=x", "data.root=a", "seed=1"], "defaults"),
        (["~optimizer.nesterov", "model.name='<b>&\"'"], "~optimizer.nesterov name='<b>&\"'"),
    ],
)
def test_a_label_tells_what_was_asked_for(words: list[str], name: str):
    assert label(words) == name


KEYS = st.sampled_from(["model", "aug", "+aug", "optimizer.lr", "scheduler.lr", "a.b.lr", "seed", "x@y.z"])
WORDS = st.tuples(KEYS, st.text(max_size=300)).map("=".join) | st.text(max_size=20)


@given(st.lists(WORDS, max_size=6))
@example(["="])
def test_a_label_holds_each_value_whatever_the_words(words: list[str]):
    last = {word.partition("=")[0].lstrip("+"): word for word in words}
    for word in last.values():
        if not word.lstrip("+~").startswith(UNTOLD):
            assert word.partition("=")[2] in label(words)


@given(st.lists(WORDS, max_size=6), st.integers())
def test_a_name_fits_and_ends_with_seed_and_time(words: list[str], seed: int):
    name = run_name(words, DEFAULT, seed)
    assert len(name) <= LENGTH
    end = re.search(rf" s{seed} (\d{{4}}-\d\d-\d\d \d\d:\d\d)$", name)
    assert end
    assert abs((datetime.now() - datetime.strptime(end[1], "%Y-%m-%d %H:%M")).total_seconds()) < 3600


def test_model_and_augmentation_are_named_also_where_no_word_does():
    assert run_name(["seed=3"], DEFAULT, 3).startswith("resnet18 crop_flip s3 ")
    assert run_name(["optimizer=muon", "aug=cutout"], DEFAULT, 0).startswith("resnet18 cutout muon s0 ")


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("resnet18 cutout lr=0.05 s3 2026-11-27 12:00", "resnet18 cutout lr=0.05"),
        ("s3 lr=0.05 2026-11-27 12:00", "lr=0.05"),
        ("s3 2026-11-27 12:00", "defaults"),
        ("wrn s31 lr=s3x", "wrn s31 lr=s3x"),
    ],
)
def test_runs_that_differ_by_their_seed_alone_share_a_name_without_it(name: str, point: str):
    assert without_seed(name, 3) == point


def test_a_run_trained_longer_is_called_as_before_and_by_what_is_new(tmp_path: Path):
    (tmp_path / "environment.json").write_text(json.dumps({"name": "resnet18 cutout s0 2020-01-31 12:00"}))
    name = longer_name(tmp_path, ["trainer.epochs=9", "hydra.run.dir=x"])
    assert name == dated("resnet18 cutout s0 epochs=9")


def test_a_run_of_an_earlier_version_is_called_as_its_folder(tmp_path: Path):
    assert name_of(tmp_path) == tmp_path.name
