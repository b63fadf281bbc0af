"""Are these numbers uniform? A simultaneous test of their empirical distribution, with exact p-values.

Saeilynoja, Buerkner, Vehtari (2022), Statistics and Computing 32(32), section 2: of N numbers in (0, 1) the count below
z is Binomial(N, z) where they are uniform. The test takes the smallest two-sided tail area over a grid of z; its law
under uniformity they find by simulation or by a recursion over the grid. Here the recursion is that of Moscovich and
Nadler (2017), Statistics and Probability Letters 123, section 2: counts of a Poisson process instead of the binomial's,
conditioned on N at the end, so that every step is the same convolution.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrc, gammaln

from bayeshlm.arrays import Array

MOST_POINTS = 100  # of the grid
ROUNDING = 1e-9  # tail areas this near are the same one
NEGLIGIBLE = 1e-20  # share of a convolution's kernel
CANCELLED = 1e-11  # below it a probability's complement has lost its digits


def simultaneous_p_value(values: Array, points: int = MOST_POINTS) -> float:
    """Probability, for uniform numbers, of an empirical distribution as extreme somewhere as this one.

    Parameters
    ----------
    values : (N,) in [0, 1]
    points : int
        The grid is 1/points, ..., (points - 1)/points.
    """
    count = len(values)
    grid = np.arange(1, points) / points
    below = np.searchsorted(np.sort(values), grid, side="right")
    lower, upper = _tails(below, count, grid)
    return p_value_of(float(np.minimum(lower, upper).min()), count, points)


def p_value_of(tail: float, count: int, points: int) -> float:
    """p-value of a smallest one-sided tail area among the grid's."""
    limit = tail * (1 + ROUNDING)
    counts = np.arange(count + 1)
    inside = _smaller_tail(count, points) > limit
    rate = count / points
    kernel = _poisson(counts, rate)
    kernel = kernel[: int(np.flatnonzero(kernel > NEGLIGIBLE * kernel.max())[-1]) + 1]
    state = np.zeros(count + 1)
    state[0] = 1.0
    for allowed in inside:
        if not allowed.any():
            return 1.0
        low, high = np.flatnonzero(allowed)[[0, -1]]
        first, last = np.flatnonzero(state)[[0, -1]]
        spread = np.convolve(state[first : last + 1], kernel)
        state = np.zeros(count + 1)
        stop = min(first + len(spread), high + 1)
        if stop <= low:
            return 1.0
        state[max(first, low) : stop] = spread[max(low - first, 0) : stop - first]
        if not state.any():
            return 1.0
    last_step = _poisson(count - counts, rate)
    within = float(state @ last_step / _poisson(np.array([count]), float(count))[0])
    if 1.0 - within < CANCELLED:  # then the sum of the single areas bounds it from above
        return min(2.0 * tail * (points - 1), 1.0)
    return min(max(1.0 - within, 0.0), 1.0)


@functools.lru_cache(maxsize=4)
def _smaller_tail(count: int, points: int) -> Array:
    """Smaller tail area of every count at every point of the grid, (points - 1, count + 1)."""
    grid = np.arange(1, points) / points
    return np.minimum(*_tails(np.arange(count + 1)[None, :], count, grid[:, None]))


def _tails(below: NDArray[np.int64], count: int, grid: Array) -> tuple[Array, Array]:
    """(P(X <= below), P(X >= below)) of X ~ Binomial(count, grid)."""
    upper = np.where(below > 0, bdtrc(np.maximum(below - 1, 0).astype(float), count, grid), 1.0)
    return bdtr(np.minimum(below, count).astype(float), count, grid), upper


def _poisson(k: NDArray[np.int64], rate: float) -> Array:
    return np.asarray(np.exp(k * np.log(rate) - rate - gammaln(k + 1.0)))


def holm(p_values: Array) -> Array:
    """p-values adjusted for their number, however they depend on each other.

    References
    ----------
    Holm (1979), Scandinavian J. of Statistics 6(2).
    """
    order = np.argsort(p_values)
    scaled = np.maximum.accumulate(p_values[order] * (len(p_values) - np.arange(len(p_values))))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(scaled, 1.0)
    return adjusted


def band(count: int, points: int, error: float) -> tuple[Array, Array, Array]:
    """(grid, lowest, highest share below each point of it) that `count` uniform numbers keep to, all at once.

    They leave the band with probability at most `error`: exactly where `simultaneous_p_value` is below it.
    """
    grid = np.arange(1, points) / points
    low, high = -60.0, 0.0  # log10 of the tail area: the p-value grows with it
    for _ in range(30):
        middle = (low + high) / 2
        if p_value_of(10.0**middle, count, points) < error:
            low = middle
        else:
            high = middle
    inside = _smaller_tail(count, points) > 10.0**low
    lowest = inside.argmax(axis=1)
    highest = count - inside[:, ::-1].argmax(axis=1)
    return grid, lowest / count, highest / count
