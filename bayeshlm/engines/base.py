"""What engines share: the numeric problem behind a model and its statistics, and its hyperparameters."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from bayeshlm.data.layout import Block
from bayeshlm.data.statistics import Statistics
from bayeshlm.engines.identify import check_proper, within_fit
from bayeshlm.engines.residuals import Split
from bayeshlm.errors import EngineError, PriorError, listed
from bayeshlm.spec.priors import HALF_LOG_2PI, LKJ, Flat, Normal, Prior

Array = NDArray[np.float64]
Codes = NDArray[np.int64]
Progress = Callable[[float, str], None]  # share done, what is being done
LOG_RANGE = (-9.0, 4.0)  # where the mode of a log standard deviation is looked for, about its scale
LIMIT = 25.0  # normal scores beyond +-25 (probability 1e-137) have density 0: squares would leave the floats


@dataclass(frozen=True)
class Scale:
    """One standard deviation: its variable, its position in it, its prior and a typical size."""

    variable: str
    position: int
    prior: Prior
    size: float


@dataclass(frozen=True)
class Correlation:
    """One correlated set of effects: level, positions among the level's effects, LKJ prior."""

    level: int
    positions: tuple[int, ...]
    prior: LKJ

    @property
    def partials(self) -> int:
        return len(self.positions) * (len(self.positions) - 1) // 2


@dataclass(frozen=True, eq=False)
class Recentred:
    """A correlated set whose theta speaks of the effects of centred columns.

    With x far from 0 (a year), the intercept at x = 0 and the slope of a group are all but perfectly correlated, and
    the posterior of their standard deviations and correlation is a hair's breadth wide. At the mean of x it is not.

    Attributes
    ----------
    correlation : Correlation
    scale : int
        Index of the intercept's standard deviation, the only one that differs.
    turn : (k, k)
        Effects in the user's coordinates = turn @ those of the centred columns; its determinant is 1.
    """

    correlation: Correlation
    scale: int
    turn: Array


@dataclass(frozen=True)
class ProblemLevel:
    """A level in numbers.

    Attributes
    ----------
    columns : tuple of int
        Its k effects' columns among (1, columns, y).
    lift : (k, k)
        Effects of the centred columns = lift @ effects of the columns as the user wrote them.
    parent : (groups,) int
        Group of the level above (zeros on the outermost, and where levels are crossed).
    """

    columns: tuple[int, ...]
    lift: Array
    parent: Codes
    groups: int


@dataclass(frozen=True)
class Problem:
    """Cross products and priors, in centred coordinates.

    Columns are (1, design columns, y). A column is centred where every block that uses it has an intercept to absorb
    the shift; the shift then moves into the blocks' coordinates: ``beta_centred = lift @ beta - offset``, exactly.

    Attributes
    ----------
    levels : outermost first (where crossed: the smallest first); `level_index` tells which level of the layout each is.
    weight, mean, scatter : per innermost group (one entry in all where there are no levels; per cell of `split`, and
        where levels are crossed), y less the fit of `within_fit`, which `offset` adds back to the common effects.
    common : tuple of int
        Columns of the common effects.
    lift : (p, p), offset : (p,)
    precision, prior_mean : (p, p), (p,)
        Of the common effects in centred coordinates; 0 where flat.
    log_prior_determinant : float
        log |precision| of the proper part, minus p_flat log 2 pi, so that the evidence is right.
    residuals : int
        Number of residual standard deviations: 0 where they are known, one, or one a category of a factor.
    split : Split or None
        The cells, where sigma differs by a factor.
    codes : (cells, levels) int, or None
        Group of each cell on each level, where levels are crossed; None where they are nested.
    """

    levels: tuple[ProblemLevel, ...]
    level_index: tuple[int, ...]
    weight: Array
    mean: Array
    scatter: Array
    rows: int
    constant: float
    common: tuple[int, ...]
    lift: Array
    offset: Array
    precision: Array
    prior_mean: Array
    log_prior_determinant: float
    scales: tuple[Scale, ...]
    correlations: tuple[Correlation, ...]
    residuals: int
    split: Split | None = None
    codes: Codes | None = None
    recentred: tuple[Recentred, ...] = ()

    @property
    def known_sigma(self) -> bool:
        """Whether the standard errors are known, so that there is no sigma to sample."""
        return self.residuals == 0

    @property
    def size(self) -> int:
        """Number of hyperparameters."""
        return len(self.scales) + sum(c.partials for c in self.correlations)

    @property
    def width(self) -> int:
        """Number of columns (1, design columns, y)."""
        return int(self.mean.shape[1]) + 1


def nested_order(statistics: Statistics) -> list[int] | None:
    """Indices of the levels from outermost to innermost, or None if they are not nested in each other."""
    sizes = [len(members) for members in statistics.members]
    order = by_size(statistics)
    for outer, inner in itertools.pairwise(order):
        parent = np.zeros(sizes[inner], dtype=np.int64)
        parent[statistics.codes[:, inner]] = statistics.codes[:, outer]
        if np.any(parent[statistics.codes[:, inner]] != statistics.codes[:, outer]):
            return None
    return order


def by_size(statistics: Statistics) -> list[int]:
    """Indices of the levels, the one with the fewest groups first."""
    sizes = [len(members) for members in statistics.members]
    return sorted(range(len(sizes)), key=sizes.__getitem__)


def build_problem(statistics: Statistics) -> Problem:
    """Bind statistics and priors. Raises EngineError for what this engine cannot do, PriorError for missing priors."""
    model, layout = statistics.model, statistics.layout
    if model.missing_priors:
        raise PriorError(
            f"No prior for {listed(model.missing_priors)}. Give them, or take bayeshlm.scaled_priors(model, data)."
        )
    refused = unsupported(statistics)
    if refused:
        raise EngineError(refused)
    check_proper(statistics)
    nested = nested_order(statistics)
    order = by_size(statistics) if nested is None else nested
    blocks = [layout.common_columns, *(layout.levels[k].columns for k in order)]
    absorbed = np.array([
        all(0 in block for block in blocks if column in block) for column in range(1, len(layout.columns))
    ] + [model.terms.intercept], dtype=bool)  # fmt: skip
    centre = np.where(absorbed, statistics.shift, 0.0)
    mean = statistics.mean + np.where(absorbed, 0.0, statistics.shift)

    levels, cells = [], np.arange(1)
    above = np.zeros(len(statistics.count), dtype=np.int64)
    for k in order:
        codes = statistics.codes[:, k]
        groups = len(statistics.members[k])
        parent = np.zeros(groups, dtype=np.int64)
        if nested is not None:
            parent[codes] = above
        columns = layout.levels[k].columns
        levels.append(ProblemLevel(columns, _lift(columns, centre), parent, groups))
        above, cells = codes, np.argsort(codes)
    split = None
    if nested is None:
        cells = np.arange(len(statistics.count))
    if layout.residual is not None:
        cells = np.arange(len(statistics.count))
        rows = np.bincount(statistics.residual, statistics.count, len(layout.residual.labels))
        split = Split(above, statistics.residual, rows, levels[-1].groups if levels else 1)
    p = len(layout.common_columns)
    lift = _lift(layout.common_columns, centre)
    offset = np.zeros(p)
    if model.terms.intercept:
        offset[layout.common_columns.index(0)] = centre[-1]
    # The columns' pooled within-group fit is taken out of y beforehand, and added to beta: a fit that explains nearly
    # everything would else leave the density as a small difference of large numbers, anew at every theta.
    _, fitted = within_fit(statistics)
    for position, column in enumerate(layout.common_columns):
        offset[position] += fitted[column - 1] if column else 0.0
    residual = np.eye(len(centre))
    residual[-1, :-1] = -fitted
    mean, scatter = mean @ residual.T, residual @ statistics.scatter @ residual.T
    precision, prior_mean, log_determinant = _common_prior(statistics, lift, offset)
    scales, correlations = _hyperparameters(statistics, order)
    constant = -0.5 * statistics.rows * math.log(2 * math.pi) + 0.5 * statistics.sum_log_weight
    problem = Problem(
        tuple(levels), tuple(order), statistics.weight[cells], mean[cells], scatter[cells],
        statistics.rows, constant + statistics.log_jacobian, layout.common_columns, lift, offset, precision,
        prior_mean, log_determinant, scales, correlations, sum(scale.variable == "sigma" for scale in scales), split,
        None if nested is not None else statistics.codes[:, order],
    )  # fmt: skip
    return dataclasses.replace(problem, recentred=_recentred(problem))


def unsupported(statistics: Statistics) -> str | None:
    """Why the exact engine cannot fit this model, or None."""
    model = statistics.model
    priors = model.complete_priors
    wrong = [
        f"{name} ~ {priors[name]}"
        for name, kind in model.parameters.items()
        if kind == "coefficient" and not isinstance(priors.get(name, Flat()), Normal | Flat)
    ]
    if "exact" not in model.family_spec.engines:
        return (
            f"The exact engine integrates a Gaussian likelihood; the family {model.family!r} has another one, whose "
            "effects do not integrate out in closed form."
        )
    if model.censored is not None:
        return "The exact engine integrates a Gaussian likelihood; censored rows do not have one."
    if wrong:
        return (
            f"The exact engine needs Normal or Flat priors on common effects (they integrate out); got {listed(wrong)}."
        )
    if statistics.layout.residual is not None and nested_order(statistics) is None:
        names = listed(level.name for level in statistics.layout.levels)
        return (
            f"The levels {names} are crossed (a group of one occurs in several groups of another); with a residual "
            "standard deviation by category the exact engine fits nested levels only. If labels are merely reused, "
            "e.g. instructor 1 in every method, write (1 | method/instructor)."
        )
    return None


def _lift(columns: tuple[int, ...], centre: Array) -> Array:
    """Shift absorbed by the intercept: u0_centred = u0 + sum_j centre_j u_j."""
    lift = np.eye(len(columns))
    if 0 in columns:
        row = columns.index(0)
        for j, column in enumerate(columns):
            if column:
                lift[row, j] = centre[column - 1]
    return lift


def _common_prior(statistics: Statistics, lift: Array, offset: Array) -> tuple[Array, Array, float]:
    priors = statistics.model.complete_priors
    means, precisions = [], []
    for block in statistics.layout.common:
        prior = priors[block.name]
        count = len(block.columns)
        means += [prior.mu if isinstance(prior, Normal) else 0.0] * count
        precisions += [prior.sigma**-2 if isinstance(prior, Normal) else 0.0] * count
    diagonal = np.array(precisions)
    inverse = np.linalg.inv(lift)
    proper = diagonal > 0
    log_determinant = float(np.log(diagonal[proper]).sum()) + math.log(2 * math.pi) * int((~proper).sum())
    return inverse.T @ (diagonal[:, None] * inverse), lift @ np.array(means) - offset, log_determinant


def _hyperparameters(statistics: Statistics, order: list[int]) -> tuple[tuple[Scale, ...], tuple[Correlation, ...]]:
    """Hyperparameters in the order of theta: sigma, the levels' standard deviations, partial correlations."""
    model, layout = statistics.model, statistics.layout
    priors = model.complete_priors
    weight, mean, scatter = statistics.total()
    rows_weight = weight / statistics.rows
    outcome = math.sqrt(max(scatter[-1, -1] / weight, np.finfo(float).tiny))
    spread = np.sqrt(np.diag(scatter) / weight)
    spread = np.where(spread > 0, spread, np.abs(mean + statistics.shift))
    scales = []
    if model.se is None:
        size = within_fit(statistics)[0] * math.sqrt(rows_weight)
        parts = 1 if layout.residual is None else len(layout.residual.labels)
        scales += [Scale("sigma", position, priors["sigma"], size) for position in range(parts)]
    correlations = []
    for k, index in enumerate(order):
        level = layout.levels[index]
        for block in level.blocks:
            variable = f"{block.name}_sigma"
            for position, column in enumerate(block.columns):
                size = outcome if column == 0 else outcome / max(spread[column - 1], np.finfo(float).tiny)
                scales.append(Scale(variable, position, priors[variable], size))
        for positions in level.correlated:
            prior = priors[f"corr|{level.name}"]
            assert isinstance(prior, LKJ)  # Model has checked it
            correlations.append(Correlation(k, positions, prior))
    return tuple(scales), tuple(correlations)


def constrain(problem: Problem, theta: Array) -> tuple[Array, list[Array], Array, Array]:
    """From the unconstrained scale to standard deviations and Cholesky roots.

    Parameters
    ----------
    problem : Problem
    theta : (B, d)
        Normal scores. A standard deviation is ``size * tan(pi/2 Phi(theta))`` (a half-Cauchy quantile), uniform on an
        interval ``low + (high - low) Phi(theta)``, a partial correlation ``2 Phi(theta) - 1``; of centred columns for
        the sets in `problem.recentred`.

    Returns
    -------
    sigma : (B,), or (B, parts) where it differs by a factor
    roots : list of (k, k, B)
        Per level the lower root L of its effects' covariance S = L L', in the user's coordinates.
    values : (B, s)
        Standard deviations in the order of `problem.scales`.
    log_prior : (B,)
        Log prior density of theta, Jacobians included.

    Notes
    -----
    Near 0 a standard deviation's likelihood is flat. On the log scale that is an exponential tail, in normal scores a
    Gaussian one (as are the tails of vague priors), which every t proposal dominates: measured over 64 data sets drawn
    from priors, Pareto k exceeded 0.7 in 31 % of fits on the log scale.
    """
    batch = len(theta)
    count = len(problem.scales)
    values = np.empty((batch, count))
    log_prior = np.zeros(batch)
    inside = np.all(np.abs(theta) < LIMIT, axis=1)
    theta = np.clip(theta, -LIMIT, LIMIT)
    log_normal = -0.5 * theta**2 - HALF_LOG_2PI
    for k, scale in enumerate(problem.scales):
        values[:, k], slope = _from_score(scale, theta[:, k])
        log_prior += scale.prior.logpdf(values[:, k]) + slope + log_normal[:, k]
    sigma = np.ones(batch) if problem.known_sigma else values[:, 0]
    if problem.split is not None:
        sigma = values[:, : problem.residuals]
    partial = 2 * ndtr(theta[:, count:]) - 1
    first = 0
    for correlation in problem.correlations:
        mine = slice(first, first + correlation.partials)
        log_prior += correlation.prior.logpdf_partial(partial[:, mine], len(correlation.positions))
        first += correlation.partials
    log_prior += np.sum(log_normal[:, count:] + math.log(2), axis=1)
    roots = covariance_roots(problem, values, partial)
    for recentred in problem.recentred:
        log_prior += _turn_back(problem, recentred, values, roots)
    return sigma, roots, values, np.where(np.isnan(log_prior) | ~inside, -np.inf, log_prior)


def _turn_back(problem: Problem, recentred: Recentred, values: Array, roots: list[Array]) -> Array:
    """Bring standard deviations and root of a correlated set into the user's coordinates, in place.

    Returns what that changes in the log prior of theta, (B,). With D = 2^k prod s_i^k the Jacobian of the map from
    (s, R) to S = diag(s) R diag(s), and S itself mapped by a turn of determinant 1, the density
    |R|^(eta - 1) prod p(s_i) gains (2 (eta - 1) + k) log(s_centred / s) and log p(s) in place of log p(s_centred), for
    the intercept alone.
    """
    correlation, prior = recentred.correlation, problem.scales[recentred.scale].prior
    block = np.ix_(correlation.positions, correlation.positions)
    root = roots[correlation.level]
    turned = np.einsum("ij,jkb->bki", recentred.turn, root[block])  # transposed: its QR has the lower root as R'
    triangle = np.moveaxis(np.swapaxes(np.linalg.qr(turned, mode="r"), 1, 2), 0, 2)
    root[block] = triangle * np.sign(np.einsum("iib->ib", triangle) + (np.einsum("iib->ib", triangle) == 0))[None]
    centred = values[:, recentred.scale].copy()
    place = list(correlation.positions).index(recentred.scale - _first_scale(problem, correlation.level))
    values[:, recentred.scale] = np.sqrt(np.sum(root[correlation.positions[place], :] ** 2, axis=0))
    power = 2 * (correlation.prior.eta - 1) + len(correlation.positions)
    with np.errstate(divide="ignore", invalid="ignore"):  # at 0 the density is 0, which NaN says
        change = power * (np.log(centred) - np.log(values[:, recentred.scale]))
        return np.asarray(change + prior.logpdf(values[:, recentred.scale]) - prior.logpdf(centred))


def _first_scale(problem: Problem, level: int) -> int:
    """Index of the first standard deviation of a level."""
    return problem.residuals + sum(len(record.columns) for record in problem.levels[:level])


def _recentred(problem: Problem) -> tuple[Recentred, ...]:
    """The correlated sets that theta describes at the columns' means: those with an intercept, on nested levels.

    An intercept whose prior has an end other than 0 and infinity stays as it is: that end is one of theta.
    """
    found = []
    for correlation in problem.correlations if problem.codes is None else ():
        level = problem.levels[correlation.level]
        lift = level.lift[np.ix_(correlation.positions, correlation.positions)]
        columns = [level.columns[position] for position in correlation.positions]
        if 0 not in columns or np.array_equal(lift, np.eye(len(lift))):
            continue
        scale = _first_scale(problem, correlation.level) + correlation.positions[columns.index(0)]
        if interval(problem.scales[scale].prior) == (0.0, math.inf):
            found.append(Recentred(correlation, scale, np.linalg.inv(lift)))
    return tuple(found)


def covariance_roots(problem: Problem, values: Array, partial: Array) -> list[Array]:
    """Lower roots (k, k, B) of the levels' covariances from standard deviations (B, s) and partial correlations."""
    roots = []
    position = problem.residuals
    for level in problem.levels:
        k = len(level.columns)
        root = np.zeros((k, k, len(values)))
        for j in range(k):
            root[j, j] = values[:, position + j]
        position += k
        roots.append(root)
    first = 0
    for correlation in problem.correlations:
        k = len(correlation.positions)
        factor = correlation_root(partial[:, first : first + correlation.partials], k)
        first += correlation.partials
        root = roots[correlation.level]
        sds = [root[j, j].copy() for j in correlation.positions]
        for i, row in enumerate(correlation.positions):
            for j, column in enumerate(correlation.positions[: i + 1]):
                root[row, column] = sds[i] * factor[i, j]
    return roots


def _from_score(scale: Scale, score: Array) -> tuple[Array, Array]:
    """(standard deviation, log of its derivative by the score less the log normal density)."""
    low, high = interval(scale.prior)
    if math.isfinite(high):
        return low + (high - low) * ndtr(score), np.full(len(score), math.log(high - low))
    tangent = np.tan(np.pi / 2 * ndtr(-np.abs(score)))  # of the smaller tail, so that neither loses digits
    ratio = np.where(score < 0, tangent, 1.0 / tangent)
    return low + scale.size * ratio, math.log(np.pi / 2 * scale.size) + np.log1p(ratio**2)


def to_score(scale: Scale, value: Array | float) -> Array:
    """Inverse of the map from scores to standard deviations; NaN outside the interval."""
    low, high = interval(scale.prior)
    if math.isfinite(high):
        return np.asarray(ndtri((np.asarray(value) - low) / (high - low)))
    ratio = np.maximum((np.asarray(value) - low) / scale.size, np.finfo(float).tiny)
    tail = ndtri(2 / np.pi * np.arctan(np.minimum(ratio, 1 / ratio)))
    return np.where(ratio < 1, tail, -tail)


def interval(prior: Prior) -> tuple[float, float]:
    """Where a standard deviation may be under this prior."""
    low, high = prior.bounds
    return max(low, 0.0), high


def correlation_root(z: Array, size: int) -> Array:
    """Cholesky factor (size, size, B) of the correlation matrix with partial correlations z (B, ...), row by row.

    References
    ----------
    Lewandowski, Kurowicka, Joe (2009), section 2.4, the C-vine; as parametrised by Stan (Reference Manual, 10.12).
    """
    root = np.zeros((size, size, len(z)))
    root[0, 0] = 1.0
    k = 0
    for i in range(1, size):
        left = np.ones(len(z))
        for j in range(i):
            root[i, j] = z[:, k] * np.sqrt(left)
            left = left - root[i, j] ** 2
            k += 1
        root[i, i] = np.sqrt(np.maximum(left, 0.0))
    return root


def search_box(problem: Problem) -> tuple[Array, Array]:
    """Bounds (d,), (d,) within which the mode of theta is looked for."""
    low, high = [], []
    for scale in problem.scales:
        if math.isfinite(interval(scale.prior)[1]):
            low.append(-4.0)
            high.append(4.0)
            continue
        sizes = [math.log(scale.size)]
        if scale.prior.proper:  # a prior far from the data's own scale widens the search
            typical = float(np.median(scale.prior.sample(np.random.default_rng(0), 501)))
            sizes.append(math.log(min(max(typical, 1e-100 * scale.size), 1e100 * scale.size)))
        low.append(max(float(to_score(scale, math.exp(min(sizes) + LOG_RANGE[0]))), -LIMIT))
        high.append(min(float(to_score(scale, math.exp(max(sizes) + LOG_RANGE[1]))), LIMIT))
    partials = sum(c.partials for c in problem.correlations)
    return np.array(low + [-2.5] * partials), np.array(high + [2.5] * partials)


def block_slices(blocks: tuple[Block, ...]) -> list[slice]:
    """Where each block's columns lie in their concatenation."""
    ends = np.cumsum([len(block.columns) for block in blocks]).tolist()
    return [slice(end - len(block.columns), end) for end, block in zip(ends, blocks, strict=True)]
