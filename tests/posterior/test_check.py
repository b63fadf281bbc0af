"""`check_group_means`: the replicated means have the model's distribution, and odd groups are noticed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.stats import ks_2samp

import bayeshlm as bh
from bayeshlm.posterior import check as checking
from bayeshlm.posterior.check import check_group_means
from bayeshlm.posterior.draws import statistics_of
from tests.posterior.fabricated import fabricated

GROUPS, SIZE = 40, 10


def posterior_at(parameters: dict[str, float], response: np.ndarray, group: np.ndarray) -> xr.DataTree:
    """A posterior whose hyperparameters are all at one point, so that the replicates' distribution is known."""
    priors = {"Intercept": bh.Normal(0, 10), "1|group_sigma": bh.HalfNormal(5), "sigma": bh.HalfNormal(5)}
    data = pd.DataFrame({"y": response, "group": group})
    tree = bh.fit(bh.Model("y ~ 1 + (1 | group)", priors=priors), data, random_seed=1, progress=False)
    for name, value in parameters.items():
        tree["posterior"][name].to_numpy()[...] = value
    return tree


@pytest.fixture(scope="module")
def study() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(GROUPS), SIZE)
    return 5 + rng.normal(0, 2, GROUPS)[group] + rng.normal(0, 3, group.size), group


def test_replicated_means_are_those_of_new_groups(study: tuple[np.ndarray, np.ndarray]) -> None:
    check = check_group_means(
        posterior_at({"Intercept": 5.0, "1|group_sigma": 2.0, "sigma": 3.0}, *study), random_seed=3
    )
    assert check is not None
    # Means of new groups: Normal(5, sqrt(2^2 + 3^2 / 10)); the median of order statistics (Blom's approximation).
    from scipy.special import ndtri

    ranks = (np.arange(1, GROUPS + 1) - 0.375) / (GROUPS + 0.25)
    scale = np.sqrt(4 + 9 / SIZE)
    # 400 replicates: the median of an order statistic has a standard error of about 0.06 of its spread (below 1).
    assert check.expected == pytest.approx(5 + scale * ndtri(ranks), abs=0.25)
    assert check.observed == pytest.approx(np.sort(study[0].reshape(GROUPS, SIZE).mean(axis=1)))
    assert check.replicates == 400
    assert not check.surprises
    assert check.outside <= 6


def test_one_group_far_off_is_noticed(study: tuple[np.ndarray, np.ndarray]) -> None:
    response, group = study
    odd = response + 15.0 * (group == 7)
    check = check_group_means(posterior_at({"Intercept": 5.0, "1|group_sigma": 2.0, "sigma": 3.0}, odd, group))
    assert check is not None
    assert "largest mean" in check.surprises
    assert check.p_values["largest mean"] == 0.0
    assert check.observed[-1] > check.upper[-1]


def test_correlated_slopes_carry_their_covariance() -> None:
    """At x = 1 in every row, a group's mean is intercept + slope: variance 1 + 1 + 2 rho."""
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(GROUPS), SIZE)
    x = np.tile(np.linspace(0, 2, SIZE), GROUPS)
    y = rng.normal(size=GROUPS)[group] * (1 + x) + rng.normal(size=group.size)
    priors = {
        "Intercept": bh.Normal(0, 5), "x": bh.Normal(0, 5), "1|group_sigma": bh.HalfNormal(2),
        "x|group_sigma": bh.HalfNormal(2), "sigma": bh.HalfNormal(2),
    }  # fmt: skip
    data = pd.DataFrame({"y": y, "x": x, "group": group})
    tree = bh.fit(bh.Model("y ~ x + (1 + x | group)", priors=priors), data, random_seed=1, progress=False)
    for name, value in {"Intercept": 0.0, "x": 0.0, "1|group_sigma": 1.0, "x|group_sigma": 1.0, "sigma": 1e-6}.items():
        tree["posterior"][name].to_numpy()[...] = value
    spreads = {}
    for rho in (-1.0, 0.0, 1.0):  # also the singular ends
        tree["posterior"]["corr|group"].to_numpy()[...] = np.array([[1.0, rho], [rho, 1.0]])
        check = check_group_means(tree, random_seed=5)
        assert check is not None
        spreads[rho] = check.expected.std()
    assert spreads[-1.0] == pytest.approx(0.0, abs=1e-5)
    assert spreads[0.0] == pytest.approx(np.sqrt(2), rel=0.1)
    assert spreads[1.0] == pytest.approx(2.0, rel=0.1)


def test_without_levels_there_is_nothing_to_check() -> None:
    data = pd.DataFrame({"y": np.exp(np.random.default_rng(3).normal(size=50))})
    assert check_group_means(bh.fit(bh.Model("y ~ 1", family="lognormal"), data, random_seed=1, progress=False)) is None


LIMIT = 4.5  # |z|; a right replicate exceeds it once in 150,000 checks, and the seeds are fixed


def point_posterior(model: bh.Model, data: pd.DataFrame, point: dict[str, float]) -> xr.DataTree:
    """All draws at one point; equal rows of counts and successes are joined."""
    tree = fabricated(model, data, point)
    for name, value in point.items():
        tree["posterior"][name].to_numpy()[...] = value
    return tree


def replicated(tree: xr.DataTree) -> np.ndarray:
    """(replicates, groups) means of new groups."""
    statistics = statistics_of(tree)
    return checking._from_rows(tree, statistics, 0, np.random.default_rng(1))[1]


def test_replicated_rates_of_counts() -> None:
    """Poisson rates per exposure of new groups: exp(b + u) in the mean, its variance and the counts' own."""
    exposure = np.tile([0.5, 0.5, 2.0], GROUPS)
    data = pd.DataFrame({"g": np.repeat(np.arange(GROUPS), 3), "e": exposure, "y": 1})
    model = bh.Model("y ~ 1 + offset(log(e)) + (1 | g)", family="poisson")
    tree = point_posterior(model, data, {"Intercept": 1.0, "1|g_sigma": 0.4})
    assert tree["rows"].sizes["row"] < len(data)  # the two equal rows of a group are one
    drawn = replicated(tree).ravel()
    mean = np.exp(1 + 0.08)
    variance = mean / 3.0 + mean**2 * np.expm1(0.16)
    assert abs(drawn.mean() - mean) < LIMIT * np.sqrt(variance / len(drawn))
    assert drawn.var() == pytest.approx(variance, rel=0.1)  # 16,000 draws: below 2 % of Monte Carlo error


def test_replicated_shares_of_joined_trials() -> None:
    data = pd.DataFrame({"g": np.repeat(np.arange(GROUPS), 25), "y": np.tile([0, 1, 1, 0, 0], 5 * GROUPS)})
    model = bh.Model("y ~ 1 + (1 | g)", family="bernoulli")
    tree = point_posterior(model, data, {"Intercept": 0.5, "1|g_sigma": 1e-9})
    assert tree["rows"].sizes["row"] == GROUPS
    drawn = replicated(tree).ravel()
    p = 1 / (1 + np.exp(-0.5))
    assert abs(drawn.mean() - p) < LIMIT * np.sqrt(p * (1 - p) / 25 / len(drawn))
    assert drawn.var() == pytest.approx(p * (1 - p) / 25, rel=0.1)


@pytest.mark.parametrize("family", ["student_t", "cv_normal", "gamma", "lognormal", "negative_binomial"])
def test_replicates_of_every_other_family_are_like_simulated_worlds(family: str) -> None:
    """Capped at a bound, as recorded: the replicated group means against those of simulated studies."""
    point = {"Intercept": 0.5, "1|g_sigma": 0.4, "sigma": 0.5, "nu": 5.0, "alpha": 2.0}
    bare = bh.Model("y ~ 1 + (1 | g)", family=family, censored=(None, 4))
    given = {"Intercept": bh.Normal(), "1|g_sigma": bh.HalfNormal(), "sigma": bh.HalfNormal()}
    model = bare.with_priors({name: prior for name, prior in given.items() if name in bare.parameters})
    point = {name: value for name, value in point.items() if name in model.parameters}
    design = bh.Design.nested(g=GROUPS, i=SIZE)
    worlds = [bh.simulate(model, design, params=point, random_seed=[3, k]).data for k in range(40)]
    theirs = np.concatenate([world.groupby("g")["y"].mean().to_numpy() for world in worlds])
    mine = replicated(point_posterior(model, worlds[0], point)).ravel()
    jitter = np.random.default_rng(0)  # means of counts are on a grid, on which Kolmogorov-Smirnov is conservative
    assert ks_2samp(mine + jitter.normal(0, 1e-6, len(mine)), theirs).pvalue > 1e-5
    assert check_group_means(point_posterior(model, worlds[1], point)).outside < GROUPS // 2


def test_a_clinic_far_off_is_noticed_among_shares() -> None:
    rng = np.random.default_rng(4)
    data = pd.DataFrame({"g": np.arange(GROUPS), "n": 200, "y": rng.binomial(200, 0.3, GROUPS)})
    data.loc[9, "y"] = 190
    model = bh.Model("p(y, n) ~ 1 + (1 | g)", family="binomial")
    check = check_group_means(point_posterior(model, data, {"Intercept": -0.85, "1|g_sigma": 0.1}))
    assert check.observed[-1] == pytest.approx(0.95)
    assert "largest mean" in check.surprises


def test_no_check_without_what_it_takes() -> None:
    data = pd.DataFrame({"g": np.repeat(np.arange(4), 5), "y": 1.0 + np.arange(20) % 3, "c": "none"})
    model = bh.Model("y ~ 1 + (1 | g)", family="gamma", censored="c")
    assert check_group_means(fabricated(model, data, {})) is None
    tree = fabricated(bh.Model("y ~ 1 + (1 | g)", family="gamma"), data, {})
    assert check_group_means(tree) is not None
    del tree["rows"]
    assert check_group_means(tree) is None


def test_saved_posterior_is_checked_the_same(tmp_path: Path) -> None:
    data = pd.DataFrame({"g": np.repeat(np.arange(6), 5), "y": 1.0 + np.arange(30) % 3})
    tree = fabricated(bh.Model("y ~ 1 + (1 | g)", family="gamma"), data, {})
    here = check_group_means(tree)
    for name in ("fit.nc", "fit.zarr"):
        there = check_group_means(bh.load(bh.save(tree, tmp_path / name)))
        np.testing.assert_array_equal(there.expected, here.expected)
        assert there.p_values == here.p_values
