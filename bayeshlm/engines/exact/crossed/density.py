"""Density and effects where levels are crossed; the counterpart of `density.nested`, with the same interface.

Everything is in units of the noise: with all standard deviations written as ratios to sigma, what the data say about
the few columns of the small block (the smallest levels, the common effects, y) is a Schur complement K and a log
determinant that depend on the ratios of the large levels alone. The small block is factored for every theta, the large
block only for new ratios.
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
from bayeshlm.engines.exact.density.nested import DIGITS, MOST_OF, least_residual
from bayeshlm.engines.exact.density.protocol import Sweep, in_chunks
from bayeshlm.engines.exact.hyperparameters import constrain
from bayeshlm.engines.exact.problem import Problem

BATCH_NUMBERS = 2**20  # numbers per working array


@dataclass(frozen=True)
class LargeBlock:
    """The large block's factorisation at one set of ratios.

    Attributes
    ----------
    chol : (n, n)
        Lower Cholesky factor of H = I + L' M L, in Fortran order.
    whitened : (n, r)
        chol^-1 L' M of the small block's columns.
    schur : (r, r)
        K: what is left for the small block's columns.
    log_determinant : float
        Of H and of the leaf's V together.
    """

    chol: Array
    whitened: Array
    schur: Array
    log_determinant: float


@dataclass(frozen=True)
class SmallBlock:
    """The small block's factorisation for a batch.

    Attributes
    ----------
    log_likelihood : (B,)
    chol : (B, r - 1, r - 1)
        Lower Cholesky factor.
    whitened : (B, r - 1)
        chol^-1 of the score.
    """

    log_likelihood: Array
    chol: Array
    whitened: Array


class Crossed:
    """log p(y | theta) and effects given theta; holds what does not depend on theta.

    The level that integrates out first, the large block and the small block are `order`'s, by default `order_levels`'.
    """

    crossing: Crossing | SplitCrossing

    def __init__(self, problem: Problem, order: Order | None = None) -> None:
        self.problem = problem
        order = order_levels(problem) if order is None else order
        self.crossing = crossing = (SplitCrossing if problem.split else cross)(problem, order)
        size, large = crossing.size, crossing.large_size
        self.width = size - large  # columns of the small block, with the common effects and y
        self.small_blocks = tuple((k, crossing.start[k] - large, problem.levels[k].groups) for k in crossing.small)
        column, row = crossing.positions // size, crossing.positions % size
        self.in_large, self.across, self.in_small = row < large, (column < large) & (row >= large), column >= large
        self.large_places = column[self.in_large] * large + row[self.in_large]
        self.across_places = column[self.across] * self.width + row[self.across] - large
        self.small_places = (column[self.in_small] - large) * self.width + row[self.in_small] - large
        self.residual = least_residual(problem)
        self.chunk = int(np.clip(BATCH_NUMBERS // max(len(crossing.positions), crossing.numbers), 1, 4096))

    @property
    def diagnostics(self) -> dict[str, float]:
        """None: nothing is approximated."""
        return {}

    def log_density(self, theta: Array) -> tuple[Array, Array]:
        """(log p(y | theta) + log p(theta), log p(y | theta)) for theta (B, d); -inf where it cannot be evaluated."""
        return in_chunks(self.problem, theta, self.chunk, lambda *given: self.sweep(*given).log_likelihood)

    def sweep(self, sigma: Array, roots: list[Array]) -> Sweep:
        """Sweep a batch to the small block. `sigma` (B,) or (B, parts), `roots` per level (k, k, B)."""
        schur, log_determinants = self.schur(*self._units(sigma, roots))
        swept = self.eliminate_small_block(schur, log_determinants, sigma, roots)
        q = swept.chol.shape[1] - len(self.problem.common)
        last = swept.chol[:, q:, q:]
        score = np.einsum("bij,bj->bi", last, swept.whitened[:, q:])
        return Sweep(swept.log_likelihood, last @ np.swapaxes(last, 1, 2), score, ())

    def _units(self, sigma: Array, roots: list[Array]) -> tuple[list[Array], Array | None]:
        """(the roots in units of the noise, the sigmas that are in K already)."""
        return ([root / sigma for root in roots], None) if sigma.ndim == 1 else (roots, sigma)

    def schur(self, ratios: list[Array], spread: Array | None = None) -> tuple[Array, Array]:
        """(K (B, r, r), log determinants (B,)) for the levels' roots over sigma, (k, k, B) each.

        Where sigma differs by a factor: for the roots themselves, and sigma (B, parts).
        """
        if self.crossing.large:
            parts = self.large_blocks(ratios, spread)
            return np.stack([part.schur for part in parts]), np.array([part.log_determinant for part in parts])
        values, log_determinants = self.crossing.entries(ratios[self.crossing.leaf], spread)
        schur = np.zeros((values.shape[1], self.width * self.width))
        schur[:, self.small_places] = values.T
        return mirrored(schur.reshape(-1, self.width, self.width)), log_determinants

    def large_blocks(self, ratios: list[Array], spread: Array | None = None) -> list[LargeBlock]:
        """The large block's factorisation for each of a batch, as `schur` takes it."""
        found, leaf = [], ratios[self.crossing.leaf]
        for start in range(0, leaf.shape[2], self.chunk):
            part = slice(start, start + self.chunk)
            values, log_determinants = self.crossing.entries(leaf[:, :, part], None if spread is None else spread[part])
            for b, log_determinant in enumerate(log_determinants):
                mine = [ratio[:, :, start + b] for ratio in ratios]
                found.append(self._eliminate_large_block(mine, values[:, b], log_determinant))
        return found

    def large_block(self, ratios: list[Array]) -> LargeBlock:
        """Eliminate the large block at one set of ratios, (k, k) a level; log determinant NaN where that fails."""
        return self.large_blocks([ratio[:, :, None] for ratio in ratios])[0]

    def _eliminate_large_block(self, ratios: list[Array], values: Array, log_determinant: float) -> LargeBlock:
        n = self.crossing.large_size
        flat, cross_columns, schur = np.zeros(n * n), np.zeros(n * self.width), np.zeros(self.width**2)
        flat[self.large_places] = values[self.in_large]
        cross_columns[self.across_places] = values[self.across]
        schur[self.small_places] = values[self.in_small]
        matrix = self.scale_large_block(ratios, flat.reshape(n, n))  # upper triangle, in C order
        matrix[np.diag_indices(n)] += 1.0
        chol, failed = lapack.dpotrf(matrix.T, lower=1, clean=0, overwrite_a=1)
        if failed:  # this theta's density is 0, as after `linalg.stacked_cholesky`
            log_determinant = np.nan
        whitened = self.apply_large_block(ratios, cross_columns.reshape(n, self.width), transposed=True)
        whitened = blas.dtrsm(1.0, chol, whitened, lower=1)
        schur = mirrored(schur.reshape(1, self.width, self.width))[0] - whitened.T @ whitened
        return LargeBlock(chol, whitened, schur, float(log_determinant + 2 * np.log(np.diag(chol)).sum()))

    def _large_factors(self, ratios: list[Array]) -> list[tuple[int, int, Array]]:
        """(first column, groups, lifted root (k, k)) of each level of the large block."""
        levels = self.problem.levels
        return [(self.crossing.start[i], levels[i].groups, levels[i].centring @ ratios[i]) for i in self.crossing.large]

    def scale_large_block(self, ratios: list[Array], upper: Array) -> Array:
        """L' M L, upper triangle, of M's upper triangle (n, n)."""
        factors = self._large_factors(ratios)
        if all(len(factor) == 1 for _, _, factor in factors):
            scale = np.concatenate([np.full(groups, factor[0, 0]) for _, groups, factor in factors])
            upper *= scale[:, None]
            upper *= scale
            return upper
        full = upper + np.triu(upper, 1).T
        whitened = self.apply_large_block(ratios, full, transposed=True)
        return self.apply_large_block(ratios, np.ascontiguousarray(whitened.T), transposed=True)

    def apply_large_block(
        self, ratios: list[Array], values: Array, *, transposed: bool = False, lifted: bool = True
    ) -> Array:
        """L v, or L' v, of the large block (n, any); `lifted` to centred columns, or as the user wrote them."""
        out = np.empty_like(values)
        for i, (start, groups, factor) in zip(self.crossing.large, self._large_factors(ratios), strict=True):
            k = len(factor)
            matrix = factor if lifted else ratios[i]
            part = values[start : start + k * groups].reshape(k, -1)
            mixed = (matrix.T if transposed else matrix) @ part
            out[start : start + k * groups] = mixed.reshape(k * groups, -1)
        return out

    def add_large_block(self, ratios: list[Array], values: Array, out: Array) -> None:
        """Add L v to `out`, effects as the user wrote them; both (n, any). `values` is used up."""
        for i, (start, groups, factor) in zip(self.crossing.large, self._large_factors(ratios), strict=True):
            part = slice(start, start + len(factor) * groups)
            if len(factor) == 1:
                values[part] *= ratios[i][0, 0]
                out[part] += values[part]
            else:
                out[part] += (ratios[i] @ values[part].reshape(len(factor), -1)).reshape(len(factor) * groups, -1)

    def eliminate_small_block(
        self, schur: Array, log_determinants: Array, sigma: Array, roots: list[Array]
    ) -> SmallBlock:
        """Integrate the small block's levels and the common effects out, for a batch."""
        problem, p = self.problem, len(self.problem.common)
        split = problem.split
        floor = sigma**-2 * self.residual.sum() if split is None else sigma**-2 @ self.residual
        joint = self.scale_small_block(roots, schur / sigma[:, None, None] ** 2 if split is None else schur)
        q = self.width - 1 - p
        joint[:, np.arange(q), np.arange(q)] += 1.0
        joint[:, q:-1, q:-1] += problem.precision
        rhs = problem.precision @ problem.prior_mean
        joint[:, -1, q:-1] += rhs
        joint[:, -1, -1] += problem.prior_mean @ rhs
        lower = linalg.stacked_cholesky(joint)  # y is the last row: its pivot is what no effect explains
        chol, whitened = lower[:, :-1, :-1], lower[:, -1, :-1]
        log_determinant = log_determinants + (2 * problem.rows * np.log(sigma) if split is None else 0.0)
        log_determinant += 2 * np.log(np.diagonal(chol, axis1=1, axis2=2)).sum(axis=1)
        quadratic = lower[:, -1, -1] ** 2
        log_likelihood = problem.constant - 0.5 * (log_determinant - problem.log_prior_determinant + quadratic)
        lost = (quadratic < DIGITS * joint[:, -1, -1]) | (quadratic < MOST_OF * floor)
        return SmallBlock(
            np.where(lost, -np.inf, log_likelihood), chol, whitened
        )  # as in `Marginal`: no digit of it is right

    def scale_small_block(
        self, roots: list[Array], schur: Array, blocks: tuple[tuple[int, int, int], ...] | None = None
    ) -> Array:
        """L' K L of the small block's levels, for a batch (B, r, r).

        `blocks`: level, first column and number of groups of each; by default all that the small block holds.
        """
        out = np.array(schur)
        batch, width = out.shape[:2]
        for index, start, groups in self.small_blocks if blocks is None else blocks:
            level = self.problem.levels[index]
            k = len(level.columns)
            part = slice(start, start + k * groups)
            factor = np.einsum("ij,jlb->bil", level.centring, roots[index])
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
            blocks = []
            if self.crossing.large:
                blocks = self.large_blocks(ratios, spread)
                schur = np.stack([block.schur for block in blocks])
                log_determinants = np.array([block.log_determinant for block in blocks])
            else:
                schur, log_determinants = self.schur(ratios, spread)
            top = self.eliminate_small_block(schur, log_determinants, sigma, roots)
            known = self.draw_small_block(top, roots, rng)
            drawn = np.empty((self.crossing.large_size, len(sigma)))
            for b, block in enumerate(blocks):
                mine = [ratio[:, :, b] for ratio in ratios]
                rhs = noise[b] * rng.standard_normal(len(drawn)) - block.whitened @ known[:, b]
                solved = blas.dtrsm(1.0, block.chol, rhs[:, None], lower=1, trans_a=1)
                drawn[:, b] = self.apply_large_block(mine, solved, lifted=False)[:, 0]
            betas[part] = self.finish(sigma, roots, known, drawn, [effect[:, :, part] for effect in effects], rng)
        return betas, effects[:levels]

    def draw_small_block(self, top: SmallBlock, roots: list[Array], rng: np.random.Generator) -> Array:
        """Draw the small block's effects and the common effects, all of centred columns; -1 for y. Returns (r, B)."""
        batch = len(top.whitened)
        known = np.full((self.width, batch), -1.0)
        if self.width > 1:
            noise = top.whitened + rng.standard_normal(top.whitened.shape)
            known[:-1] = np.linalg.solve(np.swapaxes(top.chol, 1, 2), noise[:, :, None])[:, :, 0].T
        for index, start, groups in self.small_blocks:
            level = self.problem.levels[index]
            k = len(level.columns)
            part = slice(start, start + k * groups)
            v = known[part].reshape(k, groups, batch)
            known[part] = np.einsum("ij,jlb,lgb->igb", level.centring, roots[index], v).reshape(-1, batch)
        return known

    def finish(
        self, sigma: Array, roots: list[Array], known: Array, drawn: Array, effects: list[Array],
        rng: np.random.Generator,
    ) -> Array:  # fmt: skip
        """Fill `effects` from the small block's and the large block's draws, draw the leaf's; returns beta (B, p)."""
        problem, crossing = self.problem, self.crossing
        batch, p = len(sigma), len(problem.common)
        coefficients = np.concatenate([drawn, known])  # of every column of P, (size, B)
        for index in (*crossing.large, *crossing.small):
            level = problem.levels[index]
            k, start = len(level.columns), crossing.start[index]
            part = coefficients[start : start + k * level.groups].reshape(k, level.groups, batch)
            if index in crossing.large:
                effects[index][:] = part
                part[:] = np.einsum("ij,jgb->igb", level.centring, part)
            else:
                effects[index][:] = np.einsum("ij,jgb->igb", np.linalg.inv(level.centring), part)
        level = problem.levels[crossing.leaf]
        k = len(level.columns)
        residual, factor, precision = crossing.residual(coefficients, sigma)
        effects[crossing.leaf][:] = draw_given_residual(residual, factor, roots[crossing.leaf], precision, rng)
        centred = known[self.width - 1 - p : -1].T
        return np.asarray((centred + problem.offset) @ np.linalg.inv(problem.centring).T)


def mirrored(upper: Array) -> Array:
    """Fill the lower triangles of (B, r, r) from the upper ones."""
    rows, columns = np.tril_indices(upper.shape[1], -1)
    upper[:, rows, columns] = upper[:, columns, rows]
    return upper
