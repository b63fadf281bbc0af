"""Evidence against closed forms, its refusals, and Bayes factors."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeshlm as bh

PRIORS = {
    "Intercept": bh.Normal(0, 3), "x": bh.Normal(0, 2), "1|g_sigma": bh.HalfNormal(1), "sigma": bh.HalfNormal(2),
}  # fmt: skip


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"g": np.repeat(np.arange(6), 5), "x": rng.normal(0, 1, 30), "s": rng.uniform(0.5, 1.5, 30)})
    frame["y"] = np.exp(0.3 * frame["x"] + rng.normal(0, 0.5, 6)[frame["g"]] + rng.normal(0, 0.5, 30))
    return frame


def test_known_errors_without_groups_are_one_normal_density(frame: pd.DataFrame) -> None:
    model = bh.Model("y ~ x", se="s", priors={name: PRIORS[name] for name in ("Intercept", "x")})
    found = bh.evidence(bh.fit(model, frame, random_seed=1))
    x = np.column_stack([np.ones(30), frame["x"]])
    covariance = x @ np.diag([9.0, 4.0]) @ x.T + np.diag(frame["s"] ** 2)
    assert found.log_evidence == pytest.approx(stats.multivariate_normal.logpdf(frame["y"], cov=covariance), rel=1e-10)
    assert found.se == 0.0


@pytest.mark.parametrize("family", ["gaussian", "lognormal"])
def test_two_standard_deviations_by_brute_force(family: str, frame: pd.DataFrame) -> None:
    """The dense N x N density averaged over a grid of prior probabilities (within 5 Monte Carlo errors)."""
    model = bh.Model("y ~ x + (1 | g)", family=family, priors=PRIORS)
    found = bh.evidence(bh.fit(model, frame, random_seed=1))
    y = frame["y"].to_numpy() if family == "gaussian" else np.log(frame["y"].to_numpy())
    jacobian = 0.0 if family == "gaussian" else -y.sum()
    x = np.column_stack([np.ones(30), frame["x"]])
    fixed = x @ np.diag([9.0, 4.0]) @ x.T
    same = (frame["g"].to_numpy()[:, None] == frame["g"].to_numpy()).astype(float)
    nodes, weights = np.polynomial.legendre.leggauss(60)
    sigma, tau = 3.0 * (nodes + 1) / 2 + 1e-3, 4.0 * (nodes + 1) / 2
    log_terms = [
        stats.multivariate_normal.logpdf(y, cov=fixed + t**2 * same + s**2 * np.eye(30))
        + stats.halfnorm.logpdf(s, scale=2) + stats.halfnorm.logpdf(t) + math.log(ws * 1.5 * wt * 2.0)
        for s, ws in zip(sigma, weights, strict=True) for t, wt in zip(tau, weights, strict=True)
    ]  # fmt: skip
    expected = np.logaddexp.reduce(log_terms) + jacobian
    assert abs(found.log_evidence - expected) < 5 * found.se + 1e-5
    assert found.se < 0.02


def test_bayes_factor_is_of_the_same_rows_and_says_so(frame: pd.DataFrame) -> None:
    full = bh.evidence(bh.fit(bh.Model("y ~ x + (1 | g)", priors=PRIORS), frame, random_seed=1))
    small = bh.Model("y ~ 1 + (1 | g)", priors={k: v for k, v in PRIORS.items() if k != "x"})
    null = bh.evidence(bh.fit(small, frame, random_seed=1))
    log_factor, error = full.log_bayes_factor(null)
    assert log_factor == full.log_evidence - null.log_evidence
    assert error == math.hypot(full.se, null.se)
    fewer = bh.evidence(bh.fit(small, frame[5:], random_seed=1))
    with pytest.raises(bh.errors.DataError, match="with 30 rows here, 'y' with 25 there"):
        full.log_bayes_factor(fewer)
    other = bh.evidence(bh.fit(small, frame.assign(y=frame["y"] + 1), random_seed=1))
    with pytest.raises(bh.errors.DataError, match="of other values"):
        full.log_bayes_factor(other)
    assert "log evidence" in full.to_text()
    assert "y ~ x + (1 | g)" in full.to_text()


def test_improper_priors_and_untrusted_weights_are_refused(frame: pd.DataFrame) -> None:
    flat = bh.Model("y ~ x + (1 | g)", priors={**PRIORS, "x": bh.Flat(), "sigma": bh.Flat()})
    with pytest.raises(bh.errors.PriorError, match=r"'x ~ Flat\(\)', 'sigma ~ Flat\(\)'"):
        bh.evidence(bh.fit(flat, frame, random_seed=1))
    posterior = bh.fit(bh.Model("y ~ x + (1 | g)", priors=PRIORS), frame, random_seed=1)
    posterior.attrs["fallback"] = "the hyperparameters were drawn by NUTS on the collapsed model instead."
    with pytest.raises(bh.errors.EngineError, match=r"could not be trusted.*NUTS on the collapsed model"):
        bh.evidence(posterior)
    posterior.attrs |= {"fallback": "", "engine": "nuts"}
    with pytest.raises(bh.errors.EngineError, match="made by 'nuts'"):
        bh.evidence(posterior)
