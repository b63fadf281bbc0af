"""Modes of a low-dimensional log density: where to start a proposal."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from scipy.stats import qmc

from bayeshlm.arrays import Array

LogDensity = Callable[[Array], Array]  # (n, d) -> (n,)
SCAN = 9  # 2**SCAN points scan the box for a start
STARTS, APART = 3, 1.0  # starts of the mode search, and how far they keep from each other
ARRIVED = 0.25  # squared distance from a known mode, in its standard deviations, at which a climb is called off
NEAR, NEGLIGIBLE = 0.1, 12.0  # modes nearer than this are one; lower by this in log density, none
MAX_NEWTON, CONVERGED, MAX_STEP = 60, 3e-3, 1.5
LENGTHS = np.array([1.0, 8.0, 4.0, 2.0, 0.5, 0.25, 0.1, 0.03, 0.01, 0.001])
ASIDE = (0.15, 0.85)  # where in the box a parameter of the highest mode is moved to, to look for others
FEW_AXES, APPROACH = 10, 60  # axes beyond which first differences lead the way; their steps
CLIMBING = 1000  # evaluations of all climbs at a step
WIDENINGS = 5  # of the box, by half its width on a side
NEAR_ENOUGH = 0.1  # gain in log density of the last step towards a mode that only has to be near
NEWTON_STEP, WIDE_STEP = 1e-2, 0.05  # of the differences; the wide one sees the shape of a peak rather than its tip
NEAR_SHARE, WIDE_SHARE = 0.1, 0.5  # the most they may be of a sharp peak's width
TINY, OVER_NOISE, LENGTHENINGS = 1e-9, 20.0, 8  # see `_shapes`
CURVATURE = (1e-2, 1e12)  # eigenvalues of the negative Hessian are held within


def find_modes(
    log_density: LogDensity, low: Array, high: Array, rng: np.random.Generator, given: Array | None = None
) -> list[tuple[float, Array, Array]]:
    """Modes as (log density, mode (d,), negative Hessian (d, d)), the highest first.

    Where no starts are `given` (n, d), a quasi-random scan of the box gives them: its best point and the best ones far
    from it. Newton steps follow, with all differences of an iteration in one batch, which is what makes them quicker
    here than a quasi-Newton search. Modes of one posterior mostly differ in which standard deviations are near 0 or
    large, so that each parameter of the highest mode is then moved towards either end, to see where that leads. The
    box is widened where a climb ends at its edge.
    """
    starts = list(given) if given is not None else _scan(log_density, low, high, rng)
    climb = _climb_all if len(low) <= FEW_AXES else _climb_in_turn
    modes = climb(log_density, starts[: _affordable(len(low))], low, high, [])
    for _ in range(WIDENINGS):
        edges = np.array([[mode <= low, mode >= high] for _, mode, _ in modes])  # (modes, 2, d)
        if not edges.any():
            break
        half = (high - low) / 2
        low, high = low - half * edges[:, 0].any(axis=0), high + half * edges[:, 1].any(axis=0)
        at_edge = edges.any(axis=(1, 2))
        inside = [mode for mode, edge in zip(modes, at_edge, strict=True) if not edge]
        starts = [mode for (_, mode, _), edge in zip(modes, at_edge, strict=True) if edge]
        modes = _climb_all(log_density, starts, low, high, inside)
    if given is None:
        best = max(modes, key=lambda m: m[0])[1]
        aside = np.repeat(best[None], 2 * len(best), axis=0)
        aside[np.arange(2 * len(best)), np.tile(np.arange(len(best)), 2)] = np.concatenate(
            [low + share * (high - low) for share in ASIDE]
        )
        values = log_density(aside)
        highest = np.argsort(-values)[: _affordable(len(best))]
        modes = climb(log_density, list(aside[highest[np.isfinite(values[highest])]]), low, high, modes)
    return sorted(modes, key=lambda m: -m[0])


def _climb_in_turn(
    log_density: LogDensity, starts: Sequence[Array], low: Array, high: Array, modes: list[tuple[float, Array, Array]]
) -> list[tuple[float, Array, Array]]:
    """`_climb_all` where second differences are dear: first ones lead close to a mode, and known modes end a climb."""
    for start in starts:
        modes = _climb_all(log_density, [_approach(log_density, start, low, high)], low, high, modes)
    return modes


def _affordable(d: int) -> int:
    """How many climbs at a time d axes allow: a climb's second differences take d^2 evaluations a step."""
    return max(1, CLIMBING // len(_pattern(d)))


def _approach(log_density: LogDensity, start: Array, low: Array, high: Array) -> Array:
    """A point near a mode by first differences (L-BFGS-B): many axes make second ones far from it too dear."""
    d = len(start)
    steps = NEWTON_STEP * np.concatenate([np.zeros((1, d)), np.eye(d), -np.eye(d)])

    def downhill(x: Array) -> tuple[float, Array]:
        f = log_density(x + steps)
        f = np.where(np.isfinite(f), f, f[0] - 50.0 if np.isfinite(f[0]) else -1e300)
        return -float(f[0]), (f[d + 1 :] - f[1 : d + 1]) / (2 * NEWTON_STEP)

    bounds = list(zip(low.tolist(), high.tolist(), strict=True))
    found: Any = optimize.minimize(
        downhill, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": APPROACH, "gtol": NEAR_ENOUGH}
    )
    return np.asarray(found.x)


def _climb_all(
    log_density: LogDensity, starts: Sequence[Array], low: Array, high: Array, modes: list[tuple[float, Array, Array]]
) -> list[tuple[float, Array, Array]]:
    """The modes, and those that damped Newton ascents within the box, from all starts at once, add to them.

    A climb that comes within a standard deviation of a mode, or of where another climb ended, is called off: it would
    end there, or at a mode that the same component of the proposal covers.
    """
    if not len(starts):
        return modes
    x = np.clip(np.array(starts), low, high)
    d = x.shape[1]
    steps = np.full(x.shape, NEWTON_STEP)
    values, gradients, curvatures = _derivatives(log_density, x, steps)
    climbing, ended = np.arange(len(x)), list[int]()
    known = [(mode, root_of(curvature)) for _, mode, curvature in modes]
    for _ in range(MAX_NEWTON):
        near = [any(np.sum((root.T @ (x[k] - mode)) ** 2) < ARRIVED for mode, root in known) for k in climbing]
        climbing = climbing[~np.array(near, dtype=bool)]
        if not len(climbing):
            break
        steps[climbing] = np.minimum(NEWTON_STEP, NEAR_SHARE * _widths(curvatures[climbing]))
        direction = _newton_step(gradients[climbing], curvatures[climbing])
        trials = np.clip(x[climbing][:, None] + LENGTHS[:, None] * direction[:, None], low, high)
        # The full step mostly is the best one: its derivatives come in the same batch.
        ahead = trials[:, 0, None] + _pattern(d) * steps[climbing][:, None]
        reached = log_density(np.concatenate([trials[:, 1:].reshape(-1, d), ahead.reshape(-1, d)]))
        shorter, at_full = np.split(reached, [len(climbing) * (len(LENGTHS) - 1)])
        at_full = at_full.reshape(len(climbing), -1)
        reached = np.concatenate([at_full[:, :1], shorter.reshape(len(climbing), -1)], axis=1)
        best = reached.argmax(axis=1)
        rows = np.arange(len(climbing))
        up = reached[rows, best] > values[climbing] + CONVERGED
        for k in climbing[~up]:
            ended.append(k)
            known.append((x[k].copy(), root_of(curvatures[k])))
        x[climbing[up]] = trials[rows[up], best[up]]
        full, less = up & (best == 0), climbing[up & (best > 0)]
        here = climbing[full]
        values[here], gradients[here], curvatures[here] = _differences(at_full[full], steps[here])
        if len(less):
            values[less], gradients[less], curvatures[less] = _derivatives(log_density, x[less], steps[less])
        climbing = climbing[up]
    ended = [*ended, *climbing]
    if not ended:
        return modes
    tops = x[ended]
    values, curvatures = _shapes(log_density, tops, curvatures[ended])
    found = list(modes)
    for value, mode, curvature in zip(values.tolist(), tops, curvatures, strict=True):
        same = any(np.sum((root_of(c).T @ (mode - other)) ** 2) < NEAR for _, other, c in found)
        if not same and (not found or value > max(m[0] for m in found) - NEGLIGIBLE):
            found.append((value, mode, curvature))
    return found


def _shapes(log_density: LogDensity, tops: Array, curvatures: Array) -> tuple[Array, Array]:
    """Values (m,) and negative Hessians (m, d, d) at modes, by steps wide enough to see more than the tip or rounding.

    Rounding in a density of size 1e8 looks like the sharpest of peaks to a short step. Its size is what the density
    changes by over steps of 1e-9; steps over which it changes little more are lengthened.
    """
    wide = np.minimum(WIDE_STEP, WIDE_SHARE * _widths(curvatures))
    d = tops.shape[1]
    near = tops[:, None] + TINY * np.linspace(-1, 1, 5)[:, None]
    points = np.concatenate([tops[:, None] + _pattern(d) * wide[:, None], near], axis=1)
    found = log_density(points.reshape(-1, d)).reshape(len(tops), -1)
    noise = np.ptp(found[:, -5:], axis=1, keepdims=True)
    noise = np.where(np.isfinite(noise), noise, 0.0)
    values, _, curvatures = _differences(found[:, :-5], wide)
    for last in (False, True):  # the first pass may have seen no more than the tip of a peak
        if last:
            values, _, curvatures = _derivatives(log_density, tops, wide)
        for _ in range(LENGTHENINGS):
            unseen = (np.abs(np.einsum("mii->mi", curvatures)) * wide**2 < OVER_NOISE * noise) & (wide < 1.0)
            if not unseen.any():
                break
            wide = np.where(unseen, np.minimum(4.0 * wide, 1.0), wide)
            values, _, curvatures = _derivatives(log_density, tops, wide)
        wide = np.maximum(np.minimum(WIDE_STEP, WIDE_SHARE * _widths(curvatures)), np.where(noise > 0, 0.5 * wide, 0.0))
    return values, curvatures


def _scan(log_density: LogDensity, low: Array, high: Array, rng: np.random.Generator) -> list[Array]:
    scan = low + (high - low) * qmc.Sobol(len(low), rng=rng).random_base2(SCAN)
    values = log_density(scan)
    if not np.isfinite(values).any():
        raise FloatingPointError("the density is 0 everywhere it was tried")
    starts: list[Array] = []
    for k in np.argsort(-values):
        if np.isfinite(values[k]) and all(np.linalg.norm(scan[k] - other) > APART for other in starts):
            starts.append(scan[k])
        if len(starts) == STARTS:
            break
    return starts


def near_mode(log_density: LogDensity, start: Array, low: Array, high: Array) -> tuple[float, Array, Array]:
    """A point near the mode, from a good start such as the truth of a simulated study, as in `find_modes`.

    Near is enough for a proposal, and one batch an iteration serves the step and the shape. Steps that lead down are
    halved.
    """
    x = np.clip(start, low, high)[None]
    steps = np.full(x.shape, WIDE_STEP)
    value, gradient, curvature = _derivatives(log_density, x, steps)
    step = _newton_step(gradient, curvature)
    for _ in range(MAX_NEWTON):
        trial = np.clip(x + step, low, high)
        found = _derivatives(log_density, trial, steps)
        gain = float(found[0][0] - value[0])
        if not gain > 0:
            step = step / 2
        if gain > 0:
            x, (value, gradient, curvature) = trial, found
            step = _newton_step(gradient, curvature)
        if abs(gain) < NEAR_ENOUGH:
            break
    return float(value[0]), x[0], curvature[0]


def _newton_step(gradient: Array, curvature: Array) -> Array:
    """Steps (m, d) from gradients (m, d) and negative Hessians (m, d, d).

    Absolute eigenvalues lead away from saddles (Dauphin et al. 2014, NeurIPS 27), a bounded step stays local.
    """
    eigenvalues, vectors = np.linalg.eigh(curvature)
    along = np.einsum("mji,mj->mi", vectors, gradient) / np.maximum(np.abs(eigenvalues), 1.0)
    direction = np.einsum("mij,mj->mi", vectors, along)
    length = np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-300)
    return np.asarray(direction * np.minimum(1.0, MAX_STEP / length))


def root_of(curvature: Array) -> Array:
    """Lower root of a negative Hessian, its eigenvalues held within CURVATURE."""
    values, vectors = np.linalg.eigh(curvature)
    return np.linalg.cholesky((vectors * np.clip(values, *CURVATURE)) @ vectors.T)


def _widths(curvature: Array) -> Array:
    """Conditional standard deviations (m, d) of peaks with these negative Hessians (m, d, d)."""
    return np.asarray(1.0 / np.sqrt(np.maximum(np.einsum("mii->mi", curvature), 1e-12)))


def _derivatives(log_density: LogDensity, x: Array, steps: Array) -> tuple[Array, Array, Array]:
    """Values (m,), gradients (m, d), negative Hessians (m, d, d) by central differences at x (m, d), in one batch."""
    points = x[:, None] + _pattern(x.shape[1]) * steps[:, None]  # (m, differences, d)
    return _differences(log_density(points.reshape(-1, x.shape[1])).reshape(len(x), -1), steps)


@functools.cache
def _pattern(d: int) -> Array:
    """Where `_differences` needs the density, in steps: (1 + 2 d + d (d - 1), d)."""
    unit = np.eye(d)
    i, j = _pairs(d)
    return np.concatenate([np.zeros((1, d)), unit, -unit, unit[i] + unit[j], -unit[i] - unit[j]])


@functools.cache
def _pairs(d: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.triu_indices(d, 1)


def _differences(f: Array, steps: Array) -> tuple[Array, Array, Array]:
    """Values, gradients, negative Hessians from densities (m, differences) at `_pattern` times steps (m, d)."""
    count, d = steps.shape
    f = np.where(np.isfinite(f), f, f[:, :1] - 50.0)
    middle, up, down = f[:, :1], f[:, 1 : d + 1], f[:, d + 1 : 2 * d + 1]
    hessian = np.zeros((count, d, d))
    hessian[:, np.arange(d), np.arange(d)] = (up - 2 * middle + down) / steps**2
    i, j = _pairs(d)
    both_up, both_down = np.split(f[:, 2 * d + 1 :], 2, axis=1)
    single = up[:, i] + up[:, j] + down[:, i] + down[:, j] - 2 * middle
    hessian[:, i, j] = hessian[:, j, i] = (both_up + both_down - single) / (2 * steps[:, i] * steps[:, j])
    return middle[:, 0], (up - down) / (2 * steps), -hessian
