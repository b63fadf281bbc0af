"""Correlated sets sampled at their columns' means: the same density, turned back with the right Jacobian."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr, ndtri

import bayeshlm as bh
from bayeshlm.data.compress import compress
from bayeshlm.engines.exact.build import build_problem
from bayeshlm.engines.exact.density.nested import Marginal
from bayeshlm.engines.exact.hyperparameters import constrain, search_box, to_score
from bayeshlm.engines.exact.problem import Problem
from bayeshlm.engines.sampling import importance


def year_frame() -> pd.DataFrame:
    """Slopes on a year: the intercept, at the year 0, is 700 standard deviations away."""
    rng = np.random.default_rng(1)
    g = np.repeat(np.arange(15), 10)
    frame = pd.DataFrame({"g": g, "year": rng.integers(2010, 2021, 150).astype(float), "z": rng.normal(5, 1, 150)})
    slope = rng.normal(0, 0.4, 15)
    frame["y"] = 3 + rng.normal(0, 1, 15)[g] + (0.2 + slope[g]) * (frame["year"] - 2015) + rng.normal(0, 1, 150)
    return frame


WIDE = bh.HalfCauchy(500)


def model(formula: str, intercept: bh.HalfCauchy | bh.Uniform = WIDE) -> bh.Model:
    bare = bh.Model(formula)
    priors = {"coefficient": bh.Normal(0, 1000), "scale": bh.HalfNormal(1), "correlation": bh.LKJ(1.5)}
    given = {name: priors[kind] for name, kind in bare.parameters.items()}
    return bare.with_priors({**given, "1|g_sigma": intercept})


def in_words(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """(standard deviations, partial correlations) in the user's coordinates, (B, d)."""
    _, roots, values, _ = constrain(problem, theta)
    partials = []
    for correlation in problem.correlations:
        root = roots[correlation.level][np.ix_(correlation.positions, correlation.positions)]
        unit = root / np.sqrt((root**2).sum(axis=1))[:, None]
        for i in range(1, len(unit)):
            left = np.ones(len(theta))
            for j in range(i):
                partials.append(unit[i, j] / np.sqrt(left))
                left = left - unit[i, j] ** 2
    return np.concatenate([values, np.array(partials).T], axis=1)


def log_volume(function: object, theta: np.ndarray) -> float:
    """log |d function / d theta| by central differences."""
    steps = 1e-6 * np.eye(theta.shape[1])
    columns = [(function(theta + e) - function(theta - e))[0] / 2e-6 for e in steps]  # type: ignore[operator]
    return float(np.linalg.slogdet(np.array(columns).T)[1])


@pytest.mark.parametrize("formula", ["y ~ z + (1 + z | g)", "y ~ z + (1 + z + year | g)"])
def test_density_is_the_users_density_times_the_jacobian(formula: str) -> None:
    frame = year_frame().assign(year=lambda d: d["year"] - 2013)  # near enough for differences of the plain map
    problem = build_problem(compress(model(formula), frame))
    assert len(problem.recentred) == 1
    plain = dataclasses.replace(problem, recentred=())
    theta = np.random.default_rng(2).normal(0, 0.4, (1, problem.size))
    words = in_words(problem, theta)
    count = len(problem.scales)
    scores = [float(to_score(scale, value)) for scale, value in zip(problem.scales, words[0, :count], strict=True)]
    other = np.array([[*scores, *ndtri((words[0, count:] + 1) / 2)]])
    assert np.allclose(constrain(plain, other)[2], words[:, :count])
    here, there = (Marginal(p).log_density(t) for p, t in ((problem, theta), (plain, other)))
    assert here[1][0] == pytest.approx(there[1][0], rel=1e-10)

    def plainly(t: np.ndarray) -> np.ndarray:
        return np.concatenate([constrain(plain, t)[2], 2 * ndtr(t[:, count:]) - 1], axis=1)

    volumes = log_volume(lambda t: in_words(problem, t), theta) - log_volume(plainly, other)
    assert here[0][0] - there[0][0] == pytest.approx(volumes, abs=1e-5)


def test_a_year_as_slope_is_sampled_well() -> None:
    """Plainly, theta's posterior is a hair's breadth wide; recentred, the first mixtures fit it."""
    problem = build_problem(compress(model("y ~ year + (1 + year | g)"), year_frame()))
    density = Marginal(problem)
    low, high = search_box(problem)
    drawn = importance.sample(
        lambda t: density.log_density(t)[0], low, high, draws=1000, chains=4, rng=np.random.default_rng(1)
    )
    assert drawn.efficiency > 0.4
    assert drawn.pareto_k < 0.6
    posterior = bh.fit(model("y ~ year + (1 + year | g)"), year_frame(), random_seed=1)
    assert posterior.attrs["status"] == "PASS"
    sds = posterior["posterior"].to_dataset().mean()
    assert float(sds["1|g_sigma"]) == pytest.approx(2015 * float(sds["year|g_sigma"]), rel=0.01)
    assert float(posterior["posterior"]["corr|g"][..., 0, 1].max()) < -0.99


def test_a_bounded_prior_of_the_intercept_keeps_its_bound() -> None:
    bounded = model("y ~ z + (1 + z | g)", bh.Uniform(0, 2))
    problem = build_problem(compress(bounded, year_frame()))
    assert not problem.recentred
    draws = bh.fit(bounded, year_frame(), random_seed=1)["posterior"]["1|g_sigma"]
    assert 0 < float(draws.min()) < float(draws.max()) < 2
