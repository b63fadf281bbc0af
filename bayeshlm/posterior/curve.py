"""At which values of a number its curve is shown: what the data hold of it, read from the statistics alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from bayeshlm.data.layout import Layout
from bayeshlm.data.statistics import Statistics
from bayeshlm.errors import DataError
from bayeshlm.posterior.question import assigned_level, group_means, single_nodes
from bayeshlm.spec.expressions import Node

MOST_POINTS = 7  # of a curve
INVERSES: dict[str, Callable[[float], float]] = {
    "exp": math.log, "expm1": math.log1p, "log": math.exp, "log1p": math.expm1, "log2": lambda y: 2.0**y,
    "log10": lambda y: 10.0**y, "sqrt": lambda y: y * y,
}  # fmt: skip


def curve_points(statistics: Statistics, column: str) -> list[float]:
    """Where a curve is drawn: the values given to groups where they are few, else the mean and a sd to either side."""
    layout = statistics.layout
    for k, node in sorted(single_nodes(layout, column), key=lambda found: found[1].kind != "column"):
        level = assigned_level(statistics, column)
        weight, mean, scatter = statistics.total()
        centre, sd = mean[k - 1] + statistics.shift[k - 1], math.sqrt(scatter[k - 1, k - 1] / weight)
        values, digits = [centre - sd, centre, centre + sd], 2
        if level is not None:
            given = np.unique(np.round(group_means(statistics, level)[:, k], 12))
            digits = 10 if len(given) <= MOST_POINTS else 3
            if len(given) > MOST_POINTS:
                given = given[np.round(np.linspace(0, len(given) - 1, MOST_POINTS)).astype(int)]
            values = given.tolist()
        points = [_solved(layout, node, value) for value in values]
        if all(point is not None and math.isfinite(point) for point in points):
            found = sorted(float(point) for point in points if point is not None)
            return [_rounded(point, found[-1] - found[0], digits) for point in found]
    raise DataError(
        f"The data's values of {column!r} cannot be told from the formula's terms: give some, as in "
        f"at={{{column!r}: [1, 2, 3]}}."
    )


def _rounded(point: float, spread: float, digits: int) -> float:
    """A label to be read: so many digits of the spread, where the points are not the data's own."""
    short = round(point, digits - 1 - math.floor(math.log10(spread))) if spread > 0 else point
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def _solved(layout: Layout, node: Node, value: float) -> float | None:
    """The column's value at which an expression of one column has this one; None where that cannot be told."""
    if node.kind == "column":
        return value
    try:
        if node.kind == "call" and node.value in ("center", "scale"):
            mean, sd = layout.constants[node]
            return _solved(layout, node.children[0], value * (1.0 if node.value == "center" else sd) + mean)
        if node.kind == "call" and node.value in INVERSES:
            return _solved(layout, node.children[0], INVERSES[str(node.value)](value))
        if node.kind == "operator" and len(node.children) == 1:
            return _solved(layout, node.children[0], -value)
        if node.kind == "operator" and node.value != "**":
            return _operands_solved(layout, node, value)
    except (ValueError, OverflowError, ZeroDivisionError):
        return None
    return None


def _operands_solved(layout: Layout, node: Node, value: float) -> float | None:
    left, right = node.children
    number = right if right.kind == "number" else left
    if number.kind != "number":
        return None
    n, inner = float(number.value), left if number is right else right
    behind = number is right
    turned = {
        "+": value - n, "-": value + n if behind else n - value,
        "*": value / n, "/": value * n if behind else n / value,
    }[str(node.value)]  # fmt: skip
    return _solved(layout, inner, turned)
