"""Power scaling: its two densities against plain formulas, and known cases of strong and conflicting priors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeshlm as bh
from bayeshlm.data.checks.clusters import few_children, few_groups
from bayeshlm.posterior.draws import flat, statistics_of
from bayeshlm.posterior.sensitivity import log_likelihood, log_prior
from tests.posterior.test_loo import SLOPES, slopes_frame

MEAN = bh.Model("y ~ 1 + (1 | g)", priors={
    "Intercept": bh.Normal(0, 10), "1|g_sigma": bh.HalfNormal(1), "sigma": bh.HalfNormal(2)
})  # fmt: skip


def frame(groups: int, rows: int) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    g = np.repeat(np.arange(groups), rows)
    return pd.DataFrame({"g": g, "y": 3 + rng.normal(0, 0.5, groups)[g] + rng.normal(0, 1, groups * rows)})


def test_log_likelihood_given_the_common_effects_equals_dense() -> None:
    data = slopes_frame()
    posterior = bh.fit(SLOPES, data, draws=200, random_seed=1)
    chosen = np.arange(0, 800, 110)
    found = log_likelihood(posterior, statistics_of(posterior), chosen)
    x = np.column_stack([np.ones(len(data)), data["x"]])
    same = (data["g"].to_numpy()[:, None] == data["g"].to_numpy()).astype(float)
    names = ("Intercept", "x", "1|g_sigma", "x|g_sigma", "corr|g", "sigma")
    b0, b1, s0, s1, corr, sigma = (flat(posterior, name)[chosen] for name in names)
    for k in range(len(chosen)):
        s = np.diag([s0[k], s1[k]]) @ corr[k] @ np.diag([s0[k], s1[k]])
        covariance = same * (x @ s @ x.T) + np.diag(sigma[k] ** 2 / data["w"])
        expected = stats.multivariate_normal.logpdf(data["y"], x @ [b0[k], b1[k]], covariance)
        assert found[k] == pytest.approx(expected, rel=1e-9)
    prior = log_prior(posterior)[chosen]
    plain = stats.norm.logpdf(b0, 0, 3) + stats.norm.logpdf(b1, 0, 2) + stats.halfnorm.logpdf(s0)
    plain += stats.halfnorm.logpdf(s1) + stats.halfnorm.logpdf(sigma) + np.log(1 - corr[:, 0, 1] ** 2)
    assert np.allclose(np.diff(prior), np.diff(plain))


def of(result: bh.Sensitivity, quantity: str) -> pd.Series:
    return result.table.set_index("quantity").loc[quantity]


def test_vague_priors_do_not_matter_conflicting_and_strong_ones_do() -> None:
    data = frame(30, 20)
    vague = bh.sensitivity(bh.fit(MEAN, data, random_seed=1))
    assert of(vague, "Intercept")["prior"] < 0.05
    assert of(vague, "Intercept")["diagnosis"] == ""
    conflict = MEAN.with_priors({"Intercept": bh.Normal(-3, 0.5)})
    found = bh.sensitivity(bh.fit(conflict, data, random_seed=1))
    assert of(found, "Intercept")["diagnosis"].startswith("prior and data")
    assert "Intercept" in found.to_text()
    strong = MEAN.with_priors({"1|g_sigma": bh.Gamma(200, 400)})
    result = bh.sensitivity(bh.fit(strong, frame(3, 5), random_seed=1))
    assert of(result, "1|g_sigma")["diagnosis"] == "the prior decides"


def test_flat_priors_have_no_sensitivity() -> None:
    flat_priors = {"Intercept": bh.Flat(), "1|g_sigma": bh.Flat(), "sigma": bh.Flat()}
    result = bh.sensitivity(bh.fit(MEAN.with_priors(flat_priors), frame(12, 5), random_seed=1))
    assert (result.table["prior"] == 0).all()
    assert (result.table["likelihood"] > 0.05).any()


def arms(groups: int) -> pd.DataFrame:
    return frame(groups, 10).assign(arm=lambda d: np.where(d["g"] % 2, "new", "old"))


ARM = bh.Model("y ~ arm + (1 | g)", priors={**MEAN.priors, "arm": bh.Normal(0, 2)})


def test_few_groups_an_arm_are_said_everywhere_but_do_not_change_the_status() -> None:
    posterior = bh.fit(ARM, arms(8), random_seed=1)
    text = "'arm' rests on 4 groups of 'g' an arm"
    assert bh.diagnose(posterior).status == "PASS"
    assert text in bh.diagnose(posterior).to_text()
    assert text in bh.compare(posterior, "arm").to_text()
    result = bh.sensitivity(posterior, "arm")
    assert text in result.to_text()
    assert result.table["quantity"].str.startswith("arm: ").sum() == 1
    many = bh.fit(ARM, arms(12), random_seed=1)
    assert not few_groups(statistics_of(many))
    assert "rests on" not in bh.diagnose(many).to_text() + bh.compare(many, "arm").to_text()


def test_few_groups_inside_the_groups_of_a_compared_level() -> None:
    data = frame(12, 10).assign(method=lambda d: d["g"] % 3)
    model = bh.Model("y ~ 1 + (1 | method/g)", priors={
        "Intercept": bh.Normal(0, 10), "1|method_sigma": bh.HalfNormal(1), "1|method:g_sigma": bh.HalfNormal(1),
        "sigma": bh.HalfNormal(2),
    })  # fmt: skip
    posterior = bh.fit(model, data, random_seed=1)
    statistics = statistics_of(posterior)
    assert "4 groups of 'method:g' a 'method'" in str(few_children(statistics, statistics.layout.levels[0]))
    assert few_children(statistics, statistics.layout.levels[1]) is None
    assert "rests on 4 groups" in bh.compare(posterior, "method").caution
    assert "rests on" not in bh.diagnose(posterior).to_text()
