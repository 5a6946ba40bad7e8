"""Checks an augmentation recipe as it is written, before any of its steps is made."""

import difflib
import inspect
import json
from typing import Any

import albumentations as A

from experiments.config import successors
from experiments.config.kinds import shown
from experiments.config.laws import RECIPE

STEP = "an Albumentations transform such as {_target_: albumentations.HorizontalFlip, p: 0.5}"
NORMALISING = (
    "Normalize",
    "ToFloat",
    "FromFloat",
    "ToTensor",
    "ToTensorV2",
    "ToTensor3D",
    "ConvertImageDtype",
)
RECIPES = {"TrivialAugmentWide": "trivialaugment", "RandAugment": "randaugment"}  # torchvision -> ours
CHOICES = ("OneOf", "SomeOf", "RandomOrder")  # of Albumentations: which weigh their steps or count them


def check_recipe(aug: Any) -> None:
    """Raise ValueError, naming the step, for what is no recipe or is one of another library or time."""
    if not isinstance(aug, dict):
        raise ValueError(f"aug must have {', '.join(RECIPE)}, got {shown(aug)}")
    for key in RECIPE:
        if key not in aug:
            raise ValueError(f"aug.{key} must be given")
    image = aug["image"]
    if image is not None and not (isinstance(image, dict) and "_target_" not in image):
        raise ValueError(f"aug.image must be null or named steps, <name>: {STEP}, got {_brief(image)}")
    for name, step in (image or {}).items():
        if step is not None:  # left out
            _check_step(f"aug.image.{name}", step)
    batch = aug["batch"]
    if batch is not None and not (isinstance(batch, dict) and "_target_" in batch):
        law = "null or {_target_: torchvision.transforms.v2.MixUp, alpha: 0.2} or the like"
        raise ValueError(f"aug.batch must be {law}, got {_brief(batch)}")
    _check_alphas("aug.batch", batch)


def _check_alphas(key: str, node: Any) -> None:
    """Raise ValueError for a mixing strength that torch would refuse in words about distributions."""
    if isinstance(node, list):
        node = dict(enumerate(node))
    if isinstance(node, dict):
        for name, child in node.items():
            _check_alphas(f"{key}.{name}", child)
        alpha = node.get("alpha", 1.0)
        if isinstance(alpha, int | float) and not alpha > 0:
            raise ValueError(f"{key}.alpha must be above 0, got {shown(alpha)}")


def _check_step(key: str, step: Any) -> None:
    if not isinstance(step, dict) or not isinstance(step.get("_target_"), str):
        off = "albumentations.NoOp does nothing" if ".transforms." in key else "null leaves a step out"
        raise ValueError(f"{key} must be {STEP}, got {_brief(step)}; {off}")
    target = step["_target_"]
    name = target.rpartition(".")[2]
    _check_origin(key, target, name)
    _check_words(key, step, name)
    if "transforms" in step:
        _check_children(key, step, name)


def _check_origin(key: str, target: str, name: str) -> None:
    known = target.startswith(("albumentations.", "torchvision.", "torch.", "A.")) or "." not in target
    if known and name in NORMALISING:
        raise ValueError(
            f"{key}: {name} has no place in a recipe: pictures are normalised after it, by data.mean and "
            "data.std, so leave it out"
        )
    if target.startswith("torchvision."):
        if name in ("MixUp", "CutMix"):
            raise ValueError(
                f"{key}: {name} mixes pictures and labels: give it as aug.batch, or aug={name.lower()}"
            )
        match = successors.MATCHES.get(name)
        there = f"albumentations.{match}" if match else "the like of Albumentations"
        there = f"aug={RECIPES[name]}" if name in RECIPES else there
        raise ValueError(f"{key}._target_ must be of Albumentations: write {there}, got {target}")
    if target.startswith("torch.nn."):
        raise ValueError(f"{key} must be {STEP}, got {target}")


def _check_words(key: str, step: dict[str, Any], name: str) -> None:
    """Raise ValueError for words of older releases, for names without their module, for mistyped ones."""
    target = step["_target_"]
    if "." not in target or target.startswith("A."):
        if hasattr(A, name) or name in successors.CLASSES:
            raise ValueError(
                f"{key}._target_ must be a full name: write albumentations.{name}, got {target!r}"
            )
        return
    if not target.startswith("albumentations."):
        return
    try:
        new = successors.renewed(step)
    except (TypeError, ValueError):  # values that cannot be converted are told as they are
        new = None
    if new is not None:
        raise ValueError(f"{key} is in words of an older Albumentations: write {written(new)} in its place")
    if target == f"albumentations.{name}" and not hasattr(A, name):
        names = [one for one, kind in vars(A).items() if inspect.isclass(kind)]
        close = difflib.get_close_matches(name, names, n=1)
        meant = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"{key}._target_: albumentations.{name} is not there{meant}")
    kind = getattr(A, name, None)
    if inspect.isclass(kind) and issubclass(kind, A.Transform3D):
        raise ValueError(f"{key}: albumentations.{name} changes volumes, and a recipe gets pictures")


def _check_children(key: str, step: dict[str, Any], name: str) -> None:
    children = step["transforms"]
    if not isinstance(children, list) or not children:
        raise ValueError(f"{key}.transforms must be a list of one step or more, got {_brief(children)}")
    for place, child in enumerate(children):
        _check_step(f"{key}.transforms.{place}", child)
    if name == "OneOf" and not any(child.get("p", 0.5) for child in children):
        raise ValueError(f"{key}.transforms must have a step with p above 0: p is a step's weight in OneOf")
    count = step.get("n", 1)
    if name in CHOICES and isinstance(count, int) and not isinstance(count, bool):
        most = "" if step.get("replace") is True else f" and at most {len(children)}, the steps there are"
        if count < 1 or (most and count > len(children)):
            raise ValueError(f"{key}.n must be at least 1{most}, got {count}")


def written(value: Any) -> str:
    """Return plain containers in one line of YAML, as the command line takes it too."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {written(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)


def _brief(value: Any) -> str:
    text = written(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
