"""Adding statistics of two parts of one data set: sites, days, files."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.groups import combine, sorted_members
from bayeshlm.data.layout import Column, Indicator, Layout, bind, numeric_columns
from bayeshlm.data.statistics import Statistics
from bayeshlm.data.summing.cells import clamp, pool
from bayeshlm.data.summing.sharing import numbered_alike
from bayeshlm.errors import BayeshlmWarning, DataError, listed, outside_package
from bayeshlm.spec.expressions import Node

Members = tuple[tuple[Any, ...], ...]
CONSTANTS = (
    "These parts saw different constants of center() or scale(), and the terms that use them are not linear in them. "
    "Write agreed constants into the formula, e.g. I(x - 3), or compress the parts together."
)


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Add two parts; groups are matched by label, categories that only one part saw are made room for.

    Priors do not enter statistics and need not agree; the sum carries the left part's model.

    Raises
    ------
    DataError
        If the parts are of different models, or their columns mean different things.
    """
    if a.model_hash != b.model_hash:
        raise DataError(
            "Statistics add up only if they are of the same model, and these are of "
            f"{_described(a)} and of {_described(b)}."
        )
    layout = joint_layout(a, b)
    a, b = reexpress(a, layout), reexpress(b, layout)
    members, mapped = [], []
    for level, (left, right) in enumerate(zip(a.members, b.members, strict=True)):
        left, right = _one_type(left, right, layout.levels[level].keys)
        union = sorted_members({*left, *right})
        position = {label: k for k, label in enumerate(union)}
        members.append(union)
        mapped.append(
            np.concatenate([
                np.array([position[label] for label in part], dtype=np.int64)[codes[:, level]]
                for part, codes in ((left, a.codes), (right, b.codes))
            ])
        )  # fmt: skip
    coded = list(zip(mapped, map(list, members), strict=True))
    if layout.residual is not None:
        coded.append((np.concatenate([a.residual, b.residual]), list(layout.residual.labels)))
    cell, codes = combine(coded, len(a.count) + len(b.count))
    residual = codes[:, -1] if layout.residual is not None else np.zeros(len(codes), dtype=np.int64)
    codes = codes[:, : len(layout.levels)]
    _warn_of_numbers(a, b)
    # b's means are re-expressed about a's shift: an addition of numbers near their difference, no squares involved.
    mean = np.concatenate([a.mean, b.mean + (b.shift - a.shift)])
    weight = np.concatenate([a.weight, b.weight])
    scatter = np.concatenate([a.scatter, b.scatter])
    joint_weight, joint_mean, joint_scatter = pool(cell, len(codes), weight, mean, scatter)
    log_weights, jacobians = (
        np.bincount(cell, np.concatenate(pair), len(codes))
        for pair in ((a.log_weights, b.log_weights), (a.jacobians, b.jacobians))
    )
    return Statistics(
        a.model, layout, tuple(members), codes, np.bincount(cell, np.concatenate([a.count, b.count]), len(codes)),
        joint_weight, joint_mean, joint_scatter, a.shift, a.total_rows + b.total_rows, a.rows + b.rows,
        {k: a.missing.get(k, 0) + b.missing.get(k, 0) for k in {**a.missing, **b.missing}},
        log_weights, jacobians, residual,
        None if a.site is None or b.site is None else " and ".join(dict.fromkeys([a.site, b.site])),
    )  # fmt: skip


def _described(statistics: Statistics) -> str:
    model = statistics.model
    options = [f"{name}={value!r}" for name in ("se", "weights", "censored") if (value := getattr(model, name))]
    return ", ".join([repr(model.formula), model.family, *options])


def _warn_of_numbers(a: Statistics, b: Statistics) -> None:
    for name, numbers in numbered_alike(a, b).items():
        warnings.warn(
            f"Groups {listed(numbers, 5)} of {name!r} are numbers, occur in both parts and are taken to be the same. "
            f"If they are, give both parts a site, as in compress(..., site='north'); if each site numbers its own, "
            f"compress(..., site='north', own=[{name!r}]) keeps them apart.",
            BayeshlmWarning,
            stacklevel=outside_package(),
        )


def joint_layout(a: Statistics, b: Statistics) -> Layout:
    """The layout of both parts' rows together."""
    left, right = a.layout, b.layout
    if left == right:
        return left
    numeric = numeric_columns(a.model, left)
    differ = sorted(set(left.categories) ^ set(right.categories))
    differ += sorted(
        name for name in set(left.categories) & set(right.categories)
        if len({type(label) for label in (*left.categories[name], *right.categories[name])}) > 1
    )  # fmt: skip
    if differ or numeric != numeric_columns(b.model, right):
        raise DataError(f"Column {listed(differ)} holds numbers in one part and text in the other; make them alike.")
    categories, declared = {}, {}
    for name in left.categories:
        seen = {*left.categories[name], *right.categories[name]}
        orders = [layout.declared[name] for layout in (left, right) if name in layout.declared]
        order = _joint_order(name, orders, sorted(seen))
        categories[name] = tuple(label for label in order if label in seen)
        if orders:
            declared[name] = order
    return bind(a.model, numeric, categories, _joint_constants(a, b), declared)


def _joint_constants(a: Statistics, b: Statistics) -> dict[Node, tuple[float, float]]:
    """Mean and standard deviation of both parts' rows behind every `center` and `scale`."""
    joint = {}
    for node, (mean, sd) in a.layout.constants.items():
        other, other_sd = b.layout.constants[node]
        share = b.rows / (a.rows + b.rows)
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


def reexpress(statistics: Statistics, layout: Layout) -> Statistics:
    """The same rows in the columns of a layout that knows more categories (all columns change linearly)."""
    if statistics.layout == layout:
        return statistics
    table = _linear_map(statistics.layout, layout)
    columns = len(layout.columns)
    linear = np.zeros((columns, len(statistics.layout.columns)))
    linear[:-1, :-1] = table[1:, 1:]
    linear[-1, -1] = 1.0  # the response stays
    constant = np.append(table[1:, 0], 0.0)
    residual = statistics.residual
    if statistics.layout.residual is not None and layout.residual is not None:
        residual = np.array([layout.residual.labels.index(label) for label in statistics.layout.residual.labels])[
            residual
        ]
    scatter = linear @ statistics.scatter @ linear.T
    clamp(scatter)
    return dataclasses.replace(
        statistics, layout=layout, mean=statistics.mean @ linear.T, shift=linear @ statistics.shift + constant,
        scatter=scatter, residual=residual,
    )  # fmt: skip


def _linear_map(old: Layout, new: Layout) -> Array:
    """(new columns, old columns): an indicator of the reference is one minus the others, of the unseen is zero."""
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


def _moved(old: Layout, new: Layout) -> dict[Node, tuple[float, float]]:
    """(a, b) of every `center` and `scale` whose constants differ: its new value is a * old + b."""
    out = {}
    for node, (mean, sd) in new.constants.items():
        before, before_sd = old.constants[node]
        if (mean, sd) != (before, before_sd):
            unit, before_unit = (sd, before_sd) if node.value == "scale" else (1.0, 1.0)
            out[node] = (before_unit / unit, (before - mean) / unit)
    return out


def _one_type(left: Members, right: Members, keys: Sequence[str]) -> tuple[Members, Members]:
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
