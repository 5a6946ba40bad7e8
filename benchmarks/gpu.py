"""What this project reaches on a GPU: `python -m benchmarks.gpu`.

One command, repeated until it says that nothing is left. It measures cell by cell for --minutes, in processes
of their own, and keeps each figure as soon as it is there; the next time, what is there is skipped. A cell
that fails or runs out of memory or time is noted as such, and the next one goes on. --json holds all, and a
page of the same name (.md) the tables. The cells, in order of importance:

  augmentation/RECIPE/BATCH     the recipe alone, in blocks of the epoch
  step/MODEL/BATCH/RECIPE/MODE  training with the loop of a run, on random pictures. MODE is trainer.compile:
                                eager (false), graphs or compiled (true). The first epoch warms up; the rate
                                of each later one is a figure, and the GPU is waited for at its end alone
  speedrun94/MODE/SEED          a run of the preset on CIFAR-10 in $CIFAR_ROOT, and the process around it
  analysis/LEVEL                the analysis of 10,000 pictures with ResNet-18

All of them may take some 25 minutes, those of --quick 8: estimates. Figures of two cards never share a file.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from itertools import groupby
from pathlib import Path
from typing import Any

from experiments.files import PROJECT, read_json, write_json

# Seconds, estimated: of a process, a cell, a speedrun, an analysis; of compiling a network for a batch size.
PROCESS, CELL, SPEEDRUN, ANALYSIS = 12, 3, 20, 40
COMPILING = {"eager": 0, "graphs": 30, "compiled": 15}  # the second finds kernels in the first one's cache
LEAST = 20  # seconds left under which no process is started


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how long."""

    device: str = "cuda"
    models: tuple[str, ...] = ("resnet18", "airbench", "eva_small", "wrn28_10")
    batch_sizes: tuple[int, ...] = (512, 128, 2000)
    recipes: tuple[str, ...] = ("cutout", "none", "trivialaugment", "eva_rotate_hue_cutout")
    modes: tuple[str, ...] = ("eager", "graphs", "compiled")
    seeds: int = 5  # of the speedrun
    levels: tuple[str, ...] = ("full", "light")
    words: tuple[str, ...] = ()  # further overrides of a training
    speedrun: tuple[str, ...] = ("experiment=speedrun94", "data.download=false")
    pictures: int = 24_000  # of an epoch; a third for wrn28_10
    analysed: int = 10_000  # pictures
    epochs: int = 3  # measured, at least
    seconds: float = 1.5  # measured, at least
    limit: float = 240  # seconds of one cell

    def cells(self) -> list[str]:
        """Return the names of all cells, what matters most first, those of one process side by side."""
        found = [f"augmentation/{recipe}/{size}" for recipe in self.recipes for size in self.batch_sizes]
        for mode in self.modes:
            found += [
                f"step/{model}/{size}/{recipe}/{mode}"
                for model in self.models
                for size in self.batch_sizes
                for recipe in self.recipes
            ]
            found += [f"speedrun94/{mode}/{seed}" for seed in range(self.seeds) if mode != "compiled"]
            if mode == self.modes[0]:
                found += [f"analysis/{level}" for level in self.levels]
        return found


def process_of(cell: str) -> str:
    """Return what the cells that are measured in one process have in common."""
    kind, *rest = cell.split("/")
    return f"{kind}/{rest[0]}/{rest[-1]}" if kind == "step" else kind


def is_quick(cell: str) -> bool:
    """Tell whether a cell is measured with --quick."""
    kind, *rest = cell.split("/")
    if kind == "step":
        return rest[1] == "512" and rest[2] in ("none", "cutout") and rest[3] != "compiled"
    return kind != "augmentation" or rest[1] == "512"


def estimate(cells: Iterable[str]) -> float:
    """Return the minutes that cells may take on a fast card."""
    cells = list(cells)
    seconds = PROCESS * len({process_of(cell) for cell in cells})
    for cell in cells:
        kind, *rest = cell.split("/")
        compiling = COMPILING[rest[-1]] / 4 if kind == "step" else 0  # four recipes share it
        seconds += {"speedrun94": SPEEDRUN, "analysis": ANALYSIS}.get(kind, CELL) + compiling
    return seconds / 60


def note(path: Path, cell: str, row: dict[str, Any] | None) -> None:
    """Keep what was found of a cell; None forgets it."""
    content = read_json(path)
    cells = content.setdefault("cells", {})
    cells.pop(cell, None)
    if row is not None:
        cells[cell] = row
    write_json(path, content)


def rows(path: Path) -> dict[str, dict[str, Any]]:
    """Return what is known of each cell."""
    return read_json(path).get("cells", {})


def measure(plan: Plan, path: Path, cells: Sequence[str], minutes: float) -> None:
    """Measure those of the cells that ``path`` has no row of, until the time is over."""
    end = time.monotonic() + 60 * minutes
    for _, together in groupby(cells, process_of):
        names = list(together)
        while left := [cell for cell in names if cell not in rows(path)]:
            if end - time.monotonic() < LEAST or not _process(plan, path, left, end):
                return


def _process(plan: Plan, path: Path, cells: list[str], end: float) -> bool:
    """Measure cells in one process, as many as it manages; return whether there is time left.

    Where it dies, or a cell takes too long, that one is noted.
    """
    log = path.with_suffix(".log")
    command = [sys.executable, "-m", "benchmarks.gpu_cells", json.dumps(asdict(plan)), str(path), *cells]
    with log.open("a", encoding="utf-8") as file:
        child = subprocess.Popen(command, cwd=PROJECT, stdout=file, stderr=file)
    before = len(rows(path))
    reason = ""
    while child.poll() is None and not reason:
        time.sleep(0.2)
        cell, seconds = _running(path)
        if time.monotonic() > end:
            reason = "time is over"
        elif seconds > plan.limit:
            reason = f"took more than {plan.limit:g} s"
    code = _ended(child)
    cell, _ = _running(path)
    if reason == "time is over":
        if cell:
            note(path, cell, None)
        return False
    if cell:
        reason = reason or f"its process ended with exit code {code}, see {log.name}"
        note(path, cell, {"status": "failed", "error": reason})
    elif len(rows(path)) == before:  # nothing can be measured
        said = log.read_text(encoding="utf-8").splitlines()
        sys.exit(said[-1] if said else f"error: its process ended with exit code {code} without a word")
    return True


def _ended(child: subprocess.Popen[bytes]) -> int:
    """End a process and what it has started, if it has not ended, and return its exit code."""
    child.terminate()
    try:
        return child.wait(timeout=5)
    except subprocess.TimeoutExpired:  # it waits for a GPU that does not answer
        child.kill()
        return child.wait()


def _running(path: Path) -> tuple[str, float]:
    """Return the cell that is being measured, "" for none, and since how many seconds."""
    for cell, row in rows(path).items():
        if row["status"] == "running":
            return cell, time.time() - row["since"]
    return "", 0.0


def chosen(plan: Plan, only: Sequence[str], quick: bool) -> list[str]:
    """Return the cells of the plan that are asked for, by patterns of their names."""
    cells = [cell for cell in plan.cells() if not quick or is_quick(cell)]
    return [cell for cell in cells if not only or any(fnmatch(cell, f"{pattern}*") for pattern in only)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, default=PROJECT / "benchmarks" / "gpu.json")
    parser.add_argument("--minutes", type=float, default=9, help="after which no more is begun; default 9")
    parser.add_argument("--quick", action="store_true", help="batches of 512, two recipes, not compiled")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="PATTERN", help="such as 'step/*/512' analysis"
    )
    parser.add_argument("--again", action="store_true", help="measure what has failed once more")
    parser.add_argument("--list", action="store_true", help="show what is left, and measure nothing")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    plan, path = Plan(device=args.device), args.json.resolve()
    cells = chosen(plan, args.only, args.quick)
    if not cells:
        parser.error(f"--only must name cells, as --list shows them, got {' '.join(args.only)}")
    if not path.parent.is_dir():
        parser.error(f"--json must lie in a folder that is there, got {path}")
    if not args.list:
        for cell, row in rows(path).items():
            if row["status"] == "running" or args.again and row["status"] != "measured":
                note(path, cell, None)
        measure(plan, path, cells, args.minutes)
        write_page(plan, path)
    left = [cell for cell in cells if cell not in rows(path)]
    if args.list:
        print(*left, sep="\n")
    bad = [cell for cell in cells if rows(path).get(cell, {}).get("status", "measured") != "measured"]
    print(f"{len(cells) - len(left)} of {len(cells)} cells are there, {len(bad)} of them failed", end="")
    print(
        f"; left: {len(left)}, about {estimate(left):.0f} minutes: the same command goes on" if left else ""
    )


def write_page(plan: Plan, path: Path) -> None:
    from benchmarks.gpu_page import page

    path.with_suffix(".md").write_text(page(plan, read_json(path)), encoding="utf-8")


if __name__ == "__main__":
    main()
