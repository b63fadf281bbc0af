"""Which form of the collapsed density a problem gets, and whether it can be computed on this machine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.engines.exact.crossed.density import Crossed
from bayeshlm.engines.exact.crossed.draws import KEPT_BYTES
from bayeshlm.engines.exact.crossed.interpolated import Interpolated, NotInterpolatedError
from bayeshlm.engines.exact.crossed.products import count_products, order_levels
from bayeshlm.engines.exact.density.nested import Marginal
from bayeshlm.engines.exact.density.protocol import Density, ExactDensity
from bayeshlm.engines.exact.problem import Problem
from bayeshlm.errors import EngineError

MAX_BYTES = 8 * 2**30
MAX_SECONDS = 3600.0
BYTES_PER_PRODUCT = 96  # while the products within groups are sorted into M
COPIES = 3  # of the large block's matrix at a time
FACTORISATIONS, SOLVES = 60, 15  # typical numbers: nodes of the density, nodes of the draws
SPEED = 1e10  # floating point operations a second that any machine reaches in a Cholesky factorisation
TYPICAL_EVALUATIONS = 15_000  # where every proposal has to be evaluated exactly


@dataclass(frozen=True)
class Chosen:
    """A collapsed density, and where to start looking for its modes (None: anywhere)."""

    density: Density
    starts: Array | None = None


def exact_density(problem: Problem) -> ExactDensity:
    """The density of nested or crossed levels, evaluated as it stands at every theta."""
    return Marginal(problem) if problem.codes is None else Crossed(problem)


def collapse(problem: Problem, low: Array, high: Array, draws: int, rng: np.random.Generator) -> Chosen:
    """Bind a problem to the form of its density.

    Parameters
    ----------
    problem : Problem
    low, high : (d,)
        Box in which the mode of theta is looked for.
    draws : int
        Draws in all chains, for the estimate of memory and time.
    rng : numpy.random.Generator

    Raises
    ------
    EngineError
        Before any work, where crossed levels would need too much memory or time.
    """
    if problem.codes is None:
        return Chosen(Marginal(problem))
    _check_size(problem, draws)
    crossed = Crossed(problem)
    if not crossed.crossing.large or problem.split is not None:  # tables are of ratios to the one sigma
        return Chosen(crossed)
    try:
        table = Interpolated(crossed, low, high, rng)
        return Chosen(table, table.modes(rng))
    except NotInterpolatedError as error:
        seconds = TYPICAL_EVALUATIONS * crossed.crossing.large_size**3 / 3 / SPEED
        if seconds > MAX_SECONDS:
            raise EngineError(
                f"The density of these crossed levels could not be interpolated ({error}), and evaluating every "
                f"proposal would take about {seconds / 3600:.0f} hours. Fewer correlated effects, or a prior that "
                "rules out absurd standard deviations, make it possible."
            ) from error
        return Chosen(crossed)


def _check_size(problem: Problem, draws: int) -> None:
    leaf, large, _ = order_levels(problem)
    effects = sum(problem.levels[k].groups * len(problem.levels[k].columns) for k in large)
    products = count_products(problem, leaf)
    matrix = 8 * effects**2
    need = BYTES_PER_PRODUCT * products + COPIES * matrix + min(KEPT_BYTES, SOLVES * matrix) + 16 * effects * draws
    seconds = (FACTORISATIONS * effects**3 / 3 + SOLVES * effects**2 * draws) / SPEED
    sizes = f"{effects} effects of crossed levels (all but the largest) and {products} pairs of them that meet"
    if need > MAX_BYTES:
        raise EngineError(
            f"{sizes} would take about {need / 2**30:.1f} GiB, over the limit of {MAX_BYTES / 2**30:.0f} GiB. Leave "
            "out a crossed level or its slopes, or fit the parts of the data that hang together one by one."
        )
    if seconds > MAX_SECONDS:
        raise EngineError(
            f"{sizes} would take about {seconds / 3600:.1f} hours, over the limit of {MAX_SECONDS / 3600:.0f}. Leave "
            "out a crossed level or its slopes, or ask for fewer draws."
        )
