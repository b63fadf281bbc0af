"""Density of the data given the hyperparameters, all effects integrated out, and draws of the effects.

A sweep from the innermost groups to the root. Every group's data about its k effects are k pseudo-observations
(coordinates on orthonormal directions of its columns) with variance V = sigma^2 I + R S R', which stays well
conditioned whatever S (Bates et al. 2015, J. Statistical Software 67(1), section 3, eliminate effects the same way in
information form). What a group says about everything above it is then again a matrix of cross products.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.linalg import blas

from bayeshlm.arrays import Array
from bayeshlm.engines import linalg
from bayeshlm.engines.exact.density.effects import draw_by_class, draw_group, unexplained
from bayeshlm.engines.exact.density.protocol import Sweep, Upper, in_chunks
from bayeshlm.engines.exact.density.residuals import full_moments, pooled, project_out_centred
from bayeshlm.engines.exact.hyperparameters import constrain
from bayeshlm.engines.exact.problem import Problem

DIGITS = 1e-13  # share of the response's sum of squares that must be left for the density to have any digits
MOST_OF = 0.9  # of the least residual there can be
FEW_CLASSES = 4  # groups a class on average, from which drawing class by class pays
FEW_COLUMNS = 3  # common effects up to which plain array arithmetic is quicker than stacked LAPACK calls
COMPILED_FROM = 250  # classes of groups with three or more effects: a fit of a few seconds
DENSE_CLASSES = 256  # weights times classes up to which one parent's products are a full matrix for BLAS
CACHE = 2**18  # numbers per working array: 2 MB, about a core's second-level cache


@dataclass(frozen=True)
class Leaf:
    """Innermost groups, as far as they do not depend on theta.

    Attributes
    ----------
    rows : (k, c, groups)
        Pseudo-observations of all columns.
    factor : (k, k, groups)
        R: their part that multiplies the group's own effects, lifted to the user's coordinates.
    rest : (c, c, parents)
        Cross products left within groups, summed by parent.
    distinct : (k, k, classes)
        R of each class of groups with the same R (for random intercepts: with the same weight). V is the same within a
        class, so that a million groups of equal size cost what one does.
    members : (classes,)
        Groups in each class.
    kind : (groups,) int
        Class of each group.
    products : (parents * pairs, weights * classes)
        Maps the entries of V^-1 to the parents' cross products; sparse, where most of it is 0.
    """

    rows: Array
    factor: Array
    rest: Array
    distinct: Array
    members: Array
    kind: NDArray[np.int64]
    products: sparse.csr_array | Array


class Marginal:
    """log p(y | theta) and effects given theta, for one problem; holds what does not depend on theta."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        width = problem.width
        self.pairs = [(a, b) for a in range(width) for b in range(a, width)]
        self.pair_of = np.zeros((width, width), dtype=np.int64)
        self.pair_of[np.triu_indices(width)] = np.arange(len(self.pairs))
        self.pair_of = np.maximum(self.pair_of, self.pair_of.T)
        if problem.split is not None:
            largest, parents = 1, len(problem.weight)
        elif problem.levels:
            self.leaf = _leaf(problem, self.pairs)
            k = len(problem.levels[-1].columns)
            largest = len(self.leaf.members) * k * (k + 1) // 2
            parents = self.leaf.rest.shape[2]
        else:
            self.total = full_moments(*columns_first(problem)).sum(axis=2)
            largest = parents = 1
        self.chunk = int(np.clip(CACHE // max(largest, width * width * parents), 4, 4096))
        self.residual = least_residual(problem)
        x_and_y = (*problem.common, width - 1)
        self.square = np.ix_(x_and_y, x_and_y)
        rhs = problem.precision @ problem.prior_mean
        self.prior = np.block([[problem.precision, rhs[:, None]], [rhs[None], problem.prior_mean @ rhs]])
        self.lifted = [not np.array_equal(level.centring, np.eye(len(level.centring))) for level in problem.levels]

    @property
    def diagnostics(self) -> dict[str, float]:
        """None: nothing is approximated."""
        return {}

    def log_density(self, theta: Array) -> tuple[Array, Array]:
        """(log p(y | theta) + log p(theta), log p(y | theta)) for theta (B, d); -inf where it cannot be evaluated."""
        return in_chunks(self.problem, theta, self.chunk, lambda *given: self.sweep(*given).log_likelihood)

    def sweep(self, sigma: Array, roots: list[Array], *, keep: bool = False) -> Sweep:
        """Sweep a batch to the root. `sigma` (B,) or (B, parts), `roots` per level (k, k, B)."""
        problem = self.problem
        variance = sigma**2
        log_determinant = np.zeros(len(sigma))
        uppers: list[Upper] = []
        if problem.split is not None:
            moments, log_determinant, uppers = self._split_sweep(sigma, roots)
        elif not problem.levels:
            moments = self.total[:, :, None] / variance
            log_determinant = problem.rows * np.log(variance)
        else:
            moments, log_determinant = self._leaf_sweep(variance, roots[-1])
            for level in range(len(problem.levels) - 2, -1, -1):
                moments, part, upper = self._upper_sweep(level, moments, roots[level])
                log_determinant += part
                if keep:
                    uppers.insert(0, upper)
            moments = moments[:, :, 0]
        floor = ((1 / variance) if problem.split is not None else (1 / variance)[:, None]) @ self.residual
        return self._root(moments, log_determinant, tuple(uppers), floor)

    def _split_sweep(self, sigma: Array, roots: list[Array]) -> tuple[Array, Array, list[Upper]]:
        """All levels where sigma (B, parts) differs by a factor: cells count in units of their own noise."""
        problem = self.problem
        assert problem.split is not None  # the caller's branch
        log_determinant = 2 * np.log(sigma) @ problem.split.rows
        weight, mean, scatter = pooled(problem.split, problem.weight, problem.mean, problem.scatter, sigma)
        if not problem.levels:
            return full_moments(weight, mean, scatter)[:, :, 0], log_determinant, []
        rows, rest = project_out_centred(weight, mean, scatter, problem.levels[-1].columns)
        moments, part, upper = self._eliminate(len(problem.levels) - 1, rows, rest, roots[-1])
        log_determinant, uppers = log_determinant + part, [upper]
        for level in range(len(problem.levels) - 2, -1, -1):
            moments, part, upper = self._upper_sweep(level, moments, roots[level])
            log_determinant += part
            uppers.insert(0, upper)
        return moments[:, :, 0], log_determinant, uppers

    def _leaf_sweep(self, variance: Array, root: Array) -> tuple[Array, Array]:
        """Innermost level -> cross products (c, c, parents, B) for the level above, and log determinants (B,)."""
        leaf, problem = self.leaf, self.problem
        level = problem.levels[-1]
        k, batch = len(level.columns), len(variance)
        entries, log_determinant = weighted_inverses(leaf.distinct, root, variance, leaf.members)
        sums = leaf.products @ entries.reshape(-1, batch)
        parents = leaf.rest.shape[2]
        packed = sums.reshape(parents, len(self.pairs), batch)
        packed = sums.reshape(parents, len(self.pairs), batch).swapaxes(0, 1)
        moments = leaf.rest[..., None] / variance
        moments += packed[self.pair_of]
        free = problem.rows - k * level.groups
        return moments, log_determinant + free * np.log(variance)

    def _upper_sweep(self, level: int, moments: Array, root: Array) -> tuple[Array, Array, Upper]:
        """A level above the innermost; moments (c, c, groups, B) already count in units of the noise."""
        rows, rest = linalg.project_out(moments, self.problem.levels[level].columns)
        return self._eliminate(level, rows, rest, root)

    def _eliminate(self, level: int, rows: Array, rest: Array, root: Array) -> tuple[Array, Array, Upper]:
        """Integrate a level's effects out, whose pseudo-observations are `rows` (k, c, groups, B)."""
        record = self.problem.levels[level]
        factor = rows[:, record.columns]
        if self.lifted[level]:
            factor = np.einsum("icgb,cj->ijgb", factor, record.centring)
        k = len(record.columns)
        inverse, log_determinants = linalg.gram_inverse(linalg.times_lower(factor, root), 1.0)
        for i in range(k):
            weighted = np.sum(inverse[i][:, None] * rows, axis=0) if k > 1 else inverse[0, 0] * rows[0]
            rest += rows[i][:, None] * weighted[None]
        return _sum_by_parent(rest, record.parent), log_determinants.sum(axis=0), Upper(rows, factor)

    def _root(self, moments: Array, log_determinant: Array, uppers: tuple[Upper, ...], floor: Array) -> Sweep:
        """Integrate the common effects out; moments (c, c, B), `floor` (B,) what no effect can explain."""
        problem = self.problem
        p = len(problem.common)
        joint = moments[self.square].transpose(2, 0, 1) + self.prior  # common effects and y, (B, p + 1, p + 1)
        information, score = joint[:, :-1, :-1], joint[:, -1, :-1]
        quadratic = whole = joint[:, -1, -1]
        if 0 < p <= FEW_COLUMNS:
            root = linalg.cholesky(information.transpose(1, 2, 0))
            quadratic = quadratic - np.sum(linalg.solve_lower(root, score.T) ** 2, axis=0)
            log_determinant = log_determinant + 2 * sum(np.log(root[i, i]) for i in range(p))
        elif p:
            pivots = np.diagonal(linalg.stacked_cholesky(joint), axis1=1, axis2=2)
            quadratic = pivots[:, -1] ** 2  # y is the last row: its pivot is what no effect explains
            log_determinant = log_determinant + 2 * np.log(pivots[:, :-1]).sum(axis=1)
        log_likelihood = problem.constant - 0.5 * (log_determinant - problem.log_prior_determinant + quadratic)
        # Standard deviations of 1e-90 and 1e-10 of their scales leave a difference of numbers of 1e170: no digit of it
        # is right, and a density of e^(1e166) would be believed.
        lost = (quadratic < DIGITS * whole) | (quadratic < MOST_OF * floor)
        log_likelihood = np.where(lost, -np.inf, log_likelihood)
        return Sweep(log_likelihood, information, score, uppers)

    def draw_effects(
        self, theta: Array, rng: np.random.Generator, levels: int | None = None
    ) -> tuple[Array, list[Array]]:
        """Draw the common effects and those of the outermost `levels` levels (default all), once per theta.

        Returns
        -------
        beta : (B, p)
            Common effects as the user wrote them.
        effects : per level, outermost first, (k, groups, B)
        """
        problem = self.problem
        drawn_levels = problem.levels[:levels]
        betas = np.empty((len(theta), len(problem.common)))
        effects = [np.empty((len(level.columns), level.groups, len(theta))) for level in drawn_levels]
        largest = max((level.groups * problem.width for level in drawn_levels), default=1)
        step = int(np.clip(16 * CACHE // largest, 4, self.chunk))  # every draw is used once: no cache to respect
        for start in range(0, len(theta), step):
            part = slice(start, start + step)
            sigma, roots, _, _ = constrain(problem, theta[part])
            beta, drawn = self._draw(self.sweep(sigma, roots, keep=True), sigma, roots, rng, len(drawn_levels))
            betas[part] = beta
            for whole, piece in zip(effects, drawn, strict=True):
                whole[:, :, part] = piece
        return betas, effects

    def _draw(
        self, sweep: Sweep, sigma: Array, roots: list[Array], rng: np.random.Generator, levels: int
    ) -> tuple[Array, list[Array]]:
        problem = self.problem
        batch, p = len(sigma), len(problem.common)
        centred = np.zeros((batch, p))
        if 0 < p <= FEW_COLUMNS:
            root = linalg.cholesky(sweep.information.transpose(1, 2, 0))
            half = linalg.solve_lower(root, sweep.score.T) + rng.standard_normal((batch, p)).T
            centred = linalg.solve_upper(root, half).T
        elif p:
            noise = rng.standard_normal((batch, p))
            for b, root in enumerate(linalg.stacked_cholesky(sweep.information)):  # its transpose is in LAPACK's order
                half = blas.dtrsv(root.T, sweep.score[b], lower=0, trans=1) + noise[b]
                centred[b] = blas.dtrsv(root.T, half, lower=0)
        beta = (centred + problem.offset) @ np.linalg.inv(problem.centring).T
        # Of every column, for each group so far: common effects, then those of its ancestors. (c - 1, groups, B)
        coefficients = np.zeros((problem.width - 1, 1, batch))
        coefficients[list(problem.common), 0] = centred.T
        drawn = []
        for index, level in enumerate(problem.levels[:levels]):
            coefficients = coefficients[:, level.parent]
            innermost = index == len(problem.levels) - 1 and problem.split is None
            rows = self.leaf.rows[..., None] if innermost else sweep.uppers[index].rows
            factor = self.leaf.factor[..., None] if innermost else sweep.uppers[index].factor
            precision = sigma**-2 if innermost else np.ones(batch)
            if innermost and len(level.columns) > 1 and FEW_CLASSES * len(self.leaf.members) <= level.groups:
                residual = unexplained(rows, coefficients)
                effect = draw_by_class(residual, self.leaf.distinct, self.leaf.kind, roots[index], precision, rng)
            else:
                effect = draw_group(rows, factor, roots[index], precision, coefficients, rng)
            drawn.append(effect)
            lifted = np.einsum("ij,jgb->igb", level.centring, effect)
            for i, column in enumerate(level.columns):
                coefficients[column] += lifted[i]
        return beta, drawn


def least_residual(problem: Problem) -> Array:
    """(parts,): sum of squares within cells that no effects whatever can explain, by category of sigma."""
    part = np.zeros(len(problem.weight), dtype=np.int64) if problem.split is None else problem.split.part
    _, rest = linalg.project_out(
        np.moveaxis(problem.scatter, 0, 2), tuple(range(problem.width - 2))
    )  # slopes of its own
    return np.bincount(part, np.maximum(rest[-1, -1], 0.0))


def weighted_inverses(factor: Array, root: Array, noise: Array, members: Array) -> tuple[Array, Array]:
    """V^-1 of V = noise I + (R L)(R L)' for classes of groups, and its log determinants summed over groups.

    Parameters
    ----------
    factor : (k, k, classes)
        R.
    root : (k, k, B)
        L.
    noise : (B,)
    members : (classes,)
        Groups in each class.

    Returns
    -------
    inverse : (k (k + 1) / 2, classes, B)
        Upper triangle, row by row.
    log_determinant : (B,)
    """
    if len(factor) > 2 and len(members) >= COMPILED_FROM:
        from bayeshlm.engines.exact.density.compiled import gram_inverses

        found = gram_inverses(factor, root, noise, members)
        if found is not None:
            return found
    inverse, log_determinants = linalg.gram_inverse(linalg.times_lower(factor, root), noise)
    entries = inverse[_upper(len(factor))] if len(factor) > 1 else inverse[0]
    return entries, members @ log_determinants


@functools.cache
def _upper(k: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.triu_indices(k)


def columns_first(problem: Problem) -> tuple[Array, Array, Array]:
    """Weight (groups,), mean (c - 1, groups) and scatter (c - 1, c - 1, groups) of the innermost groups."""
    return problem.weight, problem.mean.T, np.moveaxis(problem.scatter, 0, 2)


def _leaf(problem: Problem, pairs: list[tuple[int, int]]) -> Leaf:
    level = problem.levels[-1]
    k = len(level.columns)
    rows, rest = project_out_centred(*columns_first(problem), level.columns)
    factor = np.einsum("icg,cj->ijg", rows[:, list(level.columns)], level.centring)
    distinct, kind = np.unique(factor.reshape(k * k, -1), axis=1, return_inverse=True)
    classes = distinct.shape[1]
    parents = int(level.parent.max()) + 1
    weights = [(i, j) for i in range(k) for j in range(i, k)]
    a, b = (np.array(side) for side in zip(*pairs, strict=True))
    blocks = np.empty((len(weights), len(pairs), level.groups))
    for index, (i, j) in enumerate(weights):
        blocks[index] = rows[i, a] * rows[j, b]
        if i != j:
            blocks[index] += rows[j, a] * rows[i, b]
    target = level.parent[None, None, :] * len(pairs) + np.arange(len(pairs))[None, :, None]
    source = np.arange(len(weights))[:, None, None] * classes + kind.ravel()[None, None, :]
    target, source = np.broadcast_to(target, blocks.shape), np.broadcast_to(source, blocks.shape)
    products = sparse.csr_array(
        (blocks.ravel(), (target.ravel(), source.ravel())), shape=(parents * len(pairs), len(weights) * classes)
    )  # entries of groups of one parent and class add up here
    dense = parents == 1 and products.shape[1] <= DENSE_CLASSES
    rest_by_parent = _sum_by_parent(rest[..., None], level.parent)[..., 0]
    members = np.bincount(kind.ravel(), minlength=classes).astype(float)
    return Leaf(
        rows,
        factor,
        rest_by_parent,
        distinct.reshape(k, k, classes),
        members,
        kind.ravel(),
        products.toarray() if dense else products,
    )


def _sum_by_parent(values: Array, parent: NDArray[np.int64]) -> Array:
    """Sum axis 2 of (c, c, groups, B) over groups of the same parent."""
    parents = int(parent.max()) + 1
    if parents == 1:
        return values.sum(axis=2, keepdims=True)
    order = np.argsort(parent, kind="stable")
    starts = np.searchsorted(parent[order], np.arange(parents))
    return np.add.reduceat(values[:, :, order], starts, axis=2)
