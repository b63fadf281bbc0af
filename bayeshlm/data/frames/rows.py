"""Any frame -> rows ready to be summed: columns found, missing rows dropped and counted, formula compiled.

Everything is a narwhals expression, so the same code runs on pandas, Polars, PyArrow and (lazily) on Polars, DuckDB,
Dask and Spark. Columns get internal names (c0, c1, ...), so that no name of the user's reaches a query.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np

from bayeshlm.data.frames.sources import open_path
from bayeshlm.data.layout import Column, Layout, bind, categorical_columns, plain_labels, stateful
from bayeshlm.errors import DataError, listed
from bayeshlm.spec.expressions import Node, compile_expression
from bayeshlm.spec.model import Model
from bayeshlm.spec.terms import Factor

Frame = nw.DataFrame[Any] | nw.LazyFrame[Any]
MAX_CATEGORIES = 200
NUMERIC_HINT = "If it should be a number, convert it; if it is a grouping, use (1 | {name})."


@dataclass(frozen=True)
class Rows:
    """Complete rows of a data set, bound to a model.

    Attributes
    ----------
    frame : narwhals frame
        Columns c0, c1, ...; rows with a missing value are gone.
    names : mapping
        User's column -> internal column.
    layout : Layout
    values : mapping
        Categorical column -> {label: value in the frame}.
    total, used : int
        Rows before and after dropping the incomplete ones.
    missing : mapping
        User's column -> number of rows in which it is missing (only where there are any).
    types : mapping
        User's column -> its narwhals type.
    """

    frame: Frame
    names: Mapping[str, str]
    layout: Layout
    values: Mapping[str, Mapping[Any, Any]]
    total: int
    used: int
    missing: Mapping[str, int]
    types: Mapping[str, Any] = field(default_factory=dict)

    @property
    def numeric(self) -> dict[str, bool]:
        """User's column -> whether its type is numeric."""
        return {name: dtype.is_numeric() for name, dtype in self.types.items()}

    def number(self, name: str) -> nw.Expr:
        """A column as float64."""
        return nw.col(self.names[name]).cast(nw.Float64)

    def column(self, column: Column) -> nw.Expr:
        """A design column as float64."""
        parts = [compile_expression(node, self.number, self.layout.constants) for node in column.numeric]
        parts += [(nw.col(self.names[n]) == self.values[n][label]).cast(nw.Float64) for n, label in column.indicators]
        product: nw.Expr = reduce(lambda a, b: a * b, parts) if parts else nw.lit(1.0)
        return product

    def evaluate(self, factor: Factor) -> nw.Expr:
        """A factor without constants of the data, such as an offset, as float64."""
        value: nw.Expr = compile_expression(factor.node, self.number, {})
        return value

    def trials(self, model: Model) -> nw.Expr | None:
        """Trials of each row, or None for responses that have none."""
        if model.terms.trials is None:
            return None
        # A constant number of trials becomes a column, as aggregates want one.
        return self.evaluate(model.terms.trials) + 0.0 * self.evaluate(model.terms.response)

    def offset(self, model: Model) -> nw.Expr | None:
        """What is added to the linear predictor, or None where nothing is."""
        parts = [self.evaluate(factor) for factor in model.terms.offsets]
        return reduce(lambda a, b: a + b, parts) if parts else None

    def response(self, model: Model) -> nw.Expr:
        """The response whose moments are kept.

        gaussian and lognormal: less the offset, on the scale on which effects add (its log for lognormal); binomial:
        the share of successes; all others: as it is.
        """
        y, offset, trials = self.evaluate(model.terms.response), self.offset(model), self.trials(model)
        if trials is not None:
            return y / trials
        y = y.log() if model.family_spec.log_response else y
        return y - offset if offset is not None and model.family_spec.moments_suffice else y


def open_frame(data: Any) -> Frame:
    """Wrap a frame, or open a path (see `bayeshlm.data.frames.sources`) with DuckDB.

    Raises
    ------
    DataError
        If the path leads nowhere, its type is unknown, or the object is no frame.
    """
    if isinstance(data, str | Path):
        return open_path(str(data))
    try:
        with warnings.catch_warnings():
            # narwhals announces a package `narwhals-dask` that is not published yet; until then its core has Dask.
            warnings.filterwarnings("ignore", "Dask support is moving out of Narwhals", FutureWarning)
            frame: Frame = nw.from_native(data)
    except TypeError as error:
        raise DataError(
            f"data is a {type(data).__name__}; give a pandas, Polars, PyArrow, Dask or Spark table, a DuckDB relation, "
            "or the path of a CSV or Parquet file or of a table, 'file.duckdb::table'."
        ) from error
    return frame


def find_columns(model: Model, data: Any) -> Rows:
    """The model's columns of the data, under internal names; no row is read.

    Raises
    ------
    DataError
        Missing columns, or text where a number is needed.
    """
    frame = open_frame(data)
    schema = dict(frame.collect_schema())
    _check_columns(model, list(schema))
    names = {name: f"c{k}" for k, name in enumerate(model.columns)}
    frame = frame.select(*(nw.col(name).alias(alias) for name, alias in names.items()))
    frame = _intervals(model, frame, names, schema)
    types = {name: schema[name] for name in names}
    numeric = {name: dtype.is_numeric() for name, dtype in types.items()}
    categorical = categorical_columns(model, numeric)
    _check_types(model, schema, numeric, categorical)
    _check_objects(frame, names, types, categorical)
    return Rows(frame, names, Layout((), (), ()), {}, 0, 0, {}, types)


def drop_incomplete(model: Model, rows: Rows, *, missing: str = "drop") -> Rows:
    """Drop and count incomplete rows, and take the constants of `center` and `scale` from what is left.

    Raises
    ------
    DataError
        An empty table, or missing values under ``missing="error"``.
    """
    frame, total, absent = _drop_missing(rows.frame, rows.names, rows.types)
    used = total - absent.pop("", 0)
    if missing == "error" and absent:
        raise DataError(f"Missing values: {_counts(absent)}. Use missing='drop' to leave these rows out.")
    if used == 0:
        raise DataError("The table has no rows." if total == 0 else f"No complete row is left: {_counts(absent)}.")
    rows = replace(rows, frame=frame, total=total, used=used, missing=absent)
    return replace(rows, layout=Layout((), (), (), constants=_constants(model, rows)))


def bind_layout(model: Model, rows: Rows) -> Rows:
    """Lay out the design columns for the categories that occur in complete rows."""
    categorical = categorical_columns(model, rows.numeric)
    found = {name: _categories(rows.frame, rows.names[name], name, rows.types[name]) for name in categorical}
    values = {name: pairs for name, (pairs, _) in found.items()}
    categories = {name: tuple(pairs) for name, pairs in values.items()}
    declared = {name: order for name, (_, order) in found.items() if order}
    return replace(
        rows, values=values, layout=bind(model, rows.numeric, categories, rows.layout.constants, declared)
    )  # fmt: skip


def prepare(model: Model, data: Any, *, missing: str = "drop") -> Rows:
    """Check the columns, drop incomplete rows and bind the model to what is left.

    Parameters
    ----------
    model : Model
    data : frame or path
    missing : {"drop", "error"}
        What to do with rows in which a used column is null or NaN.

    Raises
    ------
    DataError
        Missing columns, an empty table, text where a number is needed, missing values under ``missing="error"``.
    """
    return bind_layout(model, drop_incomplete(model, find_columns(model, data), missing=missing))


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


def _check_columns(model: Model, available: list[str]) -> None:
    absent = [name for name in model.columns if name not in available]
    if absent:
        hints = {name: difflib.get_close_matches(name, available, 1) for name in absent}
        near = "; ".join(f"did you mean {hint[0]!r} for {name!r}?" for name, hint in hints.items() if hint)
        raise DataError(
            f"Column not in the data: {listed(absent)}. The data have {listed(available, 20)}. {near}".strip()
        )


def _check_types(
    model: Model, schema: Mapping[str, Any], numeric: Mapping[str, bool], categorical: tuple[str, ...]
) -> None:
    outcomes = {
        name for factor in (model.terms.response, model.terms.trials) if factor for name in factor.node.columns()
    }
    wanted = {*outcomes, *(name for name in (model.se, model.weights, *model.status_columns[1:]) if name)}
    wanted |= {name for factor in model.terms.offsets for name in factor.node.columns()}
    booleans = outcomes if model.family_spec.support == "binary" else set()
    for term in (*model.terms.common, *(effect for group in model.terms.groups for effect in group.effects)):
        for factor in term.factors:
            if not factor.node.categorical and factor.node.kind != "column":
                wanted |= set(factor.node.columns())
    spread = model.terms.sigma
    if spread is not None and not spread.node.categorical and numeric[spread.name]:
        raise DataError(
            f"'sigma ~ {spread.name}': the residual standard deviation differs by the categories of a factor, and "
            f"{spread.name!r} is {schema[spread.name]}. Write sigma ~ C({spread.name}) if each of its values is one."
        )
    allowed = {name for name in booleans if schema[name] == nw.Boolean}
    wrong = [f"{name!r} is {schema[name]}" for name in sorted(wanted) if not numeric[name] and name not in allowed]
    if wrong:
        raise DataError(f"A number is needed: {'; '.join(wrong)}. Convert the column before fitting.")
    for name in model.status_columns[:1]:
        if numeric[name] or schema[name] == nw.Boolean:
            raise DataError(f"censored={name!r} is {schema[name]}; it must hold the words none, left, right, interval.")


def _check_objects(frame: Frame, names: Mapping[str, str], types: Mapping[str, Any], categorical: Any) -> None:
    """Numbers kept as Python objects would enter as categories from pandas, and as numbers from any other frame."""
    import pandas as pd

    held = {name: pd.api.types.infer_dtype(nw.to_native(frame)[names[name]], skipna=True)
            for name in categorical if types[name] == nw.Object and frame.implementation.is_pandas()}  # fmt: skip
    numbers = [name for name, kind in held.items() if kind in ("decimal", "integer", "floating", "mixed-integer-float")]
    if numbers:
        raise DataError(
            f"Column {listed(numbers)} holds numbers, but its type is object. Convert it, e.g. with astype(float), or "
            "make its values text if they are categories."
        )


def _intervals(model: Model, frame: Frame, names: Mapping[str, str], schema: Mapping[str, Any]) -> Frame:
    """Upper ends count in rows of intervals only: elsewhere they may be missing, and become 0."""
    if len(model.status_columns) < 2 or not schema[model.status_columns[1]].is_numeric():
        return frame
    status, upper = (names[name] for name in model.status_columns)
    interval = nw.col(status).cast(nw.String) == "interval"
    return frame.with_columns(
        nw.when(~interval).then(nw.lit(0.0)).otherwise(nw.col(upper).cast(nw.Float64)).alias(upper)
    )


def _drop_missing(
    frame: Frame, names: Mapping[str, str], schema: Mapping[str, Any]
) -> tuple[Frame, int, dict[str, int]]:
    """(complete rows, number of rows, column -> missing count with '' for rows that miss anything)."""
    masks = {}
    for name, alias in names.items():
        mask = nw.col(alias).is_null()
        masks[name] = mask | nw.col(alias).is_nan() if schema[name].is_float() else mask
    incomplete = reduce(lambda a, b: a | b, masks.values())
    wanted = {"total": nw.len(), "incomplete": incomplete.cast(nw.Int64).sum()}
    wanted |= {f"m{k}": mask.cast(nw.Int64).sum() for k, mask in enumerate(masks.values())}
    counts = aggregate(frame, wanted)
    absent = {name: int(counts[f"m{k}"] or 0) for k, name in enumerate(masks)}
    absent = {name: count for name, count in absent.items() if count}
    if absent:
        frame = frame.filter(~incomplete)
        absent[""] = int(counts["incomplete"])
    return frame, int(counts["total"]), absent


def _counts(absent: Mapping[str, int]) -> str:
    return ", ".join(f"{name!r} in {count} rows" for name, count in absent.items())


def _categories(frame: Frame, alias: str, name: str, dtype: Any) -> tuple[dict[Any, Any], tuple[Any, ...]]:
    """({label: value} of the categories that occur, the type's own order or nothing); sorted where it has none."""
    found = collect(frame.select(alias).unique())[alias]
    values = [value for value in found.to_list() if value is not None]
    pairs = dict(zip(plain_labels(name, values), values, strict=True))
    labels, declared = _in_order(name, dtype, list(pairs), _own_order(frame, alias, dtype))
    return {label: pairs[label] for label in labels}, declared


def ordered_categories(rows: Rows, name: str, found: list[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """(labels that occur, in order; the order of the column's type, or nothing). Sorted where the type has none."""
    return _in_order(name, rows.types[name], found, _own_order(rows.frame, rows.names[name], rows.types[name]))


def _in_order(name: str, dtype: Any, found: list[Any], own: list[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    if len(found) > MAX_CATEGORIES:
        raise DataError(
            f"Column {name!r} ({dtype}) enters the formula as categories and has {len(found)} of them. "
            + NUMERIC_HINT.format(name=name)
        )
    declared = tuple(plain_labels(name, own))
    complete = set(declared) >= set(found)
    return tuple([label for label in declared if label in set(found)] if complete else sorted(found)), declared


def _own_order(frame: Frame, alias: str, dtype: Any) -> list[Any]:
    """Categories in the order of the column's type, where that order is the user's."""
    if isinstance(dtype, nw.Enum):
        return list(dtype.categories)
    if not isinstance(dtype, nw.Categorical):
        return []
    # Only pandas' and Dask's categories have such an order; elsewhere it is the accident of first appearance.
    native: Any = nw.to_native(frame)
    pandas = frame.implementation.is_pandas() or (frame.implementation.is_dask() and native[alias].cat.known)
    return list(native[alias].cat.categories) if pandas else []


def _constants(model: Model, rows: Rows) -> dict[Node, tuple[float, float]]:
    """Mean and standard deviation (divisor n) behind every `center` and `scale`."""
    nodes = stateful(model)
    arguments = {f"a{k}": compile_expression(node.children[0], rows.number, {}) for k, node in enumerate(nodes)}
    means = aggregate(rows.frame, {name: argument.mean() for name, argument in arguments.items()})
    spreads = aggregate(rows.frame, {k: ((a - means[k]) * (a - means[k])).mean() for k, a in arguments.items()})
    constants = {}
    for k, node in enumerate(nodes):
        mean, sd = float(means[f"a{k}"]), float(np.sqrt(spreads[f"a{k}"]))
        if not np.isfinite(mean) or (node.value == "scale" and not (np.isfinite(sd) and sd > 0)):
            column = listed(node.columns())
            raise DataError(f"{node.value}() of {column} needs finite values{' that vary' if sd == 0 else ''}.")
        constants[node] = (mean, sd)
    return constants
