"""Rows -> cells: equal rows of a group taken together, groups that are equal taken together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bayeshlm.arrays import Array, Codes
from bayeshlm.data.groups import combine
from bayeshlm.engines.quadrature.families import Kind

FEW = 0.5  # cells a row below which taking equal rows together is worth it
SMALL = 64  # cells a group on average up to which equal groups are looked for


def ordered(
    kind: Kind | None, group: Codes, design: Array, width: int, add: Sequence[int]
) -> tuple[Codes, Kind, Array]:
    """Rows of a kind by group, equal ones joined: (group of each cell, kind, columns (cells, p)).

    Weights in the columns `add` are summed over equal rows, the others tell rows apart. `width` is the number of
    weights where there are no rows of this kind.
    """
    if kind is None:
        kind = Kind(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros((0, width)))
    mine, x = group[kind.rows], design[kind.rows]
    apart = [k for k in range(kind.weights.shape[1]) if k not in add]
    cell = _cells(mine, [*x.T, kind.offset, *(kind.weights[:, k] for k in apart)])
    if cell is None:
        order = np.argsort(mine, kind="stable")
        return mine[order], Kind(kind.rows[order], kind.offset[order], kind.weights[order]), x[order]
    count = int(cell.max(initial=-1)) + 1
    first = np.empty(count, dtype=np.int64)
    first[cell[::-1]] = np.arange(len(cell) - 1, -1, -1)
    weights = kind.weights[first].copy()
    for k in add:
        weights[:, k] = np.bincount(cell, kind.weights[:, k], count)
    return mine[first], Kind(kind.rows[first], kind.offset[first], weights), x[first]


def _cells(group: Codes, columns: Sequence[Array]) -> Codes | None:
    """Cell of each row, cells in order of their groups; None where hardly any two rows are equal."""
    import pandas as pd

    rows = len(group)
    if not rows:
        return np.zeros(0, dtype=np.int64)
    coded: list[tuple[Codes, list[object]]] = [(group, [None] * (int(group.max()) + 1))]
    for column in columns:
        if column.min() == column.max():
            continue
        codes, distinct = pd.factorize(column, sort=True)
        if len(distinct) > FEW * rows and rows > 1000:
            return None
        coded.append((np.asarray(codes, dtype=np.int64), [None] * len(distinct)))
    cell, _ = combine(coded, rows)
    return cell if cell.max() + 1 <= max(FEW * rows, 1000) else None


def starts(group: Codes, groups: int) -> Codes:
    """(groups + 1,) where each group's cells start among cells in order of their groups."""
    return np.concatenate([[0], np.cumsum(np.bincount(group, minlength=groups))]).astype(np.int64)


def equal_groups(parent: Codes, numbers: Array, parts: Sequence[tuple[Codes, Array]]) -> Codes | None:
    """For each innermost group the first one that is its equal (same parent, same cells); None where none are.

    numbers (groups, k): numbers of a group; parts: (starts (groups + 1,), cells (cells, m)) of every kind.
    """
    groups = len(parent)
    cells = sum(len(values) for _, values in parts)
    if groups < 2 or cells > SMALL * groups:
        return None
    seen: dict[bytes, int] = {}
    stands = np.arange(groups)
    for g in range(groups):
        key = b"".join(
            [parent[g].tobytes(), numbers[g].tobytes(), *(v[f[g] : f[g + 1]].tobytes() + b"|" for f, v in parts)]
        )
        stands[g] = seen.setdefault(key, g)
    return stands if len(seen) < groups else None


def units_first(first: Codes, x: Array, offset: Array, weights: Array) -> tuple[Any, ...]:
    """Cells of `softplus` kind with those of weights 1 and 0 first in each group; their numbers (groups,) come last."""
    group = np.repeat(np.arange(len(first) - 1), np.diff(first))
    unit = (weights == (1.0, 0.0)).all(axis=1)
    order = np.lexsort((~unit, group))
    units = np.bincount(group[unit], minlength=len(first) - 1).astype(np.int64)
    return first, x[order], offset[order], weights[order], units
