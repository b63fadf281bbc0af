"""The categories of a column: which occur, in which order, and whether they are categories at all."""

from __future__ import annotations

import re
from typing import Any

import narwhals as nw

from bayeshlm.data.frames.reading import Frame, collect
from bayeshlm.data.layout import plain_labels
from bayeshlm.errors import DataError

MAX_CATEGORIES = 200
NUMERIC_HINT = "If it should be a number, convert it; if it is a grouping, use (1 | {name})."
DATE = re.compile(r"\d{4}-\d{2}-\d{2}([ T].*)?")
DECIMAL_COMMA = re.compile(r"[+-]?(\d+|\d{1,3}(\.\d{3})+),\d+")
DECIMAL_POINT = re.compile(r"[+-]?\d*\.\d+([eE][+-]?\d+)?")
WHOLE = re.compile(r"[+-]?(\d+|\d{1,3}(\.\d{3})+)")
DATE_HINT = (
    "A date as a number needs a start and a unit: make a column of days, e.g. (data[{name!r}] - data[{name!r}].min())"
    ".dt.days of a pandas frame; for an effect of each date write C({name}) or (1 | {name})."
)
COMMA_HINT = (
    "{name!r} has decimal commas ({value!r}). Read the file with them, e.g. pandas.read_csv(path, sep=';', "
    "decimal=','), and give the frame."
)


def decimal_comma(values: list[Any]) -> str | None:
    """A value with a decimal comma, where all values are numbers written with one, or whole; None elsewhere."""
    texts = [value for value in values if isinstance(value, str)]
    commas = [text for text in texts if DECIMAL_COMMA.fullmatch(text)]
    alike = commas and len(texts) == len(values) and all(t in commas or WHOLE.fullmatch(t) for t in texts)
    return commas[0] if alike else None


def _check_labels(name: str, dtype: Any, labels: list[Any]) -> None:
    if labels and all(isinstance(label, str) and DATE.fullmatch(label) for label in labels):
        raise DataError(f"Column {name!r} holds dates. {DATE_HINT.format(name=name)}")
    if not isinstance(dtype, nw.String | nw.Object):  # categories by their type, whatever they look like
        return
    value = decimal_comma(labels)
    if value is not None:
        raise DataError("Column " + COMMA_HINT.format(name=name, value=value))
    points = [label for label in labels if isinstance(label, str) and DECIMAL_POINT.fullmatch(label)]
    if points and all(label in points or (isinstance(label, str) and label.isdecimal()) for label in labels):
        raise DataError(
            f"Column {name!r} holds numbers as text ({points[0]!r}). Convert it, e.g. with astype(float), or write "
            f"C({name}) for an effect of each of them."
        )


def categories(
    frame: Frame, alias: str, name: str, dtype: Any, *, bare: bool
) -> tuple[dict[Any, Any], tuple[Any, ...]]:
    """({label: value} of the categories that occur, the type's own order or nothing); sorted where it has none.

    `bare` is whether the formula names the column as it is, not in ``C( )``: dates and numbers written as text are then
    refused, as one effect for each of their values is hardly what was meant.
    """
    found = collect(frame.select(alias).unique())[alias]
    values = [value for value in found.to_list() if value is not None]
    pairs = dict(zip(plain_labels(name, values), values, strict=True))
    labels, declared = in_order(name, dtype, list(pairs), own_order(frame, alias, dtype), bare=bare)
    return {label: pairs[label] for label in labels}, declared


def in_order(
    name: str, dtype: Any, found: list[Any], own: list[Any], *, bare: bool
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """(labels that occur, in order; the order of the column's type, or nothing). Sorted where the type has none."""
    if bare:
        _check_labels(name, dtype, found)
    if len(found) > MAX_CATEGORIES:
        raise DataError(
            f"Column {name!r} ({dtype}) enters the formula as categories and has {len(found)} of them. "
            + NUMERIC_HINT.format(name=name)
        )
    declared = tuple(plain_labels(name, own))
    complete = set(declared) >= set(found)
    return tuple([label for label in declared if label in set(found)] if complete else sorted(found)), declared


def own_order(frame: Frame, alias: str, dtype: Any) -> list[Any]:
    """Categories in the order of the column's type, where that order is the user's."""
    if isinstance(dtype, nw.Enum):
        return list(dtype.categories)
    if not isinstance(dtype, nw.Categorical):
        return []
    # Only pandas' and Dask's categories have such an order; elsewhere it is the accident of first appearance.
    native: Any = nw.to_native(frame)
    pandas = frame.implementation.is_pandas() or (frame.implementation.is_dask() and native[alias].cat.known)
    return list(native[alias].cat.categories) if pandas else []
