"""Where to start: variance components from sums of squares, without any factorisation.

References
----------
Henderson (1953), Biometrics 9(2), method 1: sums of squares of group totals equated to their expectations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.optimize import nnls

from bayeshlm.arrays import Array
from bayeshlm.engines.exact.problem import Problem

SMALLEST = 0.02  # share of a component's largest visible ratio below which an estimate says no more than "small"


@dataclass(frozen=True)
class Moments:
    """Estimates by component, in the order of the levels' effects.

    Attributes
    ----------
    sigma : float
    ratio : (components,)
        Standard deviation over sigma, at least a small one.
    unit : (components,)
        1 / sqrt of the largest information of a group: smaller ratios do not show.
    """

    sigma: float
    ratio: Array
    unit: Array


def moments(problem: Problem) -> Moments:
    """Method of moments for every effect of every level, correlations left out."""
    full = _cell_moments(problem)
    assert problem.codes is not None  # only problems with crossed levels come here
    common, y = list(problem.common), problem.width - 1
    total = full.sum(axis=2)
    direction = np.zeros(problem.width)
    direction[y] = 1.0
    if common:
        direction[common] = -np.linalg.lstsq(total[np.ix_(common, common)], total[common, y])[0]
    residual = np.einsum("abc,b->ac", full, direction)  # cross products with y less its regression, (c, cells)
    squares = float(direction @ total @ direction)

    parts = []  # per component: (group of each cell, groups, combination of columns)
    for index, level in enumerate(problem.levels):
        for j in range(len(level.columns)):
            combination = np.zeros(problem.width)
            combination[list(level.columns)] = level.centring[:, j]
            parts.append((problem.codes[:, index], level.groups, combination))
    size = len(parts)
    expected, observed, largest = np.zeros((size + 1, size + 1)), np.zeros(size + 1), np.zeros(size)
    for a, (group, groups, left) in enumerate(parts):
        information = np.bincount(group, np.einsum("a,abc,b->c", left, full, left), groups)
        inverse = np.divide(1.0, information, out=np.zeros(groups), where=information > 0)
        largest[a] = information.max()
        observed[a] = np.bincount(group, left @ residual, groups) ** 2 @ inverse
        expected[a, -1] = np.count_nonzero(inverse)
        expected[-1, a] = information.sum()
        for b, (other, others, right) in enumerate(parts):
            shared = np.einsum("a,abc,b->c", left, full, right)
            pairs = sparse.coo_array((shared, (group, other)), shape=(groups, others)).tocsr()
            expected[a, b] = inverse @ pairs.power(2).sum(axis=1)
    expected[-1, -1], observed[-1] = problem.rows, squares
    scale = np.maximum(expected[:, -1:], 1.0)
    if problem.known_sigma:
        known = observed - expected[:, -1]
        variances = np.append(nnls(expected[:, :-1] / scale, known / scale[:, 0])[0], 1.0)
    else:
        variances = nnls(expected / scale, observed / scale[:, 0])[0]
    sigma = np.sqrt(max(variances[-1], 1e-3 * squares / problem.rows, np.finfo(float).tiny))
    unit = 1.0 / np.sqrt(np.maximum(largest, np.finfo(float).tiny))
    return Moments(float(sigma), np.maximum(np.sqrt(variances[:-1]) / sigma, SMALLEST * unit), unit)


def _cell_moments(problem: Problem) -> Array:
    """Cross products (c, c, cells) of (1, columns, y)."""
    mean = np.concatenate([np.ones((len(problem.weight), 1)), problem.mean], axis=1)
    full = np.einsum("c,ca,cb->abc", problem.weight, mean, mean)
    full[1:, 1:] += np.moveaxis(problem.scatter, 0, 2)
    return np.asarray(full)
