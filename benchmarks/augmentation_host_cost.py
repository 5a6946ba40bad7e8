"""What a recipe costs the host, its pixels aside: `python -m benchmarks.augmentation_host_cost`.

CPU milliseconds of one thread for 128 pictures of 8x8, whose pixels are next to nothing: what is left are the
random numbers, the weights that are made of them and the calls, which a GPU does not take over. In blocks as
the training loop does it, and batch by batch. Rounds are interleaved; the table shows medians and quartiles.
"""

import argparse
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import torch  # noqa: E402

from benchmarks.measured import interleaved, machine, spread  # noqa: E402
from experiments.config import build  # noqa: E402
from experiments.config.compose import compose  # noqa: E402

RECIPES = ("none", "crop_flip", "cutout", "eva_rotate_hue_cutout", "trivialaugment", "randaugment")
SIZE, BATCH, BLOCK = 8, 128, 4096  # pixels a side; pictures at once


def recipe(name: str):
    """Return the augmentation of conf/aug/`name`, with its hole in proportion where it has a size."""
    hole = [f"aug.size={SIZE // 2}"] if name in ("cutout", "trivialaugment") else []
    return build.augment(compose([f"aug={name}", "data=cifar10", f"data.image_size={SIZE}", *hole]))


def epoch(augment: Callable, images: torch.Tensor, size: int) -> None:
    keys = torch.randint(2**62, (len(images),))
    for part, own in zip(images.split(size), keys.split(size), strict=True):
        augment(part, own)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="*", default=RECIPES, help="of conf/aug; default: all measured ones")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    images = torch.randint(0, 256, (BLOCK, 3, SIZE, SIZE), dtype=torch.uint8)
    ways = {
        (name, size): partial(epoch, recipe(name), images, size)
        for name in args.recipes
        for size in (BLOCK, BATCH)
    }
    seconds = interleaved(ways, args.rounds)
    rows = []
    for (name, size), taken in seconds.items():
        ms = spread([1000 * value * BATCH / BLOCK for value in taken])
        rows.append({"recipe": name, "pictures_at_once": size, "ms_per_128": ms})
        print(f"{name:24}{size:6} at once {ms['median']:9.3f} ms per 128 ({ms['q1']:.3f} to {ms['q3']:.3f})")
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
