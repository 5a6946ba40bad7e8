"""What a machine without network lacks is listed: benchmarks/gpu_wheels.txt against requirements.txt."""

import re
from importlib.metadata import PackageNotFoundError, requires, version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import PROJECT

LINES = (PROJECT / "benchmarks" / "gpu_wheels.txt").read_text(encoding="utf-8").splitlines()
THERE = {
    canonicalize_name(word) for line in LINES if line.startswith("# there: ") for word in line.split()[2:]
}
LISTED = dict(line.split("==") for line in LINES if not line.startswith("#"))
MACHINE = {
    **{"python_version": "3.12", "python_full_version": "3.12.3", "extra": ""},
    **{"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
}


def pins() -> dict[str, str]:
    lines = (PROJECT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if "==" in line]
    return {canonicalize_name(name): version for name, version in pairs}


def needs(requirement: Requirement) -> list[Requirement]:
    """What a package needs itself on that machine; nothing where it is not installed here."""
    try:
        found = [Requirement(text) for text in requires(requirement.name) or []]
    except PackageNotFoundError:
        return []
    extras = requirement.extras or {""}
    return [
        one
        for one in found
        if one.marker is None or any(one.marker.evaluate(MACHINE | {"extra": extra}) for extra in extras)
    ]


def closure(roots: list[Requirement], but: set[str]) -> set[str]:
    """The names of ``roots`` and all that they need in turn, without those in ``but`` and what they need."""
    names: set[str] = set()
    waiting = list(roots)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name not in names | but:
            names.add(name)
            waiting += needs(requirement)
    return names


def required() -> list[Requirement]:
    lines = (PROJECT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(text) for line in lines if (text := line.partition("#")[0].strip())]


pinned = pytest.mark.skipif(
    any(version(one.name) != pins()[canonicalize_name(one.name)] for one in required()),
    reason="other versions than those of constraints.txt are installed, and may need other packages",
)


@pinned
def test_every_requirement_is_there_or_listed_and_so_is_what_it_needs():
    torch = closure([Requirement("torch"), Requirement("torchvision")], set())
    missing = closure(required(), THERE | torch)
    assert {"hydra-core", "mlflow-skinny", "antlr4-python3-runtime"} <= missing  # the way there works
    assert missing - LISTED.keys() == set()


@pinned
def test_nothing_is_listed_in_vain():
    torch = closure([Requirement("torch"), Requirement("torchvision")], set())
    of_tests = LINES[LINES.index("# Of the tests and benchmarks:") :]
    for_tests = {line.partition("==")[0] for line in of_tests if not line.startswith("#")}
    assert LISTED.keys() - for_tests == closure(required(), THERE | torch)
    assert not LISTED.keys() & (THERE | torch)


def test_the_versions_are_those_of_the_last_tests():
    known = pins()
    assert {name: known.get(name) for name in LISTED} == LISTED


def test_what_the_project_names_itself_is_pinned_within_its_ranges():
    for requirement in required():
        name = canonicalize_name(requirement.name)
        if name in LISTED:
            assert requirement.specifier.contains(LISTED[name]), name


def test_the_lines_are_names_in_one_spelling_and_in_order():
    names = [line.partition("==")[0] for line in LINES if re.match(r"[a-z]", line)]
    assert names == [canonicalize_name(name) for name in names]
    assert len(names) == len(set(names))
