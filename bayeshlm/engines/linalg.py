"""Many small symmetric matrices at once: the matrix axes come first, the batch axes last and contiguous.

NumPy's stacked LAPACK calls cost about a microsecond a matrix; for k = 1 to 3 plain array arithmetic is far faster.
"""

from __future__ import annotations

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.cross_products import project_out

PIVOT_TOLERANCE = 1e-12  # share of a column's square below which nothing but rounding is left of it


def cholesky(a: Array) -> Array:
    """Lower factor of `a` (k, k, ...), positive definite."""
    k = a.shape[0]
    root = np.zeros_like(a)
    for j in range(k):
        root[j, j] = np.sqrt(a[j, j] - np.sum(root[j, :j] ** 2, axis=0)) if j else np.sqrt(a[0, 0])
        for i in range(j + 1, k):
            root[i, j] = (a[i, j] - np.sum(root[i, :j] * root[j, :j], axis=0)) / root[j, j]
    return root


def solve_lower(root: Array, b: Array) -> Array:
    """Solve root x = b for x; `root` (k, k, ...), `b` (k, ...)."""
    x = np.empty(np.broadcast_shapes(root.shape[1:], b.shape))
    for i in range(root.shape[0]):
        x[i] = (b[i] - np.sum(root[i, :i] * x[:i], axis=0)) / root[i, i]
    return x


def solve_upper(root: Array, b: Array) -> Array:
    """Solve root' x = b for x; `root` lower (k, k, ...), `b` (k, ...)."""
    k = root.shape[0]
    x = np.empty(np.broadcast_shapes(root.shape[1:], b.shape))
    for i in reversed(range(k)):
        x[i] = (b[i] - np.sum(root[i + 1 :, i] * x[i + 1 :], axis=0)) / root[i, i]
    return x


def inverse_and_log_determinant(a: Array) -> tuple[Array, Array]:
    """(inverse (k, k, ...), log determinant (...)) of positive definite `a`."""
    k = a.shape[0]
    if k == 1:
        return 1.0 / a, np.log(a[0, 0])
    if k == 2:  # the Cholesky steps written out, which is three times as fast
        ratio = a[1, 0] / a[0, 0]
        rest = a[1, 1] - ratio * a[1, 0]
        inverse = np.empty_like(a)
        inverse[1, 1] = 1.0 / rest
        inverse[0, 1] = inverse[1, 0] = -ratio * inverse[1, 1]
        inverse[0, 0] = 1.0 / a[0, 0] - ratio * inverse[0, 1]
        return inverse, np.log(a[0, 0]) + np.log(rest)
    root = cholesky(a)
    log_determinant = 2.0 * np.sum(np.log(np.stack([root[i, i] for i in range(k)])), axis=0)
    inverse_root = np.zeros_like(a)
    for j in range(k):
        unit = np.zeros((k, *a.shape[2:]))
        unit[j] = 1.0
        inverse_root[:, j] = solve_lower(root, unit)
    full = np.empty_like(a)
    for i in range(k):
        for j in range(i + 1):
            full[i, j] = full[j, i] = np.sum(inverse_root[i:, i] * inverse_root[i:, j], axis=0)
    return full, log_determinant


def pivot(moments: Array, columns: tuple[int, ...]) -> tuple[Array, Array]:
    """Project the given columns out of cross products, one at a time.

    Parameters
    ----------
    moments : (c, c, ...)
        Cross products of c columns.
    columns : indices of the k columns to project out.

    Returns
    -------
    rows : (k, c, ...)
        Coordinates of all columns on the orthonormal directions of the projected ones ("pseudo-observations").
        A direction with nothing left (a column aliased with those before it) has all-zero coordinates.
    rest : (c, c, ...)
        Cross products of what is left; zero in the projected columns.
    """
    return project_out(moments, columns, PIVOT_TOLERANCE)
