"""Checks that name why a training is broken, with the numbers seen and what mends it."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar_core.augment.uniforms import picture_keys
from cifar_core.data import pixels
from cifar_core.data.pixels import Place
from cifar_core.data.split import Data
from cifar_core.device import doubles
from cifar_core.history import Row
from cifar_core.memory import out_of_memory
from cifar_core.train.numerics import Numerics, indeterminate
from cifar_core.train.predict import described

FEW_PICTURES = 100  # one standard error of an accuracy of 90 % is then 3 points
PROBED = 32  # pictures that go through the network before training
COPIES = 32  # of each picture that goes through the augmentation
DRAWS = 4  # a recipe so rare that it changes one copy in all repeats itself in 4 draws once in 1e9 times
SKIPPED_STEPS = 20  # float16 scaling may skip the first steps: each time it halves its factor of 65,536
STUCK_EPOCHS = 3  # one odd epoch is no cause for alarm
STILL_EPOCHS = 5  # a loss that changes by at most 0.01 in them stands still
SLOW_START = (5, 100)  # epochs and steps after which chance is worth a note
NO_START = (10, 200)  # the same to end the run, once lr has stopped rising: deep plain nets start late

LOWER_LR = "lower optimizer.lr, or set trainer.grad_clip=1 or scheduler.warmup_epochs"

log = logging.getLogger(__name__)


class GuardError(RuntimeError):
    """A guard ended a broken training, one that nothing can be trained with where it is ``hopeless``."""

    def __init__(self, message: str, *, hopeless: bool = False) -> None:
        super().__init__(message)
        self.hopeless = hopeless


@dataclass(frozen=True)
class Finding:
    """What a check found; one that does not stop a run is a note."""

    guard: str
    message: str  # one line: cause, numbers, fix
    stops: bool = True
    always: bool = False  # whatever the policy: no training can go on
    cause: Exception | None = None  # what the network itself raised


def act(findings: Sequence[Finding], *, policy: str, logged: set[str]) -> None:
    """Raise GuardError with all findings that stop a run where ``policy`` is "stop", else log them.

    Policy "warn" only logs, "off" does nothing; but what stops `always` raises. A guard that is in ``logged``
    from an earlier call keeps silent; those logged now are added.
    """
    if hopeless := [finding for finding in findings if finding.always]:
        told = "\n".join(f"{finding.guard}: {finding.message}" for finding in hopeless)
        raise GuardError(told, hopeless=True) from hopeless[0].cause
    if policy == "off":
        return
    stopping = [f"{finding.guard}: {finding.message}" for finding in findings if finding.stops]
    if policy == "stop" and stopping:
        raise GuardError("\n".join([*stopping, "(trainer.guards=warn goes on all the same)"]))
    for finding in findings:
        if finding.guard not in logged:
            log.warning("%s: %s", finding.guard, finding.message)
    logged.update(finding.guard for finding in findings)


def check_data(data: Data) -> list[Finding]:
    """Check labels, normalisation, copies between splits and classes, empty pictures, sizes of val and test.

    Reads every picture once: 0.3 s for 60,000 of 32x32 on one CPU core.
    """
    mislabelled = [*_labels(data)]
    return [
        *(mislabelled or _empty_classes(data)),
        *_normalization(data),
        *([] if mislabelled else _copies(data)),
        *_empty_pictures(data),
        *_few_pictures(data),
    ]


def _labels(data: Data) -> Iterator[Finding]:
    for name, split in pixels.splits(data).items():
        outside = ((split.labels < 0) | (split.labels >= data.num_classes)).nonzero()[:, 0].tolist()
        if outside:
            label, where = int(split.labels[outside[0]]), pixels.name(name, split, outside[0])
            yield Finding(
                "labels",
                f"labels must be 0 to {data.num_classes - 1} for {data.num_classes} classes, but "
                f"{len(outside):,} of {len(split):,} in {name} are not, the first is {label} ({where}): "
                "correct them (do they count from 1?) or name the missing classes",
            )


def _empty_classes(data: Data) -> Iterator[Finding]:
    present = set(data.train.labels.unique().tolist())
    empty = [name for label, name in enumerate(data.classes) if label not in present]
    if empty:
        yield Finding(
            "empty_class",
            f"every class needs training pictures, but {len(empty)} of {data.num_classes} have none "
            f"({_some(empty)}): add pictures or remove the class",
        )


def _normalization(data: Data) -> Iterator[Finding]:
    mean, std = pixels.mean_std(data.train.images)
    channels = list(zip(mean, std, data.mean, data.std, strict=True))
    shift = max(((seen - given) / by for seen, _, given, by in channels), key=abs)
    scale = max((seen / by for _, seen, _, by in channels), key=lambda factor: abs(math.log(factor)))
    seen = f"the normalised pictures have mean {shift:.2g} and std {scale:.2g} instead of 0 and 1"
    paste = f"set data.mean={_numbers(mean)} data.std={_numbers(std)}"
    identity = set(data.mean) == {0.0} and set(data.std) == {1.0}
    if scale > 10 and max(data.std) <= 1 and not identity:
        yield Finding(
            "normalization", f"data.mean and data.std are in units of 0-1, not 0-255: {seen}; {paste}"
        )
    elif abs(shift) > 1 or not 1 / 3 <= scale <= 3:
        message = f"data.mean and data.std are far from those of the pictures: {seen}; {paste}"
        yield Finding("normalization", message, stops=False)


def _numbers(values: Iterable[float]) -> str:
    return "[" + ",".join(f"{value:.1f}" for value in values) + "]"


def _copies(data: Data) -> Iterator[Finding]:
    """Find pictures in two splits or under two labels, and classes of one picture alone."""
    places = pixels.copies(data)
    for name, split in pixels.splits(data).items():
        shared = [
            (place, some[0])
            for some in places.values()
            for place in some
            if place.split == name and some[0].split != name
        ]
        if shared:
            place, other = min(shared)
            yield Finding(
                "shared_pictures",
                f"{len(shared):,} of {len(split):,} {name} pictures are pixel for pixel in another split too "
                f"({place.name} in {other.split}): up to {len(shared) / len(split):.2%} of "
                f"{name}/acc may be memory; remove them for a fair figure",
                stops=False,
            )
    contradictions = pixels.contradictions(places)
    if contradictions:
        first, other = contradictions[0]
        yield Finding(
            "contradictory_labels",
            f"{len(contradictions):,} times one picture stands, pixel for pixel, in two classes: "
            f"{first.name} in {data.classes[first.label]}, {other.name} in {data.classes[other.label]}; "
            "keep the right one",
            stops=False,
        )
    yield from _same_class(data, places)


def _same_class(data: Data, copies: Mapping[bytes, list[Place]]) -> Iterator[Finding]:
    kinds: dict[int, set[bytes]] = {}
    for digest, some in copies.items():
        for place in some:
            if place.split == "train":
                kinds.setdefault(place.label, set()).add(digest)
    sizes = data.train.labels.bincount(minlength=data.num_classes).tolist()
    same = sorted(label for label, digests in kinds.items() if len(digests) == 1 and sizes[label] > 1)
    if not same:
        return
    position = int((data.train.labels == same[0]).nonzero()[0])
    image = data.train.images[position]
    cause = "remove the copies"
    if bool(pixels.empty(image[None])):
        colour = ",".join(str(value) for value in image[:, 0, 0].tolist())
        cause = (
            f"they are all of the colour [{colour}]: a drawing of the colour of data.background on a "
            "transparent ground vanishes, so set another; or the files are damaged"
        )
    yield Finding(
        "same_pictures",
        f"all training pictures of a class are the same in {len(same)} of {data.num_classes} classes "
        f"({_some([data.classes[label] for label in same])}; {sizes[same[0]]} as "
        f"{pixels.name('train', data.train, position)}): {cause}",
        stops=False,
    )


def _empty_pictures(data: Data) -> Iterator[Finding]:
    for name, split in pixels.splits(data).items():
        positions = pixels.empty(split.images).nonzero()[:, 0].tolist() if len(split) else []
        if positions:
            yield Finding(
                "empty_pictures",
                f"{len(positions):,} of {len(split):,} {name} pictures are one flat colour "
                f"({pixels.name(name, split, positions[0])}): they show nothing, look at them",
                stops=False,
            )


def _few_pictures(data: Data) -> Iterator[Finding]:
    for name, split in pixels.splits(data).items():
        if name != "train" and 0 < len(split) < FEW_PICTURES:
            error = math.sqrt(0.9 * 0.1 / len(split))
            yield Finding(
                "few_pictures",
                f"{name} has {len(split)} pictures: one standard error of an accuracy of 90 % is "
                f"{error:.1%}, so smaller differences say nothing: add pictures, or "
                f"raise data.{name}_size where they are split off",
                stops=False,
            )


def check_model(model: nn.Module, data: Data, numerics: Numerics) -> list[Finding]:
    """Check what the network says about a few training pictures before training, and its gradients.

    Runs one batch forward in training mode, and one forward and backward in eval mode; weights,
    buffers, gradients, training flags and torch's random numbers stay as they are.
    """
    images = data.normalize(numerics.lay_out(_spread(data.train.images, PROBED)))
    flags = [(module, module.training) for module in model.modules()]
    try:
        with torch.enable_grad(), numerics.autocast(), _buffers_kept(model):
            said = {"training": _said(model.train(), images)} if len(images) > 1 else {}
        with torch.enable_grad(), numerics.autocast():
            said["evaluation"] = _said(model.eval(), images)
        return [*_outputs(said, len(images), data.num_classes)] or [*_gradients(model, said["evaluation"])]
    finally:
        for module, training in flags:
            module.training = training


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Give the model its buffers back afterwards, and torch its random numbers."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = {buffer.device.index for buffer in chain(model.buffers(), model.parameters()) if buffer.is_cuda}
    try:
        with torch.random.fork_rng(devices=sorted(devices)):
            yield
    finally:
        for buffer, before in buffers:
            buffer.detach().copy_(before)


def _said(model: nn.Module, images: Tensor) -> Any:
    """Return what the model says, or the error that it raises."""
    try:
        return model(images)
    except Exception as error:  # a network can fail in any way
        if out_of_memory(error) or indeterminate(error):
            raise
        return error


def _spread(images: Tensor, count: int) -> Tensor:
    """Return up to ``count`` of ``images``, evenly spaced: a source may be sorted by class."""
    return images[:: max(1, len(images) // count)][:count]


def _outputs(said: Mapping[str, Any], count: int, num_classes: int) -> Iterator[Finding]:
    wrong = {mode: logits for mode, logits in said.items() if not _is_logits(logits, count, num_classes)}
    logits = said["evaluation"]
    if wrong:
        came = {mode: described(logits) for mode, logits in wrong.items()}
        same = len(came) == len(said) and len(set(came.values())) == 1
        got = next(iter(came.values())) if same else ", ".join(f"{came[mode]} in {mode}" for mode in came)
        rows = [logits for logits in wrong.values() if isinstance(logits, Tensor) and logits.ndim == 2]
        usable = len(rows) == len(wrong) and all(
            r.is_floating_point()
            and r.layout is torch.strided
            and len(r) == count
            and r.shape[1] >= num_classes
            for r in rows
        )
        yield Finding(
            "outputs",
            f"the model must return logits ({count}, {num_classes}), one a class, for {count} pictures, "
            f"got {got}: {_mend(wrong)}",
            always=not usable,
            cause=next((raised for raised in wrong.values() if isinstance(raised, Exception)), None),
        )
    elif not any(logits.requires_grad for logits in said.values()):
        yield Finding(
            "outputs",
            "the logits depend on no weight that is trained, so none can learn: look for detach(), no_grad() "
            "and requires_grad=False in the model",
            always=True,
        )
    elif bool((logits >= 0).all() & ((logits.float().sum(1) - 1).abs() < 0.01).all()):
        yield Finding(
            "softmax_twice",
            "the model returns probabilities already (rows of numbers >= 0 that sum to 1), and cross-entropy "
            f"applies softmax again: the loss cannot fall below {_floor(num_classes):.2f}; remove the "
            "softmax at the end of the model",
        )


def _is_logits(logits: Any, count: int, num_classes: int) -> bool:
    if not isinstance(logits, Tensor) or logits.shape != (count, num_classes):
        return False
    if logits.layout is not torch.strided:
        return False
    return logits.is_floating_point() and not bool(logits.isnan().any())


def _mend(wrong: Mapping[str, Any]) -> str:
    if any(isinstance(logits, Exception) for logits in wrong.values()):
        return "is data.image_size what it takes?"
    if all(isinstance(logits, Tensor) and logits.isnan().any() for logits in wrong.values()):
        return "look at how its weights are made, and for divisions by 0"
    return "give its last layer num_classes outputs and return them alone"


def _gradients(model: nn.Module, logits: Tensor) -> Iterator[Finding]:
    """Find a network none of whose kernels gets a gradient, whatever the labels."""
    kernels = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    if not kernels or not logits.requires_grad:
        return
    labels = torch.arange(len(logits), device=logits.device) % logits.shape[1]
    loss = F.cross_entropy(logits.float(), labels)
    gradients = torch.autograd.grad(loss, kernels, allow_unused=True)
    if not any(bool(gradient.any()) for gradient in gradients if gradient is not None):
        yield Finding(
            "dead_gradients",
            f"all gradients of the {len(kernels)} weight tensors are zero before training: initialise layers "
            "with random weights instead of zeros, and look for detach() or ReLUs that are never active",
        )


def check_augment(augment: Callable[..., Tensor], data: Data) -> list[Finding]:
    """Check that a random augmentation draws anew: for the same pictures, from other keys.

    No augmentation, or one that does the same to equal pictures, is not random and passes.
    """
    images = _spread(data.train.images, 8).repeat_interleave(COPIES, 0)

    def draw(seed: int) -> Tensor:
        return augment(images.clone(), picture_keys(len(images), torch.Generator().manual_seed(seed)))

    first = draw(1)
    copies = first.unflatten(0, (-1, COPIES))
    if (copies == copies[:, :1]).all() or not all(torch.equal(first, draw(n)) for n in range(2, DRAWS + 1)):
        return []
    return [
        Finding(
            "frozen_augmentation",
            f"the augmentation is random, yet gave {len(images)} pictures the same changes in {DRAWS} draws "
            "with other keys, so every epoch sees the same pictures: make all random numbers from the keys "
            "it is called with, and keep no pictures inside",
        )
    ]


def check_epoch(
    history: Sequence[Row], data: Data, *, plain_loss: bool, first_bad_step: int | None
) -> list[Finding]:
    """Check the last epoch of ``history``.

    ``plain_loss`` says that train/loss is cross-entropy with the pictures' own labels: no mixing, no label
    smoothing. ``first_bad_step`` is that of `train.EpochResult`.
    """
    row = history[-1]
    if not (math.isfinite(row["train/loss"]) and math.isfinite(row[f"{_judged_by(row)}/loss"])):
        return [_not_finite(row, first_bad_step)]
    findings = [*_negative(row), *_exploding(history, data.num_classes), *_chance(history, data)]
    return findings + ([*_softmax_twice(history, data.num_classes)] if plain_loss else [])


def _judged_by(row: Row) -> str:
    return next(split for split in ("val", "test", "train") if f"{split}/loss" in row)


def _not_finite(row: Row, first_bad_step: int | None) -> Finding:
    """Tell a lost training from a step that float16 scaling skipped or an overflow in evaluation alone."""
    loss = f"{_judged_by(row)}/loss"
    when = f"epoch {row['epoch']:.0f} at lr {row['lr']:.3g}"
    if first_bad_step is None:
        message = (
            f"{loss} is {row[loss]} after {when}, with train/loss {row['train/loss']:.4g}: activations "
            "overflow in evaluation; lower optimizer.lr or set trainer.precision=fp32"
        )
        return Finding("not_finite", message, stops=False)
    lost = not math.isfinite(row[loss])
    after = f"{loss} is {row[loss]:.4g}" + ("" if lost else ", so the weights are still sound")
    message = (
        f"the loss became NaN or infinite in step {first_bad_step}, {when}; afterwards {after}: {LOWER_LR}"
    )
    return Finding("not_finite", message, stops=lost)


def _negative(row: Row) -> Iterator[Finding]:
    if row["train/loss"] < -1e-3:  # beyond rounding
        yield Finding(
            "negative_loss",
            f"train/loss is {row['train/loss']:.4g} in epoch {row['epoch']:.0f}, but a cross-entropy is "
            "never below 0: nll_loss was given raw logits in place of log-probabilities; use cross_entropy",
        )


def _exploding(history: Sequence[Row], num_classes: int) -> Iterator[Finding]:
    """Find two epochs in a row far above the loss of guessing, without recovery; one may be a bad start."""
    if len(history) < 2:
        return
    before, last = history[-2]["train/loss"], history[-1]["train/loss"]
    guessing = math.log(num_classes)
    if before > 10 * guessing and last > max(10 * guessing, before / 2):
        yield Finding(
            "exploding_loss",
            f"train/loss is {last:.4g} in epoch {history[-1]['epoch']:.0f}, after {before:.4g}, where "
            f"guessing has {guessing:.2f}: lr {history[-1]['lr']:.3g} is too high; {LOWER_LR}",
        )


def _chance(history: Sequence[Row], data: Data) -> Iterator[Finding]:
    """Find accuracies and a loss that are those of a constant answer, and a loss that does not fall."""
    row, recent = history[-1], history[-STUCK_EPOCHS:]
    epochs, steps = SLOW_START
    if row["epoch"] < epochs or row["step"] < steps or len(recent) < STUCK_EPOCHS:
        return
    shares = doubles(data.train.labels.bincount()) / len(data.train)
    guessing = torch.special.entr(shares).sum().item()
    common = shares.max().item()
    split = _judged_by(row)
    sizes = {"train": len(data.train), split: len(pixels.splits(data)[split])}
    highest = {name: common + 3 * math.sqrt(common * (1 - common) / size) for name, size in sizes.items()}
    falls = row["train/loss"] < 0.998 * recent[0]["train/loss"]
    if falls or not all(
        epoch["train/loss"] >= 0.99 * guessing
        and all(epoch[f"{name}/acc"] <= limit for name, limit in highest.items())
        for epoch in recent
    ):
        return
    yield Finding(
        "chance",
        f"after {row['epoch']:.0f} epochs and {row['step']:.0f} steps train/acc {row['train/acc']:.2%} and "
        f"{split}/acc {row[f'{split}/acc']:.2%} are still at chance ({common:.2%}), train/loss "
        f"{row['train/loss']:.4g} is no better than guessing ({guessing:.4g}): change optimizer.lr (now "
        f"{row['lr']:.3g}) by a factor of 10 either way, then check that labels belong to their pictures",
        stops=row["epoch"] >= NO_START[0] and row["step"] >= NO_START[1] and row["lr"] <= recent[-2]["lr"],
    )


def _softmax_twice(history: Sequence[Row], num_classes: int) -> Iterator[Finding]:
    """Find a training loss that stands still where outputs that are all 0 or 1 keep it.

    With f = `_floor` that is f where they are right and f + 1 where they are wrong. A healthy run
    that learns slowly passes there too, but does not stop there before its lr falls.
    """
    floor, recent = _floor(num_classes), history[-STILL_EPOCHS:]
    losses = [row["train/loss"] for row in recent]
    if len(recent) < STILL_EPOCHS or max(losses) - min(losses) > 0.01:
        return
    if recent[-1]["lr"] < 0.1 * max(row["lr"] for row in history):
        return
    if all(
        row["train/acc"] >= 0.7
        and abs(row["train/loss"] + row["train/acc"] - floor - 1) <= 0.02
        and row["train/loss"] > _calibrated(row["train/acc"], num_classes) + 0.1
        for row in recent
    ):
        row = recent[-1]
        yield Finding(
            "softmax_twice",
            f"train/loss {row['train/loss']:.4g} in epoch {row['epoch']:.0f} is stuck above {floor:.2f} = "
            f"ln(e + {num_classes} - 1) - 1 though train/acc is {row['train/acc']:.2%}: softmax or sigmoid "
            "is applied before cross-entropy, which applies softmax itself; remove it from the model",
        )


def _floor(num_classes: int) -> float:
    """Return the lowest cross-entropy of outputs in [0, 1]: 1 for the label, 0 for the others."""
    return math.log(math.e + num_classes - 1) - 1


def _calibrated(acc: float, num_classes: int) -> float:
    """Return the highest cross-entropy of predictions that are as sure as they are right.

    That is the entropy of one probability ``acc`` and equal others.
    """
    wrong = 1 - acc
    return -acc * math.log(acc) - (wrong * math.log(wrong / (num_classes - 1)) if wrong > 0 else 0)


@torch.no_grad()
def fingerprint(model: nn.Module) -> dict[str, int]:
    """Return a checksum of the bits of each trainable kernel or matrix: the smallest change shows.

    Vectors are left out: a bias before BatchNorm has no gradient but rounding, and may well stay.
    """
    kernels = {name: p for name, p in model.named_parameters() if p.requires_grad and p.ndim > 1}
    if not kernels:
        return {}
    sums = torch.stack([_bits(kernel).sum(dtype=torch.int64) for kernel in kernels.values()])
    return dict(zip(kernels, sums.tolist(), strict=True))


def _bits(kernel: Tensor) -> Tensor:
    return kernel.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[kernel.element_size()])


def check_weights(
    model: nn.Module, start: Mapping[str, int], *, steps: int, epoch: int, lr: float
) -> list[Finding]:
    """Check that weights are finite and that kernels have changed since ``start``.

    ``start`` is the `fingerprint` of ``steps`` optimizer steps ago, best that of the run's start. Takes two
    passes over the weights and two read-backs from the device.
    """
    findings = [*_not_finite_weights(model, epoch, lr)]
    if steps >= SKIPPED_STEPS:
        findings += _unchanged(model, start, steps, lr)
    return findings


def _not_finite_weights(model: nn.Module, epoch: int, lr: float) -> Iterator[Finding]:
    statistics = (pair for pair in model.named_buffers() if pair[0].endswith(("running_mean", "running_var")))
    tensors = {
        name: tensor.detach()
        for name, tensor in chain(model.named_parameters(), statistics)  # other buffers may be masks of -inf
        if tensor.is_floating_point() and tensor.numel()
    }
    if not tensors:
        return
    largest = torch.stack([tensor.abs().amax().float() for tensor in tensors.values()]).tolist()
    lost = [name for name, value in zip(tensors, largest, strict=True) if not math.isfinite(value)]
    if lost:
        yield Finding(
            "not_finite_weights",
            f"{len(lost)} of {len(tensors)} weight tensors hold NaN or infinity after epoch {epoch} at lr "
            f"{lr:.3g} ({_some(lost)}): {LOWER_LR}",
        )


def _unchanged(model: nn.Module, start: Mapping[str, int], steps: int, lr: float) -> Iterator[Finding]:
    now = fingerprint(model)
    still = [name for name in now if now[name] == start.get(name)]
    seen = (
        f"{len(still)} of {len(now)} kernels ({_some(still)}) did not change in {steps} steps at lr {lr:.3g}"
    )
    if not still:
        return
    if len(still) == len(now) and lr == 0:
        yield Finding("dead_weights", f"{seen}: set optimizer.lr above 0")
    elif len(still) == len(now):
        yield Finding(
            "dead_weights",
            f"{seen}: the optimizer holds other parameters, or all gradients are zero (layers initialised "
            "with zeros, detach(), dead ReLUs), or lr is far too low",
        )
    else:
        yield Finding(
            "unchanged_weights",
            f"{seen}: give them to the optimizer, or set requires_grad=False if they are to stay",
            stops=False,
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
