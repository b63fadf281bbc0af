"""Simulation-based calibration of the NUTS engine, 100 replicates a family, through `bayeshlm.sbc`.

Ranks of the truth among thinned draws (Talts et al. 2018), for every hyperparameter and common effect, all groups and
their contrasts, and the joint log likelihood (Modrak et al. 2023).
"""

from __future__ import annotations

import warnings

import pytest

import bayeshlm as bh
from bayeshlm.errors import BayeshlmWarning

REPLICATES, DRAWS = 100, 120
FALSE_ALARM = 1e-3  # of a family, over all its quantities (Holm); the seeds are fixed
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


@pytest.mark.long
@pytest.mark.parametrize("family", CASES)
def test_family_is_calibrated(family: str) -> None:
    model = model_of(family)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BayeshlmWarning)  # an unconverged fit counts as any other: none is left out
        tree = bh.sbc(
            model, DESIGN, replicates=REPLICATES, draws=DRAWS, engine="nuts", random_seed=77, n_jobs=1, progress=False
        )
    verdict, notes = tree["verdict"].to_dataset(), tree["replicates"].to_dataset()
    assert {*model.parameters, "log_likelihood"} <= {str(name).split("[")[0] for name in verdict["quantity"].values}
    p = verdict["p_adjusted"].to_series()
    unconverged = int(notes["unconverged"].sum())
    print(f"{family}: smallest adjusted p {p.min():.3f} ({p.idxmin()}), {tree.attrs['failed']} replicates failed, "
          f"{unconverged} unconverged; {float(notes['seconds'].mean()):.1f} s each")  # fmt: skip
    assert p.min() > FALSE_ALARM, p
    assert tree.attrs["failed"] <= REPLICATES // 100
    assert unconverged <= REPLICATES // 10
