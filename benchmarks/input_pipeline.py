"""How many pictures a second each input pipeline feeds: ours, Albumentations, torchvision, kornia.

    python benchmarks/input_pipeline.py --pictures 4000 --rounds 5 --out input_pipeline.json

All pipelines turn the same uint8 pictures in memory into normalised float batches, in one process with one
thread (plus worker processes where named). Rounds are interleaved; the table shows medians. Ratios compare
CPU time, that of workers included.
"""

import argparse
import json
import os
import resource
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
warnings.filterwarnings("ignore")  # other libraries' advice and deprecations

import albumentations as A  # noqa: E402
import cv2  # noqa: E402
import torch  # noqa: E402
from albumentations.pytorch import ToTensorV2  # noqa: E402
from PIL import Image  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402
from torchvision import transforms as T  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

from cifar_core.augment.pipeline import augmentation  # noqa: E402

MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
SHARES = tuple(value / 255 for value in MEAN), tuple(value / 255 for value in STD)
RECIPES = ("crop flip", "crop flip cutout", "crop flip shift-scale-rotate hue cutout")
Epoch = Callable[[], Iterator[Tensor]]


def albumentations_steps(recipe: str) -> dict[str, A.BasicTransform]:
    steps = {
        "pad": A.Pad(padding=4, fill=MEAN),
        "crop": A.RandomCrop(32, 32),
        "flip": A.HorizontalFlip(p=0.5),
        "rotate": A.ShiftScaleRotate(p=0.5),
        "hue": A.HueSaturationValue(p=0.5),
        "cutout": A.CoarseDropout((1, 1), (16, 16), (16, 16), fill=MEAN, p=1.0),
    }
    return {name: step for name, step in steps.items() if name == "pad" or name in recipe}


def torchvision_steps(recipe: str, module, to_float: list) -> Callable:
    jitter = [module.RandomAffine(45, (0.0625, 0.0625), (0.9, 1.1)), module.ColorJitter(0.1, 0, 0.1, 0.1)]
    heavy = [module.RandomApply([step], p=0.5) for step in jitter] if "rotate" in recipe else []
    hole = [module.RandomErasing(1.0, (0.25, 0.25), (1.0, 1.0))] if "cutout" in recipe else []
    first = [module.RandomCrop(32, padding=4), module.RandomHorizontalFlip()]
    return module.Compose([*first, *heavy, *to_float, module.Normalize(*SHARES), *hole])


def kornia_steps(recipe: str) -> torch.nn.Module | None:
    try:
        import kornia.augmentation as K
    except ImportError:
        return None
    first = [K.RandomCrop((32, 32), padding=4), K.RandomHorizontalFlip(0.5)]
    jitter = [K.RandomAffine(45, (0.0625, 0.0625), (0.9, 1.1), p=0.5), K.ColorJiggle(0.1, 0, 0.1, 0.1, p=0.5)]
    hole = [K.RandomErasing((0.25, 0.25), (1.0, 1.0), p=1.0)] if "cutout" in recipe else []
    normalize = K.Normalize(torch.tensor(SHARES[0]), torch.tensor(SHARES[1]))
    return torch.nn.Sequential(*first, *(jitter if "rotate" in recipe else []), *hole, normalize)


class Pictures(Dataset):
    """A list of pictures and a function for each."""

    def __init__(self, pictures: list, change: Callable) -> None:
        self.pictures, self.change = pictures, change

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        return self.change(self.pictures[index])


def one_thread(worker: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def loader(pictures: list, change: Callable, batch_size: int, workers: int) -> Epoch:
    dataset = Pictures(pictures, change)
    return lambda: iter(
        DataLoader(dataset, batch_size, shuffle=True, num_workers=workers, worker_init_fn=one_thread)
    )


def batched(images: Tensor, change: Callable[[Tensor], Tensor], batch_size: int) -> Epoch:
    def epoch() -> Iterator[Tensor]:
        for rows in torch.randperm(len(images)).split(batch_size):
            yield change(images.index_select(0, rows))

    return epoch


def ours(recipe: str) -> Callable[[Tensor], Tensor]:
    augment = augmentation(albumentations_steps(recipe), backend="batched", image_size=32)
    generator = torch.Generator().manual_seed(0)
    mean, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, [1 / value for value in STD]))
    return lambda images: augment(images, generator=generator).float().sub_(mean).mul_(scale)


def contenders(recipe: str, images: Tensor, batch_size: int) -> dict[str, Epoch]:
    arrays = list(images.permute(0, 2, 3, 1).contiguous().numpy())
    pil = [Image.fromarray(array) for array in arrays]
    last = [A.Normalize(*SHARES), ToTensorV2()]
    compose = A.Compose([*albumentations_steps(recipe).values(), *last])
    classic = torchvision_steps(recipe, T, [T.ToTensor()])
    tensors = torchvision_steps(recipe, v2, [v2.ToDtype(torch.float32, scale=True)])
    found = {
        "ours": batched(images, ours(recipe), batch_size),
        "albumentations": loader(arrays, lambda array: compose(image=array)["image"], batch_size, 0),
        "albumentations, 2 workers": loader(
            arrays, lambda array: compose(image=array)["image"], batch_size, 2
        ),
        "torchvision PIL": loader(pil, classic, batch_size, 0),
        "torchvision v2 tensors": loader(list(images), tensors, batch_size, 0),
    }
    module = kornia_steps(recipe)
    if module is not None:
        found["kornia"] = batched(images, lambda batch: module(batch.float() / 255), batch_size)
    return found


def cpu_seconds() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def measured(epoch: Epoch) -> tuple[float, float]:
    """Return CPU and wall seconds of one pass."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    for batch in epoch():
        assert batch.dtype == torch.float32
    return cpu_seconds() - cpu, time.perf_counter() - wall


def compared(recipe: str, images: Tensor, batch_size: int, rounds: int) -> list[dict]:
    found = contenders(recipe, images, batch_size)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in found}
    for number in range(rounds + 1):
        for name, epoch in found.items():
            taken = measured(epoch)
            if number > 0:  # the first round warms up
                times[name].append(taken)
    per_picture = {name: median(cpu for cpu, _ in taken) / len(images) for name, taken in times.items()}
    return [
        {
            "recipe": recipe,
            "pipeline": name,
            "cpu_us_per_picture": round(per_picture[name] * 1e6, 2),
            "pictures_per_second": round(len(images) / median(wall for _, wall in taken)),
            "cpu_ratio_to_ours": round(per_picture[name] / per_picture["ours"], 2),
        }
        for name, taken in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    one_thread(0)
    images = torch.randint(0, 256, (args.pictures, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(images.float(), size=(32, 32), mode="bilinear").to(torch.uint8)
    rows = [row for recipe in RECIPES for row in compared(recipe, images, args.batch_size, args.rounds)]
    for row in rows:
        print(
            f"{row['recipe']:42}{row['pipeline']:28}{row['cpu_us_per_picture']:9.1f} us"
            f"{row['pictures_per_second']:10,}/s{row['cpu_ratio_to_ours']:8.1f}x"
        )
    if args.out:
        args.out.write_text(
            json.dumps({"arguments": vars(args) | {"out": str(args.out)}, "rows": rows}, indent=2),
            encoding="utf-8",
        )


if __name__ == "__main__":
    main()
