"""Exact means and standard deviations of effects, where draws of them would not fit in memory.

Given theta the effects are Gaussian with known moments; over the draws of theta these are averaged (Rao-Blackwell), so
that the Monte Carlo error is that of theta alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bayeshlm.arrays import Array
from bayeshlm.engines import linalg
from bayeshlm.engines.exact.density.nested import Marginal
from bayeshlm.engines.exact.hyperparameters import constrain

WORK = 2e7  # groups times thetas
FEWEST = 200  # thetas, however many groups
NUMBERS = 2**21  # per working array: 16 MB


@dataclass(frozen=True)
class Moments:
    """Mean and sd (k, groups) of a level's effects, and the largest Monte Carlo error of a mean in such sds."""

    mean: Array
    sd: Array
    error: float


def thinned(draws: int, groups: int) -> NDArray[np.int64]:
    """Which draws of theta are averaged over."""
    count = int(min(draws, max(FEWEST, WORK // groups)))
    return np.unique(np.linspace(0, draws - 1, count).astype(np.int64))


def effect_moments(marginal: Marginal, theta: Array, first: int) -> dict[int, Moments]:
    """Moments of the effects of the levels from index `first` on (outermost first), averaged over theta (B, d)."""
    problem = marginal.problem
    wanted = range(first, len(problem.levels))
    sums = {level: _Sums() for level in wanted}
    largest = max(problem.levels[level].groups for level in wanted)
    step = int(np.clip(NUMBERS // (largest * problem.width), 1, marginal.chunk))
    for start in range(0, len(theta), step):
        sigma, roots, _, _ = constrain(problem, theta[start : start + step])
        for level, mean, variance in _given_theta(marginal, sigma, roots):
            if level >= first:
                sums[level].add(mean, variance)
    return {level: total.moments() for level, total in sums.items()}


class _Sums:
    """Running sums of conditional means about the first of them, of their squares, and of conditional variances."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, mean: Array, variance: Array) -> None:
        """`mean`, `variance` (k, groups, B)."""
        if self.count == 0:
            self.origin = mean[:, :, 0].copy()
            self.first, self.second, self.within = (np.zeros_like(self.origin) for _ in range(3))
        off = mean - self.origin[:, :, None]
        self.first += off.sum(axis=2)
        self.second += np.einsum("kgb,kgb->kg", off, off)
        self.within += variance.sum(axis=2)
        self.count += mean.shape[2]

    def moments(self) -> Moments:
        shift = self.first / self.count
        between = np.maximum(self.second / self.count - shift**2, 0.0)
        sd = np.sqrt(between + self.within / self.count)
        share = np.sqrt(between) / np.where(sd > 0, sd, 1.0)
        return Moments(self.origin + shift, sd, float(share.max()) / np.sqrt(self.count))


def _given_theta(marginal: Marginal, sigma: Array, roots: list[Array]) -> list[tuple[int, Array, Array]]:
    """(level, mean (k, groups, B), variance (k, groups, B)) of every level, outermost first.

    The coefficients w of the columns for a group (common effects and its ancestors') are carried down as a mean and a
    covariance C: u = A (r_y - R_w w) + e with e ~ N(0, L D^-1 L'), so that Var u = L D^-1 L' + A R_w C R_w' A', and
    w + centring u is what the level below starts from.
    """
    problem = marginal.problem
    sweep = marginal.sweep(sigma, roots, keep=True)
    batch, width = len(sigma), problem.width - 1
    x = list(problem.common)
    mean, covariance = np.zeros((width, 1, batch)), np.zeros((width, width, 1, batch))
    if x:
        inverse = np.linalg.inv(sweep.information)
        mean[x, 0] = np.einsum("bij,bj->ib", inverse, sweep.score)
        covariance[np.ix_(x, x)] = np.moveaxis(inverse, 0, 2)[:, :, None]
    out = []
    for index, level in enumerate(problem.levels):
        leaf = index == len(problem.levels) - 1 and problem.split is None
        rows = marginal.leaf.rows[..., None] if leaf else sweep.uppers[index].rows
        factor = marginal.leaf.factor[..., None] if leaf else sweep.uppers[index].factor
        gain, noise = _gain(factor, roots[index], sigma**-2 if leaf else np.ones(batch))
        mean, covariance = mean[:, level.parent], covariance[:, :, level.parent]
        residual = rows[:, -1] - np.sum(rows[:, :-1] * mean[None], axis=1)
        effect = np.sum(gain * residual[None], axis=1)  # (k, groups, B)
        reach = np.einsum("iagb,acgb->icgb", gain, np.broadcast_to(rows[:, :-1], (*rows.shape[:1], *mean.shape)))
        carried = np.einsum("icgb,cdgb->idgb", reach, covariance)
        variance = np.einsum("iigb->igb", noise) + np.einsum("idgb,idgb->igb", carried, reach)
        out.append((index, effect, variance))
        if index == len(problem.levels) - 1:
            break
        places = np.zeros((width, len(level.columns)))
        for i, column in enumerate(level.columns):
            places[column] += level.centring[i]
        mean = mean + np.einsum("ci,igb->cgb", places, effect)
        turned = np.einsum("ci,idgb->cdgb", places, carried)
        inner = np.einsum("idgb,jdgb->ijgb", carried, reach) + noise
        covariance = covariance - turned - np.swapaxes(turned, 0, 1)
        covariance = covariance + np.einsum("ci,ijgb,dj->cdgb", places, inner, places)
    return out


def _gain(factor: Array, root: Array, precision: Array) -> tuple[Array, Array]:
    """A = L D^-1 L'R' / sigma^2 and L D^-1 L', both (k, k, groups, B), D = I + L'R'R L / sigma^2."""
    scaled = linalg.times_lower(factor, root)
    inverse, _ = linalg.gram_inverse(np.swapaxes(scaled, 0, 1) * np.sqrt(precision), 1.0)
    left = np.einsum("iab,ajgb->ijgb", root, inverse)
    return np.einsum("iagb,jagb->ijgb", left, scaled) * precision, np.einsum("iagb,jab->ijgb", left, root)
