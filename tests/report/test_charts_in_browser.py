"""Charts in a browser: what the pointer and the keys say, lift and choose."""

import random
import re
from pathlib import Path

import pytest

from cifar_core.report.charts import Line, curves
from cifar_core.report.keys import Axis, parallel, slices
from cifar_core.report.markup import render
from tests.report.test_page_in_browser import requested_since, size

pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

pytestmark = pytest.mark.slow

EVIL = "</script><script>window.hacked=1</script>'\"&"
TEMPLATE = """{% extends "base.html" %}{% import "parts.html" as parts %}{% block main %}
{{ curves }}{{ slices }}{{ parallel }}
<div class="scroll">{{ parts.table(["run", "lr"], rows, sortable=true, id="runs", ids=ids) }}</div>
{% endblock %}"""

NOISE = random.Random(0)
COUNT = 30
IDS = [f"{EVIL} {k}" for k in range(COUNT)]
RATES = [10 ** NOISE.uniform(-4, 0) for _ in IDS]
AUGS = [NOISE.choice(["none", EVIL, "cutout"]) for _ in IDS]
CURVES = [[(epoch, k / 100 + epoch / 20) for epoch in range(1, 11)] for k in range(COUNT)]
ACCS = [points[-1][1] for points in CURVES]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("charts")
    (folder / "charts.html").write_text(TEMPLATE, encoding="utf-8")
    axes, result = [Axis("optimizer.lr", RATES), Axis("aug", AUGS)], Axis("val/acc", ACCS)
    lines = [Line(one, f"run {k} {EVIL}", CURVES[k], "best" if k == 29 else "") for k, one in enumerate(IDS)]
    page = render(
        folder / "charts.html",
        scripts=["page.js", "charts.js"],
        title="Charts",
        lead="",
        curves=curves("val/acc", lines),
        slices=slices(axes, result, IDS),
        parallel=parallel("All keys", axes, result, IDS),
        rows=list(zip(IDS, RATES, strict=True)),
        ids=IDS,
    )
    path: Path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    return f"file://{path}"


@pytest.fixture
def page(browser, address: str):
    """The charts; afterwards nothing has gone wrong in them and nothing was requested."""
    size(browser, 1200)
    requested_since(browser)
    browser.get(address)
    yield browser
    assert browser.get_log("browser") == []
    assert {url.partition(":")[0] for url in requested_since(browser)} <= {"file", "data"}
    assert browser.execute_script("return window.hacked") is None
    size(browser, 1200)


def at(page, selector: str, x: float, y: float) -> ActionChains:
    """Move the pointer to a place in an svg, in its own units."""
    svg = page.find_element(By.CSS_SELECTOR, selector)
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", svg)
    box = page.execute_script(
        "const b = arguments[0].viewBox.baseVal; return [b.width, b.height, arguments[0].clientWidth]", svg
    )
    scale = box[2] / box[0]
    dx, dy = (scale * (place - whole / 2) for place, whole in ((x, box[0]), (y, box[1])))
    return ActionChains(page, duration=20).move_to_element_with_offset(svg, round(dx), round(dy))


def lifted(page, selector: str) -> list[str]:
    return [
        one.get_attribute("data-id") for one in page.find_elements(By.CSS_SELECTOR, f"{selector} .lifted")
    ]


def rows_left(page) -> set[str]:
    """Ids of the rows that are shown; what is not among them is faded in every chart."""
    script = "return [...document.querySelectorAll(arguments[0])].map((node) => node.dataset.id)"
    rows = set(page.execute_script(script, "#runs tbody tr:not([hidden])"))
    page.execute_script("return new Promise(requestAnimationFrame)")
    for chart in (".curves", ".slice", ".parallel"):
        assert set(page.execute_script(script, f"{chart} [data-id]:not(.faded)")) == rows
    return rows


def settled(page) -> set[str]:
    page.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    return rows_left(page)


def place(page, number: int) -> float:
    """Where the dot of a run stands along the slice of lr."""
    return float(page.find_elements(By.CSS_SELECTOR, ".slice circle")[number].get_attribute("cx"))


def test_the_pointer_names_a_line_and_lifts_it_in_every_chart_and_table(page):
    line = page.find_elements(By.CSS_SELECTOR, ".curves g[data-id] .line")[7]
    x, y = page.execute_script(
        """const line = arguments[0];
        const point = line.getPointAtLength(line.getTotalLength());
        const inside = point.matrixTransform(line.transform.baseVal.consolidate().matrix);
        return [inside.x, inside.y]""",
        line,
    )
    at(page, ".curves", x - 1, y).perform()
    tip = page.find_element(By.CSS_SELECTOR, ".tip").text
    number = int(re.match(r"run (\d+)", tip)[1])
    assert tip == f"run {number} {EVIL} epoch 10: {100 * ACCS[number]:.4g} %"
    for chart in (".curves", ".parallel", "#runs"):
        assert lifted(page, chart) == [IDS[number]]
    assert lifted(page, ".slices") == [IDS[number]] * 2
    ActionChains(page).move_to_element(
        page.find_element(By.CSS_SELECTOR, "#runs tbody tr:nth-child(3)")
    ).perform()
    assert lifted(page, ".curves") == [IDS[2]]
    ActionChains(page).move_to_element(page.find_element(By.TAG_NAME, "h1")).perform()
    assert lifted(page, "body") == []


def test_keys_walk_along_a_line_and_to_the_next_one(page):
    page.find_element(By.CSS_SELECTOR, ".curves").send_keys(Keys.ARROW_UP)
    tip = page.find_element(By.CSS_SELECTOR, ".tip")
    assert tip.text == f"run 29 {EVIL} epoch 10: 79 %"
    page.switch_to.active_element.send_keys(Keys.ARROW_LEFT, Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert tip.text == f"run 27 {EVIL} epoch 9: 72 %"
    assert tip.get_attribute("role") == "status"
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not tip.is_displayed()


def test_brushes_choose_together_and_are_taken_away(page):
    order = sorted(range(COUNT), key=lambda k: RATES[k])
    low, high = place(page, order[9]), place(page, order[20])
    scale = page.execute_script("return document.querySelector('.slice').clientWidth / 300")
    at(page, ".slice", low - 2, 190).click_and_hold().move_by_offset(
        round(scale * (high - low + 4)), 0
    ).release().perform()
    some = {IDS[k] for k in order[9:21]}
    assert settled(page) == some
    assert len([one for one in page.find_elements(By.CSS_SELECTOR, ".brushed") if one.is_displayed()]) == 2
    cutout = {one for one, aug in zip(IDS, AUGS, strict=True) if aug == "cutout"}
    assert 0 < len(some & cutout) < len(some)
    names = list(dict.fromkeys(AUGS))
    axis = page.find_elements(By.CSS_SELECTOR, ".parallel .brush")[1]
    axis_x = float(axis.find_element(By.CSS_SELECTOR, ".hit").get_attribute("x")) + 18
    low, high = map(float, axis.get_attribute("data-span").split())
    middle = low + (high - low) * (names.index("cutout") + 0.5) / 3
    at(page, ".parallel", axis_x, middle).click_and_hold().move_by_offset(0, 12).release().perform()
    assert settled(page) == some & cutout
    assert "aug cutout" in page.find_element(By.CSS_SELECTOR, ".chosen").text
    at(page, ".parallel", axis_x, middle).click().perform()
    assert settled(page) == some
    ActionChains(page).send_keys(Keys.ESCAPE).perform()
    assert settled(page) == set(IDS)


def test_keys_brush_and_the_table_s_button_shows_all_again(page):
    axis = page.find_elements(By.CSS_SELECTOR, ".parallel .brush")[2]
    page.execute_script("arguments[0].focus()", axis)
    keys = ActionChains(page).send_keys(*[Keys.ARROW_UP] * 10)
    keys.key_down(Keys.SHIFT).send_keys(*[Keys.ARROW_DOWN] * 5).key_up(Keys.SHIFT).perform()
    low, high = min(ACCS), max(ACCS)
    inside = {one for one, acc in zip(IDS, ACCS, strict=True) if 0.5 <= (acc - low) / (high - low) <= 0.75}
    assert settled(page) == inside
    page.find_element(By.XPATH, "(//p[following::table]/button[text()='show all'])[last()]").click()
    assert settled(page) == set(IDS)
    assert not [one for one in page.find_elements(By.CSS_SELECTOR, ".brushed") if one.is_displayed()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 820, 1400])
def test_charts_fit_every_width_and_letters_stay_readable(page, width: int, scheme: str):
    size(page, width, scheme)
    page.refresh()
    assert page.execute_script("const r = document.documentElement; return r.scrollWidth <= r.clientWidth")
    heights = page.execute_script(
        "return [...document.querySelectorAll('svg.chart text')].map((one) => one.getScreenCTM().d *"
        " parseFloat(getComputedStyle(one).fontSize))"
    )
    assert 9 < min(heights) <= max(heights) < 19
