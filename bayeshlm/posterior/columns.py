"""The common columns with some columns of the data set to values, and all others as they are or at their means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.layout import Column, Layout
from bayeshlm.data.statistics import Statistics
from bayeshlm.errors import DataError, listed
from bayeshlm.posterior.question import Question, value_at
from bayeshlm.spec.expressions import Node

STRAIGHT = 1e-9  # of an expression's width, by which its middle is off the line


def column_means(statistics: Statistics) -> Array:
    """Means of the design columns over rows (precision weighted), the constant first."""
    _, mean, _ = statistics.total()
    return np.concatenate([[1.0], (mean + statistics.shift)[:-1]])


def weights_at(statistics: Statistics, assigned: Mapping[str, Any]) -> Array:
    """(common effects,): the common columns with some columns of the data set, all others at their means."""
    layout, means = statistics.layout, column_means(statistics)
    return np.array([column_at(layout, layout.columns[k], assigned, means.tolist()) for k in layout.common_columns])


def column_at(layout: Layout, column: Column, assigned: Mapping[str, Any], values: Sequence[Any]) -> Any:
    """A design column with some columns of the data set, from `values` of all design columns: means, or rows."""
    factor, nodes, removed = 1.0, [], set()
    for node in column.numeric:
        names = set(node.columns())
        if not names & assigned.keys():
            nodes.append(node)
            continue
        if not names <= assigned.keys():
            other = listed(sorted(names - assigned.keys()))
            raise DataError(f"{column.label!r} mixes {listed(sorted(names & assigned.keys()))} with {other}: hold "
                            f"{other} with at=, since its mean alone does not give that of the product.")  # fmt: skip
        value = value_at(layout, node, {name: float(assigned[name]) for name in names})
        if not math.isfinite(value):
            raise DataError(
                f"{column.label!r} is not finite at {', '.join(f'{n}={assigned[n]}' for n in sorted(names))}."
            )
        factor *= value
    rest = []
    for name, category in column.indicators:
        if name in assigned:
            removed.add(name)
            factor *= float(str(category) == str(assigned[name]))
        else:
            rest.append((name, category))
    return factor * _rest(layout, column, frozenset(nodes), frozenset(rest), removed, values) if factor else 0.0


def _rest(
    layout: Layout, column: Column, nodes: frozenset[Node], flags: frozenset[Any], removed: set[str],
    values: Sequence[Any],
) -> Any:  # fmt: skip
    """A design column without what was set in it."""
    for k, other in enumerate(layout.columns):
        if other.key == (nodes, flags):
            return values[k]
    # Not a column of its own: then all categories of what was set occur (R's rule), and their columns add up to it.
    parts = [
        k for k, other in enumerate(layout.columns)
        if frozenset(other.numeric) == nodes
        and frozenset(pair for pair in other.indicators if pair[0] not in removed) == flags
        and {name for name, _ in other.indicators} == removed | {name for name, _ in flags}
    ]  # fmt: skip
    if removed and len(parts) == math.prod(len(layout.categories[name]) for name in removed):
        return sum(values[k] for k in parts)
    names = sorted({n for node in nodes for n in node.columns()} | {name for name, _ in flags})
    raise DataError(
        f"{column.label!r} is a product with {listed(names)}, whose mean is not known: add {listed(names)} to the "
        f"formula as a term of its own, or hold it with at=."
    )


def slope_weights(
    statistics: Statistics, question: Question, points: list[Any], held: Mapping[str, Any]
) -> tuple[str, Array, bool]:
    """(unit, (common effects,) weights of one more unit, whether the curve is straight in that unit).

    Of one expression of the column that is its coefficient, with interactions at the means of the other columns; of
    several (a polynomial) the mean slope from the first point of the curve to the last.
    """
    layout, column = statistics.layout, str(question.column)
    nodes = {node for k in layout.common_columns for node in layout.columns[k].numeric if column in set(node.columns())}
    low, high = float(points[0]), float(points[-1])
    difference = weights_at(statistics, {**held, column: high}) - weights_at(statistics, {**held, column: low})
    node = next(iter(nodes))
    if len(nodes) > 1 or set(node.columns()) != {column}:
        return column, difference / (high - low), False
    start, middle, end = (value_at(layout, node, {column: x}) for x in (low, (low + high) / 2, high))
    width = end - start
    if abs(middle - (start + end) / 2) <= STRAIGHT * abs(width):  # center(x), x / 10: one more of x itself
        return column, difference / (high - low), True
    names = [f.name for term in statistics.model.terms.common for f in term.factors if f.node == node]
    return names[0], difference / width, True
