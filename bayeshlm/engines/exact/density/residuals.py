"""Residual standard deviations that differ by a factor: rows of several categories meet inside a group.

Each cell (a group's rows of one category) counts with its own precision, so nothing can be summed before sigma is
known. Cells are pooled about their precision-weighted mean (Chan, Golub, LeVeque 1983), so that offsets cost no digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bayeshlm.arrays import Array, Codes
from bayeshlm.engines import linalg


@dataclass(frozen=True, eq=False)
class Split:
    """Cells of a problem whose sigma differs by a factor.

    Attributes
    ----------
    group : (cells,) int
        Innermost group of each cell (zeros where there are no levels).
    part : (cells,) int
        Category of each cell.
    rows : (parts,)
        Rows of each category.
    groups : int
    """

    group: Codes
    part: Codes
    rows: Array
    groups: int


def pooled(split: Split, weight: Array, mean: Array, scatter: Array, sigma: Array) -> tuple[Array, Array, Array]:
    """Pool each group's cells in units of their noise.

    Parameters
    ----------
    split : Split
    weight, mean, scatter : (cells,), (cells, c - 1), (cells, c - 1, c - 1)
    sigma : (B, parts)

    Returns
    -------
    weight : (groups, B)
    mean : (c - 1, groups, B)
    scatter : (c - 1, c - 1, groups, B)
    """
    columns, batch = mean.shape[1], len(sigma)
    order = np.argsort(split.group, kind="stable")
    starts = np.searchsorted(split.group[order], np.arange(split.groups))
    precision = (sigma.T[split.part] ** -2)[order]  # (cells, B)
    weights = weight[order, None] * precision
    total = np.add.reduceat(weights, starts, axis=0)
    centre = np.empty((columns, split.groups, batch))
    deviation = np.empty((columns, len(order), batch))
    of_group = split.group[order]
    for i in range(columns):
        values = mean[order, i, None]
        centre[i] = np.add.reduceat(weights * values, starts, axis=0) / total
        deviation[i] = values - centre[i][of_group]
    pooled_scatter = np.empty((columns, columns, split.groups, batch))
    for i in range(columns):
        for j in range(i + 1):
            terms = precision * scatter[order, i, j, None] + weights * deviation[i] * deviation[j]
            pooled_scatter[i, j] = pooled_scatter[j, i] = np.add.reduceat(terms, starts, axis=0)
    return total, centre, pooled_scatter


def project_out_centred(weight: Array, mean: Array, scatter: Array, columns: tuple[int, ...]) -> tuple[Array, Array]:
    """`linalg.project_out` of the cross products of (1, columns, y), from weight (...), mean (c - 1, ...) and scatter.

    The constant goes first, by hand: what is left after it is the scatter, without any subtraction.
    """
    if 0 not in columns:
        return linalg.project_out(full_moments(weight, mean, scatter), columns)
    width = len(mean) + 1
    first = np.sqrt(weight) * np.concatenate([np.ones((1, *weight.shape)), mean])
    within = np.zeros((width, width, *weight.shape))
    within[1:, 1:] = scatter
    slopes, rest = linalg.project_out(within, tuple(column for column in columns if column))
    return np.concatenate([first[None], slopes]), rest


def full_moments(weight: Array, mean: Array, scatter: Array) -> Array:
    """Cross products (c, c, ...) of (1, columns, y) from weight (...), mean (c - 1, ...), scatter (c-1, c-1, ...)."""
    width = len(mean) + 1
    full = np.empty((width, width, *weight.shape))
    full[0, 0] = weight
    full[0, 1:] = full[1:, 0] = weight * mean
    full[1:, 1:] = scatter + weight * mean[:, None] * mean[None]
    return full
