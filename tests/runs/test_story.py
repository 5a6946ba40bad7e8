"""Whole runs on the embedded digits, through the command line and read back from what they left behind."""

import csv
import fcntl
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cifar_core.data.sources import load_data
from cifar_core.history import best_epoch
from experiments.cli import GuardStop, UserError
from experiments.config.compose import compose
from experiments.config.values import settings
from experiments.runs.story import resume, run
from tests.conftest import PROJECT, Cli

pytestmark = pytest.mark.slow  # whole runs

SMALL = [
    *("experiment=quickstart", "model.width=4", "trainer.epochs=2", "trainer.batch_size=256"),
    *("trainer.checkpoint_seconds=0", "trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1"),
    "trainer.ema_decay=0",  # an average of so few steps tells nothing
]
LIGHT = [*SMALL, "tracking=none", "analysis=none"]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def finished(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """One whole run, started from a folder that is not the project's and holds an old MLflow file store."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "mlruns" / "0").mkdir(parents=True)
    (elsewhere / "mlruns" / "0" / "meta.yaml").write_text("name: Default\n")
    uri = "tracking.uri=sqlite:///" + str(elsewhere / "mlflow.db")
    done = cli(*SMALL, "aug=cutout", uri, "hydra.job.chdir=true", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    (folder,) = elsewhere.glob("runs/*/*")
    return folder, done


def test_the_screen_ends_with_figures_and_places(finished):
    folder, done = finished
    assert f"run folder     {folder}" in done.stderr
    for words in ("test accuracy", "val accuracy", "contact_sheet.png", "MLflow UI", "epoch 2/2"):
        assert words in done.stderr
    assert "\r" not in done.stderr  # no progress bar in a log file


def test_the_run_folder_is_complete(finished):
    folder, _ = finished
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert there >= {
        *(
            "config.yaml",
            "overrides.yaml",
            "run.log",
            "metrics.csv",
            "environment.json",
            "result.json",
            "best.pt",
        ),
        *(
            f"analysis/{name}.png"
            for name in ("contact_sheet", "confusion_matrix", "curves", "augmentations")
        ),
        *(
            "analysis/predictions.npz",
            "analysis/metrics.json",
            "analysis/misclassified.csv",
            "analysis/model.txt",
        ),
        *("watch/epoch_0000.png", "watch/epoch_0002.png"),
        "tracking.jsonl",
    }
    assert "last.pt" not in there  # trainer.keep=best
    assert not any(Path(name).name.startswith(".") for name in there)
    assert yaml.safe_load((folder / "overrides.yaml").read_text())[0] == "experiment=quickstart"
    assert compose(yaml.safe_load((folder / "overrides.yaml").read_text())).model.width == 4
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
    assert environment["seed"] == 0


def test_the_figures_agree_with_each_other(finished):
    """Accuracy from the logits on disk, from the table of errors and from result.json is one number."""
    folder, _ = finished
    with np.load(folder / "analysis" / "predictions.npz") as predictions:
        labels, logits, index = predictions["labels"], predictions["logits"], predictions["index"]
    acc = (logits.argmax(1) == labels).mean()
    end = result(folder)
    assert end["status"] == "finished"
    assert end["protocol"] == "validation"
    assert end["metrics"]["test/acc"] == pytest.approx(acc)
    assert len(rows(folder / "analysis" / "misclassified.csv")) == (logits.argmax(1) != labels).sum()
    history = rows(folder / "metrics.csv")
    assert [row["epoch"] for row in history] == ["1", "2"]
    assert end["metrics"]["val/acc_best"] == max(float(row["val/acc"]) for row in history)
    data = load_data(settings(compose(SMALL)).data)
    assert index.tolist() == data.test.index.tolist()
    assert labels.tolist() == data.test.labels.tolist()


def test_best_weights_give_the_figures_of_their_epoch(finished):
    folder, _ = finished
    from cifar_core.train import checkpoint, predict
    from cifar_core.train.numerics import numerics
    from experiments.config import build

    cfg = compose(yaml.safe_load((folder / "overrides.yaml").read_text()))
    options = settings(cfg)
    data, where = load_data(options.data), numerics(options.trainer)
    model = where.place(build.model(cfg, num_classes=10))
    model.load_state_dict(checkpoint.load(folder / "best.pt")["model"])
    scores = predict.evaluate(model, data, "test", where, batch_size=100)
    assert scores["test/acc"] == result(folder)["metrics"]["test/acc"]
    assert scores["test/loss"] == pytest.approx(result(folder)["metrics"]["test/loss"], rel=1e-5)


def test_mlflow_has_the_same_run(finished):
    folder, _ = finished
    database = sqlite3.connect(folder.parents[2] / "mlflow.db")
    ((run_id, status, name, artifacts),) = database.execute(
        "SELECT run_uuid, status, name, artifact_uri FROM runs"
    )
    assert (status, run_id) == ("FINISHED", result(folder)["run_id"])
    assert name == json.loads((folder / "environment.json").read_text())["name"]
    assert re.fullmatch(r"resnet20 cutout quickstart width=4 .* s0 \d{4}-\d\d-\d\d \d\d:\d\d", name)
    assert f"<h1>{name}</h1>" in (folder / "analysis" / "report.html").read_text()
    params = dict(database.execute("SELECT key, value FROM params"))
    assert params["optimizer.lr"] == "0.1"
    assert params["trainer.epochs"] == "2"
    assert params["aug.image.cutout.p"] == "1.0"
    for key in ("train/loss", "train/acc", "val/loss", "val/acc", "lr"):
        points = [
            v for (v,) in database.execute("SELECT value FROM metrics WHERE key=? ORDER BY step", (key,))
        ]
        assert points == pytest.approx([float(row[key]) for row in rows(folder / "metrics.csv")])
    ((test_acc,),) = database.execute("SELECT value FROM latest_metrics WHERE key='test/acc'")
    assert test_acc == result(folder)["metrics"]["test/acc"]
    assert [digest for (digest,) in database.execute("SELECT digest FROM datasets")] == [
        json.loads((folder / "environment.json").read_text())["data"]
    ]
    tags = dict(database.execute("SELECT key, value FROM tags"))
    assert f"test accuracy: **{test_acc:.2%}" in tags["mlflow.note.content"]
    assert (tags["protocol"], tags["run_folder"], tags["status"]) == ("validation", str(folder), "finished")
    store = Path(artifacts.removeprefix("file://"))
    assert (store / "config.yaml").exists()
    kept = Counter(path.read_bytes() for path in store.rglob("*") if path.is_file())
    drawn = [*(folder / "analysis").iterdir(), *(folder / "watch").iterdir()]
    assert [kept[path.read_bytes()] for path in drawn] == [1] * len(drawn)  # each once
    assert any((store / "images").glob("contact_sheet*.png"))
    database.close()


def test_a_tiny_run_takes_less_than_two_megabytes_and_so_do_its_files_in_the_store(finished):
    folder, _ = finished
    for place in (folder, folder.parents[2] / "mlartifacts"):
        assert sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) < 2_000_000


def test_sheets_are_pictures(finished):
    folder, _ = finished
    for path in (folder / "analysis").glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 100
            assert len(image.convert("RGB").getcolors(1 << 24)) > 10


def test_a_finished_run_is_left_as_it_is(finished, cli: Cli):
    folder, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*") if path.name != "run.log"}
    same = ["aug=cutout", "tracking.uri=sqlite:///" + str(folder.parents[2] / "mlflow.db")]
    done = cli(*SMALL, *same, f"hydra.run.dir={folder}")
    assert done.returncode == 0
    assert "is finished already; nothing to do" in done.stderr
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_another_run_in_the_same_folder_is_refused(tmp_path: Path):
    run(compose([*LIGHT, "trainer.epochs=1", "trainer.keep=all"]), tmp_path)
    (tmp_path / "result.json").unlink()  # as if it had been killed
    with pytest.raises(
        UserError, match=r"holds a run with optimizer.lr=0.1, got 0.2: .*another hydra.run.dir"
    ):
        run(compose([*LIGHT, "trainer.epochs=1", "optimizer.lr=0.2"]), tmp_path)
    assert (tmp_path / "config.yaml").exists()


def test_a_second_process_on_the_folder_is_told(tmp_path: Path):
    with (tmp_path / "lock").open("w") as lock:
        lock.write("process 123")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="is in use by process 123"):
            run(compose(LIGHT), tmp_path)


def test_absent_data_names_the_ways_out_and_leaves_nothing(cli: Cli, tmp_path: Path):
    done = cli("tracking=none", "data.download=false", cwd=tmp_path, CIFAR_ROOT=str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1
    for way in (
        str(tmp_path / "nowhere" / "cifar-10-python.tar.gz"),
        "data=folder data.root=",
        "data=digits",
    ):
        assert way in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "experiments.run", *arguments, f"hydra.run.dir={folder}"]
    return subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True)


def wait_for_epoch(folder: Path, epoch: int, process: subprocess.Popen) -> None:
    while not (folder / "metrics.csv").exists() or len(rows(folder / "metrics.csv")) < epoch:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


STOPPABLE = [*LIGHT, "trainer.epochs=4", "aug=cutout", "trainer.keep=all"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(compose(STOPPABLE), folder)
    return folder


@pytest.mark.parametrize(
    ("signum", "code"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130)],
)
def test_a_stopped_run_is_recorded_and_goes_on_bit_for_bit(
    uninterrupted: Path, tmp_path: Path, signum: int, code: int
):
    process = start(tmp_path, *STOPPABLE)
    wait_for_epoch(tmp_path, 2, process)
    process.send_signal(signum)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert result(tmp_path)["status"] == "killed"
    assert stderr.rstrip().endswith(f"stopped by {signal.Signals(signum).name}")
    assert 2 <= len(rows(tmp_path / "metrics.csv")) < 4

    run(compose(STOPPABLE), tmp_path)
    assert "goes on after epoch" in (tmp_path / "run.log").read_text()
    kept = ("epoch", "train/loss", "train/acc", "val/loss", "val/acc", "lr")
    a, b = ([{k: row[k] for k in kept} for row in rows(x / "metrics.csv")] for x in (uninterrupted, tmp_path))
    assert a == b
    assert result(tmp_path)["metrics"] == result(uninterrupted)["metrics"]
    for name in ("best.pt", "last.pt"):
        one, other = (torch.load(x / name, weights_only=True) for x in (uninterrupted, tmp_path))
        weights = [(state["state"] if name == "last.pt" else state)["model"] for state in (one, other)]
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed after its third epoch, when two checkpoints are there."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    process = start(folder, *STOPPABLE)
    wait_for_epoch(folder, 3, process)
    process.kill()
    process.communicate()
    last = folder / "last.pt"
    if not last.exists():  # the kill fell between two renamings, which the run itself can do without
        next(folder.glob(".last.pt.*")).rename(last)
    return folder


@pytest.fixture
def stopped(killed: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(killed, tmp_path / "run")


def assert_same_end(folder: Path, uninterrupted: Path) -> None:
    assert result(folder)["metrics"] == result(uninterrupted)["metrics"]
    one, other = (torch.load(x / "last.pt", weights_only=True)["state"] for x in (folder, uninterrupted))
    assert all(torch.equal(one["model"][key], other["model"][key]) for key in one["model"])


def test_resume_from_anywhere(stopped: Path, uninterrupted: Path, cli: Cli, tmp_path: Path, caplog):
    with pytest.raises(UserError, match="holds a run with optimizer.lr=0.1, got 0.3, seed=0, got 4"):
        resume(stopped, ["optimizer.lr=0.3", "seed=4"])
    with pytest.raises(UserError, match="did you mean keep?"):
        resume(stopped, ["trainer.keeep=all"])
    done = cli("resume=run", "trainer.progress=false", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same_end(stopped, uninterrupted)
    with caplog.at_level("INFO"):
        resume(stopped, [])
    assert "is finished already; nothing to do" in caplog.text


def test_resume_needs_a_run_folder(tmp_path: Path, cli: Cli):
    done = cli(f"resume={tmp_path}")
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path} is not a run folder: it has no config.yaml\n"


@pytest.mark.parametrize("damage", ["torn", "empty", "foreign"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
    stopped: Path, uninterrupted: Path, damage: str
):
    last, before = stopped / "last.pt", torch.load(stopped / "previous.pt", weights_only=True)
    if damage == "foreign":
        saved = torch.load(last, weights_only=True)
        torch.save(saved | {"identity": {"config": "another", "data": "0"}}, last)
    else:
        whole = last.read_bytes()
        last.write_bytes(whole[: len(whole) // 2] if damage == "torn" else b"")
    run(compose(STOPPABLE), stopped)
    log = (stopped / "run.log").read_text()
    assert f"WARNING {last} " in log
    assert f"goes on after epoch {before['state']['epoch']} of" in log
    assert_same_end(stopped, uninterrupted)


def test_both_generations_damaged_starts_over(stopped: Path, uninterrupted: Path):
    for name in ("last.pt", "previous.pt"):
        (stopped / name).write_bytes(b"")
    run(compose(STOPPABLE), stopped)
    assert "goes on after" not in (stopped / "run.log").read_text()
    assert_same_end(stopped, uninterrupted)


def test_other_pictures_are_refused(stopped: Path, monkeypatch: pytest.MonkeyPatch):
    saved = torch.load(stopped / "last.pt", weights_only=True)
    saved["identity"]["data"] = "others"
    for name in ("last.pt", "previous.pt"):
        torch.save(saved, stopped / name)
    with pytest.raises(UserError, match="was made from other pictures .* fingerprint others"):
        run(compose(STOPPABLE), stopped)
    assert (stopped / "last.pt").exists()


def test_a_signal_keeps_the_last_epoch_although_no_checkpoint_was_due(tmp_path: Path):
    process = start(tmp_path, *STOPPABLE, "trainer.checkpoint_seconds=1000")
    wait_for_epoch(tmp_path, 3, process)
    assert not list(tmp_path.glob("*.pt"))
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=60)
    assert process.returncode == 143
    accs = [row["val/acc"] for row in rows(tmp_path / "metrics.csv")]
    last, best = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("last", "best"))
    assert last["state"]["epoch"] == len(accs)
    assert accs[best["epoch"] - 1] == max(accs)


def test_an_error_keeps_the_last_epoch_although_no_checkpoint_was_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "weary_net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__(); self.head = torch.nn.Linear(3072, num_classes); self.passes = 0\n"
        "    def forward(self, x):\n"
        "        self.passes += self.training\n"
        "        if self.passes > 2 * 4: raise RuntimeError('enough')\n"
        "        return self.head(x.flatten(1))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ["trainer.epochs=9", "trainer.guards=off", "trainer.checkpoint_seconds=1000"]
    with pytest.raises(RuntimeError, match="enough"):
        run(compose([*own_net("weary_net"), *words]), tmp_path / "run")
    accs = [row["val/acc"] for row in rows(tmp_path / "run" / "metrics.csv")]
    last, best = (torch.load(tmp_path / "run" / f"{name}.pt", weights_only=True) for name in ("last", "best"))
    assert last["state"]["epoch"] == len(accs) >= 1
    assert accs[best["epoch"] - 1] == max(accs)


def test_a_full_disk_is_told_before_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        OSError, match=r"needs about \d+ MB for checkpoints during the run, and 0 MB are free"
    ):
        run(compose(LIGHT), tmp_path)


LESS_TRAINED = "smaller trainer.batch_size with a larger trainer.accumulate"


@pytest.mark.parametrize(
    ("when", "guards", "advice"),
    [
        ("building", "stop", LESS_TRAINED),
        ("len(x) == 32", "stop", LESS_TRAINED),  # the check before the start
        ("self.training and len(x) > 32", "off", LESS_TRAINED),
        ("not self.training and len(x) > 32", "off", "smaller trainer.eval_batch_size"),
    ],
)
def test_out_of_memory_says_what_to_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, guards: str, advice: str
):
    (tmp_path / "hungry_net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, num_classes, when):\n"
        "        super().__init__(); self.head = torch.nn.Linear(3072, num_classes); self.when = when\n"
        "        if when == 'building': torch.empty(1 << 50)\n"
        "    def forward(self, x):\n"
        "        if eval(self.when): torch.empty(1 << 50)\n"
        "        return self.head(x.flatten(1))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = [*own_net("hungry_net"), f"+model.when='{when}'", f"trainer.guards={guards}"]
    with pytest.raises(MemoryError, match=f"^out of memory: use a {advice}.*can't allocate memory"):
        run(compose(words), tmp_path / "run")
    assert (result(tmp_path / "run")["status"], result(tmp_path / "run")["cause"]) == ("failed", "memory")


def own_net(package: str) -> list[str]:
    """Return the overrides that put `Net` of ``package`` in the place of the model."""
    own = ["model=resnet20", f"security.allowed_targets=[{package}.]", f"model._target_={package}.Net"]
    gone = ["~model.width", "~model.drop_rate", "~model.zero_init_last"]
    return [*(part for part in LIGHT if not part.startswith("model.")), *own, *gone]


def test_a_defect_is_recorded_with_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "broken_net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__(); self.head = torch.nn.Linear(3072, num_classes)\n"
        "    def forward(self, x):\n"
        "        if self.training: raise RuntimeError('no forward today')\n"
        "        return self.head(x.flatten(1))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(GuardStop, match=r"got RuntimeError \(no forward today\) in training"):
        run(compose(own_net("broken_net")), tmp_path / "run")
    assert result(tmp_path / "run")["status"] == "failed"
    assert "no forward today" in result(tmp_path / "run")["error"]
    log = (tmp_path / "run" / "run.log").read_text()
    assert "Traceback" in log
    assert "broken_net.py" in log


def test_without_validation_the_run_is_marked(tmp_path: Path):
    acc = run(compose([*LIGHT, "data.val_size=0"]), tmp_path)
    end = result(tmp_path)
    assert end["protocol"] == "test_each_epoch"
    assert set(end["metrics"]) == {"test/acc", "test/loss", "test/balanced_acc"}
    assert acc == end["metrics"]["test/acc"] == float(rows(tmp_path / "metrics.csv")[-1]["test/acc"])
    assert "not a fair one" in (tmp_path / "run.log").read_text()


def test_without_validation_the_test_set_can_be_read_once(tmp_path: Path):
    once, each = tmp_path / "once", tmp_path / "each"
    run(compose([*LIGHT, "data.val_size=0", "trainer.evaluate=end"]), once)
    run(compose([*LIGHT, "data.val_size=0"]), each)
    assert result(once)["protocol"] == "test_once"
    assert result(once)["metrics"] == result(each)["metrics"]
    assert not any("test" in key for key in rows(once / "metrics.csv")[0])
    assert "not a fair one" not in (once / "run.log").read_text()


@pytest.mark.parametrize(
    ("more", "law"),
    [
        ([], "trainer.evaluate=end is for data.val_size=0, got 0.1"),
        (["data.val_size=0", "scheduler=plateau"], "scheduler=plateau needs trainer.evaluate=each_epoch"),
    ],
)
def test_what_chooses_by_epochs_needs_their_evaluation(more: list[str], law: str):
    with pytest.raises(ValueError, match=law):
        compose([*LIGHT, "trainer.evaluate=end", *more])


def test_a_random_flip_on_top_of_the_alternating_one_is_refused():
    compose([*LIGHT, "trainer.alternating_flip=true", "aug=shift"])
    with pytest.raises(
        ValueError, match=r"in place of a random flip: take that out with '~aug\.image\.flip'"
    ):
        compose([*LIGHT, "trainer.alternating_flip=true", "aug=crop_flip"])


def test_the_test_set_can_be_left_unread(tmp_path: Path):
    acc = run(compose([*SMALL, "tracking=none", "analysis=light", "trainer.test=false"]), tmp_path)
    assert set(result(tmp_path)["metrics"]) == {"val/acc_best", "val/loss_best", "val/balanced_acc_best"}
    assert acc == result(tmp_path)["metrics"]["val/acc_best"]
    with np.load(tmp_path / "analysis" / "predictions.npz") as predictions:
        assert len(predictions["labels"]) == 144  # the validation split
        assert (predictions["logits"].argmax(1) == predictions["labels"]).mean() == pytest.approx(acc)


def test_early_stop(tmp_path: Path):
    stops = [*LIGHT, "trainer.epochs=50", "trainer.early_stop=2", "trainer.keep=all", "optimizer.lr=1e-9"]
    run(compose(stops), tmp_path)
    end = result(tmp_path)
    assert end["epochs"] < 50
    accs = [float(row["val/acc"]) for row in rows(tmp_path / "metrics.csv")]
    assert len(accs) == end["epochs"] == accs.index(max(accs)) + 1 + 2
    (tmp_path / "result.json").unlink()  # as if it had been killed after its last epoch
    run(compose(stops), tmp_path)
    assert result(tmp_path)["metrics"] == end["metrics"]
    assert len(rows(tmp_path / "metrics.csv")) == end["epochs"]


def test_a_pruned_run_has_the_figures_of_its_best_epoch_and_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "pruned_net.py").write_text(
        "import pathlib, torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, num_classes, stop):\n"
        "        super().__init__(); self.head = torch.nn.Linear(3072, num_classes)\n"
        "        self.stop = pathlib.Path(stop); self.register_buffer('steps', torch.zeros(()))\n"
        "    def forward(self, x):\n"
        "        if self.training:\n"
        "            self.steps += 1\n"
        "            if self.steps > 5: self.stop.touch()\n"
        "        return self.head(x.flatten(1)) * (self.training or self.steps <= 5)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "run"
    cfg = compose(
        [*own_net("pruned_net"), f"+model.stop={folder / 'stop'}", "trainer.guards=off", "trainer.epochs=3"]
    )
    acc = run(cfg, folder)
    accs = [float(row["val/acc"]) for row in rows(folder / "metrics.csv")]
    end = result(folder)
    assert (end["status"], end["epochs"], len(accs)) == ("pruned", 2, 2)
    assert acc == end["metrics"]["val/acc_best"] == accs[0] > accs[1]
    assert set(end["metrics"]) == {"val/acc_best", "val/loss_best"}
    assert not (folder / "stop").exists()
    assert run(cfg, folder) == acc
    assert "is pruned already; nothing to do" in (folder / "run.log").read_text()


@pytest.mark.parametrize(("keep", "left"), [("all", {"best.pt", "last.pt"}), ("none", set())])
def test_keep(tmp_path: Path, keep: str, left: set):
    run(compose([*LIGHT, "trainer.epochs=1", f"trainer.keep={keep}"]), tmp_path)
    assert {path.name for path in tmp_path.glob("*.pt")} == left


def test_a_plain_multirun(cli: Cli, tmp_path: Path):
    done = cli("-m", *LIGHT, "trainer.epochs=1", "seed=0,1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folders = sorted(path.parent for path in tmp_path.glob("sweeps/*/*/config.yaml"))
    assert [yaml.safe_load((folder / "config.yaml").read_text())["seed"] for folder in folders] == [0, 1]
    assert [result(folder)["status"] for folder in folders] == ["finished", "finished"]


def test_an_unreachable_tracker_costs_nothing_unless_required(tmp_path: Path):
    uri = ["tracking=mlflow", "tracking.uri=http://127.0.0.1:9", "trainer.epochs=1"]
    run(compose([*LIGHT, *uri]), tmp_path / "optional")
    assert result(tmp_path / "optional")["status"] == "finished"
    with pytest.raises(ConnectionError, match="127.0.0.1:9"):
        run(compose([*LIGHT, *uri, "tracking.required=true"]), tmp_path / "required")
    assert not (tmp_path / "required").exists()


def test_best_epoch_is_the_first_of_equals():
    assert (
        best_epoch([{"epoch": 1, "val/acc": 0.5}, {"epoch": 2, "val/acc": 0.7}, {"epoch": 3, "val/acc": 0.7}])
        == 2
    )
    assert best_epoch([{"epoch": 1, "test/acc": 0.9}, {"epoch": 2, "test/acc": 0.1}]) == 2


def test_an_unwritable_run_folder_is_the_machines_fault(cli: Cli, tmp_path: Path):
    (tmp_path / "file").write_text("")
    done = cli(*LIGHT, f"hydra.run.dir={tmp_path / 'file' / 'run'}")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "file") in done.stderr
