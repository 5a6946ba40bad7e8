"""The page of a comparison: links resolve, everything is escaped, and there are the parts that it has."""

import json
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from experiments.comparison.page import Extras, clock, page, rounded
from tests.comparison.by_hand import compared, make


class Parts(HTMLParser):
    """Gathers the links of a page, what it would load, its elements and the texts it shows or tells."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.links, self.loads, self.tags, self.texts = [], [], set(), []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add(tag)
        self.links += [value for key, value in attrs if key == "href" and tag == "a"]
        self.loads += [value for key, value in attrs if key in ("src", "href") and tag != "a"]
        self.texts += [value for _, value in attrs]
        assert not any(key.startswith("on") for key, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def test_the_page_loads_nothing_and_escapes_everything(runs: Path):
    make(runs / "evil<i>", lr=3, status="failed", words=("name=<img src=x onerror=alert(1)>",))
    make(runs / "odd", lr=0.7, val=0.1, words=("name=</style><b>bold</b>",))
    parts = Parts(page(compared(runs), runs.parent / "out"))
    assert all(value.startswith("data:") for value in parts.loads)
    assert not parts.tags & {"b", "iframe", "object"}
    assert any("<img src=x onerror=alert(1)>" in str(text) for text in parts.texts)
    assert any("</style><b>bold</b>" in str(text) for text in parts.texts)


def test_each_link_of_the_page_leads_to_something(runs: Path):
    make(runs / "with #? % signs", lr=0.9)
    for folder in (runs / "low0", runs / "with #? % signs"):
        (folder / "analysis" / "report.html").touch()
    out = runs.parent / "out" / "deeper"
    out.mkdir(parents=True)
    content = page(compared(runs), out)
    links = Parts(content).links
    assert all((out / unquote(link)).exists() for link in links if not link.startswith("#"))
    assert all(f'id="{link[1:]}"' in content for link in links if link.startswith("#"))
    assert sum(link.endswith("report.html") for link in links) == 2 * 2  # in both tables


def test_test_figures_of_all_but_the_best_can_be_hidden(runs: Path):
    content = page(compared(runs), runs, extras=Extras(hides_tests=True))
    best, other = (compared(runs).ranked[n].spread("test/acc") for n in (0, 1))
    assert str(best) in content
    assert str(other) in page(compared(runs), runs)
    assert str(other) not in content
    assert "Recall of each class" in page(compared(runs), runs)
    assert "Recall of each class" not in content
    assert "McNemar" not in content  # of test pictures, as the recalls


def test_without_validation_the_test_figures_are_shown_though_a_point_has_failed(tmp_path: Path):
    for number in range(2):
        make(tmp_path / str(number), lr=number, val=None, wrong=(number, 5))
    make(tmp_path / "failed", lr=9, val=None, status="failed")
    content = page(compared(tmp_path), tmp_path, extras=Extras(hides_tests=True))
    assert content.count('data-sort="0.966') == 4  # of the points and of their runs
    assert "val/acc</th>" not in content


def test_keys_that_differ_have_a_column_and_many_a_table_of_their_own(tmp_path: Path):
    make(tmp_path / "a", lr=0.1)
    make(tmp_path / "b", lr=0.2)
    assert '<th scope="col">lr</th>' in page(compared(tmp_path), tmp_path)
    make(tmp_path / "c", lr=0.2, **{f"option{n}": n for n in range(9)})
    content = page(compared(tmp_path), tmp_path)
    assert '<th scope="col">lr</th>' not in content
    assert "trainer.option7" in content


def test_what_was_asked_for_says_more_than_the_settings_that_it_makes(tmp_path: Path):
    make(tmp_path / "a")
    make(tmp_path / "b", words=("aug=cutout", "tracking=none"), height=16, width=16)
    content = page(compared(tmp_path), tmp_path)
    assert '<th scope="col">aug</th>' in content
    assert [content.count(f'data-sort="{value}"') for value in ("default", "cutout")] == [1, 1]
    assert '<th scope="col">height</th>' not in content
    assert "tracking" not in content  # changes no figure


@pytest.mark.parametrize("uri", ["http://tracks.example", "httpx:alert(1)//", "sqlite:///x"])
def test_the_page_of_the_tracker_is_an_address_of_the_web(runs: Path, uri: str):
    state = {uri: {"run_id": "r1", "experiment_id": "1"}}
    (runs / "low0" / "tracking.offset").write_text(json.dumps(state))
    links = [link for link in Parts(page(compared(runs), runs)).links if "#/experiments" in link]
    assert len(links) == (0 if uri.startswith("httpx") else 1)
    assert all(link.startswith(("http://tracks.example/#", "http://127.0.0.1:5000/#")) for link in links)


def test_where_a_pruned_point_ends_is_marked(runs: Path):
    make(runs / "pruned", lr=0.9, status="pruned")
    assert '<g class="s2 pruned"' in page(compared(runs), runs)


def test_where_nothing_can_be_compared_no_chart_says_what_matters(tmp_path: Path):
    make(tmp_path / "a", lr=0.1)
    make(tmp_path / "b", lr=0.2)
    assert "What matters" in page(compared(tmp_path), tmp_path)
    make(tmp_path / "c", lr=0.3, data="d2")
    content = page(compared(tmp_path), tmp_path, extras=Extras(importances={"optimizer.lr": 1.0}))
    assert "What matters" not in content
    assert "Best val/acc" not in content
    assert content.index("Not comparable") < content.index("<table")


def test_a_table_that_is_cut_says_who_writes_the_whole(runs: Path, monkeypatch):
    monkeypatch.setattr("experiments.comparison.page.ROWS", 3)
    assert "The first 3 of 6; experiments.compare writes all to pairs.csv." in page(compared(runs), runs)


def test_failures_of_one_kind_are_told_once_with_their_log(tmp_path: Path):
    for seed in range(3):
        make(tmp_path / str(seed), seed=seed, status="failed")
    content = page(compared(tmp_path), tmp_path)
    assert "3 runs: why &lt;b&gt;not&lt;/b&gt; | so" in content


def test_the_commands_and_the_state_of_a_sweep_are_told(runs: Path):
    extras = Extras(
        title="Sweep <x>", state="Running: 1 of 3", reload=30, commands=[("Extend it", "python -m a 'b c'")]
    )
    content = page(compared(runs), runs, extras=extras)
    assert "<title>Sweep &lt;x&gt;</title>" in content
    assert 'data-reload="30"' in content
    assert "Running: 1 of 3" in content
    assert "python -m a &#39;b c&#39;</pre>" in content


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (99, "99 s"), (150, "2 min"), (5_400, "90 min"), (9_000, "2.5 h")]
)
def test_times_are_said_as_people_do(seconds: float, said: str):
    assert clock(seconds) == said


def test_long_numbers_are_rounded_and_texts_stay():
    assert [rounded(text) for text in ("0.1", "0.0123456789", "randaugment", "1e-05")] == [
        "0.1",
        "0.01235",
        "randaugment",
        "1e-05",
    ]


@pytest.mark.slow
def test_the_page_of_two_hundred_trials_of_two_hundred_epochs_leaves_room_for_the_pictures(tmp_path: Path):
    lines = ["epoch,train/loss,val/acc,seconds", *(f"{n},{2 / n},{1 - 1 / n},1.5" for n in range(1, 201))]
    for number in range(200):
        folder = make(tmp_path / str(number), lr=number + 0.123456789, val=number / 201)
        (folder / "metrics.csv").write_text("\n".join([*lines, ""]))
    assert len(page(compared(tmp_path), tmp_path)) < 1_000_000  # those have 1.6 MB of 4
