"""`to_pymc(rows=True)` takes posteriors of `fit`: PyMC's predictive is `predict`'s, its log likelihoods are scipy's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import xarray as xr
from scipy import stats
from scipy.stats import norm

import bayeshlm as bh

FALSE_ALARM = 1e-4  # over all comparisons of one test
QUIET = {"progressbar": False}


def trial(seed: int = 3) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = 180
    clinic = np.repeat(np.arange(9), 20)
    ward = np.tile(np.repeat(["p", "q"], 10), 9)
    of_clinic, of_ward, of_slope = rng.normal(0, 0.6, 9)[clinic], rng.normal(0, 0.4, 18), rng.normal(0, 0.03, 9)[clinic]
    age = rng.normal(50, 10, rows)
    arm = rng.choice(["new", "old", "older"], rows)
    eta = 0.5 + of_clinic + of_ward[np.arange(rows) // 10] + (0.02 + of_slope) * (age - 50) + 0.3 * (arm == "old")
    frame = pd.DataFrame({"clinic": clinic, "ward": ward, "age": age, "arm": arm, "days": rng.uniform(1, 9, rows)})
    frame["pain"] = eta + rng.normal(0, 0.7, rows)
    frame["cost"] = np.exp(frame["pain"])
    frame["falls"] = rng.poisson(frame["days"] * np.exp(eta - 1))
    frame["visits"] = rng.negative_binomial(3, 3 / (3 + np.exp(eta)))
    return frame


Reader = Callable[[str], np.ndarray]  # name of a variable -> (draws, ...)


@dataclass(frozen=True)
class Case:
    """A model, its predictor by hand and the law of a row."""

    formula: str
    family: str
    predictor: Callable[[Reader, pd.DataFrame], np.ndarray]
    law: Callable[[np.ndarray, Reader], object]
    engine: str = "nuts"


def clinic(name: str) -> Callable[[Reader, pd.DataFrame], np.ndarray]:
    return lambda get, d: get(name)[:, d["clinic"].to_numpy()]


def ward(get: Reader, d: pd.DataFrame) -> np.ndarray:
    return get("1|clinic:ward")[:, np.arange(len(d)) // 10]


def with_arm(get: Reader, d: pd.DataFrame) -> np.ndarray:
    arm, age = get("arm"), d["age"].to_numpy()
    own = arm[:, [0]] * (d["arm"] == "old").to_numpy() + arm[:, [1]] * (d["arm"] == "older").to_numpy()
    return get("Intercept")[:, None] + get("age")[:, None] * age + own


def slopes(get: Reader, d: pd.DataFrame) -> np.ndarray:
    return with_arm(get, d) + clinic("1|clinic")(get, d) + clinic("age|clinic")(get, d) * d["age"].to_numpy()


def arms(get: Reader, d: pd.DataFrame) -> np.ndarray:
    return with_arm(get, d) + clinic("1|clinic")(get, d)


def nested(get: Reader, d: pd.DataFrame) -> np.ndarray:
    return get("Intercept")[:, None] + clinic("1|clinic")(get, d) + ward(get, d)


def exposed(get: Reader, d: pd.DataFrame) -> np.ndarray:
    return nested(get, d) + np.log(d["days"].to_numpy())


def by_arm(get: Reader, d: pd.DataFrame) -> np.ndarray:
    columns = pd.Categorical(d["arm"]).codes
    return get("Intercept")[:, None] + get("arm|clinic")[:, d["clinic"].to_numpy(), columns]


def dispersed(eta: np.ndarray, get: Reader) -> object:
    shape = get("alpha")[:, None]
    return stats.nbinom(shape, shape / (shape + np.exp(eta)))


CASES = {
    "slopes": Case("pain ~ age + arm + (age | clinic)", "gaussian", slopes,
                   lambda eta, get: stats.norm(eta, get("sigma")[:, None]), "exact"),
    "nested": Case("cost ~ 1 + (1 | clinic/ward)", "lognormal", nested,
                   lambda eta, get: stats.lognorm(get("sigma")[:, None], scale=np.exp(eta)), "exact"),
    "a factor's effects": Case("pain ~ 1 + (0 + arm | clinic)", "gaussian", by_arm,
                               lambda eta, get: stats.norm(eta, get("sigma")[:, None]), "exact"),
    "poisson": Case("falls ~ offset(log(days)) + (1 | clinic/ward)", "poisson", exposed,
                    lambda eta, get: stats.poisson(np.exp(eta))),
    "negative_binomial": Case("visits ~ age + arm + (1 | clinic)", "negative_binomial", arms, dispersed),
}  # fmt: skip


@pytest.fixture(scope="module", params=list(CASES))
def fitted(request: pytest.FixtureRequest) -> tuple[Case, bh.Model, pd.DataFrame, xr.DataTree]:
    case, frame = CASES[request.param], trial()
    model = bh.Model(case.formula, family=case.family)
    model = bh.scaled_priors(model, frame) if model.missing_priors else model.with_priors(model.complete_priors)
    return case, model, frame, bh.fit(model, frame, engine=case.engine, draws=500, random_seed=1, progress=False)


def test_pymc_takes_a_posterior(fitted: tuple[Case, bh.Model, pd.DataFrame, xr.DataTree], tmp_path: Path) -> None:
    case, model, frame, posterior = fitted
    (response,) = {str(model.terms.response.name)}
    bh.save(posterior, tmp_path / "fit.nc")
    loaded = bh.load(tmp_path / "fit.nc")
    for parameterization in ("auto", "centered", "noncentered"):
        built = bh.to_pymc(model, frame, rows=True, parameterization=parameterization)
        assert {v.name for v in built.free_RVs} == set(posterior["posterior"].data_vars)
        assert not built.deterministics
    with bh.to_pymc(model, frame, rows=True):
        theirs = pm.sample_posterior_predictive(posterior, random_seed=1, **QUIET)["posterior_predictive"][response]
        again = pm.sample_posterior_predictive(loaded, random_seed=1, **QUIET)["posterior_predictive"][response]
        likelihood = pm.compute_log_likelihood(posterior, extend_inferencedata=False, **QUIET)[response]
    np.testing.assert_array_equal(theirs.values, again.values)

    ours = bh.predict(posterior, frame, kind="response", random_seed=2, progress=False)["predictions"][response]
    assert_same_law(theirs.values.reshape(-1, len(frame)), ours.values.reshape(-1, len(frame)))

    def get(name: str) -> np.ndarray:
        values = posterior["posterior"][name].values
        return values.reshape(-1, *values.shape[2:])

    law = case.law(case.predictor(get, frame), get)
    density = getattr(law, "logpmf" if case.family in ("poisson", "negative_binomial") else "logpdf")
    expected = density(frame[response].to_numpy())
    np.testing.assert_allclose(likelihood.values.reshape(-1, len(frame)), expected, rtol=1e-8, atol=1e-8)


def assert_same_law(left: np.ndarray, right: np.ndarray) -> None:
    """Two sets of (draws, rows) from the same parameters: given these, differences are independent and of mean 0."""
    bounds = np.quantile(np.concatenate([left, right]), [0.2, 0.5, 0.8], axis=0)
    figures = {"mean": (left, right)} | {f"below {k}": (left <= b, right <= b) for k, b in enumerate(bounds)}
    limit = norm.isf(FALSE_ALARM / 2 / (len(figures) * left.shape[1]))
    for name, (mine, theirs) in figures.items():
        apart = mine.astype(float) - theirs.astype(float)
        error = apart.std(axis=0) / np.sqrt(len(apart))
        z = apart.mean(axis=0) / np.where(error > 0, error, np.inf)
        assert np.abs(z).max() < limit, name
