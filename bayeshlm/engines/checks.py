"""What the statistics say before sampling: how close the fit is, and whether flat priors leave a proper posterior."""

from __future__ import annotations

import math

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.cross_products import regression
from bayeshlm.data.statistics import Statistics
from bayeshlm.errors import EngineError, PriorError, listed
from bayeshlm.spec.priors import Flat, Prior

FEW_FREE = 3
EXACT = 1e-24  # the same share within the rows of one sigma that says: equal but for rounding, nothing is left
MIN_RESIDUAL = 1e-11  # share of the response's variation within cells below which sums of squares lose it


def within_fit(statistics: Statistics) -> tuple[float, Array]:
    """(residual standard deviation, coefficients) of y on the common columns within cells, a start for the fit.

    Coefficients are 0 for columns that do not vary within cells. Raises EngineError where y is a function of the
    columns but for rounding: sums of squares have no digits for what is left.
    """
    within, (weight, _, total) = statistics.moments.within(), statistics.total()
    columns = [k - 1 for k in statistics.layout.common_columns if k]
    columns = [k for k in columns if within[k, k] > 1e-12 * total[k, k]]
    fitted = regression(within, columns)
    direction = np.append(-fitted, 1.0)
    rest, spread = float(direction @ within @ direction), float(total[-1, -1])
    free = statistics.rows - len(statistics.count) - len(columns)
    if free <= FEW_FREE:  # too little is left within cells to judge by: a single pair of equal rows is no perfect fit
        return math.sqrt(max(spread / weight, np.finfo(float).tiny)), np.zeros(len(fitted))
    if statistics.model.se is None and rest < MIN_RESIDUAL * spread:
        raise EngineError(
            f"Groups and columns explain the response {statistics.model.terms.response.name!r} but for one part in "
            f"{1 / math.sqrt(MIN_RESIDUAL):.0g} or less. That is at the edge of rounding, and 'sigma' cannot be "
            "estimated: is the response computed from the columns, or the same in all rows of a group?"
        )
    return math.sqrt(max(rest, MIN_RESIDUAL * spread) / weight), fitted


def check_proper(statistics: Statistics) -> None:
    """Refuse flat priors of standard deviations where too few groups leave the posterior improper.

    As a level's standard deviation grows, the likelihood falls like its power -(groups - flat common effects that are
    constant within the groups); under a flat prior that is integrable only beyond the first power (Gelman 2006,
    Bayesian Analysis 1(3), section 3.2).
    """
    layout, priors = statistics.layout, statistics.model.complete_priors
    problems = []
    flat = [c for block in layout.common if isinstance(priors[block.name], Flat) for c in block.columns]
    for index, level in enumerate(layout.levels):
        groups = len(statistics.members[index])
        same = np.append(True, statistics.constant_within(index))  # the constant is
        used = int(same[flat].sum())
        scales = [f"{block.name}_sigma" for block in level.blocks]
        if groups - used < 2:
            problems += [f"{s} ({groups} groups of {level.name!r})" for s in scales if isinstance(priors[s], Flat)]
    if problems:
        raise PriorError(
            f"A flat prior leaves the posterior improper for {listed(problems)}: so few groups put no bound on their "
            "standard deviation. Give it a proper prior, e.g. HalfNormal."
        )


def check_sigma(statistics: Statistics) -> None:
    """Refuse a sigma without bound above (flat prior, too few rows) or below (its rows are fitted perfectly).

    With r rows and q flat coefficients that these rows alone tell, the likelihood falls like sigma^-(r - q) at
    infinity; where rows of one category are explained without rest, it rises without bound at 0.
    """
    if statistics.model.se is not None:
        return
    spread, priors = statistics.layout.residual, statistics.model.complete_priors
    prior = priors["sigma"]
    flat = [c for block in statistics.layout.common if isinstance(priors[block.name], Flat) for c in block.columns]
    labels: tuple[object, ...] = ("",) if spread is None else spread.labels
    full = statistics.moments.moved(statistics.shift).with_constant().chosen(flat).about()  # (cells, q, q)
    few, perfect = [], []
    for part, label in enumerate(labels):
        mine = statistics.residual == part
        name = "sigma" if spread is None else f"sigma[{label}]"
        rows = statistics.count[mine].sum()
        told = _rank(full.sum(axis=0)) - _rank(full[~mine].sum(axis=0))
        if isinstance(prior, Flat) and rows - told < 2:
            few.append(f"{name} ({rows:.0f} rows)")
        within = statistics.scatter[mine].sum(axis=0)
        moving = [k - 1 for k in statistics.layout.common_columns if k and within[k - 1, k - 1] > 0]
        free = rows - mine.sum() - len(moving)
        inner = within[np.ix_(moving, moving)]
        rest = within[-1, -1] - within[-1, moving] @ np.linalg.pinv(inner, rcond=1e-12) @ within[moving, -1]
        if free >= 1 and rest <= EXACT * statistics.total().scatter[-1, -1] and _positive_at_zero(prior):
            perfect.append(name)
    if few:
        raise PriorError(
            f"A flat prior leaves the posterior improper for {listed(few)}: so few rows put no bound on it. Give it a "
            "proper prior, e.g. HalfNormal."
        )
    if perfect:
        raise EngineError(
            f"The rows behind {listed(perfect)} have no variation left within their groups and columns, so that the "
            "likelihood is without bound at 0: are these rows copies, or rounded? Give a prior that keeps off 0, e.g. "
            "InverseGamma, or model them otherwise."
        )


def _positive_at_zero(prior: Prior) -> bool:
    return bool(prior.bounds[0] <= 0 and prior.logpdf(np.array(1e-6)) - prior.logpdf(np.array(1e-3)) > -1.0)


def _rank(moments: Array) -> int:
    scale = np.sqrt(np.maximum(np.diag(moments), np.finfo(float).tiny))
    return int(np.linalg.matrix_rank(moments / np.outer(scale, scale), tol=1e-9, hermitian=True)) if len(moments) else 0
