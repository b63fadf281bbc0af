"""Any frame or path -> a narwhals frame; and from it to memory, with one wording for whatever turns out unreadable."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np

from bayeshlm.data.frames.sources import open_path
from bayeshlm.errors import DataError, listed

Frame = nw.DataFrame[Any] | nw.LazyFrame[Any]


def open_frame(data: Any) -> Frame:
    """Wrap a frame, or open a path (see `bayeshlm.data.frames.sources`) with DuckDB.

    Raises
    ------
    DataError
        If the path leads nowhere, its type is unknown, the object is no frame, or two of its columns have one name.
    """
    if isinstance(data, str | Path):
        return open_path(str(data))
    try:
        with warnings.catch_warnings():
            # narwhals announces a package `narwhals-dask` that is not published yet; until then its core has Dask.
            warnings.filterwarnings("ignore", "Dask support is moving out of Narwhals", FutureWarning)
            frame: Frame = nw.from_native(data)
            frame.collect_schema()
    except nw.exceptions.DuplicateError as error:
        raise DataError(
            f"Column {listed(_twice(data))} is in the data more than once. Rename or drop one of the two, so that a "
            "name means one column."
        ) from error
    except TypeError as error:
        raise DataError(
            f"data is a {type(data).__name__}; give a pandas, Polars, PyArrow, Dask or Spark table, a DuckDB relation, "
            "or the path of a CSV or Parquet file or of a table, 'file.duckdb::table'."
        ) from error
    return frame


def _twice(data: Any) -> list[str]:
    """Names that several columns of a pandas or Arrow table share."""
    names = data.column_names if hasattr(data, "column_names") else list(data.columns)
    return [str(name) for name, count in Counter(names).items() if count > 1]


def collect(frame: Frame) -> nw.DataFrame[Any]:
    """The frame in memory. Raises DataError where a file or a query turns out broken only when it is read."""
    if not isinstance(frame, nw.LazyFrame):
        return frame
    kind = frame.implementation
    # pandas, since by default DuckDB is collected by way of PyArrow, which need not be installed
    options: dict[str, Any] = {"backend": "pandas"} if kind.is_duckdb() else {}
    if kind.is_polars():
        options["engine"] = "streaming"  # in bounded memory, whatever the number of rows
    try:
        return frame.collect(**options)
    except _reading_errors(kind) as error:
        raise DataError(f"The data cannot be read: {_reason(error)}") from error


def _reading_errors(kind: nw.Implementation) -> tuple[type[Exception], ...]:
    """What an engine raises for data it cannot read; all of these engines are imported by the frame's owner."""
    if kind.is_duckdb():
        import duckdb

        return (duckdb.Error,)
    if kind.is_polars():
        import polars.exceptions

        return (polars.exceptions.PolarsError, nw.exceptions.NarwhalsError, OSError)
    if kind.is_pyspark() or kind.is_pyspark_connect():
        import py4j.protocol
        import pyspark.errors

        return (pyspark.errors.PySparkException, py4j.protocol.Py4JError, nw.exceptions.NarwhalsError)
    return (OSError, ValueError, nw.exceptions.NarwhalsError)  # Dask raises what its readers do


def _reason(error: Exception) -> str:
    """The first lines of an engine's message: Spark's are followed by a query plan and a Java trace."""
    text = str(error).strip()
    named = [line.strip() for line in text.splitlines() if line.strip().startswith("file = ")]  # DuckDB's, far down
    return " ".join([*text.split("\n\n")[0].splitlines()[:5], *named])[:500]


def aggregate(frame: Frame, expressions: Mapping[str, nw.Expr]) -> dict[str, Any]:
    """One row of aggregates, as plain values."""
    if not expressions:
        return {}
    with np.errstate(all="ignore"):  # log(-1) is counted and refused, not warned of
        row = collect(frame.select(**expressions))
    return {name: row[name].to_list()[0] for name in expressions}
