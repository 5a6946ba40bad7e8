"""Which pictures tell runs apart, and how a page shows them: the picture, each run's answer, its map.

`gallery(comparison)` returns what templates/pictures.html renders: pass it as ``gallery`` (None is fine),
`{% include "pictures.html" %}`, and give the page the scripts `page.js` and `pictures.js`. The cards stand in
the page, so they are there without the scripts, which filter them.
"""

import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, permutations, zip_longest
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor

from cifar_core.explain.cams import evidence
from cifar_core.explain.predictions import Predictions
from cifar_core.explain.statistics import Missed
from cifar_core.report.embed import STILL, scaled, uri
from cifar_core.report.heat import overlay
from cifar_core.report.markup import cut, percent
from experiments.cli import one_line
from experiments.comparison.cams import Maps, computed, key, saved
from experiments.comparison.groups import Analysed, Comparison
from experiments.comparison.pixels import pixels
from experiments.runs.read import predictions

SHOWN = 6  # runs side by side
CARDS = 160
CARDS_BYTES = 1_500_000  # of all of them in the page
PICTURE_BYTES, MAP_BYTES = 2_500, 1_000  # of one, before base64
MAP = 64  # side of a map, pixels
CARD_TEXT, ANSWER_TEXT = 450, 320  # bytes of the markup around them
NAME, FILE = 40, 80  # letters of a class and of a file's name, its last ones
ANSWERS = 3  # of all runs, the most frequent first


@dataclass(frozen=True)
class Answer:
    """What one of the shown runs says to a picture."""

    name: str
    is_right: bool
    width: int  # of the bar, percent
    confidence: str
    label: str  # the probability of the label, where the answer is another; else ""
    map: str  # data URI; "" where there is none


@dataclass(frozen=True)
class Card:
    """A picture and what is said to it."""

    picture: str  # data URI; "" where the data is not there
    label: str
    name: str
    census: str  # how many of all runs answer what; "" where all are shown
    right: str  # places of the shown runs that are right
    preds: str  # class number each shown run answers
    is_missed: bool  # by all runs, not the shown ones alone
    answers: list[Answer]

    @property
    def size(self) -> int:
        """Bytes in the page, about."""
        texts = [self.picture, self.label, self.name, self.census]
        texts += [text for one in self.answers for text in (one.name, one.map)]
        return CARD_TEXT + ANSWER_TEXT * len(self.answers) + sum(map(len, texts))


@dataclass(frozen=True)
class Shown:
    """One of the runs shown side by side."""

    tag: str  # letter of its configuration, or s and its seed where all are of one
    name: str


@dataclass(frozen=True)
class Gallery:
    """All that pictures.html shows."""

    runs: list[Shown]
    cards: list[Card]
    counts: dict[str, Any]  # of all pictures: total, missed, and of two runs only[a][b] right, differ[a][b]
    lead: str
    notes: list[str]

    @property
    def has_maps(self) -> bool:
        """Whether any answer has a map."""
        return any(one.map for card in self.cards for one in card.answers)


@dataclass(frozen=True)
class Choice:
    """The runs to show side by side, and the pictures that tell them apart."""

    shown: list[Analysed]
    preds: np.ndarray  # int (R, N), of all runs on the same pictures
    missed: Missed  # the pictures that none of them has right

    @property
    def labels(self) -> np.ndarray:
        """Label of each picture, int (N,)."""
        return self.shown[0].pictures.labels

    @cached_property
    def said(self) -> list[Predictions]:
        """What each shown run says, with probabilities."""
        labels = torch.from_numpy(self.labels)
        files = [predictions(one.run.folder) or {} for one in self.shown]
        return [Predictions.of(labels, torch.from_numpy(arrays["logits"])) for arrays in files]

    @cached_property
    def rows(self) -> list[int]:
        """The first to see in front: those that all miss, those on which the first two differ, others."""
        pairs = list(permutations(range(len(self.shown)), 2))
        alone = {pair: self._only(*pair) for pair in pairs}
        best = [alone[0, 1][: CARDS // 6], alone[1, 0][: CARDS // 6]]
        missed = self._missed()
        order = chain(missed[: CARDS // 3], _turns(best), _turns(list(alone.values())), missed)
        return list(dict.fromkeys(map(int, order)))[:CARDS]

    def _missed(self) -> np.ndarray:
        """Return the pictures that all miss: those with one answer of most runs first, then the surest."""
        rows = self.missed.rows
        sure = np.mean([said.confidence.numpy()[rows] for said in self.said], axis=0)
        return rows[np.lexsort((-sure, -self.missed.shares))]

    def _only(self, a: int, b: int) -> np.ndarray:
        """Return the pictures that ``a`` has right and ``b`` wrong, those first on which they differ most."""
        one, other = self.said[a], self.said[b]
        rows = (one.hits & ~other.hits).nonzero()[:, 0]
        label = one.labels[rows]
        lead = one.probs[rows, label] - other.probs[rows, label]
        return rows[(-lead).argsort(stable=True)].numpy()


def _turns(queues: Sequence[np.ndarray]) -> Iterator[int]:
    """Take from each in turn until all are empty."""
    return (row for turn in zip_longest(*queues) for row in turn if row is not None)


def choose(comparison: Comparison) -> Choice | None:
    """Return the first run of each of the first configurations, or of one alone its seeds.

    None where fewer than two runs were analysed on the same pictures.
    """
    paired, missed = comparison.paired, comparison.missed
    if missed is None:
        return None
    firsts: dict[str, Analysed] = {}
    for one in paired:
        firsts.setdefault(one.configuration.letter, one)
    shown = list(firsts.values()) if len(firsts) > 1 else paired
    preds = np.stack([one.pictures.preds for one in paired])
    return Choice(shown[:SHOWN], preds, missed)


def gallery(comparison: Comparison, *, cams: Maps | None = None) -> Gallery | None:
    """Return the pictures that tell the runs of a comparison apart, as `choose` says.

    ``cams`` are maps beyond those that the runs' analyses have kept.
    """
    choice = choose(comparison)
    if choice is None:
        return None
    images, notes = _images(choice)
    maps: dict[Any, np.ndarray] = dict(cams or {})
    for one in choice.shown if images is not None else ():
        maps |= saved(one)
    runs, made = _shown(choice.shown), cards(choice, images, maps)
    if images is not None:
        notes += _told_maps(runs, made, "; compare --cams computes the others" if cams is None else "")
    return Gallery(runs, made, _counts(choice), _lead(choice), notes)


def lacking(comparison: Comparison, words: Sequence[str] = ()) -> Maps:
    """Compute the maps of the gallery that the analyses lack; ``words`` may allow code of one's own."""
    choice = choose(comparison)
    if choice is None:
        print("no maps: fewer than two runs were analysed on the same pictures", file=sys.stderr)
        return {}
    return computed(choice.shown, choice.rows, words)


def cards(choice: Choice, images: Tensor | None, maps: Maps) -> list[Card]:
    """Return the first cards of a choice that have room in a page; ``images`` are uint8 (M, 3, H, W)."""
    made, room = [], CARDS_BYTES
    for place, row in enumerate(choice.rows):
        card = _card(choice, row, None if images is None else images[place], maps)
        room -= card.size
        if room < 0:
            break
        made.append(card)
    return made


def _shown(shown: Sequence[Analysed]) -> list[Shown]:
    if len({one.configuration.letter for one in shown}) == 1:
        return [Shown(f"s{one.run.seed}", f"seed {one.run.seed}") for one in shown]
    names = [f"{cut(one.configuration.label, FILE)}, seed {one.run.seed}" for one in shown]
    return [Shown(one.configuration.letter, name) for one, name in zip(shown, names, strict=True)]


def _images(choice: Choice) -> tuple[Tensor | None, list[str]]:
    """Return uint8 pictures (M, 3, H, W), or None and why there are none."""
    try:
        _, part = pixels(choice.shown[0])
    except (OSError, ValueError) as error:
        return None, [f"The pictures themselves are not here: {one_line(error)}"]
    return part.images[torch.tensor(choice.rows, dtype=torch.int64)], []


def _card(choice: Choice, row: int, image: Tensor | None, maps: Maps) -> Card:
    pictures = choice.shown[0].pictures
    label, classes = int(choice.labels[row]), pictures.classes
    preds = [int(said.preds[row]) for said in choice.said]
    name = pictures.names[row] if pictures.names else f"index {pictures.index[row]}"
    return Card(
        picture="" if image is None else Markup(uri(scaled(image, STILL), PICTURE_BYTES)),
        label=cut(classes[label], NAME),
        name=name if len(name) <= FILE else "\u2026" + name[1 - FILE :],
        census=_census(choice, row),
        right=" ".join(str(place) for place, pred in enumerate(preds) if pred == label),
        preds=" ".join(map(str, preds)),
        is_missed=label not in choice.preds[:, row],
        answers=[_answer(choice, place, row, image, maps) for place in range(len(preds))],
    )


def _census(choice: Choice, row: int) -> str:
    """Say how many of all runs answer what, where more have answered than are shown."""
    if len(choice.preds) == len(choice.shown):
        return ""
    classes, counts = choice.shown[0].pictures.classes, Counter(choice.preds[:, row].tolist())
    answers = [f"{cut(classes[pred], NAME)} {count}" for pred, count in counts.most_common(ANSWERS)]
    others = len(choice.preds) - sum(count for _, count in counts.most_common(ANSWERS))
    return f"{len(choice.preds)} runs: {', '.join(answers)}" + (f", others {others}" if others else "")


def _answer(choice: Choice, place: int, row: int, image: Tensor | None, maps: Maps) -> Answer:
    one, said = choice.shown[place], choice.said[place]
    pred, label = int(said.preds[row]), int(said.labels[row])
    confidence, of_label = said.probs[row, [pred, label]].tolist()
    grid = maps.get(key(one, row))
    return Answer(
        name=cut(one.pictures.classes[pred], NAME),
        is_right=pred == label,
        width=0 if math.isnan(confidence) else round(100 * confidence),
        confidence=percent(confidence),
        label="" if pred == label else percent(of_label),
        map="" if grid is None or image is None else _map(image, grid),
    )


def _map(image: Tensor, grid: np.ndarray) -> str:
    heat = evidence(torch.from_numpy(grid)[None, None], image.shape[-2:])[0, 0].numpy()
    return Markup(uri(overlay(scaled(image, MAP), heat), MAP_BYTES))


def _counts(choice: Choice) -> dict[str, Any]:
    hits = np.stack([said.hits.numpy() for said in choice.said])
    preds = np.stack([said.preds.numpy() for said in choice.said])
    return {
        "total": len(choice.labels),
        "missed": len(choice.missed.rows),
        "only": [[int((a & ~b).sum()) for b in hits] for a in hits],
        "differ": [[int((a != b).sum()) for b in preds] for a in preds],
    }


def _lead(choice: Choice) -> str:
    split = "validation" if choice.shown[0].pictures.split == "val" else "test"
    return (
        f"{len(choice.preds):,} runs on the same {len(choice.labels):,} {split} pictures; "
        f"all of them miss {len(choice.missed.rows):,}."
    )


def _told_maps(runs: Sequence[Shown], cards: Sequence[Card], hint: str) -> list[str]:
    have = [sum(bool(card.answers[place].map) for card in cards) for place in range(len(runs))]
    if min(have, default=0) == len(cards):
        return []
    each = ", ".join(f"{run.tag} {count}" for run, count in zip(runs, have, strict=True))
    return [f"Of {len(cards)} pictures there are maps of {each}{hint}."]
