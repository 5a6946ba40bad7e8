"""Whether a recipe mirrors signs: a mirrored 2 is no digit, a mirrored d is a b."""

from collections.abc import Iterator, Sequence
from typing import Any

FLIPS = (  # transforms that mirror, of Albumentations and torchvision
    *("HorizontalFlip", "VerticalFlip", "Flip", "Transpose", "D4", "SquareSymmetry"),
    *("RandomHorizontalFlip", "RandomVerticalFlip"),
)
MANY = 10  # classes named by one letter or digit: fewer may be numbers of anything


def mirrored_signs(values: dict[str, Any], source: str, classes: Sequence[str]) -> str:
    """Return a line where a configuration mirrors pictures of digits or letters, else an empty text.

    ``values`` are the plain configuration; digits and letters are told by the source or the classes' names.
    """
    signs = len(classes) >= MANY and all(len(name) == 1 and name.isalnum() for name in classes)
    mirrors = list(_mirrors(values))
    if not mirrors or not (signs or source == "digits"):
        return ""
    keys, ways = (", ".join(part) for part in zip(*mirrors, strict=True))
    return f"{keys} mirrors pictures of digits or letters, and a mirrored 2 is no digit: {ways}"


def _mirrors(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each key that mirrors, with the words that take it out."""
    for name, step in ((values.get("aug") or {}).get("image") or {}).items():
        if _flips(step):
            yield f"aug.image.{name}", f"'~aug.image.{name}'"
    trainer = values["trainer"]
    if trainer["alternating_flip"]:
        yield "trainer.alternating_flip", "trainer.alternating_flip=false"
    if trainer["tta"] != "none":  # each of its kinds takes mirror images too
        yield f"trainer.tta={trainer['tta']}", "trainer.tta=none"


def _flips(node: Any) -> bool:
    """Tell whether a step, or one at any depth in it, mirrors."""
    if isinstance(node, dict):
        name = str(node.get("_target_", "")).rpartition(".")[2]
        return node.get("p") != 0 and (name in FLIPS or any(map(_flips, node.values())))
    return isinstance(node, list) and any(map(_flips, node))
