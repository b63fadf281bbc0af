"""The exact engine: statistics in, draws of every parameter out. No rows, no MCMC over effects."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.statistics import Statistics
from bayeshlm.engines.checks import check_sigma
from bayeshlm.engines.exact.build import build_problem
from bayeshlm.engines.exact.density.bind import collapse, exact_density
from bayeshlm.engines.exact.density.nested import Marginal
from bayeshlm.engines.exact.density.protocol import Density
from bayeshlm.engines.exact.effect_moments import effect_moments, thinned
from bayeshlm.engines.exact.hyperparameters import constrain, search_box
from bayeshlm.engines.exact.problem import Problem
from bayeshlm.engines.naming import DrawnArrays, name_draws, name_moments
from bayeshlm.engines.progress import late_bar
from bayeshlm.engines.result import EngineResult, Variable
from bayeshlm.engines.sampling import importance
from bayeshlm.engines.sampling.modes import LogDensity
from bayeshlm.engines.sampling.nuts_fallback import sample_collapsed
from bayeshlm.errors import EngineError

MAX_BYTES = 4 * 2**30  # of group-specific effects kept as draws, where draws are asked for
AUTO_BYTES = 2**30  # beyond which effects="auto" keeps moments of the largest levels
MANY_GROUPS = 1000  # of a level, beyond which effects="moments" keeps its moments
# Efficiency, and where evaluations are dear, and Pareto k: short of these, correlated slopes are tried in their other
# coordinates too.
SURE, SURE_DEAR, SURE_PARETO_K = 0.5, 0.1, 0.5
PIECE = 2048  # evaluations between two looks at the progress
# Evaluations until draws are kept (those of the climbs by size squared), and for each draw kept.
TYPICAL_START, TYPICAL_CLIMB, TYPICAL_PER_DRAW = 2000, 40, 4
DEAR_CHUNK = 32  # thetas a chunk up to which an evaluation is dear, and a draw kept costs half as many of them
STACKED = 16  # common effects from which stacks of their matrices are better left to one thread
MISSED = 4.0  # standard errors by which one evidence is below another: its proposals missed a part


def fit_exact(
    statistics: Statistics, *, draws: int, chains: int, seed: int, progress: bool = False, effects: str = "auto"
) -> EngineResult:
    """Fit by integrating all effects out and sampling the hyperparameters.

    Parameters
    ----------
    statistics : Statistics
    draws, chains : int
    seed : int
    progress : bool
        Show a progress bar where it takes more than two seconds.
    effects : {"auto", "draws", "moments"}
        What to keep of group-specific effects, see `bayeshlm.fit`.

    Raises
    ------
    EngineError
        If the model is outside the engine, the effects would not fit in memory, or the density is 0 everywhere.
    """
    began = time.perf_counter()
    problem = build_problem(statistics)
    check_sigma(statistics)
    drawn_levels = _drawn_levels(problem, draws * chains, effects)
    sampling, effects_rng = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    with _one_thread(problem), late_bar("fitting", shown=progress) as show:
        density, drawn = _sample(problem, draws, chains, sampling, show)
    problem = density.problem
    attrs: dict[str, Any] = {"fallback": ""}
    if drawn is None:  # known standard errors and no groups: nothing is left to sample
        theta = np.zeros((chains, draws, 0))
        value = density.log_density(np.zeros((1, 0)))[0][0]
        attrs |= {"log_evidence": float(value), "log_evidence_se": 0.0, "pareto_k": 0.0, "efficiency": 1.0}
        stats = {"lp": np.full((chains, draws), value)}
    else:
        theta = drawn.theta
        attrs |= {
            "log_evidence": drawn.log_evidence, "log_evidence_se": drawn.log_evidence_se,
            "pareto_k": drawn.pareto_k, "efficiency": drawn.efficiency, "acceptance": drawn.acceptance,
            "evaluations": drawn.evaluations, "thinning": drawn.thinning,
        }  # fmt: skip
        stats = {"lp": drawn.log_density}
        if not (drawn.pareto_k <= importance.MAX_PARETO_K and drawn.efficiency >= importance.MIN_EFFICIENCY):
            theta, stats = _fall_back(density, theta, draws, seed, progress)
            attrs["fallback"] = (
                f"Importance weights were unreliable (Pareto k {drawn.pareto_k:.2f}, efficiency "
                f"{drawn.efficiency:.1%}): the hyperparameters were drawn by NUTS on the collapsed model instead."
            )
    if any(not prior.proper for prior in statistics.model.complete_priors.values()):
        attrs["log_evidence"] = attrs["log_evidence_se"] = float("nan")  # an improper prior has no evidence
    flat = theta.reshape(chains * draws, problem.size)
    moments, moment_coords = {}, {}  # type: tuple[dict[str, Variable], dict[str, list[Any]]]
    with _one_thread(problem), late_bar("drawing effects", shown=progress):
        beta, drawn_effects = density.draw_effects(flat, effects_rng, drawn_levels)
        if drawn_levels < len(problem.levels):
            moments, moment_coords, attrs["moments"] = _moments(statistics, problem, flat, drawn_levels)
    attrs |= density.diagnostics
    arrays = drawn_arrays(problem, flat, beta, drawn_effects)
    variables, coords = name_draws(statistics, arrays, (chains, draws))
    attrs["seconds"] = time.perf_counter() - began
    return EngineResult(variables, coords, stats, attrs, moments, moment_coords)


def _one_thread(problem: Problem) -> AbstractContextManager[Any]:
    """Stacks of middle-sized matrices: threads of the linear algebra wait for each other longer than they compute.

    With 200 common effects a fit took 29 s on one thread and did not end in 300 s on two, on two busy cores.
    """
    if problem.codes is not None or len(problem.common) < STACKED:
        return contextlib.nullcontext()
    from threadpoolctl import threadpool_limits

    return cast(AbstractContextManager[Any], threadpool_limits(limits=1))


def _sample(
    problem: Problem, draws: int, chains: int, rng: np.random.Generator, show: Callable[[int, int], None]
) -> tuple[Density, importance.Draws | None]:
    """The density and draws of its hyperparameters, in the coordinates that serve better; None where it has none.

    Raises EngineError where the density is 0 everywhere.
    """
    low, high = search_box(problem)
    chosen = collapse(problem, low, high, draws * chains, rng)
    density = chosen.density
    if problem.size == 0:
        return density, None
    dear = density.chunk <= DEAR_CHUNK
    options: dict[str, Any] = {"draws": draws, "chains": chains, "rng": rng, "per_draw": 1.0 if dear else 2.0}
    try:
        watched = _watched(density, draws * chains, show)
        drawn = importance.sample(watched, low, high, starts=chosen.starts, **options)
        sure = SURE_DEAR if dear else SURE
        if problem.recentred and not (drawn.efficiency >= sure and drawn.pareto_k <= SURE_PARETO_K):
            plain = dataclasses.replace(problem, recentred=())
            other = exact_density(plain)
            again = importance.sample(_watched(other, draws * chains, show), *search_box(plain), **options)
            if _better(again, drawn):
                return other, again
    except (FloatingPointError, np.linalg.LinAlgError) as error:
        raise EngineError(
            f"The density of the hyperparameters could not be evaluated ({error}). Rescale the response or check "
            "the priors of the standard deviations."
        ) from error
    return density, drawn


def _watched(density: Density, kept: int, show: Callable[[int, int], None]) -> LogDensity:
    """The log density, in pieces after each of which `show` is told how many evaluations are done and expected."""
    piece = density.chunk * max(1, PIECE // density.chunk)  # whole chunks, so that no sum is formed in another order
    expected, done = TYPICAL_START + TYPICAL_CLIMB * density.problem.size**2 + TYPICAL_PER_DRAW * kept, 0

    def log_density(theta: Array) -> Array:
        nonlocal done
        out = np.empty(len(theta))
        for start in range(0, len(theta), piece):
            part = slice(start, start + piece)
            out[part] = density.log_density(theta[part])[0]
            done += len(out[part])
            show(done, max(expected, done))
        return out

    return log_density


def _better(a: importance.Draws, b: importance.Draws) -> bool:
    """Whether a's proposals, of the same posterior in other coordinates, served better than b's.

    Whatever proposals miss is missing from their evidence: of two that differ, the larger one missed less.
    """
    apart = MISSED * math.hypot(a.log_evidence_se, b.log_evidence_se)
    if abs(a.log_evidence - b.log_evidence) > max(apart, 0.1):
        return a.log_evidence > b.log_evidence
    trusted = a.pareto_k <= importance.MAX_PARETO_K, b.pareto_k <= importance.MAX_PARETO_K
    return a.efficiency > b.efficiency if trusted[0] == trusted[1] else trusted[0]


def _moments(
    statistics: Statistics, problem: Problem, theta: Array, first: int
) -> tuple[dict[str, Variable], dict[str, list[Any]], str]:
    """Means and standard deviations of the effects of the levels from `first` on, and how they came about."""
    layout = statistics.layout
    chosen = thinned(len(theta), problem.levels[-1].groups)
    found = effect_moments(Marginal(problem), theta[chosen], first)
    named = name_moments(statistics, {problem.level_index[k]: (each.mean, each.sd) for k, each in found.items()})
    sizes = ", ".join(
        f"{layout.levels[problem.level_index[k]].name} ({problem.levels[k].groups:,} groups)" for k in found
    )
    error = max(result.error for result in found.values())
    note = (
        f"Of the effects of {sizes} means and standard deviations are kept instead of draws, averaged over "
        f"{len(chosen):,} draws of the hyperparameters (Monte Carlo error of a mean at most {error:.2g} of its "
        "standard deviation)."
    )
    return *named, note


def _fall_back(density: Density, theta: Array, draws: int, seed: int, progress: bool) -> tuple[Array, dict[str, Array]]:
    def log_density(points: Array) -> Array:
        return density.log_density(points)[0]

    theta, diverging = sample_collapsed(log_density, theta, draws=draws, seed=seed % 2**31, progress=progress)
    lp = log_density(theta.reshape(-1, theta.shape[2])).reshape(theta.shape[:2])
    return theta, {"lp": lp, "diverging": diverging.astype(float)}


def _drawn_levels(problem: Problem, total: int, effects: str) -> int:
    """How many of the outermost levels keep draws. Raises EngineError where what was asked for is impossible."""
    sizes = [8 * total * level.groups * len(level.columns) for level in problem.levels]
    crossed = problem.codes is not None
    if crossed and effects == "moments":
        raise EngineError('effects="moments" is for nested levels; crossed ones keep draws. Use effects="auto".')
    if effects == "moments":
        return sum(level.groups <= MANY_GROUPS for level in problem.levels)
    if effects == "auto" and not crossed:
        return sum(size <= AUTO_BYTES for size in np.cumsum(sizes).tolist())
    size = sum(sizes)
    if size > MAX_BYTES:
        groups = sum(level.groups for level in problem.levels)
        raise EngineError(
            f"{total} draws of the effects of {groups} groups take {size / 2**30:.1f} GiB, over the limit of "
            f"{MAX_BYTES / 2**30:.0f} GiB. Ask for fewer draws, e.g. draws={max(total * MAX_BYTES // size // 8, 1)}"
            + ("." if crossed else ', or for effects="moments".')
        )
    return len(sizes)


def drawn_arrays(problem: Problem, theta: Array, beta: Array, effects: list[Array]) -> DrawnArrays:
    """Draws of theta (B, d), of the common effects (B, p) and of the first levels' effects (k, groups, B), by level."""
    sigma, roots, values, _ = constrain(problem, theta)
    sds, first = {}, problem.residuals
    for index, level in zip(problem.level_index, problem.levels, strict=True):
        sds[index] = values.T[first : first + len(level.columns)]
        first += len(level.columns)
    return DrawnArrays(
        beta, dict(zip(problem.level_index, effects, strict=False)), sds,
        dict(zip(problem.level_index, roots, strict=True)), None if problem.known_sigma else sigma,
    )  # fmt: skip
