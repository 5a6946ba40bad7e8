"""Sweeps on a real Slurm of one node with two pretended GPUs; needs SLURM_TESTS=1, root, Slurm and munge."""

import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from experiments.sweep.trials import Trial
from tests.sweep.conftest import Sweep, wait_until

pytestmark = pytest.mark.skipif(
    not os.environ.get("SLURM_TESTS") or not shutil.which("slurmctld") or os.geteuid() != 0,
    reason="needs SLURM_TESTS=1, slurm-wlm, munge and root",
)

MUNGE_FILES = ("socket", "key-file", "log-file", "pid-file", "seed-file")
# Without haste, Slurm looks for work twice a minute. A requeued job starts after cred_expire, 5 s or more.
HASTE = "sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0"
CONFIG = """
ClusterName=test
SlurmctldHost={host}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SchedulerParameters={haste}
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
    """Slurm's and munge's daemons for as long as the tests, with all their files in a folder of their own."""
    folder = tmp_path_factory.mktemp("slurm")
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    for number in (0, 1):
        os.mknod(folder / f"nv{number}", 0o600 | stat.S_IFCHR, os.makedev(195, number))
    text = CONFIG.format(host=host, folder=folder, cpus=os.cpu_count(), haste=HASTE)
    (folder / "slurm.conf").write_text(text)
    (folder / "gres.conf").write_text(f"NodeName={host} Name=gpu File={folder}/nv[0-1]\n")
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    (folder / "munge.key").chmod(0o400)
    files = [f"--{name}={folder}/munge.{name.partition('-')[0]}" for name in MUNGE_FILES]
    with pytest.MonkeyPatch.context() as patch, ExitStack() as daemons:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        for command in (["munged", "--foreground", "--force", *files], ["slurmctld", "-D"], ["slurmd", "-D"]):
            daemons.enter_context(_daemon(command))
        _wait_for_node()
        yield
        subprocess.run(["scancel", "--user=root", "--full", "--signal=KILL"], check=False)


@contextmanager
def _daemon(command: list[str]) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_node() -> None:
    state = ""
    for _ in range(100):
        state = subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, text=True).stdout
        if "idle" in state:
            return
        time.sleep(0.3)
    pytest.fail(f"Slurm's node does not come up: {state!r}")


SLURM = [
    *("sweep.backend=slurm", "sweep.slurm.partition=debug", "sweep.slurm.gpus=1", "sweep.slurm.cpus=1"),
    *("sweep.slurm.minutes=10", "scheduler=constant"),
]


def epochs(folder: Path) -> int:
    path = folder / "metrics.csv"
    return path.read_text().count("\n") - 1 if path.exists() else 0


def test_a_requeued_job_goes_on_a_killed_one_is_tried_again(cluster: None, sweep: Sweep, net: list[str]):
    diary = sweep.folder / "diary"
    slow = ["trainer.epochs=40", "+model.seconds=0.4", f"+model.diary={diary}"]
    process = sweep.start(*net, *SLURM, "seed=0,1", *slow, "sweep.retries=1")
    victim, requeued = sweep.home / "s0", sweep.home / "s1"
    wait_until(lambda: epochs(victim) > 0 and epochs(requeued) > 0, process)
    os.kill(int((victim / "lock").read_text().split()[1]), signal.SIGKILL)
    job = sweep.trials()["s1"]["job"]
    subprocess.run(["scancel", "--signal=USR2", job], check=True)  # what Slurm sends before a preemption
    Path(f"{diary}.go").touch()
    stderr = process.communicate(timeout=240)[1]
    assert process.returncode == 0, stderr
    assert "again     s0" in stderr
    assert {name: r["status"] for name, r in sweep.results().items()} == dict.fromkeys(
        ("s0", "s1"), "finished"
    )
    assert "goes on after epoch" in (requeued / "run.log").read_text()
    assert sweep.starts() == {"s0": 2, "s1": 2}
    assert sweep.trials()["s1"]["job"] == job
    assert sweep.trials()["s1"]["attempts"] == 1
    spans: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in diary.read_text().splitlines():
        words = line.split()
        if len(words) == 3:  # no GPU: the check before the first trial builds the net, and no more
            assert words[-1] == "begin"
            continue
        moment, pid, gpu, _ = words
        spans[gpu, pid].append(float(moment))
    assert {gpu for gpu, _ in spans} <= {"0", "1"}
    for gpu in ("0", "1"):
        times = sorted((min(ts), max(ts)) for (name, _), ts in spans.items() if name == gpu)
        assert all(end < begin for (_, end), (begin, _) in zip(times, times[1:], strict=False))


def test_jobs_outlive_a_controller_are_cancelled_by_another_and_resumed(
    cluster: None, sweep: Sweep, net: list[str]
):
    diary = sweep.folder / "diary"
    arguments = [*net, *SLURM, "trainer.epochs=40", "+model.seconds=0.6", f"+model.diary={diary}"]
    left = sweep.start(*arguments, "sweep.slurm.on_interrupt=leave")
    wait_until(lambda: epochs(sweep.home / "run") > 0, left)
    left.send_signal(signal.SIGINT)
    stderr = left.communicate(timeout=60)[1]
    assert left.returncode == 130, stderr
    (trial,) = sweep.trials().values()
    assert subprocess.run(["squeue", "-h", "-o", "%A"], capture_output=True, text=True).stdout.split() == [
        trial["job"]
    ]

    cancelled = sweep.start(*arguments)
    wait_until(lambda: _heard(cancelled, "sweep folder"), cancelled)
    done = epochs(sweep.home / "run")
    wait_until(lambda: epochs(sweep.home / "run") > done + 1, cancelled)
    cancelled.send_signal(signal.SIGTERM)
    stderr = cancelled.communicate(timeout=60)[1]
    assert cancelled.returncode == 143, stderr
    assert subprocess.run(["squeue", "-h"], capture_output=True, text=True).stdout == ""
    assert sweep.trials()["run"]["job"] == trial["job"]
    assert sweep.starts() == {"run": 1}

    Path(f"{diary}.go").touch()
    resumed = sweep(*arguments, "sweep.refit=true")
    assert resumed.returncode == 0, resumed.stderr
    assert sweep.starts() == {"run": 2}
    assert "goes on after epoch" in (sweep.home / "run" / "run.log").read_text()
    refit = Trial.read(sweep.home / "refit" / "run" / "trial.json")
    look = refit.look()
    assert look.status == "finished"
    assert int(refit.job) > int(sweep.trials()["run"]["job"])
    assert f"refit         run  test/acc {look.metrics['test/acc']:.2%}" in resumed.stderr


def _heard(process: subprocess.Popen[str], words: str) -> bool:
    """Read a line that a process says; tell whether it holds ``words``."""
    assert process.stderr is not None
    return words in process.stderr.readline()


def test_a_trial_past_its_time_is_ended_by_its_job(cluster: None, sweep: Sweep, net: list[str]):
    done = sweep(*net, *SLURM, "+model.mode=hang", "sweep.timeout=3")
    assert done.returncode == 1
    (result,) = sweep.results().values()
    assert result["error"] == "sweep.timeout: longer than 3 s"
