"""Leaving a group out given theta: against the dense twin, as a difference of two densities."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

import bayeshlm as bh
from bayeshlm.data.compress import compress
from bayeshlm.engines.exact.build import build_problem
from bayeshlm.engines.exact.hyperparameters import constrain
from bayeshlm.engines.exact.leave_out.nested import log_predictive
from tests.engines.dense import CASES, Dense, build, make_frame, make_model
from tests.engines.test_marginal import scales_of

GROUPED = [name for name, case in CASES.items() if case.levels]


def without(dense: Dense, gone: np.ndarray, jacobian: float) -> Dense:
    kept = ~gone
    return dataclasses.replace(
        dense, y=dense.y[kept], x=dense.x[kept], z=[z[kept] for z in dense.z], noise=dense.noise[kept],
        jacobian=jacobian,
    )  # fmt: skip


@pytest.mark.parametrize("name", GROUPED)
def test_every_group_of_every_level_equals_dense_twin(name: str) -> None:
    rng = np.random.default_rng([11, len(name)])
    case = CASES[name]
    frame, model = make_frame(rng), make_model(case, rng)
    statistics = compress(model, frame)
    problem = build_problem(statistics)
    theta = rng.normal(0.0, 0.4, (3, problem.size))
    theta[0, problem.residuals] = -4.0
    sigma, roots, _, _ = constrain(problem, theta)
    for level, index in enumerate(problem.level_index):
        found = log_predictive(statistics, problem, level, sigma, roots)
        keys = list(statistics.layout.levels[index].keys)
        of_row = frame[keys].apply(tuple, axis=1)
        for b in range(len(theta)):
            dense = build(case, model, frame, sigma[b])
            scales = scales_of(problem, roots, b)
            whole = dense.log_likelihood(scales)
            for g, member in enumerate(statistics.members[index]):
                gone = (of_row == member).to_numpy()
                jacobian = -float(dense.y[~gone].sum()) if case.family == "lognormal" else 0.0
                expected = whole - without(dense, gone, jacobian).log_likelihood(scales)
                assert found[g, b] == pytest.approx(expected, rel=1e-8, abs=1e-7 * max(1, abs(whole) / 100))


def test_only_children_and_a_group_with_nearly_all_rows() -> None:
    """One inner group a parent, and one of 300 rows beside small ones: the rest is summed, not left over."""
    rng = np.random.default_rng(12)
    case = CASES["nested"]
    frame, model = make_frame(rng), make_model(case, rng)
    big = frame[frame["a"] == 0].head(1)
    frame = frame[(frame["a"] != 0)].groupby(["a", "b"]).head(2)
    frame["b"] = np.where(frame["a"] == 1, 0, frame["b"])
    frame = pd.concat([frame, *[big] * 300], ignore_index=True)
    frame["y"] = rng.lognormal(0, 0.4, len(frame))
    statistics = compress(model, frame)
    problem = build_problem(statistics)
    sigma, roots, _, _ = constrain(problem, rng.normal(0.0, 0.4, (1, problem.size)))
    dense, scales = build(case, model, frame, sigma[0]), scales_of(problem, roots, 0)
    found = log_predictive(statistics, problem, 0, sigma, roots)[:, 0]
    for g, (label,) in enumerate(statistics.members[0]):
        gone = (frame["a"] == label).to_numpy()
        expected = dense.log_likelihood(scales) - without(dense, gone, 0.0).log_likelihood(scales)
        assert found[g] == pytest.approx(expected, rel=1e-8)


def test_flat_common_effect_told_by_one_group_alone_is_nan() -> None:
    rng = np.random.default_rng(13)
    frame = make_frame(rng).assign(alone=lambda d: (d["a"] == 2).astype(float))
    scales = {"1|a_sigma": bh.HalfNormal(1), "sigma": bh.HalfNormal(1)}
    priors = {"Intercept": bh.Normal(0, 1), "alone": bh.Flat(), **scales}
    statistics = compress(bh.Model("y ~ alone + (1 | a)", priors=priors), frame)
    problem = build_problem(statistics)
    sigma, roots, _, _ = constrain(problem, rng.normal(0.0, 0.4, (2, problem.size)))
    found = log_predictive(statistics, problem, 0, sigma, roots)
    assert np.isnan(found[2]).all()
    assert np.isfinite(np.delete(found, 2, axis=0)).all()
