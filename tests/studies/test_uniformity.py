"""The simultaneous test: exact p-values, against simulation and against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bayeshlm.studies.uniformity import holm, p_value_of, simultaneous_p_value


def smallest_tails(samples: np.ndarray, points: int) -> np.ndarray:
    """By the definition, with scipy's binomial; samples (n, count)."""
    count = samples.shape[1]
    grid, counts = np.arange(1, points) / points, np.arange(count + 1)[:, None]
    tails = np.minimum(stats.binom.cdf(counts, count, grid), stats.binom.sf(counts - 1, count, grid))
    return np.array([tails[(s[:, None] <= grid).sum(axis=0), np.arange(points - 1)].min() for s in samples])


@pytest.mark.parametrize(("count", "points"), [(1, 5), (7, 4), (50, 20), (300, 100)])
def test_p_values_are_those_of_simulation(count, points) -> None:
    """Share of 4,000 uniform samples at least as extreme, within 4.5 standard errors."""
    rng = np.random.default_rng(count)
    tails = smallest_tails(rng.uniform(size=(4000, count)), points)
    for quantile in (0.01, 0.05, 0.3, 0.7):
        tail = float(np.quantile(tails, quantile, method="lower"))
        p = p_value_of(tail, count, points)
        seen = (tails <= tail * (1 + 1e-9)).mean()
        assert abs(seen - p) < 4.5 * np.sqrt(p * (1 - p) / 4000) + 1e-12


def test_one_point_is_the_binomial_test() -> None:
    for count, below in ((20, 3), (11, 5), (40, 36)):
        values = np.r_[np.full(below, 0.2), np.full(count - below, 0.9)]
        expected = stats.binomtest(below, count, 0.5).pvalue
        assert simultaneous_p_value(values, 2) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("values", [np.zeros(500), np.ones(500), np.full(500, 0.5), np.linspace(0, 0.8, 500)])
def test_far_from_uniform_is_never_a_pass(values) -> None:
    assert 0 <= simultaneous_p_value(values) < 1e-10


def test_too_even_is_not_suspicious_and_nothing_passes_by_nan() -> None:
    assert simultaneous_p_value((np.arange(400) + 0.5) / 400) > 0.99
    assert simultaneous_p_value(np.array([0.5])) == 1.0


def test_holm_against_the_step_down_by_hand() -> None:
    assert holm(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.5, 0.9])).tolist() == pytest.approx([1.0, 1.0])
