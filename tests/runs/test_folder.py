"""What a run folder lets change between two attempts, and what it never loses."""

import copy
import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.config.compose import compose
from experiments.config.renamed import ADDED
from experiments.config.values import plain
from experiments.files import flatten
from experiments.runs.folder import RunFolder

# Where a run happens, and what is shown or kept of it; everything else changes its results.
MAY_CHANGE = (
    *("analysis.*", "expected", "security.*", "sweep.*", "tracking.*"),
    *("data.cache", "data.download", "data.root"),
    *("trainer.checkpoint_seconds", "trainer.device", "trainer.eval_batch_size", "trainer.guards"),
    *("trainer.keep", "trainer.progress", "trainer.threads"),
)


def nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def claim(folder: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    """Take up a run that has ``saved`` with ``now``."""
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(saved))
    RunFolder(folder).claim(now, [])


def refuses(folder: Path, key: str) -> bool:
    try:
        claim(folder, nested(key, 1), nested(key, 2))
    except ValueError as error:
        return f"holds a run with {key}=1, got 2: " in str(error)
    return False


def test_only_what_leaves_the_results_alone_may_change(tmp_path: Path):
    keys = list(flatten(plain(compose([]))))
    free = {key for key in keys if not refuses(tmp_path / key, key)}
    assert free == {key for key in keys if any(fnmatch(key, pattern) for pattern in MAY_CHANGE)}
    assert all(any(fnmatch(key, pattern) for key in keys) for pattern in MAY_CHANGE)


def test_a_key_more_or_less_is_another_run(tmp_path: Path):
    one, two = {"optimizer": {"lr": 1}}, {"optimizer": {"lr": 1, "momentum": 0.9}}
    with pytest.raises(ValueError, match="optimizer.momentum=None, got 0.9"):
        claim(tmp_path / "more", one, two)
    with pytest.raises(ValueError, match="optimizer.momentum=0.9, got None"):
        claim(tmp_path / "less", two, one)
    claim(tmp_path / "equal", two, two)


def test_what_a_run_was_asked_for_is_written_once(tmp_path: Path):
    folder = RunFolder(tmp_path)
    folder.claim({"seed": 0, "trainer": {"threads": 1}}, ["seed=0"])
    folder.claim({"seed": 0, "trainer": {"threads": 2}}, ["trainer.threads=2"])
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == {"seed": 0, "trainer": {"threads": 1}}
    assert yaml.safe_load((tmp_path / "overrides.yaml").read_text()) == ["seed=0"]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[RunFolder]:
    folder = RunFolder(tmp_path / "run")
    folder.open()
    with folder:
        yield folder


def test_a_folder_belongs_to_one_run(opened: RunFolder):
    with pytest.raises(ValueError, match=f"is in use by process {os.getpid()}: "):
        RunFolder(opened.path).open()


def test_a_folder_is_discarded_only_where_it_was_made_and_has_no_epoch(opened: RunFolder, tmp_path: Path):
    opened.append({"epoch": 1})
    opened.discard()
    assert (opened.path / "metrics.csv").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    for name, stays in (("mine", True), ("new", False)):
        folder = RunFolder(tmp_path / name)
        folder.open()
        with folder:
            folder.discard()
        assert folder.path.exists() == stays


def test_what_a_killed_process_was_writing_is_removed(tmp_path: Path):
    for name in (".last.pt.123", "last.pt", ".hidden"):
        (tmp_path / name).touch()
    folder = RunFolder(tmp_path)
    folder.open()
    with folder:
        there = {path.name for path in tmp_path.iterdir()}
    assert there == {"last.pt", ".hidden", "lock", "run.log"}


def test_keys_that_came_later_do_not_make_an_older_run_another(tmp_path: Path):
    now = plain(compose([]))
    saved = copy.deepcopy(now)
    for key in ADDED:
        group, _, name = key.partition(".")
        del saved[group][name]
    claim(tmp_path / "older", saved, now)
    now["data"]["background"] = [0, 0, 0]
    law = r"holds a run with data.background=\[255, 255, 255\], got \[0, 0, 0\]"
    with pytest.raises(ValueError, match=law):
        claim(tmp_path / "other", saved, now)
