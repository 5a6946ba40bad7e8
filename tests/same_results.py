"""Whether two checkouts of the project give the same results, as they must where code was only moved.

    python -m tests.same_results make <checkout> <folder>    # a few trainings, tools and sweeps on the CPU
    python -m tests.same_results compare <before> <after>    # every difference; exit code 1 if there is one

Both folders must be made on the same machine: another CPU sums in another order. `compare` reads files alone
and imports nothing of the project, whose modules may have moved; `--renamed old=new` says which names have.
Pages (HTML) and logs are only known to be there.
"""

import argparse
import csv
import json
import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

OUT, CHECKOUT = "<out>", "<checkout>"  # stand for the two folders of a making, in arguments and in results
MADE = "made.json"  # written last: what was made, from which checkout

CPU = ("trainer.device=cpu", "trainer.precision=fp32", "trainer.threads=1")
DIGITS = ("data=digits", "data.test_size=0.5", "model=resnet20", "model.width=4", "trainer=quick", *CPU)
SHORT = ("trainer.epochs=2", "tracking=none", "analysis=light")
RUNS = {
    "quickstart": (
        *("experiment=quickstart", "model.width=4", *CPU, "trainer.epochs=3", "analysis=full"),
        *("tracking=mlflow", f"tracking.uri=sqlite:///{OUT}/mlflow.db"),
    ),
    "mixed": (
        *(*DIGITS, *SHORT, "aug=mixup", "trainer.ema_decay=0.9", "trainer.accumulate=2"),
        *("trainer.label_smoothing=0.1", "trainer.batch_size=32"),
    ),
    "muon": (
        *(*DIGITS, *SHORT, "aug=trivialaugment", "optimizer=muon", "optimizer.lr=0.01"),
        *("scheduler=one_cycle", "trainer.epochs=3"),
    ),
    "plateau": (
        *(*DIGITS, *SHORT, "trainer.epochs=3", "data.val_size=0", "optimizer=lookahead"),
        *("scheduler=plateau", "scheduler.patience=0", "scheduler.threshold=0.5", "optimizer.lr=0.02"),
        "trainer.keep=all",
    ),
    "folder": (
        *("data=folder", f"data.root={OUT}/pictures", "model=resnet20", "model.width=4", "trainer=quick"),
        *(*CPU, *SHORT, "trainer.epochs=6", "trainer.batch_size=8", "optimizer.lr=0.02"),
        *("aug=cutout", "aug.size=8", "trainer.tta=mirror"),
    ),
}
STOPPED = (*DIGITS, *SHORT, "trainer.epochs=5", "aug=crop_flip", "trainer.ema_decay=0.9", "trainer.keep=all")
SWEPT = (*DIGITS, "trainer.epochs=2", "tracking=none", "analysis=none", "sweep.slots=1")
SWEEPS = {
    "grid": (*SWEPT, "aug=none,flip", "optimizer.lr=0.05,0.1", "seed=0,1"),
    # The first ten points of TPE are random. The pruner gets every epoch and ends no trial, as which ones it
    # ends depends on when the controller looks.
    "search": (
        *(*SWEPT, "sweep=search", "sweep.sampler=tpe", "sweep.n_trials=12", "sweep.pruner=median"),
        *("sweep.prune_after=2", "aug=none,flip", "optimizer.lr=tag(log, interval(0.01, 0.2))"),
    ),
}
TOOLS = {
    "preview": (*DIGITS, "aug=mixup", "scheduler=one_cycle", "--out", f"{OUT}/preview"),
    "find_lr": (
        *(*DIGITS, "aug=none", "optimizer=adam", "scheduler=one_cycle", "--start", "1e-5", "--end", "1"),
        *("--out", f"{OUT}/lr.png"),
    ),
    "evaluate": (f"{OUT}/runs/folder", "data=folder", f"data.root={OUT}/pictures", "split=all"),
    "predict": (f"{OUT}/runs/folder", f"{OUT}/pictures/train/discs", "--out", f"{OUT}/predictions"),
    "compare": (f"{OUT}/runs", "--out", f"{OUT}/comparison"),
}


def draw_pictures(root: Path) -> None:
    """Draw 40 pictures a class, of several sizes: bars across, bars down, discs."""
    rng = np.random.default_rng(0)
    for name in ("across", "down", "discs"):
        folder = root / "train" / name
        folder.mkdir(parents=True)
        for number in range(40):
            size = int(rng.integers(24, 41))
            y, x = np.mgrid[:size, :size] + rng.uniform(-3, 3, (2, 1, 1))
            shape = {
                "across": y % 8 < 4,
                "down": x % 8 < 4,
                "discs": np.hypot(y - size / 2, x - size / 2) < 9,
            }
            color, noise = rng.uniform(80, 200, 3), rng.normal(0, 25, (size, size, 3))
            pixels = shape[name][..., None] * color + noise
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:02}.png")


class Maker:
    """Runs the project's commands of one checkout, with all they write in one folder."""

    def __init__(self, checkout: Path, out: Path) -> None:
        self.checkout = checkout
        self.out = out
        self.commands: list[list[str]] = []
        home = out / "home"
        home.mkdir()
        self._environment = {
            **{key: os.environ[key] for key in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if key in os.environ},
            **{"HOME": str(home), "CIFAR_ROOT": str(home / "cifar"), "CIFAR_CACHE": str(home / "decoded")},
            **{"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"},
        }

    def start(self, module: str, *arguments: str) -> subprocess.Popen[str]:
        self.commands.append([module, *arguments])
        words = [word.replace(OUT, str(self.out)) for word in arguments]
        return subprocess.Popen(
            [sys.executable, "-m", f"experiments.{module}", *words],
            cwd=self.checkout,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, process: subprocess.Popen[str], code: int = 0) -> str:
        """Return what a command printed; end this script where its exit code is not ``code``."""
        printed, told = process.communicate()
        if process.returncode != code:
            command = " ".join(self.commands[-1])
            sys.exit(f"{command}\nended with {process.returncode} instead of {code}:\n{told}")
        return printed

    def run_stopped(self, *arguments: str) -> None:
        """Stop a run after its second epoch, then let the same command take it up."""
        process = self.start("run", *arguments, f"hydra.run.dir={OUT}/runs/stopped")
        rows = self.out / "runs" / "stopped" / "metrics.csv"
        while process.poll() is None and not (rows.exists() and rows.read_text().count("\n") > 2):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        self.end(process, 128 + signal.SIGTERM)
        self.end(self.start("run", *arguments, f"hydra.run.dir={OUT}/runs/stopped"))


def make(checkout: Path, out: Path) -> None:
    """Run everything in ``out``, which must not be there yet."""
    checkout, out = checkout.resolve(), out.resolve()
    if not (checkout / "experiments" / "run.py").is_file():
        sys.exit(f"{checkout} is no checkout of the project")
    out.mkdir(parents=True)
    maker = Maker(checkout, out)
    draw_pictures(out / "pictures")
    (out / "printed").mkdir()
    for name, arguments in RUNS.items():
        maker.end(maker.start("run", *arguments, f"hydra.run.dir={OUT}/runs/{name}"))
        print(f"run      {name}", flush=True)
    maker.run_stopped(*STOPPED)
    print("run      stopped", flush=True)
    for name, arguments in SWEEPS.items():
        place = (f"hydra.sweep.dir={OUT}/sweeps/{name}", f"sweep.name={name}")
        maker.end(maker.start("run", "-m", *arguments, *place))
        print(f"sweep    {name}", flush=True)
    facts = out / "runs" / "folder" / "environment.json"
    facts.write_text(BEGUN.sub("", facts.read_text()))  # which the sheet of `predict` would show
    for name, arguments in TOOLS.items():
        printed = maker.end(maker.start(name, *arguments))
        (out / "printed" / f"{name}{'.csv' if name == 'predict' else '.md'}").write_text(printed)
        print(f"tool     {name}", flush=True)
    made = {"checkout": str(checkout), "out": str(out), "commands": maker.commands}
    (out / MADE).write_text(json.dumps(made, indent=2) + "\n")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{used.ru_utime + used.ru_stime:.0f} s of CPU time")


def values_of(content: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested dicts and lists by their dotted keys; tensors as arrays."""
    if isinstance(content, dict | list | tuple) and content:
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        for name, value in pairs:
            yield from values_of(value, f"{key}.{name}" if key else str(name))
    else:
        yield key, content.numpy() if isinstance(content, torch.Tensor) else content


def read_csv(path: Path) -> Iterator[tuple[str, Any]]:
    with path.open(newline="") as file:
        columns, *rows = csv.reader(file)
    yield from ((f"column {number}", column) for number, column in enumerate(columns))
    for number, row in enumerate(rows):
        yield from ((f"row {number} {column}", cell) for column, cell in zip(columns, row, strict=True))


def read_text(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the lines of a text, and the cells of its Markdown tables by their columns."""
    columns: list[str] = []
    for number, line in enumerate(path.read_text().splitlines()):
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")] if line.startswith("|") else []
        if cells and len(cells) == len(columns):
            yield from (
                (f"line {number} {column}", cell) for column, cell in zip(columns, cells, strict=True)
            )
        else:
            yield f"line {number}", CLOCK.sub("<seconds>", line)
        columns = (columns or cells) if cells else []


def read_json(path: Path) -> Iterator[tuple[str, Any]]:
    yield from values_of(json.loads(path.read_text()))


def read_yaml(path: Path) -> Iterator[tuple[str, Any]]:
    yield from values_of(yaml.safe_load(path.read_text()))


def read_arrays(path: Path) -> Iterator[tuple[str, Any]]:
    with np.load(path) as arrays:
        yield from arrays.items()


def read_checkpoint(path: Path) -> Iterator[tuple[str, Any]]:
    yield from values_of(torch.load(path, map_location="cpu", weights_only=True))


def read_picture(path: Path) -> Iterator[tuple[str, Any]]:
    with Image.open(path) as image:
        yield "pixels", np.asarray(image)


def read_ledger(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield what Optuna knows of each point, by the point's id or else the trial's number."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    for trial in optuna.load_study(study_name="sweep", storage=storage).trials:
        facts = {"number": trial.number, "state": trial.state.name, "values": trial.values}
        facts |= {"params": trial.params, "epochs": trial.intermediate_values}
        yield from values_of(facts, trial.user_attrs.get("point", f"#{trial.number}"))


def read_store(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield what MLflow knows of each run, by the run's name."""
    with TemporaryDirectory() as folder:  # SQLite leaves files beside a database that it opens
        for file in path.parent.glob(f"{path.name}*"):
            shutil.copy(file, folder)
        with closing(sqlite3.connect(Path(folder) / path.name)) as database:
            for query in STORE:
                for *key, value in database.execute(query):
                    yield " ".join(map(str, key)), value


STORE = [  # all columns but the last are the key
    "SELECT r.name, 'experiment', e.name FROM runs r JOIN experiments e USING (experiment_id)",
    "SELECT name, 'status', status FROM runs",
    "SELECT r.name, 'param', p.key, p.value FROM params p JOIN runs r USING (run_uuid)",
    "SELECT r.name, 'tag', t.key, t.value FROM tags t JOIN runs r USING (run_uuid)",
    "SELECT r.name, 'metric', m.key, 'step', m.step, m.value FROM metrics m JOIN runs r USING (run_uuid)",
    "SELECT r.name, 'dataset', d.name || ' ' || d.digest || ' ' || d.dataset_source FROM inputs i "
    "JOIN datasets d ON d.dataset_uuid = i.source_id JOIN runs r ON r.run_uuid = i.destination_id",
]
READERS: dict[str, Callable[[Path], Iterator[tuple[str, Any]]]] = {  # by the file's name, the first that fits
    "ledger.jsonl": read_ledger,
    "mlflow.db": read_store,
    "*.csv": read_csv,
    "*.json": read_json,
    "*.yaml": read_yaml,
    "*.npz": read_arrays,
    "*.pt": read_checkpoint,
    "*.png": read_picture,
    "*.md": read_text,
    "*.txt": read_text,
}
NEEDED = (  # without one of each, nothing is proved
    *("*/metrics.csv", "*/result.json", "*/config.yaml", "*/analysis/metrics.json", "*/misclassified.csv"),
    *("*/label_issues.csv", "*/predictions.npz", "*/best.pt", "*/last.pt", "*/evaluation.json"),
    *(
        "printed/predict.csv",
        "comparison/*.csv",
        "*/trials.csv",
        "*/ledger.jsonl",
        "mlflow.db",
        "*/analysis/*.png",
    ),
)
LEFT_OUT = ("home/*", "mlflow.db-*")  # files: caches of decoded pictures and fonts; SQLite's own
# What differs between two makings of the same, as patterns of (file, key); the key must be there in both.
VARIES = (
    ("*", r"(.*[. ])?(seconds|images_per_second|pictures/s|run_id)([. ].*)?"),
    ("*/environment.json", r"pid|host|git(\..*)?"),
    ("*/trial.json", "started"),
    ("*/last.pt", r"identity\.config"),  # a hash of config.yaml, which is compared itself
    ("mlflow.db", r".* tag (tracker\.(spool|host|process)|mlflow\.(user|source\.git\.commit))"),
    (MADE, "checkout|out"),
)
CLOCK = re.compile(r"[\d.e+]+ training seconds")
BEGUN = re.compile(r" \d{4}-\d\d-\d\d \d\d:\d\d\b")  # at the end of a run's name
RANDOM = re.compile(r"\b[0-9a-f]{32}\b|(?<=\+timestamp\+)\d+\+[0-9a-f-]{36}")  # in names of MLflow's files


@dataclass
class Making:
    """What `make` left in a folder."""

    folder: Path
    checkout: str
    out: str  # where it was made

    @classmethod
    def read(cls, folder: Path) -> "Making":
        made = json.loads((folder / MADE).read_text())
        return cls(folder, made["checkout"], made["out"])

    def files(self) -> dict[str, Path]:
        """Return all files by their names below the folder, random parts taken out."""
        found: dict[str, Path] = {}
        for path in sorted(self.folder.rglob("*")):
            name = RANDOM.sub("<id>", path.relative_to(self.folder).as_posix())
            if path.is_file() and not any(fnmatch(name, some) for some in LEFT_OUT):
                if name in found:
                    raise ValueError(f"{self.folder} has two files that are called {name}")
                found[name] = path
        return found

    def values(self, path: Path, read: Callable[[Path], Iterator[tuple[str, Any]]]) -> dict[str, Any]:
        """Return the values of a file by their keys; a key that comes twice raises ValueError."""
        found: dict[str, Any] = {}
        for key, value in read(path):
            key = BEGUN.sub("", key)
            if key in found:
                raise ValueError(f"{path} has two values called {key}")
            found[key] = self._anywhere(value) if isinstance(value, str) else value
        return found

    def _anywhere(self, text: str) -> str:
        """Return a text without the folders and the times of this making."""
        text = BEGUN.sub("", text)
        for folder, stands in sorted([(self.out, OUT), (self.checkout, CHECKOUT)], key=lambda p: -len(p[0])):
            text = text.replace(folder, stands)
        return text


def same(before: Any, after: Any) -> bool:
    """Tell whether two values are equal in type and in every bit."""
    if isinstance(before, np.ndarray) and isinstance(after, np.ndarray):
        alike = before.dtype == after.dtype and before.shape == after.shape
        return alike and before.tobytes() == after.tobytes()
    return type(before) is type(after) and repr(before) == repr(after)  # NaN is not equal to itself


def told(before: Any, after: Any) -> str:
    """Say how two values differ."""
    if not isinstance(before, np.ndarray) or not isinstance(after, np.ndarray):
        texts = repr(before), repr(after)
        start = max(0, len(os.path.commonprefix(texts)) - 100)
        return " | ".join(f"{'... ' if start else ''}{text[start : start + 200]}" for text in texts)
    if before.dtype != after.dtype or before.shape != after.shape:
        return f"{before.dtype} {before.shape} | {after.dtype} {after.shape}"
    places = np.argwhere(before != after)
    if not len(places):
        return "other bits of equal numbers"
    first = tuple(places[0].tolist())
    return f"{len(places)} of {before.size} elements, the first at {first}: {before[first]} | {after[first]}"


class Renames:
    """Dotted names that have become others, each with all that lies below it."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        longest_first = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
        self._pattern = re.compile(rf"(?<![\w.])({longest_first})(?!\w)")

    def __call__(self, value: Any) -> Any:
        if not self._names or not isinstance(value, str):
            return value
        return self._pattern.sub(lambda found: self._names[found[1]], value)


@dataclass
class Comparison:
    """What two makings have in common, and what not."""

    renames: Renames
    differences: list[str] = field(default_factory=list)
    renamed: Counter[str] = field(default_factory=Counter)  # places by `old -> new`
    files: Counter[str] = field(default_factory=Counter)  # compared, by kind
    values: Counter[str] = field(default_factory=Counter)
    varied: Counter[str] = field(default_factory=Counter)  # values not compared, by the pattern of VARIES
    unread: Counter[str] = field(default_factory=Counter)  # files not compared, by suffix

    def add_file(self, name: str, kind: str, before: dict[str, Any], after: dict[str, Any]) -> None:
        """Compare the values of one file."""
        renamed = {self.renames(key): key for key in before}
        if len(renamed) < len(before):
            self.differences.append(f"{name}: by --renamed, two of its keys become one")
        compared = 0
        for key in [*renamed, *(key for key in after if key not in renamed)]:
            if key not in after or key not in renamed:
                side = "after" if key not in after else "before"
                self.differences.append(f"{name}: {renamed.get(key, key)}: is not there {side}")
                continue
            pattern = next(
                (p for f, p in VARIES if fnmatch(f"./{name}", f"*/{f}") and re.fullmatch(p, key)), None
            )
            if pattern is not None:
                self.varied[pattern] += 1
                continue
            value = before[renamed[key]]
            compared += value.size if isinstance(value, np.ndarray) else 1
            self._add_renamed(renamed[key], key)
            if not same(value, after[key]):
                if same(self.renames(value), after[key]):
                    self._add_renamed(value, after[key])
                else:
                    self.differences.append(f"{name}: {key}: {told(value, after[key])}")
        if not compared:
            self.differences.append(f"{name}: holds nothing to compare")
        self.files[kind] += 1
        self.values[kind] += compared

    def _add_renamed(self, old: str, new: str) -> None:
        if old != new:
            self.renamed[f"{old} -> {new}"] += 1


def compare(before: Making, after: Making, renames: Renames) -> Comparison:
    """Compare two makings file by file and value by value."""
    found = Comparison(renames)
    here, there = before.files(), after.files()
    for name in sorted(here.keys() | there.keys()):
        kind = next((kind for kind in READERS if fnmatch(Path(name).name, kind)), None)
        if name not in here or name not in there:
            found.differences.append(f"{name}: is not there {'before' if name not in here else 'after'}")
        elif kind is None:
            found.unread[Path(name).suffix or Path(name).name] += 1
        else:
            try:
                values = [m.values(p[name], READERS[kind]) for m, p in ((before, here), (after, there))]
            except Exception as error:  # whatever a reader makes of a damaged file
                found.differences.append(f"{name}: cannot be read: {type(error).__name__}: {error}")
            else:
                found.add_file(name, kind, *values)
    for needed in NEEDED:
        if not any(fnmatch(name, needed) for name in here.keys() & there.keys()):
            found.differences.append(f"{needed}: no such file was compared")
    return found


def report(found: Comparison) -> str:
    """Return every difference, and how much was compared."""
    lines = [f"DIFFERS  {line}" for line in found.differences]
    lines += [f"renamed  {names}, in {count} places" for names, count in sorted(found.renamed.items())]
    for kind, count in found.files.items():
        lines.append(f"compared {count:>4} files {kind:<14}{found.values[kind]:>12,} values")
    for pattern, count in found.varied.items():
        lines.append(f"left out {count:>4} values {pattern}")
    unread = ", ".join(f"{count} {suffix}" for suffix, count in sorted(found.unread.items()))
    lines.append(f"known to be there, not compared: {unread or 'nothing'}")
    files, values = found.files.total(), found.values.total()
    lines.append(f"{len(found.differences)} differences in {files:,} files with {values:,} values")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.same_results", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make", help="run a checkout's commands into a new folder")
    making.add_argument("checkout", type=Path)
    making.add_argument("out", type=Path)
    comparing = commands.add_parser("compare", help="list what differs between two folders")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    comparing.add_argument(
        "--renamed", action="append", default=[], metavar="OLD=NEW", help="a dotted name that has moved"
    )
    given = parser.parse_args(arguments)
    if given.command == "make":
        if given.out.exists():
            parser.error(f"{given.out} is there already")
        make(given.checkout, given.out)
        return 0
    if unfinished := [folder for folder in (given.before, given.after) if not (folder / MADE).is_file()]:
        parser.error(f"{unfinished[0]} has no {MADE}: `make` did not come to its end there")
    if given.before.resolve() == given.after.resolve():
        parser.error("the two folders are one")
    if wrong := [pair for pair in given.renamed if not re.fullmatch(r"[^=]+=[^=]+", pair)]:
        parser.error(f"--renamed must be OLD=NEW, got {wrong[0]}")
    renames = Renames(dict(pair.split("=") for pair in given.renamed))
    found = compare(Making.read(given.before), Making.read(given.after), renames)
    print(report(found))
    return 1 if found.differences else 0


if __name__ == "__main__":
    sys.exit(main())
