import dataclasses

import yaml

from cifar_core.train.settings import TrainerSettings
from tests.conftest import PROJECT


def test_the_defaults_in_code_are_those_of_conf_in_the_same_order():
    values = yaml.safe_load((PROJECT / "conf" / "trainer" / "default.yaml").read_text())
    assert list(dataclasses.asdict(TrainerSettings()).items()) == list(values.items())
