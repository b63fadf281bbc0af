"""Prior-data conflict: seldom said where there is none, always where the data lie far out."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeshlm as bh
from bayeshlm.posterior.conflict import conflicts, normal_scores
from bayeshlm.posterior.draws import statistics_of

DESIGN = bh.Design.nested(
    a=6, b=4, u=8, covariates={"x": bh.Normal(3, 1)}, treatments={"arm": bh.Treatment(["p", "q"], level="b")}
)
MODEL = bh.Model(
    "y ~ x + arm + (1 | a/b)", family="lognormal",
    priors={"Intercept": bh.Normal(1, 1), "x": bh.Normal(0, 1), "arm": bh.StudentT(4, 0, 1),
            "1|a_sigma": bh.HalfNormal(0.3), "1|a:b_sigma": bh.Exponential(3), "sigma": bh.HalfStudentT(4, 0.3)},
)  # fmt: skip


def fitted(model: bh.Model, data: pd.DataFrame, seed: int = 1):
    return bh.fit(model.with_priors({"arm": bh.Normal(0, 1)}), data, draws=250, random_seed=seed, progress=False)


def test_data_from_the_priors_seldom_contradict_them() -> None:
    """1 in 200 is aimed at; of 150 worlds more than 5 would come in 1 run of 1,000 at that rate."""
    found = 0
    model = MODEL.with_priors({"arm": bh.Normal(0, 1)})
    for seed in range(150):
        posterior = fitted(model, bh.simulate(model, DESIGN, random_seed=seed).data, seed)
        found += bool(conflicts(posterior, statistics_of(posterior)))
    assert found <= stats.binom.ppf(0.999, 150, 0.005)


@pytest.mark.parametrize(
    ("name", "prior"),
    [
        ("Intercept", bh.Normal(20, 1)), ("x", bh.Normal(5, 0.2)), ("sigma", bh.HalfNormal(0.01)),
        ("sigma", bh.Uniform(0, 0.05)), ("sigma", bh.LogNormal(3, 0.3)), ("sigma", bh.InverseGamma(50, 100)),
        ("1|a:b_sigma", bh.PC(0.05, 0.05)),
    ],
)  # fmt: skip
def test_planted_conflicts_are_said(name: str, prior: bh.Normal) -> None:
    truth = {"Intercept": 1.0, "x": 0.2, "arm": 0.1, "1|a_sigma": 0.3, "1|a:b_sigma": 0.4, "sigma": 0.3}
    data = bh.simulate(MODEL, DESIGN, params=truth, random_seed=5).data
    posterior = fitted(MODEL.with_priors({name: prior}), data)
    diagnosis = bh.diagnose(posterior)
    assert diagnosis.status == posterior.attrs["status"] == "REVIEW"
    message = next(m for m in diagnosis.messages if "conflict" in m)
    assert f"under {name} ~ {prior}" in message


def test_a_small_standard_deviation_contradicts_no_prior_that_is_densest_at_0() -> None:
    truth = {"Intercept": 1.0, "x": 0.2, "arm": 0.1, "1|a_sigma": 0.3, "1|a:b_sigma": 0.4, "sigma": 1e-4}
    posterior = fitted(MODEL, bh.simulate(MODEL, DESIGN, params=truth, random_seed=5).data)
    assert posterior.attrs["status"] == "PASS"


def test_a_prior_at_0_far_from_the_data_is_named_as_such() -> None:
    """The prior that made 0.022 of a slope of 0.1 under PASS."""
    rng = np.random.default_rng(1)
    site, year = rng.integers(0, 20, 1000), rng.integers(2015, 2025, 1000)
    y = np.exp(2 + 0.1 * (year - 2019) + rng.normal(0, 0.2, 20)[site] + rng.normal(0, 0.3, 1000))
    data = pd.DataFrame({"y": y, "year": year, "site": site.astype(str)})
    model = bh.Model("y ~ year + (1 | site)", family="lognormal", priors={"Intercept": bh.Normal(0, 5)})
    posterior = bh.fit(model, data, random_seed=1, progress=False)
    assert posterior.attrs["status"] == "REVIEW"
    assert "where year is 0" in bh.diagnose(posterior).to_text()
    told = bh.compare(posterior, "year").to_text()
    assert told.index("Prior and data conflict: under Intercept") < told.index("One more unit of year")


def test_normal_scores() -> None:
    """Against SciPy's distributions."""
    x = np.array([0.001, 0.3, 1.0, 2.5, 6.0])
    cases = [
        (bh.Normal(1, 2), stats.norm(1, 2)), (bh.StudentT(3, 1, 2), stats.t(3, 1, 2)),
        (bh.Cauchy(0, 2), stats.cauchy(0, 2)), (bh.HalfNormal(2), stats.halfnorm(scale=2)),
        (bh.HalfStudentT(1, 2), stats.halfcauchy(scale=2)), (bh.HalfCauchy(2), stats.halfcauchy(scale=2)),
        (bh.Exponential(0.5), stats.expon(scale=2)), (bh.PC(2, 0.1), stats.expon(scale=2 / -np.log(0.1))),
        (bh.Gamma(2, 3), stats.gamma(2, scale=1 / 3)), (bh.InverseGamma(2, 3), stats.invgamma(2, scale=3)),
        (bh.LogNormal(0, 1), stats.lognorm(1)), (bh.Uniform(0, 7), stats.uniform(0, 7)),
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for prior, law in cases:
            np.testing.assert_allclose(normal_scores(prior, x)[0], stats.norm.ppf(law.cdf(x)), rtol=1e-7)
