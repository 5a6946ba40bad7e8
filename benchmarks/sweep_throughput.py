"""Times twenty one-epoch trials: our sweeper, plain processes, Hydra's basic launcher, joblib.

    python -m benchmarks.sweep_throughput [--trials 20] [--slots 2]

Each way does the same work, one way after another in one go. Compare figures of one call only.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cifar_core.processes import cores
from experiments.files import PROJECT
from experiments.runs.result import Result

WORK = [
    *("experiment=quickstart", "model.width=4", "trainer.epochs=1", "trainer.batch_size=256"),
    *("tracking=none", "analysis=none", "trainer.threads=1", "trainer.device=cpu", "trainer.progress=false"),
]
RUN = [sys.executable, "-m", "experiments.run"]


def ours(folder: Path, trials: int, slots: int) -> None:
    call(folder, [*RUN, "-m", *WORK, f"seed=range({trials})", f"sweep.slots={slots}"])


def processes(folder: Path, trials: int, slots: int) -> None:
    """One `python -m experiments.run` after another, as a shell loop has them."""
    for seed in range(trials):
        call(folder, [*RUN, *WORK, f"seed={seed}"])


def basic(folder: Path, trials: int, slots: int) -> None:
    """Hydra's own: all in one process, one after another; a crash ends them all."""
    call(folder, [*RUN, "-m", *WORK, f"seed=range({trials})", "hydra/sweeper=basic"])


def joblib(folder: Path, trials: int, slots: int) -> None:
    """Worker processes of joblib, as hydra-joblib-launcher uses it, on the same function."""
    script = folder / "with_joblib.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from joblib import Parallel, delayed\n"
        "def trial(seed, work, folder):\n"
        "    from experiments.config.compose import compose\n"
        "    from experiments.runs.story import run\n"
        "    return run(compose([*work, f'seed={seed}']), Path(folder) / str(seed))\n"
        "if __name__ == '__main__':\n"
        "    trials, slots, folder, *work = sys.argv[1:]\n"
        "    calls = (delayed(trial)(seed, work, folder) for seed in range(int(trials)))\n"
        "    Parallel(int(slots))(calls)\n",
        encoding="utf-8",
    )
    call(folder, [sys.executable, str(script), str(trials), str(slots), str(folder / "runs"), *WORK])


def call(folder: Path, command: list[str]) -> None:
    env = os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)


def finished(folder: Path) -> int:
    results = [Result.read(path.parent) for path in folder.rglob("result.json")]
    return sum(result is not None and result.status == "finished" for result in results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--slots", type=int, default=cores())
    args = parser.parse_args()
    walls: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["CIFAR_CACHE"] = str(Path(scratch) / "cache")  # decoded by the warm-up, shared by all
        (Path(scratch) / "warm-up").mkdir()
        processes(Path(scratch) / "warm-up", 1, 1)
        for way in (ours, processes, basic, joblib):
            folder = Path(scratch) / way.__name__
            folder.mkdir()
            began = time.perf_counter()
            way(folder, args.trials, args.slots)
            walls[way.__name__] = time.perf_counter() - began
            assert finished(folder) == args.trials
            print(
                f"{way.__name__:<10} {walls[way.__name__]:7.1f} s  "
                f"{args.trials / walls[way.__name__] * 60:6.1f} trials/min  "
                f"{walls[way.__name__] / walls['ours']:5.2f} times ours",
                flush=True,
            )


if __name__ == "__main__":
    main()
