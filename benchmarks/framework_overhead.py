"""What a run costs beside its training: `python -m benchmarks.framework_overhead`.

The same steps (ResNet-20 on the digits, crop and flip, validation after each epoch) in a bare hand-written
loop and in a whole run with tracking, checkpoints, guards and log. Each is timed for a short and a long
training; the difference is the cost of the added epochs, free of imports and set-up. Interleaved rounds in
one process, one thread, CPU time, medians.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from cifar_core.augment.uniforms import picture_keys
from cifar_core.data.sources import load_data
from experiments.config import build
from experiments.config.compose import compose
from experiments.config.values import settings
from experiments.runs.story import run

SHORT, LONG = 1, 5  # epochs


def overrides(epochs: int) -> list[str]:
    return [
        *("data=digits", "model=resnet20", "aug=crop_flip", "scheduler=one_cycle", "analysis=none"),
        *(
            f"trainer.epochs={epochs}",
            "trainer.batch_size=64",
            "trainer.precision=fp32",
            "trainer.device=cpu",
        ),
        *("trainer.threads=1", "trainer.checkpoint_seconds=0"),
    ]


def bare(epochs: int) -> None:
    """Train as a careful person would by hand: the same parts, nothing around them."""
    cfg = compose(overrides(epochs))
    data = load_data(settings(cfg).data)
    torch.manual_seed(0)
    model = build.model(cfg, num_classes=10).to(memory_format=torch.channels_last)
    optimizer = build.optimizer(cfg, model.named_parameters())
    steps = len(data.train) // 64
    scheduler = build.scheduler(cfg, optimizer, steps_per_epoch=steps)
    augment, generator = build.augment(cfg), torch.Generator().manual_seed(0)
    for _ in range(epochs):
        model.train()
        order = torch.randperm(len(data.train), generator=generator)
        for batch in order[: steps * 64].split(64):
            images = augment(data.train.images[batch], picture_keys(len(batch), generator))
            images = data.normalize(images.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(model(images), data.train.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        model.eval()
        with torch.no_grad():
            images = data.normalize(data.val.images.contiguous(memory_format=torch.channels_last))
            (model(images).argmax(1) == data.val.labels).double().mean().item()


def framework(epochs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        uri = f"tracking.uri=sqlite:///{Path(tempfile.gettempdir()) / 'framework_overhead.db'}"
        run(compose([*overrides(epochs), uri]), Path(folder) / "run")


def cpu_seconds(work, epochs: int) -> float:
    began = time.process_time()
    work(epochs)
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    framework(SHORT)  # imports, and the tracking store
    bare(SHORT)
    rounds = []
    for _ in range(arguments.rounds):
        added = {
            work.__name__: (cpu_seconds(work, LONG) - cpu_seconds(work, SHORT)) / (LONG - SHORT)
            for work in (bare, framework)
        }
        rounds.append(added | {"ratio": added["framework"] / added["bare"]})
        print("  ".join(f"{name} {value:.3f}" for name, value in rounds[-1].items()), flush=True)
    ratios = sorted(row["ratio"] for row in rounds)
    print(
        f"CPU seconds an epoch: framework / bare = {statistics.median(ratios):.3f} "
        f"(n={len(ratios)}, {ratios[0]:.3f} to {ratios[-1]:.3f})"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(rounds, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
