"""Whether the data have the model's columns, of types the formula can use: every offender named, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import narwhals as nw

from bayeshlm.data.frames.categories import COMMA_HINT, DATE_HINT, decimal_comma
from bayeshlm.data.frames.reading import Frame, collect
from bayeshlm.data.layout import bare_columns
from bayeshlm.errors import DataError, listed
from bayeshlm.spec.model import Model

SAMPLE = 20  # values looked at for a hint
TIMES = (nw.Date, nw.Datetime, nw.Duration, nw.Time)
OUTCOME_HINT = (
    "The response is a number: of two outcomes make 0 and 1 or booleans (data[{name!r}] == 'yes') for "
    "family='bernoulli', of counts whole numbers for 'poisson', of grades a score; outcomes without an order have no "
    "family here."
)


def check_columns(model: Model, frame: Frame) -> None:
    """Raise DataError for columns that are not in the data, with the nearest name, or the index, if it is there."""
    available = list(frame.collect_schema())
    absent = [name for name in model.columns if name not in available]
    if not absent:
        return
    index = [name for name in absent if name in _index_names(frame)]
    hints = {name: difflib.get_close_matches(name, available, 1) for name in absent if name not in index}
    near = [f"did you mean {hint[0]!r} for {name!r}?" for name, hint in hints.items() if hint]
    near += [f"{listed(index)} is in the index, which is no column: give data.reset_index()."] if index else []
    message = f"Column not in the data: {listed(absent)}. The data have {listed(available, 20)}."
    raise DataError(" ".join([message, *near]))


def _index_names(frame: Frame) -> list[Any]:
    kind = frame.implementation
    return list(nw.to_native(frame).index.names) if kind.is_pandas() else []


def check_types(
    model: Model, frame: Frame, schema: Mapping[str, Any], numeric: Mapping[str, bool], categorical: tuple[str, ...]
) -> None:
    """Raise DataError for text, dates and objects where a number is needed, and for numbers where a category is.

    Parameters
    ----------
    model : Model
    frame : narwhals frame
        With the user's names.
    schema : mapping
        Column -> type.
    numeric : mapping
        Column -> whether its type is numeric.
    categorical : tuple of str
        Columns that enter as categories.
    """
    _check_numbers(model, frame, schema, numeric)
    for name in bare_columns(model):
        if isinstance(schema[name], TIMES):
            what = "a duration" if isinstance(schema[name], nw.Duration) else "a date or time"
            raise DataError(f"Column {name!r} ({schema[name]}) is {what}. {DATE_HINT.format(name=name)}")
    spread = model.terms.sigma
    if spread is not None and not spread.node.categorical and numeric[spread.name]:
        raise DataError(
            f"'sigma ~ {spread.name}': the residual standard deviation differs by the categories of a factor, and "
            f"{spread.name!r} is {schema[spread.name]}. Write sigma ~ C({spread.name}) if each of its values is one."
        )
    for name in model.status_columns[:1]:
        if numeric[name] or schema[name] == nw.Boolean:
            raise DataError(f"censored={name!r} is {schema[name]}; it must hold the words none, left, right, interval.")
    _check_objects(frame, schema, categorical)


def _check_numbers(model: Model, frame: Frame, schema: Mapping[str, Any], numeric: Mapping[str, bool]) -> None:
    response = list(model.terms.response.node.columns())
    outcomes = {*response, *(model.terms.trials.node.columns() if model.terms.trials else ())}
    wanted = {*outcomes, *(name for name in (model.se, model.weights, *model.status_columns[1:]) if name)}
    wanted |= {name for factor in model.terms.offsets for name in factor.node.columns()}
    for term in (*model.terms.common, *(effect for group in model.terms.groups for effect in group.effects)):
        for factor in term.factors:
            if not factor.node.categorical and factor.node.kind != "column":
                wanted |= set(factor.node.columns())
    booleans = outcomes if model.family_spec.support == "binary" else set()
    allowed = {name for name in booleans if schema[name] == nw.Boolean}
    wrong = [name for name in sorted(wanted) if not numeric[name] and name not in allowed]
    if not wrong:
        return
    named = "; ".join(f"{name!r} is {schema[name]}" for name in wrong)
    hints = [COMMA_HINT.format(name=name, value=value) for name in wrong
             if (value := _decimal_comma(frame, schema, name)) is not None]  # fmt: skip
    for name in response if not hints else ():
        if name in wrong and schema[name] == nw.Boolean:
            hints.append("Booleans are a response of family='bernoulli'.")
        elif name in wrong and not isinstance(schema[name], TIMES):
            hints.append(OUTCOME_HINT.format(name=name))
    raise DataError(" ".join([f"A number is needed: {named}. Convert the column before fitting.", *hints]))


def _decimal_comma(frame: Frame, schema: Mapping[str, Any], name: str) -> str | None:
    if not isinstance(schema[name], nw.String | nw.Object):
        return None
    values = collect(frame.select(nw.col(name).alias("c0")).head(SAMPLE))["c0"].to_list()
    return decimal_comma([value for value in values if isinstance(value, str)])


def _check_objects(frame: Frame, schema: Mapping[str, Any], categorical: tuple[str, ...]) -> None:
    """Numbers kept as Python objects would enter as categories from pandas, and as numbers from any other frame."""
    import pandas as pd

    held = {name: pd.api.types.infer_dtype(nw.to_native(frame)[name], skipna=True)
            for name in categorical if schema[name] == nw.Object and frame.implementation.is_pandas()}  # fmt: skip
    numbers = [name for name, kind in held.items() if kind in ("decimal", "integer", "floating", "mixed-integer-float")]
    if numbers:
        raise DataError(
            f"Column {listed(numbers)} holds numbers, but its type is object. Convert it, e.g. with astype(float), or "
            "make its values text if they are categories."
        )
