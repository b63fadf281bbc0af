"""The slow dense twin: explicit N x N covariance, design matrices written by hand for each case. Shares no code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import multivariate_normal

import bayeshlm as bh


@dataclass(frozen=True)
class DenseLevel:
    """Grouping columns and, per effect, its column of the design."""

    keys: tuple[str, ...]
    columns: Callable[[pd.DataFrame], np.ndarray]


@dataclass(frozen=True)
class Case:
    formula: str
    common: Callable[[pd.DataFrame], np.ndarray]
    levels: tuple[DenseLevel, ...]
    family: str = "gaussian"
    se: str | None = None
    weights: str | None = None
    sigma: str | None = None  # column whose categories differ in sigma
    factor: bool = False  # whether a bar of one term is a factor's indicators, which the formula alone does not tell


def one(frame: pd.DataFrame) -> np.ndarray:
    return np.ones((len(frame), 1))


def with_x(frame: pd.DataFrame) -> np.ndarray:
    return np.column_stack([np.ones(len(frame)), frame["x"]])


def only_x(frame: pd.DataFrame) -> np.ndarray:
    return frame[["x"]].to_numpy()


def arms(frame: pd.DataFrame) -> np.ndarray:
    return np.column_stack([np.ones(len(frame)), frame["arm"] == "b", frame["arm"] == "c"]).astype(float)


def against_f(frame: pd.DataFrame) -> np.ndarray:
    return np.column_stack([np.ones(len(frame)), frame["sex"] == "m"]).astype(float)


def each_sex(frame: pd.DataFrame) -> np.ndarray:
    return np.column_stack([frame["sex"] == "f", frame["sex"] == "m"]).astype(float)


CASES = {
    "nested": Case("y ~ x + (1 | a/b)", with_x, (DenseLevel(("a",), one), DenseLevel(("a", "b"), one))),
    "one level": Case("y ~ 1 + (1 | a)", one, (DenseLevel(("a",), one),)),
    "no groups": Case("y ~ x", with_x, ()),
    "no intercept": Case("y ~ 0 + x + (1 | a)", only_x, (DenseLevel(("a",), one),)),
    "three levels": Case(
        "y ~ x + (1 | a/b/c)", with_x,
        (DenseLevel(("a",), one), DenseLevel(("a", "b"), one), DenseLevel(("a", "b", "c"), one)),
    ),
    "correlated slopes": Case("y ~ x + (1 + x | a)", with_x, (DenseLevel(("a",), with_x),)),
    "independent slopes": Case("y ~ x + (x || a)", with_x, (DenseLevel(("a",), with_x),)),
    "slopes on both levels": Case(
        "y ~ x + (1 + x | a/b)", with_x, (DenseLevel(("a",), with_x), DenseLevel(("a", "b"), with_x)),
    ),
    "slope without intercept": Case("y ~ x + (0 + x | a) + (1 | a:b)", with_x,
                                    (DenseLevel(("a",), only_x), DenseLevel(("a", "b"), one))),
    "factor in both places": Case(
        "y ~ sex + (0 + sex | a)", against_f, (DenseLevel(("a",), each_sex),), factor=True,
    ),
    "factor, independent": Case("y ~ sex + (0 + sex || a)", against_f, (DenseLevel(("a",), each_sex),)),
    "arms": Case("y ~ arm + (1 | g)", arms, (DenseLevel(("g",), one),)),
    "lognormal": Case("y ~ x + (1 | a/b)", with_x, (DenseLevel(("a",), one), DenseLevel(("a", "b"), one)), "lognormal"),
    "weights": Case("y ~ x + (1 + x | a)", with_x, (DenseLevel(("a",), with_x),), weights="w"),
    "known errors": Case("y ~ x + (1 | a)", with_x, (DenseLevel(("a",), one),), se="s"),
    "known errors and weights": Case("y ~ x + (1 | a)", with_x, (DenseLevel(("a",), one),), se="s", weights="w"),
    "sigma by arm": Case("y ~ arm + (1 | g); sigma ~ arm", arms, (DenseLevel(("g",), one),), sigma="arm"),
    "sigma within groups": Case(
        "y ~ x + (1 + x | a/b); sigma ~ C(c)", with_x, (DenseLevel(("a",), with_x), DenseLevel(("a", "b"), with_x)),
        weights="w", sigma="c",
    ),
    "sigma and slopes alone": Case(
        "y ~ x + (0 + x | a)\nsigma ~ arm", with_x, (DenseLevel(("a",), only_x),), "lognormal", sigma="arm"
    ),
    "sigma without groups": Case("y ~ x; sigma ~ arm", with_x, (), sigma="arm"),
}  # fmt: skip


def make_frame(rng: np.random.Generator, *, groups: int = 5) -> pd.DataFrame:
    """Unbalanced rows: sizes 1 to 6, some inner groups with one row."""
    rows = []
    for a in range(groups):
        for b in range(int(rng.integers(1, 4)) + (a == 0)):
            for c in range(int(rng.integers(1, 3))):
                rows += [(a, b, c)] * int(rng.integers(1, 5))
    frame = pd.DataFrame(rows, columns=["a", "b", "c"]).sample(frac=1.0, random_state=int(rng.integers(1e9)))
    frame = frame.reset_index(drop=True)
    n = len(frame)
    frame["x"] = rng.normal(2.0, 1.5, n)
    frame["g"] = rng.permutation(np.arange(n) % 12)
    frame["arm"] = np.array(list("abc"))[frame["g"] % 3]
    frame["w"], frame["s"] = rng.uniform(0.3, 3.0, n), rng.uniform(0.3, 2.0, n)
    frame["sex"] = np.where(frame["x"] > 2.0, "m", "f")
    frame["y"] = np.exp(rng.normal(0.5, 0.8, n) + 0.3 * rng.normal(size=groups)[frame["a"]])
    return frame


def make_model(case: Case, rng: np.random.Generator) -> bh.Model:
    """Normal priors with random means and widths on the common effects."""
    bare = bh.Model(case.formula, family=case.family, se=case.se, weights=case.weights)
    priors = {}
    for name, kind in (bare.possible_parameters if case.factor else bare.parameters).items():
        if kind == "coefficient":
            priors[name] = bh.Normal(float(rng.normal()), float(rng.uniform(0.5, 3.0)))
        elif kind == "scale":
            priors[name] = bh.HalfNormal(float(rng.uniform(0.3, 1.5)))
        else:
            priors[name] = bh.LKJ(float(rng.uniform(1.0, 3.0)))
    return bare.with_priors(priors)


@dataclass(frozen=True)
class Dense:
    """Everything explicit: y ~ N(X b + sum Z u, noise), with prior means and covariances of b and u."""

    y: np.ndarray
    x: np.ndarray
    z: list[np.ndarray]
    prior_mean: np.ndarray
    prior_cov: np.ndarray
    noise: np.ndarray
    jacobian: float

    def covariance(self, scales: list[np.ndarray]) -> np.ndarray:
        cov = self.x @ self.prior_cov @ self.x.T + np.diag(self.noise)
        for z, s in zip(self.z, scales, strict=True):
            groups = z.shape[1] // len(s)
            cov = cov + z @ np.kron(np.eye(groups), s) @ z.T
        return cov

    def log_likelihood(self, scales: list[np.ndarray]) -> float:
        mean = self.x @ self.prior_mean
        density = multivariate_normal.logpdf(self.y, mean, self.covariance(scales), allow_singular=False)
        return float(density) + self.jacobian

    def effects(self, scales: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of (b, u_1, u_2, ...) given y; u group by group, effects inside."""
        design = np.hstack([self.x, *self.z])
        blocks = [
            self.prior_cov,
            *(np.kron(np.eye(z.shape[1] // len(s)), s) for z, s in zip(self.z, scales, strict=True)),
        ]
        size = sum(len(block) for block in blocks)
        prior, mean, at = np.zeros((size, size)), np.zeros(size), 0
        for block in blocks:
            prior[at : at + len(block), at : at + len(block)] = block
            at += len(block)
        mean[: len(self.prior_mean)] = self.prior_mean
        gain = prior @ design.T @ np.linalg.inv(design @ prior @ design.T + np.diag(self.noise))
        return mean + gain @ (self.y - design @ mean), prior - gain @ design @ prior


def build(case: Case, model: bh.Model, frame: pd.DataFrame, sigma: float | np.ndarray) -> Dense:
    y = frame["y"].to_numpy()
    jacobian = 0.0
    if case.family == "lognormal":
        y = np.log(y)
        jacobian = -float(y.sum())
    x = case.common(frame)
    priors = [model.priors[term.name] for term in model.terms.common]
    repeats = [x.shape[1] - len(priors) + 1 if term.name == "arm" else 1 for term in model.terms.common]
    mean = np.concatenate([[p.mu] * r for p, r in zip(priors, repeats, strict=True)])
    cov = np.diag(np.concatenate([[p.sigma**2] * r for p, r in zip(priors, repeats, strict=True)]))
    z = []
    for level in case.levels:
        codes = frame.groupby(list(level.keys), sort=True).ngroup().to_numpy()
        columns = level.columns(frame)
        block = np.zeros((len(frame), (codes.max() + 1) * columns.shape[1]))
        for j in range(columns.shape[1]):
            block[np.arange(len(frame)), codes * columns.shape[1] + j] = columns[:, j]
        z.append(block)
    if case.sigma is not None:
        sigma = np.asarray(sigma)[np.unique(frame[case.sigma], return_inverse=True)[1]]
    variance = np.ones(len(frame)) * (sigma**2 if case.se is None else frame["s"] ** 2)
    return Dense(y, x, z, mean, cov, variance / (frame["w"] if case.weights else 1.0), jacobian)
