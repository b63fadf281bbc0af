"""How each level's effects are sampled: as deviations (non-centred) or as totals about their parent's (centred).

With little data in a group, its effect and its standard deviation form a funnel unless the effect is written as
sd * z; with much data it is z that is tied to the standard deviation, and the group's own level is what the data know
(Papaspiliopoulos, Roberts and Skold 2007, Statistical Science 22(1), section 2). Centring on the parent's total, up to
the intercept at the means of the columns, also unties the levels from each other (Gelfand, Sahu and Carlin 1995,
Biometrika 82(3)).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayeshlm.data.statistics import Statistics
from bayeshlm.engines.observations import varying_columns
from bayeshlm.errors import EngineError
from bayeshlm.spec.model import Model
from bayeshlm.spec.priors import Prior

Array = NDArray[np.float64]
Codes = NDArray[np.int64]
PARAMETERIZATIONS = ("auto", "centered", "noncentered")
GRID = 8.0  # log tau is looked at this far from the log of the noise
ENOUGH = (
    3.0  # data to prior precision of a typical group, beyond which its level is centred (measured, see the benchmark)
)


@dataclass(frozen=True, eq=False)
class Plan:
    """How one level is built.

    Attributes
    ----------
    index : int
        Level of the layout.
    parent : int or None
        Level of the layout whose groups contain this one's, the innermost of these; None at the top.
    parent_codes : (groups,) int
    anchored : bool
        At the top: whether totals are about the common effects (only one tree of crossed levels can carry these).
    reference : (groups, columns)
        The point, from the columns' means, that a group's total belongs to: its own mean, so that common effects of
        columns that are constant within groups (a treatment!) are part of the total; 0 in columns with varying slopes.
    centred : bool
    information : float
        n_g tau^2 / sigma^2 of the median group.
    """

    index: int
    parent: int | None
    parent_codes: Codes
    anchored: bool
    reference: Array
    centred: bool
    information: float


def plan_levels(
    statistics: Statistics, parameterization: str, information: Sequence[float] | None = None
) -> tuple[Plan, ...]:
    """A plan for each level, parents before their children.

    Parameters
    ----------
    statistics : Statistics
    parameterization : {"auto", "centered", "noncentered"}
    information : sequence of float, optional
        Of the layout's levels, in place of what these data say: one choice for many data sets.

    Raises
    ------
    EngineError
        For an unknown parameterization.
    """
    if parameterization not in PARAMETERIZATIONS:
        raise EngineError(f"parameterization={parameterization!r}: it is {', '.join(map(repr, PARAMETERIZATIONS))}.")
    sizes = [len(members) for members in statistics.members]
    order = sorted(range(len(sizes)), key=lambda k: (sizes[k], k))
    parents = {k: _parent(statistics, order[:position], k) for position, k in enumerate(order)}
    told = _information(statistics, order, parents) if information is None else dict(enumerate(information))
    tops = [k for k in order if parents[k] is None]
    anchor = max(tops, key=lambda k: (told[k], -k), default=-1)
    plans = []
    for k in order:
        parent = parents[k]
        codes = np.zeros(sizes[k], dtype=np.int64)
        if parent is not None:
            codes[statistics.codes[:, k]] = statistics.codes[:, parent]
        centred = told[k] > ENOUGH if parameterization == "auto" else parameterization == "centered"
        reference = _reference(statistics, k)
        plans.append(Plan(k, parent, codes, k == anchor, reference, centred, told[k]))
    return tuple(plans)


def described(statistics: Statistics, plans: tuple[Plan, ...]) -> dict[str, str]:
    """Level -> centered or noncentered, for a posterior's attrs."""
    levels = statistics.layout.levels
    return {levels[plan.index].name: "centered" if plan.centred else "noncentered" for plan in plans}


def _parent(statistics: Statistics, above: list[int], k: int) -> int | None:
    """The innermost level among `above` in whose groups those of level k lie."""
    groups = len(statistics.members[k])
    for other in reversed(above):
        if len(np.unique(statistics.codes[:, [k, other]], axis=0)) == groups:
            return other
    return None


def _reference(statistics: Statistics, k: int) -> Array:
    """(groups, columns): means of the columns in each group, from the overall ones."""
    codes, groups = statistics.codes[:, k], len(statistics.members[k])
    weight = np.bincount(codes, statistics.weight, groups)
    means = [np.bincount(codes, statistics.weight * column, groups) / weight for column in statistics.mean.T[:-1]]
    reference = np.stack(means, axis=1) if means else np.zeros((groups, 0))
    reference[:, [c - 1 for c in varying_columns(statistics)]] = 0.0
    return reference


def _information(statistics: Statistics, order: list[int], parents: dict[int, int | None]) -> dict[int, float]:
    """n_g tau^2 / sigma^2 of each level's median group, the levels below it integrated out.

    sigma and tau are estimated from the data's moments (tau with its prior): which form is quick depends on where the
    posterior is, not on where a wide prior has its middle, and whichever is chosen, the posterior is the same.
    """
    rows = statistics.weight * _row_information(statistics)
    residual = _residual_means(statistics)
    known: dict[int, Array] = {}
    deviation: dict[int, float] = {}
    out = {}
    for k in reversed(order):
        codes, groups = statistics.codes[:, k], len(statistics.members[k])
        column = _effect(statistics, k)
        children = [child for child in order if parents[child] == k and _effect(statistics, child) == column]
        if children:  # each child is worth less than its data: its own effect is in the way
            child = children[-1]
            above = np.zeros(len(statistics.members[child]), dtype=np.int64)
            above[statistics.codes[:, child]] = codes
            known[k] = np.bincount(above, 1.0 / (deviation[child] ** 2 + 1.0 / known[child]), groups)
        else:
            known[k] = np.bincount(codes, rows * _square(statistics, column), groups)
        known[k] = np.maximum(known[k], np.finfo(float).tiny)
        deviation[k] = _deviation(statistics, k, parents[k], residual, known[k])
        out[k] = float(np.median(known[k])) * deviation[k] ** 2
    return out


def _deviation(statistics: Statistics, k: int, parent: int | None, residual: Array, known: Array) -> float:
    """Tau of a level: its posterior median given nothing but the spread of the groups' means within their parents.

    That sum of squares is (tau^2 + noise) times a chi-square variable of as many degrees of freedom as there are groups
    less parents. For slopes without an intercept none is looked at, and the prior's own median is left.
    """
    codes, groups = statistics.codes[:, k], len(statistics.members[k])
    above = np.zeros(groups, dtype=np.int64)
    if parent is not None:
        above[codes] = statistics.codes[:, parent]
    free = groups - len(np.unique(above)) if _effect(statistics, k) == 0 else 0
    weight = np.bincount(codes, statistics.weight, groups)
    mean = np.bincount(codes, statistics.weight * residual, groups) / weight
    centre = np.bincount(above, mean) / np.maximum(np.bincount(above), 1)
    square = float(np.sum((mean - centre[above]) ** 2)) if free else 0.0

    name = f"{statistics.layout.levels[k].blocks[0].name}_sigma"
    noise = float(np.median(1.0 / known))
    tau = math.sqrt(noise) * np.exp(np.linspace(-GRID, GRID, 401))
    log_weight = statistics.model.complete_priors[name].logpdf(tau) + np.log(tau)  # the grid is one of log tau
    log_weight = log_weight - 0.5 * free * np.log(tau**2 + noise) - 0.5 * square / (tau**2 + noise)
    top = log_weight.max()
    if not np.isfinite(top):
        return typical(statistics.model, name)
    share = np.cumsum(np.exp(log_weight - top))
    return float(tau[np.searchsorted(share, share[-1] / 2)])


def _residual_means(statistics: Statistics) -> Array:
    """(cells,): mean response less its least-squares fit on the common columns, on the scale of the predictor."""
    _, mean, scatter = statistics.total()
    columns = [k - 1 for k in statistics.layout.common_columns if k]
    fitted = np.zeros(len(mean) - 1)
    if columns:
        fitted[columns] = np.linalg.lstsq(scatter[np.ix_(columns, columns)], scatter[columns, -1])[0]
    deviation = statistics.mean - mean
    return np.asarray((deviation[:, -1] - deviation[:, :-1] @ fitted) / _slope_of_mean(statistics))


def _slope_of_mean(statistics: Statistics) -> float:
    """Derivative of the response's mean by the linear predictor, at the overall mean."""
    family, mean = statistics.model.family_spec, float(statistics.shift[-1])
    if family.link == "identity" or family.log_response:
        return 1.0
    if family.link == "logit":
        share = min(max(mean, 0.01), 0.99)
        return share * (1 - share)
    return max(abs(mean), 0.01)


def _effect(statistics: Statistics, k: int) -> int:
    """The design column of a level's first effect, the constant (0) if it is among them."""
    return min(statistics.layout.levels[k].columns)


def _square(statistics: Statistics, column: int) -> Array:
    """(cells,): mean square of a design column in each cell; 1 for the constant."""
    if column == 0:
        return np.ones(len(statistics.count))
    k = column - 1
    return np.asarray(statistics.scatter[:, k, k] / statistics.weight + statistics.mean[:, k] ** 2)


def typical(model: Model, name: str) -> float:
    """Median of a positive parameter's prior; of an improper one a large number."""
    prior: Prior = model.complete_priors[name]
    if not prior.proper:
        return 1e6
    return float(np.median(prior.sample(np.random.default_rng(0), 1001)))


def _row_information(statistics: Statistics) -> float:
    """Fisher information on the linear predictor of a row (a trial) of weight 1, from the spread within cells."""
    model, slope = statistics.model, _slope_of_mean(statistics)
    if model.se is not None:
        return 1.0
    if model.family_spec.support in ("binary", "successes"):
        return slope  # p (1 - p), the variance of a trial
    free = statistics.rows - len(statistics.count)
    within = float(statistics.scatter[:, -1, -1].sum())
    if free > 0 and within > 0:
        return slope**2 * free / within
    if model.family_spec.support == "count":
        return slope
    return 1.0 / max(typical(model, "sigma" if "sigma" in model.parameters else "alpha"), 1e-12) ** 2
