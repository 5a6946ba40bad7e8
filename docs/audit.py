"""Write docs/dependencies.md: versions, licences and known vulnerabilities of what constraints.txt pins."""

import datetime
import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

PROJECT = Path(__file__).parent.parent
PAGE = PROJECT / "docs" / "dependencies.md"
NOTE = re.compile("GPL|MPL|Mozilla|Propriet|not told", re.IGNORECASE)  # licences a reader wants to know of

HEAD = """# Dependencies

Written by `make audit` (`docs/audit.py`) on {date}. It asks pip-audit for known vulnerabilities of every
version in `constraints.txt`, and the installed packages for their licences.

Answers came for {asked} of {pinned} packages, {found} of them with known vulnerabilities.{failure}

| named in `requirements.txt` | version | licence | known vulnerabilities |
|---|---|---|---|
"""
TAIL = """
Of all {pinned} packages, those under the Mozilla Public License, the GPL or a licence of their maker, or that
tell none:

"""


def normal(name: str) -> str:
    """Return the one spelling of a package's name (PEP 503)."""
    return re.sub("[-_.]+", "-", name).lower()


def names(file: str) -> list[str]:
    """Return the packages that a requirements file names, in its order."""
    return re.findall(r"^([A-Za-z0-9._-]+)[<>=]=", (PROJECT / file).read_text(encoding="utf-8"), re.MULTILINE)


def pins() -> dict[str, str]:
    """Return the version of each package in constraints.txt."""
    text = (PROJECT / "constraints.txt").read_text(encoding="utf-8")
    return {
        normal(name): version for name, version in re.findall(r"^([\w.-]+)==([\w.+!]+)", text, re.MULTILINE)
    }


def licence(name: str) -> str:
    """Return what an installed package says of its licence: expression, else classifiers, else one line."""
    try:
        facts = metadata.distribution(name).metadata
    except metadata.PackageNotFoundError:
        return "not told: not installed"
    classifiers = [
        c.split(" :: ")[-1] for c in facts.get_all("Classifier") or [] if c.startswith("License ::")
    ]
    line = str(facts.get("License") or "").strip().split("\n")[0]
    told = [c for c in classifiers if c != "OSI Approved"]
    return facts.get("License-Expression") or ", ".join(told) or line or "not told"


def findings() -> tuple[dict[str, str], str]:
    """Return what pip-audit knows of the pinned versions it got answers for, and why it got no others."""
    command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--progress-spinner", "off"]
    command += ["--format", "json", "--requirement", str(PROJECT / "constraints.txt")]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    if not done.stdout.startswith("{"):
        return {}, done.stderr.strip().splitlines()[-1]
    packages = json.loads(done.stdout)["dependencies"]
    failures = [package["skip_reason"] for package in packages if "skip_reason" in package]
    asked = {
        normal(package["name"]): ", ".join(found["id"] for found in package["vulns"]) or "none"
        for package in packages
        if "vulns" in package
    }
    return asked, failures[0] if failures else ""


def noted(pinned: dict[str, str]) -> list[str]:
    """Return a line for each licence that a reader wants to know of, with its packages."""
    packages: dict[str, list[str]] = {}
    for name in pinned:
        packages.setdefault(licence(name), []).append(name)
    return [f"* {text}: {', '.join(packages[text])}" for text in sorted(packages) if NOTE.search(text)]


def page(asked: dict[str, str], failure: str) -> str:
    """Return the whole page."""
    pinned = pins()
    rows = [
        f"| {name} | {pinned[normal(name)]} | {licence(name)} | {asked.get(normal(name), 'not asked')} |"
        for name in names("requirements.txt")
    ]
    facts = {
        "date": datetime.date.today().isoformat(),
        "pinned": len(pinned),
        "asked": len(asked),
        "found": sum(ids != "none" for ids in asked.values()),
        "failure": f" Of the first one without: {failure}." if failure else "",
    }
    lines = [HEAD.format(**facts).rstrip("\n"), *rows, TAIL.format(**facts).rstrip("\n"), "", *noted(pinned)]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page; 1 where a package has known vulnerabilities or could not be asked for."""
    asked, failure = findings()
    PAGE.write_text(page(asked, failure), encoding="utf-8")
    for name, ids in asked.items():
        if ids != "none":
            print(f"{name} {pins()[name]}: {ids}")
    if failure:
        print(f"not asked for {len(pins()) - len(asked)} of {len(pins())} packages: {failure}")
    print(f"written: {PAGE.relative_to(PROJECT)}")
    return int(bool(failure) or any(ids != "none" for ids in asked.values()))


if __name__ == "__main__":
    sys.exit(main())
