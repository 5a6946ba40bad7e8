"""Draws what a configuration would do before it runs."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig

from cifar_core.augment.per_picture import PerPicture, record
from cifar_core.augment.pipeline import lower
from cifar_core.augment.protocol import Augment
from cifar_core.augment.recipe import NotLowered
from cifar_core.augment.uniforms import picture_keys
from cifar_core.data.settings import DataSettings
from cifar_core.data.sources import load_data
from cifar_core.data.split import Data
from cifar_core.report.cards import INK, PREDICTED, RULE, TRUE, Card, Tile, draw_sheet, enlarge
from cifar_core.report.lettering import printable_names
from cifar_core.train.state import steps_per_epoch
from experiments.cli import user_mistakes
from experiments.config import build
from experiments.config.values import settings, with_constants
from experiments.tools.found import found_lines, listed_lines

PICTURES = 8
BATCHES = 4  # mixed
DRAWS = 3  # of each way, per picture
AMPLIFIED = 64  # a difference of 1/255 becomes 64/255


def preview(cfg: DictConfig, out_dir: Path, *, tell: Callable[[str], None] | None = None) -> list[Path]:
    """Write the sheets of ``cfg`` to ``out_dir`` and return their paths.

    ``tell`` gets the lines on what was found in a folder, also where some of its pictures cannot be read.
    """
    with user_mistakes():
        data = _found(settings(cfg).data, tell or (lambda line: None))
        cfg = with_constants(cfg, data.mean, data.std)
        mix = build.mix(cfg, num_classes=data.num_classes)
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = [
        _augmentation(cfg, data, out_dir / "augmentation.png"),
        _schedule(cfg, data, out_dir / "schedule.png"),
    ]
    return [*paths, _mixing(cfg, data, mix, out_dir / "mixing.png")] if mix else paths


def _found(options: DataSettings, tell: Callable[[str], None]) -> Data:
    """Load the pictures and tell what is there; sheets and lines of other sources say nothing new."""
    if options.source != "folder":
        return load_data(options)
    try:
        data = load_data(options)
    except (ValueError, OSError):
        with suppress(ValueError, OSError):  # the first error is the one to tell
            for line in listed_lines(options):
                tell(line)
        raise
    for line in found_lines(options, data):
        tell(line)
    return data


def _augmentation(cfg: DictConfig, data: Data, path: Path) -> Path:
    steps = build.steps(cfg)
    rows = _one_a_class(data)
    images, labels = data.train.images[rows], data.train.labels[rows]
    ways: dict[str, tuple[Augment, str]] = {"Albumentations, draws of its own": (PerPicture(steps), RULE)}
    note = "runs in batches on the device"
    try:
        pipeline = lower(steps)
        ways = {"in batches, draws of its own": (pipeline, PREDICTED)} | ways
    except NotLowered as error:
        pipeline, note = None, f"runs picture by picture in Albumentations: aug.image.{error} is not lowered"

    drawn = {}
    for name, (augment, _) in ways.items():
        keys = picture_keys(len(images) * DRAWS, torch.Generator().manual_seed(cfg.seed))
        drawn[name] = augment(images.repeat_interleave(DRAWS, 0), keys).unflatten(0, (-1, DRAWS))
    same = _same_draws(pipeline, steps, images, cfg.seed) if pipeline else []
    names = printable_names(data.classes)
    cards = []
    for place, label in enumerate(labels.tolist()):
        tiles = [Tile(enlarge(images[place]), TRUE)]
        tiles += [
            Tile(enlarge(one), frame) for name, (_, frame) in ways.items() for one in drawn[name][place]
        ]
        tiles += [Tile(enlarge(pictures[place]), INK) for pictures in same]
        cards.append(Card(tiles, [(names[label], INK)], _difference(place, same)))
    legend = [("original", TRUE), *((name, frame) for name, (_, frame) in ways.items())]
    if same:
        legend.append((f"the same draws by Albumentations, in batches, and what differs x {AMPLIFIED}", INK))
    draw_sheet(
        f"Augmentation: {', '.join(cfg.aug.image) or 'none'}",
        note,
        cards,
        legend=legend,
        heat=False,
        empty="No training pictures.",
    ).save(path)
    return path


def _one_a_class(data: Data) -> Any:
    """Return the positions of the first picture of each class, as many as are shown."""
    labels = data.train.labels
    firsts = [int((labels == label).nonzero()[0]) for label in labels.unique()[:PICTURES]]
    return torch.tensor(firsts + [row for row in range(PICTURES) if row not in firsts])[:PICTURES]


def _same_draws(pipeline: Any, steps: Any, images: Any, seed: int) -> list[Any]:
    """Return what Albumentations made, what batches make of the same draws, and the difference amplified."""
    made, draws = record(steps, images, seed)
    replayed = pipeline.replay(images, draws)
    difference = (made.int() - replayed.int()).abs()
    return [made, replayed, (difference * AMPLIFIED).clamp(max=255).byte()]


def _difference(place: int, same: list[Any]) -> str:
    if not same:
        return ""
    difference = (same[0][place].int() - same[1][place].int()).abs()
    equal = (difference.amax(0) == 0).double().mean().item()
    return f"same draws: {equal:.1%} of pixels equal, largest difference {difference.max().item()}/255"


def _mixing(cfg: DictConfig, data: Data, mix: Any, path: Path) -> Path:
    """Draw pictures as the loss sees them after `aug.batch`, with the weights of their classes."""
    generator = torch.Generator().manual_seed(cfg.seed)
    names = printable_names(data.classes)
    augment, cards = build.augment(cfg), []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cfg.seed)
        for _ in range(BATCHES):
            rows = torch.randperm(len(data.train), generator=generator)[:PICTURES]
            images = augment(data.train.images[rows], picture_keys(len(rows), generator)).float()
            for image, row in zip(*mix(images, data.train.labels[rows]), strict=True):
                shares = [
                    f"{names[k]} {row[k]:.0%}" for k in row.argsort(descending=True).tolist() if row[k] > 0
                ]
                tile = Tile(enlarge(image.round().clamp(0, 255).byte()), RULE)
                cards.append(Card([tile], [(shares[0], INK)], ", ".join(shares[1:])))
    kind = cfg.aug.batch._target_.rpartition(".")[2]
    draw_sheet(
        f"{kind}: pictures as the loss sees them",
        f"a batch of {PICTURES} in each row; below each picture the weights of its classes",
        cards,
        legend=[],
        heat=False,
        empty="No training pictures.",
    ).save(path)
    return path


def _schedule(cfg: DictConfig, data: Data, path: Path) -> Path:
    """Plot lr, and momentum where the schedule moves it, over the optimizer's steps."""
    with user_mistakes():
        steps = steps_per_epoch(len(data.train), settings(cfg).trainer)
    optimizer = build.optimizer(cfg, [("weight", torch.nn.Parameter(torch.zeros(1)))])
    scheduler = build.scheduler(cfg, optimizer, steps_per_epoch=steps)
    group, lrs, momenta = optimizer.param_groups[0], [], []
    for _ in range(cfg.trainer.epochs * steps):
        lrs.append(group["lr"])
        momenta.append(group.get("momentum", group.get("betas", [0])[0]))
        optimizer.step()
        scheduler.step()
    epochs = [step / steps for step in range(len(lrs))]
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(epochs, lrs, color="#0067a5")
    axes.set(xlabel="epoch", ylabel="lr", ylim=(0, None))
    axes.set_title(
        f"{cfg.scheduler._target_.rpartition('.')[2]}: lr {lrs[0]:.3g} to {max(lrs):.3g} to {lrs[-1]:.3g}"
    )
    if len(set(momenta)) > 1:
        right = axes.twinx()
        right.plot(epochs, momenta, color="#c44900", linestyle="--")
        right.set_ylabel("momentum (dashed)")
    figure.savefig(path)
    return path
