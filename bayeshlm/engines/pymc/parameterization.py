"""How each level's effects are sampled: as deviations (non-centred), totals about their parent's (centred), or between.

With little data in a group, its effect and its standard deviation form a funnel unless the effect is written as
sd * z; with much data it is z that is tied to the standard deviation, and the group's own level is what the data know
(Papaspiliopoulos, Roberts and Skold 2007, Statistical Science 22(1), section 2). Centring on the parent's total, up to
the intercept at the means of the columns, also unties the levels from each other (Gelfand, Sahu and Carlin 1995,
Biometrika 82(3)). In between, an effect is sd^(1 - w) times a variable of standard deviation sd^w (Gorinova, Moore and
Hoffman 2020, ICML), which suits a few groups that know their effects well, but not that they differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bayeshlm.arrays import Array, Codes
from bayeshlm.data.cross_products import regression
from bayeshlm.data.layout import Level
from bayeshlm.data.statistics import Statistics
from bayeshlm.engines.pymc.observations import varying_columns
from bayeshlm.errors import EngineError
from bayeshlm.spec.model import Model
from bayeshlm.spec.priors import Cauchy, Flat, Normal, Prior, StudentT, base_prior

PARAMETERIZATIONS = ("auto", "centered", "noncentered")
GRID = 8.0  # log tau is looked at this far from the log of the noise
# A level is centred where the data say this many times as much of its typical group as the standard deviation does, and
# where the log likelihood of a standard deviation of 0 is this far below its maximum: both measured, see the benchmark.
ENOUGH, SURE = 3.0, 12.0
# Otherwise, where they say more than LITTLE, an effect is partly centred, by this power of the standard deviation.
LITTLE, PARTLY = 0.5, 0.2
# Groups, less parents, that tell a correlation from 1: there a centred form has a funnel as well (six groups of
# intercepts and slopes had 59 divergences in 16,000 draws, deviations 1; ten groups 0 and 2 in 4,000).
TELLING = 9


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
    centring : float
        1: totals, 0: deviations in units of their standard deviation; in between, of that power of it.
    information : float
        n_g tau^2 / sigma^2 of the median group.
    share : (groups,)
        How much each group counts in what is known of the intercept, beside its prior: they add up to 1 at most. The
        intercept and the deviations, weighted so, add up to what is independent of the deviations in the posterior
        (exactly so in a Gaussian model of one level and known variances).
    """

    index: int
    parent: int | None
    parent_codes: Codes
    anchored: bool
    reference: Array
    centring: float
    information: float
    share: Array

    @property
    def centred(self) -> bool:
        return self.centring == 1.0


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
    known, deviation = _known(statistics, order, parents)
    found = {k: float(np.median(known[k])) * deviation[k] ** 2 for k in order}
    told = found if information is None else dict(enumerate(information))
    tops = [k for k in order if parents[k] is None]
    anchor = max(tops, key=lambda k: (told[k], -k), default=-1)
    plans = []
    for k in order:
        parent = parents[k]
        codes = np.zeros(sizes[k], dtype=np.int64)
        if parent is not None:
            codes[statistics.codes[:, k]] = statistics.codes[:, parent]
        free = sizes[k] - (1 if parent is None else sizes[parent])
        centring = 1.0 if parameterization == "centered" else 0.0
        if parameterization == "auto":
            centring = _centring(told[k], free, statistics.layout.levels[k])
        share = known[k] / (known[k].sum() + _prior_precision(statistics.model))
        plans.append(Plan(k, parent, codes, k == anchor, _reference(statistics, k), centring, told[k], share))
    return tuple(plans)


def _centring(information: float, free: int, level: Level) -> float:
    """How far a level is centred: altogether where its groups know their effects and that they differ.

    The sum of squares of their means is (1 + information) times what it would be at a standard deviation of 0, so that
    the log likelihood there is below its maximum by half of free (information - log(1 + information)). Where it is not
    far below, the posterior comes near 0, and what is centred has a funnel there.
    """
    sure = 0.5 * free * (information - math.log1p(information)) > SURE
    if information > ENOUGH and sure and (free >= TELLING or not level.correlated):
        return 1.0
    return PARTLY if information > LITTLE and len(level.columns) == 1 else 0.0


def _prior_precision(model: Model) -> float:
    """Of the intercept; 0 where its prior has no scale, or there is none."""
    match base_prior(model.complete_priors.get("Intercept", Flat())):
        case Normal(sigma=scale) | StudentT(sigma=scale) | Cauchy(beta=scale):
            return 1.0 / max(scale**2, float(np.finfo(float).tiny))
    return 0.0


def described(statistics: Statistics, plans: tuple[Plan, ...]) -> dict[str, str]:
    """Level -> centered, noncentered or partly centered, for a posterior's attrs."""
    words = {0.0: "noncentered", 1.0: "centered"}
    return {statistics.layout.levels[plan.index].name: words.get(plan.centring, "partly centered") for plan in plans}


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


def _known(
    statistics: Statistics, order: list[int], parents: dict[int, int | None]
) -> tuple[dict[int, Array], dict[int, float]]:
    """(n_g / sigma^2 of each group, tau) of each level, the levels below it integrated out.

    sigma and tau are estimated from the data's moments (tau with its prior): which form is quick depends on where the
    posterior is, not on where a wide prior has its middle, and whichever is chosen, the posterior is the same.
    """
    rows = statistics.weight * _row_information(statistics)
    residual = _residual_means(statistics)
    known: dict[int, Array] = {}
    deviation: dict[int, float] = {}
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
    return known, deviation


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
    fitted = regression(scatter, columns)
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
