"""Statistics drawn as such against those of simulated rows: equal where the seed fixes them, equal in law elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import bayeshlm as bh
from bayeshlm.errors import BayeshlmError
from bayeshlm.simulation import units
from bayeshlm.simulation.simulate_statistics import simulate_statistics
from tests.simulation.test_simulate import MODELS

H, N = bh.HalfNormal, bh.Normal
NESTED = bh.Design.nested(a=4, b=3, unit=6, covariates={"x": bh.Gamma(3, 2), "z": N(1, 2)})
ARMS = bh.Design.nested(
    site=6, group=[3, 4] * 3, unit=5, covariates={"x": N(0, 1), "size": bh.Covariate(bh.Uniform(1, 2), "site")},
    treatments={"arm": bh.Treatment(["usual", "new", "best"], level="group"), "dose": bh.Treatment(3, level="site")},
)  # fmt: skip
CASES = {
    **MODELS,
    "transforms": (bh.Model("y ~ log(x)*z + I(x**2) + (1 | a/b)", family="lognormal"), NESTED),
    "centred": (bh.Model("y ~ center(x) + scale(z) + (scale(x) | a)", family="lognormal"), NESTED),
    "coarser cells": (bh.Model("y ~ x + z + (1 | a)", family="lognormal"), NESTED),
    "no groups": (bh.Model("y ~ x + z", family="lognormal"), NESTED),
    "group columns": (bh.Model("y ~ size*arm + x:arm + C(dose) + (1 | site/group)", family="lognormal"), ARMS),
    "centred group column": (bh.Model("y ~ center(size) + x + (1 | site/group)", family="lognormal"), ARMS),
    "arms as groups": (bh.Model("y ~ x + size + (1 | arm/group)", family="lognormal"), ARMS),
    "dose": (bh.Model("y ~ dose + x + size + (dose || site)", family="lognormal"), ARMS),
    "weights": (
        bh.Model("y ~ z + (1 | a)", weights="x", priors={"Intercept": N(), "z": N(), "1|a_sigma": H(), "sigma": H()}),
        NESTED,
    ),
    "weights and errors of groups": (
        bh.Model("y ~ 1 + (1 | g)", weights="w", se="s", priors={"Intercept": N(), "1|g_sigma": H()}),
        bh.Design.nested(g=5, unit=[1, 2, 3, 4, 5], covariates={
            "w": bh.Covariate(bh.Uniform(1, 2), "g"), "s": bh.Covariate(bh.Uniform(1, 2), "g")}),
    ),
    "random sizes": (
        bh.Model("y ~ x + z + (1 | a/b)", family="lognormal"),
        bh.Design.nested(a=4, b=bh.Uniform(1, 6), unit=bh.LogNormal(2, 1), covariates=dict(NESTED.covariates)),
    ),
}  # fmt: skip


def both(name: str, seed: int):
    model, design = CASES[name]
    world = bh.simulate(model, design, random_seed=seed)
    return simulate_statistics(model, design, random_seed=seed), bh.compress(model, world.data), world.truth


@pytest.mark.parametrize("name", CASES)
def test_everything_but_the_noise_is_that_of_the_rows(name) -> None:
    for seed in (1, 2):
        drawn, rows, truth = both(name, seed)
        ours = drawn.statistics
        assert drawn.through == "statistics"
        assert drawn.truth.equals(truth)
        assert ours.model == rows.model
        assert ours.layout.columns == rows.layout.columns
        assert (ours.layout.common, ours.layout.levels) == (rows.layout.common, rows.layout.levels)
        assert dict(ours.layout.categories) == dict(rows.layout.categories)
        assert dict(ours.layout.declared) == dict(rows.layout.declared)
        for node, pair in rows.layout.constants.items():
            assert ours.layout.constants[node] == pytest.approx(pair, rel=1e-12, abs=1e-14)
        assert ours.members == rows.members
        assert [ours.labels(k) for k in range(len(ours.members))] == [rows.labels(k) for k in range(len(rows.members))]
        assert (ours.rows, ours.total_rows, dict(ours.missing)) == (rows.rows, rows.total_rows, {})
        assert np.array_equal(ours.codes, rows.codes)
        assert np.array_equal(ours.count, rows.count)
        np.testing.assert_allclose(ours.weight, rows.weight, rtol=1e-13)
        np.testing.assert_allclose(ours.sum_log_weight, rows.sum_log_weight, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(ours.shift[:-1], rows.shift[:-1], rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose((ours.mean + ours.shift)[:, :-1], (rows.mean + rows.shift)[:, :-1], atol=1e-12)
        np.testing.assert_allclose(ours.scatter[:, :-1, :-1], rows.scatter[:, :-1, :-1], rtol=1e-9, atol=1e-11)


def pivots(statistics, truth, sigma) -> tuple[list[float], list[float]]:
    """(standard normal, uniform) functions of the cells' y-moments, given the x-moments and the truth."""
    layout = statistics.layout
    normal, uniform = [], []
    for cell in range(len(statistics.count)):
        slopes = np.zeros(len(layout.columns))
        for block in layout.common:
            slopes[list(block.columns)] += np.atleast_1d(truth[block.name].values)
        for k, level in enumerate(layout.levels):
            for block in level.blocks:
                slopes[list(block.columns)] += np.atleast_1d(truth[block.name].values[statistics.codes[cell, k]])
        mean, scatter = statistics.mean[cell] + statistics.shift, statistics.scatter[cell]
        noise = mean[-1] - slopes[0] - mean[:-1] @ slopes[1:]
        normal.append(noise * np.sqrt(statistics.weight[cell]) / sigma)
        inside, crossed = scatter[:-1, :-1], scatter[:-1, -1] - scatter[:-1, :-1] @ slopes[1:]
        values, vectors = np.linalg.eigh(inside)
        kept = values > 1e-9
        projected = vectors[:, kept].T @ crossed / np.sqrt(values[kept]) / sigma
        normal += projected.tolist()
        residual = scatter[-1, -1] - 2 * slopes[1:] @ scatter[:-1, -1] + slopes[1:] @ inside @ slopes[1:]
        left = (residual / sigma**2 - (projected**2).sum(), statistics.count[cell] - 1 - kept.sum())
        if left[1] > 0:
            uniform.append(stats.chi2.cdf(*left))
        else:
            assert abs(left[0]) < 1e-6  # nothing is left over
    return normal, uniform


@pytest.mark.parametrize("route", ["statistics", "rows"])
@pytest.mark.parametrize("name", ["transforms", "slopes", "weights", "arms", "random sizes"])
def test_the_response_has_the_law_of_the_rows(name, route) -> None:
    """Pivots of 30 worlds against their known law; the rows' statistics show that the pivots are right (1e-5)."""
    normal, uniform = [], []
    for seed in range(30):
        drawn, rows, truth = both(name, seed)
        found = pivots(drawn.statistics if route == "statistics" else rows, truth, float(truth["sigma"]))
        normal += found[0]
        uniform += found[1]
    assert stats.kstest(normal, "norm").pvalue > 1e-5
    assert stats.kstest(uniform, "uniform").pvalue > 1e-5


def test_jacobian_is_the_sum_of_the_logs() -> None:
    drawn, rows, _ = both("transforms", 3)
    for found in (drawn.statistics, rows):
        total = found.count @ (found.mean[:, -1] + found.shift[-1])
        assert found.log_jacobian == pytest.approx(-total, rel=1e-12)


def test_covariates_drawn_in_pieces_are_the_same(monkeypatch) -> None:
    model = bh.Model("y ~ scale(x) + (x | a)", family="lognormal")
    design = bh.Design.nested(a=5, unit=[7, 1000, 1, 350, 64], covariates={"x": bh.Gamma(3, 2)})
    whole = simulate_statistics(model, design, random_seed=1).statistics
    monkeypatch.setattr(units, "PIECE", 100)
    pieces = simulate_statistics(model, design, random_seed=1).statistics
    np.testing.assert_allclose(pieces.mean[:, 0] + pieces.shift[0], whole.mean[:, 0] + whole.shift[0], rtol=1e-12)
    np.testing.assert_allclose(pieces.scatter[:, :2, :2], whole.scatter[:, :2, :2], rtol=1e-10, atol=1e-12)
    assert np.array_equal(pieces.count, whole.count)


def test_sums_over_many_units_from_their_limit(monkeypatch) -> None:
    """Mean and spread over 300 worlds of the x-moments against those of drawn units (false alarms 1e-5 each)."""
    model = bh.Model("y ~ log1p(x) + I(x**2) + x:arm + (1 | a)", family="lognormal")
    design = bh.Design.nested(
        a=4, unit=400, covariates={"x": bh.Gamma(3, 2)}, treatments={"arm": bh.Treatment(["p", "q"], level="a")}
    )
    drawn = [simulate_statistics(model, design, random_seed=s) for s in range(300)]
    monkeypatch.setattr(units, "MANY_UNITS", 1000)
    monkeypatch.setattr(units, "MANY_IN_GROUP", 100)
    limit = [simulate_statistics(model, design, random_seed=1000 + s) for s in range(300)]
    assert {world.through for world in drawn} == {"statistics"}
    assert {world.through for world in limit} == {"moments"}

    def features(world):
        s = world.statistics
        x = (s.mean + s.shift)[:, :-1].mean(axis=0)
        pairs = s.scatter.sum(axis=0)[:-1, :-1][np.triu_indices(len(x))]
        return np.concatenate([x[:2], pairs[pairs != 0]])

    a, b = (np.array([features(w) for w in worlds]) for worlds in (drawn, limit))
    z = (a.mean(axis=0) - b.mean(axis=0)) / np.sqrt((a.var(axis=0) + b.var(axis=0)) / 300)
    assert np.abs(z).max() < 4.9
    # The spread of a scatter's log has a standard error of about sqrt(kurtosis / n), heavier than normal for x^2.
    assert np.abs(np.log(a.std(axis=0) / b.std(axis=0))).max() < 4.5 * np.sqrt(2 / 300)


def test_a_billion_units_are_drawn_at_once() -> None:
    model = bh.Model("y ~ x + (1 | a/b)", family="lognormal")
    sizes = {"a": 5, "b": 10, "unit": 20_000_000}
    world = simulate_statistics(model, bh.Design.nested(**sizes, covariates={"x": N(3, 0.25)}), random_seed=1)
    assert (world.through, world.statistics.rows) == ("moments", 10**9)
    plain = simulate_statistics(bh.Model("y ~ (1 | a/b)", family="lognormal"), bh.Design.nested(**sizes), random_seed=1)
    assert (plain.through, plain.statistics.rows) == ("statistics", 10**9)
    within = plain.statistics.scatter[:, 0, 0] / plain.statistics.count
    np.testing.assert_allclose(within, float(plain.truth["sigma"]) ** 2, rtol=5 * np.sqrt(2 / 2e7))


@pytest.mark.parametrize("covariate", [bh.Cauchy(0, 1), bh.LogNormal(0, 1)])
def test_heavy_tails_have_no_limit(covariate, monkeypatch) -> None:
    monkeypatch.setattr(units, "MANY_UNITS", 100)
    monkeypatch.setattr(units, "MANY_IN_GROUP", 10)
    model = bh.Model("y ~ x + (1 | a)", family="lognormal", priors={"x": N(0, 1e-6)})
    design = bh.Design.nested(a=4, unit=100, covariates={"x": covariate})
    assert simulate_statistics(model, design, random_seed=1).through == "statistics"


@pytest.mark.parametrize(
    "model",
    [
        bh.Model("y ~ C(dose) + (1 | unit)", family="lognormal"),
        bh.Model("y ~ C(group) + x", family="lognormal"),
        bh.Model("y ~ unit + (1 | site)", family="lognormal"),
        bh.Model("y ~ arm + (1 | site)", family="lognormal", weights="w"),
    ],
)
def test_models_that_need_rows_get_them(model) -> None:
    design = bh.Design.nested(
        site=6, group=[3, 4] * 3, unit=5, covariates={"x": N(0, 1), "w": bh.Uniform(1, 2)},
        treatments=dict(ARMS.treatments),
    )  # fmt: skip
    world = simulate_statistics(model, design, random_seed=1)
    rows = bh.simulate(model, design, random_seed=1)
    assert world.through == "rows"
    assert world.truth.equals(rows.truth)
    assert np.array_equal(world.statistics.mean, bh.compress(model, rows.data).mean)


@pytest.mark.parametrize(
    ("model", "design", "params"),
    [
        (bh.Model("y ~ log(arm) + (1 | site)", family="lognormal"), ARMS, None),
        (bh.Model("y ~ log(x) + (1 | site)", family="lognormal"), ARMS, None),
        (bh.Model("y ~ log(w) + (1 | site)", family="lognormal"), ARMS, None),
        (bh.Model("y ~ x + (1 | site)"), ARMS, None),
        (bh.Model("y ~ x + (1 | site)", family="lognormal"), ARMS, {"Intercept": 1e4}),
        (bh.Model("y ~ x + (1 | site)", family="lognormal"), ARMS, {"sigma": -1}),
        (bh.Model("y ~ arm + x", family="lognormal"), bh.Design.nested(
            site=1, unit=3, covariates={"x": N()}, treatments={"arm": bh.Treatment(["a", "b"], level="site")}), None),
        (bh.Model("y ~ scale(v)", family="lognormal"), bh.Design.nested(
            site=1, unit=3, covariates={"v": bh.Covariate(N(), "site")}), None),
    ],
)  # fmt: skip
def test_what_rows_refuse_is_refused(model, design, params) -> None:
    with pytest.raises(BayeshlmError) as rows:
        bh.compress(model, bh.simulate(model, design, params=params, random_seed=1).data)
    with pytest.raises(BayeshlmError) as ours:
        simulate_statistics(model, design, params=params, random_seed=1)
    assert rows.type in (type(ours.value), bh.errors.DataError)
