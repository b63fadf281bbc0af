"""Polynomials of a total degree through well-chosen nodes of a box, which grow degree by degree.

References
----------
Bos, De Marchi, Sommariva, Vianello (2010), SIAM J. Numerical Analysis 48(5): discrete Leja points by LU factorisation.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack
from scipy.stats import qmc

Array = NDArray[np.float64]
CANDIDATES = 4096  # points from which nodes are chosen


def terms(dims: int, degree: int) -> int:
    """Number of monomials of at most this total degree."""
    return math.comb(dims + degree, dims)


@dataclass(frozen=True, eq=False)
class Interpolant:
    """The polynomial of a total degree through values at nodes of a box.

    Attributes
    ----------
    low, high : (m,)
    degree : int
    inverse : (terms, terms)
        Maps values at the nodes to coefficients.
    """

    low: Array
    high: Array
    degree: int
    inverse: Array

    def weights(self, points: Array) -> Array:
        """Weights (n, nodes) with which the values at the nodes enter the values at points (n, m)."""
        return np.asarray(_basis(_scaled(points, self.low, self.high), self.degree) @ self.inverse)


def interpolant(low: Array, high: Array, degree: int) -> Interpolant:
    """The interpolant on the first `terms` nodes of the box."""
    unit = unit_nodes(len(low), degree)
    return Interpolant(low, high, degree, np.linalg.inv(_basis(unit, degree)))


def nodes(low: Array, high: Array, degree: int) -> Array:
    """Nodes (terms, m) of a box; those of a lower degree come first."""
    return np.asarray(low + (high - low) * (unit_nodes(len(low), degree) + 1) / 2)


def unit_nodes(dims: int, degree: int) -> Array:
    """Discrete Leja points of [-1, 1]^dims, the same at the start whatever the degree asked for."""
    largest = max(degree, LARGEST.get(dims, 4))
    key = (dims, largest)
    if key not in _NODES:
        per_axis = min(int(CANDIDATES ** (1 / dims)), 4 * largest + 1)
        if per_axis >= 2 * largest:
            axis = np.cos(np.pi * np.arange(per_axis) / (per_axis - 1))
            points = np.array(list(itertools.product(axis, repeat=dims)))
        else:  # Sobol points, denser towards the faces as Chebyshev's are
            points = np.cos(np.pi * qmc.Sobol(dims, rng=np.random.default_rng(0)).random(CANDIDATES))
        _, swaps, _ = lapack.dgetrf(_basis(points, largest))
        order = np.arange(len(points))
        for k, swap in enumerate(swaps):
            order[[k, swap]] = order[[swap, k]]
        pivots = order[: terms(dims, largest)]
        _NODES[key] = points[pivots]
    return _NODES[key][: terms(dims, degree)]


LARGEST = {1: 16, 2: 10, 3: 8, 4: 7, 5: 6, 6: 5}  # degree up to which nodes are chosen at once
_NODES: dict[tuple[int, int], Array] = {}  # pure function of the key: remembered, never changed


def _scaled(points: Array, low: Array, high: Array) -> Array:
    return np.asarray(2 * (points - low) / (high - low) - 1)


def _basis(points: Array, degree: int) -> Array:
    """Products of Chebyshev polynomials at points (n, m) of [-1, 1]^m, ordered by total degree: (n, terms)."""
    n, dims = points.shape
    chebyshev = np.ones((degree + 1, dims, n))
    if degree:
        chebyshev[1] = points.T
    for k in range(2, degree + 1):
        chebyshev[k] = 2 * points.T * chebyshev[k - 1] - chebyshev[k - 2]
    out = np.empty((n, terms(dims, degree)))
    for column, powers in enumerate(_powers(dims, degree)):
        product = chebyshev[powers[0], 0]
        for axis in range(1, dims):
            product = product * chebyshev[powers[axis], axis]
        out[:, column] = product
    return out


def _powers(dims: int, degree: int) -> list[tuple[int, ...]]:
    found = [p for p in itertools.product(range(degree + 1), repeat=dims) if sum(p) <= degree]
    return sorted(found, key=lambda p: (sum(p), p))
