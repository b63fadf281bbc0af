"""Grouping columns -> integer codes and labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import narwhals as nw
import numpy as np

from bayeshlm.arrays import Codes
from bayeshlm.data.layout import plain_labels

FEW = 4  # numbers a row, up to which a table of all of them is quicker than hashing or sorting the rows


def factorize(column: nw.Series[Any], name: str) -> tuple[Codes, list[Any]]:
    """(code per row, -1 where it is missing, sorted distinct labels); `name` is what the user calls the column."""
    import pandas as pd

    native = column.to_native()
    if (
        isinstance(native, pd.Series)
        and isinstance(native.dtype, np.dtype)
        and native.dtype.kind == "i"
        and len(native)
    ):
        values = native.to_numpy()
        low, size = int(values.min()), int(values.max()) - int(values.min()) + 1
        if size <= FEW * len(values):  # numbers that serve as their own codes: no hashing
            ranks, found = _renumber(values.astype(np.int64) - low, size, len(values))
            return ranks, plain_labels(name, (found + low).tolist())
    codes, unique = pd.factorize(native if isinstance(native, pd.Series) else column.to_numpy())
    labels = plain_labels(name, unique.tolist() if isinstance(unique, np.ndarray | pd.Index) else list(unique))
    numbers = bool(labels) and isinstance(labels[0], int)
    order = np.argsort(np.array(labels)).tolist() if numbers else sorted(range(len(labels)), key=labels.__getitem__)
    rank = np.empty(len(labels) + 1, dtype=np.int64)
    rank[order] = np.arange(len(labels))
    rank[-1] = -1  # pandas' code of what is missing stays -1, and never becomes the last group
    return rank[codes], [labels[k] for k in order]


def combine(coded: list[tuple[Codes, list[Any]]], rows: int) -> tuple[Codes, Codes]:
    """(cell of each row, (cells, keys) codes of each cell), cells in lexical order of their codes."""
    import pandas as pd

    if not coded:
        return np.zeros(rows, dtype=np.int64), np.zeros((1, 0), dtype=np.int64)
    cell, size = np.zeros(rows, dtype=np.int64), 1
    for codes, labels in coded:
        if size * max(len(labels), 1) > 2**62:  # renumber before the product overflows
            cell, size = np.asarray(pd.factorize(cell, sort=True)[0], dtype=np.int64), rows
        cell, size = cell * len(labels) + codes, size * len(labels)
    cell, found = _renumber(cell, size, rows)
    first = np.empty(len(found), dtype=np.int64)
    first[cell[::-1]] = np.arange(rows - 1, -1, -1)
    return cell, np.stack([codes[first] for codes, _ in coded], axis=1)


def _renumber(cell: Codes, size: int, rows: int) -> tuple[Codes, Codes]:
    """(numbers below `size` without their gaps, in the same order; those that occur)."""
    import pandas as pd

    if size <= FEW * rows:  # a table of all of them is smaller than sorting the rows
        occurs = np.bincount(cell, minlength=size) > 0
        return (cell if occurs.all() else (np.cumsum(occurs) - 1)[cell]), np.flatnonzero(occurs)
    codes, unique = pd.factorize(cell, sort=True)
    return np.asarray(codes, dtype=np.int64), np.asarray(unique)


def joined_labels(members: Sequence[tuple[Any, ...]]) -> list[Any]:
    """One label a group: the value itself, or `parent:child`; colons in values are escaped if two would collide."""
    if members and len(members[0]) == 1:
        return [member[0] for member in members]
    labels = [":".join(map(str, member)) for member in members]
    if len(set(labels)) < len(labels):
        labels = [":".join(str(value).replace(":", "\\:") for value in member) for member in members]
    return labels


def sorted_members(members: set[tuple[Any, ...]]) -> tuple[tuple[Any, ...], ...]:
    """Groups in order of their labels, position by position (each position has labels of one type)."""
    return tuple(sorted(members))
