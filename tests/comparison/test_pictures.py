"""Pictures that tell runs apart: which are chosen, what their cards say and show."""

import base64
import io
import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cifar_core.data.settings import DataSettings
from cifar_core.data.sources import load_data
from cifar_core.explain.cams import TARGETS, evidence
from cifar_core.report.heat import overlay
from cifar_core.report.markup import render
from experiments.comparison import cams, pictures
from experiments.comparison.pictures import CARDS, SHOWN, cards, choose, gallery
from tests.comparison.by_hand import compared, make

PAGE = '{% extends "base.html" %}{% block main %}{% include "pictures.html" %}{% endblock %}'
DIGITS = {"source": "digits", "root": "nowhere", "cache": "nowhere", "image_size": 16, "val_size": 0.1}


def answers(folder: Path, logits: np.ndarray, labels: np.ndarray, *, classes: list[str], **arrays) -> None:
    """Put other predictions into the analysis of a run made by hand."""
    names = {"classes": np.array(classes), "index": np.arange(len(labels))} | arrays
    path = folder / "analysis" / "predictions.npz"
    np.savez(path, logits=logits.astype(np.float32), labels=labels, **names)


def guesses(labels: np.ndarray, num_classes: int, seed: int) -> np.ndarray:
    """Logits that are right for about half of the pictures."""
    noise = np.random.default_rng(seed).normal(0, 2, (len(labels), num_classes))
    return noise + 3 * np.eye(num_classes)[labels]


@pytest.fixture(scope="module")
def digits():
    return load_data(DataSettings(**DIGITS))


@pytest.fixture(scope="module")
def root(digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three configurations of two seeds that have guessed at the test pictures of digits."""
    root = tmp_path_factory.mktemp("digits")
    part = digits.test
    for number in range(6):
        folder = make(root / f"run{number}", seed=number % 2, lr=0.1 + number // 2, val=0.9 - number / 10)
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["data"] = DIGITS | {"download": True}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        (folder / "environment.json").write_text(json.dumps({"data": digits.fingerprint, "device": "cpu"}))
        logits = guesses(part.labels.numpy(), 10, number)
        answers(folder, logits, part.labels.numpy(), classes=list(digits.classes), index=part.index.numpy())
    return root


@pytest.fixture(scope="module")
def maps(root: Path) -> dict:
    """A map for every second picture, in the analysis of the first shown run alone."""
    one = choose(compared(root)).shown[0]
    rows = np.arange(0, len(one.pictures.labels), 2)
    grids = np.random.default_rng(0).random((len(TARGETS), len(rows), 4, 4), dtype=np.float32)
    predicted = one.pictures.preds[rows]
    predicted[0] = (predicted[0] + 1) % 10  # of another class than the run predicts
    index = one.pictures.index[rows]
    np.savez(one.run.folder / "analysis" / "cams.npz", grids=grids, index=index, predicted=predicted)
    return dict(zip(rows.tolist(), grids[0], strict=True))


def picture(uri: str) -> np.ndarray:
    content = base64.b64decode(uri.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(float)


def test_the_first_run_of_each_configuration_is_shown_in_the_order_of_the_ranking(root: Path, tmp_path: Path):
    shown = gallery(compared(root)).runs
    assert [one.tag for one in shown] == ["A", "B", "C"]
    assert [one.name for one in shown] == [f"lr={lr}, seed 0" for lr in (0.1, 1.1, 2.1)]
    for number in range(8):
        make(tmp_path / str(number), lr=0.1 * number, val=0.9 - number / 10, wrong=(number,))
    assert [one.tag for one in gallery(compared(tmp_path)).runs] == list("ABCDEF")[:SHOWN]


def test_of_one_configuration_its_seeds_are_shown_and_one_run_has_no_gallery(tmp_path: Path):
    make(tmp_path / "0", seed=0, wrong=(1, 2))
    assert gallery(compared(tmp_path)) is None
    make(tmp_path / "1", seed=7, wrong=(2, 3))
    assert [one.tag for one in gallery(compared(tmp_path)).runs] == ["s0", "s7"]


def test_runs_that_are_always_right_have_no_cards(tmp_path: Path):
    for seed in range(2):
        make(tmp_path / str(seed), seed=seed)
    found = gallery(compared(tmp_path))
    assert found.cards == []
    assert found.lead == "2 runs on the same 60 test pictures; all of them miss 0."


def test_counts_and_cards_say_what_the_predictions_say(root: Path, digits):
    comparison = compared(root)
    found, shown = gallery(comparison), choose(comparison).shown
    labels, preds = digits.test.labels.numpy(), np.stack([one.pictures.preds for one in shown])
    every = np.stack([one.pictures.preds for one in comparison.paired])
    assert found.counts["total"] == len(labels)
    assert found.counts["missed"] == np.all(every != labels, axis=0).sum()
    for a, b in permutations(range(3), 2):
        assert found.counts["only"][a][b] == np.sum((preds[a] == labels) & (preds[b] != labels)) > 0
        assert found.counts["differ"][a][b] == np.sum(preds[a] != preds[b])
    rows = [digits.test.index.tolist().index(int(card.name.removeprefix("index "))) for card in found.cards]
    assert len(set(rows)) == len(rows)
    for row, card in zip(rows, found.cards, strict=True):
        assert card.label == str(labels[row])
        assert card.preds == " ".join(map(str, preds[:, row]))
        assert card.right == " ".join(str(run) for run in range(3) if preds[run, row] == labels[row])
        assert card.is_missed == all(every[:, row] != labels[row])
        assert card.census.startswith("6 runs: ")
        for run, answer in enumerate(card.answers):
            logits = guesses(labels, 10, 2 * run).astype(np.float32)[row].astype(float)
            probs = np.exp(logits) / np.exp(logits).sum()
            assert (answer.name, answer.is_right) == (str(preds[run, row]), preds[run, row] == labels[row])
            assert answer.confidence == f"{100 * probs.max():.1f}\u00a0%"
            assert answer.label == ("" if answer.is_right else f"{100 * probs[labels[row]]:.1f}\u00a0%")


def test_those_that_all_miss_come_first_then_those_on_which_the_first_two_differ_most(root: Path):
    comparison = compared(root)
    found = gallery(comparison)
    assert len(found.cards) == CARDS
    kinds = [
        "missed" if card.is_missed else {"0": "a", "1": "b"}.get(card.right.replace(" 2", ""), "other")
        for card in found.cards
    ]
    missed = min(found.counts["missed"], CARDS // 3)
    assert kinds[:missed] == ["missed"] * missed
    every = np.stack([one.pictures.preds for one in comparison.paired])
    agree = [np.bincount(every[:, row]).max() for row in choose(comparison).rows[:missed]]
    sure = [sum(float(answer.confidence[:-2]) for answer in card.answers) for card in found.cards[:missed]]
    assert (order := [(-most, -mean) for most, mean in zip(agree, sure, strict=True)]) == sorted(order)
    differ = kinds[missed : missed + 2 * (CARDS // 6)]
    assert differ == ["a", "b"] * (CARDS // 6)
    assert {"2", "1 2", "0 1"} & {card.right for card in found.cards[missed + len(differ) :]}
    lead = [
        float(card.answers[0].confidence[:-2]) - float(card.answers[1].label[:-2])
        for card in found.cards[missed : missed + len(differ) : 2]
    ]
    assert lead == sorted(lead, reverse=True)


def test_a_card_shows_the_picture_of_the_data_and_the_map_of_the_answer_alone(root: Path, digits, maps: dict):
    found = gallery(compared(root))
    places = {f"index {index}": row for row, index in enumerate(digits.test.index.tolist())}
    mapped = 0
    for card in found.cards:
        row = places[card.name]
        image = digits.test.images[row].permute(1, 2, 0).numpy()
        shrunk = Image.fromarray(picture(card.picture).astype(np.uint8)).resize(
            (16, 16), Image.Resampling.BOX
        )
        assert np.abs(np.asarray(shrunk) - image.astype(float)).mean() < 12
        assert not any(answer.map for answer in card.answers[1:])
        assert bool(card.answers[0].map) == (row in maps and row != 0)
        if card.answers[0].map:
            mapped += 1
            heat = evidence(torch.from_numpy(maps[row])[None, None], (16, 16))[0, 0].numpy()
            tile = Image.fromarray(image).resize((64, 64), Image.Resampling.BICUBIC)
            drawn = picture(card.answers[0].map)
            assert np.abs(drawn - np.asarray(overlay(tile, heat))).mean() < 6
            assert np.abs(drawn - np.asarray(overlay(tile, 1 - heat))).mean() > 12
    assert mapped > 20
    assert found.notes == [
        f"Of {CARDS} pictures there are maps of A {mapped}, B 0, C 0; compare --cams computes the others."
    ]


def test_maps_that_were_computed_join_those_of_the_analysis(root: Path, maps: dict):
    comparison = compared(root)
    choice = choose(comparison)
    more = {cams.key(one, row): np.ones((4, 4)) for one in choice.shown for row in choice.rows}
    found = gallery(comparison, cams=more)
    assert all(answer.map for card in found.cards for answer in card.answers)
    assert found.notes == []


@pytest.mark.parametrize("gone", ["changed", "another source", "no words"])
def test_without_the_data_the_answers_stay_and_one_line_says_why(root: Path, tmp_path: Path, gone: str):
    for number in (0, 2):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        for name in ("result.json", "overrides.yaml", "metrics.csv", "environment.json", "config.yaml"):
            (folder / name).write_text((root / f"run{number}" / name).read_text())
        (folder / "analysis").symlink_to(root / f"run{number}" / "analysis")
        config = yaml.safe_load((folder / "config.yaml").read_text())
        if gone == "changed":
            (folder / "environment.json").write_text(json.dumps({"data": "other"}))
        elif gone == "another source":
            config["data"] |= {"source": "cifar10", "root": str(tmp_path / "absent")}
        else:
            config["data"]["colour"] = "blue"
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    found = gallery(compared(tmp_path))
    (note,) = found.notes
    assert note.startswith("The pictures themselves are not here: ")
    assert {"changed": "got ", "another source": "absent", "no words": "colour"}[gone] in note
    assert len(found.cards) == CARDS
    assert not any(card.picture or any(answer.map for answer in card.answers) for card in found.cards)
    assert not (tmp_path / "absent").exists()  # nothing was downloaded


def test_cards_keep_to_their_bytes_with_large_noise_many_classes_and_long_names(tmp_path: Path):
    labels = np.arange(400) % 100
    classes = [f"<{number}> {'long & longer ' * 20}" for number in range(100)]
    for number in range(SHOWN):
        folder = make(tmp_path / str(number), lr=number + 0.1, val=0.9 - number / 10)
        names = np.array([f"{'folder/' * 30}{row}.png" for row in range(400)])
        answers(folder, guesses(labels, 100, number), labels, classes=classes, names=names)
    comparison = compared(tmp_path)
    choice = choose(comparison)
    noise = torch.randint(256, (len(choice.rows), 3, 64, 64), dtype=torch.uint8)
    grids = np.random.default_rng(0).random((16, 16), dtype=np.float32)
    more = {cams.key(one, row): grids for one in choice.shown for row in choice.rows}
    made = cards(choice, noise, more)
    assert len(made) > 60
    page = rendered(tmp_path, pictures.Gallery([*gallery(comparison).runs], made, {}, "", []))
    assert len(page.encode()) < 1_600_000


def rendered(folder: Path, shown: pictures.Gallery) -> str:
    """Return a page with the gallery alone, made in the folder of its template."""
    (folder / "page.html").write_text(PAGE)
    for name in ("pictures.html", "pictures.js"):
        source = Path(pictures.__file__).parent / "templates" / name
        (folder / name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    scripts = ("page.js", "pictures.js")
    return render(folder / "page.html", scripts=scripts, gallery=shown, title="Pictures", lead="")
