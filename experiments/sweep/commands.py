"""How far is a sweep, and which command goes on with it, repeats it, extends it?"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from experiments.config import words
from experiments.runs.names import SEED
from experiments.runs.result import ANALYSING
from experiments.sweep.home import SWEEPS, Home
from experiments.sweep.trials import Trial

FURTHER = 20  # points by which a search is extended
NAMED = 6  # running trials that are named
NAME, FOLDER, POINTS, MORE = "sweep.name", "hydra.sweep.dir", "sweep.n_trials", "sweep.add_trials"


def state(home: Home, trials: Sequence[Trial], *, live: bool, total: int) -> str:
    """Return how far a sweep of ``total`` trials (0: nobody knows) is; empty where it is over."""
    if not live and home.is_over:
        return ""
    statuses = [trial.look().status for trial in trials]
    ended = sum(status in ("finished", "pruned", "failed") for status in statuses)
    count = f"{ended} of {total} trials have ended" if total else f"{ended} trials have ended"
    if not live:
        return f"Not over: {count}. The same command goes on with it."
    names = [t.label for t, s in zip(trials, statuses, strict=True) if s in ("running", ANALYSING)]
    more = [f"{len(names) - NAMED} more"] if len(names) > NAMED else []
    now = f"; now {', '.join(names[:NAMED] + more)}" if names else ""
    return f"Running: {count}{now}."


def repeated(home: Home) -> str:
    """Return the command that does a sweep once more in another folder; empty where it is not known."""
    free = next(n for n in range(2, 10_000) if not home.path.with_name(f"{home.path.name}-{n}").exists())
    new = _at(home.path.with_name(f"{home.path.name}-{free}"))
    if home.points:
        new[POINTS] = f"{POINTS}={home.points}"
    return _changed(home, new | {MORE: ""})


def extended(home: Home, trials: Sequence[Trial]) -> str:
    """Return the command that adds points to a search, or a seed to a grid; empty where neither can be."""
    here = _at(home.path)
    if home.sampler != "grid":
        return _changed(home, here | {MORE: f"{MORE}={FURTHER}"})
    seeds = home.seeds if any(SEED in trial.point for trial in trials) else []
    if not seeds or not all(seed.isdigit() for seed in seeds):
        return ""
    return _changed(home, here | {SEED: f"{SEED}={','.join([*seeds, str(max(map(int, seeds)) + 1)])}"})


def _at(folder: Path) -> dict[str, str]:
    """Return the words, by key, that lead a command to a folder: a sweep may have moved since."""
    if folder.parent == SWEEPS.resolve():
        return {NAME: _assigned(NAME, folder.name), FOLDER: ""}
    return {FOLDER: _assigned(FOLDER, str(folder))}


def _words(home: Home) -> list[str]:
    """Return the words of a sweep's command; none of one that no shell could read."""
    try:
        return shlex.split(home.command)
    except ValueError:
        return []


def _key(word: str) -> str:
    return word.lstrip("+").partition("=")[0]


def _changed(home: Home, new: dict[str, str]) -> str:
    """Return a sweep's command with the words of ``new`` in the place of those of the same keys."""
    kept = [word for word in _words(home) if _key(word) not in new]
    return shlex.join([*kept, *filter(None, new.values())]) if kept else ""


def _assigned(key: str, text: str) -> str:
    """Return a word that Hydra reads as exactly this text."""
    word = f"{key}={text}"
    try:
        return word if words.value(word) == text else f"{key}={words.quoted(text)}"
    except ValueError:
        return f"{key}={words.quoted(text)}"
