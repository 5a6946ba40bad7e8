"""The page of a sweep that runs: written by one process at a time, out of the way, and worth no trial."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiments.sweep import live
from experiments.sweep.live import Live
from experiments.sweep.server import Server
from experiments.sweep.trials import Trial

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Server:
    return Server(tracked=False)


@pytest.fixture
def page(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    """The page of a sweep of which one trial runs, written as often as there is news."""
    monkeypatch.setattr(live, "SECONDS", 0.0)
    monkeypatch.setattr(live, "SHARE", 1e9)
    Trial(0, {"seed": "0"}, {}, "s0", tmp_path / "s0").write()
    page = Live(server, tmp_path)
    yield page
    page.end()


def look(page: Live, folder: Path, until: Callable[[], object]) -> list[str]:
    """Look again and again, as the controller does, until it is as wanted; return what was told."""
    trial, told, end = Trial.read(folder / "s0" / "trial.json"), [], time.monotonic() + 60
    while not until():
        assert time.monotonic() < end
        told.append(page.look([trial], 0, 3))
        time.sleep(0.005)
    return [line for line in told if line]


def new_epoch(folder: Path) -> None:
    with (folder / "s0" / "metrics.csv").open("a") as file:
        file.write("epoch,val/acc\n")


def test_the_page_is_written_when_there_is_news_and_told_of_once(
    page: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "report.html"
    told = look(page, tmp_path, lambda: path.exists() and page._call is None)
    assert told == [f"page          {path}"]
    assert "Running: 0 of 3 trials have ended; now s0." in path.read_text()
    page.look([Trial.read(tmp_path / "s0" / "trial.json")], 0, 3)
    assert page._call is None  # nothing is new
    page.look([], 0, 3)  # the trial has ended
    assert page._call is not None
    look(page, tmp_path, lambda: page._call is None)
    monkeypatch.setattr(live, "SHARE", 1e-6)
    for begins in (True, False):  # the second has to wait for the CPU time of the first to become little
        new_epoch(tmp_path)
        assert page.look([Trial.read(tmp_path / "s0" / "trial.json")], 0, 3) == ""
        assert (page._call is not None) == begins
        look(page, tmp_path, lambda: page._call is None)


def test_a_page_that_cannot_be_written_is_told_of_once_and_tried_again(page: Live, tmp_path: Path):
    path, calls = tmp_path / "report.html", []

    def third() -> bool:
        if page._call is not None and page._call not in calls:
            calls.append(page._call)
        return len(calls) == 3

    path.mkdir()
    (told,) = look(page, tmp_path, third)
    assert told.startswith("the page is not written: ")
    assert "Is a directory" in told
    path.rmdir()
    assert look(page, tmp_path, path.exists) == []
    assert look(page, tmp_path, lambda: page._call is None) == [f"page          {path}"]


def test_a_page_that_hangs_is_given_up_and_holds_nobody_up(
    page: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "s1").mkdir()
    os.mkfifo(tmp_path / "s1" / "trial.json")  # which nobody fills
    assert look(page, tmp_path, lambda: page._call is not None) == []
    call = page._call
    assert call is not None
    number = call._process.pid
    polite = min(19, os.getpriority(os.PRIO_PROCESS, 0) + 10)
    look(page, tmp_path, lambda: os.getpriority(os.PRIO_PROCESS, number) == polite)
    new_epoch(tmp_path)
    looks = iter(range(20))
    look(page, tmp_path, lambda: next(looks) == 19)
    assert page._call is call  # no second one
    (tmp_path / f".report.html.{number}").touch()
    monkeypatch.setattr(live, "PATIENCE", 0.0)
    (told,) = look(page, tmp_path, lambda: page._call is not call)
    assert told.startswith("the page is not written: not done after ")
    assert call._process.exitcode == -9
    assert not list(tmp_path.glob(".report.html.*"))
