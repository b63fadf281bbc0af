"""Sufficient statistics: all that the exact engine needs of the rows, whatever their number."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeshlm.data import checks
from bayeshlm.data.assemble import assemble
from bayeshlm.data.cells import sum_cells, sum_checked
from bayeshlm.data.frames import Rows, bind_layout, drop_incomplete, find_columns, prepare
from bayeshlm.data.groups import joined_labels
from bayeshlm.data.layout import Layout, stateful
from bayeshlm.data.sharing import check_sharing, check_small_cells, with_own_labels
from bayeshlm.errors import BayeshlmWarning, DataError, outside_package
from bayeshlm.spec.model import Model

Array = NDArray[np.float64]
Codes = NDArray[np.int64]


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
        from bayeshlm.data.merge import merge

        return merge(self, other)

    def __radd__(self, other: Any) -> Statistics:
        """So that `sum` of several parts works, which starts from 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented


def compress(
    model: Model,
    data: Any,
    *,
    missing: str = "drop",
    min_cell: int | None = None,
    site: str | None = None,
    own: Sequence[str] = (),
) -> Statistics:
    """Reduce rows to sufficient statistics, after checking them.

    Parameters
    ----------
    model : Model
    data : frame or path
        pandas, Polars (eager or lazy), PyArrow, Dask or Spark table, DuckDB relation, path or glob of CSV or Parquet
        files, or ``file.duckdb::table``. Only sums leave where the data live.
    missing : {"drop", "error"}
        Rows with a missing value in a used column are dropped, with a warning that counts them; or refused.
    min_cell : int, optional
        Refuse statistics in which fewer rows than this share a cell, or a category within a cell: of these hardly less
        than the rows themselves would be handed on (see `Statistics`).
    site : str, optional
        Name of the place the rows come from. Parts are added by the labels of their groups; where both parts number
        their groups, adding warns unless both name their site, as nobody else can know whether the two 7s are one.
    own : sequence of str
        Grouping columns whose labels this site alone uses: 7 becomes "north: 7", and no other site's 7.

    Returns
    -------
    Statistics

    Raises
    ------
    DataError
        See `bayeshlm.data.checks`: every offender is named before anything is fitted.
    """
    if not model.moments_suffice:
        what = f"family {model.family!r}" if model.censored is None else "censored responses"
        raise DataError(f"Sums of squares and products are not enough for {what}: fit needs the rows themselves.")
    _check_missing(missing)
    check_sharing(model, min_cell, site, own)
    rows = find_columns(model, data)
    with np.errstate(all="ignore"):  # what leaves the floats is refused, by row or by sum
        # Complete and finite data need one pass. If the sums show that they are not, each row is looked at.
        cells = None if stateful(model) else sum_cells(model, rows)
        if cells is None:
            rows = _tell_dropped(drop_incomplete(model, rows, missing=missing))
            cells = sum_cells(model, rows)
        if cells is None:
            rows = bind_layout(model, rows)
            checks.check_rows(model, rows)  # says which rows of which column
            cells = sum_checked(model, rows)
        cells = with_own_labels(cells, site, own)
        statistics = dataclasses.replace(assemble(model, rows, cells), site=site)
    checks.check_finite(statistics)
    if min_cell is not None:
        check_small_cells(model, statistics.layout, cells, min_cell)
    return statistics


def complete_rows(model: Model, data: Any, missing: str) -> Rows:
    """Rows bound to the model, the incomplete ones dropped with a warning or refused; values not yet checked."""
    _check_missing(missing)
    return _tell_dropped(prepare(model, data, missing=missing))


def moments(model: Model, rows: Rows) -> Statistics:
    """Check the rows and sum them. For families beyond the Gaussian ones these are moments, not all there is."""
    with np.errstate(all="ignore"):  # what leaves the floats is refused, by row or by sum
        checks.check_rows(model, rows)  # says which rows of which column
        statistics = assemble(model, rows, sum_checked(model, rows))
    checks.check_finite(statistics)
    return statistics


def _check_missing(missing: str) -> None:
    if missing not in ("drop", "error"):
        raise DataError(f"missing={missing!r}: it is 'drop' or 'error'.")


def _tell_dropped(rows: Rows) -> Rows:
    if rows.missing:
        dropped = ", ".join(f"{name!r} ({count})" for name, count in rows.missing.items())
        warnings.warn(
            f"{rows.total - rows.used} of {rows.total} rows dropped for missing values in {dropped}.",
            BayeshlmWarning,
            stacklevel=outside_package(),
        )
    return rows
