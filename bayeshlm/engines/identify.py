"""What the statistics say before sampling: how close the fit is, and whether flat priors leave a proper posterior."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bayeshlm.data.statistics import Statistics
from bayeshlm.errors import EngineError, PriorError, listed
from bayeshlm.spec.priors import Flat

Array = NDArray[np.float64]
FEW_FREE = 3
MIN_RESIDUAL = 1e-11  # share of the response's variation within cells below which sums of squares lose it


def within_fit(statistics: Statistics) -> tuple[float, Array]:
    """(residual standard deviation, coefficients) of y on the common columns within cells, a start for the fit.

    Coefficients are 0 for columns that do not vary within cells. Raises EngineError where y is a function of the
    columns but for rounding: sums of squares have no digits for what is left.
    """
    within, weight = statistics.scatter.sum(axis=0), float(statistics.weight.sum())
    _, _, total = statistics.total()
    columns = [k - 1 for k in statistics.layout.common_columns if k]
    columns = [k for k in columns if within[k, k] > 1e-12 * total[k, k]]
    fitted = np.zeros(len(within) - 1)
    if columns:
        fitted[columns] = np.linalg.lstsq(within[np.ix_(columns, columns)], within[columns, -1])[0]
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
        used = sum(1 for column in flat if _constant_within(statistics, index, column))
        scales = [f"{block.name}_sigma" for block in level.blocks]
        if groups - used < 2:
            problems += [f"{s} ({groups} groups of {level.name!r})" for s in scales if isinstance(priors[s], Flat)]
    if problems:
        raise PriorError(
            f"A flat prior leaves the posterior improper for {listed(problems)}: so few groups put no bound on their "
            "standard deviation. Give it a proper prior, e.g. HalfNormal."
        )


def _constant_within(statistics: Statistics, index: int, column: int) -> bool:
    """Whether a column is the same for all rows of each group of a level."""
    if column == 0:
        return True
    k = column - 1
    codes, groups = statistics.codes[:, index], len(statistics.members[index])
    weight = np.bincount(codes, statistics.weight, groups)
    mean = np.bincount(codes, statistics.weight * statistics.mean[:, k], groups) / weight
    spread = statistics.scatter[:, k, k] + statistics.weight * (statistics.mean[:, k] - mean[codes]) ** 2
    total = statistics.scatter[:, k, k].sum() + statistics.weight @ statistics.mean[:, k] ** 2
    return bool(spread.sum() <= 1e-12 * total)
