"""What the response may be under each family, and what of it may be censored: tests of rows, with their messages."""

from __future__ import annotations

import math

import narwhals as nw

from bayeshlm.data.frames.reading import collect
from bayeshlm.data.frames.rows import Rows
from bayeshlm.errors import DataError, listed
from bayeshlm.spec.model import Model

FAR = 600.0  # exp(709) is the largest number there is, and sums of exposures need room
STATUSES = ("none", "left", "right", "interval")
Tests = dict[str, tuple[nw.Expr, str]]  # what is wrong with a row, and its message up to their number


def response_tests(model: Model, rows: Rows) -> Tests:
    """Expressions that are true where a row's response is impossible.

    Raises
    ------
    DataError
        For words in a censoring column that are not among its four.
    """
    name, family = model.terms.response.name, model.family
    y = rows.evaluate(model.terms.response)
    tests: Tests = {}
    support = model.family_spec.support
    if support == "positive":
        tests["y"] = (~(y > 0), f"response {name!r} is not positive, which {family} needs:")
    elif support == "binary":
        tests["y"] = (
            ~((y == 0) | (y == 1)),
            f"response {name!r} is neither 0 nor 1, which {family} needs:",
        )
    elif support == "count":
        tests["y"] = (_no_count(y), f"response {name!r} is no whole number >= 0, which {family} needs:")
    elif (trials := rows.trials(model)) is not None and model.terms.trials is not None:
        of = model.terms.trials.name
        tests["y"] = (_no_count(y), f"successes {name!r} are no whole number >= 0:")
        tests["n"] = (
            _no_count(trials) | ~(trials >= 1),
            f"trials {of!r} are no whole number >= 1 (rows without trials say nothing):",
        )
        tests["s"] = (trials < y, f"more successes {name!r} than trials {of!r}:")
    else:
        tests["y"] = (~y.is_finite() | y.is_nan(), f"response {name!r} is not finite:")
    offset = rows.offset(model)
    if offset is not None:
        named = listed(factor.name for factor in model.terms.offsets)
        tests["offset"] = (~offset.is_finite() | offset.is_nan(), f"offset {named} is not finite:")
        if model.family_spec.link == "log" and not model.family_spec.log_response:
            tests["far"] = (
                offset.is_finite() & ((offset > FAR) | (offset < -FAR)),
                f"offset {named} is beyond {FAR:g} or {-FAR:g}, and the mean is multiplied by its exponential (of an "
                f"exposure it is the log, offset(log(exposure))):",
            )
    return tests | _censoring_tests(model, rows, y)


def status(model: Model, rows: Rows) -> nw.Expr:
    """The word of a censoring column."""
    return nw.col(rows.names[model.status_columns[0]]).cast(nw.String)


def _no_count(values: nw.Expr) -> nw.Expr:
    return ~(values >= 0) | (values.round(0) != values) | ~(values < 2**53)


def _censoring_tests(model: Model, rows: Rows, y: nw.Expr) -> Tests:
    name, tests = model.terms.response.name, {}
    if model.bounds is not None:
        low, high = model.bounds
        if math.isfinite(high):
            tests["high"] = (y > high, f"response {name!r} exceeds its cap of {high:g} (values at the cap stand for "
                             f"'at least {high:g}'; none can be above):")  # fmt: skip
        if math.isfinite(low):
            tests["low"] = (y < low, f"response {name!r} is below its bound of {low:g} (values at the bound stand for "
                            f"'at most {low:g}'; none can be below):")  # fmt: skip
    if not model.status_columns:
        return tests
    column = model.status_columns[0]
    words = collect(rows.frame.select(word=status(model, rows)).unique())["word"].to_list()
    unknown = sorted({str(word) for word in words} - set(STATUSES))
    if unknown:
        raise DataError(f"censored={column!r} holds {listed(unknown)}; it must hold the words {', '.join(STATUSES)}.")
    if "interval" in words and len(model.status_columns) < 2:
        raise DataError(
            f"censored={column!r} holds 'interval', which needs upper ends: give censored=({column!r}, their column); "
            f"{name!r} is the lower end."
        )
    if len(model.status_columns) == 2:
        upper = rows.number(model.status_columns[1])
        tests["interval"] = (
            (status(model, rows) == "interval") & ~(upper > y),
            f"the upper end {model.status_columns[1]!r} of an interval is not above its lower end {name!r}:",
        )
        if model.family_spec.support == "count":
            tests["whole"] = (_no_count(upper), f"{model.status_columns[1]!r} is no whole number:")
    return tests
