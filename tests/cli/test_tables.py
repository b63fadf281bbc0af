from __future__ import annotations

import math

import pytest

from bayeshlm.cli.tables import aligned, decimals, fixed, percent
from bayeshlm.cli.terminal import clean, seconds


@pytest.mark.parametrize(
    ("scale", "places"), [(1234.0, 0), (12.0, 0), (1.2, 1), (0.99, 2), (0.0123, 3), (0.0, 3), (math.nan, 3)]
)
def test_two_digits_of_the_uncertainty(scale, places) -> None:
    assert decimals(scale) == places


@pytest.mark.parametrize(
    ("value", "places", "text"),
    [
        (516.953, 1, "517.0"),
        (-0.00039, 5, "-0.00039"),
        (3.2e-9, 10, "3.2e-09"),
        (2.5e9, 0, "2.5e+09"),
        (float("nan"), 2, "-"),
    ],
)
def test_figures(value, places, text) -> None:
    assert fixed(value, places) == text


def test_decimal_points_stand_below_each_other() -> None:
    shown = [text.rjust(12) for text in aligned(["517.0", "-83.81", "1", "0.1234"])]
    assert {text.index(".") for text in shown if "." in text} == {7}
    assert shown[2].rstrip().endswith("1")
    assert len(shown[2].rstrip()) == 7


@pytest.mark.parametrize(("p", "text"), [(0.0, "<0.1 %"), (1.0, ">99.9 %"), (0.5, "50.0 %"), (0.9989, "99.9 %")])
def test_draws_show_no_certainty(p, text) -> None:
    assert percent(p) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.034, "0.03 s"), (9.94, "9.9 s"), (59.96, "60.0 s"), (125.0, "2 min 5 s")]
)
def test_durations(value, text) -> None:
    assert seconds(value) == text


def test_control_characters_are_written_out() -> None:
    assert clean("a\x1b[31m\r\nb\u202e") == r"a\x1b[31m\r\nb\u202e"
    assert clean("two\nlines", keep="\n") == "two\nlines"
