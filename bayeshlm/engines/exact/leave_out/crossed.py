"""log p(y_g | the other groups' rows, theta) where levels are crossed, for every group of a level.

Given theta everything is Gaussian. Without group g the effects that its rows speak of have the precision
Sigma^-1 - K, where Sigma is their covariance given all rows and K what the rows of g say about them, g's own effects
integrated out. With mu their mean given all rows and f the misfit of g's rows at mu (a quadratic form),

    log p(y_g | y_-g) = constant - 1/2 log|V_g| + 1/2 log|I - Sigma K| - 1/2 (f + r'(I - Sigma K)^-1 Sigma r),

r = k - K mu: the determinant lemma and Woodbury's identity. One factorisation of all effects serves every group; a
group costs a factorisation of the effects it meets. Effects that no other rows speak of (of a level inside g) are
integrated out with g's own. Where g alone tells nearly all there is to know of something, I - Sigma K has no digits
left: there the density of the other rows is evaluated anew, from their own sums.

References
----------
Rasmussen, Williams (2006), Gaussian Processes for Machine Learning, section 5.4.2, for one row; Vehtari, Mononen,
Tolvanen, Sivula, Winther (2016), JMLR 17(103), section 3.3, on removing a part from a Gaussian posterior.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from bayeshlm.arrays import Array, Codes
from bayeshlm.data.statistics import Statistics
from bayeshlm.engines import linalg
from bayeshlm.engines.exact.build import build_problem
from bayeshlm.engines.exact.crossed.density import Crossed, mirrored
from bayeshlm.engines.exact.crossed.products import count_products, level_codes, level_widths, met_columns, order_levels
from bayeshlm.engines.exact.crossed.products_by_sigma import evaluation_seconds
from bayeshlm.engines.exact.density.bind import BYTES_PER_PRODUCT, MAX_BYTES, exact_density
from bayeshlm.engines.exact.density.protocol import ExactDensity, Sweep
from bayeshlm.engines.exact.density.residuals import project_out_centred
from bayeshlm.engines.exact.leave_out.nested import SINGULAR, constants, without_group
from bayeshlm.engines.exact.problem import Problem
from bayeshlm.errors import DataError, EngineError, PriorError

NUMBERS = 2**22  # per working array: 32 MB
FEWEST_DIGITS = 1e-5  # smallest pivot of I - Sigma K that leaves the eleven digits that are wanted
# Seconds, as measured on one slow core; an estimate is good within a factor of three.
BIND, BIND_PRODUCT = 0.02, 1e-6  # a problem without a group, and each product of columns that meet in it
CALL, MOVED, FLOP = 1e-5, 1e-7, 2.5e-10  # a small matrix at all, a number of it moved about, a floating point operation


@dataclass(frozen=True)
class Plan:
    """How a level's groups are left out: anew without each, or from one factorisation; seconds it takes."""

    anew: bool
    start: float
    draw: float  # a draw of theta

    def seconds(self, draws: int) -> float:
        return self.start + draws * self.draw


@dataclass(frozen=True, eq=False)
class Part:
    """What the rows of one group say, its own effects aside.

    Its columns are the other levels' effects that its rows meet (level by level, effect by effect), the common effects
    and y; K = rest + rows' V^-1 rows.

    Attributes
    ----------
    rows : (k, T)
        Pseudo-observations on the directions of the group's own columns.
    rest : (T, T)
        Cross products that are left.
    factor : (k, k, 1)
        R: the rows' part that multiplies the group's own effects, lifted to the user's coordinates.
    blocks : tuple of (level, first column, groups)
    order : (T,) int
        Permutation: effects that no other rows speak of, the others, common effects, y.
    alone : int
        Number of the first kind.
    shared : int array
        Columns of the second and third kind among those of all rows.
    """

    rows: Array
    rest: Array
    factor: Array
    blocks: tuple[tuple[int, int, int], ...]
    order: Codes
    alone: int
    shared: Codes


def plan(problem: Problem, level: int, draws: int) -> Plan:
    """The cheaper way of leaving out the groups of `problem.levels[level]`, one by one."""
    effects = [record.groups * len(record.columns) for record in problem.levels]
    groups, leaf = problem.levels[level].groups, order_levels(problem)[0]
    rest, products = sum(effects) - effects[leaf], count_products(problem, leaf)
    each = CALL + MOVED / 2 * rest**2 + FLOP * rest**3 / 3 + 2e-9 * products
    codes, widths, dense = level_codes(problem), level_widths(problem), len(problem.common) + 1
    if problem.split is not None:
        each = CALL + evaluation_seconds(codes, widths, dense, problem.residuals)
    anew = Plan(True, groups * (BIND + BIND_PRODUCT * products), groups * each)
    if problem.split is not None:
        return anew  # what a group says changes with every theta: one factorisation is not cheaper

    whole, products = sum(effects) - effects[level] + len(problem.common), count_products(problem, level)
    met = met_columns(codes, widths, level, dense).astype(float)
    each = MOVED * whole**2 + FLOP * whole**3 + float(np.sum(CALL + MOVED * met**2 + 4 * FLOP * met**3))
    updated = Plan(False, BIND + BIND_PRODUCT * products + 1e-3 * groups, each)
    too_large = 8 * 3 * whole**2 + BYTES_PER_PRODUCT * products > MAX_BYTES
    return anew if too_large or anew.seconds(draws) < updated.seconds(draws) else updated


def log_predictive_crossed(
    statistics: Statistics, problem: Problem, level: int, sigma: Array, roots: list[Array]
) -> Array:
    """As `leaveout.log_predictive`, (groups, B), for crossed levels.

    Raises DataError where the statistics without a group leave no posterior to predict by.
    """
    index, groups = problem.level_index[level], problem.levels[level].groups
    out, sure = np.full((groups, len(sigma)), np.nan), np.zeros((groups, len(sigma)), dtype=bool)
    if problem.split is None and not plan(problem, level, len(sigma)).anew:
        out, sure = _updated(statistics, problem, level, sigma, roots)
    unsure = np.flatnonzero(~sure.all(axis=1))
    if len(unsure):
        whole = _log_likelihood(problem, sigma, roots)
        for group in unsure.tolist():
            missing = np.flatnonzero(~sure[group])
            try:
                rest = build_problem(without_group(statistics, index, group))
            except (PriorError, EngineError) as error:
                label = statistics.labels(index)[group]
                raise DataError(f"Without group {label!r} there is no posterior to predict by: {error}") from error
            mine = [roots[problem.level_index.index(k)][:, :, missing] for k in rest.level_index]
            out[group, missing] = whole[missing] - _log_likelihood(rest, sigma[missing], mine)
    return out


def _log_likelihood(problem: Problem, sigma: Array, roots: list[Array]) -> Array:
    """Log density of the data given theta, (B,); NaN where a (nearly) flat common effect is left untold."""
    density = exact_density(problem)
    parts = [slice(start, start + density.chunk) for start in range(0, len(sigma), density.chunk)]
    return np.concatenate([_told(density, sigma[b], [root[:, :, b] for root in roots]) for b in parts])


def _told(density: ExactDensity, sigma: Array, roots: list[Array]) -> Array:
    with np.errstate(all="ignore"):  # a singular precision ends as NaN, which says so
        sweep = density.sweep(sigma, roots)
        return np.where(_singular(sweep), np.nan, sweep.log_likelihood)


def _singular(sweep: Sweep) -> NDArray[np.bool_]:
    """(B,): whether the common effects' precision has a direction without digits."""
    information = sweep.information
    if not information.shape[1]:
        return np.zeros(len(information), dtype=bool)
    scale = np.sqrt(np.einsum("bii->bi", information))
    scaled = information / (scale[:, :, None] * scale[:, None, :])
    wrong = ~np.isfinite(scaled).all(axis=(1, 2))
    scaled[wrong] = 0.0
    return np.asarray(~(np.linalg.eigvalsh(scaled)[:, 0] > SINGULAR))


def _updated(
    statistics: Statistics, problem: Problem, level: int, sigma: Array, roots: list[Array]
) -> tuple[Array, NDArray[np.bool_]]:
    """(log predictive densities, whether their digits can be trusted), (groups, B)."""
    groups = problem.levels[level].groups
    others = [k for k in range(len(problem.levels)) if k != level]
    whole = Crossed(problem, (level, (), tuple(others)))
    parts = _parts(whole)
    constant, rows = constants(statistics, problem.level_index[level], groups)
    out, sure = np.empty((groups, len(sigma))), np.zeros((groups, len(sigma)), dtype=bool)
    step = int(np.clip(NUMBERS // whole.width**2, 1, whole.chunk))
    for start in range(0, len(sigma), step):
        b = slice(start, start + step)
        mine = [root[:, :, b] for root in roots]
        noise = constant[:, None] - rows * np.log(sigma[b])
        with np.errstate(all="ignore"):  # what has no root ends as NaN, and is not sure
            known = _posterior(whole, sigma[b], mine)
            for group, part in enumerate(parts):
                found, sure[group, b] = _leave_out(whole, part, *known, sigma[b], mine)
                out[group, b] = noise[group] + found
    return out, sure


def _posterior(whole: Crossed, sigma: Array, roots: list[Array]) -> tuple[Array, Array]:
    """Covariance (B, r, r) and mean (B, r) of all effects but the left-out level's, and of the common effects."""
    schur, log_determinants = whole.schur([root / sigma for root in roots])
    top = whole.eliminate_small_block(schur, log_determinants, sigma, roots)
    score = (top.chol @ top.whitened[:, :, None])[:, :, 0]
    covariance = np.ascontiguousarray(top.chol)
    for matrix in covariance:  # the transpose is in LAPACK's order
        lapack.dpotri(matrix.T, lower=0, overwrite_c=1)
    covariance = mirrored(np.swapaxes(covariance, 1, 2))
    return covariance, (covariance @ score[:, :, None])[:, :, 0]


def _parts(whole: Crossed) -> list[Part]:
    """The groups of the leaf, each with its own rows' cells."""
    problem, crossing = whole.problem, whole.crossing
    codes, leaf = level_codes(problem), crossing.leaf
    groups = problem.levels[leaf].groups
    meets = {}  # level -> groups of the leaf that meet each of its groups
    for k in crossing.small:
        pairs = np.unique(codes[:, k] * groups + codes[:, leaf])
        meets[k] = np.bincount(pairs // groups, minlength=problem.levels[k].groups)
    cells = np.split(np.argsort(codes[:, leaf], kind="stable"), np.cumsum(np.bincount(codes[:, leaf]))[:-1])
    common = crossing.size - 1 - len(problem.common) + np.arange(len(problem.common))
    parts = []
    for mine in cells:
        places, alone, blocks = [], [], []  # of the effects' columns
        design, seen, first = [], [], 0  # their design columns, and which cells see them
        for k in crossing.small:
            level = problem.levels[k]
            present, code = np.unique(codes[mine, k], return_inverse=True)
            for j, column in enumerate(level.columns):
                places.append(crossing.start[k] + j * level.groups + present)
                alone.append(meets[k][present] == 1)
                design.append(np.full(len(present), column))
                seen.append(code[:, None] == np.arange(len(present)))
            blocks.append((k, first, len(present)))
            first += len(level.columns) * len(present)
        design.append(np.array([*problem.common, problem.width - 1]))
        seen.append(np.ones((len(mine), len(design[-1])), dtype=bool))
        only = np.concatenate([*alone, np.zeros(len(common), dtype=bool)])
        order = np.concatenate([np.flatnonzero(only), np.flatnonzero(~only), [len(only)]])
        rows, rest, factor = _own_out(problem, leaf, mine, np.concatenate(design), np.concatenate(seen, axis=1))
        shared = np.concatenate([*places, common])[~only]
        parts.append(Part(rows, rest, factor, tuple(blocks), order, int(only.sum()), shared))
    return parts


def _own_out(
    problem: Problem, leaf: int, cells: Codes, design: Codes, seen: NDArray[np.bool_]
) -> tuple[Array, Array, Array]:
    """(rows, rest, factor) of a `Part` whose column t is column `design[t]` in the cells `seen[:, t]`, 0 in others."""
    level = problem.levels[leaf]
    own = [column for column in level.columns if column]  # the constant's direction is the mean
    design = np.concatenate([np.array(own, dtype=np.int64), design])
    seen = np.concatenate([np.ones((len(cells), len(own)), dtype=bool), seen], axis=1)
    weight, mean = problem.weight[cells], np.concatenate([np.ones((len(cells), 1)), problem.mean[cells]], axis=1)
    values = mean[:, design] * seen
    total = np.asarray(weight.sum())
    centre = weight @ values / total
    deviation = values - centre
    scatter = (deviation.T * weight) @ deviation
    for a in np.unique(design[design > 0]):
        left = np.flatnonzero(design == a)
        for b in np.unique(design[design > 0]):
            right = np.flatnonzero(design == b)
            inner = problem.scatter[cells, a - 1, b - 1]
            scatter[np.ix_(left, right)] += (seen[:, left].T * inner) @ seen[:, right]
    directions = iter(range(1, len(own) + 1))
    columns = tuple(next(directions) if column else 0 for column in level.columns)
    rows, rest = project_out_centred(total, centre, scatter, columns)
    factor = rows[:, list(columns)] @ level.centring
    away = len(own) + 1
    return rows[:, away:], rest[away:, away:], factor[:, :, None]


def _leave_out(
    whole: Crossed, part: Part, covariance: Array, mean: Array, sigma: Array, roots: list[Array]
) -> tuple[Array, NDArray[np.bool_]]:
    """(log predictive density but for what does not depend on effects, whether it has its digits), (B,)."""
    order, alone = part.order, part.alone
    scaled = linalg.times_lower(part.factor, roots[whole.crossing.leaf] / sigma)[:, :, 0]
    inverse, log_determinant = linalg.gram_inverse(scaled, 1.0)
    schur = part.rest + np.einsum("it,ijb,ju->btu", part.rows, inverse, part.rows, optimize=True)
    joint = whole.scale_small_block(roots, schur / sigma[:, None, None] ** 2, part.blocks)[:, order[:, None], order]
    if alone:
        own = joint[:, :alone, :alone]
        own[:, range(alone), range(alone)] += 1.0
        root = linalg.stacked_cholesky(own)
        half = np.linalg.solve(root, joint[:, :alone, alone:])
        log_determinant = log_determinant + 2 * np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1)
        joint = joint[:, alone:, alone:] - np.swapaxes(half, 1, 2) @ half
    known = np.concatenate([mean[:, part.shared], np.full((len(mean), 1), -1.0)], axis=1)  # -1 for y
    off = (joint @ known[:, :, None])[:, :, 0]  # -r, and in its last entry what it takes to f
    misfit = np.einsum("bi,bi->b", known, off)
    if not len(part.shared):
        value = -0.5 * (log_determinant + misfit)
        return value, np.isfinite(value)
    root = linalg.stacked_cholesky(covariance[:, part.shared[:, None], part.shared])
    left = np.eye(root.shape[1]) - np.swapaxes(root, 1, 2) @ joint[:, :-1, :-1] @ root
    pulled = (np.swapaxes(root, 1, 2) @ off[:, :-1, None])[:, :, 0]
    root = linalg.stacked_cholesky(left)
    pivots = np.diagonal(root, axis1=1, axis2=2)
    quadratic = misfit + np.sum(np.linalg.solve(root, pulled[:, :, None]) ** 2, axis=(1, 2))
    value = 0.5 * (2 * np.log(pivots).sum(axis=1) - log_determinant - quadratic)
    return value, np.asarray((pivots**2).min(axis=1) > FEWEST_DIGITS)
