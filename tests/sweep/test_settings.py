"""The settings of a sweep: the same defaults in code and in conf/."""

import dataclasses

import yaml

from experiments.config.settings import SweepSettings
from experiments.files import CONF


def test_the_defaults_in_code_are_those_of_conf():
    saved = yaml.safe_load((CONF / "sweep" / "default.yaml").read_text())
    assert dataclasses.asdict(SweepSettings()) == saved
