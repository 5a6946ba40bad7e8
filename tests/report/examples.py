"""A small model, random pictures and guesses for the tests of the analysis."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cifar_core.data.split import Data, Split
from cifar_core.report.analyse import analyse
from cifar_core.report.settings import AnalysisSettings

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HISTORY = [
    {"epoch": 1, "train/loss": 2.1, "train/acc": 0.2, "val/loss": 2.0, "val/acc": 0.25, "lr": 0.1},
    {"epoch": 2, "train/loss": 1.7, "train/acc": 0.4, "val/loss": 1.8, "val/acc": 0.35, "lr": 0.05},
]


class Net(nn.Sequential):
    """Two 8x8 grids, then logits."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.body = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flat = nn.Flatten()
        self.fc = nn.Linear(8, num_classes)


def split(labels: Sequence[int], *, size: int = 32, seed: int = 0, names: bool = False) -> Split:
    generator = torch.Generator().manual_seed(seed)
    count = len(labels)
    return Split(
        images=torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=generator),
        labels=torch.tensor(labels, dtype=torch.int64),
        index=1000 + torch.arange(count) * 3,
        names=tuple(f"test/picture {i}.png" for i in range(count)) if names else None,
    )


def pictures(
    labels: Sequence[int], *, classes: Sequence[str] = NAMES, size: int = 32, names: bool = False
) -> Data:
    return Data(
        source="folder",
        classes=tuple(classes),
        train=split([i % len(classes) for i in range(12)], size=size, seed=1),
        val=split(labels, size=size, seed=2),
        test=split(labels, size=size, seed=3, names=names),
        mean=(125.3, 123.0, 113.9),
        std=(63.0, 62.1, 66.7),
        fingerprint="",
    )


def flip(images: Tensor, keys: Tensor) -> Tensor:
    return torch.where((keys % 2 == 0).view(-1, 1, 1, 1), images.flip(3), images)


def guesses(labels: Sequence[int], num_classes: int = 10, *, seed: int = 5) -> Tensor:
    """Logits that are right for about half of the pictures."""
    noise = torch.randn(len(labels), num_classes, generator=torch.Generator().manual_seed(seed)) * 2
    return noise + 3 * torch.nn.functional.one_hot(torch.tensor(labels), num_classes)


def run(data: Data, logits: Tensor, out_dir: Path, *, level: str = "light", **changes: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    options = {
        "split": "test",
        "layer": "",
        "method": "gradcam",
        "sheet_size": 6,
        "history": HISTORY,
        "augment": flip,
        "val_logits": None,
        "facts": None,
    } | changes
    return analyse(
        Net(data.num_classes),
        data,
        options["split"],
        logits,
        settings=AnalysisSettings(level, options["layer"], options["method"], options["sheet_size"]),
        cam_layer="body.1",
        augment=options["augment"],
        history=options["history"],
        out_dir=out_dir,
        val_logits=options["val_logits"],
        facts=options["facts"],
    )
