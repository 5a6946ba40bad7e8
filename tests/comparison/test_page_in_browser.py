"""The page of a comparison in a browser: what a person can do with it, and what it must never do."""

from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from selenium.webdriver.common.by import By

from experiments.comparison.page import Extras, page
from tests.comparison.by_hand import compared, make
from tests.report.test_page_in_browser import requested_since, size

EVIL = "</script><script>window.hacked=1</script>"
WORDS = ("name=" + EVIL, "name='\" onmouseover='window.hacked=2", "name={{7*7}}", "name=\u202egnp")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of five configurations, one of them failed, whose every text tries to break out of its place."""
    root = tmp_path_factory.mktemp("comparison")
    for number, words in enumerate(WORDS):
        for seed in range(2):
            val = 0.9 - 0.1 * number + 0.01 * seed
            folder = make(root / f"{number} #{seed}", lr=number + 0.5, seed=seed, val=val, words=(words,))
            (folder / "analysis" / "report.html").write_text("<title>report</title>")
    make(root / "failed", lr=9, status="failed", words=(WORDS[0],))
    extras = Extras(
        title=EVIL,
        state=EVIL,
        importances={EVIL: 0.4, "optimizer.lr": 0.6},
        commands=[(EVIL, EVIL)],
    )
    (root / "page.html").write_text(page(compared(root), root, extras=extras), encoding="utf-8")
    return root


@pytest.fixture
def opened(browser, place: Path):
    """The page, opened from disk; afterwards nothing has gone wrong in it and nothing was requested."""
    requested_since(browser)
    browser.get(f"file://{place}/page.html")
    yield browser
    assert browser.get_log("browser") == []
    network = ("http", "ws", "ftp")
    assert not [url for url in requested_since(browser) if url.startswith(network)]
    assert browser.execute_script("return window.hacked") is None
    size(browser, 1200)


def rows(window, table: str) -> list[str]:
    """The first cells of the rows that are shown."""
    cells = window.find_elements(By.CSS_SELECTOR, f"#{table} tbody tr:not([hidden]) > :first-child")
    return [cell.text for cell in cells]


def test_the_board_is_sorted_and_filtered(opened):
    assert rows(opened, "board") == ["A", "B", "C", "D", "E"]
    opened.find_element(By.XPATH, "//table[@id='board']//th[contains(., 'val/acc')]//button").click()
    assert rows(opened, "board") == ["D", "C", "B", "A", "E"]  # what has no figure stays last
    opened.find_element(By.CSS_SELECTOR, "[data-filters=board]").send_keys("lr=1.5")
    assert rows(opened, "board") == ["B"]
    opened.find_element(By.CSS_SELECTOR, "[data-filters=all]").send_keys("failed")
    assert len(rows(opened, "all")) == 1


def test_what_a_chart_chooses_is_chosen_in_the_tables(opened):
    chosen = "{detail: {ids: new Set(['A']), from: document.body}}"
    opened.execute_script(f"document.dispatchEvent(new CustomEvent('choose', {chosen}))")
    assert rows(opened, "board") == ["A"]
    assert len(rows(opened, "all")) == 2


def test_each_link_leads_to_something(opened, place: Path):
    links = {link.get_attribute("href") for link in opened.find_elements(By.CSS_SELECTOR, "a")}
    files = [Path(unquote(urlparse(link).path)) for link in links]
    assert sum(file.name == "report.html" for file in files) == 8
    assert all(file.exists() for file in files)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 820, 1400])
def test_the_page_is_never_wider_than_the_window(opened, width: int, scheme: str):
    size(opened, width, scheme)
    opened.refresh()
    wide = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    needed, given = opened.execute_script(wide)
    assert needed <= given
