"""The quick fit against the engine's own posterior, and a decision's score against `compare`."""

from __future__ import annotations

import numpy as np
import pytest

import bayeshlm as bh
from bayeshlm.errors import EngineError
from bayeshlm.posterior.values import group_values
from bayeshlm.simulation.simulate_statistics import simulate_statistics
from bayeshlm.studies.plan import quick
from bayeshlm.studies.plan.quick import QuickValues, quick_values
from bayeshlm.studies.score import score

PRIORS = {
    "Intercept": bh.Normal(1, 0.5), "1|m_sigma": bh.HalfNormal(0.2), "1|m:g_sigma": bh.HalfNormal(0.2),
    "sigma": bh.HalfNormal(0.3),
}  # fmt: skip
NESTED = bh.Model("y ~ (1 | m/g)", family="lognormal", priors=PRIORS)
SLOPES = bh.Model(
    "y ~ x + arm + (1 + x | g)",
    priors={"Intercept": bh.Normal(0, 1), "x": bh.Normal(0, 1), "arm": bh.Normal(0, 1), "1|g_sigma": bh.HalfNormal(1),
            "x|g_sigma": bh.Uniform(0, 2), "corr|g": bh.LKJ(2), "sigma": bh.HalfNormal(1)},
)  # fmt: skip
SCHOOLS = {
    "Intercept": bh.Normal(0, 1), "1|arm_sigma": bh.HalfNormal(0.5), "1|g_sigma": bh.HalfNormal(0.5),
    "sigma": bh.HalfNormal(1),
}  # fmt: skip
CROSSED = bh.Model("y ~ (1 | arm) + (1 | g)", priors=SCHOOLS)
BY_ARM = bh.Model("y ~ (1 | arm) + (1 | g); sigma ~ arm", priors=SCHOOLS)
X = {"x": bh.Normal(0, 1)}
ARM = {"arm": bh.Treatment(["a", "b", "c"], level="g")}
WITHIN = {"arm": bh.Treatment(["a", "b", "c", "d"], level="k", within="g")}
MANY = {"arm": bh.Treatment(140, level="k")}  # with as many g's, large enough to be interpolated
CASES = [
    (NESTED, bh.Design.nested(m=2, g=2, u=5), "m"),
    (NESTED, bh.Design.nested(m=5, g=10, u=200), "m"),
    (NESTED, bh.Design.nested(m=4, g=6, u=8), "m:g"),
    (SLOPES, bh.Design.nested(g=12, u=10, covariates=X, treatments=ARM), "arm"),
    (SLOPES, bh.Design.nested(g=12, u=10, covariates=X, treatments=ARM), "g"),
    (CROSSED, bh.Design.nested(g=10, k=4, u=6, treatments=WITHIN), "arm"),
    (CROSSED, bh.Design.nested(g=10, k=4, u=6, treatments=WITHIN), "g"),
    (BY_ARM, bh.Design.nested(g=10, k=4, u=6, treatments=WITHIN), "arm"),
    (CROSSED, bh.Design.nested(g=150, k=4, u=6, treatments=MANY), "arm"),
]


@pytest.mark.filterwarnings("ignore:Every .* occurs in every:bayeshlm.errors.BayeshlmWarning")  # they do
@pytest.mark.parametrize(("model", "design", "by"), CASES, ids=lambda case: case if isinstance(case, str) else "")
def test_the_quick_fit_is_the_posterior(model, design, by) -> None:
    for seed in range(3):
        world = simulate_statistics(model, design, random_seed=seed)
        truth = {name: values for name, (_, values) in world.parameters.values.items()}
        found = quick_values(world.statistics, by, truth, np.random.default_rng(seed))
        posterior = bh.fit(model, world.statistics, random_seed=seed, progress=False)
        exact = group_values(posterior, by)
        assert found.labels == exact.labels
        vary = exact.draws.std(axis=0) > 0  # an arm that is the reference is 0 in both
        assert np.all(found.draws[:, ~vary] == exact.draws[:, ~vary][:1])
        a, b = found.draws[:, vary], exact.draws[:, vary]
        # Systematic resampling of 300 effective draws at the least, 4,000 draws of the engine, at worst half effective.
        error = b.std(axis=0) * np.sqrt(1 / 300 + 1 / 2000)
        assert np.all(np.abs(a.mean(axis=0) - b.mean(axis=0)) < 4.5 * error)
        spread = np.log(a.std(axis=0) / b.std(axis=0))
        assert np.all(np.abs(spread) < 0.25)  # tails of t shape: 5 standard errors of an sd with kurtosis 6


def test_the_engine_takes_over_where_weights_are_bad(monkeypatch) -> None:
    world = simulate_statistics(NESTED, bh.Design.nested(m=3, g=3, u=5), random_seed=1)
    monkeypatch.setattr(quick.importance, "MAX_PARETO_K", -10.0)
    monkeypatch.setattr(quick, "fit_exact", lambda statistics, **options: _recorded(statistics, options))
    taken.clear()
    found = quick_values(world.statistics, "m", {}, np.random.default_rng(1))
    assert not found.quick
    assert len(taken) == 1
    assert found.draws.shape == (quick.ENGINE_DRAWS, 3)


taken: list[dict[str, object]] = []


def _recorded(statistics, options):
    from bayeshlm.engines.exact.fit import EngineResult, Variable

    taken.append(options)
    draws = (1, quick.ENGINE_DRAWS)
    variables = {"Intercept": Variable(np.zeros(draws)), "1|m": Variable(np.zeros((*draws, 3)), ("m",))}
    return EngineResult(variables, {}, {})


@pytest.mark.parametrize("maximize", [True, False])
@pytest.mark.parametrize("family", ["gaussian", "lognormal"])
def test_a_decision_is_scored_as_compare_decides(maximize, family) -> None:
    model = bh.Model("y ~ (1 | m/g)", family=family, priors=PRIORS)
    world = simulate_statistics(model, bh.Design.nested(m=4, g=5, u=6), random_seed=3)
    posterior = bh.fit(model, world.statistics, random_seed=1, progress=False)
    comparison = bh.compare(posterior, "m", maximize=maximize)
    exact = group_values(posterior, "m")
    for best in range(4):
        truth = np.where(np.arange(4) == best, 0.1, np.array([0.0, 0.01, 0.02, 0.03])) * (1 if maximize else -1)
        found = score(
            QuickValues(exact.labels, exact.draws, True), truth, log=family == "lognormal", maximize=maximize, prob=0.95
        )
        assert found["correct"] == (comparison.best == best)
        shown = np.exp(truth) if family == "lognormal" else truth
        ideal = shown.max() if maximize else shown.min()
        assert found["loss"] == pytest.approx(abs(ideal - shown[comparison.best]))
    contrast = comparison.pairs.columns[2]
    width = comparison.pairs["upper"] - comparison.pairs["lower"]
    neutral = 0.0
    if contrast == "ratio":
        width, neutral = np.log(comparison.pairs["upper"] / comparison.pairs["lower"]), 1.0
    assert found["width"] == pytest.approx(width.mean())
    sure = (comparison.pairs["lower"] > neutral) | (comparison.pairs["upper"] < neutral)
    assert found["excludes_zero"] == pytest.approx(sure.mean())


def test_draws_that_leave_the_floats_are_refused() -> None:
    with pytest.raises(EngineError, match="leave the floats"):
        score(QuickValues([0, 1], np.full((5, 2), 1e4), True), np.zeros(2), log=True, maximize=True, prob=0.9)
    with pytest.raises(EngineError, match="leave the floats"):
        score(QuickValues([0, 1], np.full((5, 2), np.nan), True), np.zeros(2), log=False, maximize=True, prob=0.9)


def test_of_many_groups_each_is_compared_with_the_next() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=40)
    found = score(QuickValues(list(range(40)), truth + 1e-6 * rng.normal(size=(100, 40)), True), truth, log=False,
                  maximize=True, prob=0.95)  # fmt: skip
    assert (found["correct"], found["excludes_zero"], found["wrong_sign"]) == (1.0, 1.0, 0.0)
    assert found["truth_if_sure"] == pytest.approx(np.abs(truth - np.roll(truth, -1)).mean())
