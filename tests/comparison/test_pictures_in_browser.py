"""Pictures that tell runs apart, in a browser: the page filters them by two runs."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.select import Select  # noqa: E402

from experiments.comparison.pictures import gallery  # noqa: E402
from tests.comparison.by_hand import compared  # noqa: E402
from tests.comparison.test_pictures import digits as digits  # noqa: E402 - a fixture
from tests.comparison.test_pictures import rendered  # noqa: E402
from tests.comparison.test_pictures import root as root  # noqa: E402 - a fixture
from tests.report.conftest import browser as browser  # noqa: E402 - a fixture
from tests.report.test_page_in_browser import size  # noqa: E402

NAMES = """return [...document.querySelectorAll('#picture-cards > li:not([hidden])')]
.map((card) => card.querySelector('.detail').textContent)"""

pytestmark = pytest.mark.slow


def test_the_page_filters_by_two_runs(browser, root: Path, tmp_path: Path):
    found = gallery(compared(root))
    (tmp_path / "shown.html").write_text(rendered(tmp_path, found), encoding="utf-8")
    size(browser, 390)
    browser.get(f"file://{tmp_path}/shown.html")

    def choose(name: str, value: object) -> None:
        Select(browser.find_element(By.ID, f"picture-{name}")).select_by_value(str(value))

    def names() -> list[str]:
        """Names on the cards, once the button has brought all."""
        more = browser.find_element(By.ID, "picture-more")
        while more.is_displayed():
            more.send_keys(Keys.ENTER)
        return browser.execute_script(NAMES)

    right = [set(map(int, card.right.split())) for card in found.cards]
    preds = [card.preds.split() for card in found.cards]
    every, counts = np.array([card.name for card in found.cards]), found.counts
    assert browser.execute_script(NAMES) == every[:8].tolist()
    assert names() == every.tolist()
    for (a, b), kind in product(((0, 1), (2, 0)), ("missed", "first", "second", "differ")):
        choose("run-0", a)
        choose("run-1", b)
        choose("choice", kind)
        x, y = found.runs[a].tag, found.runs[b].tag
        said, count, held = {
            "missed": ("missed by all runs", counts["missed"], [card.is_missed for card in found.cards]),
            "first": (f"{x} right, {y} wrong", counts["only"][a][b], [a in r and b not in r for r in right]),
            "second": (f"{y} right, {x} wrong", counts["only"][b][a], [b in r and a not in r for r in right]),
            "differ": (
                f"{x} and {y} answer differently",
                counts["differ"][a][b],
                [p[a] != p[b] for p in preds],
            ),
        }[kind]
        assert names() == every[held].tolist() != []
        line = browser.find_element(By.ID, "picture-count").text
        assert line == f"{said}: {count} of {counts['total']} pictures; {sum(held)} are here"
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.get_log("browser") == []
    size(browser, 1200)
