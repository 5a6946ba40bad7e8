"""What is a run called? By what was asked for, the time last."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from experiments.files import read_json
from experiments.runs.folder import HARMLESS

SEED = "seed"
FIRST = ("model", "aug")  # groups that each name begins with
UNTOLD = (
    "seed=",
    "trainer.test=",
    "hydra.",
    "hydra/",
    "analysis=",
    "tracking=",
    *HARMLESS,
)  # change no figure
LENGTH = 250  # characters; MLflow's limit
TIME = re.compile(r" \d{4}-\d\d-\d\d \d\d:\d\d$")


def starts(keys: Iterable[str]) -> dict[str, str]:
    """Return what stands before the value of each key: nothing for a group, `s` for the seed, else a name.

    The name is the last part of the dotted key, or all of it where two end alike.
    """
    lasts = {key: key.lstrip("+").rpartition(".")[2] for key in keys}
    ends = list(lasts.values())
    names = {key: last if ends.count(last) == 1 else key.lstrip("+") for key, last in lasts.items()}
    return {key: _start(key, name) for key, name in names.items()}


def _start(key: str, name: str) -> str:
    if key == SEED:
        return "s"
    return f"{name}=" if "." in key.partition("@")[0] else ""


def label(words: Iterable[str]) -> str:
    """Return what words of a command line ask for, to be read: `resnet18 cutout lr=0.05`.

    Words that change no figure are left out, the seed among them.
    """
    parts: dict[str, str] = {}
    for word in words:
        key, _, text = word.lstrip("+").partition("=")
        if not word.lstrip("+~").startswith(UNTOLD):
            parts[key] = word if key.startswith("~") else rounded(text)
    before = starts(key for key in parts if not key.startswith("~"))
    order = dict.fromkeys([*(key for key in FIRST if key in parts), *parts])
    return " ".join(before.get(key, "") + parts[key] for key in order) or "defaults"


def rounded(text: str) -> str:
    """Return a number in at most four digits, anything else as it is."""
    try:
        number = float(text)
    except ValueError:
        return text
    return text if len(text) <= 8 or not math.isfinite(number) else f"{number:.4g}"


def run_name(words: Sequence[str], choices: Mapping[str, str], seed: object) -> str:
    """Return the name of a run that begins now: `resnet18 cutout lr=0.05 s0 2026-11-27 12:00`.

    ``choices`` are the options of the groups, whether a word names them or not.
    """
    first = [f"{group}={choices[group]}" for group in FIRST if group in choices]
    return dated(label([*first, *words]), f" s{seed}")


def dated(text: str, end: str = "") -> str:
    """Return a name with the time behind it, cut before ``end`` where it is too long."""
    end += f" {datetime.now():%Y-%m-%d %H:%M}"
    return (text if len(text + end) <= LENGTH else f"{text[: LENGTH - len(end) - 1]}…") + end


def without_seed(name: str, seed: object) -> str:
    """Return what a run's name tells but for its seed and its time, which all seeds of it share."""
    words = TIME.sub("", name).split(" ")
    if (word := f"s{seed}") in words:
        words.remove(word)
    return " ".join(words) or "defaults"


def longer_name(folder: Path, words: Sequence[str]) -> str:
    """Return the name of a run that begins now, where the one in ``folder`` ended."""
    return dated(f"{TIME.sub('', name_of(folder))} {label(words)}")


def name_of(folder: Path) -> str:
    """Return the name that a run has recorded; that of its folder where it is of an earlier version."""
    return str(read_json(folder / "environment.json").get("name") or folder.resolve().name)
