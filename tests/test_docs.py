"""The documents tell the truth: the picture is drawn from today's imports, and what they name exists."""

import re
import runpy
from pathlib import Path

import pytest

from tests.conftest import PROJECT

DRAW = runpy.run_path(str(PROJECT / "docs" / "draw.py"))
AUDIT = runpy.run_path(str(PROJECT / "docs" / "audit.py"))
PAGES = [
    *sorted((PROJECT / "docs").glob("*.md")),
    *(PROJECT / f"{name}.md" for name in ("CONTRIBUTING", "CHANGELOG")),
]
TOPS = ("benchmarks", "cifar_core", "conf", "docs", "experiments", "hydra_plugins", "tests")


def test_the_picture_shows_the_imports_of_today():
    drawn = (PROJECT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    assert drawn == DRAW["svg"](), "draw it again: python docs/draw.py"


def test_a_room_imports_only_the_rooms_that_the_table_allows():
    rooms = DRAW["rooms"]()
    bases = {room.package: name for name, room in rooms.items()}  # the last of each package
    upward = [
        f"{a} imports {b} ({count})"
        for (a, b), count in DRAW["arrows"]().items()
        if not (
            b in rooms[a].below
            or b == bases[rooms[a].package]
            or (rooms[a].package, rooms[b].package) == ("experiments", "cifar_core")
        )
    ]
    assert not upward


def test_the_table_itself_goes_down_only():
    names = list(DRAW["rooms"]())
    for place, name in enumerate(names):
        assert DRAW["rooms"]()[name].below <= set(names[place + 1 :]), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_that_is_named_exists(page: Path):
    words = re.findall(r"`([^`\s]+)`|\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    paths = [PROJECT / code for code, _ in words if code.split("/")[0] in TOPS and "<" not in code]
    paths += [page.parent / link for _, link in words if link]
    missing = [str(path) for path in paths if not list(path.parent.glob(path.name))]
    assert paths
    assert not missing


def test_the_table_of_dependencies_has_what_is_required_at_the_pinned_versions():
    page = (PROJECT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([\w-]+) \| ([\d.]+) \|", page, re.MULTILINE))
    required = re.findall(
        r"^[\w-]+", (PROJECT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    pins = (PROJECT / "constraints.txt").read_text(encoding="utf-8").lower().splitlines()
    assert list(rows) == required, "make audit"
    assert {f"{name}=={version}" for name, version in rows.items()} <= set(pins), "make audit"


def test_an_audit_tells_findings_from_packages_that_could_not_be_asked_for():
    page = AUDIT["page"]({"torch": "CVE-2026-1", "mlflow": "none"}, "pillow: no answer")
    cells = {row.split(" | ")[0]: row.split(" | ")[-1] for row in page.splitlines() if row.startswith("| ")}
    assert "Answers came for 2 of" in page
    assert "1 of them with known" in page
    assert "pillow: no answer" in page
    assert [cells[f"| {name}"] for name in ("torch", "mlflow", "pillow")] == [
        "CVE-2026-1 |",
        "none |",
        "not asked |",
    ]
