"""Both engines, and all parameterisations, have the same posterior: ten varied models, every marginal."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest

import bayeshlm as bh
from bayeshlm.data.table import tabulate
from bayeshlm.engines.exact.fit import fit_exact
from bayeshlm.engines.pymc import nuts
from bayeshlm.engines.pymc.nuts import fit_nuts
from bayeshlm.engines.pymc.observations import from_statistics, from_table
from bayeshlm.engines.pymc.parameterization import PARTLY, plan_levels
from bayeshlm.engines.result import EngineResult
from tests.engines.dense import CASES, make_frame, make_model
from tests.engines.test_nuts import MODEL, assert_same_marginals, grouped

NAMES = (
    "nested", "three levels", "correlated slopes", "independent slopes", "slopes on both levels", "no intercept",
    "slope without intercept", "arms", "lognormal", "known errors and weights",
)  # fmt: skip
QUICK = ("arms",)


def statistics_of(name: str) -> bh.Statistics:
    rng = np.random.default_rng(100 + len(name))
    frame = make_frame(rng, groups=9)
    return bh.compress(make_model(CASES[name], rng), frame)


def sample(statistics: bh.Statistics, parameterization: str, draws: int, seed: int = 1) -> EngineResult:
    return fit_nuts(
        statistics, from_statistics(statistics), draws=draws, chains=4, seed=seed, parameterization=parameterization
    )


def few_divergences(result: EngineResult, limit: int) -> EngineResult:
    """The result; a sampler that diverges more than now and then may miss a corner, and the test with it."""
    assert result.sample_stats["diverging"].sum() <= limit
    return result


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.long) for name in NAMES]
)
def test_exact_and_nuts_agree(name: str) -> None:
    statistics = statistics_of(name)
    draws = 1000 if name in QUICK else 5000
    exact = fit_exact(statistics, draws=draws, chains=4, seed=1)
    assert not exact.attrs["fallback"]
    sampled = sample(statistics, "noncentered", draws)
    assert_same_marginals(exact, few_divergences(sampled, draws // 250))


@pytest.mark.long
def test_parameterisation_does_not_change_the_posterior() -> None:
    """Priors that keep standard deviations from 0 and correlations from 1, where a form may have a funnel."""
    design = bh.Design.nested(method=6, instructor=5, student=8, covariates={"x": bh.Normal(3, 1)})
    model = bh.Model(
        "y ~ x + (x | method) + (1 | method:instructor)", family="lognormal",
        priors={"Intercept": bh.Normal(1, 1), "x": bh.Normal(0, 1), "1|method_sigma": bh.Gamma(8, 16),
                "x|method_sigma": bh.Gamma(8, 16), "1|method:instructor_sigma": bh.Gamma(8, 16),
                "corr|method": bh.LKJ(10), "sigma": bh.HalfNormal(0.5)},
    )  # fmt: skip
    statistics = bh.compress(model, bh.simulate(model, design, random_seed=3).data)
    auto = plan_levels(statistics, "auto")
    results = []
    for forms in itertools.product((0.0, 1.0), (0.0, PARTLY, 1.0)):  # slopes are not partly centred
        plans = tuple(dataclasses.replace(plan, centring=form) for plan, form in zip(auto, forms, strict=True))
        result = fit_nuts(statistics, from_statistics(statistics), draws=4000, chains=4, seed=5, plans=plans)
        results.append(few_divergences(result, 16))
    exact = fit_exact(statistics, draws=4000, chains=4, seed=1)
    for result in results:
        assert_same_marginals(exact, result)


@pytest.mark.long
def test_more_rows_of_the_same_groups_are_not_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [grouped(1), pd.concat([grouped(2), grouped(3)]), grouped(4).iloc[:-7]]
    exact = [fit_exact(bh.compress(MODEL, frame), draws=1000, chains=4, seed=1) for frame in frames]
    for frame, wanted in zip(frames, exact, strict=True):
        table = tabulate(MODEL, frame)
        rows = fit_nuts(table.statistics, from_table(table), draws=1000, chains=4, seed=1, parameterization="centered")
        assert_same_marginals(wanted, rows)
        monkeypatch.setattr(nuts, "_compile", None)  # from the second on


@pytest.mark.long
@pytest.mark.parametrize("family", ["bernoulli", "poisson"])
def test_joined_rows_have_the_posterior_of_the_rows(family: str) -> None:
    rng = np.random.default_rng(6)
    frame = make_frame(rng, groups=8)
    frame["z"] = rng.integers(0, 2, len(frame))
    frame["y"] = rng.poisson(2, len(frame)) if family == "poisson" else rng.integers(0, 2, len(frame))
    model = bh.Model("y ~ z + (1 | a)", family=family)
    results = []
    for join in (True, False):
        table = tabulate(model, frame, join=join)
        complete = dataclasses.replace(table.statistics, model=bh.scaled_priors(model, frame))
        results.append(
            fit_nuts(complete, from_table(table), draws=4000, chains=4, seed=2, parameterization="noncentered")
        )
    assert_same_marginals(*results)
