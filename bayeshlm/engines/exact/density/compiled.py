"""Compiled inner loop of the sweep, for many groups with three effects or more. Imported when used.

NumPy goes through memory once for each step of the factorisation; here a group's matrix stays in registers, which is
ten times as fast (1,000 groups, four effects). Importing numba costs half a second, so that few groups do without.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from bayeshlm.arrays import Array
from bayeshlm.engines.linalg import FEW_DIGITS


def gram_inverses(factor: Array, root: Array, noise: Array, members: Array) -> tuple[Array, Array] | None:
    """`linalg.gram_inverse` of R L for factors R (k, k, groups) and roots L (k, k, B), log determinants summed.

    Returns
    -------
    inverse : (k (k + 1) / 2, groups, B)
        Upper triangle, row by row.
    log_determinant : (B,)
        Summed over groups, each `members` (groups,) times.

    None where a pivot has lost its digits, which `linalg` repairs.
    """
    k, groups, batch = len(factor), factor.shape[2], root.shape[2]
    inverse, log_determinant = np.empty((k * (k + 1) // 2, groups, batch)), np.zeros(batch)
    r, lower = np.ascontiguousarray(np.moveaxis(factor, 2, 0)), np.ascontiguousarray(np.moveaxis(root, 2, 0))
    if not _fill(r, lower, noise, members, FEW_DIGITS, inverse, log_determinant):
        return None
    return inverse, log_determinant


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]  # numba has no types
def _fill(
    r: Array, lower: Array, noise: Array, members: Array, few: float, inverse: Array, log_determinant: Array
) -> bool:
    k = r.shape[1]
    f, v, w = np.empty((k, k)), np.empty((k, k)), np.zeros((k, k))
    for g in range(r.shape[0]):
        for b in range(lower.shape[0]):
            for i in range(k):
                for j in range(k):
                    total = 0.0
                    for a in range(j, k):
                        total += r[g, i, a] * lower[b, a, j]
                    f[i, j] = total
            logs = 1.0
            for i in range(k):  # v: lower root of noise I + F F'
                for j in range(i + 1):
                    total = 0.0
                    for a in range(k):
                        total += f[i, a] * f[j, a]
                    if i == j:
                        total += noise[b]
                        whole = total
                    for a in range(j):
                        total -= v[i, a] * v[j, a]
                    if i > j:
                        v[i, j] = total / v[j, j]
                    elif total > few * whole:
                        v[i, i] = math.sqrt(total)
                    else:
                        return False
                logs *= v[i, i]
            log_determinant[b] += 2.0 * members[g] * math.log(logs)
            for j in range(k):  # w = v^-1
                w[j, j] = 1.0 / v[j, j]
                for i in range(j + 1, k):
                    total = 0.0
                    for a in range(j, i):
                        total -= v[i, a] * w[a, j]
                    w[i, j] = total / v[i, i]
            pair = 0
            for i in range(k):
                for j in range(i, k):
                    total = 0.0
                    for a in range(j, k):
                        total += w[a, i] * w[a, j]
                    inverse[pair, g, b] = total
                    pair += 1
    return True
