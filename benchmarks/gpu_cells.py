"""Measures cells of `benchmarks.gpu`, in the process that it starts for them."""

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu import Plan, note
from benchmarks.measured import machine, spread
from cifar_core.data.split import Data, Split
from cifar_core.memory import out_of_memory
from cifar_core.train.epoch import batches, draw
from cifar_core.train.loop import train
from cifar_core.train.numerics import set_up
from cifar_core.train.settings import TrainerSettings
from cifar_core.train.state import TrainState
from experiments.cli import one_line
from experiments.config import build
from experiments.config.compose import compose
from experiments.config.values import settings
from experiments.files import PROJECT, read_json, write_json
from experiments.runs.environment import gpu

COMPILE = {"eager": "false", "graphs": "graphs", "compiled": "true"}  # trainer.compile
EPOCHS = 10**6  # more than are ever trained


@dataclass
class Bench:
    """What the cells of one process share: random pictures, and a training a network and batch size."""

    plan: Plan
    data: dict[int, Data] = field(default_factory=dict)  # by their number
    name: tuple[str, ...] = ()  # network, batch size, mode
    training: tuple[TrainState, TrainerSettings, float] | None = None  # and GFLOP a picture
    too_large: set[tuple[str, ...]] = field(default_factory=set)  # that memory did not suffice for

    def pictures(self, number: int) -> Data:
        """Return so many random pictures on the device."""
        if number not in self.data:
            generator = torch.Generator().manual_seed(0)
            images = torch.randint(0, 256, (number, 3, 32, 32), dtype=torch.uint8, generator=generator)
            labels = torch.randint(0, 10, (number,), generator=generator)
            train, empty = (Split(images[:n], labels[:n], torch.arange(n), None) for n in (number, 0))
            classes = tuple(map(str, range(10)))
            made = Data("random", classes, train, empty, train, (127.5,) * 3, (73.9,) * 3, "")
            self.data[number] = made.to(self.plan.device)
        return self.data[number]

    def begun(self, model: str, size: str, mode: str) -> tuple[TrainState, TrainerSettings, float]:
        """Return a training with these, the last one where it has them; its compiled code is kept so."""
        if (model, size, mode) in self.too_large:
            raise MemoryError("as with another recipe")
        if self.training is None or self.name != (model, size, mode):
            self.forget()
            words = [f"model={model}", f"trainer.batch_size={size}", f"trainer.compile={COMPILE[mode]}"]
            cfg = compose([*words, *_common(self.plan)])
            options = settings(cfg)
            built = build.training(cfg, options, data=self.pictures(count(self.plan, model)))
            gflops = training_gflops(built.state.model, built.data)
            self.name, self.training = (model, size, mode), (built.state, options.trainer, gflops)
        return self.training

    def forget(self) -> None:
        """Free what the last training holds."""
        self.training = None
        if "torch._dynamo" in sys.modules:  # compiled code is of this batch size
            torch._dynamo.reset()
        gc.collect()  # its graphs hold memory, too
        if self.plan.device != "cpu":
            torch.cuda.empty_cache()


def count(plan: Plan, model: str) -> int:
    """Return the pictures of an epoch."""
    return plan.pictures // (3 if model == "wrn28_10" else 1)


def _common(plan: Plan) -> list[str]:
    """Return the overrides of every training: no evaluation, and steps that leave random labels unlearned."""
    return [
        *("data=cifar10", "data.val_size=0", "trainer.evaluate=end", f"trainer.epochs={EPOCHS}"),
        *("scheduler=constant", "optimizer.lr=0.001", "trainer.progress=false"),
        *(f"trainer.device={plan.device}", "tracking=none", "analysis=none", *plan.words),
    ]


def training_gflops(model: nn.Module, data: Data) -> float:
    """Return the GFLOP of a picture forward and backward, 2 a multiplication and addition.

    That is three times those forward: torch counts the backward pass of grouped convolutions as dense.
    """
    training = model.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(data.normalize(data.train.images[:1]))
    model.train(training)
    return 3 * counter.get_total_flops() / 1e9


def step(bench: Bench, model: str, size: str, recipe: str, mode: str) -> dict[str, Any]:
    """Train epochs and return their rates and the largest amount of memory that was taken."""
    plan = bench.plan
    state, options, gflops = bench.begun(model, size, mode)
    augment = build.augment(compose([f"aug={recipe}", "data=cifar10"]))
    data = bench.pictures(count(plan, model))
    rates, first, spent = [], 0.0, 0.0
    if plan.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    for epoch in train(state, data, augment, options, criterion=F.cross_entropy):
        if not first:
            first = epoch.seconds
            continue
        rates.append(epoch.images_per_second)
        spent += epoch.seconds
        if len(rates) >= plan.epochs and spent >= plan.seconds or len(rates) == 9 * plan.epochs:
            break
    row = {"pictures_per_second": spread(rates, 4), "gflop_per_picture": gflops, "first_epoch_s": first}
    row |= {"precision": str(state.numerics.dtype).removeprefix("torch.")}
    if plan.device != "cpu":
        row["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return row


def augmentation(bench: Bench, recipe: str, size: str) -> dict[str, Any]:
    """Run a recipe over epochs, without a network."""
    plan, batch_size = bench.plan, int(size)
    augment = build.augment(compose([f"aug={recipe}", "data=cifar10"]))
    data = bench.pictures(plan.pictures)
    options = TrainerSettings(batch_size=batch_size)
    rates: list[float] = []
    for number in range(plan.epochs + 1):
        _synchronize(plan)
        began = time.perf_counter()
        lot = draw(0, number + 1, len(data.train), options)
        for _ in batches(lot, data.train, augment, batch_size):
            pass
        _synchronize(plan)
        rates.append(len(lot) / (time.perf_counter() - began))
    return {"pictures_per_second": spread(rates[1:], 4)}


def _synchronize(plan: Plan) -> None:
    if plan.device != "cpu":
        torch.cuda.synchronize()


def speedrun94(bench: Bench, mode: str, seed: str) -> dict[str, Any]:
    """Run the preset in a process of its own, started from a shell, as it were."""
    with tempfile.TemporaryDirectory() as folder:
        words = [*bench.plan.speedrun, f"seed={seed}", f"trainer.compile={COMPILE[mode]}"]
        words += [f"trainer.device={bench.plan.device}", "tracking=none", "analysis=none"]
        command = [sys.executable, "-m", "experiments.run", *words, f"hydra.run.dir={folder}/run"]
        began = time.perf_counter()
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, encoding="utf-8")
        seconds = time.perf_counter() - began
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no word")
        result = read_json(Path(folder) / "run" / "result.json")
    accuracy = {key: value for key, value in result["metrics"].items() if key.startswith("test/acc")}
    return {"train_s": result["seconds"]["train"], "process_s": seconds, **accuracy}


def analysis(bench: Bench, level: str) -> dict[str, Any]:
    """Analyse random pictures with a fresh ResNet-18; the first round warms up."""
    from benchmarks.analysis_cost import analysis as analysed
    from cifar_core.models.resnet import resnet18

    model = resnet18(num_classes=10).eval().to(bench.plan.device, memory_format=torch.channels_last)
    taken = [analysed(model, level, bench.plan.analysed, bench.plan.device) for _ in range(4)][1:]
    parts = {name: spread([one[name] for one in taken]) for name in taken[0] if name != "errors"}
    return {"seconds": parts.pop("total"), "parts": parts}


KINDS: dict[str, Callable[..., dict[str, Any]]] = {
    "step": step,
    "augmentation": augmentation,
    "speedrun94": speedrun94,
    "analysis": analysis,
}


def found(bench: Bench, cell: str) -> dict[str, Any]:
    """Measure a cell; return its figures, or why there are none."""
    kind, *rest = cell.split("/")
    try:
        return {"status": "measured", **KINDS[kind](bench, *rest)}
    except Exception as error:  # whatever a cell does, the next one is measured
        status = "out of memory" if out_of_memory(error) else "failed"
        if kind == "step" and status == "out of memory":
            bench.too_large.add((rest[0], rest[1], rest[-1]))
        bench.forget()
        return {"status": status, "error": one_line(error)[:300]}


def claim(path: Path, card: dict[str, Any] | None) -> None:
    """Write what the figures are of; end with exit code 2 where those of another card are there."""
    content = read_json(path)
    before, now = ((each or {}).get("name", "a CPU") for each in (content.get("gpu", card), card))
    if before != now:
        print(f"error: --json must name a file of one card, {path} is of {before}, this is {now}")
        sys.exit(2)
    write_json(path, {"gpu": card, "machine": machine(), "cells": content.get("cells", {})})


def main() -> None:
    parent = os.getppid()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that a run that it has started ends with it
    words, path, *cells = sys.argv[1:]
    plan = Plan(**{name: tuple(v) if isinstance(v, list) else v for name, v in json.loads(words).items()})
    claim(Path(path), gpu(torch.device(plan.device), None))
    set_up(TrainerSettings(device=plan.device))  # as a run does, also for what is measured without one
    bench = Bench(plan)
    for cell in cells:
        if os.getppid() != parent:
            sys.exit(1)  # what it measures nobody waits for
        note(Path(path), cell, {"status": "running", "since": time.time()})
        row = found(bench, cell)
        note(Path(path), cell, row)
        print(cell, row, flush=True)
        if "CUDA error" in row.get("error", "") and row["status"] == "failed":
            sys.exit(1)  # this process can use the GPU no more; the next one takes what is left


if __name__ == "__main__":
    main()
