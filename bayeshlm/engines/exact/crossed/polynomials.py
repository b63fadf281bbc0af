"""Polynomials of a total degree through well-chosen nodes of an ellipsoid, which grow degree by degree.

References
----------
Bos, De Marchi, Sommariva, Vianello (2010), SIAM J. Numerical Analysis 48(5): discrete Leja points by LU factorisation.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy.linalg import lapack
from scipy.special import ndtri
from scipy.stats import qmc

from bayeshlm.arrays import Array

CANDIDATES = 4096  # points from which nodes are chosen
SURFACE = 8  # one in so many of them lies on the surface
LARGEST = {1: 16, 2: 10, 3: 8, 4: 7, 5: 6, 6: 5}  # degree up to which nodes are chosen at once


def terms(dims: int, degree: int) -> int:
    """Number of monomials of at most this total degree."""
    return math.comb(dims + degree, dims)


@dataclass(frozen=True, eq=False)
class Ellipsoid:
    """Points centre + root @ u with |u| <= 1; centre (m,), root (m, m)."""

    centre: Array
    root: Array

    def unit(self, points: Array) -> Array:
        """Coordinates u (n, m) of points (n, m)."""
        return np.asarray(np.linalg.solve(self.root, (points - self.centre).T).T)

    def nodes(self, degree: int) -> Array:
        """Nodes (terms, m); those of a lower degree come first."""
        return np.asarray(self.centre + unit_nodes(len(self.centre), degree) @ self.root.T)


@dataclass(frozen=True, eq=False)
class Interpolant:
    """The polynomial of a total degree through values at an ellipsoid's nodes.

    Attributes
    ----------
    region : Ellipsoid
    degree : int
    inverse : (terms, terms)
        Maps values at the nodes to coefficients.
    """

    region: Ellipsoid
    degree: int
    inverse: Array

    def weights(self, points: Array) -> Array:
        """Weights (n, nodes) with which the values at the nodes enter the values at points (n, m)."""
        return np.asarray(_basis(self.region.unit(points), self.degree) @ self.inverse)


def interpolant(region: Ellipsoid, degree: int) -> Interpolant:
    """The interpolant on the first `terms` nodes of the region."""
    return Interpolant(region, degree, np.linalg.inv(_basis(unit_nodes(len(region.centre), degree), degree)))


def unit_nodes(dims: int, degree: int) -> Array:
    """Discrete Leja points of the unit ball, the same at the start whatever the degree asked for."""
    largest = max(degree, LARGEST.get(dims, 4))
    key = (dims, largest)
    if key not in _NODES:
        points = _candidates(dims)
        _, swaps, _ = lapack.dgetrf(_basis(points, largest))
        order = np.arange(len(points))
        for k, swap in enumerate(swaps.tolist()):
            order[[k, swap]] = order[[swap, k]]
        _NODES[key] = points[order[: terms(dims, largest)]]
    return _NODES[key][: terms(dims, degree)]


_NODES: dict[tuple[int, int], Array] = {}  # pure function of the key: remembered, never changed


def _candidates(dims: int) -> Array:
    """Quasi-random points of the unit ball, denser towards its surface as Chebyshev's are towards the ends."""
    if dims == 1:
        return np.cos(np.pi * np.arange(CANDIDATES // 8 + 1) / (CANDIDATES // 8))[:, None]
    uniform = np.clip(qmc.Sobol(dims + 1, rng=np.random.default_rng(0)).random(CANDIDATES), 1e-9, 1 - 1e-9)
    direction = ndtri(uniform[:, :dims])
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    radius = np.sin(np.pi / 2 * uniform[:, -1] ** (1 / dims))
    radius[::SURFACE] = 1.0
    return np.asarray(direction * radius[:, None])


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
