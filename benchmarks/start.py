"""What a run costs before its first epoch: `python -m benchmarks.start`; `... ../before .` compares trees.

Each tree, a checkout of this project, runs the quickstart for one epoch without its analysis, in turns.
Timed are CPU seconds, one thread, to the first line on the screen and to the line on the device, with which
training begins. Prints JSON: medians, quartiles, number of rounds, machine.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measured import machine, spread

WORDS = ["experiment=quickstart", "trainer.epochs=1", "trainer.threads=1", "analysis=none", "tracking=none"]


def seconds(tree: Path) -> tuple[float, float]:
    """Return CPU seconds of a run of ``tree`` at its first line and at that on the device."""
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "experiments.run", *WORDS, f"hydra.run.dir={folder}/run"]
        alone = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        pipe: Any = {"stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
        with subprocess.Popen(line, cwd=tree, env=alone, **pipe) as process:
            assert process.stderr is not None
            times = []
            for told in process.stderr:
                if not times or told.startswith("device "):
                    spent = psutil.Process(process.pid).cpu_times()
                    times.append(spent.user + spent.system)
        if process.returncode or len(times) != 2:
            raise RuntimeError(f"the run of {tree} has failed")
    return times[0], times[1]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trees", nargs="*", type=Path, default=[Path()], help="checkouts to compare")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    trees = [tree.resolve() for tree in arguments.trees]
    measured: dict[Path, list[tuple[float, float]]] = {tree: [] for tree in trees}
    for number in range(arguments.rounds + 1):
        for tree in trees:
            times = seconds(tree)
            if number > 0:  # the first round warms up
                measured[tree].append(times)
    for tree, rounds in measured.items():
        first, device = map(list, zip(*rounds, strict=True))
        print(json.dumps({"tree": tree.name, "first line": spread(first), "training": spread(device)}))
    print(json.dumps(machine()))


if __name__ == "__main__":
    main()
