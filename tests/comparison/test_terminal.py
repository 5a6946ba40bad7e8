"""What a comparison prints: nothing wider than a terminal, whatever runs are called."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.comparison.groups import compare
from experiments.comparison.read import Run
from experiments.comparison.terminal import lines
from experiments.runs.result import Result
from tests.comparison.by_hand import compared, make

NASTY = ["\u202e", "\x1b[31m", "数据" * 40, "x" * 200, "e\u0301" * 90, "a b\tc\nd", "\u3000", "👩" * 30]
NASTY += ["\ud800", "\xa0", ""]
names = st.sampled_from(NASTY) | st.text(max_size=120)
results = st.builds(
    Result,
    st.sampled_from(["finished", "failed", "pruned", "killed"]),
    st.fixed_dictionaries({}, optional={"val/acc_best": st.floats(0, 1), "test/acc": st.floats(0, 1)}),
    error=names,
)


@given(st.lists(st.tuples(names, results, st.integers(0, 12)), max_size=9))
def test_no_line_is_wider_than_a_terminal(runs: list[tuple[str, Result, int]]):
    wcwidth = pytest.importorskip("wcwidth")
    made = [
        Run(Path("absent", str(n)), result, name, name, {"key": name, "seed": str(n % 3)}, asked)
        for n, (name, result, asked) in enumerate(runs)
    ]
    for line in lines(compare(made)):
        assert 0 <= wcwidth.wcswidth(line) <= 80  # -1: not to be printed
        assert line.replace("\xa0", " ").isprintable()


def test_the_table_has_each_configuration_with_its_figures(runs: Path):
    make(runs / "broken", seed=5, lr=0.1, status="failed")
    make(runs / "course", val=None, lr=0.9)
    text = lines(compared(runs))
    assert [line.split() for line in text[:4]] == [
        ["configuration", "n", "val/acc", "test/acc", "seconds"],
        ["A", "lr=0.5", "3", "82.00", "±", "2.00", "%", "81.67", "±", "1.67", "%", "5.0"],
        ["B", "lr=0.1", "2", "of", "3", "71.00", "±", "1.41", "%", "95.83", "±", "1.18", "%", "5.0"],
        ["C", "lr=0.9", "1", "-", "100.00", "%", "5.0"],
    ]
    said = " ".join(" ".join(text[5:]).split())
    assert said.startswith(
        "Best by validation: A (lr=0.5), val/acc 82.00 ± 2.00 % (95 %: 77.03 to 86.97 %, n=3);"
    )
    assert "Mind: B: not all seeds have finished" in said
    assert said.endswith("1 failed: why <b>not</b> | so")
