"""A slow twin of the generative model: log joint density row by row with scipy, from parameters as users know them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pymc as pm
from pymc.distributions.continuous import FlatRV
from pytensor.compile.mode import Mode
from scipy import stats
from scipy.special import gammaln

import bayeshlm as bh
from tests.engines.dense import DenseLevel

MODE = Mode(linker="py", optimizer="fast_compile")  # a few evaluations: compiling would take longer than they do
Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Points:
    """Log densities (points,) of a PyMC model, of the coefficients in the user's units and without the transforms'
    Jacobians, and what the parameters are there."""

    density: np.ndarray
    values: list[Values]


def random_points(model: pm.Model, count: int, seed: int, spread: float = 0.7) -> Points:
    """Points about the initial one on the unconstrained scale."""
    rng = np.random.default_rng(seed)
    start = model.initial_point()
    outputs = [*model.free_RVs, *model.deterministics]
    shown = model.compile_fn(
        model.replace_rvs_by_values(outputs), inputs=model.value_vars, mode=MODE, point_fn=False,
        on_unused_input="ignore",
    )  # fmt: skip
    density = model.compile_logp(jacobian=False, mode=MODE)
    densities, values = [], []
    for _ in range(count):
        point = {name: value + spread * rng.normal(size=np.shape(value)) for name, value in start.items()}
        drawn = shown(*(point[v.name] for v in model.value_vars))
        values.append({v.name: np.asarray(x) for v, x in zip(outputs, drawn, strict=True)})
        densities.append(float(density(point)) + scaling(model, values[-1]))
    return Points(np.array(densities), values)


def scaling(model: pm.Model, values: Values) -> float:
    """Log of the factors between coefficients and what is sampled for them; a flat density is one in all units."""
    total = 0.0
    for variable in model.free_RVs:
        if variable.name.endswith("_scaled") and not isinstance(variable.owner.op, FlatRV):
            total += float(np.log(values[variable.name] / values[variable.name.removesuffix("_scaled")]).sum())
    return total


def log_priors(model: bh.Model, values: Values) -> float:
    total = 0.0
    for name, prior in model.complete_priors.items():
        if model.parameters[name] == "correlation":
            matrix = values[name]
            root = np.linalg.cholesky(matrix)
            n = len(root)
            # |R|^(eta - 1), normalised (Lewandowski, Kurowicka, Joe 2009, equation 16), on the Cholesky factor's scale.
            k = np.arange(1, n)
            constant = np.sum(
                (2 * prior.eta - 2 + n - k) * (n - k) * np.log(2)
                + (n - k) * (2 * gammaln(prior.eta + (n - k - 1) / 2) - gammaln(2 * prior.eta + n - k - 1))
            )
            total += (prior.eta - 1) * np.linalg.slogdet(matrix)[1] - constant
            if not any(f"{name}_{what}" in values for what in ("partial", "root")):
                continue  # the matrix itself is drawn
            total += float(np.sum((n - np.arange(1, n + 1)) * np.log(np.diag(root))))
            # From the factor to partial correlations z = 2 p - 1, of which p is sampled: root_ij = z_ij sqrt(left_ij).
            left = 1 - np.cumsum(root**2, axis=1) + root**2
            below = np.tril_indices(n, -1)
            total += float(np.sum(0.5 * np.log(left[below]) + np.log(2)))
        else:
            point = prior.point if isinstance(prior, bh.At) else {}  # of plain columns
            value = values[name] + sum(place * values[label] for label, place in point.items())
            total += float(np.sum(prior.logpdf(value)))
    return total


def covariance(model: bh.Model, values: Values, level: str, effects: list[str]) -> np.ndarray:
    sds = np.concatenate([np.atleast_1d(values[f"{effect}_sigma"]) for effect in effects])
    correlation = values.get(f"corr|{level}", np.eye(len(sds)))
    return sds[:, None] * correlation * sds[None, :]


def log_effects(effects: np.ndarray, cov: np.ndarray, *, noncentred: float) -> float:
    """Density of (groups, k) effects; where z is sampled, of z = L^-1 effects, or of effects / sd^noncentred."""
    density = float(np.sum(stats.multivariate_normal(np.zeros(len(cov)), cov).logpdf(effects)))
    return density + noncentred * len(effects) * 0.5 * np.linalg.slogdet(cov)[1]


def row_density(family: str, y: np.ndarray, eta: np.ndarray, values: Values, frame: pd.DataFrame,
                model: bh.Model) -> Callable[[str, np.ndarray], np.ndarray]:  # fmt: skip
    """(what, at) -> log density, log P(Y <= at) or log P(Y >= at) of each row."""
    del y
    weight = frame[model.weights].to_numpy() if model.weights else np.ones(len(frame))
    sigma = frame[model.se].to_numpy() if model.se else values.get("sigma", np.nan)
    if model.terms.sigma is not None:
        (column,) = model.terms.sigma.node.columns()
        sigma = sigma[np.unique(frame[column], return_inverse=True)[1]]
    sd = sigma / np.sqrt(weight)
    mean = np.exp(eta)
    match family:
        case "gaussian":
            law = stats.norm(eta, sd)
        case "lognormal":
            law = stats.lognorm(sd, scale=mean)
        case "student_t":
            law = stats.t(values["nu"], eta, sd)
        case "cv_normal":
            law = stats.norm(mean, sd * mean)
        case "gamma":
            shape = values["alpha"] * weight
            law = stats.gamma(shape, scale=mean / shape)
        case "poisson":
            law = stats.poisson(mean)
        case "negative_binomial":
            law = stats.nbinom(values["alpha"], values["alpha"] / (values["alpha"] + mean))
        case _:
            trials = frame["t"].to_numpy() if family == "binomial" else 1
            law = stats.binom(trials, 1 / (1 + np.exp(-eta)))
    discrete = family in ("poisson", "negative_binomial", "binomial", "bernoulli")

    def density(what: str, at: np.ndarray) -> np.ndarray:
        if what == "none":
            return law.logpmf(at) if discrete else law.logpdf(at)
        if what == "left":
            return law.logcdf(at)
        return law.logsf(at - 1 if discrete else at)

    return density


@dataclass(frozen=True)
class Twin:
    """Design matrices by hand: those of the common effects by name, and of each level."""

    common: dict[str, Callable[[pd.DataFrame], np.ndarray]]
    levels: tuple[tuple[DenseLevel, str, list[str]], ...]  # with the level's name and its effects' names

    def predictor(self, frame: pd.DataFrame, values: Values) -> np.ndarray:
        eta = np.zeros(len(frame))
        for name, columns in self.common.items():
            eta += columns(frame) @ np.atleast_1d(values[name])
        for level, _, effects in self.levels:
            codes = frame.groupby(list(level.keys), sort=True).ngroup().to_numpy()
            eta += np.sum(level.columns(frame) * self.stacked(values, effects)[codes], axis=1)
        return eta

    @staticmethod
    def stacked(values: Values, effects: list[str]) -> np.ndarray:
        parts = [values[name] for name in effects]
        return np.concatenate([p[:, None] if p.ndim == 1 else p for p in parts], axis=1)

    def log_joint(self, model: bh.Model, frame: pd.DataFrame, values: Values, noncentred: dict[str, float],
                  log_rows: Callable[[np.ndarray], float]) -> float:  # fmt: skip
        total = log_priors(model, values)
        for _, name, effects in self.levels:
            cov = covariance(model, values, name, effects)
            total += log_effects(self.stacked(values, effects), cov, noncentred=noncentred[name])
        return total + log_rows(self.predictor(frame, values))
