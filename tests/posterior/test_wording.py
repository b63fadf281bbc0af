"""Digits of probabilities."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bayeshlm.posterior.wording import probability, share
from tests.posterior.test_decision import of_arms


@pytest.mark.parametrize(
    ("p", "effective", "text", "short"),
    [
        (0.48712, 4000, "49 %", "49 %"),
        (0.48712, 400_000, "48.7 %", "48.7 %"),
        (0.9871, 4000, "98.7 %", "98.7 %"),
        (0.71, 400, "71 %", "71 %"),
        (0.71, 40, "70 %", "70 %"),
        (0.95, 40, "95 %", "95 %"),
        (0.999, 4000, "99.9 %", "99.9 %"),
        (0.99975, 4000, "above 99.9 %", ">99.9 %"),
        (1.0, 4000, "above 99.9 %", ">99.9 %"),
        (0.0, 4000, "below 0.1 %", "<0.1 %"),
        (0.997, 400, "above 99 %", ">99 %"),
        (0.4871, 400, "49 %", "49 %"),
        (1.0, 40, "above 97 %", ">97 %"),
        (0.02, 40, "below 3 %", "<3 %"),
        (0.5, 1, "50 %", "50 %"),
        (0.5, math.nan, "50 %", "50 %"),
        (math.nan, 100, "-", "-"),
    ],
)
def test_no_digit_is_finer_than_the_draws(p: float, effective: float, text: str, short: str) -> None:
    assert probability(p, effective) == text
    assert probability(p, effective, short=True) == short


@pytest.mark.parametrize("effective", [1, 3, 39, 400, 999, 1000, 1234.5, 4000, 1e6])
def test_what_draws_cannot_show_is_never_said(effective: float) -> None:
    for p in np.linspace(0, 1, 997):
        text = probability(float(p), effective)
        assert text not in ("0 %", "100 %", "0.0 %", "100.0 %")
        number = float(text.split()[-2])
        if text.startswith("below"):
            assert 100 * p < number
            assert number >= min(100 / effective, 50) - 1e-9
        elif text.startswith("above"):
            assert 100 * p > number
            assert 100 - number >= min(100 / effective, 50) - 1e-9
        else:
            error = 100 * np.sqrt(p * (1 - p) / effective)
            last = 0.1 if "." in text else 1.0 if number % 10 else 10.0
            assert abs(number - 100 * p) <= last / 2 + 1e-9
            assert last >= min(error / np.sqrt(10), 10 if 10 <= 100 * p <= 90 else 1) - 1e-9


@pytest.mark.parametrize(
    ("p", "effective", "text"),
    [(0.48712, 4000, "0.49"), (0.71, 400, "0.71"), (0.71, 40, "0.7"), (1.0, 40, "above 0.97"), (0.0, 100, "below 0.01"),
     (1.0, 4000, "above 0.999"), (0.987, 4000, "0.987"), (math.nan, 100, "-")],
)  # fmt: skip
def test_the_same_as_a_number(p: float, effective: float, text: str) -> None:
    assert share(p, effective) == text


def test_a_verdict_of_few_draws_has_few_digits() -> None:
    import bayeshlm as bh

    posterior = of_arms({"b": 1.0, "c": -1.0})
    few = posterior.copy()
    few["posterior"] = posterior["posterior"].isel(draw=slice(10))
    few["sample_stats"] = posterior["sample_stats"].isel(draw=slice(10))
    found = bh.compare(few, "arm", maximize=True)
    assert found.effective <= 40
    assert "99" not in found.verdict().split("against")[0]
    assert "best (largest) with probability above 9" in found.verdict()
    assert ">0.9" in found.to_text()
