"""The sampler on densities whose answer is known."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
from arviz_stats.base import array_stats
from scipy import stats

import bayeshlm as bh
from bayeshlm.engines.exact.build import build_problem
from bayeshlm.engines.exact.density.nested import Marginal
from bayeshlm.engines.exact.hyperparameters import search_box
from bayeshlm.engines.sampling import importance, modes
from bayeshlm.engines.sampling.pareto import pareto_k
from tests.engines.stress import draw

LOW, HIGH = np.full(2, -4.0), np.full(2, 4.0)
COVARIANCE = np.array([[1.0, 0.8], [0.8, 1.5]])


def normal(x: np.ndarray) -> np.ndarray:
    return stats.multivariate_normal.logpdf(x, [0.5, -1.0], COVARIANCE) + 3.0


def skewed(x: np.ndarray) -> np.ndarray:
    """An exponential tail on the left of the first axis, as a log standard deviation near 0 has."""
    return stats.loggamma.logpdf(x[:, 0], 1.0) + stats.norm.logpdf(x[:, 1], 0.3 * x[:, 0], 0.1)


def bimodal(x: np.ndarray) -> np.ndarray:
    parts = [stats.multivariate_normal.logpdf(x, [m, m], np.diag([0.04, 0.09])) for m in (-1.5, 1.5)]
    return np.logaddexp(np.log(0.3) + parts[0], np.log(0.7) + parts[1])


def banana(x: np.ndarray) -> np.ndarray:
    return stats.norm.logpdf(x[:, 0]) + stats.norm.logpdf(x[:, 1], 0.5 * x[:, 0] ** 2 - 1, 0.3)


CASES = {
    "normal": (normal, 3.0, [0.5, -1.0], [1.0, np.sqrt(1.5)]),
    "skewed": (skewed, 0.0, [stats.loggamma.mean(1.0), 0.3 * stats.loggamma.mean(1.0)],
               [stats.loggamma.std(1.0), np.hypot(0.3 * stats.loggamma.std(1.0), 0.1)]),
    "bimodal": (bimodal, 0.0, [0.6, 0.6], [np.sqrt(9 * 0.21 + 0.04), np.sqrt(9 * 0.21 + 0.09)]),
    "banana": (banana, 0.0, [0.0, -0.5], [1.0, np.sqrt(0.5 + 0.09)]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_moments_and_evidence(name: str) -> None:
    """Means and sds within 4.5 Monte Carlo standard errors (false alarms < 1e-4 in all), evidence within 5."""
    density, evidence, means, sds = CASES[name]
    drawn = importance.sample(density, LOW, HIGH, draws=2000, chains=4, rng=np.random.default_rng(1))
    assert drawn.pareto_k < importance.MAX_PARETO_K
    assert abs(drawn.log_evidence - evidence) < 5 * drawn.log_evidence_se
    for axis in range(2):
        draws = drawn.theta[:, :, axis]
        assert array_stats.rhat(draws) < 1.01
        assert array_stats.ess(draws) > 2000
        assert abs(draws.mean() - means[axis]) < 4.5 * array_stats.mcse(draws)
        assert abs(draws.std() - sds[axis]) < 4.5 * array_stats.mcse(draws, method="sd")
    assert np.allclose(drawn.log_density, density(drawn.theta.reshape(-1, 2)).reshape(4, 2000))


def test_chains_are_honest() -> None:
    """ArviZ's effective sample size predicts the spread of means over runs (chi-square, false alarms 1e-6)."""
    means, expected = [], []
    for seed in range(60):
        drawn = importance.sample(skewed, LOW, HIGH, draws=250, chains=2, rng=np.random.default_rng(seed))
        draws = drawn.theta[:, :, 0]
        means.append(draws.mean())
        expected.append(float(array_stats.mcse(draws)) ** 2)
    ratio = np.sum((np.array(means) - stats.loggamma.mean(1.0)) ** 2) / np.mean(expected)
    assert stats.chi2.ppf(5e-7, 60) < ratio < stats.chi2.ppf(1 - 5e-7, 60)


def test_same_seed_same_draws() -> None:
    first, second = (
        importance.sample(banana, LOW, HIGH, draws=50, chains=2, rng=np.random.default_rng(3)) for _ in range(2)
    )
    assert np.array_equal(first.theta, second.theta)


def test_a_density_of_zero_is_an_error() -> None:
    with pytest.raises(FloatingPointError, match="0 everywhere"):
        importance.sample(
            lambda x: np.full(len(x), -np.inf), LOW, HIGH, draws=10, chains=1, rng=np.random.default_rng(0)
        )


def test_pareto_k_of_a_heavy_tail_is_large_and_of_few_weights_infinite() -> None:
    rng = np.random.default_rng(4)
    heavy = -np.log(rng.uniform(size=5000))  # weights 1 / u have a Pareto tail of shape 1
    assert pareto_k(heavy) == pytest.approx(1.0, abs=0.35)
    assert pareto_k(rng.normal(0, 0.1, 5000)) < 0.5
    assert pareto_k(np.zeros(5)) == pareto_k(np.full(200, np.nan)) == np.inf


def test_pareto_k_of_one_weight_among_thousands_is_infinite_and_of_equal_ones_minus_infinite() -> None:
    """Nothing to fit either way: the first never passes a check, the second always."""
    assert pareto_k(np.append(np.full(3999, -1e4), 0.0)) == np.inf
    assert pareto_k(np.zeros(500)) == -np.inf


@pytest.mark.parametrize("count", [100, 225, 226, 1024, 16000])
@pytest.mark.parametrize("degrees", [2, 5, 1000])
def test_pareto_k_is_arvizs(count: int, degrees: int) -> None:
    rng = np.random.default_rng([count, degrees])
    for size in (0.01, 0.3, 1.0, 4.0):
        weights = size * rng.standard_t(degrees, count)
        assert pareto_k(weights) == pytest.approx(float(array_stats.psislw(-weights)[1]), abs=1e-12)


def test_metropolis_keeps_the_better_of_equals_and_counts() -> None:
    """A proposal with infinite weight is always taken and never left; one with weight 0 never taken."""
    weights = np.array([[0.0, -np.inf, 50.0, 0.0, 0.0]])
    index, accepted = importance._metropolis(weights, np.array([0.0]), np.random.default_rng(5))
    assert index[0].tolist() == [0, 0, 2, 2, 2]
    assert accepted == pytest.approx(2 / 5)


@pytest.mark.parametrize("name", CASES)
def test_climbs_called_off_near_a_known_mode_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mode that whole climbs find is found, with fewer evaluations."""
    evaluations, found = [], []
    for arrived in (modes.ARRIVED, -1.0):
        monkeypatch.setattr(modes, "ARRIVED", arrived)
        seen = [0]

        def counted(points: np.ndarray, seen: list[int] = seen) -> np.ndarray:
            seen[0] += len(points)
            return CASES[name][0](points)

        found.append(modes.find_modes(counted, LOW, HIGH, np.random.default_rng(1)))
        evaluations.append(seen[0])
    assert [m[0] for m in found[0]] == [m[0] for m in found[1]]
    assert len(found[0]) == (2 if name == "bimodal" else 1)
    assert evaluations[0] < evaluations[1]


def log_evidences(seed: int, seeds: range) -> np.ndarray:
    """Of one stress case in many runs, in theta's coordinates of correlated slopes and without them."""
    stress = draw(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bh.errors.BayeshlmWarning)
        statistics = bh.compress(stress.model, stress.frame)
    statistics = dataclasses.replace(statistics, model=stress.model.with_priors(stress.model.complete_priors))
    found = []
    for problem in (whole := build_problem(statistics), dataclasses.replace(whole, recentred=())):
        marginal, (low, high) = Marginal(problem), search_box(problem)
        found.append([
            importance.sample(
                lambda t, marginal=marginal: marginal.log_density(t)[0], low, high, draws=1000, chains=4,
                rng=np.random.default_rng(s),
            ).log_evidence
            for s in seeds
        ])  # fmt: skip
    return np.array(found)


def test_no_mode_is_missed() -> None:
    """Three modes, of a quarter of the mass the least: 2 in 3 searches that started from a scan alone missed one.

    A missed mode lacks at least 0.28 in the log evidence; its Monte Carlo error here is about 0.01.
    """
    found = log_evidences(1, range(4))
    assert np.ptp(found) < 0.14


def test_correlated_slopes_take_the_coordinates_that_serve() -> None:
    """A prior that binds at x = 0: of 3 groups, whose tail was cut by a third in the coordinates at the means."""
    stress = draw(142)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", bh.errors.BayeshlmWarning)
        posterior = bh.fit(stress.model, stress.frame, random_seed=142, progress=False)
    assert posterior.attrs["efficiency"] > 0.4  # 0.06 to 0.18 in the other ones
    upper = float(np.quantile(posterior["posterior"]["1|a:b_sigma"], 0.95))
    assert 1450 < upper < 1950  # 1,609 to 1,800 in eight runs and the reference, 946 where it was cut


def test_a_tail_of_denormal_weights_has_no_shape() -> None:
    """Weights e^-745 of the largest are the smallest floats there are: infinite, not an overflow."""
    log_weight = np.concatenate([np.full(200, -800.0), np.linspace(-745.0, -740.0, 60), [0.0]])
    assert pareto_k(log_weight) == np.inf
