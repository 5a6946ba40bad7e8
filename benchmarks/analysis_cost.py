"""Measures what the analysis of a run costs: `python -m benchmarks.analysis_cost`.

First the analysis of 10,000 pictures with ResNet-18, part by part. Then Grad-CAM of 100 pictures for the
predicted and the true class: ours, and pytorch-grad-cam in one batch and picture by picture. CPU seconds of
one thread, every way once a round in one process, medians; compare figures of one call only. The last line
is JSON.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar_core.data.split import Data, Split
from cifar_core.explain.gradcam import grad_cam
from cifar_core.models.resnet import resnet18
from cifar_core.report.analyse import analyse
from cifar_core.report.settings import AnalysisSettings

LEVELS = {"full": 100, "light": 25}  # sizes of the sheets, as in conf/analysis


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=10_000)
    parser.add_argument("--cams", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = resnet18(num_classes=10).eval().to(memory_format=torch.channels_last)
    levels = {
        level: _medians([analysis(model, level, args.pictures) for _ in range(args.rounds)])
        for level in LEVELS
    }
    cams = _cams(model, args.cams, args.rounds)
    print(f"analysis of {args.pictures:,} pictures, ResNet-18, wall seconds of one thread")
    for level, parts in levels.items():
        print(f"  {level:6}", "  ".join(f"{name} {value:.2f}" for name, value in parts.items()))
    print(f"Grad-CAM of {args.cams} pictures, 2 targets, CPU seconds; ours / theirs")
    for name, seconds in cams.items():
        print(f"  {name:36} {seconds:7.2f}   {cams['ours'] / seconds:.3f}")
    print(json.dumps({"analysis": levels, "grad_cam": cams, **vars(args)}))


def analysis(model: nn.Module, level: str, count: int, device: str = "cpu") -> dict[str, float]:
    """Analyse predictions of which about 95 % are right; return the wall seconds of each part."""
    data = _pictures(count).to(device)
    labels = data.test.labels
    logits = torch.randn(count, 10, device=device) * 1.5 + 5 * F.one_hot(labels, 10)
    history = [{"epoch": n, "train/loss": 1 / n, "val/acc": 1 - 1 / n, "lr": 0.1} for n in range(1, 25)]
    with tempfile.TemporaryDirectory() as folder:
        summary = analyse(
            model,
            data,
            "test",
            logits,
            settings=AnalysisSettings(level, "layer3", "gradcam", LEVELS[level]),
            cam_layer="",
            augment=lambda images, keys: images,
            history=history,
            out_dir=Path(folder),
            val_logits=logits[: len(data.val)],
        )
    return summary["seconds"] | {"errors": summary["errors"]}


def _pictures(count: int) -> Data:
    def split(size: int) -> Split:
        smooth = F.interpolate(torch.rand(size, 3, 8, 8), 32, mode="bicubic").clamp(0, 1)
        labels = torch.randint(10, (size,))
        return Split((255 * smooth).to(torch.uint8), labels, torch.arange(size), None)

    mean, std = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
    classes = tuple(f"class {k}" for k in range(10))
    return Data("random", classes, split(100), split(count // 2), split(count), mean, std, "")


def _cams(model: nn.Module, count: int, rounds: int) -> dict[str, float]:
    from pytorch_grad_cam import GradCAM

    images = torch.randn(count, 3, 32, 32).to(memory_format=torch.channels_last)
    targets = [torch.randint(10, (count,)) for _ in range(2)]
    theirs = GradCAM(model, [model.layer3])
    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: grad_cam(model, model.layer3, images, targets),
        "pytorch-grad-cam, one batch": lambda: [_theirs(theirs, images, target) for target in targets],
        "pytorch-grad-cam, picture by picture": lambda: [
            _theirs(theirs, images[k : k + 1], target[k : k + 1]) for target in targets for k in range(count)
        ],
    }
    for way in ways.values():
        way()  # warm
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.process_time()
            way()
            seconds[name].append(time.process_time() - began)
    return {name: statistics.median(measured) for name, measured in seconds.items()}


def _theirs(cam: Any, images: Tensor, labels: Tensor) -> Any:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    return cam(input_tensor=images, targets=[ClassifierOutputTarget(k) for k in labels.tolist()])


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(measured[name] for measured in rounds) for name in rounds[0]}


if __name__ == "__main__":
    main()
