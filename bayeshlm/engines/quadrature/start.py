"""Where the posterior of phi is, and coordinates in which it is about standard normal."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.engines.exact.hyperparameters import LIMIT, LOG_RANGE, interval, to_score
from bayeshlm.engines.exact.problem import Scale
from bayeshlm.engines.quadrature.density import Density
from bayeshlm.engines.sampling.modes import near_mode, root_of

BOX = 12.0  # standard deviations about the mode in which modes are looked for
FAR = 50.0  # units of a column within which a coefficient's mode is looked for
ASIDE = (0.15, 0.85)  # where in its range a standard deviation is moved to, to look for other modes
PASSES = 3
SETTLED = 0.5  # standard deviations that the mode moved by in the last pass


@dataclass(frozen=True, eq=False)
class Whitened:
    """phi = middle + z @ turn.T with z about standard normal; `starts` (n, d) are values of z to climb from."""

    middle: Array
    turn: Array
    starts: Array

    def phi(self, z: Array) -> Array:
        return self.middle + z @ self.turn.T

    @property
    def log_volume(self) -> float:
        return float(np.linalg.slogdet(self.turn)[1])


def find_start(density: Density, mean: float) -> Whitened:
    """Climb to the mode of phi; `mean` is the linear predictor of an average row.

    Raises FloatingPointError where the density is 0 at every start.
    """
    problem = density.problem
    d, p = problem.size, problem.common
    low, high = np.full(d, -FAR), np.full(d, FAR)
    ranges = [_range(scale) for scale in (*problem.extra, *problem.scales)]
    low[p:], high[p:] = [r[0] for r in ranges], [r[1] for r in ranges]
    columns = [column for block, _ in problem.blocks for column in block.columns]
    start = np.zeros(d)
    if 0 in columns:
        at = columns.index(0)
        start[at] = mean - problem.coordinates.shift[at]
        low[at], high[at] = start[at] - FAR, start[at] + FAR
    start = np.clip(start, low, high)
    if not np.isfinite(density.log_density(start[None])[0]):
        raise FloatingPointError("the density is 0 at the start")
    density.begin_at(start)
    middle, turn = start, np.eye(d)
    for _ in range(PASSES):
        z_low, z_high = (np.full(d, -BOX), np.full(d, BOX)) if middle is not start else (low - start, high - start)

        def around(z: Array, middle: Array = middle, turn: Array = turn) -> Array:
            return density.log_density(middle + z @ turn.T)

        _, moved, curvature = near_mode(around, np.zeros(d), z_low, z_high)
        middle = middle + turn @ moved
        turn = turn @ np.linalg.inv(root_of(curvature)).T
        density.begin_at(middle)
        if np.linalg.norm(moved) < SETTLED:
            break
    inverse = np.linalg.inv(turn)
    starts = [np.zeros(d)]
    first = p + len(problem.extra)
    for k in range(first, d):
        for share in ASIDE:
            other = middle.copy()
            other[k] = low[k] + share * (high[k] - low[k])
            starts.append(inverse @ (other - middle))
    return Whitened(middle, turn, np.array(starts))


def _range(scale: Scale) -> tuple[float, float]:
    """Scores between which a parameter's mode is looked for."""
    if math.isfinite(interval(scale.prior)[1]):
        return -4.0, 4.0
    ends = [float(to_score(scale, interval(scale.prior)[0] + scale.size * math.exp(e))) for e in LOG_RANGE]
    return max(ends[0], -LIMIT), min(ends[1], LIMIT)
