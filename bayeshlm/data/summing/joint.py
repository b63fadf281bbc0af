"""The columns of two parts of one data set: the layout of both, and how each part's columns become its columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.layout import Column, Indicator, Layout, bind, numeric_columns
from bayeshlm.errors import DataError, listed
from bayeshlm.spec.expressions import Node
from bayeshlm.spec.model import Model

Members = tuple[tuple[Any, ...], ...]
Constants = dict[Node, tuple[float, float]]
CONSTANTS = (
    "These parts saw different constants of center() or scale(), and the terms that use them are not linear in them. "
    "Write agreed constants into the formula, e.g. I(x - 3), or compress the parts together."
)


def joint_layout(model: Model, left: Layout, right: Layout, share: float) -> Layout:
    """The layout of both parts' rows together, of which `share` are the right part's.

    Raises
    ------
    DataError
        Where a column's values mean different things in the two parts.
    """
    if left == right:
        return left
    numeric = numeric_columns(model, left)
    differ = sorted(set(left.categories) ^ set(right.categories))
    differ += sorted(
        name for name in set(left.categories) & set(right.categories)
        if len({type(label) for label in (*left.categories[name], *right.categories[name])}) > 1
    )  # fmt: skip
    if differ or numeric != numeric_columns(model, right):
        raise DataError(f"Column {listed(differ)} holds numbers in one part and text in the other; make them alike.")
    categories, declared = {}, {}
    for name in left.categories:
        seen = {*left.categories[name], *right.categories[name]}
        orders = [layout.declared[name] for layout in (left, right) if name in layout.declared]
        order = _joint_order(name, orders, sorted(seen))
        categories[name] = tuple(label for label in order if label in seen)
        if orders:
            declared[name] = order
    return bind(model, numeric, categories, _joint_constants(left.constants, right.constants, share), declared)


def _joint_constants(
    left: Mapping[Node, tuple[float, float]], right: Mapping[Node, tuple[float, float]], share: float
) -> Constants:
    """Mean and standard deviation of both parts' rows behind every `center` and `scale`."""
    joint = {}
    for node, (mean, sd) in left.items():
        other, other_sd = right[node]
        centre = mean + share * (other - mean)
        variance = (1 - share) * (sd**2 + (mean - centre) ** 2) + share * (other_sd**2 + (other - centre) ** 2)
        joint[node] = (mean, sd) if (mean, sd) == (other, other_sd) else (centre, float(np.sqrt(variance)))
    return joint


def _joint_order(name: str, declared: Sequence[tuple[Any, ...]], others: list[Any]) -> tuple[Any, ...]:
    """The order in which a column's types list the categories, where they do; any others sorted behind them."""
    order = list(declared[0]) if declared else []
    for right in declared[1:]:
        place = 0
        for label in right:
            if label not in order:
                order.insert(place, label)
            elif order.index(label) < place:
                raise DataError(f"The parts list the categories of {name!r} in different orders: {listed(right)}.")
            place = order.index(label) + 1
    return (*order, *(label for label in others if label not in order))


def linear_map(old: Layout, new: Layout) -> Array:
    """(new columns, old columns), the constant first in both: how a layout's columns come from those of another.

    The new one knows more categories, or other constants: all columns change linearly. An indicator of the reference is
    one minus the others, of a category that the old one has not seen it is zero.

    Raises
    ------
    DataError
        Where a term is not linear in a constant that changed.
    """
    index = {column.key: k for k, column in enumerate(old.columns)}
    moved = _moved(old, new)

    def anew(column: Column) -> Array:
        """Every factor whose constants changed is a * (its old self) + b: multiply out."""
        parts = [(1.0, frozenset(column.numeric))]
        for node in column.numeric:
            if node in moved:
                a, b = moved[node]
                parts = [*((f * a, kept) for f, kept in parts), *((f * b, kept - {node}) for f, kept in parts)]
            elif any(inner in moved for inner in node.stateful()):
                raise DataError(CONSTANTS)
        return sum((f * row(kept, frozenset(column.indicators)) for f, kept in parts if f), np.zeros(len(old.columns)))

    def row(numeric: frozenset[Node], indicators: frozenset[Indicator]) -> Array:
        out = np.zeros(len(old.columns))
        if (numeric, indicators) in index:
            out[index[numeric, indicators]] = 1.0
            return out
        if any(label not in old.categories[name] for name, label in indicators):
            return out
        references = [(name, label) for name, label in indicators if label == old.categories[name][0]]
        if not references:
            raise DataError(
                CONSTANTS if moved else "One part lacks a column that the other has; compress them together."
            )
        name, label = min(references)
        rest = indicators - {(name, label)}
        return row(numeric, rest) - sum(
            (row(numeric, rest | {(name, other)}) for other in old.categories[name][1:]), out
        )

    return np.stack([anew(column) for column in new.columns])


def _moved(old: Layout, new: Layout) -> Constants:
    """(a, b) of every `center` and `scale` whose constants differ: its new value is a * old + b."""
    out = {}
    for node, (mean, sd) in new.constants.items():
        before, before_sd = old.constants[node]
        if (mean, sd) != (before, before_sd):
            unit, before_unit = (sd, before_sd) if node.value == "scale" else (1.0, 1.0)
            out[node] = (before_unit / unit, (before - mean) / unit)
    return out


def one_type(left: Members, right: Members, keys: Sequence[str]) -> tuple[Members, Members]:
    """Labels as text where one part has numbers and the other text, as one table of both would have them."""
    both = (*left, *right)
    texts = [len({type(value) for value in values}) > 1 for values in zip(*both, strict=True)]
    if not any(texts):
        return left, right
    for name, mixed, values in zip(keys, texts, zip(*both, strict=True), strict=True):
        same = {value for value in values if isinstance(value, int)} & {
            int(value) for value in values if isinstance(value, str) and value.isdecimal() and value == str(int(value))
        }
        if mixed and same:
            raise DataError(f"Column {name!r}: group {listed(same)} is a number in one part and text in the other.")

    def as_text(part: Members) -> Members:
        return tuple(tuple(str(v) if t else v for v, t in zip(label, texts, strict=True)) for label in part)

    return as_text(left), as_text(right)


def numbered_alike(keys: Sequence[Sequence[str]], left: Sequence[Members], right: Sequence[Members]) -> dict[str, Any]:
    """Grouping column -> whole numbers that label groups in both parts, given each level's columns and groups."""
    found: dict[str, list[Any]] = {}
    for columns, here, there in zip(keys, left, right, strict=True):
        for position, key in enumerate(columns):
            mine, other = ({str(member[position]) for member in part} for part in (here, there))
            both = [label for label in mine & other if label.isdecimal()]
            if both:
                found[key] = sorted(both, key=int)
    return found
