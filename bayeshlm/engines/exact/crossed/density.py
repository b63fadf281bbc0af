"""Density and effects where levels are crossed; the counterpart of `marginal`, with the same interface.

Everything is in units of the noise: with all standard deviations written as ratios to sigma, what the data say about
the root's few columns (the smallest levels, the common effects, y) is a small matrix K and a log determinant that
depend on the ratios of the large levels alone. The root is factored for every theta, the bulk only for new ratios.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import blas, lapack

from bayeshlm.arrays import Array
from bayeshlm.engines import linalg
from bayeshlm.engines.exact.crossed.products import Crossing, Order, cross, order_levels
from bayeshlm.engines.exact.crossed.products_by_sigma import SplitCrossing
from bayeshlm.engines.exact.density.effects import draw_given_residual
from bayeshlm.engines.exact.density.nested import DIGITS, MOST_OF, least_residual, weighted_inverses
from bayeshlm.engines.exact.density.protocol import Sweep, in_chunks
from bayeshlm.engines.exact.hyperparameters import constrain
from bayeshlm.engines.exact.problem import Problem

BATCH_NUMBERS = 2**20  # numbers per working array


@dataclass(frozen=True)
class Bulk:
    """The bulk's factorisation at one set of ratios.

    Attributes
    ----------
    root : (n, n)
        Lower root of H = I + L' M L, in Fortran order.
    half : (n, r)
        root^-1 L' M of the root's columns.
    kernel : (r, r)
        K: what is left for the root's columns.
    log_determinant : float
        Of H and of the leaf's V together.
    """

    root: Array
    half: Array
    kernel: Array
    log_determinant: float


@dataclass(frozen=True)
class Root:
    """The root's factorisation for a batch: lower root (B, r - 1, r - 1) and root^-1 of the score (B, r - 1)."""

    log_likelihood: Array
    root: Array
    half: Array


class Crossed:
    """log p(y | theta) and effects given theta; holds what does not depend on theta.

    The level that integrates out first, the bulk and the root are `order`'s, by default `order_levels`'.
    """

    crossing: Crossing | SplitCrossing

    def __init__(self, problem: Problem, order: Order | None = None) -> None:
        self.problem = problem
        order = order_levels(problem) if order is None else order
        self.crossing = crossing = (SplitCrossing if problem.split else cross)(problem, order)
        size, bulk = crossing.size, crossing.bulk_size
        self.width = size - bulk  # columns of the root, with the common effects and y
        self.root_blocks = tuple((k, crossing.start[k] - bulk, problem.levels[k].groups) for k in crossing.root)
        column, row = crossing.positions // size, crossing.positions % size
        self.in_bulk, self.across, self.in_root = row < bulk, (column < bulk) & (row >= bulk), column >= bulk
        self.bulk_places = column[self.in_bulk] * bulk + row[self.in_bulk]
        self.across_places = column[self.across] * self.width + row[self.across] - bulk
        self.root_places = (column[self.in_root] - bulk) * self.width + row[self.in_root] - bulk
        self.residual = least_residual(problem)
        numbers = crossing.numbers if isinstance(crossing, SplitCrossing) else crossing.distinct.size
        self.chunk = int(np.clip(BATCH_NUMBERS // max(len(crossing.positions), numbers), 1, 4096))

    @property
    def diagnostics(self) -> dict[str, float]:
        """None: nothing is approximated."""
        return {}

    def log_density(self, theta: Array) -> tuple[Array, Array]:
        """(log p(y | theta) + log p(theta), log p(y | theta)) for theta (B, d); -inf where it cannot be evaluated."""
        return in_chunks(self.problem, theta, self.chunk, lambda *given: self.sweep(*given).log_likelihood)

    def sweep(self, sigma: Array, roots: list[Array]) -> Sweep:
        """Sweep a batch to the root. `sigma` (B,) or (B, parts), `roots` per level (k, k, B)."""
        kernels, log_determinants = self.kernels(*self._units(sigma, roots))
        swept = self.eliminate_root(kernels, log_determinants, sigma, roots)
        q = swept.root.shape[1] - len(self.problem.common)
        last = swept.root[:, q:, q:]
        score = np.einsum("bij,bj->bi", last, swept.half[:, q:])
        return Sweep(swept.log_likelihood, last @ np.swapaxes(last, 1, 2), score, ())

    def _units(self, sigma: Array, roots: list[Array]) -> tuple[list[Array], Array | None]:
        """(the roots in units of the noise, the sigmas that are in K already)."""
        return ([root / sigma for root in roots], None) if sigma.ndim == 1 else (roots, sigma)

    def kernels(self, ratios: list[Array], spread: Array | None = None) -> tuple[Array, Array]:
        """(K (B, r, r), log determinants (B,)) for the levels' roots over sigma, (k, k, B) each.

        Where sigma differs by a factor: for the roots themselves, and sigma (B, parts).
        """
        if self.crossing.bulk:
            parts = self.bulks(ratios, spread)
            return np.stack([part.kernel for part in parts]), np.array([part.log_determinant for part in parts])
        values, log_determinants = self._entries(ratios[self.crossing.leaf], spread)
        kernels = np.zeros((values.shape[1], self.width * self.width))
        kernels[:, self.root_places] = values.T
        return mirrored(kernels.reshape(-1, self.width, self.width)), log_determinants

    def _entries(self, ratio: Array, spread: Array | None) -> tuple[Array, Array]:
        """(M at its positions, (entries, B)), (log determinant of V, (B,)) for the leaf's roots over sigma."""
        crossing = self.crossing
        if isinstance(crossing, SplitCrossing):
            assert spread is not None  # `_units` gives it
            return crossing.entries(ratio, spread)
        unit = np.ones(ratio.shape[2])
        entries, log_determinant = weighted_inverses(crossing.distinct, ratio, unit, crossing.members)
        return crossing.constant[:, None] + crossing.products @ entries.reshape(-1, len(unit)), log_determinant

    def bulks(self, ratios: list[Array], spread: Array | None = None) -> list[Bulk]:
        """The bulk's factorisation for each of a batch, as `kernels` takes it."""
        found, leaf = [], ratios[self.crossing.leaf]
        for start in range(0, leaf.shape[2], self.chunk):
            part = slice(start, start + self.chunk)
            values, log_determinants = self._entries(leaf[:, :, part], None if spread is None else spread[part])
            for b, log_determinant in enumerate(log_determinants):
                mine = [ratio[:, :, start + b] for ratio in ratios]
                found.append(self._eliminate_bulk(mine, values[:, b], log_determinant))
        return found

    def bulk(self, ratios: list[Array]) -> Bulk:
        """Eliminate the bulk at one set of ratios, (k, k) a level; its log determinant is NaN where it has no root."""
        return self.bulks([ratio[:, :, None] for ratio in ratios])[0]

    def _eliminate_bulk(self, ratios: list[Array], values: Array, log_determinant: float) -> Bulk:
        n = self.crossing.bulk_size
        flat, cross_columns, kernel = np.zeros(n * n), np.zeros(n * self.width), np.zeros(self.width**2)
        flat[self.bulk_places] = values[self.in_bulk]
        cross_columns[self.across_places] = values[self.across]
        kernel[self.root_places] = values[self.in_root]
        matrix = self.scale_bulk(ratios, flat.reshape(n, n))  # upper triangle, in C order
        matrix[np.diag_indices(n)] += 1.0
        root, failed = lapack.dpotrf(matrix.T, lower=1, clean=0, overwrite_a=1)
        if failed:  # this theta's density is 0, as after `linalg.stacked_cholesky`
            log_determinant = np.nan
        half = self.apply_bulk(ratios, cross_columns.reshape(n, self.width), transposed=True)
        half = blas.dtrsm(1.0, root, half, lower=1)
        kernel = mirrored(kernel.reshape(1, self.width, self.width))[0] - half.T @ half
        return Bulk(root, half, kernel, float(log_determinant + 2 * np.log(np.diag(root)).sum()))

    def _bulk_factors(self, ratios: list[Array]) -> list[tuple[int, int, Array]]:
        """(first column, groups, lifted root (k, k)) of each bulk level."""
        levels = self.problem.levels
        return [(self.crossing.start[i], levels[i].groups, levels[i].lift @ ratios[i]) for i in self.crossing.bulk]

    def scale_bulk(self, ratios: list[Array], upper: Array) -> Array:
        """L' M L, upper triangle, of M's upper triangle (n, n)."""
        factors = self._bulk_factors(ratios)
        if all(len(factor) == 1 for _, _, factor in factors):
            scale = np.concatenate([np.full(groups, factor[0, 0]) for _, groups, factor in factors])
            upper *= scale[:, None]
            upper *= scale
            return upper
        full = upper + np.triu(upper, 1).T
        half = self.apply_bulk(ratios, full, transposed=True)
        return self.apply_bulk(ratios, np.ascontiguousarray(half.T), transposed=True)

    def apply_bulk(self, ratios: list[Array], values: Array, *, transposed: bool = False, lifted: bool = True) -> Array:
        """L v, or L' v, of the bulk's columns (n, any); `lifted` to centred columns, or as the user wrote them."""
        out = np.empty_like(values)
        for i, (start, groups, factor) in zip(self.crossing.bulk, self._bulk_factors(ratios), strict=True):
            k = len(factor)
            matrix = factor if lifted else ratios[i]
            part = values[start : start + k * groups].reshape(k, -1)
            mixed = (matrix.T if transposed else matrix) @ part
            out[start : start + k * groups] = mixed.reshape(k * groups, -1)
        return out

    def add_bulk(self, ratios: list[Array], values: Array, out: Array) -> None:
        """Add L v to `out`, effects as the user wrote them; both (n, any). `values` is used up."""
        for i, (start, groups, factor) in zip(self.crossing.bulk, self._bulk_factors(ratios), strict=True):
            part = slice(start, start + len(factor) * groups)
            if len(factor) == 1:
                values[part] *= ratios[i][0, 0]
                out[part] += values[part]
            else:
                out[part] += (ratios[i] @ values[part].reshape(len(factor), -1)).reshape(len(factor) * groups, -1)

    def eliminate_root(self, kernels: Array, log_determinants: Array, sigma: Array, roots: list[Array]) -> Root:
        """Integrate the root's levels and the common effects out, for a batch."""
        problem, p = self.problem, len(self.problem.common)
        split = problem.split
        floor = sigma**-2 * self.residual.sum() if split is None else sigma**-2 @ self.residual
        joint = self.scale_root(roots, kernels / sigma[:, None, None] ** 2 if split is None else kernels)
        q = self.width - 1 - p
        joint[:, np.arange(q), np.arange(q)] += 1.0
        joint[:, q:-1, q:-1] += problem.precision
        pull = problem.precision @ problem.prior_mean
        joint[:, -1, q:-1] += pull
        joint[:, -1, -1] += problem.prior_mean @ pull
        lower = linalg.stacked_cholesky(joint)  # y is the last row: its pivot is what no effect explains
        root, half = lower[:, :-1, :-1], lower[:, -1, :-1]
        log_determinant = log_determinants + (2 * problem.rows * np.log(sigma) if split is None else 0.0)
        log_determinant += 2 * np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1)
        quadratic = lower[:, -1, -1] ** 2
        log_likelihood = problem.constant - 0.5 * (log_determinant - problem.log_prior_determinant + quadratic)
        lost = (quadratic < DIGITS * joint[:, -1, -1]) | (quadratic < MOST_OF * floor)
        return Root(np.where(lost, -np.inf, log_likelihood), root, half)  # as in `Marginal`: no digit of it is right

    def scale_root(
        self, roots: list[Array], kernels: Array, blocks: tuple[tuple[int, int, int], ...] | None = None
    ) -> Array:
        """L' K L of the root's levels, for a batch (B, r, r).

        `blocks`: level, first column and number of groups of each; by default all that the root holds.
        """
        out = np.array(kernels)
        batch, width = out.shape[:2]
        for index, start, groups in self.root_blocks if blocks is None else blocks:
            level = self.problem.levels[index]
            k = len(level.columns)
            part = slice(start, start + k * groups)
            factor = np.einsum("ij,jlb->bil", level.lift, roots[index])
            if k == 1:
                out[:, :, part] *= factor
                out[:, part] *= factor
                continue
            right = out[:, :, part].reshape(batch, width, k, groups)
            out[:, :, part] = np.einsum("brkg,bkj->brjg", right, factor).reshape(batch, width, -1)
            left = out[:, part].reshape(batch, k, groups, width)
            out[:, part] = np.einsum("bkgr,bkj->bjgr", left, factor).reshape(batch, -1, width)
        return out

    def draw_effects(
        self, theta: Array, rng: np.random.Generator, levels: int | None = None
    ) -> tuple[Array, list[Array]]:
        """As `Density.draw_effects`; all levels are drawn, since each needs the others."""
        problem = self.problem
        betas = np.empty((len(theta), len(problem.common)))
        effects = [np.empty((len(level.columns), level.groups, len(theta))) for level in problem.levels]
        for start in range(0, len(theta), self.chunk):
            part = slice(start, start + self.chunk)
            sigma, roots, _, _ = constrain(problem, theta[part])
            ratios, spread = self._units(sigma, roots)
            noise = sigma if spread is None else np.ones(len(sigma))
            bulks = []
            if self.crossing.bulk:
                bulks = self.bulks(ratios, spread)
                kernels = np.stack([bulk.kernel for bulk in bulks])
                log_determinants = np.array([bulk.log_determinant for bulk in bulks])
            else:
                kernels, log_determinants = self.kernels(ratios, spread)
            top = self.eliminate_root(kernels, log_determinants, sigma, roots)
            known = self.draw_root(top, roots, rng)
            drawn = np.empty((self.crossing.bulk_size, len(sigma)))
            for b, bulk in enumerate(bulks):
                mine = [ratio[:, :, b] for ratio in ratios]
                pull = noise[b] * rng.standard_normal(len(drawn)) - bulk.half @ known[:, b]
                solved = blas.dtrsm(1.0, bulk.root, pull[:, None], lower=1, trans_a=1)
                drawn[:, b] = self.apply_bulk(mine, solved, lifted=False)[:, 0]
            betas[part] = self.finish(sigma, roots, known, drawn, [effect[:, :, part] for effect in effects], rng)
        return betas, effects[:levels]

    def draw_root(self, top: Root, roots: list[Array], rng: np.random.Generator) -> Array:
        """Draw the root's effects and the common effects, all of centred columns; -1 for y. Returns (r, B)."""
        batch = len(top.half)
        known = np.full((self.width, batch), -1.0)
        if self.width > 1:
            noise = top.half + rng.standard_normal(top.half.shape)
            known[:-1] = np.linalg.solve(np.swapaxes(top.root, 1, 2), noise[:, :, None])[:, :, 0].T
        for index, start, groups in self.root_blocks:
            level = self.problem.levels[index]
            k = len(level.columns)
            part = slice(start, start + k * groups)
            v = known[part].reshape(k, groups, batch)
            known[part] = np.einsum("ij,jlb,lgb->igb", level.lift, roots[index], v).reshape(-1, batch)
        return known

    def finish(
        self, sigma: Array, roots: list[Array], known: Array, drawn: Array, effects: list[Array],
        rng: np.random.Generator,
    ) -> Array:  # fmt: skip
        """Fill `effects` from the root's and the bulk's draws, draw the leaf's; returns beta (B, p)."""
        problem, crossing = self.problem, self.crossing
        batch, p = len(sigma), len(problem.common)
        worth = np.concatenate([drawn, known])  # what every column of P is worth, (size, B)
        for index in (*crossing.bulk, *crossing.root):
            level = problem.levels[index]
            k, start = len(level.columns), crossing.start[index]
            part = worth[start : start + k * level.groups].reshape(k, level.groups, batch)
            if index in crossing.bulk:
                effects[index][:] = part
                part[:] = np.einsum("ij,jgb->igb", level.lift, part)
            else:
                effects[index][:] = np.einsum("ij,jgb->igb", np.linalg.inv(level.lift), part)
        level = problem.levels[crossing.leaf]
        k = len(level.columns)
        if isinstance(crossing, SplitCrossing):
            residual, factor = crossing.residual(worth, sigma)
            precision = np.ones(batch)
        else:
            residual, factor = -(crossing.rows @ worth).reshape(k, level.groups, batch), crossing.factor[..., None]
            precision = sigma**-2
        effects[crossing.leaf][:] = draw_given_residual(residual, factor, roots[crossing.leaf], precision, rng)
        centred = known[self.width - 1 - p : -1].T
        return np.asarray((centred + problem.offset) @ np.linalg.inv(problem.lift).T)


def mirrored(upper: Array) -> Array:
    """Fill the lower triangles of (B, r, r) from the upper ones."""
    rows, columns = np.tril_indices(upper.shape[1], -1)
    upper[:, rows, columns] = upper[:, columns, rows]
    return upper
