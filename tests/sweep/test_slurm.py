"""Sweeps on a real Slurm of one node with two pretended GPUs; needs SLURM_TESTS=1, root, Slurm and munge."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sweep.conftest import Sweep, wait_until

pytestmark = pytest.mark.skipif(
    not os.environ.get("SLURM_TESTS") or not shutil.which("slurmctld") or os.geteuid() != 0,
    reason="needs SLURM_TESTS=1, slurm-wlm, munge and root",
)

CONFIG = """
ClusterName=test
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=5
JobRequeue=1
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=2000 Gres=gpu:2
PartitionName=debug Nodes={host} Default=YES State=UP
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("slurm")
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    for number in (0, 1):
        os.mknod(folder / f"nv{number}", 0o600 | 0o020000, os.makedev(195, number))
    text = CONFIG.format(host=host, folder=folder, cpus=os.cpu_count())
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File={folder}/nv[0-1]\n")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge", "munge")
    subprocess.run(["runuser", "-u", "munge", "--", "munged"], check=False, capture_output=True)
    daemons = [subprocess.Popen([name, "-D"]) for name in ("slurmctld", "slurmd")]
    for _ in range(100):
        state = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True).stdout
        if "idle" in state:
            break
        time.sleep(0.3)
    assert "idle" in state
    yield
    for daemon in reversed(daemons):
        daemon.terminate()
        daemon.wait()
    del os.environ["SLURM_CONF"]


SLURM = [
    *("sweep.backend=slurm", "sweep.slurm.partition=debug", "sweep.slurm.gpus=1", "sweep.slurm.cpus=1"),
    *("sweep.slurm.minutes=10", "scheduler=constant"),
]


def epochs(folder: Path) -> int:
    path = folder / "metrics.csv"
    return path.read_text().count("\n") - 1 if path.exists() else 0


def test_a_requeued_job_goes_on_a_killed_one_is_tried_again(cluster: None, sweep: Sweep, net: list[str]):
    diary = sweep.folder / "diary"
    more = ["trainer.epochs=12", "+model.seconds=0.05", f"+model.diary={diary}"]
    process = sweep.start(*net, *SLURM, "seed=0,1,2", *more, "sweep.retries=1")
    victim, requeued = sweep.home / "s0", sweep.home / "s1"
    wait_until(lambda: epochs(victim) > 1 and epochs(requeued) > 1, process)
    os.kill(int((victim / "lock").read_text().split()[1]), signal.SIGKILL)
    job = sweep.trials()["s1"]["job"]
    subprocess.run(["scancel", "--signal=USR2", job], check=True)  # what Slurm sends before a preemption
    stderr = process.communicate(timeout=240)[1]
    assert process.returncode == 0, stderr
    assert "again     s0" in stderr
    assert {name: r["status"] for name, r in sweep.results().items()} == dict.fromkeys(
        ("s0", "s1", "s2"), "finished"
    )
    assert "goes on after epoch" in (requeued / "run.log").read_text()
    assert sweep.trials()["s1"]["job"] == job
    assert sweep.trials()["s1"]["attempts"] == 1
    spans: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in diary.read_text().splitlines():
        moment, pid, gpu, _ = line.split()
        spans[gpu, pid].append(float(moment))
    assert {gpu for gpu, _ in spans} <= {"0", "1"}
    for gpu in ("0", "1"):
        times = sorted((min(ts), max(ts)) for (name, _), ts in spans.items() if name == gpu)
        assert all(end < begin for (_, end), (begin, _) in zip(times, times[1:], strict=False))


def test_the_controller_may_go_and_come_back(cluster: None, sweep: Sweep, net: list[str]):
    more = ["trainer.epochs=12", "+model.seconds=0.05", "sweep.slurm.on_interrupt=leave"]
    process = sweep.start(*net, *SLURM, "seed=0,1", *more)
    wait_until(lambda: epochs(sweep.home / "s0") > 0, process)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130, stderr
    jobs = {name: trial["job"] for name, trial in sweep.trials().items()}
    again = sweep(*net, *SLURM, "seed=0,1", *more)
    assert again.returncode == 0, again.stderr
    assert {name: trial["job"] for name, trial in sweep.trials().items()} == jobs
    assert set(sweep.starts().values()) == {1}
    assert {r["status"] for r in sweep.results().values()} == {"finished"}


def test_a_cancelled_sweep_leaves_no_job_and_resumes(cluster: None, sweep: Sweep, net: list[str]):
    more = ["trainer.epochs=12", "+model.seconds=0.05"]
    process = sweep.start(*net, *SLURM, "seed=0", *more)
    wait_until(lambda: epochs(sweep.home / "run") > 0, process)
    process.send_signal(signal.SIGTERM)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 143, stderr
    assert subprocess.run(["squeue", "-h"], capture_output=True, text=True).stdout == ""
    again = sweep(*net, *SLURM, "seed=0", *more)
    assert again.returncode == 0, again.stderr
    assert sweep.starts() == {"run": 2}
    assert "goes on after epoch" in (sweep.home / "run" / "run.log").read_text()
