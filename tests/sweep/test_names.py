"""Names of points: distinct points have distinct folders, whatever their values."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from experiments.sweep.names import DEVICES, TAKEN, Names
from experiments.sweep.space import point_id
from tests.sweep.conftest import space_of

KEYS = ["model", "aug", "seed", "optimizer.lr", "scheduler.lr", "+model.Depth", "aug@x"]
WORDS = ["1", "-1", "0.1", "0.10", "1e-1", "", "a", "A", "a_b", "b", "a-b", "a/b", "refit", "aux", "..", "."]
WORDS += [
    "true",
    "True",
    "null",
    "[1,2]",
    "{a:1}",
    "café",
    "cafe\u0301",
    " ",
    "-",
    "_",
    "s1",
    "x" * 120,
    "conf",
]
TEXTS = st.sampled_from(WORDS) | st.text(max_size=6) | st.floats().map(str) | st.text("a1_-.s", max_size=5)


@st.composite
def spaces(draw: st.DrawFn) -> tuple[Names, list[dict[str, str]]]:
    """Names of a space, and two points of it."""
    keys = draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True))
    points = [{key: draw(TEXTS) for key in keys} for _ in range(2)]
    listed = draw(st.sets(st.sampled_from(keys)))
    choices = {key: {point[key] for point in points} | {draw(TEXTS)} for key in listed}
    return Names(choices), points


def named(names: Names, point: dict[str, str]) -> str:
    return names.folder(point, point_id(point)[:8])


@given(spaces())
@example((Names({}), [{"optimizer.lr": "-1"}, {"optimizer.lr": "1"}]))
@example((Names({}), [{"model": "a_b", "aug": "c"}, {"model": "a", "aug": "b_c"}]))
@example((Names({}), [{"aug": "Cutout"}, {"aug": "cutout"}]))
@example((Names({}), [{"optimizer.lr": "0.12345678"}, {"optimizer.lr": "0.12345679"}]))
@example((Names({}), [{"model": "x/y"}, {"model": f"x-y-{point_id({'model': 'x/y'})[:8]}"}]))
def test_distinct_points_have_distinct_safe_folders_where_case_does_not_count(
    case: tuple[Names, list[dict[str, str]]],
):
    names, points = case
    one, other = (named(names, point) for point in points)
    assert (one.lower() == other.lower()) == (points[0] == points[1])
    for name in (one, other):
        assert re.fullmatch(r"[A-Za-z0-9_+][A-Za-z0-9_.+-]*", name)
        assert len(name) < 120
        assert not name.endswith(".")
        assert name.lower().split(".")[0] not in DEVICES
        assert name.lower() not in TAKEN


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["optimizer.lr=0.1,0.2", "seed=0,1"], ["lr-0.1_s0", "lr-0.1_s1", "lr-0.2_s0", "lr-0.2_s1"]),
        (["optimizer.lr=1,-1,1e-5"], ["lr-1", "lr--1", "lr-1e-05"]),
        (["model=resnet18,wrn28_10", "aug=none,crop_flip"], ["resnet18_none", "resnet18_crop_flip"]),
        (["trainer.compile=true,false"], ["compile-True", "compile-False"]),
        (["trainer.batch_size=range(64,129,64)"], ["batch_size-64", "batch_size-128"]),
    ],
)
def test_a_plain_point_has_a_plain_name(arguments: list[str], names: list[str]):
    space = space_of(*arguments)
    found = [space.folder_name(space.point(values)) for values in space.grid()]
    assert found[: len(names)] == names
