"""Measures what presets reach over several seeds and writes the README's table of accuracies.

    python -m benchmarks.accuracy quickstart notebook_002 --seeds 5 [overrides...]

A preset is one sweep over seeds by the ordinary command line, in the current folder's
sweeps/accuracy-<preset>-<hash of its configuration>: the same command again does what is left, and a changed
preset starts anew. Each seed is a line of benchmarks/accuracy.csv, in place of the older ones of that preset
on those pictures and that hardware. The table is made from that file, without a preset only made again.
"""

import csv
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from omegaconf import DictConfig

from cifar_core.explain.statistics import spread
from experiments import cli
from experiments.cli import exit_codes, user_mistakes
from experiments.config.compose import compose
from experiments.config.values import plain
from experiments.files import CONF, PROJECT, csv_text, read_json, write_text
from experiments.runs.folder import HARMLESS, past
from experiments.runs.result import Result
from experiments.sweep.home import Home
from experiments.sweep.trials import Trial

BEGIN, END = "<!-- accuracy:begin -->", "<!-- accuracy:end -->"
PICTURES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "digits": "digits"}
# Overrides that have a column of their own, or that change no figure.
UNTOLD = ("data=", "seed=", "analysis=", "tracking=", "hydra", *HARMLESS)
COLUMNS = (
    *("preset", "pictures", "seeds", "test accuracy, %", "95 % interval", "with TTA", "elsewhere"),
    *("epochs", "training, s", "hardware", "protocol", "made"),
)
NOTE = """
Mean ± standard deviation over the seeds, Student's interval of the mean; with test-time augmentation (TTA)
where the preset asks for it; what the recipe reached elsewhere, in so many epochs; median time of a training.
Protocol "validation": pictures split off the training set choose the epoch, and the test set is read once;
"test each epoch": nothing is split off, and the last epoch's weights count. Written by
`python -m benchmarks.accuracy` from `benchmarks/accuracy.csv`.
"""


@dataclass(frozen=True)
class Seed:
    """One run, a line of the CSV file; accuracies are shares, a figure it has not is empty."""

    preset: str
    overrides: str
    pictures: str
    hardware: str
    seed: str
    status: str  # finished, failed, killed, running
    test_acc: str
    test_acc_tta: str
    expected_acc: str  # reached elsewhere
    expected_epochs: str
    epochs: str
    seconds: str  # of training
    protocol: str
    date: str
    commit: str  # with a plus where files had changed since

    @property
    def row(self) -> tuple[str, ...]:
        """What the seeds of one row of the table have in common."""
        return self.preset, self.overrides, self.pictures, self.hardware


def configuration(preset: str, overrides: Sequence[str]) -> DictConfig:
    """Return a preset's configuration, checked; raise ValueError for one that is a sweep itself."""
    cfg = compose([f"experiment={preset}", *overrides])
    if "hydra" in yaml.safe_load((CONF / "experiment" / f"{preset}.yaml").read_text(encoding="utf-8")):
        raise ValueError(f"experiment={preset} is a sweep itself: name presets of one run")
    return cfg


def measure(
    preset: str, overrides: Sequence[str], cfg: DictConfig, *, seeds: int, slots: str, pictures: str
) -> list[Seed]:
    """Run a preset's sweep, or what is left of it, and return its seeds.

    Ends the process with the sweep's exit code where it was stopped or no seed has finished.
    """
    values = past(plain(cfg)) | {"seed": str(seeds)}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
    folder = Path("sweeps") / f"accuracy-{preset}-{digest}"
    code = sweep(
        *(f"experiment={preset}", *overrides, f"seed={','.join(map(str, range(seeds)))}"),
        *("sweep.sampler=grid", "sweep.test=all", f"sweep.slots={slots}"),
        *(f"sweep.name={folder.name}", f"hydra.sweep.dir={folder}"),
    )
    trials = list(Home(folder).trials().values())
    results = [Result.read(trial.folder) or Result(status="running") for trial in trials]
    finished = [t.folder for t, r in zip(trials, results, strict=True) if r.status == "finished"]
    if code not in (0, 1) or not finished:
        raise SystemExit(code or 1)
    words = " ".join(word for word in overrides if not word.startswith(UNTOLD))
    return [
        _seed(trial, result, preset, words, cfg, _environment([trial.folder, *finished]), pictures)
        for trial, result in zip(trials, results, strict=True)
    ]


def sweep(*arguments: str) -> int:
    """Run `python -m experiments.run -m` in a process of its own and return its exit code."""
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.run", "-m", *arguments], env=os.environ | {"PYTHONPATH": path}
    )
    signal.signal(signal.SIGINT, lambda *_: None)  # the terminal sends it to the sweep too, which ends tidily
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    return process.wait()


def _environment(folders: Iterable[Path]) -> dict[str, Any]:
    """Return the first environment there is: a trial that failed early has none of its own."""
    environments = (read_json(folder / "environment.json") for folder in folders)
    return next(environment for environment in environments if environment)


def _seed(
    trial: Trial,
    result: Result,
    preset: str,
    words: str,
    cfg: DictConfig,
    environment: dict[str, Any],
    pictures: str,
) -> Seed:
    expected, git = cfg.expected or {}, environment["git"]
    source = cfg.data.source
    return Seed(
        preset=preset,
        overrides=words,
        pictures=pictures or PICTURES.get(source, f"{source} {environment['data']}"),
        hardware=_hardware(environment),
        seed=str(environment["seed"]) if not trial.point else trial.point["seed"],
        status=result.status,
        test_acc=_text(result.metrics.get("test/acc")),
        test_acc_tta=_text(result.metrics.get("test/acc_tta")),
        expected_acc=_text(expected.get("test_acc")),
        expected_epochs=_text(expected.get("epochs")),
        epochs="" if result.status == "running" else _text(result.epochs),
        seconds=_text(result.seconds.get("train")),
        protocol=result.protocol.replace("_", " "),
        date=datetime.fromtimestamp(trial.started, UTC).date().isoformat(),
        commit=git["commit"][:7] + ("+" if git["dirty"] else "") if git else "",
    )


def _hardware(environment: dict[str, Any]) -> str:
    """Return processor and number format out of `cpu (CPU, 2 threads), bf16, channels_last`."""
    parts = re.fullmatch(r"\S+ \((.+)\), (\w+), \w+", environment["device"])
    assert parts, environment["device"]
    return f"{parts[1].replace('CPU', environment.get('processor') or 'CPU', 1)}, {parts[2]}"


def _text(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.6g}"


def read(path: Path) -> list[Seed]:
    """Return the seeds of the CSV file, [] before there is one; raise ValueError for another file."""
    if not path.exists():
        return []
    columns = [field.name for field in fields(Seed)]
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != columns:
            raise ValueError(f"{path} must have the columns {','.join(columns)}, got {reader.fieldnames}")
        return [Seed(**line) for line in reader]


def merged(before: Iterable[Seed], now: Sequence[Seed]) -> list[Seed]:
    """Return all seeds, those of a row measured ``now`` in place of its older ones, row by row."""
    rows = {seed.row for seed in now}
    return sorted([*(seed for seed in before if seed.row not in rows), *now], key=lambda seed: seed.row)


def table(seeds: Iterable[Seed]) -> str:
    """Return a Markdown table with a row for each preset, its overrides, pictures and hardware."""
    rows: dict[tuple[str, ...], list[Seed]] = {}
    for seed in seeds:
        rows.setdefault(seed.row, []).append(seed)
    lines = [COLUMNS, ["---"] * len(COLUMNS), *map(_cells, rows.values())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cells(seeds: Sequence[Seed]) -> list[str]:
    finished = [seed for seed in seeds if seed.status == "finished"]
    count = f"{len(finished)} of {len(seeds)}" if len(finished) < len(seeds) else str(len(seeds))
    acc, interval = _accuracy(seed.test_acc for seed in finished)
    first = [*finished, *seeds][0]
    cells = [
        f"{first.preset} with `{first.overrides}`" if first.overrides else first.preset,
        *(first.pictures, count, acc, interval),
        _accuracy(seed.test_acc_tta for seed in finished)[0],
        f"{float(first.expected_acc):.2%} in {first.expected_epochs}" if first.expected_acc else "",
        _each(seed.epochs for seed in finished),
        f"{median(float(seed.seconds) for seed in finished):,.1f}" if finished else "",
        *(first.hardware, first.protocol),
        _each(f"{seed.date} {seed.commit}".strip() for seed in finished),
    ]
    return [cell.replace("|", r"\|") for cell in cells]


def _accuracy(shares: Iterable[str]) -> tuple[str, str]:
    """Return mean ± standard deviation and the interval, in percent, of the shares that are not empty."""
    over = spread([float(share) for share in shares if share])
    mean, std, low, high = (f"{100 * share:.2f}" for share in (over.mean, over.std, over.low, over.high))
    if over.count < 2:
        return (mean if over.count else ""), ""
    return f"{mean} ± {std}", f"{low} to {high}"


def _each(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))


def show(readme: Path, seeds: Iterable[Seed]) -> None:
    """Write the table between the page's two markers."""
    head, tail = around(readme)
    write_text(readme, f"{head}{BEGIN}\n{table(seeds)}\n{NOTE}{END}{tail}")


def around(readme: Path) -> tuple[str, str]:
    """Return the page before and after its two markers; raise ValueError unless each is there once."""
    page = readme.read_text(encoding="utf-8")
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise ValueError(f"{readme} must have {BEGIN} and, after it, {END}, once each")
    return page.partition(BEGIN)[0], page.partition(END)[2]


def main() -> None:
    parser = cli.parser("benchmarks.accuracy", __doc__)
    parser.add_argument("words", nargs="*", metavar="PRESET|OVERRIDE", help="presets, and overrides for all")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each preset (%(default)s)")
    parser.add_argument("--slots", default="auto", help="runs at a time (%(default)s)")
    parser.add_argument("--data-name", default="", help="what the table calls the pictures")
    parser.add_argument("--readme", type=Path, default=PROJECT / "README.md", help="the page with the table")
    parser.add_argument("--csv", type=Path, default=PROJECT / "benchmarks" / "accuracy.csv", help="the seeds")
    args = parser.parse_intermixed_args()
    if args.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {args.seeds}")
    presets = [word for word in args.words if "=" not in word and not word.startswith("~")]
    overrides = [word for word in args.words if word not in presets]
    with exit_codes():
        with user_mistakes():
            cfgs = {preset: configuration(preset, overrides) for preset in presets}
            around(args.readme)  # a page without the markers is told now
            if not presets:
                show(args.readme, read(args.csv))
        whole = True
        for preset, cfg in cfgs.items():
            now = measure(preset, overrides, cfg, seeds=args.seeds, slots=args.slots, pictures=args.data_name)
            seeds = merged(read(args.csv), now)
            write_text(args.csv, csv_text([asdict(seed) for seed in seeds]))
            show(args.readme, seeds)
            print(table(now))
            whole = whole and all(seed.status == "finished" for seed in now)
    raise SystemExit(0 if whole else 1)


if __name__ == "__main__":
    main()
