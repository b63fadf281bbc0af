"""A table of rows and a model with its priors -> the problem of the quadrature, or the reason why it has none."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from bayeshlm.arrays import Array, Codes
from bayeshlm.data.prior_points import prior_points
from bayeshlm.data.statistics import Statistics
from bayeshlm.data.table import Table
from bayeshlm.engines.exact.build import nested_order
from bayeshlm.engines.exact.problem import Scale
from bayeshlm.engines.quadrature.cells import equal_groups, ordered, starts, units_first
from bayeshlm.engines.quadrature.families import SUPPORTED, Kind, Response, respond
from bayeshlm.engines.quadrature.problem import Coordinates, Levels, Problem
from bayeshlm.engines.quadrature.rules import Rule, Ruled, by_rule
from bayeshlm.errors import listed

MANY_ROWS, WORTH = 500, 0.7  # rows from which on a rule is looked for, and share of them that it may keep
MOST_NUMBERS = 15  # of phi: beyond, importance sampling of all of them wears thin
LOG_SCALE, ALPHA = 0.5, 3.0  # typical standard deviation where effects multiply, typical shape


def unsupported(statistics: Statistics) -> str | None:
    """Why the quadrature engine cannot fit this model, or None."""
    model, layout = statistics.model, statistics.layout
    family = model.family
    if family not in SUPPORTED:
        return f"The quadrature engine sums rows by their linear predictor; a {family!r} response does not separate so."
    if model.censored is not None and family not in ("gaussian", "lognormal"):
        return f"The quadrature engine takes censored gaussian and lognormal responses, not {family!r} ones."
    if model.censored is None and family in ("gaussian", "lognormal"):
        return f"An uncensored {family} response with these priors has no need of quadrature rules that exist here."
    if layout.residual is not None:
        return "The quadrature engine has one 'sigma', not one a category, for censored responses."
    slopes = [level.name for level in layout.levels if level.columns != (0,)]
    if slopes:
        return f"The quadrature engine takes intercepts that vary between groups; {listed(slopes)} have slopes."
    if nested_order(statistics) is None:
        names = listed(level.name for level in layout.levels)
        return f"The quadrature engine takes nested levels; of {names} some are crossed."
    numbers = len(layout.common_columns) + len(model.extra) + len(layout.levels)
    if numbers > MOST_NUMBERS:
        return (
            f"The quadrature engine samples common effects and standard deviations together, up to {MOST_NUMBERS} "
            f"numbers; here they are {numbers}."
        )
    return None


def build_problem(table: Table, rule: Rule | None = None) -> Problem:
    """Bind rows and priors; where a column has many values, a rule may stand for rows (see `rules`)."""
    from bayeshlm.engines.quadrature.likelihood import Cells

    statistics = table.statistics
    model, layout = statistics.model, statistics.layout
    coordinates, design = _coordinates(table, model.terms.intercept)
    response = respond(table, centred=model.terms.intercept)
    if model.terms.intercept:
        coordinates.shift[layout.common_columns.index(0)] += response.shift
    order = nested_order(statistics) or []
    group = table.codes[:, order[-1]] if order else np.zeros(table.rows, dtype=np.int64)
    groups = len(statistics.members[order[-1]]) if order else 1
    parents = _parents(table.codes[:, order], [len(statistics.members[k]) for k in order])
    ruled: list[Ruled] = []

    def cells_of(name: str, kind: Kind | None, width: int, add: Sequence[int]) -> tuple[Codes, Kind, Array]:
        of, found, x = ordered(kind, group, design, width, add)
        shorter = by_rule(of, found, x, add, rule) if rule and len(of) > MANY_ROWS else None
        if shorter is None or len(shorter[0]) > WORTH * len(of):
            return of, found, x
        ruled.append(Ruled(name, of, x, found.offset, found.weights))
        return shorter

    rates = len(response.rates)
    parts = {
        "e": cells_of("e", response.exponential, max(rates, 1), range(rates)),
        "s": cells_of("s", response.softplus, 2, (0, 1)),
        "c": cells_of("c", response.tails, 2, (1,)),
        "i": ordered(response.intervals, group, design, 3, (2,)),
    }
    linear = np.bincount(group, response.linear, groups)
    numbers = linear[:, None]
    if response.gaussian is not None:
        exact = response.gaussian
        w, mine = exact.weights[:, 0], group[exact.rows]
        sums = [np.bincount(mine, w * v, groups) for v in (np.ones(len(w)), -exact.offset, *design[exact.rows].T)]
        numbers = np.concatenate([numbers, np.stack(sums, axis=1)], axis=1)
    stands = equal_groups(
        parents[-1] if len(parents) > 1 else np.zeros(groups, dtype=np.int64), numbers,
        [(starts(of, groups), np.column_stack([x, kind.offset, kind.weights])) for of, kind, x in parts.values()],
    )  # fmt: skip
    kept = np.arange(groups) if stands is None else np.unique(stands)
    here = np.arange(groups) if stands is None else np.searchsorted(kept, stands)
    arrays = {}
    for name, (of, kind, x) in parts.items():
        stay = np.isin(of, kept) if stands is not None else np.ones(len(of), dtype=bool)
        arrays[name] = (starts(here[of[stay]], len(kept)), x[stay], kind.offset[stay], kind.weights[stay])
    e, s, c, i = (arrays[name] for name in "esci")
    s = units_first(*s)
    has = response.gaussian is not None
    cells = Cells(
        linear[kept], numbers[kept, 1] if has else np.zeros(0), np.ascontiguousarray(numbers[kept, 2:]),
        *map(np.ascontiguousarray, (
            *e[:3], e[3][:, : len(response.rates)], np.array(response.rates), *s, *c[:3], c[3][:, 0], c[3][:, 1],
            *i[:3], i[3][:, 0], i[3][:, 1], i[3][:, 2],
        )),
    )  # fmt: skip
    blocks = tuple((block, model.complete_priors[block.name]) for block in layout.common)
    extra, scales = _scales(table, response, order)
    return Problem(
        response, blocks, coordinates, extra, scales, _tree(order, parents, kept, here), cells,
        *_totals(response, design), prior_points(layout, model.complete_priors), tuple(ruled), here,
    )  # fmt: skip


def _coordinates(table: Table, intercept: bool) -> tuple[Coordinates, Array]:
    """How common effects are sampled, and the columns they then belong to (rows, p)."""
    columns = table.statistics.layout.common_columns
    x = table.columns[:, list(columns)]
    p = len(columns)
    middle, unit = np.zeros(p), np.ones(p)
    for j, column in enumerate(columns):
        if column:
            middle[j] = table.statistics.shift[column - 1] if intercept else 0.0
            unit[j] = math.sqrt(float(np.mean((x[:, j] - middle[j]) ** 2))) or 1.0
    turn = np.diag(1.0 / unit)
    if intercept:
        at = columns.index(0)
        turn[at] -= np.where(np.arange(p) == at, 0.0, middle / unit)
    return Coordinates(turn, np.zeros(p), -float(np.log(unit).sum())), np.ascontiguousarray((x - middle) / unit)


def _parents(codes: Codes, sizes: list[int]) -> list[Codes]:
    """Of each level, outermost first, the group of the level above that each group is in."""
    parents = [np.zeros(sizes[0], dtype=np.int64)] if sizes else []
    for outer, inner in itertools.pairwise(range(len(sizes))):
        parent = np.zeros(sizes[inner], dtype=np.int64)
        parent[codes[:, inner]] = codes[:, outer]
        parents.append(parent)
    return parents


def _tree(order: list[int], parents: list[Codes], kept: Codes, here: Codes) -> Levels:
    outer = [len(parent) for parent in parents[:-1]]
    first = np.concatenate([[0], np.cumsum([*outer, len(kept)])]).astype(np.int64)
    flat = [np.full(len(parent), -1) if k == 0 else parent + first[k - 1] for k, parent in enumerate(parents)]
    if flat:
        flat[-1] = flat[-1][kept]
    members = np.argsort(here, kind="stable")
    return Levels(
        tuple(order), first, np.concatenate([*flat, np.zeros(0, dtype=np.int64)]).astype(np.int64),
        np.bincount(here, minlength=len(kept)).astype(float), members.astype(np.int64), starts(here, len(kept)),
    )  # fmt: skip


def _scales(table: Table, response: Response, order: list[int]) -> tuple[tuple[Scale, ...], tuple[Scale, ...]]:
    model, layout = table.statistics.model, table.statistics.layout
    priors = model.complete_priors
    gaussian = response.gaussian is not None
    spread = LOG_SCALE
    if gaussian:
        y = np.log(table.response) if response.family == "lognormal" else table.response
        spread = float(y.std()) or max(abs(float(y.mean())), 1.0) * 0.1
    extra = tuple(
        Scale(name, 0, priors[name], ALPHA if name == "alpha" else spread * math.sqrt(float(np.mean(table.weight))))
        for name, _ in model.extra
    )
    scales = tuple(
        Scale(f"{layout.levels[k].blocks[0].name}_sigma", 0, priors[f"{layout.levels[k].blocks[0].name}_sigma"], spread)
        for k in order
    )
    return extra, scales


def _totals(response: Response, design: Array) -> tuple[Array, float, Array]:
    """Sums that the common effects alone meet: (p,) of eta's coefficient, of its offset, and of Gaussian rows."""
    linear, offset = response.linear @ design, float(response.linear @ response.offset)
    p = design.shape[1]
    squares = np.zeros((p + 1, p + 1))
    if response.gaussian is not None:
        exact = response.gaussian
        both = np.column_stack([design[exact.rows], exact.offset])
        squares = (both.T * exact.weights[:, 0]) @ both
    return linear, offset, squares
