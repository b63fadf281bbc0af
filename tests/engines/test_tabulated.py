"""Interpolated densities and draws against exact factorisations, on designs with a large block."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bayeshlm as bh
from bayeshlm.data.compress import compress
from bayeshlm.engines.exact.build import build_problem
from bayeshlm.engines.exact.crossed import draws as bulkdraws
from bayeshlm.engines.exact.crossed import interpolated as tabulated
from bayeshlm.engines.exact.crossed import products as crossing
from bayeshlm.engines.exact.crossed.density import Crossed
from bayeshlm.engines.exact.crossed.interpolated import Interpolated, NotInterpolatedError
from bayeshlm.engines.exact.crossed.polynomials import Ellipsoid, interpolant, terms
from bayeshlm.engines.exact.density import bind as collapse
from bayeshlm.engines.exact.hyperparameters import constrain, search_box
from bayeshlm.engines.sampling import importance

PRIORS = {
    "Intercept": bh.Normal(0, 2), "x": bh.Normal(0, 1), "1|s_sigma": bh.HalfNormal(1), "1|d_sigma": bh.HalfNormal(1),
    "sigma": bh.HalfNormal(1), "1|k_sigma": bh.HalfNormal(1),
}  # fmt: skip
SLOPES = {**PRIORS, "x|s_sigma": bh.HalfNormal(1), "corr|s": bh.LKJ(2)}
MODELS = {
    "intercepts": bh.Model("y ~ x + (1 | s) + (1 | d) + (1 | k)", priors=PRIORS),
    "uniform sds": bh.Model("y ~ x + (1 | s) + (1 | d) + (1 | k)", priors={
        **PRIORS, "1|s_sigma": bh.Uniform(0, 2), "1|d_sigma": bh.Uniform(0, 2), "1|k_sigma": bh.Uniform(0, 2),
        "sigma": bh.Uniform(0, 5), "Intercept": bh.Flat(), "x": bh.Flat()}),
    "known errors": bh.Model("y ~ x + (1 | s) + (1 | d) + (1 | k)", se="e",
                             priors={k: v for k, v in PRIORS.items() if k != "sigma"}),
    "correlated slopes": bh.Model("y ~ x + (1 + x | s) + (1 | d) + (1 | k)", priors=SLOPES),
}  # fmt: skip


def world(
    seed: int = 1, *, students: int = 250, lecturers: int = 140, rows: int = 1500, s: float = 0.5
) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({
        "s": rng.integers(0, students, rows), "d": rng.integers(0, lecturers, rows), "k": rng.integers(0, 8, rows),
        "x": rng.normal(1, 1, rows), "e": rng.uniform(0.6, 1.4, rows),
    })  # fmt: skip
    slope = rng.normal(0, 0.3, students)
    effects = rng.normal(0, s, students)[frame["s"]] + rng.normal(0, 0.4, lecturers)[frame["d"]]
    effects = effects + rng.normal(0, 0.2, 8)[frame["k"]] + (0.3 + slope[frame["s"]]) * frame["x"]
    return frame.assign(y=effects + frame["e"] * rng.normal(size=rows))


def tabulate(model: bh.Model, frame: pd.DataFrame) -> tuple[Interpolated, np.ndarray]:
    """The table, and 4 x 250 draws of theta from it."""
    problem = build_problem(compress(model, frame))
    crossed = Crossed(problem)
    assert crossed.crossing.large
    low, high = search_box(problem)
    rng = np.random.default_rng(2)
    table = Interpolated(crossed, low, high, rng)
    drawn = importance.sample(
        lambda t: table.log_density(t)[0], low, high, draws=250, chains=4, rng=rng, starts=table.modes(rng)
    )
    assert drawn.pareto_k < importance.MAX_PARETO_K
    return table, drawn.theta.reshape(-1, problem.size)


@pytest.mark.parametrize("name", MODELS)
def test_density_and_draws_equal_exact_ones(name: str) -> None:
    """The log density at 20 posterior draws, and given theta the draws of all effects from the same random numbers."""
    large = {"students": 1500, "lecturers": 300, "rows": 20_000}  # few groups leave four ratios too wide for a table
    table, theta = tabulate(MODELS[name], world(**(large if name == "correlated slopes" else {})))
    assert np.ptp(theta, axis=0).min() > 0
    sample = theta[::50]
    exact = table.crossed.log_density(sample)
    for ours, theirs in zip(table.log_density(sample), exact, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-2)
    middle = exact[0] - exact[0].max() > -3
    np.testing.assert_allclose(table.log_density(sample)[0][middle], exact[0][middle], atol=5 * tabulated.TOLERANCE)

    sigma, roots, _, _ = constrain(table.problem, theta)
    x = table.coordinates.of_theta(theta)
    known = np.random.default_rng(3).normal(0, 0.3, (table.crossed.width, len(theta)))
    block = bulkdraws.LargeBlockDraws(table.crossed, table.coordinates, x, sigma, known, np.random.default_rng(4))
    drawn = block.draw()
    for b in range(0, len(theta), 100):
        ratios = [root[:, :, b] / sigma[b] for root in roots]
        at = table.crossed.large_block(ratios)
        noise = sigma[b] * block._noise(at, ratios, block.xi[:, [b]])[:, 0]
        wanted = noise - block._mean(at, ratios) @ known[:, b]
        assert np.abs(drawn[:, b] - wanted).max() < 5 * bulkdraws.NOISE_TOLERANCE * noise.std()


def test_a_wrong_table_is_noticed_before_anything_is_returned() -> None:
    table, theta = tabulate(MODELS["intercepts"], world())
    table.draw_effects(theta, np.random.default_rng(1))
    assert table.diagnostics["density_error"] < 1e-2
    table.values = 1.001 * table.values
    with pytest.raises(bh.errors.EngineError, match="interpolated, differs by"):
        table.draw_effects(theta, np.random.default_rng(1))


@pytest.mark.parametrize("spread", [0.0, 0.05])
def test_a_level_without_variation(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Students (nearly) alike: the region passes 0, the posterior is that of exact evaluations (false alarms 1e-5)."""
    frame = world(5, students=90, lecturers=50, rows=500, s=spread)
    monkeypatch.setattr(crossing, "SMALL", 16)
    fits = [bh.fit(MODELS["intercepts"], frame, random_seed=1, draws=500)]
    monkeypatch.setattr(crossing, "SMALL", 256)
    fits.append(bh.fit(MODELS["intercepts"], frame, random_seed=2, draws=500))
    assert "factorisations" in fits[0].attrs
    assert "factorisations" not in fits[1].attrs
    assert [fit.attrs["status"] for fit in fits] == ["PASS", "PASS"]
    assert_same(*fits)


def assert_same(
    first: object, second: object, names: tuple[str, ...] = ("1|s_sigma", "1|d_sigma", "sigma", "1|k")
) -> None:
    """Means and sds within 5 Monte Carlo standard errors."""
    from arviz_stats.base import array_stats

    for name in names:
        a, b = (np.asarray(fit["posterior"][name]) for fit in (first, second))  # type: ignore[index]
        for method, statistic in (("mean", np.mean), ("sd", np.std)):
            for index in np.ndindex(a.shape[2:]):
                one, two = a[(..., *index)], b[(..., *index)]
                error = np.hypot(array_stats.mcse(one, method=method), array_stats.mcse(two, method=method))
                assert abs(statistic(one) - statistic(two)) < 5 * error, (name, index, method)


def test_what_cannot_be_tabulated_is_evaluated_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same posterior without a table (false alarms 1e-5), and too long a computation is refused."""
    frame = world(6, students=60, lecturers=40, rows=400)
    monkeypatch.setattr(crossing, "SMALL", 16)
    usual = bh.fit(MODELS["intercepts"], frame, random_seed=1, draws=250)

    def never(*_: object) -> None:
        raise NotInterpolatedError("no luck")

    monkeypatch.setattr(collapse, "Interpolated", never)
    other = bh.fit(MODELS["intercepts"], frame, random_seed=2, draws=250)
    assert ("factorisations" in usual.attrs, "factorisations" in other.attrs) == (True, False)
    assert_same(usual, other)
    monkeypatch.setattr(collapse, "MAX_SECONDS", 1e-2)
    with pytest.raises(bh.errors.EngineError, match=r"could not be interpolated \(no luck\)"):
        bh.fit(MODELS["intercepts"], frame, random_seed=1)


def test_too_large_crossings_are_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = world(7)
    monkeypatch.setattr(collapse, "Crossed", None)  # any work would fail on it
    monkeypatch.setattr(collapse, "MAX_BYTES", 2**20)
    with pytest.raises(bh.errors.EngineError, match=r"140 effects of crossed levels .* GiB, over the limit"):
        bh.fit(MODELS["intercepts"], frame)
    monkeypatch.setattr(collapse, "MAX_BYTES", 2**40)
    monkeypatch.setattr(collapse, "MAX_SECONDS", 1e-6)
    with pytest.raises(bh.errors.EngineError, match="ask for fewer draws"):
        bh.fit(MODELS["intercepts"], frame)


@pytest.mark.parametrize(("dims", "degree"), [(1, 6), (2, 5), (3, 4), (5, 3)])
def test_interpolants_reproduce_polynomials_of_their_degree(dims: int, degree: int) -> None:
    rng = np.random.default_rng(dims)
    region = Ellipsoid(rng.normal(size=dims), rng.normal(size=(dims, dims)) + 3 * np.eye(dims))
    slope = rng.normal(size=dims)

    def polynomial(x: np.ndarray) -> np.ndarray:
        return (x @ slope) ** degree - x[:, 0] ** (degree - 1) + 2

    places = region.nodes(degree)
    assert len(places) == terms(dims, degree)
    assert np.linalg.norm(region.unit(places), axis=1).max() < 1 + 1e-12
    points = region.centre + rng.uniform(-0.4, 0.4, (50, dims)) @ region.root.T
    found = interpolant(region, degree).weights(points) @ polynomial(places)
    np.testing.assert_allclose(found, polynomial(points), rtol=1e-9, atol=1e-10 * np.abs(polynomial(places)).max())
    assert np.array_equal(region.nodes(degree - 1), places[: terms(dims, degree - 1)])
