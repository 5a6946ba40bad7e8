"""How much CPU each input pipeline takes: ours, Albumentations, torchvision, kornia.

    python -m benchmarks.input_pipeline --json input_pipeline.json

All pipelines turn the same uint8 pictures in memory into normalised float batches, in one process with one
thread (plus worker processes where named): ours as the training loop does, in blocks of an epoch of CIFAR's
length; the others in a DataLoader, in an epoch of --pictures. Rounds are interleaved; the table shows medians
and quartiles of the CPU time a picture, that of workers included, and of its ratio to ours.

trivialaugment and randaugment are the recipes of conf/aug, which lack AutoContrast and Equalize; torchvision
has its own TrivialAugmentWide and RandAugment, between the same crop, flip and hole.
"""

import argparse
import json
import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

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

from benchmarks.measured import interleaved, machine, spread  # noqa: E402
from cifar_core.augment.pipeline import augmentation  # noqa: E402
from cifar_core.data.split import Data, Split  # noqa: E402
from cifar_core.train.epoch import batches, draw  # noqa: E402
from cifar_core.train.settings import TrainerSettings  # noqa: E402
from experiments.config import build  # noqa: E402
from experiments.config.compose import compose  # noqa: E402

MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)
SHARES = tuple(value / 255 for value in MEAN), tuple(value / 255 for value in STD)
SHIPPED = ("trivialaugment", "randaugment")  # of conf/aug
RECIPES = ("crop flip", "crop flip cutout", "crop flip shift-scale-rotate hue cutout", *SHIPPED)
PASSES = 12  # of ours over the pictures: an epoch of CIFAR's length, of many blocks
Epoch = Callable[[], Iterator[Tensor]]


def albumentations_steps(recipe: str) -> dict[str, A.BasicTransform]:
    if recipe in SHIPPED:
        return build.steps(compose([f"aug={recipe}", "data=cifar10"]))
    steps = {
        "pad": A.Pad(padding=4, fill=MEAN),
        "crop": A.RandomCrop(32, 32),
        "flip": A.HorizontalFlip(p=0.5),
        "rotate": A.ShiftScaleRotate(p=0.5),
        "hue": A.HueSaturationValue(p=0.5),
        "cutout": A.CoarseDropout((1, 1), (16, 16), (16, 16), fill=MEAN, p=1.0),
    }
    return {name: step for name, step in steps.items() if name == "pad" or name in recipe}


def torchvision_steps(recipe: str, module: Any, to_float: list) -> Callable:
    strong = {"trivialaugment": module.TrivialAugmentWide, "randaugment": module.RandAugment}
    middle = [make() for name, make in strong.items() if name == recipe]
    if "rotate" in recipe:
        jitter = [module.RandomAffine(45, (0.0625, 0.0625), (0.9, 1.1)), module.ColorJitter(0.1, 0, 0.1, 0.1)]
        middle = [module.RandomApply([step], p=0.5) for step in jitter]
    holed = "cutout" in recipe or recipe == "trivialaugment"
    hole = [module.RandomErasing(1.0, (0.25, 0.25), (1.0, 1.0))] if holed else []
    first = [module.RandomCrop(32, padding=4), module.RandomHorizontalFlip()]
    return module.Compose([*first, *middle, *to_float, module.Normalize(*SHARES), *hole])


def kornia_steps(recipe: str) -> torch.nn.Module | None:
    try:
        import kornia.augmentation as K
    except ImportError:
        return None
    if recipe in SHIPPED:  # its own AutoAugment family draws one operation for the whole batch
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


def one_thread(_: int) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def loader(pictures: list, change: Callable, batch_size: int, workers: int = 0) -> Epoch:
    dataset = Pictures(pictures, change)
    return lambda: iter(
        DataLoader(dataset, batch_size, shuffle=True, num_workers=workers, worker_init_fn=one_thread)
    )


def ours(recipe: str, images: Tensor, batch_size: int) -> Epoch:
    """Return an epoch of the training loop's own batches, normalised."""
    augment = augmentation(albumentations_steps(recipe), backend="batched", image_size=32)
    images = images.repeat(PASSES, 1, 1, 1)
    split = Split(images, torch.zeros(len(images), dtype=torch.long), torch.arange(len(images)), None)
    data = Data("random", ("one",), split, split, split, MEAN, STD, "")
    settings = TrainerSettings(batch_size=batch_size)

    def epoch() -> Iterator[Tensor]:
        lot = draw(0, 1, len(split), settings)
        return (data.normalize(batch) for batch, _ in batches(lot, split, augment, batch_size))

    return epoch


def contenders(recipe: str, images: Tensor, batch_size: int) -> dict[str, Epoch]:
    arrays = list(images.permute(0, 2, 3, 1).contiguous().numpy())
    pil = [Image.fromarray(array) for array in arrays]
    last = [A.Normalize(*SHARES), ToTensorV2()]
    compose = A.Compose([*albumentations_steps(recipe).values(), *last])
    to_float = v2.ToDtype(torch.float32, scale=True)
    classic = torchvision_steps(recipe, T, [T.ToTensor()])
    on_pil = torchvision_steps(recipe, v2, [v2.PILToTensor(), to_float])
    on_tensors = torchvision_steps(recipe, v2, [to_float])

    def albumentations(array: Any) -> Tensor:
        return compose(image=array)["image"]

    found = {
        "ours": ours(recipe, images, batch_size),
        "albumentations": loader(arrays, albumentations, batch_size),
        "albumentations, 2 workers": loader(arrays, albumentations, batch_size, 2),
        "torchvision PIL": loader(pil, classic, batch_size),
        "torchvision v2 PIL": loader(pil, on_pil, batch_size),
        "torchvision v2 tensors": loader(list(images), on_tensors, batch_size),
    }
    module = kornia_steps(recipe)
    if module is not None:
        found["kornia"] = lambda: (module(batch.float() / 255) for batch in images.split(batch_size))
    return found


def read(epoch: Epoch) -> None:
    for batch in epoch():
        assert batch.dtype == torch.float32


def compared(recipe: str, images: Tensor, batch_size: int, rounds: int) -> list[dict]:
    epochs = contenders(recipe, images, batch_size)
    seconds = interleaved({name: partial(read, epoch) for name, epoch in epochs.items()}, rounds)
    us = {name: [1e6 * value / len(images) for value in taken] for name, taken in seconds.items()}
    us["ours"] = [value / PASSES for value in us["ours"]]
    return [
        {
            "recipe": recipe,
            "pipeline": name,
            "cpu_us_per_picture": spread(values),
            "ratio_to_ours": spread([theirs / own for theirs, own in zip(values, us["ours"], strict=True)]),
        }
        for name, values in us.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=4096)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=RECIPES, nargs="*", default=RECIPES, help="these recipes")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    one_thread(0)
    images = torch.randint(0, 256, (args.pictures, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(images.float(), size=(32, 32), mode="bilinear").to(torch.uint8)
    rows = []
    for recipe in args.only:
        for row in compared(recipe, images, args.batch_size, args.rounds):
            us, ratio = row["cpu_us_per_picture"], row["ratio_to_ours"]
            print(
                f"{recipe:42}{row['pipeline']:28}{us['median']:8.1f} us ({us['q1']:.1f} to {us['q3']:.1f})"
                f"{ratio['median']:8.1f}x ({ratio['q1']:.1f} to {ratio['q3']:.1f})",
                flush=True,
            )
            rows.append(row)
    if args.json:
        about = {"pictures": args.pictures, "batch_size": args.batch_size, "machine": machine()}
        args.json.write_text(json.dumps(about | {"rows": rows}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
