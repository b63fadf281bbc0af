"""Any frame -> rows ready to be summed: columns found, missing rows dropped and counted, formula compiled.

Everything is a narwhals expression, so the same code runs on pandas, Polars, PyArrow and (lazily) on Polars, DuckDB,
Dask and Spark. Columns get internal names (c0, c1, ...), so that no name of the user's reaches a query.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import narwhals as nw
import numpy as np

from bayeshlm.data.frames.categories import categories, in_order, own_order
from bayeshlm.data.frames.columns import check_columns, check_types
from bayeshlm.data.frames.missing import Missing, drop_missing
from bayeshlm.data.frames.reading import Frame, aggregate, open_frame
from bayeshlm.data.frames.sources import WORDS
from bayeshlm.data.layout import Column, Layout, bare_columns, bind, categorical_columns, stateful
from bayeshlm.errors import DataError, listed
from bayeshlm.spec.expressions import Node, compile_expression
from bayeshlm.spec.model import Model
from bayeshlm.spec.terms import Factor


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
    words : mapping
        User's column -> those of them that hold a word for missing, see `bayeshlm.data.frames.missing`.
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
    words: Mapping[str, int] = field(default_factory=dict)

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


def find_columns(model: Model, data: Any) -> Rows:
    """The model's columns of the data, under internal names; no row is read.

    Raises
    ------
    DataError
        Missing columns, or text where a number is needed.
    """
    frame = open_frame(data)
    schema = dict(frame.collect_schema())
    check_columns(model, frame)
    names = {name: f"c{k}" for k, name in enumerate(model.columns)}
    types = {name: schema[name] for name in names}
    numeric = {name: dtype.is_numeric() for name, dtype in types.items()}
    check_types(model, frame, schema, numeric, categorical_columns(model, numeric))
    frame = frame.select(*(nw.col(name).alias(alias) for name, alias in names.items()))
    frame = _intervals(model, frame, names, schema)
    return Rows(frame, names, Layout((), (), ()), {}, 0, 0, {}, types)


def drop_incomplete(model: Model, rows: Rows, *, missing: str = "drop") -> Rows:
    """Drop and count incomplete rows, and take the constants of `center` and `scale` from what is left.

    Raises
    ------
    DataError
        An empty table, or missing values under ``missing="error"``.
    """
    frame, found = drop_missing(rows.frame, rows.names, rows.types)
    used = found.total - found.incomplete
    if missing == "error" and found.columns:
        raise DataError(f"Missing values: {_counts(found)}. Use missing='drop' to leave these rows out.")
    if used == 0:
        raise DataError("The table has no rows." if not found.total else f"No complete row is left: {_counts(found)}.")
    rows = replace(rows, frame=frame, total=found.total, used=used, missing=found.columns, words=found.words)
    return replace(rows, layout=Layout((), (), (), constants=_constants(model, rows)))


def bind_layout(model: Model, rows: Rows) -> Rows:
    """Lay out the design columns for the categories that occur in complete rows."""
    categorical, bare = categorical_columns(model, rows.numeric), bare_columns(model)
    found = {
        name: categories(rows.frame, rows.names[name], name, rows.types[name], bare=name in bare)
        for name in categorical
    }
    values = {name: pairs for name, (pairs, _) in found.items()}
    occurring = {name: tuple(pairs) for name, pairs in values.items()}
    declared = {name: order for name, (_, order) in found.items() if order}
    return replace(rows, values=values, layout=bind(model, rows.numeric, occurring, rows.layout.constants, declared))


def ordered_categories(
    model: Model, rows: Rows, name: str, found: list[Any]
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """(labels that occur, in order; the order of the column's type, or nothing). Sorted where the type has none."""
    own = own_order(rows.frame, rows.names[name], rows.types[name])
    return in_order(name, rows.types[name], found, own, bare=name in bare_columns(model))


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


def _intervals(model: Model, frame: Frame, names: Mapping[str, str], schema: Mapping[str, Any]) -> Frame:
    """Upper ends count in rows of intervals only: elsewhere they may be missing, and become 0."""
    if len(model.status_columns) < 2 or not schema[model.status_columns[1]].is_numeric():
        return frame
    status, upper = (names[name] for name in model.status_columns)
    interval = nw.col(status).cast(nw.String) == "interval"
    return frame.with_columns(
        nw.when(~interval).then(nw.lit(0.0)).otherwise(nw.col(upper).cast(nw.Float64)).alias(upper)
    )


def _counts(found: Missing) -> str:
    counts = ", ".join(f"{name!r} in {count} rows" for name, count in found.columns.items())
    return f"{counts} ({words_note(found.words)})" if found.words else counts


def words_note(words: Mapping[str, int]) -> str:
    """What was read as missing although it is text."""
    return (
        f"the words {', '.join(map(repr, WORDS[1:]))} and empty text count as missing, as in a CSV file: "
        f"{sum(words.values())} times in {listed(words)}; if that is a category, give it another name"
    )


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
