"""Measures how long tracking holds a training up: `python -m benchmarks.tracking_overhead`.

Each round tracks the same training once in every way, in one process, into a new sqlite store or `--uri`;
epochs that sleep stand for the training. `in the loop` is the time spent in tracker calls, `at the end` the
time that closing takes. Importing MLflow and making the store are not in it.
Compare figures of one call only.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from experiments.tracking.mlflow_store import connect
from experiments.tracking.mlflow_tracker import MlflowTracker
from experiments.tracking.uri import tracking_uri

METRICS = (
    "train/loss",
    "train/acc",
    "val/loss",
    "val/acc",
    "val/acc_best",
    "lr",
    "seconds",
    "images_per_second",
)
PARAMS = {f"group{n % 6}.option{n}": n for n in range(60)}
Seconds = tuple[float, float]  # in the loop, at the end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--epoch-seconds", type=float, default=0.2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--uri", help="a store; default a new sqlite file")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        uri = tracking_uri(args.uri or f"sqlite:///{folder}/mlflow.db")
        connect(uri)  # making the store is not what is measured
        ways: dict[str, Callable[[Path], Seconds]] = {
            "ours: spool and thread": lambda out_dir: _ours(uri, out_dir, args.epochs, args.epoch_seconds),
            "MLflow, a batch per epoch": lambda _: _mlflow(uri, args.epochs, args.epoch_seconds, batch=True),
            "MLflow, a call per metric": lambda _: _mlflow(uri, args.epochs, args.epoch_seconds, batch=False),
        }
        times: dict[str, list[Seconds]] = {name: [] for name in ways}
        for number in range(args.rounds):
            for way, (name, measure) in enumerate(ways.items()):
                times[name].append(measure(Path(folder) / f"run{number}-{way}"))
    print(f"{args.epochs} epochs x {len(METRICS)} metrics, {len(PARAMS)} params; median ms of {args.rounds}")
    for name, measured in times.items():
        loop, end = (1000 * statistics.median(column) for column in zip(*measured, strict=True))
        print(f"{name:28} in the loop {loop:8.1f}   at the end {end:8.1f}")


def _ours(uri: str, out_dir: Path, epochs: int, epoch_seconds: float) -> Seconds:
    began = time.perf_counter()
    tracker = MlflowTracker(
        uri=uri,
        experiment="overhead",
        required=False,
        nested=False,
        out_dir=out_dir,
        run_name=out_dir.name,
        tags={},
    ).__enter__()
    tracker.log_params(PARAMS)
    loop = time.perf_counter() - began
    for epoch in range(1, epochs + 1):
        time.sleep(epoch_seconds)
        began = time.perf_counter()
        tracker.log_metrics(dict.fromkeys(METRICS, 1 / epoch), step=epoch)
        loop += time.perf_counter() - began
    began = time.perf_counter()
    tracker.__exit__(None, None, None)
    return loop, time.perf_counter() - began


def _mlflow(uri: str, epochs: int, epoch_seconds: float, *, batch: bool) -> Seconds:
    from mlflow.entities import Metric, Param

    began = time.perf_counter()
    client = connect(uri)
    experiment = client.get_experiment_by_name("overhead").experiment_id
    run_id = client.create_run(experiment).info.run_id
    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in PARAMS.items()])
    loop = time.perf_counter() - began
    for epoch in range(1, epochs + 1):
        time.sleep(epoch_seconds)
        now = int(time.time() * 1000)
        began = time.perf_counter()
        if batch:
            client.log_batch(run_id, metrics=[Metric(key, 1 / epoch, now, epoch) for key in METRICS])
        else:
            for key in METRICS:
                client.log_metric(run_id, key, 1 / epoch, step=epoch)
        loop += time.perf_counter() - began
    began = time.perf_counter()
    client.set_terminated(run_id)
    return loop, time.perf_counter() - began


if __name__ == "__main__":
    main()
