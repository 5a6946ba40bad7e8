"""The report in a browser: what a person can do with it, and what it must never do."""

import base64
import html
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

from cifar_core.explain.cams import evidence
from cifar_core.explain.labels import label_issues, label_quality
from cifar_core.explain.predictions import Predictions
from cifar_core.report.heat import overlay
from tests.report.examples import HISTORY, guesses, pictures, run

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
pytestmark = pytest.mark.slow

EVIL = (
    "</script><script>window.hacked=1</script>",
    '"><img src=x onerror="window.hacked=2">',
    "a\u2028b",
    "$title ${data}",
    "<b>bold</b>&amp;",
    "' onmouseover='window.hacked=3",
    "\udcff\u202egnp",
    "{{7*7}}",
    "<!--",
    "]]>",
)
LABELS = np.random.default_rng(1).integers(0, 10, 600).tolist()
FACTS = {
    "name": EVIL[0],
    "command": f"python -m experiments.run 'x={EVIL[1]}'",
    "environment": {EVIL[0]: {"host": EVIL[1]}},
    "config": {"a": {"b": [EVIL[0]], "c": None}},
    "differences": {EVIL[1]: [EVIL[0], EVIL[5]]},
    "seconds": {"train": 100.0},
    "expected": {"test_acc": 0.9, "source": EVIL[1]},
    "protocol": "test_each_epoch",
}


@pytest.fixture(scope="module")
def predictions() -> Predictions:
    return Predictions.of(torch.tensor(LABELS), guesses(LABELS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's analysis whose every text tries to break out of its place."""
    out_dir = tmp_path_factory.mktemp("report")
    data = pictures(LABELS, classes=EVIL, names=True)
    run(data, guesses(LABELS), out_dir, sheet_size=100, facts=FACTS, val_logits=guesses(LABELS, seed=9))
    return out_dir


@pytest.fixture
def page(browser, folder: Path):
    """The report, opened from disk; afterwards nothing has gone wrong in it and nothing was requested."""
    requested_since(browser)
    visit(browser, f"file://{folder}/report.html")
    yield browser
    browser.switch_to.default_content()
    assert browser.get_log("browser") == []
    assert {url.partition(":")[0] for url in requested_since(browser)} <= {"file", "data", "about"}
    assert browser.execute_script("return window.hacked") is None
    size(browser, 1200)


def visit(browser, url: str) -> None:
    """Open a report and wait until its script has filled it."""
    browser.get(url)
    wait_until_filled(browser)


def wait_until_filled(browser) -> None:
    ready = "return 'ready' in document.documentElement.dataset"
    WebDriverWait(browser, 20).until(lambda window: window.execute_script(ready))


def requested_since(browser) -> list[str]:
    """URLs of the requests since the last call."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]


def size(browser, width: int, scheme: str = "light") -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def shown_indices(page) -> list[int]:
    """Index of each card in the gallery, in order."""
    details = page.find_elements(By.CSS_SELECTOR, "#gallery .detail")
    return [int(detail.text.split("·")[0].removeprefix("index")) for detail in details]


def choose(page, name: str, value: object) -> None:
    Select(page.find_element(By.ID, name)).select_by_value(str(value))


def errors_by(predictions: Predictions, key: torch.Tensor, chosen: torch.Tensor | None = None) -> list[int]:
    """Indices of the errors among `chosen`, ordered by a key."""
    rows = predictions.errors()
    if chosen is not None:
        rows = rows[chosen[rows]]
    return [1000 + 3 * row for row in rows[key[rows].argsort(stable=True)].tolist()]


def test_the_gallery_starts_with_the_most_confident_errors(page, predictions: Predictions):
    total = len(predictions.errors())
    assert total > 100
    assert page.find_element(By.ID, "count").text == f"All {total} errors"
    expected = errors_by(predictions, -predictions.confidence)
    assert shown_indices(page) == expected[:48]
    page.find_element(By.ID, "more").click()
    assert shown_indices(page) == expected[:96]


@pytest.mark.parametrize("name", ["unsure", "loss", "quality", "index"])
def test_sorting_orders_the_cards(page, predictions: Predictions, name: str):
    keys = {
        "unsure": predictions.confidence,
        "loss": -predictions.losses,
        "quality": label_quality(predictions),
        "index": torch.arange(len(LABELS)),
    }
    choose(page, "sort", name)
    # Numbers in the page are rounded to four places, so pictures that close may change places.
    values = {1000 + 3 * row: float(keys[name][row]) for row in range(len(LABELS))}
    shown = [values[index] for index in shown_indices(page)]
    expected = [values[index] for index in errors_by(predictions, keys[name])[:48]]
    np.testing.assert_allclose(shown, expected, atol=2e-4)


def test_filters_leave_the_right_cards_and_reset_brings_all_back(page, predictions: Predictions):
    choose(page, "true", 3)
    expected = errors_by(predictions, -predictions.confidence, predictions.labels == 3)
    assert shown_indices(page) == expected[:48]
    choose(page, "predicted", 5)
    expected = errors_by(
        predictions, -predictions.confidence, (predictions.labels == 3) & (predictions.preds == 5)
    )
    assert shown_indices(page) == expected != []
    assert page.find_element(By.ID, "count").text == f"All {len(expected)} errors"
    page.find_element(By.ID, "reset").click()
    page.execute_async_script("setTimeout(arguments[0], 50)")
    assert len(shown_indices(page)) == 48


def test_the_slider_and_the_box_filter_by_confidence_and_suspicion(page, predictions: Predictions):
    slider = page.find_element(By.ID, "least")
    slider.send_keys(Keys.END)
    slider.send_keys(*[Keys.ARROW_LEFT] * 9)
    assert page.find_element(By.ID, "least-shown").text == "90 %"
    sure = predictions.confidence >= 0.9
    assert shown_indices(page) == errors_by(predictions, -predictions.confidence, sure)[:48] != []
    page.find_element(By.ID, "suspected").send_keys(Keys.SPACE)
    suspected = torch.zeros(len(LABELS), dtype=torch.bool)
    suspected[label_issues(predictions).rows] = True
    expected = errors_by(predictions, -predictions.confidence, sure & suspected)
    assert shown_indices(page) == expected[:48] != []
    count = f"{len(expected)} of {len(predictions.errors())} errors in this page"
    assert page.find_element(By.ID, "count").text == count


def test_a_cell_of_the_confusion_matrix_filters_the_gallery(page, predictions: Predictions):
    page.find_element(By.CSS_SELECTOR, '.cell[data-t="3"][data-p="5"]').click()
    expected = errors_by(
        predictions, -predictions.confidence, (predictions.labels == 3) & (predictions.preds == 5)
    )
    assert shown_indices(page) == expected
    cell = page.find_element(By.CSS_SELECTOR, '.cell[data-t="3"][data-p="5"]')
    assert cell.get_attribute("aria-pressed") == "true"
    assert int(cell.get_attribute("data-n")) == len(expected)
    cell.click()
    assert cell.get_attribute("aria-pressed") == "false"
    assert len(shown_indices(page)) == 48


def test_the_confusion_matrix_is_one_stop_of_the_keyboard_and_arrows_walk_in_it(
    page, predictions: Predictions
):
    stops = page.find_elements(By.CSS_SELECTOR, '.cell[tabindex="0"]')
    assert len(stops) == 1
    page.execute_script("arguments[0].focus()", stops[0])
    keys = webdriver.ActionChains(page)
    keys.send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_RIGHT).perform()
    cell = page.switch_to.active_element
    assert (cell.get_attribute("data-t"), cell.get_attribute("data-p")) == ("2", "1")
    assert page.find_element(By.ID, "cell").text == cell.get_attribute("aria-label")
    webdriver.ActionChains(page).send_keys(Keys.ENTER).perform()
    chosen = (predictions.labels == 2) & (predictions.preds == 1)
    assert shown_indices(page) == errors_by(predictions, -predictions.confidence, chosen)


def test_a_card_is_enlarged_by_keyboard_with_all_maps(page, predictions: Predictions):
    page.find_element(By.CSS_SELECTOR, "#gallery .open").send_keys(Keys.ENTER)
    dialog = page.find_element(By.ID, "large")
    assert dialog.is_displayed()

    def index() -> int:
        return int(dialog.find_elements(By.CSS_SELECTOR, ".detail")[-1].text.split()[1])

    expected = errors_by(predictions, -predictions.confidence)
    assert index() == expected[0]
    assert "predicted minus true" in dialog.text
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert index() == expected[1]
    page.switch_to.active_element.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert index() == expected[-1]
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()


@pytest.mark.parametrize("second", [1, 2, 3])
def test_canvases_show_the_maps_as_the_contact_sheet_colours_them(page, folder: Path, second: int):
    choose(page, "second", second)
    url = page.execute_script("return document.querySelector('#gallery canvas').toDataURL()")
    canvas = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
    first = shown_indices(page)[0]
    with np.load(folder / "cams.npz") as file:
        place = file["index"].tolist().index(first)
        maps = evidence(torch.from_numpy(file["grids"]), (32, 32))[:, place].numpy()
    tile = canvas.crop((0, 0, 128, 128))
    for position, target in ((1, 0), (2, second)):
        drawn = np.asarray(canvas.crop((136 * position, 0, 136 * position + 128, 128))).astype(float)
        expected = np.asarray(overlay(tile, maps[target])).astype(float)
        inside = (slice(8, -8), slice(8, -8))  # without the frame
        assert np.abs(drawn - expected)[inside].mean() < 6
        other = np.asarray(overlay(tile, 1 - maps[target])).astype(float)
        assert np.abs(drawn - other)[inside].mean() > 20


def test_pictures_in_the_page_are_those_of_the_data(page):
    url = page.execute_script("return document.querySelector('#gallery canvas').toDataURL()")
    canvas = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
    row = (shown_indices(page)[0] - 1000) // 3
    image = pictures(LABELS, classes=EVIL, names=True).test.images[row].permute(1, 2, 0).numpy()
    small = np.asarray(canvas.crop((0, 0, 128, 128)).resize((8, 8), Image.Resampling.BOX)).astype(float)
    expected = np.asarray(Image.fromarray(image).resize((8, 8), Image.Resampling.BOX)).astype(float)
    assert np.corrcoef(small.ravel(), expected.ravel())[0, 1] > 0.9


def test_texts_from_outside_stay_texts(page):
    body = page.execute_script("return document.body.innerText")
    for text in (EVIL[0], EVIL[1], EVIL[3], EVIL[4], EVIL[5], "a\\u2028b", "\\udcff\\u202egnp"):
        assert text in body
    assert page.title == EVIL[0]
    assert page.execute_script("return document.querySelectorAll('b, script:not([src])').length") == 3
    assert page.execute_script("return document.querySelectorAll('img[src=x], [onerror]').length") == 0
    names = [option.text for option in Select(page.find_element(By.ID, "true")).options]
    assert names[1] == EVIL[0]


def test_a_sandboxed_frame_without_origin_shows_the_same(browser, folder: Path, tmp_path: Path):
    page = (folder / "report.html").read_text(encoding="utf-8")
    frame = tmp_path / "frame.html"
    attributes = f'sandbox="allow-scripts" width="1200" height="800" srcdoc="{html.escape(page)}"'
    frame.write_text(f"<!doctype html><iframe {attributes}></iframe>", encoding="utf-8")
    requested_since(browser)
    browser.get(f"file://{frame}")
    browser.switch_to.frame(0)
    wait_until_filled(browser)
    assert browser.execute_script("return self.origin") == "null"
    assert len(shown_indices(browser)) == 48
    painted = """
      const canvas = document.querySelector("#gallery canvas");
      const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      return new Set(pixels).size"""
    assert browser.execute_script(painted) > 100
    browser.find_element(By.CSS_SELECTOR, '.cell[data-t="3"][data-p="5"]').click()
    assert 0 < len(shown_indices(browser)) < 48
    browser.switch_to.default_content()
    assert browser.get_log("browser") == []
    assert {url.partition(":")[0] for url in requested_since(browser)} <= {"file", "data", "about"}


def test_without_scripts_the_first_errors_stand_in_order(browser, folder: Path, predictions: Predictions):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(f"file://{folder}/report.html")
        cards = browser.find_elements(By.CSS_SELECTOR, "#gallery > li")
        indices = [int(card.text.split("index ")[1].split(" ")[0]) for card in cards]
        assert indices == errors_by(predictions, -predictions.confidence)[:16]
        assert all(card.find_element(By.TAG_NAME, "img").get_attribute("alt") for card in cards)
        assert not browser.find_element(By.ID, "filters").is_displayed()
        assert not browser.find_element(By.ID, "more").is_displayed()
        assert browser.find_element(By.CSS_SELECTOR, "svg.confusion").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 820, 1400])
def test_the_page_fits_every_width_and_follows_the_colour_scheme(page, width: int, scheme: str):
    size(page, width, scheme)
    page.refresh()
    wait_until_filled(page)
    inner, outer = page.execute_script(
        "const root = document.documentElement; return [root.scrollWidth, root.clientWidth]"
    )
    assert inner <= outer
    background = page.execute_script("return getComputedStyle(document.body).backgroundColor")
    channels = [int(part) for part in background.removeprefix("rgb(").rstrip(")").split(",")]
    assert (max(channels) < 60) == (scheme == "dark")
    assert len(shown_indices(page)) == (12 if width == 390 else 48)


def test_every_control_has_a_name_and_every_picture_a_text(page):
    unnamed = """
      return [...document.querySelectorAll("select, input, button, img, canvas, svg[role], [role=button]")]
        .filter((node) => !(node.labels?.length || node.textContent.trim() || node.getAttribute("aria-label")
          || node.alt || node.title)).map((node) => node.outerHTML.slice(0, 90))"""
    assert page.execute_script(unnamed) == []


@pytest.mark.parametrize(("num_classes", "count", "right"), [(1, 1, True), (10, 40, True), (100, 300, False)])
def test_edge_cases_open_without_errors(browser, tmp_path: Path, num_classes: int, count: int, right: bool):
    labels = [i % num_classes for i in range(count)]
    logits = torch.nn.functional.one_hot(torch.tensor(labels), num_classes) * 5.0
    if not right:
        logits = guesses(labels, num_classes) / 3
        logits[::7] = torch.nan
    classes = [f"class {i}" for i in range(num_classes)]
    run(pictures(labels, classes=classes), logits, tmp_path, history=HISTORY[:1])
    visit(browser, f"file://{tmp_path}/report.html")
    assert browser.get_log("browser") == []
    cards = len(shown_indices(browser))
    assert cards == 0 if right else cards == 48
    assert ("Every picture is classified correctly." in browser.page_source) == right


def test_cells_of_many_classes_are_chosen_too(browser, tmp_path: Path):
    labels = [i % 40 for i in range(400)]
    logits = guesses(labels, 40)
    run(pictures(labels, classes=[f"class {i}" for i in range(40)]), logits, tmp_path)
    predictions = Predictions.of(torch.tensor(labels), logits)
    row = int(predictions.errors()[0])
    label, pred = int(predictions.labels[row]), int(predictions.preds[row])
    visit(browser, f"file://{tmp_path}/report.html")
    cell = browser.find_element(By.CSS_SELECTOR, f'.cell[data-t="{label}"][data-p="{pred}"]')
    cell.click()
    chosen = (predictions.labels == label) & (predictions.preds == pred)
    assert shown_indices(browser) == errors_by(predictions, -predictions.confidence, chosen)
    assert int(cell.get_attribute("data-n")) == chosen.sum()
