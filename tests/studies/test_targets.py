"""Bounds and recommendations: against SciPy's own intervals, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bayeshlm.studies.plan.targets import bounds, ratio_and_error, recommend, share_and_error


@pytest.mark.parametrize("successes", [0, 1, 17, 39, 40])
def test_bounds_of_shares_are_clopper_and_pearsons(successes) -> None:
    values = np.arange(40) < successes
    lower, upper = bounds("p_best", values.astype(float), 0.01, math.nan)
    interval = stats.binomtest(successes, 40).proportion_ci(0.98, method="exact")
    assert (lower, upper) == pytest.approx((interval.low, interval.high))


def test_bounds_of_means_are_students() -> None:
    values = np.random.default_rng(1).normal(2.0, 0.3, 25)
    interval = stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
    assert bounds("width", values, 0.05, math.nan) == pytest.approx((interval.low, interval.high))


def test_a_loss_never_seen_is_not_known_to_be_zero() -> None:
    _, upper = bounds("expected_loss", np.zeros(50), 0.05, 1.0)
    assert 0.02 < upper < 0.1  # with 50 replicates a loss of 1 in 3 % of studies could well be missed
    assert bounds("expected_loss", np.zeros(5000), 0.05, 1.0)[1] < 0.001
    assert bounds("expected_loss", np.zeros(1), 0.05, 1.0) == (-math.inf, math.inf)


def test_a_bound_for_all_designs_is_wrong_as_seldom_as_it_says() -> None:
    """20 designs exactly at the target: a study recommends one of them in at most 5 % of 400 plans."""
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(400):
        values = {"p_best": [(rng.uniform(size=200) < 0.8).astype(float) for _ in range(20)]}
        found = recommend([str(k) for k in range(20)], np.arange(20.0), values, [1.0] * 20, {"p_best": 0.8})
        wrong += found.design != ""
    assert wrong <= stats.binom.ppf(1 - 1e-4, 400, 0.05)


def test_the_cheapest_that_surely_meets_every_target_is_recommended() -> None:
    sure, doubtful, bad = np.ones(300), (np.arange(300) % 10 > 0).astype(float), np.zeros(300)
    target = {"p_best": 0.9, "width": 2.0}
    values = {"p_best": [bad, sure, doubtful, sure, sure], "width": [np.ones(300) + 0.001 * np.arange(300) / 300] * 5}
    found = recommend(["a", "b", "c", "d", "e"], np.array([1.0, 5.0, 2.0, 4.0, math.nan]), values, [1.0] * 5, target)
    assert found.meets == ("no", "yes", "uncertain", "yes", "yes")
    assert (found.design, found.cheaper) == ("d", ("c",))
    values["width"][3] = np.full(300, 3.0) + 0.001 * np.arange(300)
    assert recommend(["a", "b", "c", "d", "e"], np.arange(5.0), values, [1.0] * 5, target).design == "b"
    none = recommend(["a"], np.array([1.0]), {"p_best": [bad]}, [1.0], {"p_best": 0.9})
    assert (none.design, none.meets, none.cheaper) == ("", ("no",), ())


def test_a_design_without_finished_fits_is_never_recommended() -> None:
    found = recommend(["a"], np.array([1.0]), {"p_best": [np.empty(0)]}, [math.nan], {"p_best": 0.5})
    assert (found.design, found.meets) == ("", ("uncertain",))


def test_errors_of_shares_and_ratios() -> None:
    assert share_and_error(np.ones(100))[0] == 1.0
    assert 0.001 < share_and_error(np.ones(100))[1] < 0.02  # seen always is not known to be always
    rng = np.random.default_rng(3)
    ratios = []
    for _ in range(500):
        denominator = rng.gamma(4.0, 1.0, 200)
        ratios.append(ratio_and_error(0.3 * denominator + rng.normal(0, 0.5, 200), denominator))
    values, errors = np.array(ratios).T
    assert values.std() == pytest.approx(errors.mean(), rel=0.15)  # sd of an sd from 500: 3 %; of the errors' mean: 1 %
    assert math.isnan(ratio_and_error(np.zeros(3), np.zeros(3))[0])
