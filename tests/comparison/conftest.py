"""Runs to compare."""

from pathlib import Path

import pytest

from tests.comparison.by_hand import make
from tests.report.conftest import browser as browser  # a fixture


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two configurations of two and three seeds; the one that is worse by validation is better on test."""
    root = tmp_path / "runs"
    make(root / "low0", seed=0, lr=0.1, val=0.70, wrong=(1, 2))
    make(root / "low1", seed=1, lr=0.1, val=0.72, wrong=(1, 2, 3))
    for seed, val in enumerate((0.80, 0.84, 0.82)):
        make(root / "deep" / f"high{seed}", seed=seed, lr=0.5, val=val, wrong=(1, 2, *range(10, 18 + seed)))
    return root
