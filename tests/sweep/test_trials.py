"""Trials by themselves: what ends one must not touch another, nor a GPU be given twice."""

import json
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from experiments.config.settings import SweepSettings
from experiments.files import PROJECT
from experiments.sweep.backends.local import share_out
from experiments.sweep.runs import table
from experiments.sweep.trials import Trial
from tests.sweep.conftest import TINY, Sweep, wait_until


def test_every_way_to_die_ends_one_trial_alone(sweep: Sweep, net: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")  # which trials on the CPU are not shown
    done = sweep(
        *(*net, "+model.mode=ok,raise,exit,hang,kill,once", f"+model.diary={sweep.folder / 'diary'}"),
        *("sweep.slots=2", "sweep.timeout=6", "sweep.retries=1", "trainer.epochs=1"),
    )
    assert done.returncode == 1
    results = {name.removeprefix("mode-"): result for name, result in sweep.results().items()}
    assert {mode: r["status"] for mode, r in results.items()} == {
        **{"ok": "finished", "once": "finished"},
        **{"raise": "failed", "exit": "failed", "hang": "failed", "kill": "failed"},
    }
    assert "got RuntimeError (no forward today) in training" in results["raise"]["error"]
    assert any("RuntimeError (no forward today)" in line for line in results["raise"]["log"])
    assert results["exit"]["error"].startswith("exit code 7")
    assert results["hang"]["error"] == "sweep.timeout: longer than 6 s"
    assert results["kill"]["error"] == "killed by SIGKILL"
    attempts = {name: trial["attempts"] for name, trial in sweep.trials().items()}
    assert attempts["mode-once"] == attempts["mode-kill"] == 2  # the second attempt is sweep.retries
    assert attempts["mode-raise"] == attempts["mode-hang"] == attempts["mode-exit"] == 1
    steps = [line.split() for line in (sweep.folder / "diary").read_text().splitlines() if "step" in line]
    assert steps
    assert all(len(words) == 3 for words in steps)  # moment, process, step
    log = (sweep.home / "mode-raise" / "trial.log").read_text()
    assert ("error: " in log, "Traceback" in log) == (True, False)
    report = (sweep.home / "report.html").read_text()
    assert "RuntimeError (no forward today)" in report
    assert "killed by SIGKILL" in report


def test_a_damaged_history_is_an_empty_one(tmp_path: Path):
    trial = Trial(0, {}, {}, "damaged", tmp_path)
    (tmp_path / "metrics.csv").write_text("epoch,val/acc\n1,0.5\n2,0.")
    assert trial.look().history == [{"epoch": 1.0, "val/acc": 0.5}]  # the last line is being written
    (tmp_path / "metrics.csv").write_text("epoch,val/acc\n1,half\n")
    assert trial.look().history == []


def test_a_look_keeps_what_it_saw(tmp_path: Path):
    trial = Trial(0, {}, {}, "looked at", tmp_path)
    early = trial.look()
    (tmp_path / "result.json").write_text('{"status": "finished", "metrics": {"val/acc_best": 0.5}}')
    late = trial.look()
    (tmp_path / "result.json").write_text('{"status": "fini')  # damaged: as if it were not there
    damaged = trial.look()
    assert [(look.status, look.done, look.value) for look in (early, late, damaged)] == [
        ("running", False, None),
        ("finished", True, 0.5),
        ("running", False, None),
    ]


def test_slots_share_the_gpus_out_and_the_cores_among_them():
    shared = share_out(SweepSettings(slots_per_gpu=2), gpus=["0", "1"], cores=8, most=100)
    assert (shared.count, shared.gpus, shared.threads) == (4, ("0", "1", "0", "1"), 2)
    few = share_out(SweepSettings(slots_per_gpu=2), gpus=["0", "1"], cores=9, most=2)
    assert (few.gpus, few.threads) == (("0", "1"), 4)  # one each before two on one
    assert share_out(SweepSettings(slots_per_gpu=8), gpus=["5"], cores=4, most=9).threads == 1
    with pytest.raises(ValueError, match="sweep.slots must be at most 2, 2 GPUs times"):
        share_out(SweepSettings(slots="3"), gpus=["0", "1"], cores=8, most=9)


def test_slots_share_the_cores_out():
    assert vars(share_out(SweepSettings(threads=2), gpus=[], cores=8, most=100)) == {
        **{"count": 4, "gpus": (), "threads": 2}
    }
    assert share_out(SweepSettings(), gpus=[], cores=8, most=2).threads == 4
    assert share_out(SweepSettings(slots="3"), gpus=[], cores=8, most=100).count == 3
    assert share_out(SweepSettings(threads=16), gpus=[], cores=8, most=100).count == 1


TWO_GPUS = """
import sys
from pathlib import Path
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from experiments.config.settings import SweepSettings
from experiments.files import CONF
from experiments.sweep.backends.local import Local, Slots
from experiments.sweep.controller import Controller
from experiments.sweep.home import Home
from experiments.sweep.ledger import Ledger
from experiments.sweep.server import Server
from experiments.sweep.space import parse

if __name__ == "__main__":
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    space = parse(sys.argv[2:], loader)
    options = SweepSettings(sampler="grid", name="gpus")
    home = Home(Path(sys.argv[1]))
    home.open(space.identity())
    files = {"config_name": "config", "config_dir": None}
    backend = Local(Server(tracked=False), Slots(2, ("a", "b"), 1), files)
    ledger = Ledger(home.ledger, options, epochs=1)
    code = Controller(space, options, home, ledger, backend, extra=[], tags={}).run()
    heavy = {"torch", "mlflow", "matplotlib"} & set(sys.modules)
    sys.exit(code or " ".join(heavy) or None)
"""


def test_two_trials_never_have_one_gpu_at_a_time(sweep: Sweep, net: list[str]):
    """Each trial notes when it began and ended and which GPU it was given.

    The controller, in the end, has not imported what only the trials need.
    """
    script = sweep.folder / "two_gpus.py"
    script.write_text(TWO_GPUS)
    diary = sweep.folder / "diary"
    arguments = [*net, "seed=range(5)", "trainer.epochs=1", "+model.seconds=0.05", f"+model.diary={diary}"]
    done = subprocess.run(
        [sys.executable, str(script), str(sweep.home), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    spans: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in diary.read_text().splitlines():
        moment, pid, gpu, _ = line.split()
        spans[gpu, pid].append(float(moment))
    assert {gpu for gpu, _ in spans} == {"a", "b"}
    assert len(spans) == 5
    for gpu in ("a", "b"):
        times = sorted((min(ts), max(ts)) for (name, _), ts in spans.items() if name == gpu)
        assert all(end < begin for (_, end), (begin, _) in zip(times, times[1:], strict=False))


ONE_TRIAL = """
import sys
from pathlib import Path
from experiments.sweep.jobs import run_trial
folder = Path(sys.argv[1])
folder.mkdir()
run_trial(sys.argv[2:], {"config_name": "config", "config_dir": None}, folder, "label", "GPU-abc", 1)
"""


@pytest.mark.slow
def test_a_trial_on_the_second_gpu_is_shown_that_one_alone_and_asks_for_the_only_one(tmp_path: Path):
    """There is none of that name, and the error says what was asked for."""
    arguments = [*TINY, "trainer.device=cuda:1"]
    code = [sys.executable, "-c", ONE_TRIAL, str(tmp_path / "trial"), *arguments]
    done = subprocess.run(code, cwd=PROJECT, timeout=120)
    told = json.loads((tmp_path / "trial" / "result.json").read_text())["error"]
    assert (done.returncode, "must be a device of this machine, got 'cuda'; torch" in told) == (2, True), told


@pytest.mark.slow
def test_a_trial_draws_pictures_as_it_learns_only_if_it_is_asked_to(tmp_path: Path):
    """By its words, not by the default of `analysis=full`."""
    code = ONE_TRIAL.replace('"GPU-abc"', '""')
    words = [*(word for word in TINY if word != "analysis=none"), "trainer.epochs=1"]
    for name, more in (("silent", []), ("watched", ["analysis.watch=2"])):
        command = [sys.executable, "-c", code, str(tmp_path / name), *words, "analysis.sheet_size=2", *more]
        assert subprocess.run(command, cwd=PROJECT, timeout=120).returncode == 0
    assert not (tmp_path / "silent" / "watch").exists()
    assert len(list((tmp_path / "watched" / "watch").iterdir())) == 2


def test_the_report_names_the_slot_of_a_trial_on_a_gpu(tmp_path: Path):
    trials = [Trial(n, {}, {}, str(n), tmp_path / str(n), gpu=gpu) for n, gpu in enumerate(["MIG-abc", None])]
    assert [row["gpu"] for row in table(trials)] == ["MIG-abc", ""]


def test_ten_thousand_points_start_soon(sweep: Sweep):
    process = sweep.start(
        *TINY,
        *("model=resnet20,davidnet", "optimizer.lr=range(1,11)", "optimizer.weight_decay=range(0,10)"),
        *("trainer.label_smoothing=0,0.1,0.2,0.3,0.4", "seed=range(10)"),
    )
    wait_until(lambda: any(sweep.home.glob("*/trial.json")), process, seconds=60)
    process.kill()
    process.communicate()
    for path in sweep.home.glob("*/trial.json"):
        Trial.read(path).signal(signal.SIGKILL)


@pytest.fixture
def small_disk(tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.slow
def test_a_full_disk_costs_no_finished_trial_and_is_told(small_disk: Path, net: list[str]):
    sweep = Sweep(small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"0" * 2_200_000)
    grid = [*net, "seed=0,1,2", "trainer.epochs=1", "sweep.slots=1"]
    full = sweep(*grid)
    assert full.returncode == 1, full.stderr
    assert "Traceback" not in full.stderr
    ballast.unlink()
    again = sweep(*grid)
    assert again.returncode == 0, again.stderr
    assert {r["status"] for r in sweep.results().values()} == {"finished"}
    assert len(sweep.results()) == 3


@pytest.mark.slow
def test_what_a_sweep_is_made_of_imports_neither_torch_nor_mlflow_nor_matplotlib():
    modules = "hydra_plugins.cifar_sweeper.sweeper, experiments.sweep.sweep"
    code = f"import sys, {modules}; print({{'torch', 'mlflow', 'matplotlib'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
