"""The library is called as the README shows."""

import re
from pathlib import Path

import pytest
import torch

from tests.conftest import PROJECT

(BLOCK,) = re.findall(r"```python\n(.*?)```", (PROJECT / "README.md").read_text(), flags=re.DOTALL)


def test_the_example_trains_and_explains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict = {}
    exec(compile(BLOCK, "README.md", "exec"), names)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == ["epoch 1", "epoch 2"]
    assert [row["epoch"] for row in names["history"]] == [1, 2]
    assert names["predictions"].hits.double().mean() > 0.5  # guessing has 0.1
    assert lines[-1].startswith("macro F1 ")
    rows, maps = names["rows"], names["maps"]
    assert maps.shape == (2, len(rows), 16, 16)
    assert maps.min() >= 0
    assert maps.amax((2, 3)).allclose(torch.ones(2, len(rows)))
    assert not names["predictions"].hits[rows].any()
    written = {path.name for path in (tmp_path / "seen").iterdir()}
    assert {"report.html", "contact_sheet.png", "metrics.json", "misclassified.csv"} <= written
