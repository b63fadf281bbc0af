"""Posteriors that are known in closed form or by a plain integral, many of them under flat priors."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from arviz_stats.base import array_stats
from scipy import stats

import bayeshlm as bh

FALSE_ALARM = 1e-5  # of one test; a figure's limit is Bonferroni's over its 5 figures a parameter
PROBS = (0.05, 0.5, 0.95)


def assert_is(draws: np.ndarray, quantile: Callable[[float], float], mean: float, sd: float, parameters: int) -> None:
    """Mean, sd and quantiles of (chain, draw) within Monte Carlo error of the truth."""
    limit = stats.norm.isf(FALSE_ALARM / 2 / 5 / parameters)
    z = [(draws.mean() - mean) / array_stats.mcse(draws), (draws.std() - sd) / array_stats.mcse(draws, method="sd")]
    for p in PROBS:
        error = array_stats.mcse(draws, method="quantile", prob=p)
        z.append((np.quantile(draws, p) - quantile(p)) / error)
    assert np.abs(z).max() < limit, z


def on_grid(x: np.ndarray, log_density: np.ndarray) -> tuple[Callable[[float], float], float, float]:
    """(quantile function, mean, sd) of a density on a fine grid, by the trapezoidal rule."""
    density = np.exp(log_density - log_density.max())
    mass = np.concatenate([[0.0], np.cumsum(np.diff(x) * (density[1:] + density[:-1]) / 2)])
    density, mass = density / mass[-1], mass / mass[-1]
    mean = float(np.trapezoid(x * density, x))
    return lambda p: float(np.interp(p, mass, x)), mean, math.sqrt(np.trapezoid((x - mean) ** 2 * density, x))


def test_plain_regression_under_flat_priors() -> None:
    """Flat on (beta, sigma): beta is t with n - p - 1 degrees of freedom, sigma^2 inverse gamma."""
    rng = np.random.default_rng(1)
    n, p = 14, 3
    frame = pd.DataFrame({"x": rng.normal(1e3, 2, n), "z": rng.normal(0, 1, n), "w": rng.uniform(0.5, 3, n)})
    frame["y"] = 5 + 0.3 * frame["x"] + rng.normal(0, 2, n)
    flat = {name: bh.Flat() for name in ("Intercept", "x", "z", "sigma")}
    for weights in (None, "w"):
        posterior = bh.fit(bh.Model("y ~ x + z", priors=flat, weights=weights), frame, random_seed=1)["posterior"]
        x = np.column_stack([np.ones(n), frame["x"], frame["z"]])
        w = frame["w"].to_numpy() if weights else np.ones(n)
        inverse = np.linalg.inv(x.T @ (w[:, None] * x))
        b = inverse @ x.T @ (w * frame["y"])
        rest = float(w @ (frame["y"] - x @ b) ** 2)
        for k, name in enumerate(("Intercept", "x", "z")):
            t = stats.t(n - p - 1, b[k], math.sqrt(rest / (n - p - 1) * inverse[k, k]))
            assert_is(posterior[name].values, t.ppf, t.mean(), t.std(), 4)
        s = np.linspace(1e-3, 60, 400_001) * math.sqrt(rest / n)
        assert_is(posterior["sigma"].values, *on_grid(s, -(n - p) * np.log(s) - rest / (2 * s**2)), 4)


def test_arms_with_a_sigma_each_are_separate_samples() -> None:
    """`y ~ 0 + arm; sigma ~ arm` under flat priors: each arm is the normal sample of the textbooks."""
    rng = np.random.default_rng(2)
    sizes, sds = {"a": 6, "b": 30, "c": 9}, {"a": 1.0, "b": 10.0, "c": 0.1}
    frame = pd.concat([pd.DataFrame({"arm": k, "y": rng.normal(3, sds[k], n)}) for k, n in sizes.items()])
    model = bh.Model("y ~ 0 + arm; sigma ~ arm", priors={"arm": bh.Flat(), "sigma": bh.Flat()})
    posterior = bh.fit(model, frame, random_seed=2)["posterior"]
    assert posterior["sigma"].dims == ("chain", "draw", "sigma_dim")
    for arm, n in sizes.items():
        y = frame.loc[frame["arm"] == arm, "y"].to_numpy()
        rest = float(((y - y.mean()) ** 2).sum())
        t = stats.t(n - 2, y.mean(), math.sqrt(rest / (n - 2) / n))
        assert_is(posterior["arm"].sel(arm_dim=arm).values, t.ppf, t.mean(), t.std(), 6)
        s = np.geomspace(1e-3, 1e4, 400_001) * math.sqrt(rest / n)
        exact = on_grid(s, -(n - 1) * np.log(s) - rest / (2 * s**2))
        assert_is(posterior["sigma"].sel(sigma_dim=arm).values, *exact, 6)


def test_eight_schools_under_flat_priors() -> None:
    """Flat on mu and tau: p(tau | y) of Gelman et al. (2013), Bayesian Data Analysis, equation 5.21."""
    y = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
    se = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
    frame = pd.DataFrame({"y": y, "se": se, "school": list("ABCDEFGH")})
    model = bh.Model("y ~ 1 + (1 | school)", se="se", priors={"Intercept": bh.Flat(), "1|school_sigma": bh.Flat()})
    posterior = bh.fit(model, frame, random_seed=3)["posterior"]
    tau = np.linspace(1e-4, 3000, 600_001)
    precision = 1 / (se**2 + tau[:, None] ** 2)
    v = 1 / precision.sum(axis=1)
    mu = v * (precision @ y)
    log_density = 0.5 * np.log(v) + 0.5 * (np.log(precision) - precision * (y - mu[:, None]) ** 2).sum(axis=1)
    quantile, _, _ = on_grid(tau, log_density)
    draws = posterior["1|school_sigma"].values
    for p in (0.05, 0.25, 0.5, 0.75, 0.95):
        error = array_stats.mcse(draws, method="quantile", prob=p)
        assert abs(np.quantile(draws, p) - quantile(p)) < 5 * error
    density = np.exp(log_density - log_density.max())
    shrunk = (y[0] / se[0] ** 2 + mu / tau**2) / (1 / se[0] ** 2 + 1 / tau**2)
    school_a = float(np.average(shrunk, weights=density))
    draws = (posterior["Intercept"] + posterior["1|school"].sel(school="A")).values
    assert abs(draws.mean() - school_a) < 5 * array_stats.mcse(draws)
    assert round(school_a) == 11  # as published, to the digit


def test_dyestuff_under_flat_priors() -> None:
    """Balanced one-way layout from its published analysis of variance alone.

    With J batches of n and L = sigma^2 + n tau^2: p(y | sigma, tau) is proportional to
    sigma^-J(n-1) exp(-SSW / 2 sigma^2) L^-(J-1)/2 exp(-SSB / 2 L) (Box and Tiao 1973, section 5.2).
    """
    y = [1545, 1440, 1440, 1520, 1580, 1540, 1555, 1490, 1560, 1495, 1595, 1550, 1605, 1510, 1560, 1445, 1440, 1595,
         1465, 1545, 1595, 1630, 1515, 1635, 1625, 1520, 1455, 1450, 1480, 1445]  # fmt: skip
    frame = pd.DataFrame({"batch": np.repeat(list("ABCDEF"), 5), "y": y})
    flat = {"Intercept": bh.Flat(), "1|batch_sigma": bh.Flat(), "sigma": bh.Flat()}
    posterior = bh.fit(bh.Model("y ~ 1 + (1 | batch)", priors=flat), frame, random_seed=4)["posterior"]
    sigma, tau = np.linspace(20, 150, 600), np.geomspace(1e-2, 1e5, 3000)
    s, t = np.meshgrid(sigma, tau, indexing="ij")
    total = s**2 + 5 * t**2
    log_density = -24 * np.log(s) - 58830.0 / (2 * s**2) - 2.5 * np.log(total) - 56357.5 / (2 * total)
    density = np.exp(log_density - log_density.max())
    of_sigma, of_tau = np.trapezoid(density, tau, axis=1), np.trapezoid(density, sigma, axis=0)
    assert_is(posterior["sigma"].values, *on_grid(sigma, np.log(of_sigma)), 2)
    quantile, _, _ = on_grid(tau, np.log(of_tau))
    draws = posterior["1|batch_sigma"].values
    for p in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert abs(np.quantile(draws, p) - quantile(p)) < 5 * array_stats.mcse(draws, method="quantile", prob=p)


@pytest.mark.parametrize(
    ("frame", "priors", "error"),
    [
        ({"y": [1.0, 2.0, 4.0]}, {"Intercept": bh.Flat(), "x": bh.Flat(), "sigma": bh.Flat()}, "sigma \\(3 rows\\)"),
        ({"y": [1.0, 2.0, 3.0]}, {"sigma": bh.HalfNormal(1)}, "no variation left.*keeps off 0"),
    ],
)
def test_a_sigma_without_bound_is_refused(frame: dict, priors: dict, error: str) -> None:
    data = pd.DataFrame({**frame, "x": [0.0, 1.0, 2.0]})
    model = bh.Model("y ~ x", priors={"Intercept": bh.Normal(0, 9), "x": bh.Normal(0, 9), **priors})
    with pytest.raises(bh.errors.BayeshlmError, match=error):
        bh.fit(model, data)
