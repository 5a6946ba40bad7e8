"""How a run starts: what it says before torch is imported, what it looks for, what it does not import."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PROJECT

SMALL = ["experiment=quickstart", "trainer.epochs=1", "analysis=light", "tracking=none", "trainer.threads=1"]
# What such a run has no use for: a compiler, a tracker, a library for each file format and statistic.
UNUSED = (
    *("torch._dynamo", "torch._inductor", "mlflow", "optuna", "torchvision", "timm"),
    *("sklearn", "pandas", "scipy.stats", "matplotlib"),
)


def imported(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command line that says on stderr, among its lines, what it imports and when."""
    line = [sys.executable, "-X", "importtime", "-m", "experiments.run", *words]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True)


def lines_before_torch(stderr: str) -> list[str]:
    """Return what was said before the first module of torch was imported."""
    before = re.split(r"import time:.*\| +torch(?:\.\S+)?$", stderr, maxsplit=1, flags=re.MULTILINE)[0]
    return [line for line in before.splitlines() if not line.startswith("import time:")]


@pytest.mark.slow
def test_a_run_says_what_it_is_before_torch_and_imports_only_what_it_uses(tmp_path: Path):
    run = tmp_path / "a run"
    done = imported(*SMALL, f"hydra.run.dir='{run}'", cwd=PROJECT)
    assert done.returncode == 0, done.stderr[-1000:]
    first = f"run folder  {run}: resnet20 on digits, device=auto"
    assert lines_before_torch(done.stderr) == [first]
    assert done.stderr.count(first) == 1
    assert (run / "run.log").read_text().count(first) == 1
    modules = set(re.findall(r"import time:.*\| +(\S+)$", done.stderr, re.MULTILINE))
    assert "torch" in modules
    assert modules.isdisjoint(UNUSED), modules.intersection(UNUSED)


ABSENT = {
    "a folder": (["data=folder", "data.root={0}/none"], 2, "data.root must be a folder of class folders"),
    "train/": (
        ["data=folder", "data.root={0}/test_only"],
        2,
        "put the class folders to train on into train/",
    ),
    "an archive": (["data.root={0}", "data.download=false"], 2, "CIFAR-10 is not in"),
    "a root that is a file": (["data.root={0}/file"], 1, "data.root must be a folder that can be written"),
    "pictures for a batch": (
        ["data=digits", "trainer.batch_size=2000"],
        2,
        "must be at most the 1,294 training pictures, got 2000: trainer.batch_size=1024",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "swept"),
    [*((what, False) for what in ABSENT), ("a folder", True), ("pictures for a batch", True)],
)
def test_what_is_absent_is_told_before_torch_is_imported(what: str, swept: bool, tmp_path: Path):
    (tmp_path / "file").touch()
    (tmp_path / "test_only" / "test" / "a").mkdir(parents=True)
    words, code, message = ABSENT[what]
    words = [*(word.format(tmp_path) for word in words), "tracking=none", f"hydra.run.dir={tmp_path}/run"]
    if swept:
        words = ["-m", "seed=1,2", f"hydra.sweep.dir={tmp_path}/run", *words[:-1]]
    done = imported(*words, cwd=PROJECT)
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert (done.returncode, len(said)) == (code, 1), said
    assert said[0].startswith("error: ")
    assert message in said[0]
    if not (swept and what == "pictures for a batch"):  # those of a sweep are told for each point
        assert lines_before_torch(done.stderr) == said
    assert not list(tmp_path.glob("run/*"))
