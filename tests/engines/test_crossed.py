"""Crossed levels against the dense twin: density, effects, singular edges, outside answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bayeshlm as bh
from bayeshlm.data.compress import compress
from bayeshlm.engines.exact.build import build_problem
from bayeshlm.engines.exact.crossed import products as crossing
from bayeshlm.engines.exact.crossed.density import Crossed
from bayeshlm.engines.exact.hyperparameters import constrain
from bayeshlm.engines.exact.problem import Problem
from tests.engines.dense import Case, Dense, DenseLevel, build, make_frame, make_model, one, only_x, with_x


def with_xz(frame: pd.DataFrame) -> np.ndarray:
    return np.column_stack([np.ones(len(frame)), frame["x"], frame["z"]])


A, AB, G, H = (DenseLevel(keys, one) for keys in (("a",), ("a", "b"), ("g",), ("h",)))
CASES = {
    "two crossed": Case("y ~ x + (1 | g) + (1 | h)", with_x, (G, H)),
    "three crossed": Case("y ~ x + (1 | a) + (1 | g) + (1 | h)", with_x, (A, G, H)),
    "nested and crossed": Case("y ~ x + (1 | a/b) + (1 | g)", with_x, (A, AB, G)),
    "crossed within a parent": Case(
        "y ~ x + (1 | a) + (1 | a:b) + (1 | a:h)", with_x, (A, AB, DenseLevel(("a", "h"), one))
    ),
    "slopes on both": Case(
        "y ~ x + (1 + x | g) + (1 + x | h)", with_x, (DenseLevel(("g",), with_x), DenseLevel(("h",), with_x))
    ),
    "independent slopes": Case("y ~ x + (x || g) + (1 | h)", with_x, (DenseLevel(("g",), with_x), H)),
    "three correlated effects": Case(
        "y ~ x + z + (1 + x + z | g) + (1 | h)", with_xz, (DenseLevel(("g",), with_xz), H)
    ),
    "slope without intercept": Case("y ~ x + (0 + x | g) + (1 | h)", with_x, (DenseLevel(("g",), only_x), H)),
    "slopes without intercepts": Case(
        "y ~ 0 + x + (0 + x | g) + (0 + x | h)", only_x, (DenseLevel(("g",), only_x), DenseLevel(("h",), only_x))
    ),
    "no common effects but one": Case("y ~ 1 + (1 | g) + (1 | h)", one, (G, H)),
    "lognormal": Case("y ~ x + (1 | a/b) + (1 | g)", with_x, (A, AB, G), "lognormal"),
    "weights": Case("y ~ x + (1 + x | g) + (1 | h)", with_x, (DenseLevel(("g",), with_x), H), weights="w"),
    "known errors": Case("y ~ x + (1 | g) + (1 | h)", with_x, (G, H), se="s"),
    "known errors and weights": Case("y ~ x + (1 | g) + (x || h)", with_x, (G, DenseLevel(("h",), with_x)), se="s",
                                     weights="w"),
    "sigma by factor": Case("y ~ x + (1 | g) + (1 | h); sigma ~ arm", with_x, (G, H), sigma="arm"),
    "sigma by factor, nested and crossed": Case(
        "y ~ x + (1 | a/b) + (1 | g); sigma ~ arm", with_x, (A, AB, G), "lognormal", sigma="arm"
    ),
    "sigma by factor, slopes on both": Case(
        "y ~ x + (1 + x | g) + (1 + x | h); sigma ~ arm", with_x,
        (DenseLevel(("g",), with_x), DenseLevel(("h",), with_x)), weights="w", sigma="arm",
    ),
    "sigma by factor, three correlated effects": Case(
        "y ~ x + z + (1 + x + z | g) + (x || h); sigma ~ C(c)", with_xz,
        (DenseLevel(("g",), with_xz), DenseLevel(("h",), with_x)), sigma="c",
    ),
    "sigma by factor, slopes without intercepts": Case(
        "y ~ 0 + x + (0 + x | g) + (0 + x | h); sigma ~ arm", only_x,
        (DenseLevel(("g",), only_x), DenseLevel(("h",), only_x)), sigma="arm",
    ),
}  # fmt: skip


def crossed_frame(rng: np.random.Generator) -> pd.DataFrame:
    """Unbalanced, most cells with one row; g and h cross each other and a/b."""
    frame = make_frame(rng)
    n = len(frame)
    frame["g"], frame["h"] = rng.integers(0, 9, n), rng.integers(0, 5, n)
    frame["z"] = rng.normal(-1.0, 0.7, n)
    return frame


def everything(case: Case, rng: np.random.Generator) -> tuple[bh.Model, pd.DataFrame, Problem]:
    frame, model = crossed_frame(rng), make_model(case, rng)
    problem = build_problem(compress(model, frame))
    assert problem.codes is not None
    return model, frame, problem


def thetas(problem: Problem, rng: np.random.Generator, count: int) -> np.ndarray:
    """Spread widely; then each standard deviation in turn, and all of them, at 1e-9 of its scale.

    Where there are several residual standard deviations, each in turn is a tenth of the others too.
    """
    wide = rng.normal(0.0, 1.0, (count, problem.size))
    if problem.residuals > 1:
        uneven = rng.normal(0.0, 0.5, (problem.residuals, problem.size))
        np.fill_diagonal(uneven, -1.5)
        wide = np.concatenate([wide, uneven])
    levels = np.arange(problem.residuals, len(problem.scales))
    edges = rng.normal(0.0, 0.5, (len(levels) + 1, problem.size))
    for row, index in zip(edges, levels, strict=False):
        row[index] = -6.0
    edges[-1, levels] = -6.0
    return np.concatenate([wide, edges])


def extended_log_likelihood(dense: Dense, scales: list[np.ndarray]) -> float:
    """`Dense.log_likelihood` in extended precision: at a residual sd of 1/1000 double leaves the twin 1e-9 off."""
    wide = [block.astype(np.longdouble) for block in (dense.x, dense.prior_cov, dense.noise, dense.y)]
    x, prior, noise, y = wide
    cov = x @ prior @ x.T + np.diag(noise)
    for z, s in zip(dense.z, scales, strict=True):
        z_wide = z.astype(np.longdouble)
        cov = cov + z_wide @ np.kron(np.eye(z.shape[1] // len(s)), s) @ z_wide.T
    left, n = y - x @ dense.prior_mean, len(y)
    root, half = np.zeros_like(cov), np.zeros_like(left)
    for i in range(n):
        root[i, i] = np.sqrt(cov[i, i] - np.sum(root[i, :i] ** 2))
        root[i + 1 :, i] = (cov[i + 1 :, i] - root[i + 1 :, :i] @ root[i, :i]) / root[i, i]
        half[i] = (left[i] - root[i, :i] @ half[:i]) / root[i, i]
    deviance = 2 * np.log(np.diag(root)).sum() + np.sum(half**2) + n * np.log(2 * np.pi)
    return float(dense.jacobian - deviance / 2)


def dense_log_likelihood(
    case: Case, model: bh.Model, frame: pd.DataFrame, problem: Problem, theta: np.ndarray
) -> np.ndarray:
    sigma, roots, _, _ = constrain(problem, theta)
    # The problem orders its levels by size, the case as the formula does.
    order = np.argsort(problem.level_index)
    answers = []
    for k in range(len(theta)):
        wide = [roots[i][:, :, k].astype(np.longdouble) for i in order]
        dense = build(case, model, frame, sigma[k])
        answers.append(extended_log_likelihood(dense, [root @ root.T for root in wide]))
    return np.array(answers)


@pytest.fixture(params=["small block", "large block"])
def room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways through the engine: all levels but the leaf in the root, or none of them."""
    monkeypatch.setattr(crossing, "SMALL", 128 if request.param == "small block" else 0)
    return str(request.param)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_density_equals_dense_twin(name: str, seed: int, room: str) -> None:
    rng = np.random.default_rng([seed, len(name)])
    model, frame, problem = everything(CASES[name], rng)
    theta = thetas(problem, rng, 4)
    crossed = Crossed(problem)
    assert bool(crossed.crossing.large) == (room == "large block")
    _, likelihood = crossed.log_density(theta)
    assert likelihood == pytest.approx(dense_log_likelihood(CASES[name], model, frame, problem, theta), rel=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_effects_equal_dense_twin(name: str, room: str) -> None:
    """Mean and covariance of 20,000 draws at one theta, in standard errors (false alarms below 1e-4 in all)."""
    rng = np.random.default_rng([3, len(name)])
    case = CASES[name]
    model, frame, problem = everything(case, rng)
    theta = rng.normal(0.0, 0.7, (1, problem.size))
    count = 20_000 if room == "small block" else 4_000
    beta, effects = Crossed(problem).draw_effects(np.repeat(theta, count, axis=0), rng)
    order = np.argsort(problem.level_index)
    drawn = np.concatenate([beta.T, *(np.moveaxis(effects[i], 0, 1).reshape(-1, count) for i in order)])
    sigma, roots, _, _ = constrain(problem, theta)
    mean, cov = build(case, model, frame, sigma[0]).effects([roots[i][:, :, 0] @ roots[i][:, :, 0].T for i in order])
    sd = np.sqrt(np.diag(cov))
    z = (drawn.mean(axis=1) - mean) / (sd / np.sqrt(count))
    assert np.abs(z).max() < 5.5
    error = np.sqrt((np.outer(sd, sd) ** 2 + cov**2) / count)
    assert (np.abs(np.cov(drawn) - cov) / error).max() < 6.0
