"""How is a trial called? By what varies: a label to read, and a folder that no other point has."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from functools import cache

from experiments.runs.names import rounded, starts

LENGTH = 100  # of a folder's name; file systems allow 255
# In a sweep's folder beside its trials, or a device on Windows, whatever its suffix.
TAKEN = ("refit", "slurm", "conf", "config_dir", "lock", "ledger", "sweep", "report", "trials", "tracking")
DEVICES = ("con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10)))
# A value that a name can hold as it is.
PLAIN = re.compile(r"[-+]?[a-z0-9]+([._+-]+[a-z0-9]+)*")
HASHED = re.compile(r".*-[0-9a-f]{8,16}")


class Names:
    """The names of the points of one space."""

    def __init__(self, choices: Mapping[str, Collection[str]]) -> None:
        """Take all values of each key that has a list or a range."""
        self._choices = {key: Counter(map(str.lower, texts)) for key, texts in choices.items()}

    def label(self, point: Mapping[str, str]) -> str:
        """Return a name that says what varies: `wrn16_4 lr=0.1 s2`."""
        return " ".join(start + self._shown(key, point[key]) for key, start in starts(point).items()) or "run"

    def folder(self, point: Mapping[str, str], digest: str) -> str:
        """Return the label as a folder's name, which needs no quotes in Hydra's syntax either.

        The name alone tells the point, or else ``digest`` is its end: where the label had to be cut or
        changed, where case alone tells values apart, and where other values would give the same name.
        """
        before = {key: _safe(start) for key, start in starts(point).items()}
        name = "_".join(before[key] + self._shown(key, text) for key, text in point.items()) or "run"
        if self._is_exact(name, point, before):
            return name
        safe = _safe(name)[:LENGTH].strip("-.") or "point"
        return f"{safe.replace('.', '-') if safe.lower().split('.')[0] in DEVICES else safe}-{digest}"

    def _shown(self, key: str, text: str) -> str:
        return text if key in self._choices else rounded(text)

    def _is_exact(self, name: str, point: Mapping[str, str], before: Mapping[str, str]) -> bool:
        """Tell whether ``name`` is safe and can be read in one way only."""
        if not all(self._may_be(key, text) for key, text in point.items()):
            return False
        if len(name) > LENGTH or not name[0].isalnum() or name.lower().split(".")[0] in TAKEN + DEVICES:
            return False
        words = {key: start.lower() for key, start in before.items()}
        return not HASHED.fullmatch(name) and _readings(name.lower(), words, self._may_be) == 1

    def _may_be(self, key: str, text: str) -> bool:
        """Tell whether a key can have this value, and a name hold it, where case does not count."""
        if key in self._choices:
            return self._choices[key][text.lower()] == 1 and bool(PLAIN.fullmatch(text.lower()))
        return bool(PLAIN.fullmatch(text)) and rounded(text) == text


def _readings(name: str, starts: Mapping[str, str], may_be: Callable[[str, str], bool]) -> int:
    """Return in how many ways ``name`` is a word for each key, joined by `_`."""
    parts = name.split("_")
    keys = list(starts)

    @cache
    def count(key: int, begin: int) -> int:
        if key == len(keys):
            return begin == len(parts)
        ways = 0
        for end in range(begin + 1, len(parts) + 1):
            word = "_".join(parts[begin:end])
            start = starts[keys[key]]
            if word.startswith(start) and may_be(keys[key], word[len(start) :]):
                ways += count(key + 1, end)
        return ways

    return count(0, 0) if keys else 1


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", text.replace(" ", "_"))
