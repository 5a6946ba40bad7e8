"""page.js in a browser: tables that sort, filter and follow a choice, and a page that is loaded again."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cifar_core.report.markup import Cell, render

pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
pytestmark = pytest.mark.slow

from selenium.webdriver import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

PAGE = """{% extends "base.html" %}
{% import "parts.html" as parts %}
{% block main %}
{% call parts.section("Board", id="board") %}
{{ parts.filter("runs") }}
<div class="scroll">{{ parts.table(head, rows, sortable=true, id="runs", ids="abcde", class="board") }}</div>
{% endcall %}
{% call parts.section("Other", kind="warning") %}
{{ parts.filter("other") }}
<div class="scroll">{{ parts.table(["x"], [["1"], ["2"]], id="other") }}</div>
<dialog><p>Large</p></dialog>
{% endcall %}
{% endblock %}
"""
EVIL = "\"><img src=x onerror='window.hacked=1'></script><script>window.hacked=2</script>\u202e\udcff"
ROWS = [
    ["first", "0.1", "cutout", Cell("9.50 %", 0.095), EVIL],
    ["second", "0.15", "cutout", Cell("78.10 %", 0.781), "y" * 90],
    ["third", "0.1", "none", Cell("-", None), EVIL],
    ["fourth", "1e-3", "none", Cell("100.00 %", 1.0), EVIL],
    ["fifth", "", "none", Cell("nan", float("nan")), EVIL],
]
HEAD = ["name", "lr", "aug", "val/acc", EVIL]


@pytest.fixture
def page(browser, tmp_path: Path) -> Iterator:
    """A page with a leaderboard; `tick()` is what happens every 30 seconds, at the test's will."""
    hold = "window.setInterval = (act, wait) => { window.tick = act; window.wait = wait; }"
    script = browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": hold})
    (tmp_path / "page.html").write_text(PAGE, encoding="utf-8")
    source = render(
        tmp_path / "page.html", scripts=["page.js"], title=EVIL, lead=EVIL, head=HEAD, rows=ROWS, reload=30
    )
    (tmp_path / "out.html").write_text(source, encoding="utf-8")
    browser.get_log("browser")
    browser.get(f"file://{tmp_path}/out.html")
    yield browser
    assert browser.get_log("browser") == []
    assert browser.execute_script("return window.hacked") is None
    browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def names(page, table: str = "runs") -> list[str]:
    """The first cell of each row that is shown, in order."""
    rows = page.find_elements(By.CSS_SELECTOR, f"#{table} tbody tr:not([hidden]) th")
    return [row.text for row in rows]


def choose(page, ids: str) -> None:
    """Choose ids as a chart does."""
    detail = f"{{ids: {ids}, from: document.body}}"
    page.execute_script(f"document.dispatchEvent(new CustomEvent('choose', {{detail: {detail}}}))")


def is_loaded_again(page) -> bool:
    """Let the time pass, and tell whether the page that was there goes."""
    page.execute_script("window.old = true; window.tick()")
    return not page.execute_script("return window.old === true")  # the driver waits for a load that has begun


def test_a_header_sorts_by_values_with_the_keyboard_too_and_what_is_empty_comes_last(page):
    header = page.find_elements(By.CSS_SELECTOR, "#runs thead th")[3]
    header.find_element(By.TAG_NAME, "button").click()
    assert names(page) == ["first", "second", "fourth", "third", "fifth"]
    assert header.get_attribute("aria-sort") == "ascending"
    page.switch_to.active_element.send_keys(Keys.ENTER)
    assert names(page) == ["fourth", "second", "first", "third", "fifth"]
    assert header.get_attribute("aria-sort") == "descending"
    page.switch_to.active_element.send_keys(Keys.SHIFT, Keys.TAB)
    page.switch_to.active_element.send_keys(Keys.SHIFT, Keys.TAB)
    page.switch_to.active_element.send_keys(Keys.SPACE)
    assert names(page) == ["fourth", "first", "third", "second", "fifth"]  # 1e-3 0.1 0.1 0.15 and nothing
    assert header.get_attribute("aria-sort") == "none"


def test_the_box_leaves_the_rows_that_have_all_words(page):
    box = page.find_element(By.CSS_SELECTOR, "input[data-filters=runs]")
    for words, left in {
        "cutout lr=0.1": ["first"],  # not 0.15
        "LR=0.1": ["first", "third"],
        "aug=cut": ["first", "second"],  # the beginning of a value
        "onerror": ["first", "third", "fourth", "fifth"],
        "nothing like it": [],
    }.items():
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(words)
        assert names(page) == left
        assert f"{len(left)} of 5 shown" in page.find_element(By.CSS_SELECTOR, "#board .live").text
    page.find_element(By.CSS_SELECTOR, "#board .live button").click()
    assert len(names(page)) == 5
    assert box.get_attribute("value") == ""
    assert page.switch_to.active_element == box
    assert not page.find_element(By.CSS_SELECTOR, "#board .live").is_displayed()


def test_rows_that_a_chart_has_not_chosen_are_hidden_until_all_are_shown_again(page):
    page.execute_script("document.addEventListener('choose', (e) => { window.ids = e.detail.ids; })")
    choose(page, "new Set(['b', 'd'])")
    assert names(page) == ["second", "fourth"]
    assert names(page, "other") == ["1", "2"]
    page.find_element(By.CSS_SELECTOR, "input[data-filters=other]").send_keys("1")
    assert names(page, "other") == ["1"]
    assert "2 of 5 chosen" in page.find_element(By.CSS_SELECTOR, "#board .live").text
    page.find_element(By.CSS_SELECTOR, "input[data-filters=runs]").send_keys("cutout")
    assert names(page) == ["second"]
    page.find_element(By.CSS_SELECTOR, "#board .live button").click()
    assert len(names(page)) == 5
    assert page.execute_script("return window.ids") is None


def test_a_page_is_loaded_again_unless_its_reader_is_at_work(page):
    assert page.execute_script("return window.wait") == 30_000
    box = page.find_element(By.CSS_SELECTOR, "input[data-filters=runs]")
    box.send_keys("x")
    assert not is_loaded_again(page)
    box.send_keys(Keys.BACK_SPACE)
    choose(page, "new Set(['a'])")
    assert not is_loaded_again(page)
    choose(page, "null")
    page.execute_script("document.querySelector('dialog').showModal()")
    assert not is_loaded_again(page)
    page.execute_script("document.querySelector('dialog').close()")
    hidden = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true})"
    page.execute_script(hidden % "true")
    assert not is_loaded_again(page)
    page.execute_script(hidden % "false")
    assert is_loaded_again(page)
    page.find_element(By.CSS_SELECTOR, "#runs thead button").click()
    assert not is_loaded_again(page)


@pytest.mark.parametrize("width", [390, 820])
def test_a_wide_table_scrolls_in_its_own_box_and_its_first_column_stays(page, width: int):
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    sizes = "const r = document.documentElement; return [r.scrollWidth, r.clientWidth]"
    inner, outer = page.execute_script(sizes)
    assert inner <= outer
    moved = """
      const box = document.querySelector(".scroll"), cells = box.querySelectorAll("tbody tr:first-child > *");
      const left = () => [cells[0], cells[1]].map((cell) => cell.getBoundingClientRect().left);
      const before = left();
      box.scrollLeft = 200;
      const after = left();
      return before.map((x, k) => x - after[k])"""
    assert page.execute_script(moved) == [0, 200]


def test_the_page_is_operated_by_keyboard_alone(page):
    ActionChains(page).send_keys(Keys.TAB).perform()
    assert page.switch_to.active_element.get_attribute("data-filters") == "runs"
    ActionChains(page).send_keys("second").perform()
    ActionChains(page).send_keys(Keys.TAB, Keys.ENTER).perform()
    assert len(names(page)) == 5
