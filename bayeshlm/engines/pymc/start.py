"""Where chains begin: about the mode given guesses of the scale parameters, as far out as the posterior is wide.

Far from it a log link overflows, and what a walk learns there of its step and metric is wrong for the posterior. The
mode of coefficients and effects is found by quasi-Newton steps with the scale parameters held: their joint mode would
not do, as the density of a hierarchical model has a spike where a standard deviation is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import logit, logsumexp

from bayeshlm.arrays import Array
from bayeshlm.data.layout import Level
from bayeshlm.data.statistics import Statistics
from bayeshlm.engines.pymc.data import Names, column_scales
from bayeshlm.engines.pymc.observations import Observations
from bayeshlm.engines.pymc.parameterization import Plan
from bayeshlm.engines.pymc.priors import LOCATED
from bayeshlm.errors import EngineError

if TYPE_CHECKING:
    import pymc as pm

Density = Callable[[Array], tuple[float, Array]]  # of a point on the unconstrained scale: (log density, gradient)
STEPS = 500  # of the optimiser: where it has not arrived by then, it is near enough to start from
TRIALS = 20  # starting points looked at to see how far from the mode they may be
FURTHEST = 30  # halvings of that distance
BULK = (0.05, 0.95)  # quantiles of a prior that a guess stays between
PRIOR_DRAWS = 2001
PROBE = 1e-4  # of the spread: step of the differences that curvature is taken from
ROUNDS = 3  # of curvature and optimisation
CLOSE = 0.01  # of a standard deviation: gradient at which the mode is reached
GUESS = 0.5  # of the groups' standard deviation, relative to the response's where effects add to it
WORST = 1e300  # in place of an infinite density: an optimiser computes with it


@dataclass(frozen=True, eq=False)
class Slots:
    """The unconstrained coordinates: free variables of a model in their order, each with its place and shape."""

    places: dict[str, slice]
    shapes: dict[str, tuple[int, ...]]
    forward: Callable[..., list[Any]]  # values of all free variables -> the same on the unconstrained scale

    @property
    def size(self) -> int:
        return max((place.stop for place in self.places.values()), default=0)


@dataclass(frozen=True, eq=False)
class Start:
    """Starting points: uniform within `spread` of `centre`, coordinate by coordinate."""

    centre: Array
    spread: Array

    def __call__(self, seed: Any) -> Array:
        return self.centre + self.spread * np.random.default_rng(seed).uniform(-1.0, 1.0, len(self.centre))


def slots_of(model: pm.Model) -> Slots:
    """Compiled with a model: where its free variables lie in the vector that is sampled."""
    import pytensor

    free = model.free_RVs
    inputs = [variable.type(name=variable.name) for variable in free]
    moved = []
    for variable, value in zip(free, inputs, strict=True):
        transform = model.rvs_to_transforms[variable]
        moved.append(value if transform is None else transform.forward(value, *variable.owner.inputs))
    forward = pytensor.function(inputs, moved, mode="FAST_COMPILE", on_unused_input="ignore")
    values = model.initial_point()
    places, shapes, at = {}, {}, 0
    for variable in free:
        value = np.asarray(values[model.rvs_to_values[variable].name])
        places[variable.name], shapes[variable.name] = slice(at, at + value.size), value.shape
        at += value.size
    return Slots(places, shapes, forward)


def find_start(
    slots: Slots, statistics: Statistics, observations: Observations, plans: tuple[Plan, ...], density: Density
) -> Start:
    """Starting points for these data.

    Raises
    ------
    EngineError
        Where the density has no finite value at the guesses that everything starts from.
    """
    with np.errstate(all="ignore"):  # what overflows on the way is no place to start from, and no more than that
        return _start(slots, statistics, observations, plans, density)


def _start(
    slots: Slots, statistics: Statistics, observations: Observations, plans: tuple[Plan, ...], density: Density
) -> Start:
    guesses, held = _guesses(slots, statistics, observations, plans)
    x = np.zeros(slots.size)
    for place, value in zip(slots.places.values(), slots.forward(*guesses.values()), strict=True):
        x[place] = np.nan_to_num(np.ravel(value))
    top, gradient = density(x)
    if not (math.isfinite(top) and np.isfinite(gradient).all()):
        raise EngineError(
            "The density of the model has no finite value where NUTS starts: responses, offsets or weights are too "
            "large or too small for its numbers. Rescale the response, or tighten vague priors."
        )
    free = np.ones(slots.size, dtype=bool)
    for name in held:
        free[slots.places[name]] = False
    spread = np.ones(slots.size)
    for _ in range(ROUNDS):  # the optimiser steps in units of the spread, which is another one where it arrives
        spread = _spread(slots, density, x, spread, free)
        x = _mode(density, x, spread, free)
    return Start(x, spread * _reach(density, x, spread))


def _mode(density: Density, x: Array, spread: Array, free: Array) -> Array:
    """The point nearby whose free coordinates have the highest density, the others held."""
    if not free.any():
        return x

    def at(steps: Array) -> Array:
        point = x.copy()
        point[free] += spread[free] * steps
        return point

    def negative(steps: Any) -> tuple[float, Array]:
        value, gradient = density(at(steps))
        if not (math.isfinite(value) and np.isfinite(gradient).all()):
            return WORST, np.zeros(len(steps))
        return -value, -gradient[free] * spread[free]

    options: Any = {"maxiter": STEPS, "maxcor": 20, "gtol": CLOSE, "ftol": float(np.finfo(float).eps)}
    found = minimize(negative, np.zeros(int(free.sum())), jac=True, method="L-BFGS-B", options=options)
    return at(found.x) if found.fun < WORST else x


def _spread(slots: Slots, density: Density, x: Array, before: Array, free: Array) -> Array:
    """Half widths: a standard deviation of each coordinate given all others, by the curvature at x.

    All groups of an effect are probed at once, by random signs: given what is above and below them they do not depend
    on each other. `before` is what is thought so far. What is held, and not at its mode, has at most a width of 1.
    """
    rng, spread = np.random.default_rng(0), before.copy()
    for name, place in slots.places.items():
        indices = np.arange(slots.size)[place].reshape(slots.shapes[name])
        for part in indices.reshape(len(indices), -1).T if indices.ndim else indices.reshape(1, 1):
            step = np.zeros(slots.size)
            step[part] = PROBE * before[part] * rng.choice([-1.0, 1.0], len(part))
            curvature = (density(x - step)[1] - density(x + step)[1])[part] / (2 * step[part])
            known = np.isfinite(curvature) & (curvature > 0)
            spread[part[known]] = 1 / np.sqrt(curvature[known])
    return np.where(free, spread, np.minimum(spread, 1.0))


def _reach(density: Density, x: Array, spread: Array) -> float:
    """The largest of 1, 1/2, 1/4, ... at which starting points lie no lower than draws of the posterior may."""
    rng = np.random.default_rng(0)
    ways = spread * rng.uniform(-1.0, 1.0, (TRIALS, len(x)))
    lowest = density(x)[0] - 2.0 * len(x) - 10.0
    reach = 1.0
    for _ in range(FURTHEST):
        found = [density(x + reach * way) for way in ways]
        if all(value > lowest and np.isfinite(gradient).all() for value, gradient in found):
            break
        reach /= 2
    return reach


def _guesses(
    slots: Slots, statistics: Statistics, observations: Observations, plans: tuple[Plan, ...]
) -> tuple[dict[str, Array], set[str]]:
    """(values of all free variables in the user's units, names of those that are no coefficients or effects)."""
    model, layout, names = statistics.model, statistics.layout, Names(statistics.model)
    overall = _overall(statistics, observations)
    guesses = {name: np.zeros(shape) for name, shape in slots.shapes.items()}
    held = set()

    def guess(name: str, value: Any) -> None:
        guesses[name] = np.zeros(slots.shapes[name]) + _within(model, name, value)

    for name, prior in model.complete_priors.items():
        if name not in slots.shapes:
            continue
        if model.parameters[name] == "coefficient":
            intercept = name == "Intercept"
            if not isinstance(prior, LOCATED):
                guess(name, overall + observations.response_shift if intercept else 0.0)
        elif name in dict(model.extra):
            guess(name, _extra(statistics, name))
            held.add(name)
    typical = names("Intercept_centred")
    if typical in slots.shapes:
        guesses[typical] += overall
    for plan in plans:
        level = layout.levels[plan.index]
        several = len(level.columns) > 1
        total = names(f"{level.name if several else level.blocks[0].name}_total")
        if total in slots.shapes and 0 in level.columns and _carries_common(plan, plans):
            guesses[total][(..., level.columns.index(0)) if several else ...] += overall
    size = _size(statistics)
    for level in layout.levels:
        for block in level.blocks:
            name = f"{block.name}_sigma"
            sizes = [GUESS * size / _unit(statistics, level, column) for column in block.columns]
            guess(name, sizes if block.labels else sizes[0])
            held.add(name)
        partial = names(f"corr|{level.name}_partial")
        if partial in slots.shapes:
            guesses[partial] += 0.5
            held.add(partial)
    return guesses, held


def _carries_common(plan: Plan, plans: tuple[Plan, ...]) -> bool:
    """Whether a level's totals are about the common effects."""
    by_index = {each.index: each for each in plans}
    while plan.parent is not None:
        plan = by_index[plan.parent]
    return plan.anchored


def _within(model: Any, name: str, value: Any) -> Array:
    """A guess moved into the bulk of the parameter's prior."""
    prior = model.complete_priors[name]
    if not prior.proper:
        return np.asarray(value, dtype=float)
    low, high = np.quantile(prior.sample(np.random.default_rng(0), PRIOR_DRAWS), BULK)
    return np.clip(np.asarray(value, dtype=float), low, high)


def _overall(statistics: Statistics, observations: Observations) -> float:
    """The linear predictor of a typical row, without its offset, less `response_shift`."""
    family, y = statistics.model.family_spec, observations.response
    if family.link == "identity" or family.log_response or not len(y):
        return 0.0
    if family.link == "logit":
        return float(logit((y.sum() + 0.5) / (observations.trials.sum() + 1.0)) - observations.offset.mean())
    total = max(float(y.sum()), 0.5)
    return float(math.log(total) - logsumexp(observations.offset))


def _size(statistics: Statistics) -> float:
    """Standard deviation of the response where effects add to it, else 1."""
    family = statistics.model.family_spec
    if family.link != "identity" and not family.log_response:
        return 1.0
    weight, _, scatter = statistics.total()
    return max(math.sqrt(max(float(scatter[-1, -1]), 0.0) / weight), float(np.finfo(float).tiny))


def _unit(statistics: Statistics, level: Level, column: int) -> float:
    """What a level's effect of a design column is multiplied by in a typical row."""
    if column == 0:
        return 1.0
    scale = float(column_scales(statistics)[column - 1])
    if 0 in level.columns:
        return scale
    _, mean, _ = statistics.total()
    return math.hypot(scale, float((mean + statistics.shift)[column - 1]))


def _extra(statistics: Statistics, name: str) -> float:
    """A guess of sigma, nu or alpha."""
    weight, mean, scatter = statistics.total()
    sd = math.sqrt(max(float(scatter[-1, -1]), 0.0) / weight)
    relative = sd / max(abs(float(mean[-1] + statistics.shift[-1])), float(np.finfo(float).tiny))
    if name == "sigma":
        return relative if statistics.model.family == "cv_normal" else sd
    if name == "alpha":
        return 1.0 / max(relative**2, float(np.finfo(float).eps))
    return 10.0
