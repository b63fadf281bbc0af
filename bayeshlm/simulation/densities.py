"""Log densities of responses in NumPy, also of those that are known as bounds only. Knows nothing of PyMC."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from bayeshlm.arrays import Array
from bayeshlm.data.checks.support import STATUSES
from bayeshlm.data.table import Table
from bayeshlm.spec.model import Model

Rows = slice | NDArray[np.int64]
OfResponse = Callable[[Array], Array]
HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Law:
    """The distribution of rows' responses, each function (rows,) -> (draws, rows).

    Attributes
    ----------
    density : callable
        Log density, of counted responses log probability.
    below, above : callable, optional
        Logs of P(Y <= y) and of P(Y >= y), each from its own tail, so that small ones keep their digits; of families
        that can be censored.
    """

    density: OfResponse
    below: OfResponse | None = None
    above: OfResponse | None = None


def log_density(table: Table, predictor: Array, parameters: Mapping[str, Array]) -> Array:
    """Log density of every row as it was recorded, (draws, rows); of a censored one log probability.

    Parameters
    ----------
    table : Table
        Equal rows that were joined count as one binomial or poisson row: its density differs from theirs by a factor
        that is a function of the responses alone.
    predictor : (draws, rows)
        Offset included.
    parameters : mapping
        The family's own, (draws, 1) or (draws, rows).
    """
    model = table.statistics.model
    if model.censored is None:
        return _law(model, table, slice(None), predictor, parameters).density(table.response)
    out = np.empty(predictor.shape)
    for position, word in enumerate(STATUSES):
        rows = np.flatnonzero(table.status == position)
        if len(rows):
            mine = {name: value if value.shape[1] == 1 else value[:, rows] for name, value in parameters.items()}
            law = _law(model, table, rows, predictor[:, rows], mine)
            out[:, rows] = _recorded(model, word, law, table.response[rows], table.upper[rows])
    return out


def _recorded(model: Model, word: str, law: Law, y: Array, upper: Array) -> Array:
    if word == "none":
        return law.density(y)
    assert law.below is not None
    assert law.above is not None  # every family that can be censored has both
    if word != "interval":
        return law.below(y) if word == "left" else law.above(y)
    whole = 1 if model.family_spec.support == "count" else 0  # intervals of counts hold both their ends
    under = law.below(y - whole)
    high = under > math.log(0.5)  # the interval as a difference in the smaller tail
    larger = np.where(high, law.above(y), law.below(upper))
    smaller = np.where(high, law.above(upper + whole), under)
    return larger + _log1mexp(smaller - larger)


def _log1mexp(x: Array) -> Array:
    """log(1 - exp(x)) for x < 0, from the form that keeps the digits (Maechler 2012, "Accurately computing ...")."""
    return np.where(x > -math.log(2), np.log(-np.expm1(x)), np.log1p(-np.exp(x)))


def _law(model: Model, table: Table, rows: Rows, eta: Array, parameters: Mapping[str, Array]) -> Law:
    """The family's distribution for some rows; eta (draws, rows), parameters (draws, 1) or (draws, rows)."""
    weight = table.weight[rows]
    sd = parameters.get("sigma", np.ones((1, 1))) / np.sqrt(weight)  # 1 / sqrt(w) where errors are known
    match model.family:
        case "gaussian":
            return _normal(eta, sd)
        case "lognormal":
            return _lognormal(eta, sd)
        case "cv_normal":
            return _normal(np.exp(eta), sd * np.exp(eta))
        case "student_t":
            return _student_t(eta, sd, parameters["nu"])
        case "gamma":
            return _gamma(eta, parameters["alpha"] * weight)
        case "poisson":
            return _poisson(eta)
        case "negative_binomial":
            return _negative_binomial(eta, parameters["alpha"])
        case _:  # bernoulli rows are binomial ones, of one trial or of several joined
            return _binomial(eta, table.trials[rows])


def _normal(mean: Array, sd: Array) -> Law:
    return Law(
        lambda y: -0.5 * ((y - mean) / sd) ** 2 - np.log(sd) - HALF_LOG_TAU,
        lambda y: special.log_ndtr((y - mean) / sd),
        lambda y: special.log_ndtr((mean - y) / sd),
    )


def _lognormal(middle: Array, sd: Array) -> Law:
    return Law(
        lambda y: -0.5 * ((np.log(y) - middle) / sd) ** 2 - np.log(sd) - HALF_LOG_TAU - np.log(y),
        lambda y: special.log_ndtr((np.log(y) - middle) / sd),
        lambda y: special.log_ndtr((middle - np.log(y)) / sd),
    )


def _student_t(mean: Array, scale: Array, nu: Array) -> Law:
    constant = -special.betaln(nu / 2, 0.5) - 0.5 * np.log(nu) - np.log(scale)
    return Law(
        lambda y: constant - 0.5 * (nu + 1) * np.log1p(((y - mean) / scale) ** 2 / nu),
        lambda y: np.log(special.stdtr(nu, (y - mean) / scale)),
        lambda y: np.log(special.stdtr(nu, (mean - y) / scale)),
    )


def _gamma(eta: Array, shape: Array) -> Law:
    """Mean exp(eta)."""
    rate = shape * np.exp(-eta)
    constant = shape * (np.log(shape) - eta) - special.gammaln(shape)
    return Law(
        lambda y: constant + (shape - 1) * np.log(y) - rate * y,
        lambda y: np.log(special.gammainc(shape, rate * y)),
        lambda y: np.log(special.gammaincc(shape, rate * y)),
    )


def _binomial(eta: Array, trials: Array) -> Law:
    def density(y: Array) -> Array:
        ways = -special.betaln(1 + trials - y, 1 + y) - np.log1p(trials)
        return np.asarray(ways + y * special.log_expit(eta) + (trials - y) * special.log_expit(-eta))

    return Law(density)


def _poisson(eta: Array) -> Law:
    """P(Y <= y) = P(the (y + 1)-th event of a Poisson process comes later than the mean): a gamma variable's."""
    mean = np.exp(eta)
    return Law(
        lambda y: y * eta - mean - special.gammaln(y + 1),
        lambda y: np.where(y < 0, -np.inf, np.log(special.gammaincc(np.maximum(y, 0) + 1, mean))),
        lambda y: np.where(y > 0, np.log(special.gammainc(np.maximum(y, 1), mean)), 0.0),
    )


def _negative_binomial(eta: Array, alpha: Array) -> Law:
    """Mean exp(eta), variance mean + mean^2 / alpha; its tails are those of a beta variable."""
    mean = np.exp(eta)
    share = mean / (mean + alpha)

    def density(y: Array) -> Array:
        ways = -np.log(alpha + y) - special.betaln(alpha, y + 1)
        return np.asarray(ways - alpha * np.log1p(mean / alpha) + y * (eta - np.log(alpha + mean)))

    return Law(
        density,
        lambda y: np.where(
            y < 0, -np.inf, np.log(special.betainc(alpha, np.maximum(y, 0) + 1, alpha / (alpha + mean)))
        ),
        lambda y: np.where(y > 0, np.log(special.betainc(np.maximum(y, 1), alpha, share)), 0.0),
    )
