"""The sweep against the dense twin: density, effects, singular edges, invariances."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bayeshlm as bh
from bayeshlm.data.compress import compress
from bayeshlm.engines.exact.build import build_problem
from bayeshlm.engines.exact.density.effects import draw_by_class, draw_given_residual
from bayeshlm.engines.exact.density.nested import Marginal
from bayeshlm.engines.exact.hyperparameters import constrain, correlation_root
from bayeshlm.engines.exact.problem import Problem
from tests.engines.dense import CASES, build, make_frame, make_model


def scales_of(problem: Problem, roots: list[np.ndarray], which: int) -> list[np.ndarray]:
    return [root[:, :, which] @ root[:, :, which].T for root in roots]


def random_thetas(problem: Problem, rng: np.random.Generator, count: int) -> np.ndarray:
    """Spread widely, with standard deviations from 1e-6 to 30 times their scale among them."""
    theta = rng.normal(0.0, 1.0, (count, problem.size))
    if problem.residuals > 1:  # one sigma far below the others costs the twin's N x N matrix its digits
        theta[:, : problem.residuals] *= 0.5
    if problem.size > problem.residuals:
        theta[0, problem.residuals] = -5.0
    return theta


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", CASES)
def test_density_equals_dense_twin(name: str, seed: int) -> None:
    rng = np.random.default_rng([seed, len(name)])
    case = CASES[name]
    frame, model = make_frame(rng), make_model(case, rng)
    problem = build_problem(compress(model, frame))
    theta = random_thetas(problem, rng, 6)
    sigma, roots, _, _ = constrain(problem, theta)
    _, likelihood = Marginal(problem).log_density(theta)
    for k in range(len(theta)):
        dense = build(case, model, frame, sigma[k]).log_likelihood(scales_of(problem, roots, k))
        assert likelihood[k] == pytest.approx(dense, rel=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_effects_equal_dense_twin(name: str) -> None:
    """Mean and covariance of 20,000 draws at one theta, in standard errors (false alarms below 1e-4 in all)."""
    rng = np.random.default_rng(len(name))
    case = CASES[name]
    frame, model = make_frame(rng), make_model(case, rng)
    problem = build_problem(compress(model, frame))
    theta = rng.normal(0.0, 0.7, (1, problem.size))
    count = 20_000
    beta, effects = Marginal(problem).draw_effects(np.repeat(theta, count, axis=0), rng)
    drawn = np.concatenate([beta.T, *(np.moveaxis(e, 0, 1).reshape(-1, count) for e in effects)])
    sigma, roots, _, _ = constrain(problem, theta)
    mean, cov = build(case, model, frame, sigma[0]).effects(scales_of(problem, roots, 0))
    sd = np.sqrt(np.diag(cov))
    z = (drawn.mean(axis=1) - mean) / (sd / np.sqrt(count))
    assert np.abs(z).max() < 5.5
    sample = np.cov(drawn)
    # The standard error of a covariance s_ij of normal draws is sqrt((s_ii s_jj + s_ij^2) / n).
    error = np.sqrt((np.outer(sd, sd) ** 2 + cov**2) / count)
    assert (np.abs(sample - cov) / error).max() < 6.0


def test_scale_invariance() -> None:
    """y times c with priors scaled likewise: the density only loses n log c."""
    rng = np.random.default_rng(4)
    frame = make_frame(rng)
    for factor in (1e-12, 1e12):
        densities = []
        for scale, data in ((1.0, frame), (factor, frame.assign(y=frame["y"] * factor))):
            model = bh.Model("y ~ x + (1 | a/b)", priors={
                "Intercept": bh.Normal(0, 2 * scale), "x": bh.Normal(0, scale), "sigma": bh.HalfNormal(scale),
                "1|a_sigma": bh.HalfNormal(scale), "1|a:b_sigma": bh.HalfNormal(scale),
            })  # fmt: skip
            problem = build_problem(compress(model, data))
            densities.append(Marginal(problem).log_density(np.array([[0.1, -0.4, 0.3]]))[1][0])
        assert densities[0] - densities[1] == pytest.approx(len(frame) * np.log(factor), rel=1e-10)


@pytest.mark.parametrize("offset", [1e6, 1e9, 1e12])
def test_translation_invariance(offset: float) -> None:
    """Offsets cost no digits: a flat intercept absorbs them. Exact in binary, so the comparison is too."""
    rng = np.random.default_rng(5)
    frame = make_frame(rng)
    frame["y"] = np.round(frame["y"] * 256) / 256  # survives the addition of 1e12 exactly
    frame["x"] = np.round(frame["x"] * 256) / 256
    model = bh.Model("y ~ x + (1 + x | a) + (1 | a:b)", priors={
        "Intercept": bh.Flat(), "x": bh.Normal(0, 1), "sigma": bh.HalfNormal(1), "1|a_sigma": bh.HalfNormal(1),
        "x|a_sigma": bh.HalfNormal(1), "1|a:b_sigma": bh.HalfNormal(1),
    })  # fmt: skip
    theta = np.array([[0.1, -0.4, 0.3, 0.2, 0.5]])
    plain = Marginal(build_problem(compress(model, frame))).log_density(theta)[1]
    shifted = Marginal(build_problem(compress(model, frame.assign(y=frame["y"] + offset)))).log_density(theta)[1]
    assert shifted[0] == pytest.approx(plain[0], rel=1e-11)


def singular_frame(name: str) -> pd.DataFrame:
    rng = np.random.default_rng(6)
    frame = make_frame(rng)
    if name == "one inner group a parent":
        frame["b"] = np.where(frame["a"] == 0, frame["b"], 0)
    elif name == "one row a group":
        frame["b"] = np.arange(len(frame)) // 2 * 2
        frame.loc[len(frame) // 2 :, "b"] = np.arange(len(frame) // 2, len(frame))
    elif name == "a group with equal data":
        frame.loc[frame["a"] == 1, ["y", "x"]] = [1.5, 2.0]
    elif name == "more columns than rows in groups":
        frame = frame.groupby(["a", "b"]).head(1).reset_index(drop=True)
        frame = pd.concat([frame, frame.head(1)], ignore_index=True)
    return frame


@pytest.mark.parametrize(
    "name",
    ["one inner group a parent", "one row a group", "a group with equal data", "more columns than rows in groups"],
)
@pytest.mark.parametrize("case_name", ["nested", "slopes on both levels"])
def test_singular_edges_equal_dense_twin(name: str, case_name: str) -> None:
    rng = np.random.default_rng(7)
    case, frame = CASES[case_name], singular_frame(name)
    model = make_model(case, rng)
    problem = build_problem(compress(model, frame))
    theta = random_thetas(problem, rng, 8)
    theta[1] = -6.0 * (np.arange(problem.size) > 0)  # every level's standard deviation at 1e-9 of its scale
    sigma, roots, _, _ = constrain(problem, theta)
    _, likelihood = Marginal(problem).log_density(theta)
    for k in range(len(theta)):
        dense = build(case, model, frame, sigma[k]).log_likelihood(scales_of(problem, roots, k))
        assert likelihood[k] == pytest.approx(dense, rel=1e-9)


def test_absurd_thetas_have_density_zero_not_nan() -> None:
    rng = np.random.default_rng(8)
    problem = build_problem(compress(make_model(CASES["slopes on both levels"], rng), make_frame(rng)))
    theta = np.concatenate([rng.normal(0, 20, (50, problem.size)), rng.normal(0, 1, (5, problem.size))])
    posterior, likelihood = Marginal(problem).log_density(theta)
    assert not np.isnan(posterior).any()
    assert not np.isnan(likelihood).any()
    assert np.isfinite(posterior[-5:]).all()


@pytest.mark.parametrize("name", ["no groups", "nested", "independent slopes", "sigma within groups"])
def test_absurd_thetas_never_win_by_rounding(name: str) -> None:
    """Standard deviations of 1e-130 beside 1e120: differences of huge numbers once gave a log density of +1e266."""
    rng = np.random.default_rng(14)
    frame = make_frame(rng, groups=9)
    priors = {"coefficient": bh.Flat(), "scale": bh.HalfCauchy(0.1), "correlation": bh.LKJ(1)}
    bare = make_model(CASES[name], rng)
    model = bare.with_priors({parameter: priors[kind] for parameter, kind in bare.parameters.items()})
    marginal = Marginal(build_problem(compress(model, frame)))
    usual = marginal.log_density(rng.normal(0, 1, (500, marginal.problem.size)))[0]
    absurd = rng.choice([-24.0, -20.0, -12.0, -5.0, 0.0, 5.0, 12.0, 24.0], (4000, marginal.problem.size))
    absurd = absurd[(np.abs(absurd) > 5).any(axis=1)]
    assert marginal.log_density(absurd)[0].max() < usual.max()


@pytest.mark.parametrize("size", [2, 3, 5])
def test_correlation_root_is_a_correlation_matrix(size: int) -> None:
    rng = np.random.default_rng(9)
    z = rng.uniform(-1, 1, (20, size * (size - 1) // 2))
    root = correlation_root(z, size)
    matrix = np.einsum("iab,jab->ijb", root, root)
    assert np.allclose(np.einsum("iib->ib", matrix), 1.0)
    assert np.allclose(matrix[1, 0], z[:, 0])
    assert (np.linalg.eigvalsh(np.moveaxis(matrix, 2, 0)) > 0).all()


@pytest.mark.parametrize(
    "prior", [bh.HalfNormal(0.5), bh.HalfCauchy(2), bh.Uniform(0, 3), bh.Uniform(0.2, 0.9), bh.PC(1, 0.05)]
)
def test_prior_integrates_to_one_in_normal_scores(prior: object) -> None:
    """The Jacobian of the map to normal scores is right: the prior's density integrates to 1 there too."""
    from scipy.integrate import quad

    rng = np.random.default_rng(10)
    model = bh.Model("y ~ x", priors={"Intercept": bh.Normal(0, 1), "x": bh.Normal(0, 1), "sigma": prior})
    problem = build_problem(compress(model, make_frame(rng)))
    total, _ = quad(lambda t: np.exp(constrain(problem, np.array([[t]]))[3][0]), -12, 12, limit=200)
    assert total == pytest.approx(1.0, abs=1e-7)


@pytest.mark.parametrize("k", [2, 3])
def test_drawing_by_class_is_drawing_group_by_group(k: int) -> None:
    """The same random numbers give the same effects, also where a standard deviation is 0."""
    rng = np.random.default_rng(11)
    kind, batch = rng.integers(0, 4, 30), 6
    distinct = np.triu(rng.normal(size=(4, k, k))).transpose(1, 2, 0)
    root = np.tril(rng.normal(size=(batch, k, k))).transpose(1, 2, 0)
    root[0, 0, 0] = 0.0
    residual, precision = rng.normal(size=(k, 30, batch)), rng.uniform(0.5, 2, batch)
    whole = draw_given_residual(residual, distinct[:, :, kind, None], root, precision, np.random.default_rng(1))
    classed = draw_by_class(residual, distinct, kind, root, precision, np.random.default_rng(1))
    np.testing.assert_allclose(classed, whole, rtol=1e-12, atol=1e-12)
