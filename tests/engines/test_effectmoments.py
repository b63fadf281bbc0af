"""Moments of effects: at one theta against the dense twin, over many against a million draws' worth of draws."""

from __future__ import annotations

import numpy as np
import pytest

from bayeshlm.data.compress import compress
from bayeshlm.engines.exact.build import build_problem
from bayeshlm.engines.exact.density.nested import Marginal
from bayeshlm.engines.exact.effect_moments import effect_moments
from bayeshlm.engines.exact.hyperparameters import constrain
from tests.engines.dense import CASES, build, make_frame, make_model
from tests.engines.test_marginal import scales_of

GROUPED = [name for name, case in CASES.items() if case.levels]


@pytest.mark.parametrize("name", GROUPED)
def test_moments_over_three_thetas_equal_dense_twin(name: str) -> None:
    rng = np.random.default_rng([21, len(name)])
    case = CASES[name]
    frame, model = make_frame(rng), make_model(case, rng)
    problem = build_problem(compress(model, frame))
    theta = rng.normal(0.0, 0.5, (3, problem.size))
    theta[0, problem.residuals] = -4.0
    sigma, roots, _, _ = constrain(problem, theta)
    found = effect_moments(Marginal(problem), theta, 0)
    parts = [build(case, model, frame, sigma[b]).effects(scales_of(problem, roots, b)) for b in range(3)]
    means = np.array([mean for mean, _ in parts])
    variances = np.array([np.diag(covariance) for _, covariance in parts])
    mean, sd = means.mean(axis=0), np.sqrt(variances.mean(axis=0) + means.var(axis=0))
    at = len(problem.common)
    for level, record in enumerate(problem.levels):
        size = record.groups * len(record.columns)
        assert found[level].mean.T.ravel() == pytest.approx(mean[at : at + size], rel=1e-7, abs=1e-8)
        assert found[level].sd.T.ravel() == pytest.approx(sd[at : at + size], rel=1e-7, abs=1e-8)
        at += size
