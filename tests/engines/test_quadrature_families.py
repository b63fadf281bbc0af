"""Every family of the quadrature engine against dense sums of row densities; rules in place of rows against rows."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

import bayeshlm as bh
from bayeshlm.data.default_priors import scale_priors
from bayeshlm.data.table import tabulate
from bayeshlm.engines.quadrature.build import build_problem
from bayeshlm.engines.quadrature.density import Density, phi_of
from bayeshlm.engines.quadrature.fit import fit_quadrature
from bayeshlm.engines.quadrature.rules import Rule, gauss
from bayeshlm.errors import DataError
from bayeshlm.simulation.densities import log_density

CLOSE = 1e-6
NODES = 401

ROWS = [(0.0, 1.0, 1.0), (0.0, 1.0, 1.0), (1.0, 2.0, 0.5), (2.5, 1.0, 2.0)]  # x, offset, weight


def bound(model, table):
    model = scale_priors(model, table.statistics) if model.missing_priors else model.with_priors(model.complete_priors)
    return dataclasses.replace(table, statistics=dataclasses.replace(table.statistics, model=model))


def study(case):
    """(family, data, options of the model)"""
    rng = np.random.default_rng(3)
    data = pd.DataFrame([(0, b, *row) for b in range(3) for row in ROWS], columns=["a", "b", "x", "o", "w"])
    data.loc[data["b"] == 2, "a"] = 1
    eta, n = 0.3 + 0.2 * data["x"], len(data)
    match case:
        case "negative_binomial" | "poisson":
            return case, data.assign(y=rng.poisson(np.exp(eta))), {}
        case "gamma":
            return case, data.assign(y=rng.gamma(2, 1, n)), {"weights": "w"}
        case "cv_normal":
            return case, data.assign(y=rng.normal(1, 0.3, n)), {"weights": "w"}
        case "gaussian between bounds":
            y = np.clip(rng.normal(1e3, 1, n), 999.5, 1000.5)
            return "gaussian", data.assign(y=y), {"weights": "w", "censored": (999.5, 1000.5)}
        case "lognormal below a cap":
            return "lognormal", data.assign(y=np.minimum(np.exp(rng.normal(1, 1, n)), 4.0)), {"censored": (None, 4.0)}
    y = np.exp(rng.normal(0, 1, n)) + 1e3 * (case == "gaussian with a column")
    words = rng.permutation(["none", "left", "right", "interval"] * 3)
    marked = data.assign(y=y, word=words, upper=y + rng.random(n) + 0.1)
    return case.split()[0], marked, {"censored": ("word", "upper")}


CASES = (
    "poisson", "negative_binomial", "gamma", "cv_normal", "gaussian between bounds", "lognormal below a cap",
    "gaussian with a column", "lognormal with a column",
)  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_log_density(case):
    """Two nested levels, integrated by a fine trapezoidal rule in both, from the densities that `simulate` has."""
    family, data, options = study(case)
    offset = "" if family == "cv_normal" else " + offset(o)"
    model = bh.Model(f"y ~ x + (1 | a/b){offset}", family=family, **options)
    table = bound(model, tabulate(model, data, join=False))
    density = Density(build_problem(table))
    z = np.linspace(-9, 9, NODES)
    log_weight = norm.logpdf(z) + np.log(z[1] - z[0])
    beta = np.array([1000.0 if family == "gaussian" else 0.2, 0.15])
    for outer, inner, extra in ((0.5, 0.3, 0.8), (0.01, 0.9, 1.3), (0.6, 0.001, 0.5)):
        extras = [extra] * len(density.problem.extra)
        phi = phi_of(density.problem, beta, extras, [outer, inner])[None]
        found = (density.log_density(phi) - density.values(phi).log_prior)[0]
        parameters = {scale.variable: np.array([[extra]]) for scale in density.problem.extra}
        total = 0.0
        for a in range(2):
            below = np.zeros(NODES)
            for b in np.unique(table.codes[table.codes[:, 0] == a, 1]):
                rows = np.flatnonzero(table.codes[:, 1] == b)
                named = {
                    name: getattr(table, name)[rows]
                    for name in (
                        "codes",
                        "columns",
                        "response",
                        "weight",
                        "trials",
                        "offset",
                        "status",
                        "upper",
                        "part",
                    )
                }
                eta = table.offset[rows] + table.columns[rows][:, :2] @ beta
                eta = eta + (outer * z[:, None, None] + inner * z[None, :, None])
                with np.errstate(all="ignore"):
                    values = log_density(dataclasses.replace(table, **named), eta.reshape(-1, len(rows)), parameters)
                below += logsumexp(values.sum(axis=1).reshape(NODES, NODES) + log_weight, axis=1)
            total += logsumexp(below + log_weight)
        assert abs(found - total) < CLOSE + 1e-12 * abs(total)


def test_a_negative_binomial_of_large_shape_is_poisson():
    """Where alpha is large the two differ by a number times 1 / alpha: nothing is lost to rounding on the way."""
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"g": np.repeat(range(10), 200), "x": rng.integers(0, 3, 2000)})
    data["y"] = rng.poisson(np.exp(0.5 + 0.2 * data["x"]))
    found = {}
    for family in ("poisson", "negative_binomial"):
        model = bh.Model("y ~ x + (1 | g)", family=family)
        density = Density(build_problem(bound(model, tabulate(model, data, join=False))))
        for alpha in (1e4, 1e8, 1e12, 1e16) if density.problem.extra else (0.0,):
            phi = phi_of(density.problem, np.array([0.5, 0.2]), [alpha] * len(density.problem.extra), [0.3])[None]
            found[alpha] = float((density.log_density(phi) - density.values(phi).log_prior)[0])
    for alpha in (1e4, 1e8, 1e12, 1e16):
        assert abs(found[alpha] - found[0.0]) < 20 / alpha + 1e-8


def many_rows(family, rng, x):
    group = rng.integers(0, 12, len(x))
    arm = group % 3
    eta = -0.5 + 0.6 * x + rng.normal(0, 0.4, 12)[group]
    y = {
        "bernoulli": lambda: (rng.random(len(x)) < 1 / (1 + np.exp(-eta))).astype(int),
        "negative_binomial": lambda: rng.poisson(np.exp(eta) * rng.gamma(3, 1 / 3, len(x))),
        "gaussian": lambda: np.minimum(eta + rng.normal(size=len(x)), 0.8),
    }[family]()
    return pd.DataFrame({"a": arm, "b": group, "x": x, "y": y})


@pytest.mark.parametrize("family", ["bernoulli", "negative_binomial", "gaussian"])
@pytest.mark.parametrize("shape", ["normal", "heavy", "with arms"])
def test_rules_in_place_of_rows(family, shape):
    """The error that is told bounds the change of the log density, and the rule that is chosen leaves a small one."""
    rng = np.random.default_rng(4)
    x = rng.standard_t(3, 6000) if shape == "heavy" else rng.normal(size=6000)
    data = many_rows(family, rng, x)
    censored = {"censored": (None, 0.8)} if family == "gaussian" else {}
    terms = "x*arm" if shape == "with arms" else "x"
    data["arm"] = np.where(data["b"] % 2, "new", "old")
    model = bh.Model(f"y ~ {terms} + (1 | a/b)", family=family, **censored)
    table = bound(model, tabulate(model, data))
    whole = Density(build_problem(table))
    p = whole.problem.common
    beta = np.array([-0.5, 0.6, 0.1, -0.1])[:p] if shape == "with arms" else np.array([-0.5, 0.6])
    if shape == "with arms":
        names = [block.name for block, _ in whole.problem.blocks]
        beta = np.array([{"Intercept": -0.5, "x": 0.6, "arm": 0.1, "x:arm": -0.1}[name] for name in names])
    phi = phi_of(whole.problem, beta, [1.2] * len(whole.problem.extra), [0.3, 0.4])[None]
    wanted = whole.log_density(phi)[0]
    for rule in (Rule(1, 4), Rule(1, 12), Rule(8, 8)):
        short = Density(build_problem(table, rule))
        assert short.problem.ruled
        assert short.begin_at(phi[0])
        error = abs(short.log_density(phi)[0] - wanted)
        told = short.compression_error(phi, short.start[short.problem.here][None])[0]
        assert error < 1.5 * told + 1e-8
    assert error < (1e-2 if shape == "heavy" else 1e-6)
    result = fit_quadrature(table, draws=250, chains=2, seed=1)
    assert result.attrs.get("compression_error", 0.0) < 1e-4  # none where rows stay rows, as with heavy tails
    assert shape == "heavy" or result.attrs["cells"] < 0.3 * len(data)


def test_gauss_rules_have_the_moments_of_their_points():
    rng = np.random.default_rng(1)
    cell = np.repeat([0, 1, 2, 3], [500, 3, 1, 40])
    t = np.concatenate([rng.normal(size=500), [1.0, 2.0, 2.0], [5.0], np.repeat([-1.0, 1.0], 20)])
    weight = rng.random(len(t))
    of_cell, nodes, weights = gauss(cell, t, weight, 4, 6)
    assert np.bincount(of_cell).tolist() == [6, 2, 1, 2]
    for k in range(12):
        wanted = np.bincount(cell, weight * t**k)
        np.testing.assert_allclose(np.bincount(of_cell, weights * nodes**k), wanted, rtol=1e-9, atol=1e-9)


def test_a_world_in_which_all_scores_are_capped_is_fitted():
    data = pd.DataFrame({"g": np.repeat(np.arange(6), 5), "y": 100.0})
    priors = {
        "Intercept": bh.Normal(90, 20), "1|g_sigma": bh.HalfNormal(5), "sigma": bh.HalfNormal(10),
    }  # fmt: skip
    model = bh.Model("y ~ 1 + (1 | g)", censored=(None, 100.0), priors=priors)
    posterior = bh.fit(model, data, random_seed=1)
    assert posterior.attrs["engine"] == "quadrature"
    assert posterior.attrs["status"] == "PASS"
    assert float(posterior["posterior"]["Intercept"].mean()) > 100
    with pytest.raises(DataError, match="is constant"):  # of which no default prior has a scale
        bh.fit(bh.Model("y ~ 1 + (1 | g)", censored=(None, 100.0)), data)
