"""What a folder of pictures holds, as lines for the terminal: for `preview`, before anything is trained."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cifar_core.data import folder
from cifar_core.data.pixels import Place
from cifar_core.data.settings import DataSettings
from cifar_core.data.split import Data
from cifar_core.data.survey import Survey, survey

CLASSES = 40  # that are listed one by one; of more, the smallest
SHOWN = 5  # pictures, sizes or modes in a line
WIDTH = 40  # of a class name
LABEL = 15  # columns before a line's text


def found_lines(settings: DataSettings, data: Data) -> list[str]:
    """Return what was found in a folder whose pictures are all good."""
    found = survey(settings, data)
    lines = [_line("pictures", found.root), *_table(found.counts), *_notes(found.passed, found.notes)]
    lines.append(_line("sizes", _counted({f"{w}x{h}": count for (w, h), count in found.sizes.items()})))
    lines.append(_line("modes", _counted(found.modes)))
    lines += _copies(found, data.classes)
    numbers = ("[" + ",".join(f"{value:.2f}" for value in each) + "]" for each in (found.mean, found.std))
    mean, std = numbers
    return [
        *lines,
        _line("to paste", f"data.mean={mean} data.std={std}  (of the train split)"),
    ]


def listed_lines(settings: DataSettings) -> list[str]:
    """Return what the names of the files tell, for a folder in which some pictures cannot be read."""
    listed = folder.scan(Path(settings.root).expanduser())
    counts = {
        split: {name: listing.labels.count(label) for label, name in enumerate(listed.classes)}
        for split, listing in listed.splits.items()
    }
    return [_line("pictures", settings.root), *_table(counts), *_notes(listed.passed, listed.notes)]


def _line(label: str, text: str) -> str:
    return f"{label:<{LABEL}}{text}"


def _table(counts: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    """Yield a row for each class and one for all; of many the smallest, and the range of the others."""
    names = list(next(iter(counts.values())))
    totals = {name: sum(part.get(name, 0) for part in counts.values()) for name in names}
    shown = names if len(names) <= CLASSES else sorted(names, key=lambda name: totals[name])[:CLASSES]
    width = max(LABEL - 2, *(min(WIDTH, len(name)) for name in shown)) + 2
    yield f"{'class':<{width}}" + "".join(f"{split:>9}" for split in counts)
    for name in shown:
        cut = name if len(name) <= WIDTH else name[: WIDTH - 3] + "..."
        cut = "".join(letter if letter.isprintable() else "?" for letter in cut)  # no line breaks, no colours
        yield f"{cut:<{width}}" + "".join(f"{part.get(name, 0):>9,}" for part in counts.values())
    if rest := [totals[name] for name in names if name not in set(shown)]:
        yield f"and {len(rest):,} classes more, of {min(rest):,} to {max(rest):,} pictures each"
    all_of = "".join(f"{sum(part.values()):>9,}" for part in counts.values())
    yield f"{f'all {len(names):,}':<{width}}{all_of}"


def _notes(passed: Mapping[str, int], notes: Sequence[str]) -> Iterator[str]:
    yield _line("passed over", folder.passed_over(passed) or "nothing")
    for note in notes:
        if not note.startswith("passed over"):
            yield _line("note", note)


def _counted(counts: Mapping[str, int]) -> str:
    shown = ", ".join(f"{name} ({count:,})" for name, count in list(counts.items())[:SHOWN])
    rest = list(counts.values())[SHOWN:]
    return shown + (f" and {len(rest):,} others ({sum(rest):,})" if rest else "")


def _copies(found: Survey, classes: Sequence[str]) -> Iterator[str]:
    """Yield lines on pictures that are there twice, under two labels, or of one flat colour."""

    def told(place: Place) -> str:
        return f"{place.name} ({classes[place.label]}, {place.split})"

    for label, pairs in (("copies", found.copies), ("two labels", found.contradictions)):
        shown = "; ".join(f"{told(one)} = {told(other)}" for one, other in pairs[:SHOWN])
        yield _line(label, f"{len(pairs):,}" + (f": {shown}" if pairs else "") + _more(pairs))
    shown = "; ".join(map(told, found.empty[:SHOWN]))
    yield _line("one colour", f"{len(found.empty):,}" + (f": {shown}" if shown else "") + _more(found.empty))


def _more(items: Sequence[object]) -> str:
    return "; ..." if len(items) > SHOWN else ""
