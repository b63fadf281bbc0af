"""`check_group_means`: the replicated means have the model's distribution, and odd groups are noticed."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import bayeshlm as bh
from bayeshlm.posterior.check import check_group_means

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
