"""A finished run: what is asked of it again is compared, and a longer training is a run of its own."""

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from experiments.cli import Stopped, UserError
from experiments.config.compose import compose
from experiments.runs import read, story
from experiments.runs.names import name_of
from experiments.runs.story import resume, run

TINY = [
    *("data=digits", "model=resnet20", "model.width=4", "aug=flip", "trainer=quick", "tracking=none"),
    *("data.image_size=8", "trainer.batch_size=512", "trainer.device=cpu", "trainer.precision=fp32"),
    *("trainer.threads=1", "analysis=none", "trainer.checkpoint_seconds=0", "trainer.guards=off"),
    *("trainer.epochs=2", "trainer.ema_decay=0.5", "trainer.keep=all", "seed=3"),
]


def state(folder: Path) -> dict:
    return torch.load(folder / "last.pt", weights_only=True)["state"]


def equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("done") / "run"
    run(compose(TINY), folder, overrides=TINY)
    return folder


@pytest.fixture(scope="module")
def extended(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("more") / "run"
    resume(finished, ["trainer.epochs=5", f"hydra.run.dir={folder}"])
    return folder


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ("optimizer.lr=0.3", "optimizer.lr=0.1, got 0.3"),
        ("trainer.epochs=9", "trainer.epochs=2, got 9"),
        ("model.width=8", "model.width=4, got 8"),
        ("data.val_size=0.3", "data.val_size=0.1, got 0.3"),
        ("seed=4", "seed=3, got 4"),
    ],
)
def test_a_finished_folder_refuses_another_run(finished: Path, changed: str, told: str):
    before = {path: path.read_bytes() for path in finished.glob("*.*") if path.name != "run.log"}
    with pytest.raises(UserError, match=told) as error:
        run(compose([*TINY, changed]), finished)
    assert {path: path.read_bytes() for path in before} == before
    line = str(error.value).partition("to train it longer: python -m ")[2]
    if changed == "trainer.epochs=9":
        assert shlex.split(line) == ["experiments.run", f"resume={finished}", "trainer.epochs=9"]
    else:
        assert not line


def test_other_pictures_at_another_root_are_refused_and_moved_ones_are_not(tmp_path: Path, caplog):
    import numpy as np
    from PIL import Image

    for root, seed in (("one", 0), ("moved", 0), ("other", 1)):
        rng = np.random.default_rng(seed)
        for name in [
            f"{split}/{kind}/{n}.png" for split in ("train", "test") for kind in "ab" for n in range(9)
        ]:
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    words = [*TINY, "data=folder", "data.image_size=8", "trainer.batch_size=4", "trainer.epochs=1"]
    words += [f"data.cache={tmp_path / 'cache'}"]
    run(compose([*words, f"data.root={tmp_path / 'one'}"]), tmp_path / "run")
    with caplog.at_level("INFO"):
        run(compose([*words, f"data.root={tmp_path / 'moved'}"]), tmp_path / "run")
    assert "is finished already; nothing to do" in caplog.text
    with pytest.raises(UserError, match="holds a run on other pictures than those in data.root="):
        run(compose([*words, f"data.root={tmp_path / 'other'}"]), tmp_path / "run")


def test_the_same_command_again_shows_the_result_and_what_may_come_next(finished: Path, caplog):
    with caplog.at_level("INFO"):
        run(compose([*TINY, "trainer.progress=true"]), finished)
    acc = json.loads((finished / "result.json").read_text())["metrics"]["test/acc"]
    assert f"{finished} is finished already; nothing to do" in caplog.text
    assert f"{acc:.2%}" in caplog.text
    assert f"python -m experiments.run resume={finished} trainer.epochs=4" in caplog.text
    assert f"python -m experiments.compare {finished.parent}" in caplog.text


def test_a_refused_command_leaves_the_result_of_a_failed_run(tmp_path: Path, finished: Path):
    (tmp_path / "config.yaml").write_text((finished / "config.yaml").read_text())
    (tmp_path / "result.json").write_text('{"status": "failed"}')
    with pytest.raises(UserError, match="to train it longer once it is finished"):
        run(compose([*TINY, "trainer.epochs=9"]), tmp_path)
    assert json.loads((tmp_path / "result.json").read_text()) == {"status": "failed"}


def test_a_longer_run_counts_on_under_a_schedule_over_the_added_epochs(finished: Path, extended: Path):
    rows = read.history(extended)
    assert [row["epoch"] for row in rows] == [3, 4, 5]
    assert rows[-1]["step"] == 5 / 2 * read.history(finished)[-1]["step"]
    steps = state(extended)["step"] - state(finished)["step"]
    fresh = compose([*TINY, "trainer.epochs=3"])
    from experiments.config import build

    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    optimizer = build.optimizer(fresh, [("w", parameter)])
    schedule = build.scheduler(fresh, optimizer, steps_per_epoch=steps // 3)
    lrs = []
    for _ in range(steps):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert [row["lr"] for row in rows] == pytest.approx([lrs[steps // 3 * n - 1] for n in (1, 2, 3)])
    end = json.loads((extended / "result.json").read_text())
    assert (end["status"], end["epochs"]) == ("finished", 5)
    assert end["metrics"]["val/acc_best"] == max(row["val/acc"] for row in rows)


def test_it_begins_with_weights_optimizer_and_average_of_the_last_epoch(
    finished: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(story, "_train", lambda *_: _stop())
    with pytest.raises(Stopped):
        resume(finished, ["trainer.epochs=3", f"hydra.run.dir={tmp_path / 'x'}"])
    old, new = state(finished), state(tmp_path / "x")
    assert equal(old["model"], new["model"])
    assert equal(old["ema"], new["ema"])
    moments = [group["momentum_buffer"] for group in old["optimizer"]["state"].values()]
    assert moments
    for before, now in zip(moments, new["optimizer"]["state"].values(), strict=True):
        assert torch.equal(before, now["momentum_buffer"])
    assert (
        new["optimizer"]["param_groups"][0]["lr"] > old["optimizer"]["param_groups"][0]["lr"]
    )  # warms up anew
    assert (new["epoch"], new["step"], new["seed"]) == (2, old["step"], 3)


def _stop():
    raise Stopped(15)


def test_it_notes_its_origin_and_what_was_asked_for(finished: Path, extended: Path):
    config = yaml.safe_load((extended / "config.yaml").read_text())
    assert config["origin"] == {"folder": str(finished), "epochs": 2, "weights": "last"}
    asked = yaml.safe_load((extended / "overrides.yaml").read_text())
    assert asked == [*TINY, "trainer.epochs=5"]
    assert compose(asked).trainer.epochs == config["trainer"]["epochs"] == 5
    assert re.fullmatch(r"run epochs=5 [\d :-]{16}", name_of(extended))


def test_a_killed_longer_run_goes_on_without_its_origin_and_ends_alike(
    finished: Path, extended: Path, tmp_path: Path, monkeypatch
):
    import shutil

    origin, folder = tmp_path / "origin", tmp_path / "run"
    shutil.copytree(finished, origin)
    kept, epochs = story.Checkpoints.keep, []

    def stop_after_the_first(self, trained, *args, **options):
        kept(self, trained, *args, **options)
        epochs.append(trained.epoch)
        if trained.epoch == 3:
            raise Stopped(15)

    with monkeypatch.context() as patch:
        patch.setattr(story.Checkpoints, "keep", stop_after_the_first)
        with pytest.raises(Stopped) as stopped:
            resume(origin, ["trainer.epochs=5", f"hydra.run.dir={folder}"])
    (note,) = stopped.value.__notes__
    assert shlex.split(note.partition("go on with:  ")[2])[-1] == f"resume={folder}"
    shutil.rmtree(origin)
    name = name_of(folder)
    resume(folder, [])
    assert name_of(folder) == name
    assert equal(state(folder)["model"], state(extended)["model"])
    assert equal(state(folder)["ema"], state(extended)["ema"])
    figures = [[row["train/loss"] for row in read.history(f)] for f in (folder, extended)]
    assert figures[0] == figures[1]


def test_it_can_be_trained_longer_again_and_the_first_stays_as_it_was(
    extended: Path, finished: Path, tmp_path: Path
):
    resume(extended, ["trainer.epochs=6", f"hydra.run.dir={tmp_path / 'x'}"])
    assert [row["epoch"] for row in read.history(tmp_path / "x")] == [6]
    assert [row["epoch"] for row in read.history(finished)] == [1, 2]


def test_by_default_it_lies_beside_today_s_runs(finished: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(story, "_train", lambda *_: _stop())
    with pytest.raises(Stopped):
        resume(finished, ["trainer.epochs=3"])
    (folder,) = tmp_path.glob("runs/*/*")
    assert folder.name.endswith("_run_epochs3")


def test_of_the_best_weights_alone_the_optimizer_is_fresh_and_that_is_said(
    finished: Path, tmp_path: Path, caplog
):
    import shutil

    old = tmp_path / "old"
    shutil.copytree(finished, old)
    (old / "last.pt").unlink()
    with caplog.at_level("INFO"):
        resume(old, ["trainer.epochs=3", f"hydra.run.dir={tmp_path / 'new'}"])
    assert "a fresh optimizer: trainer.keep=all keeps the last" in caplog.text
    assert yaml.safe_load((tmp_path / "new/config.yaml").read_text())["origin"]["weights"] == "best"
    torch.save({"epoch": 1}, old / "best.pt")
    with pytest.raises(OSError, match=r"best\.pt is not a checkpoint of a run: it lacks model"):
        resume(old, ["trainer.epochs=3", f"hydra.run.dir={tmp_path / 'lacking'}"])
    (old / "best.pt").unlink()
    with pytest.raises(UserError, match=r"has no weights to go on from: trainer\.keep must be all"):
        resume(old, ["trainer.epochs=4"])


@pytest.mark.parametrize(
    ("words", "law"),
    [
        (["trainer.epochs=1"], r"trainer\.epochs must be above the 2 that .* has had, got 1"),
        (["trainer.epochs=4", "optimizer.lr=0.3"], r"optimizer\.lr=0\.1, got 0\.3"),
        (["trainer.epochs=4", "seed=4"], "seed=3, got 4"),
        (["optimizer.lr=0.3"], r"optimizer\.lr=0\.1, got 0\.3"),
        (["hydra.run.dir=elsewhere"], "hydra.run.dir is for a finished run that is trained longer"),
        (["trainer.epochs=3", "hydra.run.dir={}/inner"], "must lie outside of"),
    ],
)
def test_any_other_change_is_refused(finished: Path, words: list[str], law: str):
    with pytest.raises(UserError, match=law):
        resume(finished, [word.format(finished) for word in words])


def test_a_pruned_run_is_trained_on_where_a_length_is_named(finished: Path, tmp_path: Path, caplog):
    import shutil

    old = tmp_path / "old"
    shutil.copytree(finished, old)
    end = json.loads((old / "result.json").read_text())
    (old / "result.json").write_text(json.dumps(end | {"status": "pruned"}))
    with caplog.at_level("INFO"):
        resume(old, [])
    assert "is pruned already; nothing to do" in caplog.text
    resume(old, ["trainer.epochs=3", f"hydra.run.dir={tmp_path / 'new'}"])
    assert [row["epoch"] for row in read.history(tmp_path / "new")] == [3]
