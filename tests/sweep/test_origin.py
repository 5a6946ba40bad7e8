"""All trials of a sweep are composed as at its start, whatever becomes of conf/ meanwhile."""

import json
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig

from experiments.config.compose import composing_from
from experiments.config.values import plain
from experiments.files import CONF
from experiments.sweep import origin
from experiments.sweep.compared import composed, conflict, edited
from experiments.sweep.origin import KEPT, keep, kept, move, moved, texts, unpacked
from experiments.sweep.space import Files
from tests.sweep.conftest import TINY, Sweep, space_of, wait_until

SPACE = space_of(*TINY, "optimizer=sgd,adamw", "seed=0,1")


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project's conf/ that may be edited."""
    shutil.copytree(CONF, tmp_path / "project" / "conf")
    monkeypatch.setattr(origin, "CONF", tmp_path / "project" / "conf")
    with composing_from(tmp_path / "project" / "conf"):
        yield tmp_path / "project" / "conf"


@pytest.fixture
def now(tmp_path: Path) -> Files:
    """What a command would be composed from, a folder of the user's own among it."""
    (tmp_path / "my" / "optimizer").mkdir(parents=True)
    (tmp_path / "my" / "optimizer" / "mine.yaml").write_text("defaults: [sgd]\nlr: 0.5\n")
    (tmp_path / "my" / "run").mkdir()
    (tmp_path / "my" / "run" / "environment.json").write_text("{}")
    (tmp_path / "my" / "run" / "config.yaml").write_text("seed: 3\n")
    (tmp_path / "my" / "loop").symlink_to(tmp_path / "my")
    (tmp_path / "my" / "data.npz").write_text("large")
    return {"config_name": "config", "config_dir": str(tmp_path / "my"), "allowed": []}


def lr(files: Files, *words: str) -> float:
    with unpacked(files) as here:
        return composed([*TINY, *words], here).optimizer.lr


def edit(path: Path, key: str, value: str) -> str:
    """Give a key of a YAML file another value; return the one before."""
    before = yaml.safe_load(path.read_text())[key]
    path.write_text(re.sub(rf"^{key}: \S+", f"{key}: {value}", path.read_text(), flags=re.MULTILINE))
    return str(before)


def test_what_is_kept_composes_what_was_there_at_the_start(conf: Path, now: Files, tmp_path: Path):
    home, scratch = tmp_path / "sweep", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    assert kept(now, home) is None
    first = keep(now, scratch)
    move(scratch, home)
    files = kept(now, home)
    assert files is not None
    assert files == moved(first, home) != first
    own = {name for name in texts(files) if name.startswith("config_dir/")}
    assert own == {"config_dir/optimizer/mine.yaml"}  # neither runs nor pictures, and not again by the link
    edit(tmp_path / "my" / "optimizer" / "mine.yaml", "lr", "0.7")
    before = float(edit(conf / "optimizer" / "sgd.yaml", "lr", "0.9"))
    assert (lr(now, "optimizer=mine"), lr(files, "optimizer=mine")) == (0.7, 0.5)
    assert (lr(now), lr(files)) == (0.9, before)
    shutil.rmtree(conf / "optimizer")  # another branch
    assert lr(files) == before
    move(scratch, home)  # once is enough
    assert [path.name for path in home.iterdir()] == [KEPT]  # no folder that could be taken for a run


def test_what_was_edited_is_told_where_it_matters(conf: Path, now: Files, tmp_path: Path):
    files = keep(now, tmp_path)
    assert edited(SPACE, files, now) == ""
    edit(conf / "model" / "davidnet.yaml", "width", "7")  # which this sweep does not use
    (conf / "optimizer" / "sgd.yaml").write_text((conf / "optimizer" / "sgd.yaml").read_text() + "# remark\n")
    assert edited(SPACE, files, now) == ""
    before = edit(conf / "optimizer" / "adamw.yaml", "weight_decay", "0.77")  # the second of two options
    assert f"optimizer.weight_decay: {before}, now 0.77; another sweep.name" in edited(SPACE, files, now)
    (conf / "optimizer" / "adamw.yaml").unlink()
    assert "conf/: optimizer=adamw is not an option" in edited(SPACE, files, now)


def test_a_trial_that_was_made_from_other_values_is_told(
    conf: Path, now: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As in a sweep of an earlier version, which kept nothing, or where a variable has another value."""
    mine = tmp_path / "my" / "optimizer" / "mine.yaml"
    mine.write_text("defaults: [sgd]\nlr: ${oc.decode:${oc.env:CIFAR_LR}}\n")

    def made(root: str, lr: str) -> DictConfig:
        monkeypatch.setenv("CIFAR_LR", lr)
        monkeypatch.setenv("CIFAR_ROOT", root)
        return composed([*TINY, "optimizer=mine", "data.root=${oc.env:CIFAR_ROOT}"], now)

    (tmp_path / "config.yaml").write_text(yaml.safe_dump(plain(made("here", "0.1"))))
    assert conflict(tmp_path, made("here", "0.1")) == ""
    assert conflict(tmp_path, made("moved", "0.1")) == ""  # the pictures themselves are compared
    assert "optimizer.lr: 0.1, now 0.2; restore" in conflict(tmp_path, made("here", "0.2"))
    (tmp_path / "environment.json").write_text('{"data": "of then"}')
    assert "the pictures: fingerprint of then, now " in conflict(tmp_path, made("here", "0.1"))


def test_a_strangers_sweep_allows_itself_nothing_and_writes_nowhere(conf: Path, now: Files, tmp_path: Path):
    files = keep(now, tmp_path)
    saved = json.loads((tmp_path / KEPT).read_text())
    doctored = saved["conf/config.yaml"].replace("allowed_targets: []", "allowed_targets: [os.]")
    assert "[os.]" in doctored
    (tmp_path / KEPT).write_text(json.dumps(saved | {"conf/config.yaml": doctored}))
    with unpacked(files) as here:
        assert composed(TINY, here).security.allowed_targets == []
    for name in ("conf/../../out.yaml", "/out.yaml", "elsewhere/out.yaml", "../out.yaml", ""):
        (tmp_path / KEPT).write_text(json.dumps(saved | {name: "x"}))
        with pytest.raises(OSError, match="is damaged: it holds"), unpacked(files):
            pass


@pytest.mark.slow
def test_conf_may_be_edited_while_a_sweep_runs_and_before_it_goes_on(sweep: Sweep, net: list[str]):
    option, diary = sweep.folder / "my" / "optimizer" / "mine.yaml", sweep.folder / "diary"
    option.parent.mkdir(parents=True)
    option.write_text("defaults: [sgd]\nlr: 0.01\n")
    words = ["--config-dir", str(sweep.folder / "my"), *net, "optimizer=mine", "seed=range(4)"]
    words += ["sweep.slots=1", "trainer.epochs=1", "+model.seconds=0.5", f"+model.diary={diary}"]
    process = sweep.start(*words)
    wait_until(lambda: len(list(sweep.home.glob("*/config.yaml"))) == 1, process)
    option.write_text("defaults: [sgd]\nlr: 0.02\n")
    diary.with_suffix(".go").touch()
    wait_until(lambda: len(list(sweep.home.glob("*/config.yaml"))) == 2, process)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert said.count(f" -m experiments.run -m --config-dir {sweep.folder / 'my'} ") == 1, said
    assert "again with:  " in said
    assert sweep(*words).returncode == 0, sweep.said
    assert "goes on with the values of then: optimizer.lr: 0.01, now 0.02; another sweep.name" in sweep.said
    configs = [yaml.safe_load(path.read_text()) for path in sorted(sweep.home.glob("*/config.yaml"))]
    assert [config["optimizer"]["lr"] for config in configs] == [0.01] * 4
    assert re.search(r"best          \S.*  val/acc .* \(n=4\)", sweep.said)
    assert {path.parent.name for path in sweep.home.glob("*/config.yaml")} == {"s0", "s1", "s2", "s3"}
