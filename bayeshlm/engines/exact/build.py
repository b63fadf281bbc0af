"""Statistics and priors -> the numeric problem of the exact engine, or the reason why it has none."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.default_priors import with_column_priors
from bayeshlm.data.prior_points import prior_points
from bayeshlm.data.statistics import Statistics
from bayeshlm.engines.checks import check_proper, within_fit
from bayeshlm.engines.exact.crossed.products_by_sigma import evaluation_seconds
from bayeshlm.engines.exact.density.residuals import Split
from bayeshlm.engines.exact.hyperparameters import recentred_sets
from bayeshlm.engines.exact.problem import Correlation, Problem, ProblemLevel, Scale
from bayeshlm.errors import EngineError, PriorError, listed
from bayeshlm.spec.priors import LKJ, Flat, Normal, base_prior

FAR = 1e4  # standard deviations of its prior from which a coefficient's fit is no help
EVALUATIONS, MOST_SECONDS = 20_000, 900.0  # of a density: typical number, and the time that is too much


def nested_order(statistics: Statistics) -> list[int] | None:
    """Indices of the levels from outermost to innermost, or None if they are not nested in each other."""
    sizes = [len(members) for members in statistics.members]
    order = by_size(statistics)
    for outer, inner in itertools.pairwise(order):
        parent = np.zeros(sizes[inner], dtype=np.int64)
        parent[statistics.codes[:, inner]] = statistics.codes[:, outer]
        if np.any(parent[statistics.codes[:, inner]] != statistics.codes[:, outer]):
            return None
    return order


def by_size(statistics: Statistics) -> list[int]:
    """Indices of the levels, the one with the fewest groups first."""
    sizes = [len(members) for members in statistics.members]
    return sorted(range(len(sizes)), key=sizes.__getitem__)


def build_problem(statistics: Statistics) -> Problem:
    """Bind statistics and priors. Raises EngineError for what this engine cannot do, PriorError for missing priors."""
    statistics = with_column_priors(statistics)
    model, layout = statistics.model, statistics.layout
    if model.missing_priors:
        raise PriorError(
            f"No prior for {listed(model.missing_priors)}. Give them, or take bayeshlm.scaled_priors(model, data)."
        )
    refused = unsupported(statistics)
    if refused:
        raise EngineError(refused)
    check_proper(statistics)
    nested = nested_order(statistics)
    order = by_size(statistics) if nested is None else nested
    blocks = [layout.common_columns, *(layout.levels[k].columns for k in order)]
    absorbed = np.array([
        all(0 in block for block in blocks if column in block) for column in range(1, len(layout.columns))
    ] + [model.terms.intercept], dtype=bool)  # fmt: skip
    centre = np.where(absorbed, statistics.shift, 0.0)
    mean = statistics.mean + np.where(absorbed, 0.0, statistics.shift)

    levels, cells = [], np.arange(1)
    above = np.zeros(len(statistics.count), dtype=np.int64)
    for k in order:
        codes = statistics.codes[:, k]
        groups = len(statistics.members[k])
        parent = np.zeros(groups, dtype=np.int64)
        if nested is not None:
            parent[codes] = above
        columns = layout.levels[k].columns
        levels.append(ProblemLevel(columns, _lift(columns, centre), parent, groups))
        above, cells = codes, np.argsort(codes)
    split = None
    if nested is None:
        cells = np.arange(len(statistics.count))
    if layout.residual is not None:
        cells = np.arange(len(statistics.count))
        rows = np.bincount(statistics.residual, statistics.count, len(layout.residual.labels))
        split = Split(above, statistics.residual, rows, levels[-1].groups if levels else 1)
    centring = _lift(layout.common_columns, centre)
    offset = _offset(statistics, centre, centring)
    # The offset's fit is taken out of y beforehand, and added to beta: a fit that explains nearly everything would else
    # leave the density as a small difference of large numbers, anew at every theta.
    residual = np.eye(len(centre))
    for position, column in enumerate(layout.common_columns):
        if column:
            residual[-1, column - 1] = -offset[position]
        else:
            mean[:, -1] += centre[-1] - offset[position]
    mean, scatter = mean @ residual.T, residual @ statistics.scatter @ residual.T
    precision, prior_mean, log_determinant = _common_prior(statistics, centring, offset)
    scales, correlations = _hyperparameters(statistics, order)
    constant = -0.5 * statistics.rows * math.log(2 * math.pi) + 0.5 * statistics.sum_log_weight
    problem = Problem(
        tuple(levels), tuple(order), statistics.weight[cells], mean[cells], scatter[cells],
        statistics.rows, constant + statistics.log_jacobian, layout.common_columns, centring, offset, precision,
        prior_mean, log_determinant, scales, correlations, sum(scale.variable == "sigma" for scale in scales), split,
        None if nested is not None else statistics.codes[:, order],
    )  # fmt: skip
    return dataclasses.replace(problem, recentred=recentred_sets(problem))


def unsupported(statistics: Statistics) -> str | None:
    """Why the exact engine cannot fit this model, or None."""
    model = statistics.model
    priors = model.complete_priors
    wrong = [
        f"{name} ~ {priors[name]}"
        for name, kind in model.parameters.items()
        if kind == "coefficient" and not isinstance(base_prior(priors.get(name, Flat())), Normal | Flat)
    ]
    if "exact" not in model.family_spec.engines:
        return (
            f"The exact engine integrates a Gaussian likelihood; the family {model.family!r} has another one, whose "
            "effects do not integrate out in closed form."
        )
    if model.censored is not None:
        return "The exact engine integrates a Gaussian likelihood; censored rows do not have one."
    if wrong:
        return (
            f"The exact engine needs Normal or Flat priors on common effects (they integrate out); got {listed(wrong)}."
        )
    if statistics.layout.residual is not None and nested_order(statistics) is None:
        return _too_slow(statistics, len(statistics.layout.residual.labels))
    return None


def _too_slow(statistics: Statistics, categories: int) -> str | None:
    """The reason, where a density that is formed anew for each theta would take too long."""
    layout = statistics.layout
    widths = [(len(m), len(level.columns)) for m, level in zip(statistics.members, layout.levels, strict=True)]
    each = evaluation_seconds(statistics.codes, widths, len(layout.common_columns) + 1, categories)
    if each * EVALUATIONS <= MOST_SECONDS:
        return None
    return (
        f"The levels {listed(level.name for level in layout.levels)} are crossed (a group of one occurs in several "
        "groups of another); with a residual standard deviation by category the exact engine would take about "
        f"{each * EVALUATIONS / 60:,.0f} minutes for so many groups. If labels are merely reused, e.g. instructor 1 in "
        "every method, write (1 | method/instructor)."
    )


def _lift(columns: tuple[int, ...], centre: Array) -> Array:
    """Shift absorbed by the intercept: u0_centred = u0 + sum_j centre_j u_j."""
    centring = np.eye(len(columns))
    if 0 in columns:
        row = columns.index(0)
        for j, column in enumerate(columns):
            if column:
                centring[row, j] = centre[column - 1]
    return centring


def _offset(statistics: Statistics, centre: Array, centring: Array) -> Array:
    """Common effects (p,), in centred coordinates, near which the posterior's are: the pooled fit within groups.

    A prior that is very much narrower than its distance to that fit keeps its mean instead.
    """
    columns = statistics.layout.common_columns
    _, fitted = within_fit(statistics)
    offset = np.array([fitted[column - 1] if column else centre[-1] for column in columns])
    means, precisions, points = _prior_moments(statistics)
    told = points @ np.linalg.solve(centring, offset)
    told = np.where(precisions * (told - means) ** 2 > FAR**2, means, told)
    return np.asarray(centring @ np.linalg.solve(points, told))


def _prior_moments(statistics: Statistics) -> tuple[Array, Array, Array]:
    """Means and precisions (p,) of what the priors of the common effects speak of, 0 where flat; and its (p, p) map."""
    means, precisions = [], []
    priors, layout = statistics.model.complete_priors, statistics.layout
    for block in layout.common:
        prior = base_prior(priors[block.name])
        count = len(block.columns)
        means += [prior.mu if isinstance(prior, Normal) else 0.0] * count
        precisions += [prior.sigma**-2 if isinstance(prior, Normal) else 0.0] * count
    return np.array(means), np.array(precisions), prior_points(layout, priors)


def _common_prior(statistics: Statistics, centring: Array, offset: Array) -> tuple[Array, Array, float]:
    """(precision, mean, log determinant of the proper part) of the common effects in centred coordinates."""
    means, diagonal, points = _prior_moments(statistics)
    told = points @ np.linalg.inv(centring)  # what the priors speak of, from centred coordinates
    proper = diagonal > 0
    log_determinant = float(np.log(diagonal[proper]).sum()) + math.log(2 * math.pi) * int((~proper).sum())
    return told.T @ (diagonal[:, None] * told), centring @ np.linalg.solve(points, means) - offset, log_determinant


def _hyperparameters(statistics: Statistics, order: list[int]) -> tuple[tuple[Scale, ...], tuple[Correlation, ...]]:
    """Hyperparameters in the order of theta: sigma, the levels' standard deviations, partial correlations."""
    model, layout = statistics.model, statistics.layout
    priors = model.complete_priors
    weight, mean, scatter = statistics.total()
    rows_weight = weight / statistics.rows
    outcome = math.sqrt(max(scatter[-1, -1] / weight, np.finfo(float).tiny))
    spread = np.sqrt(np.diag(scatter) / weight)
    spread = np.where(spread > 0, spread, np.abs(mean + statistics.shift))
    scales = []
    if model.se is None:
        size = within_fit(statistics)[0] * math.sqrt(rows_weight)
        parts = 1 if layout.residual is None else len(layout.residual.labels)
        scales += [Scale("sigma", position, priors["sigma"], size) for position in range(parts)]
    correlations = []
    for k, index in enumerate(order):
        level = layout.levels[index]
        for block in level.blocks:
            variable = f"{block.name}_sigma"
            for position, column in enumerate(block.columns):
                size = outcome if column == 0 else outcome / max(spread[column - 1], np.finfo(float).tiny)
                scales.append(Scale(variable, position, priors[variable], size))
        for positions in level.correlated:
            prior = priors[f"corr|{level.name}"]
            assert isinstance(prior, LKJ)  # Model has checked it
            correlations.append(Correlation(k, positions, prior))
    return tuple(scales), tuple(correlations)
