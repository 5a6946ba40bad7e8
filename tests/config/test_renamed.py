"""Names of earlier versions: understood wherever a configuration may hold them."""

import logging

import pytest
from omegaconf import OmegaConf

from experiments.config.compose import compose
from experiments.config.renamed import renew, renew_config, target

OLD, NEW = "cifar_core.schedules.step", "cifar_core.train.schedules.step"


def test_old_names_become_new_ones_and_others_stay():
    assert target(OLD) == NEW
    assert target("experiments.tracking.NoTracker") == "experiments.tracking.tracker.NoTracker"
    for name in (
        NEW,
        "torch.optim.SGD",
        "my_package.cifar_core.schedules.step",
        "cifar_core.models.resnet.resnet20",
    ):
        assert target(name) == name


def test_plain_values_are_renewed_at_any_depth_and_only_targets():
    values = {
        "scheduler": {"_target_": OLD, "note": OLD},
        "steps": [{"inner": {"_target_": OLD}}, 3],
        "none": None,
    }
    assert renew(values) == {
        "scheduler": {"_target_": NEW, "note": OLD},
        "steps": [{"inner": {"_target_": NEW}}, 3],
        "none": None,
    }


def test_a_configuration_with_missing_values_and_interpolations_is_renewed_in_place():
    cfg = OmegaConf.create(
        {"a": {"_target_": OLD}, "b": "${a}", "c": "???", "d": [{"_target_": OLD}], "e": None}
    )
    renew_config(cfg)
    assert cfg.a._target_ == NEW
    assert cfg.b._target_ == NEW
    assert cfg.d[0]._target_ == NEW
    assert OmegaConf.is_interpolation(cfg, "b")
    assert OmegaConf.is_missing(cfg, "c")


def test_an_old_name_on_the_command_line_works_and_the_new_one_is_told_once(caplog: pytest.LogCaptureFixture):
    overrides = ["tracking=none", "scheduler=step", f"scheduler._target_={OLD}"]
    with caplog.at_level(logging.WARNING):
        assert compose(overrides).scheduler._target_ == NEW
        compose(overrides)
    assert [record.getMessage() for record in caplog.records] == [
        f"{OLD} is called {NEW} now; the old name still works"
    ]
