import math

from cifar_core.report.markup import percent


def test_a_share_as_a_person_writes_it():
    assert percent(0.78849) == "78.8\u00a0%"
    assert percent(0.78849, 2) == "78.85\u00a0%"
    assert percent(0.78849, 2, space=" ") == "78.85 %"
    assert percent(1, 0) == "100\u00a0%"


def test_an_unknown_share_is_a_dash():
    assert percent(None) == percent(math.nan) == percent(math.nan, space=" ") == "-"
