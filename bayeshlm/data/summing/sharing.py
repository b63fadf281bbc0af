"""Statistics that leave their site: labels that are a site's own, and cells too small to be handed on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from bayeshlm.data.groups import combine
from bayeshlm.data.layout import Layout, residual_column
from bayeshlm.data.summing.cells import Cells
from bayeshlm.errors import DataError, listed
from bayeshlm.spec.model import Model

SHOWN = 5  # cells named in a message


def check_sharing(model: Model, min_cell: int | None, site: str | None, own: Sequence[str]) -> None:
    """Check the arguments `min_cell`, `site` and `own` of `compress`."""
    if min_cell is not None and (isinstance(min_cell, bool) or not isinstance(min_cell, int) or min_cell < 1):
        raise DataError(f"min_cell={min_cell!r} must be a whole number of at least 1, or None.")
    if site is not None and (not isinstance(site, str) or not site.strip()):
        raise DataError(f"site={site!r} must be the name of a place, or None.")
    if isinstance(own, str):
        raise DataError(f"own={own!r} must be a list of columns, as in own=[{own!r}].")
    keys = list(dict.fromkeys(key for group in model.terms.groups for key in group.level))
    unknown = [name for name in own if name not in keys]
    if unknown:
        raise DataError(
            f"own= names {listed(unknown)}; the grouping columns of this model are {listed(keys) or 'none'}."
        )
    if own and site is None:
        raise DataError("own= needs site=, the name that tells this site's labels from those of others.")


def with_own_labels(cells: Cells, site: str | None, own: Sequence[str]) -> Cells:
    """Labels of the columns in `own` become "site: label"."""
    labels, codes = list(cells.labels), cells.codes.copy()
    for name in own:
        key = cells.keys.index(name)
        texts = [f"{site}: {label}" for label in labels[key]]
        order = sorted(range(len(texts)), key=texts.__getitem__)  # numbers are in another order as text
        rank = np.empty(len(texts), dtype=np.int64)
        rank[order] = np.arange(len(texts))
        labels[key], codes[:, key] = [texts[k] for k in order], rank[codes[:, key]]
    return dataclasses.replace(cells, labels=labels, codes=codes) if own else cells


def check_small_cells(model: Model, layout: Layout, cells: Cells, min_cell: int) -> None:
    """Refuse cells of fewer rows, and categories of fewer rows within a cell: their sums can be read off.

    Raises
    ------
    DataError
        Naming the smallest cells.
    """
    spread = residual_column(model)
    keys = [key for level in layout.levels for key in level.keys] + ([] if spread is None else [spread])
    crossed = dict.fromkeys(tuple(name for name, _ in column.indicators) for column in layout.columns)
    small: dict[str, float] = {}
    for names in crossed:
        by = list(dict.fromkeys([*keys, *names]))
        places = [cells.keys.index(name) for name in by]
        cell, codes = combine([(cells.codes[:, k], cells.labels[k]) for k in places], len(cells.count))
        count = np.bincount(cell, cells.count, len(codes))
        for row in np.flatnonzero(count < min_cell):
            values = [
                f"{n}={cells.labels[k][codes[row, j]]!r}" for j, (n, k) in enumerate(zip(by, places, strict=True))
            ]
            small.setdefault(", ".join(values) or "all rows", count[row])
    if small:
        first = sorted(small, key=small.__getitem__)[:SHOWN]
        named = "; ".join(f"{name} ({int(small[name])} rows)" for name in first)
        raise DataError(
            f"min_cell={min_cell}: {len(small)} cells have fewer rows, and their sums would give these rows away: "
            f"{named}{' ...' if len(small) > SHOWN else ''}. Join small groups or categories, or leave them out."
        )
