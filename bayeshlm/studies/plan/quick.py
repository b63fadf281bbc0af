"""The quick fit of a simulated study: draws of what each group is worth, and nothing else.

A plan fits thousands of small data sets and asks one thing of each. The truth is known here, so the mode search starts
at it; hyperparameters are drawn by sampling importance resampling instead of a Markov chain; only the levels that are
decided on are drawn. The posterior is the engine's: where the weights are not good enough, the engine itself fits.
What the weights cannot show is a second mode far from the truth. Over worlds drawn from the analysis prior the truth is
a draw from the posterior, so that such modes carry little of it; a real data set, whose truth nobody knows, gets the
engine's wide search.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from bayeshlm.arrays import Array
from bayeshlm.data.statistics import Statistics
from bayeshlm.engines.exact.build import build_problem
from bayeshlm.engines.exact.density.bind import collapse
from bayeshlm.engines.exact.fit import fit_exact
from bayeshlm.engines.exact.hyperparameters import interval, search_box, to_score
from bayeshlm.engines.exact.problem import Problem, Scale
from bayeshlm.engines.naming import DrawnArrays, name_draws
from bayeshlm.engines.sampling import importance
from bayeshlm.engines.sampling.modes import LogDensity, near_mode
from bayeshlm.engines.sampling.pareto import pareto_k
from bayeshlm.posterior.question import resolve
from bayeshlm.posterior.values import values_of

POINTS = 1024  # proposals; at the efficiencies accepted, at least 300 effective draws
MIN_EFFICIENCY = 0.3  # stricter than the engine, which looks again at what is between
FEW = 50  # effective points that tell a mean and a covariance
WIDE_SHARE, WIDE = 0.3, 2.0  # halves the fits that need a second try, at an efficiency of 0.67 for 0.76 (72 fits)
ENGINE_DRAWS = 1000  # where the engine takes over


@dataclass(frozen=True, eq=False)
class QuickValues:
    """Draws of what each group is worth, on the scale on which effects add.

    Attributes
    ----------
    labels : list
    draws : (n, groups)
    quick : bool
        False where the engine had to take over.
    """

    labels: list[Any]
    draws: Array
    quick: bool


def quick_values(statistics: Statistics, by: str, truth: Mapping[str, Array], rng: np.random.Generator) -> QuickValues:
    """Fit a simulated study and draw the values of the groups of a level or a categorical common effect.

    Parameters
    ----------
    statistics : Statistics
        With a model whose priors are complete.
    by : str
        As in `bayeshlm.compare`.
    truth : mapping
        Standard deviations that made the data, by name (where the search starts; those unknown start at their size).
    rng : numpy.random.Generator

    Raises
    ------
    EngineError, DataError
        As `bayeshlm.fit`.
    """
    problem = build_problem(statistics)
    found = _importance(problem, statistics, by, truth, rng) if problem.size else None
    if found is not None:
        return found
    result = fit_exact(statistics, draws=ENGINE_DRAWS, chains=1, seed=int(rng.integers(2**31)))
    values = values_of(statistics, by, lambda name: result.variables[name].values[0])
    return QuickValues(values.labels, values.draws, False)


def _importance(
    problem: Problem, statistics: Statistics, by: str, truth: Mapping[str, Array], rng: np.random.Generator
) -> QuickValues | None:
    """Draws, or None where the weights are not good enough."""
    low, high = search_box(problem)
    density = collapse(problem, low, high, POINTS, rng).density

    def log_density(theta: Array) -> Array:
        return density.log_density(theta)[0]

    start = np.array([_score(scale, truth) for scale in problem.scales] + [0.0] * (problem.size - len(problem.scales)))
    mode = near_mode(log_density, start, low, high)
    if not np.isfinite(mode[0]):
        return None
    proposal = _widened(importance.laplace([mode]).components[0])
    theta, weight = _weigh(log_density, proposal, rng)
    good = _good(weight)
    if not good and 1 / np.sum(weight**2) >= FEW:
        proposal = _widened(_matched(theta, weight))
        theta, weight = _weigh(log_density, proposal, rng)
        good = _good(weight)
    if not good:
        proposal, _ = importance.adapt(log_density, proposal, rng)
        theta, weight = _weigh(log_density, proposal, rng)
        good = _good(weight)
    if not good:
        return None
    theta = _resample(theta, weight, rng)
    level = resolve(statistics, by).level
    depth = 0 if level is None else 1 + problem.level_index.index(statistics.layout.levels.index(level))
    beta, effects = density.draw_effects(theta, rng, levels=depth)
    arrays = DrawnArrays(beta, dict(zip(problem.level_index, effects, strict=False)))
    variables, _ = name_draws(statistics, arrays, (1, len(theta)))
    values = values_of(statistics, by, lambda name: variables[name].values[0])
    return QuickValues(values.labels, values.draws, True)


def _widened(component: importance.Component) -> importance.Proposal:
    """With a second component around the first, which keeps weights bounded where the posterior is wider than its peak.

    Hesterberg (1995), Technometrics 37(2): a defensive mixture.
    """
    wide = importance.Component(WIDE_SHARE, component.location, WIDE * component.root)
    return importance.Proposal((importance.Component(1 - WIDE_SHARE, component.location, component.root), wide))


def _matched(theta: Array, weight: Array) -> importance.Component:
    """The t with the weighted points' mean and covariance (which is 2 times its scale matrix at 4 degrees)."""
    mean = weight @ theta
    covariance = ((theta - mean).T * weight) @ (theta - mean)
    root = np.linalg.cholesky(covariance / 2 + 1e-9 * np.eye(len(mean)))
    return importance.Component(1.0, mean, root)


def _weigh(log_density: LogDensity, proposal: importance.Proposal, rng: np.random.Generator) -> tuple[Array, Array]:
    """(POINTS, d) points of a proposal and their normalised weights; NaN where the density is 0 at all of them."""
    theta = proposal.sample(POINTS, rng)
    log_weight = log_density(theta) - proposal.logpdf(theta)
    with np.errstate(invalid="ignore"):
        weight = np.exp(log_weight - log_weight.max())
        return theta, weight / weight.sum()


def _good(weight: Array) -> bool:
    """Whether weights can stand for a posterior; NaN never can."""
    if not 1 / np.sum(weight**2) >= MIN_EFFICIENCY * POINTS:
        return False
    with np.errstate(divide="ignore"):
        return pareto_k(np.log(weight)) <= importance.MAX_PARETO_K


def _resample(theta: Array, weight: Array, rng: np.random.Generator) -> Array:
    """As many points, each as often as its weight says but for less than one: systematic resampling.

    Kitagawa (1996), J. of Computational and Graphical Statistics 5(1), appendix.
    """
    steps = (np.arange(POINTS) + rng.uniform()) / POINTS
    return np.asarray(theta[np.minimum(np.searchsorted(np.cumsum(weight), steps), POINTS - 1)])


def _score(scale: Scale, truth: Mapping[str, Array]) -> float:
    """Where the search starts on one standard deviation's axis; a truth of 0 starts at a thousandth of its size."""
    value = scale.size
    if scale.variable in truth:
        value = max(float(np.ravel(truth[scale.variable])[scale.position]), 1e-3 * scale.size)
    low, high = interval(scale.prior)
    if np.isfinite(high):
        return float(ndtri(float(np.clip((value - low) / (high - low), 1e-3, 1 - 1e-3))))
    return float(to_score(scale, max(value - low, 1e-3 * scale.size)))
