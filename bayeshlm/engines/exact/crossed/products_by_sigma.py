"""Crossed levels where sigma differs by a factor, as far as they do not depend on the hyperparameters.

The own columns of a leaf's group are Z = Q R with Q orthonormal at equal precisions, so that its effects speak through
R u ~ N(0, Sigma), Sigma = R S R'. With tau_p = sigma_p^-2 and N the precisions of its rows, D = Q'NQ = sum_p tau_p D_p.
With the effects integrated out the rows say about everything else what they would with the precision

    N - N Q K Q'N,   K = (Sigma^-1 + D)^-1 = F^-T (I - V^-1) F^-1,   V = I + F' Sigma F,   D = F F',

so that M(theta) = sum_p tau_p C_p - sum_{p,q,i,j} tau_p tau_q K_ij b_pi b_qj', where b_pi holds the cross products of
every column with Q's column i over the group's rows of category p: as in `crossing`, a fixed linear map of few numbers.
So that large differences between groups cost no digits, the common effects' columns and y are split into Q beta, the
group's fit at equal precisions, and the rest. The map takes the rest; Q beta meets it by T = F^-T V^-1 F', and itself
by F V^-1 F'. Everything is in absolute units.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import sparse

from bayeshlm.arrays import Array, Codes
from bayeshlm.engines import linalg
from bayeshlm.engines.exact.crossed.products import (
    Cells,
    Order,
    distinct_places,
    first_columns,
    level_codes,
    meeting_products,
    met_columns,
    sum_entries,
)
from bayeshlm.engines.exact.density.residuals import project_out_centred
from bayeshlm.engines.exact.problem import Problem

PAIR, FLOP = 1e-8, 1e-10  # seconds: two columns that meet in a group, at one theta; a floating point operation


def evaluation_seconds(codes: Codes, widths: list[tuple[int, int]], dense: int, parts: int) -> float:
    """Roughly, the time that the density takes at one theta; arguments as of `met_columns`, and categories of sigma."""
    effects = [groups * each for groups, each in widths]
    leaf = int(np.argmax(effects))
    met = met_columns(codes, widths, leaf, dense).astype(float)
    pairs = widths[leaf][1] * float((met * (met + 1) / 2).sum())
    return PAIR * parts * pairs + FLOP * float(sum(effects) - effects[leaf]) ** 3


class SplitCrossing:
    """M(theta); columns, leaf, large and small block as in `Crossing`.

    Attributes
    ----------
    positions : (places,)
        Where M may differ from 0: column * size + row, row >= column.
    linear : sparse (places, parts)
        C_p there.
    rows : sparse ((parts + 1) * k * groups, size)
        The b's, by category and direction; then beta, by direction.
    products : sparse (places, pairs * classes)
        Products of two entries of its rows, by pair of (category, direction) and by class of groups.
    factor : (k, k, groups)
        R, lifted to the user's coordinates.
    information : (parts, k, k, groups)
        D_p; 1 in all where a direction has nothing in it.
    members, representative : (classes,)
        Groups with the same R and D_p: how many, and one of them.
    """

    def __init__(self, problem: Problem, order: Order) -> None:
        assert problem.split is not None  # the caller's branch
        self.problem, self.split = problem, problem.split
        self.leaf, self.large, self.small = order
        self.start, self.first, self.large_size = first_columns(problem, order)
        dense = [*problem.common, problem.width - 1]
        self.size = self.first + len(dense)
        level, parts, part = problem.levels[self.leaf], len(self.split.rows), self.split.part
        k, group = len(level.columns), level_codes(problem)[:, self.leaf]
        cells = Cells(problem, self.leaf)
        rows, _ = project_out_centred(cells.group_weight, cells.group_mean, cells.group_scatter, level.columns)
        self.factor = np.einsum("icg,cj->ijg", rows[:, list(level.columns)], level.centring)
        product = _cross_products(problem, group, level.columns, dense, rows)
        directions = range(problem.width, problem.width + k)

        self.information = np.zeros((parts, k, k, level.groups))
        inner = np.stack([[product(a, b) for b in directions] for a in directions])  # (k, k, cells)
        np.add.at(np.moveaxis(self.information, 3, 1), (part, group), np.moveaxis(inner, 2, 0))
        empty = np.einsum("pijg->ijg", self.information)[range(k), range(k)] == 0.0
        self.information[:, range(k), range(k)] += empty / parts
        alike = np.concatenate([self.information.reshape(parts * k * k, -1), self.factor.reshape(k * k, -1)])
        _, self.representative, kind = np.unique(alike, axis=1, return_index=True, return_inverse=True)
        classes = len(self.representative)
        self.members = np.bincount(kind.ravel(), minlength=classes).astype(float)

        columns = self._columns(directions.stop, len(dense))
        entries = []  # of the rows: (value, row, column)
        for i, direction in enumerate(directions):
            row = (part * k + i) * level.groups + group
            entries += [(product(a, direction), row, place) for a, place in columns]
            row = (parts * k + i) * level.groups + np.arange(level.groups)
            entries += [(rows[i, column], row, np.full(len(row), self.first + j)) for j, column in enumerate(dense)]
        self.rows = sum_entries(entries, ((parts + 1) * k * level.groups, self.size))
        places, sources, values = meeting_products(self.rows, kind.ravel(), (parts + 1) * k, level.groups, classes)
        self.pairs = [(i, j) for i in range((parts + 1) * k) for j in range(i, (parts + 1) * k)]
        linear = []  # (value, place)
        for m, (a, left) in enumerate(columns):
            for b, right in columns[: m + 1]:
                linear.append((product(a, b), np.minimum(left, right) * self.size + np.maximum(left, right)))
        self.positions, entry = distinct_places(np.concatenate([places, *(place for _, place in linear)]), self.size)
        shape = len(self.positions), len(self.pairs) * classes
        self.products = sparse.coo_array((values, (entry[: len(places)], sources)), shape=shape).tocsr()
        where = entry[len(places) :], np.tile(part, len(linear))
        amounts = np.concatenate([value for value, _ in linear])
        self.linear = sparse.coo_array((amounts, where), shape=(len(self.positions), parts)).tocsr()
        self.numbers = max(len(self.pairs) * classes, k * k * level.groups)  # of the working arrays, per theta

    def _columns(self, rest: int, dense: int) -> list[tuple[int, Codes]]:
        """(column as `_cross_products` counts them, column of M for each cell): effects, then the rests."""
        codes, found = level_codes(self.problem), []
        for index, start in self.start.items():
            other = self.problem.levels[index]
            found += [(c, start + j * other.groups + codes[:, index]) for j, c in enumerate(other.columns)]
        return found + [(rest + j, np.full(len(codes), self.first + j)) for j in range(dense)]

    def entries(self, root: Array, sigma: Array | None) -> tuple[Array, Array]:
        """M at its positions (places, B), and log determinants of V and of the noise (B,).

        Parameters
        ----------
        root : (k, k, B)
            The leaf's.
        sigma : (B, parts)
        """
        assert sigma is not None  # M depends on it here
        tau, k, parts = sigma.T**-2, len(root), sigma.shape[1]
        lower, factor = self._scaled(tau, self.representative)
        inverse, log_determinants = linalg.gram_inverse(linalg.times_lower(factor, root), 1.0)
        back = np.stack(
            [linalg.solve_lower(lower, np.broadcast_to(unit, lower.shape[1:])) for unit in _units(k)], axis=1
        )
        shrunk = np.eye(k)[:, :, None, None] - inverse
        gain = np.einsum("aicb,adcb,djcb->ijcb", back, shrunk, back, optimize=True)  # K
        share = np.einsum("aicb,adcb,jdcb->ijcb", back, inverse, lower, optimize=True)  # T
        both = np.einsum("iacb,adcb,jdcb->ijcb", lower, inverse, lower, optimize=True)
        numbers = np.empty((len(self.pairs), *inverse.shape[2:]))
        for each, (left, right) in enumerate(self.pairs):
            (p, i), (q, j) = divmod(left, k), divmod(right, k)
            if q < parts:
                numbers[each] = -tau[p] * tau[q] * gain[i, j]
            else:
                numbers[each] = tau[p] * share[i, j] if p < parts else both[i, j]
        values = self.linear @ tau + self.products @ numbers.reshape(-1, len(sigma))
        return values, self.members @ log_determinants + 2 * np.log(sigma) @ self.split.rows

    def _scaled(self, tau: Array, groups: Codes | slice) -> tuple[Array, Array]:
        """F and F'R of some groups, (k, k, groups, B) each."""
        lower = linalg.cholesky(np.einsum("pb,pijg->ijgb", tau, self.information[..., groups]))
        return lower, np.einsum("aigb,ajg->ijgb", lower, self.factor[..., groups])

    def residual(self, coefficients: Array, sigma: Array) -> tuple[Array, Array, Array]:
        """The leaf's pseudo-observations less what `coefficients` (size, B) account for; their F'R; their precision.

        Returns (k, groups, B), (k, k, groups, B) and (B,).
        """
        tau, (parts, k, _, groups) = sigma.T**-2, self.information.shape
        seen = -(self.rows @ coefficients).reshape(parts + 1, k, groups, -1)
        lower, factor = self._scaled(tau, slice(None))
        rest = linalg.solve_lower(lower, np.einsum("pb,pigb->igb", tau, seen[:parts]))
        return rest + np.einsum("aigb,agb->igb", lower, seen[parts]), factor, np.ones(len(sigma))


def _units(k: int) -> Array:
    """(k, k, 1, 1): the unit vectors, to be solved for."""
    return np.eye(k)[:, :, None, None]


def _cross_products(
    problem: Problem, group: Codes, columns: tuple[int, ...], dense: list[int], rows: Array
) -> Callable[[int, int], Array]:
    """Cross products (cells,) of two columns: the problem's own, then the directions Q, then the rests of the dense.

    `rows` (k, c, groups) are the coordinates of the problem's columns on the directions of each group.
    """
    mean = np.concatenate([np.ones((len(problem.weight), 1)), problem.mean], axis=1)  # (cells, c)
    scatter = np.pad(problem.scatter, ((0, 0), (1, 0), (1, 0)))
    basis = [0, *(c for c in columns if c)] if 0 in columns else list(columns)  # the order of the directions
    width, k = problem.width, len(columns)
    turn = np.zeros((rows.shape[2], width, k + len(dense)))  # the added columns as combinations of the problem's
    for i, column in enumerate(basis):
        turn[:, column, i] = 1.0
        for before in range(i):
            turn[:, :, i] -= rows[before, column][:, None] * turn[:, :, before]
        pivot = rows[i, column]
        turn[:, :, i] *= np.where(pivot > 0, 1.0 / np.where(pivot > 0, pivot, 1.0), 0.0)[:, None]
    for j, column in enumerate(dense):
        turn[:, column, k + j] += 1.0
        turn[:, :, k + j] -= np.einsum("ig,gci->gc", rows[:, column], turn[:, :, :k])
    turn = turn[group]  # (cells, c, k + dense)
    across = scatter @ turn
    whole = np.block([[scatter, across], [np.swapaxes(across, 1, 2), np.swapaxes(turn, 1, 2) @ across]])
    means = np.concatenate([mean, np.einsum("nc,ncj->nj", mean, turn)], axis=1)

    def product(a: int, b: int) -> Array:
        return np.asarray(problem.weight * means[:, a] * means[:, b] + whole[:, a, b])

    return product
