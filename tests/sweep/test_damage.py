"""A sweep whose files say nonsense still has its page."""

import json
from pathlib import Path

import pytest
import yaml

from experiments.sweep.report import write
from tests.comparison.by_hand import make

FACTS = {"identity": {"seed": "0"}, "command": "python -m experiments.run -m seed=0", "sampler": "grid"}


@pytest.mark.parametrize(
    ("trial", "sweep"),
    [
        ({"seeds": "many"}, {}),
        ({"point": {"optimizer.lr": ["0.1"], "seed": "0"}}, {}),
        ({"point": {"optimizer.lr": 5, "seed": "0"}}, {}),
        ({}, {"command": 5}),
        ({}, {"command": "an 'open quote"}),
        ({}, {"identity": {"seed": ["0"]}, "extended_to": "many"}),
    ],
)
def test_a_page_is_written_whatever_the_records_hold(tmp_path: Path, trial: dict, sweep: dict):
    for number in range(2):
        folder = make(tmp_path / str(number), lr=number)
        point = {"optimizer.lr": str(number), "seed": "0"}
        record = {"number": number, "point": point, "values": {}, "label": f"lr={number} s0"}
        (folder / "trial.json").write_text(json.dumps(record | (trial if number else {})))
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(FACTS | sweep))
    page, *_ = write(tmp_path)
    assert "lr=0 s0" in page.read_text()


def test_a_trial_whose_record_cannot_be_read_is_told(tmp_path: Path):
    for number, record in enumerate(({"number": 0, "point": {"seed": "0"}, "values": {}, "label": "s0"}, {})):
        (make(tmp_path / f"trial {number}") / "trial.json").write_text(json.dumps(record))
    page, *_ = write(tmp_path)
    assert "trial 1 (" in page.read_text()
