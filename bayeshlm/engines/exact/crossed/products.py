"""Crossed levels, as far as they do not depend on the hyperparameters.

The level with the most groups (the leaf) integrates out group by group, as in the nested sweep. What is left is one
symmetric matrix over the effects of all other levels, the common effects and y:

    M(theta) = C + sum over leaf groups g of P_g' V_g(theta)^-1 P_g,   in units of the noise,

with P_g the pseudo-observations of group g (coordinates on orthonormal directions of its columns), C the cross products
that are left within the groups, V_g = I + R S R' / sigma^2. Two columns meet in M only where they meet within a group
of the leaf: M is stored, and computed, at those entries alone. (`crossing_split` is its like for several sigmas.)

References
----------
Bates, Maechler, Bolker, Walker (2015), J. Statistical Software 67(1), section 3: the same elimination as a sparse
Cholesky factorisation in information form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from bayeshlm.arrays import Array, Codes
from bayeshlm.engines.exact.density.nested import weighted_inverses
from bayeshlm.engines.exact.density.residuals import project_out_centred
from bayeshlm.engines.exact.problem import Problem

Order = tuple[int, tuple[int, ...], tuple[int, ...]]  # leaf, large block, small block: indices of levels
SMALL = 128  # effects of the smallest levels, which with the common ones are the small block, factored at every theta


@dataclass(frozen=True, eq=False)
class Crossing:
    """The matrix M(theta) as a linear function of the entries of V^-1.

    Columns: effects of the large block, of the small block, the common effects, y. A level's effects are ordered by
    effect, then by group.

    Attributes
    ----------
    leaf : int
        Index of the level that integrates out first.
    large, small : tuple of int
        Indices of the other levels; the small block holds the small ones.
    start : mapping level -> first column
    size : int
        Columns in all; `large_size` of them are effects of the large block.
    rows : sparse (k * groups, size)
        Pseudo-observations P, effect by effect.
    factor : (k, k, groups)
        R of each group of the leaf, lifted to the user's coordinates.
    distinct : (k, k, classes), members : (classes,)
        R of each class of groups with the same R, and the groups in it.
    positions : (entries,)
        Where M may differ from 0: column * size + row, row >= column.
    constant : (entries,)
        C there.
    products : sparse (entries, k (k + 1) / 2 * classes)
        Maps the entries of V^-1 to M - C.
    """

    leaf: int
    large: tuple[int, ...]
    small: tuple[int, ...]
    start: dict[int, int]
    size: int
    large_size: int
    rows: sparse.csr_array
    factor: Array
    distinct: Array
    members: Array
    positions: Codes
    constant: Array
    products: sparse.csr_array

    @property
    def numbers(self) -> int:
        """Size of the working arrays, per theta."""
        return int(self.distinct.size)

    def entries(self, ratio: Array, sigma: Array | None) -> tuple[Array, Array]:
        """M at its positions (places, B), and log determinants of V (B,), for the leaf's roots over sigma (k, k, B)."""
        unit = np.ones(ratio.shape[2])
        inverse, log_determinant = weighted_inverses(self.distinct, ratio, unit, self.members)
        return self.constant[:, None] + self.products @ inverse.reshape(-1, len(unit)), log_determinant

    def residual(self, coefficients: Array, sigma: Array) -> tuple[Array, Array, Array]:
        """The leaf's pseudo-observations less what `coefficients` (size, B) account for; their R; their precision.

        Returns (k, groups, B), (k, k, groups, 1) and (B,).
        """
        seen = -(self.rows @ coefficients).reshape(*self.factor.shape[1:], -1)
        return seen, self.factor[..., None], sigma**-2


def order_levels(problem: Problem) -> Order:
    """(leaf, large, small): the level with the most effects, and the others by whether they fit in the small block."""
    effects = [level.groups * len(level.columns) for level in problem.levels]
    by_size = sorted(range(len(effects)), key=effects.__getitem__)
    leaf, others = by_size[-1], by_size[:-1]
    small: list[int] = []
    room = SMALL
    for index in others:
        if effects[index] > room:
            break
        small.append(index)
        room -= effects[index]
    return leaf, tuple(k for k in others if k not in small), tuple(small)


def level_codes(problem: Problem) -> Codes:
    """Group of each cell on each level, (cells, levels)."""
    assert problem.codes is not None  # only problems with crossed levels come here
    return problem.codes


def met_columns(codes: Codes, widths: list[tuple[int, int]], leaf: int, dense: int) -> Codes:
    """Columns that meet within each group of a level, (groups,): other levels' effects, common effects, y.

    Parameters
    ----------
    codes : (cells, levels)
    widths : list of (groups, effects a group), per level
    leaf : int
    dense : int
        Number of common effects and y.
    """
    per_group = np.full(widths[leaf][0], dense)
    for index, (groups, effects) in enumerate(widths):
        if index != leaf:
            pairs = np.unique(codes[:, leaf] * groups + codes[:, index])
            per_group += effects * np.bincount(pairs // groups, minlength=len(per_group))
    return per_group


def level_widths(problem: Problem) -> list[tuple[int, int]]:
    """(groups, effects a group) of each level."""
    return [(level.groups, len(level.columns)) for level in problem.levels]


def count_products(problem: Problem, leaf: int) -> int:
    """Products of two entries of P within a group, of which `cross` will hold the sums: found by counting."""
    k, dense = len(problem.levels[leaf].columns), len(problem.common) + 1
    met = met_columns(level_codes(problem), level_widths(problem), leaf, dense)
    return int(k * (k + 1) // 2 * (met * (met + 1) // 2).sum())


def first_columns(problem: Problem, order: Order) -> tuple[dict[int, int], int, int]:
    """(first column of each level but the leaf, effects in all, effects of the large block)."""
    _, large, small = order
    start, size, large_size = {}, 0, 0
    for index in (*large, *small):
        start[index] = size
        size += problem.levels[index].groups * len(problem.levels[index].columns)
        large_size = size if index in large else large_size
    return start, size, large_size


def cross(problem: Problem, order: Order) -> Crossing:
    """Integrate out what can be before theta is known."""
    leaf, large, small = order
    level, others, codes = problem.levels[leaf], (*large, *small), level_codes(problem)
    start, first, large_size = first_columns(problem, order)
    size = first + len(problem.common) + 1
    cells = Cells(problem, leaf)
    rows, rest = project_out_centred(cells.group_weight, cells.group_mean, cells.group_scatter, level.columns)
    dense = [*problem.common, problem.width - 1]

    seen = _leaf_coordinates(cells, rows, level.columns)  # (k, c, cells)
    k, groups = len(level.columns), level.groups
    row_index = np.arange(k)[:, None] * groups
    parts = []  # of P: (value, row, column)
    for index in others:
        other = problem.levels[index]
        for j, column in enumerate(other.columns):
            place = start[index] + j * other.groups + codes[:, index]
            parts.append((seen[:, column], row_index + cells.group, np.broadcast_to(place, (k, len(place)))))
    for j, column in enumerate(dense):
        place = np.full((k, groups), first + j)
        parts.append((rows[:, column], row_index + np.arange(groups), place))
    matrix = sum_entries(parts, (k * groups, size))

    constant = _within(problem, leaf, cells, matrix, rest, start, dense)
    factor = np.einsum("icg,cj->ijg", rows[:, list(level.columns)], level.centring)
    distinct, kind = np.unique(factor.reshape(k * k, -1), axis=1, return_inverse=True)
    kind, classes = kind.ravel(), distinct.shape[1]
    places, sources, values = meeting_products(matrix, kind, k, groups, classes)
    coordinates = constant.tocoo()
    lower = coordinates.row >= coordinates.col
    fixed = coordinates.col[lower].astype(np.int64) * size + coordinates.row[lower]
    positions, entry = distinct_places(np.concatenate([places, fixed]), size)
    shape = (len(positions), k * (k + 1) // 2 * classes)
    products = sparse.coo_array((values, (entry[: len(places)], sources)), shape=shape).tocsr()
    return Crossing(
        leaf, large, small, start, size, large_size, matrix, factor, distinct.reshape(k, k, classes),
        np.bincount(kind, minlength=classes).astype(float), positions,
        np.bincount(entry[len(places) :], coordinates.data[lower], len(positions)), products,
    )  # fmt: skip


class Cells:
    """Cells, and their sums by group of the leaf (Chan's rule)."""

    def __init__(self, problem: Problem, leaf: int) -> None:
        self.group = level_codes(problem)[:, leaf]
        groups = problem.levels[leaf].groups
        self.weight, self.mean = problem.weight, problem.mean.T  # (cells,), (c - 1, cells)
        self.scatter = np.moveaxis(problem.scatter, 0, 2)  # (c - 1, c - 1, cells)
        columns = len(self.mean)
        self.group_weight = np.bincount(self.group, self.weight, groups)
        self.group_mean = np.stack([np.bincount(self.group, self.weight * m, groups) for m in self.mean])
        self.group_mean /= self.group_weight
        self.deviation = self.mean - self.group_mean[:, self.group]
        self.group_scatter = np.empty((columns, columns, groups))
        for i in range(columns):
            for j in range(i + 1):
                terms = self.scatter[i, j] + self.weight * self.deviation[i] * self.deviation[j]
                self.group_scatter[i, j] = self.group_scatter[j, i] = np.bincount(self.group, terms, groups)

    def product(self, a: int, b: int, *, centred: bool = False) -> Array:
        """Cross product (cells,) of columns a and b; `centred`: b less its mean in the leaf's group."""
        right = self.deviation if centred else self.mean
        if b == 0:
            return np.zeros_like(self.weight) if centred else self.product_with_one(a)
        if a == 0:
            return np.asarray(self.weight * right[b - 1])
        return np.asarray(self.scatter[a - 1, b - 1] + self.weight * self.mean[a - 1] * right[b - 1])

    def product_with_one(self, a: int) -> Array:
        return self.weight if a == 0 else np.asarray(self.weight * self.mean[a - 1])


def _leaf_coordinates(cells: Cells, rows: Array, columns: tuple[int, ...]) -> Array:
    """What a cell adds to the coordinates of each column on its group's directions, (k, c, cells)."""
    width = len(cells.mean) + 1
    centred = 0 in columns
    basis = [0, *(c for c in columns if c)] if centred else list(columns)
    seen = np.zeros((len(columns), width, len(cells.weight)))
    for i, column in enumerate(basis):
        square = rows[i, column]
        scale = np.where(square > 0, 1.0 / np.where(square > 0, square, 1.0), 0.0)[cells.group]
        for a in range(width):
            value = cells.product(a, column, centred=centred and column != 0)
            for j in range(1 if centred else 0, i):
                value = value - rows[j, column][cells.group] * seen[j, a]
            seen[i, a] = scale * value
    return seen


def _within(
    problem: Problem, leaf: int, cells: Cells, matrix: sparse.csr_array, rest: Array, start: dict[int, int],
    dense: list[int],
) -> sparse.csr_array:  # fmt: skip
    """C: cross products left within the groups of the leaf.

    y is centred on the group's mean before it is multiplied, so that large differences between groups cost no digits.
    """
    size, effects = matrix.shape[1], matrix.shape[1] - len(dense)
    codes, others, parts = level_codes(problem), tuple(start), []
    centred = 0 in problem.levels[leaf].columns
    for m, index in enumerate(others):
        for other in others[: m + 1]:
            left, right = problem.levels[index], problem.levels[other]
            for i, a in enumerate(left.columns):
                for j, b in enumerate(right.columns):
                    row = start[index] + i * left.groups + codes[:, index]
                    column = start[other] + j * right.groups + codes[:, other]
                    parts.append((cells.product(a, b), row, column))
                    if other != index:
                        parts.append((cells.product(a, b), column, row))
        for i, a in enumerate(problem.levels[index].columns):
            row = start[index] + i * problem.levels[index].groups + codes[:, index]
            for j, b in enumerate(dense):
                value = cells.product(a, b, centred=centred)
                column = np.full(len(row), effects + j)
                parts += [(value, row, column), (value, column, row)]
    full = sum_entries(parts, (size, size))
    # The constant's direction is out of the centred columns already: only the slopes' directions are left to project.
    directions = matrix[problem.levels[leaf].groups :] if centred else matrix
    corner = sparse.csr_array(rest.sum(axis=2)[np.ix_(dense, dense)])
    across = directions[:, effects:].T @ directions[:, :effects]
    blocks = [[-(matrix[:, :effects].T @ matrix[:, :effects]), -across.T], [-across, corner]]
    return sparse.csr_array(full + sparse.block_array(blocks))


def sum_entries(parts: list[tuple[Array, Codes, Codes]], shape: tuple[int, int]) -> sparse.csr_array:
    """Sum (value, row, column) triples; entries that are exactly 0 are not stored."""
    values, rows, columns = (
        np.concatenate([np.broadcast_to(part[k], part[0].shape).ravel() for part in parts]) for k in range(3)
    )
    kept = values != 0
    out = sparse.coo_array((values[kept], (rows[kept], columns[kept])), shape=shape).tocsr()
    out.sort_indices()
    return out


def meeting_products(
    matrix: sparse.csr_array, kind: Codes, k: int, groups: int, classes: int
) -> tuple[Codes, Codes, Array]:
    """Every product of two entries of P within a group: (position in M, entry of V^-1, value)."""
    size = matrix.shape[1]
    places, sources, values = [], [], []
    pair = 0
    for i in range(k):
        left = matrix[i * groups : (i + 1) * groups]
        for j in range(i, k):
            right = left if i == j else matrix[j * groups : (j + 1) * groups]
            lengths = np.diff(right.indptr)
            group = np.repeat(np.arange(groups), np.diff(left.indptr))
            # Sorted rows: within a group an entry meets itself and those before it, across two rows of P all of them.
            partners = np.arange(len(left.data)) - left.indptr[group] + 1 if i == j else lengths[group]
            first = np.repeat(np.arange(len(left.data)), partners)
            offset = np.arange(len(first)) - np.repeat(np.cumsum(partners) - partners, partners)
            second = right.indptr[group[first]] + offset
            a, b = left.indices[first].astype(np.int64), right.indices[second].astype(np.int64)
            value = left.data[first] * right.data[second]
            if i != j:  # V^-1 is symmetric: both orders, which fall together on the diagonal
                value = np.where(a == b, 2 * value, value)
            places.append(np.minimum(a, b) * size + np.maximum(a, b))
            sources.append(pair * classes + kind[group[first]])
            values.append(value)
            pair += 1
    return np.concatenate(places), np.concatenate(sources), np.concatenate(values)


def distinct_places(places: Codes, size: int) -> tuple[Codes, Codes]:
    """(sorted distinct positions, index of each place among them)."""
    if size * size > 8 * len(places) + 10_000_000:
        positions, index = np.unique(places, return_inverse=True)
        return positions, index
    there = np.zeros(size * size, dtype=bool)  # quicker than sorting where the matrix is nearly full
    there[places] = True
    return np.flatnonzero(there), (np.cumsum(there) - 1)[places]
