import dataclasses

import yaml

from cifar_core.report.settings import AnalysisSettings
from tests.conftest import PROJECT


def test_the_defaults_in_code_are_those_of_conf_in_the_same_order():
    values = yaml.safe_load((PROJECT / "conf" / "analysis" / "full.yaml").read_text())
    assert list(dataclasses.asdict(AnalysisSettings()).items()) == list(values.items())
