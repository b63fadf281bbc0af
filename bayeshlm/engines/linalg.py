"""Many small symmetric matrices at once: the matrix axes come first, the batch axes last and contiguous.

NumPy's stacked LAPACK calls cost about a microsecond a matrix; for k = 1 to 3 plain array arithmetic is far faster.
"""

from __future__ import annotations

import contextlib

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data import cross_products

FEW_DIGITS = 1e-8  # share of a diagonal entry below which a pivot has lost half its digits
PIVOT_TOLERANCE = 1e-12  # share of a column's square below which nothing but rounding is left of it


def stacked_cholesky(a: Array) -> Array:
    """Lower factors of a stack `a` (B, n, n) by LAPACK; NaN for the matrices that are not positive definite.

    A density that cannot be evaluated at one theta must not cost the others: all engines' recovery is here.
    """
    try:
        return np.linalg.cholesky(a)
    except np.linalg.LinAlgError:
        out = np.full_like(a, np.nan)
        for b, matrix in enumerate(a):
            with contextlib.suppress(np.linalg.LinAlgError):
                out[b] = np.linalg.cholesky(matrix)
        return out


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


def times_lower(factor: Array, root: Array) -> Array:
    """R L (k, k, groups, B) of `factor` R (k, k, groups[, B]) and lower `root` L (k, k, B)."""
    k = root.shape[0]
    if factor.ndim == 3:
        factor = factor[..., None]
    if k == 1:
        return factor * root[:, :, None]
    out = np.empty((k, k, *np.broadcast_shapes(factor.shape[2:], root.shape[2:])))
    for i in range(k):
        for j in range(k):
            out[i, j] = factor[i, j] * root[j, j]
            for a in range(j + 1, k):
                out[i, j] += factor[i, a] * root[a, j]
    return out


def gram_inverse(f: Array, noise: Array | float) -> tuple[Array, Array]:
    """(inverse (k, k, ...), log determinant (...)) of noise I + F F' for `f` (k, k, ...).

    F's rows may be all but parallel and as much larger than the noise as floats allow: nothing is formed as a
    difference of nearly equal numbers.
    """
    k = f.shape[0]
    if k == 1:
        variance = f[0] ** 2 + noise
        return 1.0 / variance[None], np.log(variance[0])
    if k == 2:  # written out, which is three times as fast
        first, second, across, determinant = _two_rows(f, noise)
        inverse = np.empty((2, 2, *determinant.shape))
        inverse[0, 0] = second / determinant
        inverse[1, 1] = first / determinant
        inverse[0, 1] = inverse[1, 0] = -across / determinant
        return inverse, np.log(determinant)
    root = gram_cholesky(f, noise)
    log_determinant = 2.0 * np.sum(np.log(np.stack([root[i, i] for i in range(k)])), axis=0)
    inverse_root = np.zeros_like(root)
    for j in range(k):
        inverse_root[j, j] = 1.0 / root[j, j]
        for i in range(j + 1, k):
            inverse_root[i, j] = -np.sum(root[i, j:i] * inverse_root[j:i, j], axis=0) / root[i, i]
    full = np.empty_like(root)
    for i in range(k):
        for j in range(i + 1):
            full[i, j] = full[j, i] = np.sum(inverse_root[i:, i] * inverse_root[i:, j], axis=0)
    return full, log_determinant


def gram_cholesky(f: Array, noise: Array | float) -> Array:
    """Lower factor of noise I + F F' for `f` (k, k, ...), as accurate as `gram_inverse`."""
    k = f.shape[0]
    if k == 1:
        return np.asarray(np.sqrt(f**2 + noise))
    if k == 2:
        first, _, across, determinant = _two_rows(f, noise)
        root = np.zeros((2, 2, *determinant.shape))
        root[0, 0] = np.sqrt(first)
        root[1, 0] = across / root[0, 0]
        root[1, 1] = np.sqrt(determinant / first)
        return root
    gram = np.empty_like(f)
    for i in range(k):
        for j in range(i + 1):
            gram[i, j] = gram[j, i] = np.sum(f[i] * f[j], axis=0)
        gram[i, i] += noise
    with np.errstate(invalid="ignore"):  # a pivot below 0 by rounding is one of those that are lost
        root = cholesky(gram)
        lost = ~np.logical_and.reduce([root[i, i] ** 2 > FEW_DIGITS * gram[i, i] for i in range(1, k)])
    if lost.any():  # squares have lost them: an orthogonal factorisation of (sqrt(noise) I, F) has not
        rows = np.zeros((np.count_nonzero(lost), 2 * k, k))
        rows[:, range(k), range(k)] = np.sqrt(np.broadcast_to(noise, lost.shape)[lost])[:, None]
        rows[:, k:] = np.moveaxis(f[:, :, lost], (0, 1, 2), (2, 1, 0))
        upper = np.linalg.qr(rows, mode="r")
        root[:, :, lost] = np.moveaxis(upper * np.sign(np.einsum("bii->bi", upper))[:, :, None], (0, 1, 2), (2, 1, 0))
    return root


def _two_rows(f: Array, noise: Array | float) -> tuple[Array, Array, Array, Array]:
    """Entries (0, 0), (1, 1), (1, 0) and determinant of noise I + F F', F two by two."""
    first, second = f[0, 0] ** 2 + f[0, 1] ** 2, f[1, 0] ** 2 + f[1, 1] ** 2
    determinant = (f[0, 0] * f[1, 1] - f[0, 1] * f[1, 0]) ** 2 + noise * (first + second + noise)
    return first + noise, second + noise, f[0, 0] * f[1, 0] + f[0, 1] * f[1, 1], determinant


def project_out(moments: Array, columns: tuple[int, ...]) -> tuple[Array, Array]:
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
    return cross_products.project_out(moments, columns, PIVOT_TOLERANCE)
