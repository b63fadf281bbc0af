"""Draws of a level's effects, given the hyperparameters and everything above it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bayeshlm.arrays import Array
from bayeshlm.engines import linalg


def draw_group(
    rows: Array, factor: Array, root: Array, precision: Array, coefficients: Array, rng: np.random.Generator
) -> Array:
    """Effects (k, groups, B) of a level whose groups see `coefficients` (c - 1, groups, B) in every column so far."""
    k = root.shape[0]
    if k == 1:
        only = rows[0, -1] - np.einsum("cgb,cgb->gb", np.broadcast_to(rows[0, :-1], coefficients.shape), coefficients)
        return draw_given_residual(only[None], factor, root, precision, rng)
    return draw_given_residual(unexplained(rows, coefficients), factor, root, precision, rng)


def unexplained(rows: Array, coefficients: Array) -> Array:
    """Pseudo-observations (k, groups, B) of y less what `coefficients` (c - 1, groups, B) account for."""
    seen = np.broadcast_to(rows[:, :-1], (len(rows), *coefficients.shape))
    return np.asarray(rows[:, -1] - np.einsum("icgb,cgb->igb", seen, coefficients))


def draw_by_class(
    residual: Array, distinct: Array, kind: NDArray[np.int64], root: Array, precision: Array, rng: np.random.Generator
) -> Array:
    """`draw_given_residual` where groups share their R: U = gain r + spread xi, with matrices found once a class.

    `distinct` (k, k, classes) holds R of each class, `kind` (groups,) the class of each group.
    """
    k = root.shape[0]
    scaled = linalg.times_lower(distinct, root)
    lower = linalg.gram_cholesky(np.swapaxes(scaled, 0, 1) * np.sqrt(precision), 1.0)
    inverse = np.zeros_like(lower)
    for j in range(k):
        unit = np.zeros(lower.shape[1:])
        unit[j] = 1.0
        inverse[:, j] = linalg.solve_lower(lower, unit)
    spread = np.einsum("iab,jacb->ijcb", root, inverse)
    gain = np.einsum("ijcb,jacb,lacb->ilcb", spread, inverse, scaled) * precision
    noise = rng.standard_normal(residual.shape)
    out = np.empty_like(residual)
    for each in range(distinct.shape[2]):
        mine = np.flatnonzero(kind == each)
        r, xi = residual[:, mine], noise[:, mine]
        for i in range(k):
            out[i, mine] = sum(gain[i, j, each] * r[j] + spread[i, j, each] * xi[j] for j in range(k))
    return out


def draw_given_residual(
    residual: Array, factor: Array, root: Array, precision: Array, rng: np.random.Generator
) -> Array:
    """U = L v with v | r ~ N(D^-1 L'R' r, D^-1), D = I + L'R'R L: right also where L is 0.

    Parameters
    ----------
    residual : (k, groups, B)
        r: pseudo-observations less what the other effects account for.
    factor : (k, k, groups, B), the last axis may be 1
    root : (k, k, B)
    precision : (B,)
        Of the pseudo-observations.

    Returns
    -------
    (k, groups, B)
    """
    k = root.shape[0]
    if k == 1:
        reach = factor[0, 0] * root[0, 0]
        spread = 1.0 / (1.0 + reach**2 * precision)
        centre = spread * precision * reach * residual[0]
        return np.asarray(root[0, 0] * (centre + np.sqrt(spread) * rng.standard_normal(centre.shape)))[None]
    scaled = linalg.times_lower(factor, root)
    rhs = np.einsum("aigb,agb->igb", scaled, residual) * precision
    lower = linalg.gram_cholesky(np.swapaxes(scaled, 0, 1) * np.sqrt(precision), 1.0)
    v = linalg.solve_upper(lower, linalg.solve_lower(lower, rhs) + rng.standard_normal(rhs.shape))
    return np.asarray(np.einsum("ijb,jgb->igb", root, v))
