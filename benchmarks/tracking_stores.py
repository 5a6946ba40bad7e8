"""Measures what a store costs a run, and a server its machine: `python -m benchmarks.tracking_stores`.

MLFLOW_BACKEND_STORE_URI names an empty PostgreSQL database for the server; psycopg must be there. Each
round makes the same run (ResNet-20 on the digits, two epochs, sheets of pictures) into each store in turn,
in a process of its own. `cpu` and `memory` are those of the whole process, MLflow's import in them; `waits`
is what closing the tracker takes. A server's memory is the PSS of its processes, which counts once what
they share.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, text

from benchmarks.measured import machine, spread
from experiments.files import PROJECT
from experiments.tracking.mlflow_store import connect
from experiments.tracking.mlflow_tracker import MlflowTracker

RUN = [
    *("data=digits", "model=resnet20", "model.width=8", "aug=none", "analysis=light"),
    *(
        "trainer=quick",
        "trainer.epochs=2",
        "trainer.batch_size=64",
        "trainer.device=cpu",
        "trainer.threads=1",
    ),
]
WAITED = "waited.json"  # in a run folder: the seconds that closing its tracker took


class Timed(MlflowTracker):
    """MLflow's tracker, which notes how long its end holds a run up."""

    def __exit__(self, *error: Any) -> None:
        """End the run as ever."""
        began = time.perf_counter()
        super().__exit__(*error)
        (self.out_dir / WAITED).write_text(json.dumps(time.perf_counter() - began), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--starts", type=int, default=3, help="of a server, for its time and memory")
    args = parser.parse_args()
    postgresql = os.environ["MLFLOW_BACKEND_STORE_URI"]  # not an argument: it holds a password
    print(json.dumps(machine()))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for workers in (1, 2, 4):
            starts = [_start(postgresql, folder, workers) for _ in range(args.starts)]
            _tell(f"server, {workers} workers", starts)
        with server(postgresql, folder, 1) as (uri, _, _):
            _runs(folder, postgresql, uri, args.rounds)


def _runs(folder: Path, postgresql: str, server_uri: str, rounds: int) -> None:
    sqlite = f"sqlite:///{folder / 'mlflow.db'}"
    connect(sqlite)  # making the store is not what is measured
    target = "tracking._target_=benchmarks.tracking_stores.Timed"
    tracked = [target, "security.allowed_targets=[benchmarks.]"]
    ways = {
        "none": ["tracking=none"],
        "sqlite": [*tracked, f"tracking.uri={sqlite}"],
        "server": [*tracked, f"tracking.uri={server_uri}"],
    }
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    sizes: list[tuple[int, int]] = []
    for number in range(rounds + 1):  # the first warms up
        for name, options in ways.items():
            figures = _run(folder / "runs" / f"{name}{number}", options)
            if number > 0:
                measured[name].append(figures)
        sizes.append((sum(f.stat().st_size for f in folder.glob("mlflow.db*")), _size(postgresql)))
    for name, figures in measured.items():
        _tell(f"a run, {name}", figures)
    for name, files in (("sqlite", folder / "mlartifacts"), ("server", folder / "artifacts")):
        print(f"{name:20} {_files(files)} in {rounds + 1} runs")
    for name, first, last in zip(("mlflow.db", "PostgreSQL"), sizes[0], sizes[-1], strict=True):
        print(f"{name:20} {(last - first) / rounds / 1e3:.0f} kB of database a run")


def _run(out_dir: Path, options: Sequence[str]) -> dict[str, float]:
    """Make a run and return what it took."""
    command = [sys.executable, "-m", "experiments.run", *RUN, *options, f"hydra.run.dir={out_dir}"]
    began = time.perf_counter()
    child = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}")
    waited = out_dir / WAITED
    return {
        "seconds": time.perf_counter() - began,
        "cpu": usage.ru_utime + usage.ru_stime,
        "memory": usage.ru_maxrss / 1024,  # MB
        "waits": json.loads(waited.read_text(encoding="utf-8")) if waited.exists() else 0.0,
    }


def _start(postgresql: str, folder: Path, workers: int) -> dict[str, float]:
    with server(postgresql, folder, workers) as (_, seconds, session):
        time.sleep(2)  # every worker is there
        memory, processes = _memory(session)
    return {"seconds": seconds, "memory": memory, "processes": processes}


@contextmanager
def server(postgresql: str, folder: Path, workers: int) -> Iterator[tuple[str, float, int]]:
    """An MLflow server: its address, the seconds until it answered, the session of its processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", str(workers), "--backend-store-uri", postgresql, "--serve-artifacts"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    began = time.perf_counter()
    with (folder / "server.log").open("ab") as out:
        child = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        while not _answers(uri):
            if child.poll() is not None or time.perf_counter() - began > 120:
                raise RuntimeError((folder / "server.log").read_text(encoding="utf-8")[-2000:])
            time.sleep(0.05)
        yield uri, time.perf_counter() - began, child.pid
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        child.wait()


def _answers(uri: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"{uri}/health", timeout=5) as reply:
        return reply.status == 200
    return False


def _memory(session: int) -> tuple[float, int]:
    """Return the MB that the processes of a session take together, and their number."""
    kilobytes = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getsid(int(process.name)) == session:
                lines = (process / "smaps_rollup").read_text(encoding="utf-8").splitlines()
                kilobytes.append(next(int(line.split()[1]) for line in lines if line.startswith("Pss:")))
    return sum(kilobytes) / 1024, len(kilobytes)


def _size(postgresql: str) -> int:
    engine = create_engine(postgresql)
    with engine.connect() as connection:
        size = connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one()
    engine.dispose()
    return int(size)


def _files(folder: Path) -> str:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return f"{len(sizes)} files, {sum(sizes) / 1e6:.1f} MB"


def _tell(name: str, rows: Sequence[Mapping[str, float]]) -> None:
    for key in rows[0]:
        print(f"{name:20} {key:10} {json.dumps(spread([row[key] for row in rows]))}", flush=True)


if __name__ == "__main__":
    main()
