"""Golden numbers: what fixed seeds draw, show and learn must not change when code is moved.

They lie in tests/golden.json and hold on any CPU and for any number of threads. Whole numbers - splits, the
order of an epoch, the numbers that an augmentation draws, pictures - are compared by hash. Where a recipe
computes in float32 on its way to bytes, CPUs round differently (fused multiply-add), so samples are compared.
Losses come from a network in float64 whose first weights are made of whole numbers, as `torch.randn` and
`uniform_(low, high)` draw other ones on other CPUs; it has no dropout, whose draws come from a library (MKL).

After a change that is meant to alter them, or for a new recipe in conf/aug, renew them with

    python -m tests.test_golden

which prints every number that changed. Commit tests/golden.json with the change and tell why in its message.
A new version of torch, torchvision, NumPy or Albumentations may draw other numbers: renew them then too.
"""

import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor, nn

from cifar_core.augment.pipeline import BatchedPipeline
from cifar_core.augment.recipe import Recipe
from cifar_core.augment.uniforms import uniforms
from cifar_core.data.sources import load_data
from cifar_core.data.split import Data, Split
from cifar_core.train.loop import train
from cifar_core.train.numerics import numerics
from cifar_core.train.state import TrainState, start, steps_per_epoch
from experiments.config import build
from experiments.config.compose import compose
from experiments.config.values import settings
from experiments.files import CONF

PATH = Path(__file__).with_name("golden.json")
RENEW = "run `python -m tests.test_golden` and commit tests/golden.json"
RECIPES = sorted(path.stem for path in (CONF / "aug").glob("*.yaml"))
BYTES_ONLY = {"NoOp", "HorizontalFlip", "Pad", "PadIfNeeded", "RandomCrop", "CoarseDropout"}  # move, set
PICTURES = 70  # in batches of 32, so that an epoch leaves some out
SAMPLES = 8  # values of a picture
BASE = ("data=cifar10", "trainer.epochs=2", "trainer.batch_size=32", "trainer.device=cpu", "seed=3")
BASE += ("trainer.precision=fp32", "trainer.progress=false", "optimizer.lr=0.05", "aug.workers=0")
MANY = (
    "trainer.batch_size=8",
    "trainer.accumulate=2",
    "trainer.label_smoothing=0.1",
    "trainer.grad_clip=1.5",
)
MANY += ("trainer.ema_decay=0.8", "trainer.alternating_flip=true", "optimizer.decay_norm_bias=false")


def digest(values: Any) -> str:
    array = np.ascontiguousarray(values)
    array = array.astype(array.dtype.newbyteorder("<"))
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + array.tobytes()).hexdigest()[:16]


def scattered(count: int, salt: int = 0) -> Tensor:
    """Return whole numbers (count,) from 0 to 65535 in no visible order, without any random generator."""
    values = (torch.arange(count) * 2654435761 + salt * 97654321) % 2**32
    values = ((values ^ (values >> 13)) * 1274126177) % 2**32
    return (values ^ (values >> 16)) % 2**16


def split(labels: Tensor, salt: int = 0) -> Split:
    """Return pictures of slopes and noise, brighter with the label's remainder by 4."""
    sizes = (len(labels), 3, 32, 32)
    n, c, y, x = torch.meshgrid(*map(torch.arange, sizes), indexing="ij")
    slopes = labels.view(-1, 1, 1, 1) % 4 * 24 + c * 10 + y * (n % 3) + x * (n % 2)
    noise = scattered(math.prod(sizes), salt).view(sizes) % 64
    return Split((slopes + noise).to(torch.uint8), labels, torch.arange(len(labels)), None)


def numbered() -> Data:
    """Return pictures whose label is their number and whose floats are their bytes."""
    classes = tuple(map(str, range(PICTURES)))
    few = split(torch.arange(4))
    zero, one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return Data("made", classes, split(torch.arange(PICTURES)), few, few, zero, one, "0")


class Net(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        convolution = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False)
        head = nn.Linear(96, num_classes)
        layers = (convolution, nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(), head)
        nn.init.zeros_(head.bias)
        self.layers = nn.Sequential(*layers).double()
        with torch.no_grad():
            for salt, values in enumerate(self.parameters()):
                if values.ndim > 1:
                    values.copy_((scattered(values.numel(), salt).view_as(values) / 2**16 - 0.5) / 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.double())


def begun(cfg: DictConfig, data: Data) -> TrainState:
    trainer = settings(cfg).trainer
    where = numerics(trainer)
    model = where.place(Net(data.num_classes))
    optimizer = build.optimizer(cfg, model.named_parameters())
    steps = steps_per_epoch(len(data.train), trainer)
    scheduler = build.scheduler(cfg, optimizer, steps_per_epoch=steps)
    return start(model, optimizer, scheduler, numerics=where, seed=cfg.seed, ema_decay=trainer.ema_decay)


class Spy:
    """Passes on what the loop asks of augmentation and mixing, and keeps what went in and came out."""

    def __init__(self, cfg: DictConfig) -> None:
        self.inner = build.augment(cfg)
        self.mixing = build.mix(cfg, num_classes=PICTURES)
        self.batches: list[dict[str, Tensor]] = []

    def augment(self, images: Tensor, keys: Tensor) -> Tensor:
        shown = self.inner(images, keys)
        self.batches.append({"given": images, "keys": keys, "shown": shown})
        return shown

    def mix(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self.mixing is None:
            self.batches.append({"labels": labels, "global": torch.randint(2**62, (1,))})
            return images, labels
        mixed, targets = self.mixing(images, labels)
        self.batches.append({"labels": labels, "mixed": mixed, "targets": targets})
        return mixed, targets


def epochs(cfg: DictConfig, data: Data, spy: Spy) -> Iterator[list[dict[str, Tensor]]]:
    """Train and yield each epoch's batches."""
    for _ in train(begun(cfg, data), data, spy.augment, settings(cfg).trainer, mix=spy.mix):
        yield spy.batches
        spy.batches = []


def joined(batches: list[dict[str, Tensor]], name: str) -> Tensor:
    return torch.cat([batch[name] for batch in batches if name in batch])


def splits(*overrides: str) -> dict[str, Any]:
    data = load_data(settings(compose([*overrides])).data)
    facts = {
        name: {
            "rows": digest(np.stack([part.index, part.labels])),
            "pictures": digest(part.images),
            "names": part.names and digest(np.array("\n".join(part.names))),
        }
        for name, part in (("train", data.train), ("val", data.val), ("test", data.test))
    }
    counts = [len(part) for part in (data.train, data.val, data.test)]
    return {"pictures": counts, **facts, "fingerprint": data.fingerprint}


def splits_of_a_folder() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        made = split(torch.arange(36) % 7 % 3).images[:, :, :8, :8].permute(0, 2, 3, 1).numpy()
        for number, array in enumerate(made):
            path = root / "pictures" / "abc"[number % 7 % 3] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
        where = (f"data.root={root / 'pictures'}", f"data.cache={root / 'cache'}", "data.image_size=8")
        return splits("data=folder", *where, "data.val_size=0.2", "data.test_size=7", "aug=none")


def streams(*overrides: str) -> dict[str, Any]:
    """Return, a hash an epoch, in what order pictures come, which are mirrored and what can be drawn."""
    cfg, data = compose([*BASE, "aug=none", *overrides]), numbered()
    facts: dict[str, list[Any]] = {}
    for batches in epochs(cfg, data, Spy(cfg)):
        order, given, keys = (joined(batches, name) for name in ("labels", "given", "keys"))
        plain = (given == data.train.images[order]).flatten(1).all(1)
        mirrored = (given == data.train.images[order].flip(-1)).flatten(1).all(1)
        assert (plain | mirrored).all()
        of_the_epoch = {
            "order": digest(order),
            "mirrored": digest(torch.sort(order[mirrored]).values),
            "keys": digest(keys),
            "uniforms": digest(uniforms(keys, 8)),
            "global stream": digest(joined(batches, "global")),
        }
        for name, value in of_the_epoch.items():
            facts.setdefault(name, []).append(value)
    return facts


def recipe(name: str, *overrides: str) -> dict[str, Any]:
    """Return what each epoch of a recipe draws, shows and mixes."""
    cfg = compose([*BASE, f"aug={name}", *overrides])
    spy = Spy(cfg)
    leaves = {type(step).__name__ for _, step in Recipe(build.steps(cfg)).leaves()}
    facts = []
    for batches in epochs(cfg, numbered(), spy):
        shown = joined(batches, "shown")
        pictures = {"bytes": digest(shown)} if leaves <= BYTES_ONLY else {"near": sampled(shown)}
        facts.append({"draws": drawn(spy, joined(batches, "keys")), **pictures, **mixed(spy, batches)})
    return {f"epoch {number}": fact for number, fact in enumerate(facts, start=1)}


def drawn(spy: Spy, keys: Tensor) -> str | None:
    """Return a hash of which steps reach which pictures, and of the numbers they draw there."""
    if not isinstance(spy.inner, BatchedPipeline):
        return None
    columns = [torch.empty(len(keys), 0, dtype=torch.float64)]
    for visit in spy.inner.walk(keys).visits():
        columns += [visit.active[:, None].double(), visit.uniforms]
    return digest(torch.cat(columns, 1))


def sampled(shown: Tensor) -> dict[str, Any]:
    flat = shown.flatten(1)
    places = scattered(len(flat) * SAMPLES).view(len(flat), SAMPLES) % flat.shape[1]
    return {
        "mean": shown.double().mean((0, 2, 3)).tolist(),
        "sample": bytes(flat.gather(1, places).flatten().tolist()).hex(),
    }


def mixed(spy: Spy, batches: list[dict[str, Tensor]]) -> dict[str, Any]:
    """Return who is mixed with whom and how much of it."""
    if spy.mixing is None:
        return {}
    images, targets = joined(batches, "mixed"), joined(batches, "targets")
    shares = [batch["targets"][0, batch["labels"][0]].item() for batch in batches if "targets" in batch]
    facts = {"partners": digest((targets > 0).nonzero()), "shares": shares}
    if torch.equal(images, images.round()):
        return facts | {"mixed": digest(images.to(torch.uint8))}
    return facts | {"mixed": images.flatten()[scattered(16) * 6 % images.numel()].double().tolist()}


def losses(*overrides: str) -> dict[str, Any]:
    """Return the figures of two epochs of the float64 network, and the size of its last weights."""
    cfg = compose([*BASE, *overrides])
    train_set, val = split(scattered(100) % 4), split(scattered(40, 1) % 4, 1)
    mean, std = (120.0, 121.0, 122.0), (45.0, 46.0, 47.0)
    data = Data("made", ("a", "b", "c", "d"), train_set, val, val, mean, std, "0")
    state = begun(cfg, data)
    augment, mix = build.augment(cfg), build.mix(cfg, num_classes=4)
    results = list(train(state, data, augment, settings(cfg).trainer, mix=mix))
    facts = {f"epoch {r.epoch}": {**r.metrics, "lr": r.lr, "step": r.step} for r in results}
    size = sum(values.double().abs().sum().item() for values in state.best_model.state_dict().values())
    return {**facts, "weights": size}


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "splits: digits": partial(splits, "data=digits"),
    "splits: digits, another split_seed": partial(
        splits, "data=digits", "data.split_seed=1", "data.val_size=99"
    ),
    "splits: folder": splits_of_a_folder,
    "streams: seed 3": streams,
    "streams: seed 4": partial(streams, "seed=4"),
    "streams: alternating_flip": partial(streams, "trainer.alternating_flip=true"),
    "recipe: crop_flip by Albumentations": partial(recipe, "crop_flip", "aug.backend=albumentations"),
    **{f"recipe: {name}": partial(recipe, name) for name in RECIPES},
    "losses: shift": partial(losses, "aug=shift", *MANY),
    "losses: mixup": partial(losses, "aug=mixup", "trainer.batch_size=16", "scheduler=one_cycle"),
}


def mismatches(golden: Any, found: Any, place: str) -> list[str]:
    """Return a line for every number that does not hold."""
    if isinstance(golden, dict) and isinstance(found, dict):
        if golden.keys() == found.keys() == {"mean", "sample"}:
            return (
                []
                if near(golden, found)
                else [f"{place}: pictures differ, mean {golden['mean']} -> {found['mean']}"]
            )
        keys = [*golden, *(key for key in found if key not in golden)]
        return [
            line for key in keys for line in mismatches(golden.get(key), found.get(key), f"{place}, {key}")
        ]
    if isinstance(golden, list) and isinstance(found, list) and len(golden) == len(found):
        pairs = enumerate(zip(golden, found, strict=True), start=1)
        return [line for number, pair in pairs for line in mismatches(*pair, f"{place} {number}")]
    holds = golden == found
    if isinstance(golden, float) and isinstance(found, float):
        holds = math.isclose(golden, found, rel_tol=1e-6, abs_tol=1e-6)
    return [] if holds else [f"{place}: {golden} -> {found}"]


def near(golden: dict[str, Any], found: dict[str, Any]) -> bool:
    """Tell whether pictures are the same but for a CPU's rounding.

    It moves a byte in a million by one level, more where Solarize, Posterize or a hue come after a rotation.
    The means tell a change that moves many bytes by one level, such as cutting fractions off.
    """
    one, other = (
        np.frombuffer(bytes.fromhex(each["sample"]), np.uint8).astype(int) for each in (golden, found)
    )
    if one.shape != other.shape or not np.allclose(golden["mean"], found["mean"], rtol=0, atol=0.01):
        return False
    return bool(np.mean(np.abs(one - other) <= 1) >= 0.998)


def read() -> dict[str, Any]:
    return json.loads(PATH.read_text())


@pytest.mark.parametrize("part", [part for part in PARTS if not part.startswith("losses")])
def test_what_fixed_seeds_draw_and_show_is_what_it_was(part: str):
    golden = read().get(part)
    assert golden, f"there are no golden numbers for {part!r}: {RENEW}"
    told = mismatches(golden, PARTS[part](), part)
    assert not told, "\n".join(["if this is meant, " + RENEW, *told])


@pytest.mark.parametrize(
    ("part", "threads"), [("losses: shift", 1), ("losses: mixup", 1), ("losses: mixup", 2)]
)
def test_two_epochs_in_float64_end_with_the_same_losses(part: str, threads: int):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = PARTS[part]()
    finally:
        torch.set_num_threads(before)
    told = mismatches(read()[part], found, part)
    assert not told, "\n".join(["if this is meant, " + RENEW, *told])


def test_golden_numbers_are_those_of_this_project():
    golden = read()
    assert sorted(golden) == sorted(PARTS), RENEW
    plain, other, turned = (golden[f"streams: {name}"] for name in ("seed 3", "seed 4", "alternating_flip"))
    for name in ("order", "keys", "uniforms", "global stream"):
        assert len({*plain[name], *other[name]}) == 4, f"{name} must differ from epoch to epoch, seed to seed"
        assert turned[name] == plain[name]
    assert len({*turned["mirrored"], *plain["mirrored"]}) == 3


def main() -> None:
    """Write the golden numbers anew and print what changed; those that still hold stay as they are."""
    golden = read() if PATH.exists() else {}
    fresh: dict[str, Any] = {}
    lines = [f"{part}: gone" for part in golden if part not in PARTS]
    for part, facts in PARTS.items():
        found = facts()
        told = mismatches(golden[part], found, part) if part in golden else [f"{part}: new"]
        fresh[part] = found if told else golden[part]
        lines += told
    print("\n".join(lines) or "nothing changed")
    PATH.write_text(json.dumps(fresh, indent=1) + "\n")


if __name__ == "__main__":
    main()
