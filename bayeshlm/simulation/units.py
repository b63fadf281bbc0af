"""Weights, means and scatters of the design columns in every innermost group, from covariates drawn piece by piece."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bayeshlm.arrays import Array, Codes
from bayeshlm.data.cross_products import CrossProducts
from bayeshlm.data.layout import Column, Layout
from bayeshlm.errors import DataError, DesignError
from bayeshlm.simulation.design import Covariate, Design, Structure, assign
from bayeshlm.spec.expressions import Node, evaluate_expression
from bayeshlm.spec.model import Model
from bayeshlm.spec.priors import Exponential, Gamma, HalfNormal, Normal, Uniform

PIECE = 2**20  # units drawn at a time
# More units than this in all, in groups of at least that many each: the covariates' sums come from their normal limit.
# What the response is, given the covariates, stays exact; only the law of the covariates is the limit's.
MANY_UNITS, MANY_IN_GROUP = 20_000_000, 10_000
PILOT = 2**19  # units that tell the limit's moments
LIGHT = (Normal, HalfNormal, Uniform, Exponential, Gamma)  # all moments of their polynomials and logs exist
HEAVY_CALLS = ("exp", "expm1", "/")


@dataclass(frozen=True, eq=False)
class Moments:
    """Of every innermost group.

    Attributes
    ----------
    count, weight : (groups,)
    mean : (groups, columns)
    scatter : (groups, columns, columns)
    varying : tuple of int
        Columns that differ between units of a group.
    log_weights : (groups,)
    limit : bool
        True where sums over many units were drawn from their normal limit.
    """

    count: Array
    weight: Array
    mean: Array
    scatter: Array
    varying: tuple[int, ...]
    log_weights: Array
    limit: bool


@dataclass(frozen=True, eq=False)
class Groups:
    """The columns of a drawn design.

    Attributes
    ----------
    units : (groups,)
        Units in each innermost group.
    values : dict of str to (groups,)
        Columns that are constant within innermost groups: codes of levels and arms, covariates of levels.
    categories : dict of str to tuple
        Column of named arms -> all their names; its `values` are positions among them.
    codes : dict of str to (codes, labels)
        Columns by which groups may be formed, labels sorted.
    covariates : dict of str to Covariate
        Those that differ between units and that the model uses.
    drawn : dict of str to (units in all,)
        Their values, where they were few enough to be drawn at once.
    limit : bool
        Whether there are too many units to draw each.
    rng : numpy.random.Generator
        Draws the covariates otherwise, from `state` each time.
    """

    units: Codes
    values: dict[str, Array]
    categories: dict[str, tuple[Any, ...]]
    codes: dict[str, tuple[Codes, list[Any]]]
    covariates: dict[str, Covariate]
    drawn: dict[str, Array]
    limit: bool
    rng: np.random.Generator
    state: Any

    def occurring(self, name: str) -> tuple[Any, ...]:
        """Categories that occur, in order."""
        positions = np.unique(self.values[name]).astype(int).tolist()
        return tuple(self.categories[name][p] for p in positions) if name in self.categories else tuple(positions)

    def number(self, name: str) -> Array:
        """A column that is constant within groups, as numbers."""
        if name in self.categories:
            raise DataError(f"A number is needed: {name!r} holds the names of arms.")
        return self.values[name]

    def unit_level(self, nodes: Sequence[Node]) -> bool:
        return any(name in self.covariates for node in nodes for name in node.columns())

    def pieces(self) -> Iterator[tuple[Codes, Codes, dict[str, Array]]]:
        """(group, units, covariates of the units) of consecutive pieces of groups, PIECE units or fewer at a time."""
        if self.drawn or not self.covariates:
            yield np.arange(len(self.units)), self.units, self.drawn
            return
        self.rng.bit_generator.state = self.state
        parts = -(-self.units // PIECE)
        group = np.repeat(np.arange(len(self.units)), parts)
        last = np.cumsum(parts) - 1
        size = np.full(len(group), PIECE)
        size[last] = self.units - (parts - 1) * PIECE
        batch = np.cumsum(size) // PIECE
        for chosen in np.split(np.arange(len(group)), np.flatnonzero(np.diff(batch)) + 1):
            count = int(size[chosen].sum())
            drawn = {name: c.distribution.sample(self.rng, count) for name, c in self.covariates.items()}
            yield group[chosen], size[chosen], drawn

    def pilot(self) -> dict[str, Array]:
        """Covariates of PILOT units, always the same ones."""
        return _pilot(tuple(self.covariates.items()))

    def constants(self, nodes: Sequence[Node]) -> dict[Node, tuple[float, float]]:
        """Mean and standard deviation (divisor n) behind every `center` and `scale`."""
        found = {}
        for node in nodes:
            argument = node.children[0]
            if not self.unit_level([argument]):
                value = np.broadcast_to(evaluate_expression(argument, self.number, {}), self.units.shape)
                mean = np.average(value, weights=self.units)
                square = np.average((value - mean) ** 2, weights=self.units)
            elif self.limit:
                value = evaluate_expression(argument, self.pilot().__getitem__, {})
                mean, square = value.mean(), value.var()
            else:
                rows = [evaluate_expression(argument, self.lookup(*piece), {}) for piece in self.pieces()]
                count = np.array([len(r) for r in rows], dtype=float)
                means = np.array([r.mean() for r in rows])
                mean = np.average(means, weights=count)
                square = np.average(
                    [r.var() + (m - mean) ** 2 for r, m in zip(rows, means, strict=True)], weights=count
                )
            if not np.isfinite(mean) or (node.value == "scale" and not square > 0):
                raise DesignError(f"{node.value}() needs finite values that vary; choose other covariates.")
            found[node] = (float(mean), float(np.sqrt(square)))
        return found

    def lookup(self, group: Codes, size: Codes, covariates: Mapping[str, Array]) -> Any:
        def column(name: str) -> Array:
            return covariates[name] if name in covariates else np.repeat(self.number(name)[group], size)

        return column


@functools.lru_cache(maxsize=1)
def _pilot(covariates: tuple[tuple[str, Covariate], ...]) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {name: np.asarray(c.distribution.sample(rng, PILOT)) for name, c in covariates}


def draw_groups(model: Model, design: Design, structure: Structure, rng: np.random.Generator) -> Groups:
    """Arms and covariates of a drawn structure, in the order in which `draw_frame` draws them."""
    ancestors = structure.ancestors()
    units = structure.units
    values: dict[str, Array] = {level: codes.astype(float) for level, codes in ancestors.items()}
    codes: dict[str, tuple[Codes, list[Any]]] = {
        level: (of_group, list(range(len(structure.parent[level])))) for level, of_group in ancestors.items()
    }
    categories: dict[str, tuple[Any, ...]] = {}
    for name, treatment in design.treatments:
        arm = assign(treatment, structure, rng)[ancestors[treatment.level]]
        values[name] = arm.astype(float)
        labels: list[Any] = list(treatment.names)
        categories[name] = treatment.names
        order = sorted(np.unique(arm).tolist(), key=lambda k: labels[k])
        rank = np.zeros(len(labels), dtype=np.int64)
        rank[order] = np.arange(len(order))
        codes[name] = (rank[arm], [labels[k] for k in order])
    used = {n: c for n, c in design.covariates if c.level is None and n in model.columns}
    limit = _too_many(model, used, units)
    together = not limit and bool(units.sum() <= PIECE)
    drawn: dict[str, Array] = {}
    for name, covariate in design.covariates:
        if covariate.level is not None:
            sampled = np.asarray(covariate.distribution.sample(rng, len(structure.parent[covariate.level])))
            values[name] = sampled[ancestors[covariate.level]]
        elif name in used and together:
            drawn[name] = np.asarray(covariate.distribution.sample(rng, int(units.sum())))
    return Groups(units, values, categories, codes, used, drawn, limit, rng, rng.bit_generator.state)


def _too_many(model: Model, used: Mapping[str, Covariate], units: Codes) -> bool:
    """Whether there are too many units to draw each, and the limit holds for what the model makes of them."""
    if not used or units.sum() <= MANY_UNITS or (units < MANY_IN_GROUP).any():
        return False
    light = all(isinstance(covariate.distribution, LIGHT) for covariate in used.values())
    terms = [*model.terms.common, *(effect for group in model.terms.groups for effect in group.effects)]
    nodes = [factor.node for term in terms for factor in term.factors if set(factor.node.columns()) & set(used)]
    apart = all(set(node.columns()) <= set(used) for node in nodes)
    return light and apart and not any(_heavy(node) for node in nodes) and not {model.weights, model.se} & set(used)


def _heavy(node: Node) -> bool:
    return (node.kind != "column" and node.value in HEAVY_CALLS) or any(map(_heavy, node.children))


def unit_moments(model: Model, layout: Layout, groups: Groups, rng: np.random.Generator) -> Moments:
    """Moments of the design columns (without the constant) in every innermost group."""
    columns = layout.columns[1:]
    varying = tuple(k for k, column in enumerate(columns) if groups.unit_level(column.numeric))
    count = groups.units.astype(float)
    mean = np.zeros((len(count), len(columns)))
    for k, column in enumerate(columns):
        if k not in varying:
            mean[:, k] = _product(column, layout, groups, groups.number, lambda name: groups.values[name])
    scatter = np.zeros((len(count), len(columns), len(columns)))
    weighted = [name for name in (model.weights, model.se) if name in groups.covariates]
    if groups.limit:
        mean[:, varying], inner = _limit_moments([columns[k] for k in varying], layout, groups, rng)
        scatter[np.ix_(range(len(count)), varying, varying)] = inner
    if (groups.limit or not varying) and not weighted:
        each = np.broadcast_to(_weight(model, groups.number), count.shape)
        return Moments(count, count * each, mean, scatter, varying, count * np.log(each), groups.limit)
    parts = []
    for group, size, covariates in groups.pieces():
        lookup = groups.lookup(group, size, covariates)
        of_units = lambda name, group=group, size=size: np.repeat(groups.values[name][group], size)  # noqa: E731  # bound to its piece
        rows = [_product(columns[k], layout, groups, lookup, of_units) for k in varying]
        parts.append((group, *_reduce(rows, size, _weight(model, lookup))))
    group, weight, means, scatters, log_weight = (np.concatenate(part) for part in zip(*parts, strict=True))
    if len(group) > len(count):
        weight, means, scatters = CrossProducts(weight, means, scatters).pooled(group, len(count))
        log_weight = np.bincount(group, log_weight, len(count))
    mean[:, varying] = means
    scatter[np.ix_(range(len(count)), varying, varying)] = scatters
    return Moments(count, weight, mean, scatter, varying, log_weight, False)


def _product(column: Column, layout: Layout, groups: Groups, number: Any, position: Any) -> Array:
    """A design column: the product of its numeric expressions and its indicators."""
    parts = [evaluate_expression(node, number, layout.constants) for node in column.numeric]
    for name, label in column.indicators:
        place = groups.categories[name].index(label) if name in groups.categories else label
        parts.append((position(name) == place).astype(float))
    return np.asarray(functools.reduce(np.multiply, parts))


def _weight(model: Model, number: Any) -> Array:
    """Precision weight, as `row_weight` has it: w, 1 / se^2 or w / se^2."""
    weight: Array = np.ones(1)
    for name in (model.weights, model.se):
        if name:
            value = number(name)
            if not (value > 0).all():
                raise DesignError(
                    f"{name!r} (weights or standard errors) was drawn <= 0; choose a positive distribution."
                )
            weight = weight * (value if name == model.weights else value**-2.0)
    return weight


def _reduce(rows: Sequence[Array], size: Codes, weight: Array) -> tuple[Array, Array, Array, Array]:
    """(weight, mean, scatter, sum of log weights) of consecutive runs of units."""
    starts = np.concatenate([[0], np.cumsum(size)[:-1]])
    each = weight if len(weight) > 1 else None
    total = np.add.reduceat(each, starts) if each is not None else size * weight[0]
    logs = np.add.reduceat(np.log(each), starts) if each is not None else size * np.log(weight[0])
    means = np.empty((len(size), len(rows)))
    scatter = np.empty((len(size), len(rows), len(rows)))
    centred = []
    for k, row in enumerate(rows):
        means[:, k] = np.add.reduceat(row if each is None else each * row, starts) / (size if each is None else total)
        centred.append(row - np.repeat(means[:, k], size))
    for i, left in enumerate(centred):
        weighted = left * (weight[0] if each is None else each)
        for j in range(i, len(centred)):
            scatter[:, i, j] = scatter[:, j, i] = np.add.reduceat(weighted * centred[j], starts)
    return total, means, scatter, logs


@functools.lru_cache(maxsize=8)
def _pilot_moments(
    covariates: tuple[tuple[str, Covariate], ...], functions: tuple[frozenset[Node], ...],
    constants: tuple[tuple[Node, tuple[float, float]], ...],
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Means of functions of the covariates; mean and covariance of their deviations from it and of its products."""
    pilot = _pilot(covariates)
    parts = [[evaluate_expression(node, pilot.__getitem__, dict(constants)) for node in unit] for unit in functions]
    values = np.stack([functools.reduce(np.multiply, part) for part in parts])
    centre = values.mean(axis=1)
    deviation = values - centre[:, None]
    i, j = np.triu_indices(len(values))
    sums = np.concatenate([deviation, deviation[i] * deviation[j]])
    return centre, sums.mean(axis=1), np.cov(sums)


def _limit_moments(
    columns: Sequence[Column], layout: Layout, groups: Groups, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Means (groups, v) and scatters of columns that are a function of covariates times one of the group.

    The sums of the functions and of their products over a group's n units are normal up to 1 / sqrt(n) (Berry and
    Esseen); their moments are those of the pilot.
    """
    functions: list[frozenset[Node]] = []
    factors, which = [], []
    for column in columns:
        unit = frozenset(node for node in column.numeric if groups.unit_level([node]))
        if unit not in functions:
            functions.append(unit)
        which.append(functions.index(unit))
        rest = Column(tuple(node for node in column.numeric if node not in unit), column.indicators)
        whole = rest.numeric or rest.indicators
        factors.append(
            _product(rest, layout, groups, groups.number, lambda name: groups.values[name])
            if whole else np.ones(len(groups.units))
        )  # fmt: skip
    covariates, constants = tuple(groups.covariates.items()), tuple(layout.constants.items())
    centre, expected, covariance = _pilot_moments(covariates, tuple(functions), constants)
    size = len(functions)
    i, j = np.triu_indices(size)
    n = groups.units.astype(float)[:, None]
    noise = rng.multivariate_normal(np.zeros(len(expected)), covariance, size=len(n), method="eigh")
    drawn = n * expected + np.sqrt(n) * noise
    shift = drawn[:, :size] / n
    scatter = np.empty((len(n), size, size))
    scatter[:, i, j] = scatter[:, j, i] = drawn[:, size:]
    scatter -= n[:, :, None] * shift[:, :, None] * shift[:, None, :]
    factor = np.stack(factors, axis=1)
    means = factor * (centre + shift)[:, which]
    return means, factor[:, :, None] * factor[:, None, :] * scatter[:, which][:, :, which]
