"""Numbers that are compiled in: Taylor coefficients of log Phi, nodes of Hermite rules.

The table's centres are 1/8 apart, so that |t - centre| <= 1/16: the first term left out is below 1e-14.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from scipy.special import log_ndtr

from bayeshlm.arrays import Array

PER_UNIT, TERMS = 8, 8
PHI_LOW, PHI_HIGH = -40.0, 9.0  # below by its asymptotic series, above 0 to 1e-19


@functools.cache
def log_phi_table() -> Array:
    """(centres, TERMS) Taylor coefficients of log Phi(t) about -40, -39.875, ..., 9.

    Its derivative r obeys r' = -r (t + r), from which the coefficients follow one by one.
    """
    centres = np.arange(PHI_LOW * PER_UNIT, PHI_HIGH * PER_UNIT + 1) / PER_UNIT
    value = log_ndtr(centres)
    ratio = [np.exp(-0.5 * centres**2 - 0.5 * math.log(2 * math.pi) - value)]
    for k in range(TERMS - 2):
        products = sum(ratio[i] * ratio[k - i] for i in range(k + 1))
        before = ratio[k - 1] if k else np.zeros(len(centres))
        ratio.append(-(centres * ratio[k] + before + products) / (k + 1))
    columns = [value, *(r / (k + 1) for k, r in enumerate(ratio))]
    return np.ascontiguousarray(np.stack(columns, axis=1))


@functools.cache
def hermite_rule(nodes: int) -> tuple[Array, Array]:
    """(nodes, weights) with sum w f(t) = E f(Z) of a standard normal Z for polynomials of degree 2 nodes - 1."""
    t, w = np.polynomial.hermite_e.hermegauss(nodes)
    return t, w / w.sum()
