"""Families: which sums over rows a likelihood needs, and what multiplies them.

Every log likelihood here is a sum over rows of s(y) b(eta), so that within a group only sums by distinct linear
predictor are needed, of

* ``exp(rate eta)``: poisson, gamma, cv_normal. An effect v multiplies all of a group's by exp(rate v): one number.
* ``log(1 + exp(eta - shift))``: bernoulli, binomial, negative_binomial.
* ``log Phi(k (eta - bound) / sigma)``, and the log of a difference of two Phi: rows of gaussian and lognormal responses
  of which a bound is known.
* eta and eta^2, whose sums suffice.

`respond` sorts the rows by these, `parameters` says what the sums are multiplied by at given sigma or alpha.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.special import betaln, gammaln

from bayeshlm.arrays import Array, Codes
from bayeshlm.data.checks.support import STATUSES
from bayeshlm.data.table import Table

LINEAR, INV_VAR, INV_SD, SHIFT, SECOND, EXP0, EXP1, CAP, STEP, PARAMETERS = range(10)  # columns of `parameters`
SUPPORTED = (
    "gaussian", "lognormal", "bernoulli", "binomial", "poisson", "negative_binomial", "gamma", "cv_normal",
)  # fmt: skip
EDGE = 0.42  # gap of nodes at which an integrand that ends like exp(-exp(v)) has ten digits
LARGEST_STEP = 2.5  # of Newton's method, where eta is a log


@dataclass(frozen=True, eq=False)
class Kind:
    """Rows that enter by one function: which of the table's, what is added to X beta, and their weights (rows, w)."""

    rows: Codes
    offset: Array
    weights: Array


@dataclass(frozen=True, eq=False)
class Response:
    """The rows of a family by the functions of eta they need.

    Attributes
    ----------
    family : str
    shift : float
        Taken off the response (or its log) where effects add to it, so that a large mean costs no digits.
    linear : (rows,)
        Coefficient of eta, times LINEAR.
    offset : (rows,)
    gaussian : Kind or None
        Rows known exactly: `offset` is minus their value, weights (rows, 1).
    exponential : Kind or None
        Weights (rows, rates).
    rates : tuple of float
    softplus : Kind or None
        Weights (rows, 2): the first plus SECOND times the second.
    tails : Kind or None
        `offset` less the bound; weights (rows, 2): k, rows.
    intervals : Kind or None
        `offset` less the lower end; weights (rows, 3): width, k, rows.
    sums : mapping of str to float
        Sums of functions of the response that the parameters alone meet.
    counts : (distinct, 2)
        Distinct responses (negative_binomial) or weights (gamma), and how many rows have them.
    sharpest : float
        Largest |k| of tails and intervals.
    """

    family: str
    shift: float
    linear: Array
    offset: Array
    gaussian: Kind | None = None
    exponential: Kind | None = None
    rates: tuple[float, ...] = ()
    softplus: Kind | None = None
    tails: Kind | None = None
    intervals: Kind | None = None
    sums: Mapping[str, float] = field(default_factory=dict)
    counts: Array = field(default_factory=lambda: np.zeros((0, 2)))
    sharpest: float = 1.0


def respond(table: Table, *, centred: bool) -> Response:
    """Sort a table's rows by what their likelihood needs; `centred` where an intercept can absorb a shift of y."""
    family = table.statistics.model.family
    y, w, every = table.response, table.weight, np.arange(table.rows)
    match family:
        case "bernoulli" | "binomial":
            both = np.stack([table.trials, np.zeros(table.rows)], axis=1)
            sums = {"constant": table.constant}
            return Response(family, 0.0, y, table.offset, softplus=Kind(every, table.offset, both), sums=sums)
        case "poisson":
            # Joined rows carry the log of their summed exposures, and each row alone was exposed once.
            ones = np.ones((table.rows, 1))
            return Response(
                family, 0.0, y, table.offset, exponential=Kind(every, table.offset, ones), rates=(1.0,),
                sums={"constant": table.constant - float(y @ table.offset)},
            )  # fmt: skip
        case "negative_binomial":
            both = np.stack([y, np.ones(table.rows)], axis=1)
            sums = {"constant": -float(gammaln(y + 1).sum())}
            return Response(
                family, 0.0, y, table.offset, softplus=Kind(every, table.offset, both), sums=sums, counts=_counted(y)
            )
        case "gamma":
            sums = {"log": float(w @ np.log(y)), "constant": -float(np.log(y).sum())}
            kind = Kind(every, table.offset, (w * y)[:, None])
            return Response(
                family, 0.0, w, table.offset, exponential=kind, rates=(-1.0,), sums=sums, counts=_counted(w)
            )
        case "cv_normal":
            kind = Kind(every, table.offset, np.stack([w * y * y, w * y], axis=1))
            sums = {
                "rows": float(table.rows), "weight": float(w.sum()),
                "constant": 0.5 * float(np.log(w).sum()) - 0.5 * table.rows * math.log(2 * math.pi),
            }  # fmt: skip
            return Response(
                family, 0.0, np.ones(table.rows), table.offset, exponential=kind, rates=(-2.0, -1.0), sums=sums
            )
    return _capped(table, family == "lognormal", centred)


def _capped(table: Table, logs: bool, centred: bool) -> Response:
    """A gaussian or lognormal response of which some rows are bounds."""
    family, offset, root = table.statistics.model.family, table.offset, np.sqrt(table.weight)
    y = np.log(table.response) if logs else table.response
    shift = float(y.mean()) if centred else 0.0
    y = y - shift
    of = {word: np.flatnonzero(table.status == k) for k, word in enumerate(STATUSES)}
    exact, between = of["none"], of["interval"]
    ends = np.concatenate([of["left"], of["right"]])
    k = root[ends] * np.concatenate([-np.ones(len(of["left"])), np.ones(len(of["right"]))])
    constant = 0.5 * float(np.log(table.weight[exact]).sum()) - 0.5 * len(exact) * math.log(2 * math.pi)
    upper = table.upper[between]
    if logs:
        constant -= float(np.log(table.response[exact]).sum())
        upper = np.log(upper)
    width = upper - shift - y[between]
    inside = np.stack([width, root[between], np.ones(len(between))], axis=1)
    return Response(
        family, shift, np.zeros(table.rows), offset,
        gaussian=Kind(exact, offset[exact] - y[exact], table.weight[exact][:, None]),
        tails=Kind(ends, offset[ends] - y[ends], np.stack([k, np.ones(len(ends))], axis=1)),
        intervals=Kind(between, offset[between] - y[between], inside),
        sums={"rows": float(len(exact)), "constant": constant},
        sharpest=float(root[np.concatenate([ends, between])].max(initial=0.0)),
    )  # fmt: skip


def _counted(values: Array) -> Array:
    distinct, count = np.unique(values, return_counts=True)
    return np.stack([distinct, count], axis=1).astype(float)


def parameters(response: Response, extra: Mapping[str, Array], batch: int) -> tuple[Array, Array]:
    """What the sums over rows are multiplied by, (B, PARAMETERS), and what is added to them, (B,).

    Parameters
    ----------
    response : Response
    extra : mapping of str to (B,)
        `sigma` or `alpha`; nothing where errors are known.
    batch : int
        B.
    """
    par = np.zeros((batch, PARAMETERS))
    par[:, LINEAR], par[:, CAP], par[:, STEP] = 1.0, EDGE, LARGEST_STEP
    sums = response.sums
    constant = np.full(batch, float(sums.get("constant", 0.0)))
    match response.family:
        case "poisson":
            par[:, EXP0] = -1.0
        case "negative_binomial":
            alpha = extra["alpha"]
            par[:, SHIFT], par[:, SECOND] = np.log(alpha), alpha
            # (y + alpha) log(alpha + e^eta) = (y + alpha) (log alpha + log(1 + e^(eta - log alpha)))
            constant += _gamma_ratios(alpha, response.counts)
        case "gamma":
            alpha = extra["alpha"]
            par[:, LINEAR], par[:, EXP0] = -alpha, -alpha
            constant += alpha * sums["log"]
            for weight, count in response.counts:
                shape = alpha * weight
                constant += count * (shape * np.log(shape) - gammaln(shape))
        case "cv_normal":
            sigma = extra["sigma"]
            par[:, LINEAR], par[:, EXP0], par[:, EXP1] = -1.0, -0.5 / sigma**2, 1.0 / sigma**2
            par[:, CAP] = EDGE / 2  # its ends are like exp(-exp(2 v))
            constant -= sums["rows"] * np.log(sigma) + 0.5 * sums["weight"] / sigma**2
        case "gaussian" | "lognormal":
            sigma = extra.get("sigma", np.ones(batch))
            par[:, INV_SD], par[:, INV_VAR], par[:, STEP] = 1 / sigma, sigma**-2, np.inf
            par[:, CAP] = EDGE * sigma / response.sharpest if response.sharpest else np.inf
            constant -= sums["rows"] * np.log(sigma)
    return par, constant


def _gamma_ratios(alpha: Array, counts: Array) -> Array:
    """Sum over rows of log Gamma(y + alpha) - log Gamma(alpha) - y log alpha, (B,); small where alpha is large."""
    some = counts[:, 0] > 0
    y, rows = counts[some, 0], counts[some, 1]
    out = np.empty(len(alpha))
    step = max(2**18 // max(len(y), 1), 1)
    for first in range(0, len(alpha), step):
        a = alpha[first : first + step, None]
        out[first : first + step] = (gammaln(y) - betaln(a, y) - y * np.log(a)) @ rows
    return out
