"""What is noted of the machine, wherever some of it is missing."""

import os
import subprocess
from pathlib import Path

import pytest

from experiments.runs import environment as module
from experiments.runs.environment import git

GIT = """#!/bin/sh
case "$*" in
  *rev-parse*) echo 0123abcd ;;
  *) {status} ;;
esac
"""


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ("printf ' M caf\\351.py\\n'", {"commit": "0123abcd", "dirty": True}),  # a name that is no UTF-8
        ("true", {"commit": "0123abcd", "dirty": False}),
        ("exit 128", {"commit": "0123abcd", "dirty": None}),  # as where its index cannot be read
    ],
)
def test_git_tells_what_it_can(
    status: str, told: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "git").write_text(GIT.format(status=status))
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert git.__wrapped__() == told


def test_without_git_or_a_checkout_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        assert git.__wrapped__() is None
    monkeypatch.setattr(module, "PROJECT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git.__wrapped__() is None


def test_a_checkout_of_another_user_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own: "dubious ownership"
    monkeypatch.setattr(module, "PROJECT", tmp_path)
    assert git.__wrapped__() is None
