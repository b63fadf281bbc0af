"""The exact engine: statistics in, draws of every parameter out. No rows, no MCMC over effects."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.statistics import Statistics
from bayeshlm.engines.checks import check_sigma
from bayeshlm.engines.exact.build import build_problem
from bayeshlm.engines.exact.density.bind import Collapsed, collapse
from bayeshlm.engines.exact.density.nested import Marginal
from bayeshlm.engines.exact.effect_moments import effect_moments, thinned
from bayeshlm.engines.exact.hyperparameters import constrain, search_box
from bayeshlm.engines.exact.problem import Problem, block_slices
from bayeshlm.engines.result import EngineResult, Variable
from bayeshlm.engines.sampling import importance
from bayeshlm.engines.sampling.nuts_fallback import sample_collapsed
from bayeshlm.errors import EngineError

MAX_BYTES = 4 * 2**30  # of group-specific effects kept as draws, where draws are asked for
AUTO_BYTES = 2**30  # beyond which effects="auto" keeps moments of the largest levels
MANY_GROUPS = 1000  # of a level, beyond which effects="moments" keeps its moments
SURE_EFFICIENCY, SURE_PARETO_K = 0.5, 0.5  # short of these, correlated slopes are tried in their other coordinates too
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
        Show a progress bar if the fallback, which takes longer, is needed.
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
    low, high = search_box(problem)
    chosen = collapse(problem, low, high, draws * chains, sampling)
    marginal = chosen.density
    attrs: dict[str, Any] = {"fallback": ""}
    if problem.size == 0:  # known standard errors and no groups: nothing is left to sample
        theta = np.zeros((chains, draws, 0))
        density, _ = marginal.log_density(np.zeros((1, 0)))
        attrs |= {"log_evidence": float(density[0]), "log_evidence_se": 0.0, "pareto_k": 0.0, "efficiency": 1.0}
        stats = {"lp": np.full((chains, draws), density[0])}
    else:
        try:
            drawn = importance.sample(
                lambda t: marginal.log_density(t)[0], low, high, draws=draws, chains=chains, rng=sampling,
                starts=chosen.starts,
            )  # fmt: skip
            if problem.recentred and not (drawn.efficiency >= SURE_EFFICIENCY and drawn.pareto_k <= SURE_PARETO_K):
                plain = dataclasses.replace(problem, recentred=())
                other = Marginal(plain)
                again = importance.sample(
                    lambda t: other.log_density(t)[0], *search_box(plain), draws=draws, chains=chains, rng=sampling
                )
                if _better(again, drawn):
                    problem, marginal, drawn = plain, other, again
        except (FloatingPointError, np.linalg.LinAlgError) as error:
            raise EngineError(
                f"The density of the hyperparameters could not be evaluated ({error}). Rescale the response or check "
                "the priors of the standard deviations."
            ) from error
        theta = drawn.theta
        attrs |= {
            "log_evidence": drawn.log_evidence, "log_evidence_se": drawn.log_evidence_se,
            "pareto_k": drawn.pareto_k, "efficiency": drawn.efficiency, "acceptance": drawn.acceptance,
            "evaluations": drawn.evaluations, "thinning": drawn.thinning,
        }  # fmt: skip
        stats = {"lp": drawn.log_density}
        if not (drawn.pareto_k <= importance.MAX_PARETO_K and drawn.efficiency >= importance.MIN_EFFICIENCY):
            theta, stats = _fall_back(marginal, theta, draws, seed, progress)
            attrs["fallback"] = (
                f"Importance weights were unreliable (Pareto k {drawn.pareto_k:.2f}, efficiency "
                f"{drawn.efficiency:.1%}): the hyperparameters were drawn by NUTS on the collapsed model instead."
            )
    if any(not prior.proper for prior in statistics.model.complete_priors.values()):
        attrs["log_evidence"] = attrs["log_evidence_se"] = float("nan")  # an improper prior has no evidence
    flat = theta.reshape(chains * draws, problem.size)
    moments, moment_coords = {}, {}  # type: tuple[dict[str, Variable], dict[str, list[Any]]]
    if isinstance(marginal, Marginal):
        beta, drawn_effects = marginal.draw_effects(flat, effects_rng, drawn_levels)
        if drawn_levels < len(problem.levels):
            moments, moment_coords, note = _moments(statistics, marginal, flat, drawn_levels)
            attrs["moments"] = note
    else:
        beta, drawn_effects = marginal.draw_effects(flat, effects_rng)
        attrs |= marginal.told
    variables, coords = _name(statistics, problem, flat, beta, drawn_effects, (chains, draws))
    attrs["seconds"] = time.perf_counter() - began
    return EngineResult(variables, coords, stats, attrs, moments, moment_coords)


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
    statistics: Statistics, marginal: Marginal, theta: Array, first: int
) -> tuple[dict[str, Variable], dict[str, list[Any]], str]:
    """Means and standard deviations of the effects of the levels from `first` on, and how they came about."""
    problem, layout = marginal.problem, statistics.layout
    chosen = thinned(len(theta), problem.levels[-1].groups)
    found = effect_moments(marginal, theta[chosen], first)
    variables: dict[str, Variable] = {}
    coords: dict[str, list[Any]] = {"moment": ["mean", "sd"]}
    for k, result in found.items():
        index = problem.level_index[k]
        level = layout.levels[index]
        coords[level.name] = statistics.labels(index)
        for block, where in zip(level.blocks, block_slices(level.blocks), strict=True):
            both = np.stack([result.mean[where], result.sd[where]])  # (2, effects, groups)
            if block.labels:
                coords[block.dim] = list(block.labels)
                variables[block.name] = Variable(np.moveaxis(both, 1, 2), ("moment", level.name, block.dim))
            else:
                variables[block.name] = Variable(both[:, 0], ("moment", level.name))
    sizes = ", ".join(
        f"{layout.levels[problem.level_index[k]].name} ({problem.levels[k].groups:,} groups)" for k in found
    )
    error = max(result.error for result in found.values())
    note = (
        f"Of the effects of {sizes} means and standard deviations are kept instead of draws, averaged over "
        f"{len(chosen):,} draws of the hyperparameters (Monte Carlo error of a mean at most {error:.2g} of its "
        "standard deviation)."
    )
    return variables, coords, note


def _fall_back(
    marginal: Collapsed, theta: Array, draws: int, seed: int, progress: bool
) -> tuple[Array, dict[str, Array]]:
    def log_density(points: Array) -> Array:
        return marginal.log_density(points)[0]

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


def _name(
    statistics: Statistics, problem: Problem, theta: Array, beta: Array, effects: list[Array], shape: tuple[int, int]
) -> tuple[dict[str, Variable], dict[str, list[Any]]]:
    """Give every draw its variable, dims and labels, in the user's words."""
    layout = statistics.layout
    sigma, roots, values, _ = constrain(problem, theta)
    variables: dict[str, Variable] = {}
    coords: dict[str, list[Any]] = {}

    def add(name: str, draws: Array, dims: tuple[str, ...] = ()) -> None:
        """`draws` has the draws on its last axis."""
        moved = np.moveaxis(draws, -1, 0)
        variables[name] = Variable(np.ascontiguousarray(moved).reshape(*shape, *draws.shape[:-1]), dims)

    for block, where in zip(layout.common, block_slices(layout.common), strict=True):
        add(block.name, beta.T[where] if block.labels else beta.T[where][0], (block.dim,) if block.labels else ())
        if block.labels:
            coords[block.dim] = list(block.labels)
    position = problem.residuals
    for k, index in enumerate(problem.level_index):
        level = layout.levels[index]
        if k < len(effects):
            coords[level.name] = statistics.labels(index)
        for block, where in zip(level.blocks, block_slices(level.blocks), strict=True):
            count = len(block.columns)
            scales = values.T[position : position + count]
            position += count
            dims: tuple[str, ...] = (block.dim,) if block.labels else ()
            if block.labels:
                coords[block.dim] = list(block.labels)
            if k < len(effects):
                drawn = np.moveaxis(effects[k][where], 0, 1)  # (groups, effects, draws)
                add(block.name, drawn if block.labels else drawn[:, 0], (level.name, *dims))
            add(f"{block.name}_sigma", scales if block.labels else scales[0], dims)
        for positions in level.correlated:
            root = roots[k][np.ix_(positions, positions)]
            covariance = np.einsum("iab,jab->ijb", root, root)
            sds = np.sqrt(np.einsum("iib->ib", covariance))
            dims = (f"{level.name}_effect", f"{level.name}_effect_other")
            coords |= {dim: [level.effect_labels[p] for p in positions] for dim in dims}
            add(f"corr|{level.name}", covariance / (sds[:, None] * sds[None]), dims)
    if not problem.known_sigma:
        by = layout.residual
        add("sigma", sigma.T, () if by is None else (by.dim,))
        coords |= {} if by is None else {by.dim: list(by.labels)}
    return variables, coords
