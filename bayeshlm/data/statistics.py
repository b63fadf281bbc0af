"""Sufficient statistics: all that the exact engine needs of the rows, whatever their number."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bayeshlm.arrays import Array, Codes
from bayeshlm.data.groups import joined_labels
from bayeshlm.data.layout import Layout, bound_model
from bayeshlm.spec.model import Model


@dataclass(frozen=True, eq=False)
class Statistics:
    """Cross products per cell, a cell being one combination of groups (and of the categories of sigma) that occurs.

    All that an uncensored gaussian or lognormal likelihood needs. For the other families they are moments only, of the
    response itself (binomial: of the share of successes, weighted by the trials).

    With a_i = (columns of every term, y) and the cells' means m: ``weight`` = sum w, ``mean`` = m - ``shift``,
    ``scatter`` = sum w (a - m)(a - m)'. Centred before multiplying, so that a large offset costs no digits; two parts
    add up by Chan, Golub and LeVeque (1983), American Statistician 37(3), equation 2.1 in its matrix form.

    Attributes
    ----------
    model : Model
        Bound to the columns, see `bayeshlm.data.layout.bound_model`.
    layout : Layout
        Its `columns[1:]` are the columns here; the response comes last.
    members : tuple of tuple of tuple
        Per level of the layout its groups, each the values of the level's columns; see `labels`.
    codes : (cells, levels) int
        Group of each cell on each level.
    count, weight : (cells,)
        Rows, and the sum of the precision weights (the same where there are none).
    mean : (cells, columns)
    scatter : (cells, columns, columns)
    shift : (columns,)
    total_rows, rows : int
        Rows seen, and rows used.
    missing : mapping
        Column -> rows dropped because it was missing.
    log_weights : (cells,)
        Sum of the logs of the precision weights.
    jacobians : (cells,)
        -sum log(response) for lognormal, else 0.
    residual : (cells,) int
        Category of `Layout.residual`; zeros where all rows share one sigma.
    site : str, optional
        Where the rows come from; see `compress`.

    Notes
    -----
    What is disclosed when statistics are handed on instead of rows: per cell its number of rows, and the means and
    cross products of the columns. A cell of one row is that row, every used value of it; two rows are given away up to
    their order. Where a column is a category, or a number of few values, the same holds for the rows of one
    category within a cell, whose sums can be read off. `compress(..., min_cell=5)` refuses small cells and categories.
    """

    model: Model
    layout: Layout
    members: tuple[tuple[tuple[Any, ...], ...], ...]
    codes: Codes
    count: Array
    weight: Array
    mean: Array
    scatter: Array
    shift: Array
    total_rows: int
    rows: int
    missing: Mapping[str, int]
    log_weights: Array
    jacobians: Array
    residual: Codes
    site: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", bound_model(self.model, self.layout))

    @property
    def model_hash(self) -> str:
        """SHA-256 of what the statistics depend on: formula, family, se, weights and censoring, but not the priors."""
        record = json.loads(self.model.to_json())
        record.pop("priors")
        return hashlib.sha256(json.dumps(record, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    @property
    def sum_log_weight(self) -> float:
        return float(self.log_weights.sum())

    @property
    def log_jacobian(self) -> float:
        """Log density of the response less that of the scale on which effects add, of all rows."""
        return float(self.jacobians.sum())

    def labels(self, level: int) -> list[Any]:
        """Labels of a level's groups: the value itself, or `parent:child` where the level has several columns."""
        return joined_labels(self.members[level])

    def total(self) -> tuple[float, Array, Array]:
        """(weight, mean about the shift, scatter) of all rows."""
        weight = float(self.weight.sum())
        mean = self.weight @ self.mean / weight
        deviation = self.mean - mean
        return weight, mean, self.scatter.sum(axis=0) + (deviation.T * self.weight) @ deviation

    def __add__(self, other: Statistics) -> Statistics:
        """Statistics of both parts together. Raises DataError where they are not of the same model."""
        if not isinstance(other, Statistics):
            return NotImplemented
        from bayeshlm.data.summing.merge import merge

        return merge(self, other)

    def __radd__(self, other: Any) -> Statistics:
        """So that `sum` of several parts works, which starts from 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented
