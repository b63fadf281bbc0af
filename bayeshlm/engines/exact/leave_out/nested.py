"""log p(y_g | the other groups' rows, theta) for every group of a nested level at once, from the same statistics.

Given theta everything is Gaussian, so a group is left out by arithmetic: the sweep's log density with all groups less
the log density without the group. Only the group's ancestors change when it goes; each is swept anew from the sum
of its other children, which is formed by adding, never by subtracting, so that nothing cancels when one group is nearly
all.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from bayeshlm.arrays import Array, Codes
from bayeshlm.data.statistics import Statistics
from bayeshlm.engines import linalg
from bayeshlm.engines.exact.build import build_problem
from bayeshlm.engines.exact.density.bind import collapse
from bayeshlm.engines.exact.density.nested import columns_first
from bayeshlm.engines.exact.density.residuals import pooled, project_out_centred
from bayeshlm.engines.exact.hyperparameters import search_box
from bayeshlm.engines.exact.problem import Problem
from bayeshlm.engines.sampling import importance

NUMBERS = 2**20  # per working array: 8 MB
FEW_CHILDREN = 16  # on average; below it the siblings' sums are formed for all parents at once
SINGULAR = 1e-13  # pivot of the scaled precision below which the group alone tells a common effect: no digits are left


@dataclass(frozen=True)
class Swept:
    """A level's groups given theta, in units of the noise.

    Attributes
    ----------
    says : (c, c, groups, B)
        What each group says about everything above it.
    others : (c, c, groups, B)
        The same of its siblings together.
    log_determinant : (groups, B)
    """

    says: Array
    others: Array
    log_determinant: Array


def log_predictive(statistics: Statistics, problem: Problem, level: int, sigma: Array, roots: list[Array]) -> Array:
    """Log predictive density of every group of a level, given the rows of the others.

    Parameters
    ----------
    statistics : Statistics
        What `problem` was built from.
    problem : Problem
        Of nested levels.
    level : int
        Index into `problem.levels`.
    sigma : (B,) or (B, parts)
    roots : per level (k, k, B)

    Returns
    -------
    (groups, B)
        NaN where the other groups leave a common effect with a (nearly) flat prior untold, so that there is no density.
    """
    batch, groups = len(sigma), problem.levels[level].groups
    largest = max(record.groups for record in problem.levels)
    step = max(NUMBERS // (problem.width**2 * largest), 1)
    out = np.empty((groups, batch))
    constant, rows = constants(statistics, problem.level_index[level], groups)
    leaf = _leaf(problem) if problem.split is None else None
    for start in range(0, batch, step):
        part = slice(start, start + step)
        spread = sigma[part] if sigma.ndim > 1 else sigma[part, None]
        swept = _sweep(problem, leaf, spread, [root[:, :, part] for root in roots])
        log_noise = rows @ (2 * np.log(spread)).T
        difference = log_noise + _without(problem, swept, level, [root[:, :, part] for root in roots])
        out[:, part] = constant[:, None] - 0.5 * difference
    return out


def without_group(statistics: Statistics, index: int, group: int) -> Statistics:
    """The statistics of all rows but those of one group of level `index` of the layout."""
    kept = statistics.codes[:, index] != group
    codes = statistics.codes[kept]
    members = []
    for level, labels in enumerate(statistics.members):
        present, codes[:, level] = np.unique(codes[:, level], return_inverse=True)
        members.append(tuple(labels[k] for k in present.tolist()))
    rows = int(statistics.count[kept].sum())
    return dataclasses.replace(
        statistics, members=tuple(members), codes=codes, rows=rows, total_rows=rows, missing={},
        count=statistics.count[kept], weight=statistics.weight[kept], mean=statistics.mean[kept],
        scatter=statistics.scatter[kept], log_weights=statistics.log_weights[kept],
        jacobians=statistics.jacobians[kept], residual=statistics.residual[kept],
    )  # fmt: skip


def log_evidence(statistics: Statistics, rng: np.random.Generator) -> tuple[float, float]:
    """(log p(y), Pareto k) with theta integrated by importance sampling; flat priors count as the constant 1."""
    problem = build_problem(statistics)
    low, high = search_box(problem)
    chosen = collapse(problem, low, high, 4000, rng)
    density = chosen.density
    if problem.size == 0:
        return float(density.log_density(np.zeros((1, 0)))[0][0]), -np.inf
    drawn = importance.sample(
        lambda t: density.log_density(t)[0], low, high, draws=1000, chains=4, rng=rng, starts=chosen.starts
    )
    return drawn.log_evidence, drawn.pareto_k


def constants(statistics: Statistics, index: int, groups: int) -> tuple[Array, Array]:
    """Per group: what does not depend on theta (groups,), and rows by category of sigma (groups, parts)."""
    codes = statistics.codes[:, index]
    parts = 1 if statistics.layout.residual is None else len(statistics.layout.residual.labels)
    rows = np.zeros((groups, parts))
    np.add.at(rows, (codes, statistics.residual), statistics.count)
    rest = np.bincount(codes, 0.5 * statistics.log_weights + statistics.jacobians, groups)
    return rest - 0.5 * rows.sum(axis=1) * np.log(2 * np.pi), rows


def _leaf(problem: Problem) -> tuple[Array, Array]:
    """Innermost groups' pseudo-observations (k, c, groups) and what is left (c, c, groups), before any noise."""
    return project_out_centred(*columns_first(problem), problem.levels[-1].columns)


def _sweep(problem: Problem, leaf: tuple[Array, Array] | None, sigma: Array, roots: list[Array]) -> list[Swept]:
    """All levels, outermost first; sigma (B, parts)."""
    last = len(problem.levels) - 1
    swept: list[Swept] = []
    if leaf is not None:
        scale = sigma[:, 0]
        rows, rest = leaf[0][..., None] / scale, leaf[1][..., None] / scale**2
    else:
        assert problem.split is not None
        cells = pooled(problem.split, problem.weight, problem.mean, problem.scatter, sigma)
        rows, rest = project_out_centred(*cells, problem.levels[-1].columns)
    for level in range(last, -1, -1):
        if level < last:
            below, parent = swept[0], problem.levels[level + 1].parent
            first = np.argsort(parent, kind="stable")[np.searchsorted(np.sort(parent), np.arange(parent.max() + 1))]
            moments = below.says[:, :, first] + below.others[:, :, first]
            rows, rest = linalg.project_out(moments, problem.levels[level].columns)
        says, log_determinant = _eliminate(problem, level, rows, rest, roots[level])
        swept.insert(0, Swept(says, _others(says, problem.levels[level].parent), log_determinant))
    return swept


def _eliminate(problem: Problem, level: int, rows: Array, rest: Array, root: Array) -> tuple[Array, Array]:
    """(what is said about the levels above (c, c, groups, B), log determinants (groups, B)); `rest` is overwritten."""
    record = problem.levels[level]
    k = len(record.columns)
    factor = np.einsum("icgb,cj->ijgb", rows[:, list(record.columns)], record.centring)
    inverse, log_determinant = linalg.gram_inverse(linalg.times_lower(factor, root), 1.0)
    for i in range(k):
        rest += rows[i][:, None] * np.sum(inverse[i][:, None] * rows, axis=0)[None]
    return rest, np.broadcast_to(log_determinant.reshape(log_determinant.shape[-2:]), rows.shape[2:])


def _others(says: Array, parent: Codes) -> Array:
    """Sum over the siblings of each group (c, c, groups, B): prefix and suffix sums within each parent."""
    order = np.argsort(parent, kind="stable")
    sorted_parent, values = parent[order], says[:, :, order]
    total = _before(values, sorted_parent) + _before(values[:, :, ::-1], sorted_parent[::-1])[:, :, ::-1]
    out = np.empty_like(total)
    out[:, :, order] = total
    return out


def _before(values: Array, parent: Codes) -> Array:
    """Sum of the values before each one within its run of equal parents."""
    total = np.zeros_like(values)
    ends = np.append(np.flatnonzero(parent[1:] != parent[:-1]) + 1, len(parent))
    starts = np.concatenate([[0], ends[:-1]])
    if len(ends) * FEW_CHILDREN < len(parent):
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            np.cumsum(values[:, :, start : end - 1], axis=2, out=total[:, :, start + 1 : end])
        return total
    same = (parent[1:] == parent[:-1])[:, None]  # many short runs: by doubling steps, all of them at once
    total[:, :, 1:] = np.where(same, values[:, :, :-1], 0.0)
    step, longest = 1, int((ends - starts).max())
    while step < longest:
        same = (parent[step:] == parent[:-step])[:, None]
        total[:, :, step:] = total[:, :, step:] + np.where(same, total[:, :, :-step], 0.0)
        step *= 2
    return total


def _without(problem: Problem, swept: list[Swept], level: int, roots: list[Array]) -> Array:
    """(groups, B): log determinants and quadratic form with all groups less those without the group."""
    gone = swept[level].log_determinant
    for lower in range(level + 1, len(problem.levels)):  # its descendants go with it
        ancestor = problem.levels[lower].parent
        for between in range(lower - 1, level, -1):
            ancestor = problem.levels[between].parent[ancestor]
        gone = gone + _by_parent(swept[lower].log_determinant, ancestor, len(gone))
    moments, above = swept[level].others, problem.levels[level].parent
    for upper in range(level - 1, -1, -1):
        rows, rest = linalg.project_out(moments, problem.levels[upper].columns)
        says, log_determinant = _eliminate(problem, upper, rows, rest, roots[upper])
        gone = gone + swept[upper].log_determinant[above] - log_determinant
        moments, above = says + swept[upper].others[:, :, above], problem.levels[upper].parent[above]
    whole = swept[0].says[:, :, :1] + swept[0].others[:, :, :1]  # (c, c, 1, B)
    scale = np.sqrt(np.einsum("iigb->igb", _precision(problem, whole)))
    return np.asarray(gone + _root(problem, whole, scale) - _root(problem, moments, scale))


def _by_parent(values: Array, parent: Codes, parents: int) -> Array:
    out = np.zeros((parents, values.shape[1]))
    np.add.at(out, parent, values)
    return out


def _precision(problem: Problem, moments: Array) -> Array:
    x = list(problem.common)
    return np.asarray(moments[np.ix_(x, x)] + problem.precision[:, :, None, None])


def _root(problem: Problem, moments: Array, scale: Array) -> Array:
    """Log determinant of the common effects' precision plus the quadratic form, (groups, B); NaN where singular."""
    x, y = list(problem.common), problem.width - 1
    rhs = problem.precision @ problem.prior_mean
    quadratic = moments[y, y] + problem.prior_mean @ rhs
    if not x:
        return np.asarray(quadratic)
    precision = _precision(problem, moments) / (scale[:, None] * scale[None])
    score = (moments[x, y] + rhs[:, None, None]) / scale
    with np.errstate(invalid="ignore", divide="ignore"):  # a singular precision ends as NaN, which says so
        lower = linalg.cholesky(precision)
        half = linalg.solve_lower(lower, score)
        pivots = np.stack([lower[i, i] for i in range(len(x))])
        log_determinant = 2 * np.sum(np.log(pivots * scale), axis=0)
        untold = ~(pivots**2 > SINGULAR).all(axis=0)
        return np.where(untold, np.nan, log_determinant + quadratic - np.sum(half**2, axis=0))
