"""How the folders beside this file were made: by the command lines of commit 58896a5, in a clone of it.

    git clone <this repository> /tmp/legacy-made && git -C /tmp/legacy-made checkout 58896a5
    python tests/legacy/make.py /tmp/legacy-made

`finished` is a run, `killed` one that SIGKILL ended after its second epoch, `stopped` one that SIGTERM ended
after its first, `sweep` a grid of two points with two seeds. `expected.json` says how that commit ended what
was unfinished, `names.txt` which names a configuration could give as `_target_`. Of what was written,
report.html is left out and the pictures are made small; the names of folder and machine are neutral ones.
"""

import csv
import importlib
import inspect
import json
import os
import pkgutil
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
COMMIT = "58896a5"
HOME, HOST = "/home/student/cifar-sweeps", "student-pc"  # what stands in place of the real ones
PICTURES = ["data=digits", "data.val_size=60", "data.test_size=60"]
FEW_PICTURES = ["data=digits", "data.val_size=20", "data.test_size=20"]
SMALL = [
    *("trainer=quick", "trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1"),
    *("analysis=light", "analysis.sheet_size=1"),
]
DAVIDNET = [*SMALL, "model=davidnet", "model.width=1", "aug=none"]
AIRBENCH = [*SMALL, "model=airbench", "model.width=1", "aug=flip"]
FINISHED = [*PICTURES, *DAVIDNET, "scheduler=one_cycle", "optimizer.lr=0.2", "trainer.epochs=3"]
KILLED = [
    *(*PICTURES, *AIRBENCH, "optimizer=muon", "scheduler=cosine", "trainer.epochs=4"),
    "trainer.checkpoint_seconds=0",
]
STOPPED = [
    *(*PICTURES, *AIRBENCH, "optimizer=lookahead", "scheduler=plateau", "scheduler.warmup_epochs=1"),
    *("trainer.epochs=3", "tracking=none"),
]
SWEEP = [
    *("-m", *FEW_PICTURES, *DAVIDNET, "model.cam_layer=layer3", "scheduler=one_cycle", "trainer.epochs=2"),
    *("trainer.keep=none", "sweep.slots=1", "optimizer.lr=0.1,0.2", "seed=0,1"),
]
MEASURED = ("seconds", "images_per_second")  # columns of metrics.csv that no second run repeats
NAMED_IN = ("cifar_core.models", "cifar_core.schedules", "cifar_core.optim", "experiments.tracking")


def main() -> None:
    """Make everything anew, in the checkout given."""
    checkout = Path(sys.argv[1]).resolve()
    at = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True)
    if not at.stdout.startswith(COMMIT):
        raise SystemExit(f"{checkout} must be a checkout of {COMMIT}")
    finished, killed, stopped = (checkout / "runs" / name for name in ("finished", "killed", "stopped"))
    sweep = checkout / "sweeps" / "lr"
    for made in (finished, killed, stopped, sweep):
        shutil.rmtree(made, ignore_errors=True)
    with tempfile.TemporaryDirectory() as home:
        start = starter(checkout, Path(home))
        finish(start(*FINISHED, "hydra.run.dir=runs/finished"))
        process = start(*KILLED, "hydra.run.dir=runs/killed")
        end(process, signal.SIGKILL, when=(killed / "previous.pt").exists)
        process = start(*STOPPED, "hydra.run.dir=runs/stopped")
        end(process, signal.SIGTERM, when=lambda: rows(stopped / "metrics.csv") == 1)
        finish(start(*SWEEP, "hydra.sweep.dir=sweeps/lr"))
        for made, name in (
            (finished, "finished"),
            (killed, "killed"),
            (stopped, "stopped"),
            (sweep, "sweep"),
        ):
            shutil.rmtree(HERE / name, ignore_errors=True)
            shutil.copytree(made, HERE / name)
            neutral(HERE / name, checkout)
        ends = {made.name: resumed(made, start) for made in (killed, stopped)}
    content = {"commit": COMMIT, "sweep_command": SWEEP, "resumed": ends}
    (HERE / "expected.json").write_text(json.dumps(content, indent=1) + "\n")
    sys.path.insert(0, str(checkout))
    (HERE / "names.txt").write_text("\n".join(sorted(set(names(checkout)))) + "\n")


def starter(checkout: Path, home: Path) -> Callable[..., subprocess.Popen]:
    """Return what starts a run of the checkout, from its folder and with a home of its own."""
    ours = ("CIFAR_", "MLFLOW_", "HYDRA_")
    env = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    env |= {"HOME": str(home), "LOGNAME": "student", "PYTHONPATH": str(checkout)}
    env |= {"MLFLOW_DISABLE_TELEMETRY": "true"}

    def start(*words: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-m", "experiments.run", *words], cwd=checkout, env=env)

    return start


def finish(process: subprocess.Popen) -> None:
    """Wait for a process that must end well."""
    if process.wait():
        raise SystemExit(f"{process.args} ended with {process.returncode}")


def end(process: subprocess.Popen, signum: signal.Signals, *, when: Callable[[], bool]) -> None:
    """Send a signal as soon as something is there; the process must not have ended by itself."""
    while not when():
        if process.poll() is not None:
            raise SystemExit(f"{process.args} ended too early")
        time.sleep(0.005)
    process.send_signal(signum)
    if process.wait() == 0:
        raise SystemExit(f"{process.args} ended before its signal came")


def rows(metrics: Path) -> int:
    """Count the epochs in metrics.csv."""
    return max(0, metrics.read_text().count("\n") - 1) if metrics.exists() else 0


def neutral(folder: Path, checkout: Path) -> None:
    """Take out what is large and what names the machine; no more is changed."""
    for path in folder.rglob("report.html"):
        path.unlink()
    for path in folder.rglob("*.png"):
        with Image.open(path) as picture:
            picture.convert("L").resize((8, 4)).save(path)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    changes = {boot: "0" * len(boot), f'"{socket.gethostname()}"': f'"{HOST}"', str(checkout): HOME}
    changes |= {sys.prefix: f"{HOME}/.venv", sys.base_prefix: "/usr"}
    changes |= dict.fromkeys(filter(None, sys.path), HOME)  # where else the environment looks for packages
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".jsonl", ".yaml", ".log", ".csv", ".md", ".offset", ".txt"):
            before = path.read_text()
            text = re.sub(r'("platform": ")[^"]*', r"\1Linux-6.8.0-x86_64-with-glibc2.39", before)
            for old, new in changes.items():
                text = text.replace(old, new)
            path.write_text(text)
            if path.suffix == ".jsonl" and path.with_suffix(".offset").exists():
                move_offset(path.with_suffix(".offset"), before, text)


def move_offset(path: Path, before: str, after: str) -> None:
    """Let tracking.offset, which counts bytes of tracking.jsonl, say the same line as before."""
    states = json.loads(path.read_text())
    for state in states.values():
        lines = before.encode()[: state["offset"]].count(b"\n")
        state["offset"] = sum(len(line) for line in after.encode().splitlines(keepends=True)[:lines])
    path.write_text(json.dumps(states, indent=1))


def resumed(folder: Path, start: Callable[..., subprocess.Popen]) -> dict:
    """Return the figures of an unfinished run that this commit has taken to its end, in place."""
    finish(start(f"resume={folder}"))
    result = json.loads((folder / "result.json").read_text())
    with (folder / "metrics.csv").open(newline="") as file:
        history = [
            {key: float(row[key]) for key in row if key not in MEASURED} for row in csv.DictReader(file)
        ]
    return {"metrics": result["metrics"], "history": history}


def names(checkout: Path) -> Iterator[str]:
    """Yield what a configuration may call: what conf/ does, and all that is public in those modules."""
    from experiments.targets import _resolve

    for path in (checkout / "conf").rglob("*.yaml"):
        yield from re.findall(r"_target_: ((?:cifar_core|experiments)\.[\w.]+)", path.read_text())
    for package in NAMED_IN:
        module = importlib.import_module(package)
        below = pkgutil.iter_modules(getattr(module, "__path__", []), f"{package}.")
        for one in (module, *(importlib.import_module(found.name) for found in below)):
            for name, member in vars(one).items():
                if name.startswith("_") or getattr(member, "__module__", None) != one.__name__:
                    continue
                if inspect.isclass(member) or inspect.isfunction(member):
                    try:
                        _resolve("names", f"{one.__name__}.{name}", ())
                    except ValueError:  # a helper that no configuration may call
                        continue
                    yield f"{one.__name__}.{name}"


if __name__ == "__main__":
    main()
