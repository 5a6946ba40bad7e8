"""The page of a comparison: one file, nothing to load or run, everything escaped."""

import re
from html.parser import HTMLParser
from pathlib import Path

from experiments.comparison.page import page
from tests.comparison.by_hand import compared, make


class Links(HTMLParser):
    """Gathers what a page would load or run, and the texts it shows."""

    def __init__(self) -> None:
        super().__init__()
        self.loads, self.tags, self.texts = [], set(), []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add(tag)
        self.loads += [value for key, value in attrs if key in ("src", "href") and value != "data:,"]
        assert not any(key.startswith("on") for key, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_is_one_file_without_script_and_escapes_everything(runs: Path):
    make(runs / "evil<script>alert(1)</script>", status="failed", words=("<img src=x onerror=alert(1)>",))
    make(runs / "odd", lr=0.7, val=0.1, words=("name=</style><b>bold</b>",))
    parser = Links()
    parser.feed(page(compared(runs)))
    assert parser.loads == []
    assert not parser.tags & {"script", "img", "b", "i", "iframe", "object"}
    assert {"svg", "table"} <= parser.tags
    assert any("evil<script>" in text for text in parser.texts)
    assert "C: lr=0.7 </style><b>bold</b>" in parser.texts


def test_charts_hold_few_lines_and_always_the_first(tmp_path: Path):
    for number in range(6):
        make(tmp_path / str(number), lr=0.1 * (number + 1), val=0.9 - 0.1 * number)
    titles = re.findall(r"<figcaption>val/acc: (.*?)</figcaption>", page(compared(tmp_path)))
    assert titles == ["A, B, C, D", "A, E, F"]
