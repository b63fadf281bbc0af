"""Simulation-based calibration of the NUTS engine, 100 replicates a family.

Ranks of the truth among thinned draws (Talts et al. 2018), for every hyperparameter and common effect, three groups and
the joint log likelihood (Modrak et al. 2023), as continuous uniforms against Kolmogorov-Smirnov.
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeshlm as bh
from bayeshlm.errors import BayeshlmWarning
from tests.engines.generative import row_density

REPLICATES, CHAINS, DRAWS, THIN = 100, 2, 600, 10
FALSE_ALARM = 1e-3  # of a family, over all its quantities (Bonferroni); the seeds are fixed
DESIGN = bh.Design.nested(
    g=8, i=10, covariates={"x": bh.Normal(0, 1), "t": bh.Uniform(1, 12), "e": bh.Uniform(0.5, 3)}
)  # fmt: skip
PRIORS = {"Intercept": bh.Normal(0.5, 0.5), "x": bh.Normal(0, 0.5), "1|g_sigma": bh.HalfNormal(0.5)}
EXTRA = {"sigma": bh.HalfNormal(0.5), "nu": bh.Gamma(4, 0.5), "alpha": bh.Gamma(4, 1)}
# family -> (right side, further options of the model)
CASES = {
    "student_t": ("x + (1 | g)", {}),
    "cv_normal": ("x + (1 | g)", {}),
    "gamma": ("x + (1 | g)", {"weights": "e"}),
    "bernoulli": ("x + (1 | g)", {}),
    "binomial": ("x + (1 | g)", {}),
    "poisson": ("x + offset(log(e)) + (1 | g)", {}),
    "negative_binomial": ("x + offset(log(e)) + (1 | g)", {}),
    "lognormal": ("x + (1 | g)", {"censored": (0.8, 3.0)}),
    "gaussian": ("x + (1 + x | g)", {"censored": (None, 1.5)}),
}


def model_of(family: str) -> bh.Model:
    right, options = CASES[family]
    left = "p(y, t)" if family == "binomial" else "y"
    bare = bh.Model(f"{left} ~ {right}", family=family, **options)
    slopes = {"x|g_sigma": bh.HalfNormal(0.5), "corr|g": bh.LKJ(2)}
    given = {**PRIORS, **EXTRA, **slopes}
    return bare.with_priors({name: given[name] for name in bare.parameters})


def log_likelihood(model: bh.Model, data: pd.DataFrame, values: dict[str, np.ndarray]) -> np.ndarray:
    """(draws,) from parameters with the draws on their first axis."""
    g, x = data["g"].to_numpy(), data["x"].to_numpy()
    eta = values["Intercept"][:, None] + values["x"][:, None] * x + values["1|g"][:, g]
    eta = eta + (values["x|g"][:, g] * x if "x|g" in values else 0.0)
    eta = eta + (np.log(data["e"].to_numpy()) if model.terms.offsets else 0.0)
    y = data["y"].to_numpy()
    law = row_density(model.family, y, eta, {name: values[name][:, None] for name, _ in model.extra}, data, model)
    low, high = model.bounds or (-np.inf, np.inf)
    with np.errstate(all="ignore"):  # each row is evaluated as all three, of which one counts
        parts = np.where(y >= high, law("right", y), np.where(y <= low, law("left", y), law("none", y)))
    return np.asarray(parts.sum(axis=1))


def quantities(model: bh.Model, data: pd.DataFrame, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    out = {name: values[name] if values[name].ndim == 1 else values[name][:, 0, 1] for name in model.parameters}
    out |= {f"1|g[{k}]": values["1|g"][:, k] for k in (0, 3, 7)}
    return out | {"log likelihood": log_likelihood(model, data, values)}


def replicate(model: bh.Model, seed: int) -> tuple[dict[str, float], str]:
    """((rank + u) / (L + 1) of each quantity, status of the fit)."""
    world = bh.simulate(model, DESIGN, random_seed=[77, seed])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BayeshlmWarning)  # an unconverged fit counts as any other: none is left out
        posterior = bh.fit(
            model, world.data, engine="nuts", draws=DRAWS, chains=CHAINS, random_seed=seed, progress=False
        )
    draws = {
        str(name): v.to_numpy()[:, ::THIN].reshape(-1, *v.shape[2:])
        for name, v in posterior["posterior"].data_vars.items()
    }
    truth = quantities(model, world.data, {str(n): v.to_numpy()[None] for n, v in world.truth.data_vars.items()})
    drawn = quantities(model, world.data, draws)
    u = np.random.default_rng([78, seed]).random(len(truth))
    count = CHAINS * DRAWS // THIN
    ranks = {name: int((drawn[name] < value).sum()) for name, value in truth.items()}
    return {n: (r + v) / (count + 1) for (n, r), v in zip(ranks.items(), u, strict=True)}, posterior.attrs["status"]


@pytest.mark.long
@pytest.mark.parametrize("family", CASES)
def test_family_is_calibrated(family: str) -> None:
    model = model_of(family)
    done = [replicate(model, seed) for seed in range(REPLICATES)]
    table = pd.DataFrame([uniforms for uniforms, _ in done])
    p = {name: stats.kstest(table[name], "uniform").pvalue for name in table}
    failed = sum(status == "FAIL" for _, status in done)
    print(f"{family}: " + ", ".join(f"{name} {value:.3f}" for name, value in p.items()) + f"; {failed} fits FAIL")
    assert min(p.values()) > FALSE_ALARM / len(p), p
    assert failed <= REPLICATES // 10
