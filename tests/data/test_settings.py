import dataclasses
import math
import re
from typing import Any

import pytest
import yaml

from cifar_core.data.settings import SOURCES, DataSettings
from cifar_core.data.sources import load_data
from tests.conftest import PROJECT


def conf(source: str, environment: dict[str, str]) -> dict[str, Any]:
    """Return conf/data/<source>.yaml, its `oc.env` interpolations resolved as OmegaConf does."""

    def resolved(found: re.Match[str]) -> str:
        return environment.get(found[1], found[2])

    values = yaml.safe_load((PROJECT / "conf" / "data" / f"{source}.yaml").read_text())
    return {
        key: re.sub(r'\$\{oc\.env:(\w+),"([^"]*)"\}', resolved, value) if isinstance(value, str) else value
        for key, value in values.items()
    }


@pytest.mark.parametrize("environment", [{}, {"CIFAR_ROOT": "/pictures", "CIFAR_CACHE": "/decoded"}])
@pytest.mark.parametrize("source", SOURCES)
def test_the_defaults_in_code_are_those_of_conf_in_the_same_order(source, environment, monkeypatch):
    for name in ("CIFAR_ROOT", "CIFAR_CACHE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    expected = conf(source, environment)
    given = {}
    if source == "folder":
        assert expected.pop("root") == "???"  # to be given
        given = {"root": "mine"}
        expected = {"source": "folder", "root": "mine"} | expected
    settings = dataclasses.asdict(DataSettings(source=source, **given))
    assert list(settings.items()) == list(expected.items())


def test_without_a_source_it_is_cifar10():
    assert DataSettings() == DataSettings("cifar10")
    assert DataSettings().source == "cifar10"


def test_a_folder_must_be_given():
    with pytest.raises(ValueError, match="data.root must be a folder, got ''"):
        DataSettings("folder")


def test_what_is_given_stays_and_the_rest_suits_the_source():
    settings = DataSettings(source="digits", image_size=8, val_size=0, mean=[1, 2, 3])
    assert (settings.image_size, settings.val_size, settings.mean) == (8, 0, [1, 2, 3])
    assert (settings.std, settings.test_size) == ([82.5, 82.5, 82.5], 0.2)
    data = load_data(settings)
    assert (len(data.val), data.image_size, data.std) == (0, 8, (82.5, 82.5, 82.5))


def test_settings_share_no_list():
    one, other = DataSettings("digits"), DataSettings("digits")
    one.mean[0] = 0.0
    one.std[0] = 1.0
    assert (other.mean[0], other.std[0]) == (77.9, 82.5)
    assert DataSettings("digits").mean[0] == 77.9


@pytest.mark.parametrize(
    ("changes", "law"),
    [
        ({"source": "cifar"}, "data.source must be one of cifar10, cifar100, folder, digits, got 'cifar'"),
        ({"cache": ""}, "data.cache must be a folder, got ''"),
        ({"image_size": 7}, "data.image_size must be at least 8, got 7"),
        ({"mean": []}, "data.mean must be three numbers, one a channel, got []"),
        ({"std": [1, 0, 1]}, "data.std must be above 0, got [1, 0, 1]"),
        (
            {"val_size": 1.5},
            "data.val_size must be 0, a share below 1, or a whole number of pictures, got 1.5",
        ),
        ({"source": "folder", "root": "r", "white": math.inf}, "data.white must be 0 or above, got inf"),
        (
            {"source": "folder", "root": "r", "background": [0, 0]},
            "data.background must be three numbers, one a channel, got [0, 0]",
        ),
        (
            {"source": "folder", "root": "r", "background": "black"},
            "data.background must be three numbers, one a channel, got 'black'",
        ),
        (
            {"source": "folder", "root": "r", "background": [0.5, 0, 0]},
            "data.background must be whole numbers, got [0.5, 0, 0]",
        ),
        (
            {"source": "folder", "root": "r", "background": [0, 0, 256]},
            "data.background must be between 0 and 255, got [0, 0, 256]",
        ),
        (
            {"background": [0, 0, 0]},
            "data.background must be left out but with data=folder, got [0, 0, 0]",
        ),
        ({"white": 1}, "data.white must be left out but with data=folder, got 1"),
        ({"split_seed": -1}, "data.split_seed must be at least 0, got -1"),
    ],
)
def test_a_broken_law_is_named(changes, law):
    with pytest.raises(ValueError, match=re.escape(law)):
        DataSettings(**changes)
