"""How heavy the tail of importance weights is.

ArviZ tells the same as part of smoothing all weights; fits in their thousands want the shape alone, in a quarter of
the time. A test holds both equal.
"""

from __future__ import annotations

import math

import numpy as np

from bayeshlm.arrays import Array

FEWEST = 100  # weights below which nothing can be said about a tail
PRIOR_SHAPE, PRIOR_SIZE = 0.5, 10  # the shape's weak prior: as if ten tail weights had said 0.5
PRIOR_SCALE = 3  # of the grid's prior, in first quartiles


def pareto_k(log_weight: Array) -> float:
    """Shape of the generalised Pareto distribution fitted to the largest importance weights.

    Parameters
    ----------
    log_weight : (n,)
        Those that are not finite do not count.

    Returns
    -------
    float
        Above 0.7 importance sampling is unreliable; inf where the shape cannot be fitted, so that it never passes a
        check; -inf where all of the tail's weights are equal, which is no tail.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao, Gabry (2024), JMLR 25(72), section 3 and appendix G for the size of the tail and the
    prior; Zhang and Stephens (2009), Technometrics 51(3), for the fit: the posterior mean of sigma / k over a grid.
    """
    finite = log_weight[np.isfinite(log_weight)]
    n = len(finite)
    if n < FEWEST:
        return math.inf
    size = math.floor(3 * math.sqrt(n)) if n > 225 else n // 5
    largest = np.sort(np.partition(finite, n - size - 1)[n - size - 1 :])
    relative = np.exp(largest - largest[-1])
    if largest[1] == largest[-1]:
        return -math.inf
    excess = relative[1:] - relative[0]
    quartile = excess[int(size / 4 + 0.5) - 1]
    if not quartile > excess[0]:
        return math.inf
    points = 30 + int(math.sqrt(size))
    with np.errstate(all="ignore"):  # excesses next to 0, and the shape that cannot be fitted to them, end as NaN
        b = (1 - np.sqrt(points / (np.arange(1, points + 1) - 0.5))) / (PRIOR_SCALE * quartile) + 1 / excess[-1]
        k = np.log1p(-b[:, None] * excess).mean(axis=1)
        profile = size * (np.log(-b / k) - k - 1)
        weight = np.exp(profile - profile.max())
        shape = np.log1p(-(b @ weight / weight.sum()) * excess).mean()
        shape = (size * shape + PRIOR_SIZE * PRIOR_SHAPE) / (size + PRIOR_SIZE)
    return float(shape) if math.isfinite(shape) else math.inf
