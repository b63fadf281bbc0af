"""Sums per combination of groups and categories -> a `Statistics` record: design columns laid out, groups named."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeshlm.arrays import Codes
from bayeshlm.data.cross_products import CrossProducts
from bayeshlm.data.frames.rows import Rows, ordered_categories
from bayeshlm.data.groups import combine
from bayeshlm.data.layout import Layout, Level, bind, categorical_columns, residual_column
from bayeshlm.data.statistics import Statistics
from bayeshlm.data.summing.cells import Cells
from bayeshlm.spec.model import Model


def assemble(model: Model, rows: Rows, cells: Cells) -> Statistics:
    """Lay out the design columns for the categories that occur, pool cells that differ in categories only, name groups.

    Parameters
    ----------
    model : Model
    rows : Rows
        What was summed.
    cells : Cells
    """
    layout = _layout(model, rows, cells)
    spread = residual_column(model)
    levels = list(dict.fromkeys(key for level in layout.levels for key in level.keys))
    kept = [cells.keys.index(key) for key in dict.fromkeys([*levels, *([] if spread is None else [spread])])]
    cell, codes = combine([(cells.codes[:, k], cells.labels[k]) for k in kept], len(cells.count))
    count, log_weight, response = (
        np.bincount(cell, values, len(codes)) for values in (cells.count, cells.log_weight, cells.response)
    )
    weight, mean, scatter = _design(layout, cells).pooled(cell, len(codes))
    base = np.array([_base(column, cells) for column in layout.columns[1:]] + [cells.centre[-1]])
    shift = base + weight @ mean / weight.sum()
    mean = mean - (shift - base)  # the correction is what the shift moved in floats, not what it should have
    names = {cells.keys[k]: (codes[:, j], cells.labels[k]) for j, k in enumerate(kept)}
    grouped = [_groups(level, names, len(codes)) for level in layout.levels]
    stacked = np.stack([group for group, _ in grouped], axis=1) if grouped else np.zeros((len(codes), 0), np.int64)
    used = int(cells.count.sum())
    jacobian = -response if model.family_spec.log_response else np.zeros(len(count))
    return Statistics(
        model, layout, tuple(members for _, members in grouped), stacked, count, weight, mean, scatter, shift,
        rows.total or used, used, dict(rows.missing), log_weight, jacobian,
        _residual(layout, names, spread, len(count)),
    )  # fmt: skip


def _layout(model: Model, rows: Rows, cells: Cells) -> Layout:
    categories: dict[str, tuple[Any, ...]] = {}
    declared: dict[str, tuple[Any, ...]] = {}
    for name in categorical_columns(model, rows.numeric):
        found = cells.labels[cells.keys.index(name)]
        categories[name], order = ordered_categories(model, rows, name, found)
        if order:
            declared[name] = order
    return bind(model, rows.numeric, categories, rows.layout.constants, declared)


def _base(column: Any, cells: Cells) -> float:
    """What a design column's mean is counted from: its product's centre, or 0 where indicators switch it off."""
    return 0.0 if column.indicators else float(cells.centre[_product_index(column, cells)])


def _product_index(column: Any, cells: Cells) -> int:
    return next(k for k, product in enumerate(cells.products) if frozenset(product) == frozenset(column.numeric))


def _design(layout: Layout, cells: Cells) -> CrossProducts:
    """Of the design columns and the response in every cell, means about `_base`.

    Where indicators are all 1 a column is its numeric product; where one is 0, and for pure indicators, it is constant.
    """
    columns, (weight, mean, scatter) = layout.columns[1:], cells.moments
    means = np.empty((len(cells.count), len(columns) + 1))
    source, on = np.full(len(columns) + 1, -1), np.ones((len(cells.count), len(columns) + 1))
    for k, column in enumerate(columns):
        for name, label in column.indicators:
            key = cells.keys.index(name)
            on[:, k] *= cells.codes[:, key] == cells.labels[key].index(label)
        if column.numeric:
            source[k] = index = _product_index(column, cells)
            means[:, k] = mean[:, index] if not column.indicators else on[:, k] * (cells.centre[index] + mean[:, index])
        else:
            means[:, k] = on[:, k]
    source[-1], means[:, -1] = len(cells.products), mean[:, -1]
    varies = on * (source >= 0)
    scatters = scatter[:, source[:, None], source[None, :]]  # -1 takes any: it is switched off
    if not (varies == 1).all():
        scatters = scatters * varies[:, :, None] * varies[:, None, :]
    return CrossProducts(weight, means, scatters)


def _groups(level: Level, names: dict[str, tuple[Codes, list[Any]]], cells: int) -> tuple[Codes, tuple[Any, ...]]:
    """(group of each cell, groups as tuples of labels)."""
    group, members = combine([names[key] for key in level.keys], cells)
    columns = [_take(names[key][1], member) for key, member in zip(level.keys, members.T, strict=True)]
    return group, tuple(zip(*columns, strict=True))


def _take(labels: list[Any], codes: Codes) -> list[Any]:
    return [labels[code] for code in codes.tolist()]


def _residual(layout: Layout, names: dict[str, tuple[Codes, list[Any]]], spread: str | None, cells: int) -> Codes:
    """Category of sigma in every cell; the layout's order of categories need not be that of the labels."""
    if layout.residual is None or spread is None:
        return np.zeros(cells, dtype=np.int64)
    codes, labels = names[spread]
    return np.array([layout.residual.labels.index(label) for label in labels], dtype=np.int64)[codes]
