import base64
import hashlib
import html.parser
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cifar_core.explain.predictions import Predictions
from cifar_core.report.analyse import shown_errors
from cifar_core.report.embed import SPRITE_BYTES, grid_bytes, sprite
from cifar_core.report.findings import findings
from cifar_core.report.markup import TEMPLATES
from tests.report.examples import HISTORY, Net, guesses, pictures, run

LABELS = np.random.default_rng(1).integers(0, 10, 60).tolist()

FACTS: dict[str, Any] = {
    "name": "wrn16_4 lr=0.1",
    "command": "python -m experiments.run model=wrn16_4",
    "environment": {"python": "3.11", "packages": {"torch": "2.15"}},
    "config": {"trainer": {"epochs": 3, "note": None}},
    "differences": {"trainer.epochs": [24, 3], "aug": [None, {"p": 0.5}]},
    "seconds": {"train": 12.5, "total": 20.0},
    "expected": {"test_acc": 0.94, "source": "the paper"},
    "protocol": "validation",
}


class Page(html.parser.HTMLParser):
    """Texts, attributes and nesting of a page."""

    VOID = ("meta", "link", "img", "input")

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def report(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def embedded(source: str) -> dict[str, Any]:
    return json.loads(re.search(r'id="data">(.*?)</script>', source, re.DOTALL)[1])


@pytest.mark.parametrize("level", ["light", "full"])
def test_a_report_is_well_formed_and_names_nothing_outside_itself(tmp_path: Path, level: str):
    run(pictures(LABELS, names=True), guesses(LABELS), tmp_path, level=level, facts=FACTS)
    page = Page(report(tmp_path))
    assert page.open == []
    links = [value for name, value in page.attributes if name in ("src", "href", "action", "poster")]
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert not any(name.startswith("on") for name, _ in page.attributes)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)


def test_a_report_tells_the_facts_of_the_run(tmp_path: Path):
    numbers = run(pictures(LABELS), guesses(LABELS), tmp_path, facts=FACTS, val_logits=guesses(LABELS))
    words = " ".join(" ".join(Page(report(tmp_path)).texts).split())
    for sentence in (
        "wrn16_4 lr=0.1",
        f"{numbers['acc']:.2%}".replace("%", "\u00a0%"),
        "python -m experiments.run model=wrn16_4",
        "packages.torch 2.15",
        'aug null {"p": 0.5}',
        "trainer.epochs 24 3",
        "trainer.note null",
        "the paper",
        "train, seconds 12.50",
        f"dividing the logits by {numbers['temperature_scaling']['temperature']:.3f}",
    ):
        assert " ".join(sentence.split()) in words


def test_a_report_without_facts_and_validation_says_what_is_missing(tmp_path: Path):
    numbers = run(pictures(LABELS), guesses(LABELS), tmp_path)
    words = " ".join(Page(report(tmp_path)).texts)
    assert "Temperature not scaled: no validation pictures." in words
    assert words.count("Not recorded.") == 3
    assert numbers["temperature_scaling"] == {
        "temperature": None,
        "reason": "not scaled: no validation pictures",
    }


def test_the_script_is_the_only_one_that_may_run(tmp_path: Path):
    run(pictures(LABELS), guesses(LABELS), tmp_path)
    source = report(tmp_path)
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', source)[1]
    digest = base64.b64encode(hashlib.sha256((TEMPLATES / "report.js").read_bytes()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


@pytest.mark.parametrize(("layer", "at_least"), [("stem", 250), ("body", 1000)])
def test_a_full_report_of_ten_thousand_noisy_pictures_stays_below_two_megabytes(
    tmp_path: Path, layer: str, at_least: int
):
    labels = np.random.default_rng(0).integers(0, 100, 10_000).tolist()
    classes = [f"a class with a rather long name {i}" for i in range(100)]
    data = pictures(labels, classes=classes, names=True)
    numbers = run(data, guesses(labels, 100), tmp_path, sheet_size=100, layer=layer, facts=FACTS)
    assert numbers["errors"] > 4000
    assert (tmp_path / "report.html").stat().st_size < 2_000_000
    shown_pictures = embedded(report(tmp_path))["pictures"]
    assert at_least <= len(shown_pictures["index"]) <= 1000


def test_pictures_of_the_page_are_described_by_the_data(tmp_path: Path):
    data, logits = pictures(LABELS, names=True), guesses(LABELS)
    run(data, logits, tmp_path)
    predictions = Predictions.of(torch.tensor(LABELS), logits)
    rows = predictions.errors()
    cards = embedded(report(tmp_path))["pictures"]
    assert cards["index"] == data.test.index[rows].tolist()
    assert cards["file"] == [data.test.names[row] for row in rows]
    assert cards["true"] == predictions.labels[rows].tolist()
    assert cards["predicted"] == [top[0] for top in cards["top"]] == predictions.preds[rows].tolist()
    expected = predictions.probs[rows].sort(1, descending=True).values[:, :3]
    np.testing.assert_allclose(cards["probs"], expected, atol=5e-5)


def test_half_of_the_shown_errors_are_the_surest_and_rare_confusions_have_their_turn():
    # 90 confident errors 0 -> 1 and three unsure ones of other pairs
    labels = torch.tensor([0] * 90 + [2, 3, 4])
    logits = torch.zeros(93, 5)
    logits[:90, 1] = torch.linspace(9, 6, 90)
    logits[90:, 0] = torch.tensor([1.0, 2.0, 3.0])
    predictions = Predictions.of(labels, logits)
    images = torch.arange(93, dtype=torch.uint8)[:, None, None, None].expand(93, 3, 2, 2)
    assert shown_errors(predictions, 20, 5, images).tolist() == [*range(17), 92, 91, 90]
    assert shown_errors(predictions, 20, 20, images).tolist() == list(range(20))
    assert shown_errors(predictions, 500, 5, images).tolist() == [*range(90), 92, 91, 90]
    right = Predictions.of(labels, torch.nn.functional.one_hot(labels, 5).float())
    assert shown_errors(right, 20, 5, images).tolist() == []
    twice = images // 2 * 2  # 0 and 1, 2 and 3, ... are the same picture; the surest is shown
    assert shown_errors(predictions, 500, 5, twice).tolist() == [*range(0, 90, 2), 92, 91]


def test_a_sprite_keeps_to_its_size_and_order():
    noise = torch.randint(256, (1500, 3, 32, 32), dtype=torch.uint8)
    sheet = sprite(noise)
    assert len(sheet.uri) < SPRITE_BYTES * 4 / 3 + 100
    assert (sheet.columns, sheet.width, sheet.height) == (39, 32, 32)
    assert sprite(noise[:2].repeat(1, 1, 4, 8)).width == 64  # 256 wide, 128 high
    assert sprite(noise[:1]).columns == 1


def test_grids_are_bytes_on_one_scale_a_picture():
    grids = torch.tensor([[[[1.0, 2.0]], [[0.0, 0.0]]], [[[4.0, 0.0]], [[torch.nan, 0.0]]]])  # (2, 2, 1, 2)
    steps = list(base64.b64decode(grid_bytes(grids)))
    assert steps == [64, 128, 255, 0, 0, 0, 0, 0]


def luminance(colour: str) -> float:
    digits = colour.removeprefix("#")
    digits = "".join(c * 2 for c in digits) if len(digits) == 3 else digits
    channels = [int(digits[k : k + 2], 16) / 255 for k in (0, 2, 4)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("scheme", [0, 1])
def test_colours_of_text_have_contrast_in_both_schemes(scheme: int):
    """WCAG 2.1, 1.4.3: 4.5 to 1 for text."""
    blocks = re.findall(r":root \{(.*?)\}", (TEMPLATES / "style.css").read_text(), re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#\w+)", blocks[scheme]))
    pairs = [(ink, "card") for ink in ("ink", "faint", "blue", "orange")]  # orange stands on cards only
    for ink, ground in [*pairs, ("ink", "page"), ("faint", "page"), ("blue", "page"), ("ink", "track")]:
        low, high = sorted(luminance(colours[name]) for name in (ink, ground))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground)


def test_findings_name_what_the_numbers_say(tmp_path: Path):
    numbers = run(pictures(LABELS), guesses(LABELS), tmp_path, val_logits=2 * guesses(LABELS))
    sentences = findings(numbers, HISTORY, FACTS)
    worst = min(numbers["per_class"], key=lambda row: row["recall"])["name"]
    pair = numbers["confused_pairs"][0]
    assert any(f"hardest class is {worst}" in sentence for sentence in sentences)
    assert any(f"{pair['a']} and {pair['b']}: {pair['a_as_b']} " in sentence for sentence in sentences)
    assert any("recipe reached 94.00\u00a0% (the paper)" in sentence for sentence in sentences)
    assert any(sentence.endswith("is below that.") for sentence in sentences)
    assert any("best epoch was 2, the last" in sentence for sentence in sentences)
    unfair = findings(numbers, [], {"protocol": "test_each_epoch"})
    assert "no validation split" in unfair[0]


def test_findings_warn_where_the_model_says_something_else_than_the_logits(tmp_path: Path):
    data = pictures(LABELS)
    torch.manual_seed(0)
    with torch.no_grad():
        own = Net(10).eval()(data.normalize(data.test.images))
    same = run(data, own, tmp_path / "same")
    other = run(data, guesses(LABELS), tmp_path / "other")
    assert same["checks"]["predictions_repeated"] == 1
    assert not any("came out again" in sentence for sentence in findings(same, [], {}))
    assert any("came out again" in sentence for sentence in findings(other, [], {}))


def test_findings_of_a_diverged_run_begin_with_that(tmp_path: Path):
    logits = guesses(LABELS)
    logits[3] = torch.nan
    numbers = run(pictures(LABELS), logits, tmp_path)
    assert "1 of 60 pictures are not finite" in findings(numbers, HISTORY, {})[0]
