"""Any frame -> rows ready to be summed: columns found, missing rows dropped and counted, formula compiled.

Everything is a narwhals expression, so the same code runs on pandas, Polars, PyArrow and (lazily) on DuckDB.
Columns get internal names (c0, c1, ...), so that no name of the user's reaches a query.
"""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np

from bayeshlm.data.layout import Column, Layout, bind, categorical_columns, plain_labels
from bayeshlm.errors import DataError, listed
from bayeshlm.spec.expressions import Node, compile_expression
from bayeshlm.spec.formula import Factor
from bayeshlm.spec.model import Model

Frame = nw.DataFrame[Any] | nw.LazyFrame[Any]
MAX_CATEGORIES = 200
NUMERIC_HINT = "If it should be a number, convert it; if it is a grouping, use (1 | {name})."
READERS = {".csv": "csv", ".tsv": "csv", ".txt": "csv", ".parquet": "parquet", ".pq": "parquet"}
NOT_AVAILABLE = ["", "NA", "NaN", "nan", "null", "NULL"]


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
    """

    frame: Frame
    names: Mapping[str, str]
    layout: Layout
    values: Mapping[str, Mapping[Any, Any]]
    total: int
    used: int
    missing: Mapping[str, int]

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
    """Wrap a frame, or open a path or glob of CSV or Parquet files with DuckDB.

    Raises
    ------
    DataError
        If the path leads nowhere, its type is unknown, or the object is no frame.
    """
    if isinstance(data, str | Path):
        return _open_files(str(data))
    try:
        frame: Frame = nw.from_native(data)
    except TypeError as error:
        raise DataError(
            f"data is a {type(data).__name__}; give a pandas, Polars or PyArrow table, a DuckDB relation, or the path "
            "of a CSV or Parquet file."
        ) from error
    return frame


def _open_files(path: str) -> nw.LazyFrame[Any]:
    import duckdb

    found = sorted(glob.glob(path)) or ([path] if os.path.exists(path) else [])
    if not found:
        raise DataError(f"No file at {path!r}.")
    suffixes = {_suffix(name) for name in found}
    kinds = {READERS.get(suffix) for suffix in suffixes}
    if len(kinds) != 1 or None in kinds:
        raise DataError(f"{path!r}: cannot read {listed(sorted(suffixes))}; known are {', '.join(READERS)} (and .gz).")
    connection = duckdb.connect()
    try:
        if kinds == {"csv"}:
            # Quotes are stated: guessed from the first rows, they are missed where only later rows or files have them.
            relation = connection.read_csv(found, na_values=NOT_AVAILABLE, quotechar='"', escapechar='"')  # type: ignore[arg-type]  # stub: str only
        else:
            relation = connection.read_parquet(found)
    except duckdb.Error as error:
        raise DataError(f"{path!r} cannot be read: {str(error).splitlines()[0]}") from error
    return nw.from_native(relation)


def _suffix(name: str) -> str:
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    return suffixes[-2] if len(suffixes) > 1 and suffixes[-1] in (".gz", ".zst") else (suffixes or [""])[-1]


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
    frame = open_frame(data)
    schema = dict(frame.collect_schema())
    _check_columns(model, list(schema))
    names = {name: f"c{k}" for k, name in enumerate(model.columns)}
    frame = frame.select(*(nw.col(name).alias(alias) for name, alias in names.items()))
    frame = _intervals(model, frame, names, schema)
    numeric = {name: schema[name].is_numeric() for name in names}
    categorical = categorical_columns(model, numeric)
    _check_types(model, schema, numeric, categorical)

    frame, total, absent = _drop_missing(frame, names, schema)
    used = total - absent.pop("", 0)
    if missing == "error" and absent:
        raise DataError(f"Missing values: {_counts(absent)}. Use missing='drop' to leave these rows out.")
    if used == 0:
        raise DataError("The table has no rows." if total == 0 else f"No complete row is left: {_counts(absent)}.")

    found = {name: _categories(frame, names[name], name, schema[name]) for name in categorical}
    values = {name: pairs for name, (pairs, _) in found.items()}
    rows = Rows(frame, names, Layout((), (), ()), values, total, used, absent)
    constants = _constants(model, rows)
    categories = {name: tuple(pairs) for name, pairs in values.items()}
    layout = bind(model, numeric, categories, constants, {n: order for n, (_, order) in found.items() if order})
    return Rows(frame, names, layout, values, total, used, absent)


def collect(frame: Frame) -> nw.DataFrame[Any]:
    """The frame in memory. Raises DataError where a file turns out broken only when it is read."""
    if not isinstance(frame, nw.LazyFrame):
        return frame
    if not frame.implementation.is_duckdb():
        return frame.collect()
    import duckdb

    try:  # pandas, since by default DuckDB is collected by way of PyArrow, which need not be installed
        return frame.collect("pandas")
    except duckdb.Error as error:
        raise DataError(f"The data cannot be read: {str(error).strip()}") from error


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
    allowed = {name for name in booleans if schema[name] == nw.Boolean}
    wrong = [f"{name!r} is {schema[name]}" for name in sorted(wanted) if not numeric[name] and name not in allowed]
    if wrong:
        raise DataError(f"A number is needed: {'; '.join(wrong)}. Convert the column before fitting.")
    for name in model.status_columns[:1]:
        if numeric[name] or schema[name] == nw.Boolean:
            raise DataError(f"censored={name!r} is {schema[name]}; it must hold the words none, left, right, interval.")


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
    import pandas as pd

    found = collect(frame.select(alias).unique())[alias]
    values = [value for value in found.to_list() if value is not None]
    if len(values) > MAX_CATEGORIES:
        raise DataError(
            f"Column {name!r} ({dtype}) enters the formula as categories and has {len(values)} of them. "
            + NUMERIC_HINT.format(name=name)
        )
    order: list[Any] = []
    if isinstance(dtype, nw.Enum):
        order = list(dtype.categories)
    elif isinstance(dtype, nw.Categorical):
        # Only pandas' categories have an order of the user's; elsewhere it is the accident of first appearance.
        native = found.to_native()
        order = list(native.cat.categories) if isinstance(native, pd.Series) else []
    pairs = dict(zip(plain_labels(name, values), values, strict=True))
    declared = tuple(plain_labels(name, order))
    labels = [label for label in declared if label in pairs] if set(declared) >= set(pairs) else sorted(pairs)
    return {label: pairs[label] for label in labels}, declared


def _constants(model: Model, rows: Rows) -> dict[Node, tuple[float, float]]:
    """Mean and standard deviation (divisor n) behind every `center` and `scale`."""
    terms = [*model.terms.common, *(effect for group in model.terms.groups for effect in group.effects)]
    nodes = dict.fromkeys(node for term in terms for factor in term.factors for node in factor.node.stateful())
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
