"""The quadrature engine: rows joined to cells in, draws of every parameter out. No MCMC over effects."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.table import Table
from bayeshlm.engines.checks import check_proper
from bayeshlm.engines.exact.build import nested_order
from bayeshlm.engines.quadrature.build import build_problem
from bayeshlm.engines.quadrature.density import Density
from bayeshlm.engines.quadrature.rules import LADDER
from bayeshlm.engines.quadrature.start import Whitened, find_start
from bayeshlm.engines.result import EngineResult, Variable
from bayeshlm.engines.sampling import importance
from bayeshlm.engines.separation import check_separation
from bayeshlm.errors import EngineError, PriorError, listed

SMALL_ERROR = 1e-5  # of a log density, that rules in place of rows may leave
ABOUT = 2.0  # standard deviations about the mode at which it is looked for
COMPARED = 16  # draws at which rules are compared with the rows
MEASURED = 64  # draws at which the quadrature's error is measured
MOST_ERROR = 1e-3  # of a log density, over the draws measured
MAX_BYTES = 4 * 2**30


class NotSampledError(EngineError):
    """The model is within the engine, and yet this posterior could not be drawn well: the message says why."""


def fit_quadrature(table: Table, *, draws: int, chains: int, seed: int) -> EngineResult:
    """Fit by integrating all effects out numerically and sampling the rest.

    Parameters
    ----------
    table : Table
        Of a model within `build.unsupported`, with complete priors.
    draws, chains, seed : int

    Raises
    ------
    NotSampledError
        Where the mode, the weights or the quadrature fail; NUTS may do it.
    EngineError, PriorError
        Where the posterior is improper or its effects would not fit in memory.
    """
    began = time.perf_counter()
    statistics = table.statistics
    model = statistics.model
    if model.missing_priors:
        raise PriorError(f"No prior for {listed(model.missing_priors)}.")
    check_proper(statistics)
    check_separation(table)
    _check_memory(table, draws * chains)
    sampling, effects_rng = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(2))
    try:
        density, whitened = _compressed(table, sampling)
        volume = whitened.log_volume
        d = density.problem.size
        drawn = importance.sample(
            lambda z: density.log_density(whitened.phi(z)) + volume, np.full(d, -12.0), np.full(d, 12.0),
            draws=draws, chains=chains, rng=sampling, starts=whitened.starts,
        )  # fmt: skip
    except (FloatingPointError, np.linalg.LinAlgError) as error:
        raise NotSampledError(f"The mode of the collapsed density could not be found ({error}).") from error
    if not (drawn.pareto_k <= importance.MAX_PARETO_K and drawn.efficiency >= importance.MIN_EFFICIENCY):
        raise NotSampledError(
            f"The importance weights were unreliable (Pareto k {drawn.pareto_k:.2f}, efficiency "
            f"{drawn.efficiency:.1%})."
        )
    phi = whitened.phi(drawn.theta.reshape(-1, d))
    lp = drawn.log_density - volume
    moved = _measured(density, phi, lp.ravel())
    attrs: dict[str, Any] = {
        "fallback": "", "log_evidence": drawn.log_evidence, "log_evidence_se": drawn.log_evidence_se,
        "pareto_k": drawn.pareto_k, "efficiency": drawn.efficiency, "acceptance": drawn.acceptance,
        "evaluations": drawn.evaluations, "thinning": drawn.thinning, "quadrature_error": moved,
    }  # fmt: skip
    if not moved <= MOST_ERROR:
        raise NotSampledError(f"Finer quadrature moved the log density by {moved:.2g} at draws.")
    if any(not prior.proper for prior in model.complete_priors.values()):
        attrs["log_evidence"] = attrs["log_evidence_se"] = math.nan
    effects: list[Array] = []
    if density.problem.scales:
        effects, told = density.draw_effects(phi, effects_rng)
        attrs["effects_error"] = float(told[:, 1].max()) / 2**8
        bad = [k for k, values in enumerate(effects) if not np.isfinite(values).all()]
        if bad:
            raise NotSampledError("Effects could not be drawn at some draws of the hyperparameters.")
    if density.problem.ruled:
        some = np.linspace(0, len(phi) - 1, COMPARED).astype(int)
        attrs["compression_error"] = float(density.compression_error(phi[some], _totals(table, effects, some)).max())
        if not attrs["compression_error"] <= MOST_ERROR:
            raise NotSampledError(
                f"Rules in place of rows moved the log density by {attrs['compression_error']:.2g} at draws."
            )
    variables, coords = _name(table, density, phi, effects, (chains, draws))
    attrs["cells"] = sum(
        len(offsets) for offsets in (density.problem.cells.e_o, density.problem.cells.s_o, density.problem.cells.c_o,
                                     density.problem.cells.i_o)
    )  # fmt: skip
    attrs["seconds"] = time.perf_counter() - began
    return EngineResult(variables, coords, {"lp": lp}, attrs)


def _compressed(table: Table, rng: np.random.Generator) -> tuple[Density, Whitened]:
    """The density with as few cells as leave its error small about the mode, and where the mode is."""
    for rule in (*LADDER, None):
        density = Density(build_problem(table, rule))
        whitened = find_start(density, _average(table))
        if not density.problem.ruled:
            break
        d = density.problem.size
        points = whitened.phi(np.concatenate([np.zeros((1, d)), ABOUT * rng.standard_normal((4, d))]))
        totals = np.repeat(density.start[density.problem.here][None], len(points), axis=0)
        with np.errstate(over="ignore"):
            if density.compression_error(points, totals).max() < SMALL_ERROR:
                break
    return density, whitened


def _average(table: Table) -> float:
    """Linear predictor of an average row, roughly."""
    link, family = table.statistics.model.family_spec.link, table.statistics.model.family
    if link == "identity":
        return float(table.response.mean())
    if family == "lognormal":
        return float(np.log(table.response).mean())
    if link == "logit":
        share = (table.response.sum() + 0.5) / (table.trials.sum() + 1.0)
        return math.log(share / (1.0 - share)) - float(table.trials @ table.offset / table.trials.sum())
    exposure = np.exp(table.offset - table.offset.max())
    return math.log((abs(table.response.sum()) + 0.5) / exposure.sum()) - float(table.offset.max())


def _measured(density: Density, phi: Array, lp: Array) -> float:
    """Largest change of the log density with half the gaps, at some draws."""
    some = np.linspace(0, len(phi) - 1, min(MEASURED, len(phi))).astype(int)
    return float(np.abs(density.log_density(phi[some], fine=True) - lp[some]).max())


def _totals(table: Table, effects: list[Array], some: Array) -> Array:
    """(B, innermost groups) sums of the effects around each row of a group."""
    order = nested_order(table.statistics) or []
    if not order:
        return np.zeros((len(some), 1))
    group = table.codes[:, order[-1]]
    total = np.zeros((len(some), effects[-1].shape[1]))
    for k, index in enumerate(order):
        above = np.zeros(total.shape[1], dtype=np.int64)
        above[group] = table.codes[:, index]
        total += effects[k][some][:, above]
    return total


def _check_memory(table: Table, total: int) -> None:
    groups = sum(len(members) for members in table.statistics.members)
    size = 8 * total * groups
    if size > MAX_BYTES:
        raise EngineError(
            f"{total} draws of the effects of {groups} groups take {size / 2**30:.1f} GiB, over the limit of "
            f"{MAX_BYTES / 2**30:.0f} GiB. Ask for fewer draws, e.g. draws={max(total * MAX_BYTES // size // 8, 1)}."
        )


def _name(
    table: Table, density: Density, phi: Array, effects: list[Array], shape: tuple[int, int]
) -> tuple[dict[str, Variable], dict[str, list[Any]]]:
    """Give every draw its variable, dims and labels, in the user's words."""
    statistics, problem = table.statistics, density.problem
    layout, values = statistics.layout, density.values(phi)
    beta = problem.coordinates.to_user(values.beta)
    variables: dict[str, Variable] = {}
    coords: dict[str, list[Any]] = {}

    def add(name: str, draws: Array, dims: tuple[str, ...] = ()) -> None:
        variables[name] = Variable(np.ascontiguousarray(draws).reshape(*shape, *draws.shape[1:]), dims)

    first = 0
    for block, _ in problem.blocks:
        mine = beta[:, first : first + len(block.columns)]
        first += len(block.columns)
        add(block.name, mine if block.labels else mine[:, 0], (block.dim,) if block.labels else ())
        if block.labels:
            coords[block.dim] = list(block.labels)
    for k, index in enumerate(problem.levels.index):
        level = layout.levels[index]
        coords[level.name] = statistics.labels(index)
        add(level.blocks[0].name, effects[k], (level.name,))
        add(f"{level.blocks[0].name}_sigma", values.scales[:, k])
    for name, value in values.extra.items():
        add(name, value)
    return variables, coords
