"""Weighted cross products of columns: one record for sums that are pooled, moved, mapped and projected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeshlm.arrays import Array, Codes

LEFT_OVER = 1e-12  # share of a column's square below which nothing but rounding is left of it


@dataclass(frozen=True, eq=False)
class CrossProducts:
    """First and second moments of rows a of k columns, with weights w: of many parts of the rows at once, or of one.

    The scatter is about the part's own mean, and means are about any point that costs no digits (`moved` names
    another): squares of a large offset would leave no digits for what varies. Parts add up by Chan, Golub and LeVeque
    (1983), American Statistician 37(3), equation 2.1 in its matrix form.

    Attributes
    ----------
    weight : (parts,), or () of one part
        Sum of w.
    mean : (parts, k), or (k,)
        m = sum w a / sum w.
    scatter : (parts, k, k), or (k, k)
        Sum of w (a - m)(a - m)'.

    Examples
    --------
    >>> import numpy as np
    >>> two = CrossProducts(np.array([2.0, 2.0]), np.array([[0.0], [4.0]]), np.array([[[2.0]], [[2.0]]]))
    >>> weight, mean, scatter = two.total()
    >>> float(weight), mean.tolist(), scatter.tolist()
    (4.0, [2.0], [[20.0]])
    """

    weight: Array
    mean: Array
    scatter: Array

    def __iter__(self) -> Iterator[Any]:
        """So that ``weight, mean, scatter = ...`` reads as the formulas do."""
        return iter((self.weight, self.mean, self.scatter))

    def pooled(self, part: Codes, parts: int) -> CrossProducts:
        """Sum what falls into the same part: weights add, scatters add plus the spread of the means.

        Parameters
        ----------
        part : (parts now,) int
            New part of each part, every one of ``range(parts)`` at least once.
        parts : int
        """
        order = np.argsort(part, kind="stable")
        if parts == len(part):  # nothing meets: only the order changes
            return CrossProducts(self.weight[order], self.mean[order], self.scatter[order])
        starts = np.searchsorted(part[order], np.arange(parts))

        def total(values: Array) -> Array:
            return np.add.reduceat(values[order], starts, axis=0)

        weight = total(self.weight)
        mean = total(self.weight[:, None] * self.mean) / weight[:, None]
        deviation = self.mean - mean[part]
        between = self.weight[:, None, None] * deviation[:, :, None] * deviation[:, None, :]
        return CrossProducts(weight, mean, total(self.scatter + between))

    def total(self) -> CrossProducts:
        """All parts as one."""
        weight = np.asarray(self.weight.sum())
        mean = self.weight @ self.mean / weight
        deviation = self.mean - mean
        return CrossProducts(weight, mean, self.scatter.sum(axis=0) + (deviation.T * self.weight) @ deviation)

    def within(self) -> Array:
        """(k, k): the scatters of all parts, what lies between their means left out."""
        return np.asarray(self.scatter.sum(axis=0))

    def squares_within(self, part: Codes, parts: int) -> Array:
        """(k,): sums of squares within coarser parts, the diagonal of what `pooled` and `within` would give."""
        weight = np.bincount(part, self.weight, parts)
        mean = np.stack([np.bincount(part, self.weight * m, parts) for m in self.mean.T], axis=1) / weight[:, None]
        return np.asarray(np.einsum("pkk->k", self.scatter) + self.weight @ (self.mean - mean[part]) ** 2)

    def moved(self, by: Array) -> CrossProducts:
        """The same with means about another point, `by` (k,) further down."""
        return CrossProducts(self.weight, self.mean + by, self.scatter)

    def mapped(self, matrix: Array) -> CrossProducts:
        """Of the columns ``matrix @ a``."""
        scatter = matrix @ self.scatter @ matrix.T
        return CrossProducts(self.weight, self.mean @ matrix.T, clamped(scatter))

    def chosen(self, columns: Sequence[int]) -> CrossProducts:
        """Of these columns, in this order."""
        at = np.asarray(columns, dtype=np.int64)
        return CrossProducts(self.weight, self.mean[..., at], self.scatter[..., at[:, None], at])

    def with_constant(self) -> CrossProducts:
        """With a column of ones before the others."""
        parts, k = self.mean.shape[:-1], self.mean.shape[-1]
        scatter = np.zeros((*parts, k + 1, k + 1))
        scatter[..., 1:, 1:] = self.scatter
        return CrossProducts(self.weight, np.concatenate([np.ones((*parts, 1)), self.mean], axis=-1), scatter)

    def about(self, point: Array | float = 0.0) -> Array:
        """(..., k, k): sum of w (a - p)(a - p)'."""
        deviation = self.mean - point
        outer = deviation[..., :, None] * deviation[..., None, :]
        return np.asarray(self.scatter + np.asarray(self.weight)[..., None, None] * outer)


def clamped(scatter: Array) -> Array:
    """The scatters themselves, in which rounding may have left a constant column's square a little below zero."""
    diagonal = np.arange(scatter.shape[-1])
    scatter[..., diagonal, diagonal] = np.maximum(scatter[..., diagonal, diagonal], 0.0)
    return scatter


def regression(scatter: Array, columns: Sequence[int]) -> Array:
    """(k - 1,): least-squares coefficients of the last column on these; 0 for the others, and the least norm."""
    at = list(columns)
    fitted = np.zeros(len(scatter) - 1)
    if at:
        fitted[at] = np.linalg.lstsq(scatter[np.ix_(at, at)], scatter[at, -1])[0]
    return fitted


def project_out(moments: Array, columns: Sequence[int], tolerance: float = LEFT_OVER) -> tuple[Array, Array]:
    """Project the given columns out of cross products, one at a time.

    Parameters
    ----------
    moments : (c, c, ...)
        Cross products of c columns; the batch comes last.
    columns : indices of the k columns to project out.
    tolerance : float
        Share of a column's square below which nothing but rounding is left of it.

    Returns
    -------
    rows : (k, c, ...)
        Coordinates of all columns on the orthonormal directions of the projected ones ("pseudo-observations").
        A direction with nothing left (a column aliased with those before it) has all-zero coordinates.
    rest : (c, c, ...)
        Cross products of what is left; zero in the projected columns.
    """
    rest = moments.copy()
    rows = np.zeros((len(columns), *moments.shape[1:]))
    for k, column in enumerate(columns):
        square = rest[column, column]
        informative = square > tolerance * moments[column, column]
        scale = np.where(informative, 1.0 / np.sqrt(np.where(informative, square, 1.0)), 0.0)
        rows[k] = rest[column] * scale
        rest -= rows[k][:, None] * rows[k][None, :]
        rest[column] = 0.0
        rest[:, column] = 0.0
    return rows, rest


def aliased(moments: Array, tolerance: float) -> NDArray[np.bool_]:
    """(c,): columns that are linear combinations of those before them, from their cross products (c, c)."""
    scale = np.sqrt(np.maximum(np.diag(moments), np.finfo(float).tiny))
    rows, _ = project_out(moments / np.outer(scale, scale), range(len(moments)), tolerance)
    return np.asarray(~rows.any(axis=1))
