"""A sweep as a whole: what it asks before it starts."""

import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from experiments.config.compose import compose
from experiments.config.values import settings
from experiments.files import CONF
from experiments.sweep.sweep import _chosen, records
from tests.sweep.conftest import TINY, space_of

OWN = """
class Silent: ...

class Off:
    records = False
"""


def shipped(name: str) -> str:
    """The class that conf/tracking/<name>.yaml names."""
    return yaml.safe_load((CONF / "tracking" / f"{name}.yaml").read_text())["_target_"]


@pytest.mark.parametrize(
    ("tracker", "answer"),
    [
        (shipped("none"), False),
        (shipped("mlflow"), True),
        ("sweep_tracker.Silent", True),
        ("sweep_tracker.Off", False),
        ("sweep_tracker.Missing", False),  # the check of the points tells of it
        ("sweep_forbidden.Tracker", False),
    ],
)
def test_the_tracker_itself_says_whether_it_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str, answer: bool
):
    (tmp_path / "sweep_tracker.py").write_text(OWN)
    (tmp_path / "sweep_forbidden.py").write_text("class Tracker: ...")
    monkeypatch.syspath_prepend(tmp_path)
    security = {"allowed_targets": ["sweep_tracker."]}
    assert records(OmegaConf.create({"tracking": {"_target_": tracker}, "security": security})) is answer
    assert "sweep_forbidden" not in sys.modules


@pytest.mark.parametrize("word", ["sweep.n_trials=3", "sweep.sampler_seed=1", "sweep.add_trials=1"])
def test_what_only_a_search_heeds_is_refused_for_a_grid(word: str):
    cfg = compose([*TINY, word])
    options = settings(cfg).sweep
    with pytest.raises(ValueError, match=f"{word.split('=')[0]} is for a search"):
        _chosen(options, space_of(*TINY, word, "optimizer.lr=0.1,0.2"), cfg)
    chosen = _chosen(options, space_of(*TINY, word, "optimizer.lr=interval(0.1,0.2)"), cfg)
    assert (chosen.sampler, chosen.test) == ("tpe", "best")
