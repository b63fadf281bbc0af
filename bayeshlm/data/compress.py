"""Rows in, sufficient statistics out: the driver of this wing."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from bayeshlm.data.checks import table as checks
from bayeshlm.data.frames.rows import Rows, bind_layout, drop_incomplete, find_columns, prepare, words_note
from bayeshlm.data.layout import stateful
from bayeshlm.data.statistics import Statistics
from bayeshlm.data.summing.assemble import assemble
from bayeshlm.data.summing.cells import sum_cells, sum_checked
from bayeshlm.data.summing.sharing import check_sharing, check_small_cells, with_own_labels
from bayeshlm.errors import BayeshlmWarning, DataError, outside_package
from bayeshlm.spec.model import Model


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
        See `bayeshlm.data.checks.table`: every offender is named before anything is fitted.
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
            rows = _tell_dropped(model, drop_incomplete(model, rows, missing=missing))
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
    return _tell_dropped(model, prepare(model, data, missing=missing))


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


def _tell_dropped(model: Model, rows: Rows) -> Rows:
    if rows.missing:
        dropped = ", ".join(f"{name!r} ({count})" for name, count in rows.missing.items())
        notes = [f"{rows.total - rows.used} of {rows.total} rows dropped for missing values in {dropped}."]
        notes += [f"Note: {words_note(rows.words)}."] if rows.words else []
        notes += [checks.ungrouped_note(names)] if (names := checks.ungrouped(model, rows.missing)) else []
        warnings.warn(" ".join(notes), BayeshlmWarning, stacklevel=outside_package())
    return rows
