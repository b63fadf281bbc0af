"""New rows for a model that was fitted: the fit's own columns, constants, categories and groups, without a response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from bayeshlm.arrays import Array, Codes
from bayeshlm.data.frames.missing import is_missing
from bayeshlm.data.frames.reading import Frame, aggregate, collect, open_frame
from bayeshlm.data.groups import combine, factorize
from bayeshlm.data.layout import Layout
from bayeshlm.errors import DataError, did_you_mean, listed
from bayeshlm.spec.expressions import Node, compile_expression

Members = tuple[tuple[Any, ...], ...]
MAX_BYTES = 4 * 2**30
SHOWN = 5  # positions of offending rows in a message


@dataclass(frozen=True, eq=False)
class NewRows:
    """Rows bound to a fitted layout.

    Attributes
    ----------
    count : int
    values : (design columns,) list of (rows,)
        The layout's columns, the constant 1 first.
    numbers : mapping of str to (rows,)
        Further expressions that were asked for.
    codes : per level (rows,) int
        Group of each row: the fit's groups first, in its order, then the new ones.
    new : per level tuple of tuple
        Groups the fit did not know, each the values of the level's columns.
    labels : mapping of str to (codes, labels)
        Columns that were asked for as groupings.
    part : (rows,) int
        Category whose sigma a row has; zeros where all share one.
    """

    count: int
    values: list[Array]
    numbers: Mapping[str, Array]
    codes: tuple[Codes, ...]
    new: tuple[Members, ...]
    labels: Mapping[str, tuple[Codes, list[Any]]]
    part: Codes


def bind_rows(
    layout: Layout,
    members: Sequence[Members],
    data: Any,
    *,
    numbers: Mapping[str, Node] | None = None,
    groupings: Sequence[str] = (),
    residual: str | None = None,
) -> NewRows:
    """Evaluate the layout's columns on other rows.

    `center` and `scale` use the fit's constants and categories the fit's coding. Groups are recognised by their labels
    as text, so that 7 and "7" are one group whatever a file made of them.

    Parameters
    ----------
    layout : Layout
    members : per level its groups, as in `Statistics.members`
    data : frame or path
    numbers : mapping of str to Node, optional
        Further expressions to be evaluated (standard errors, weights, offset, trials), by what they are.
    groupings : sequence of str
        Further columns to be read as labels.
    residual : str, optional
        Column whose categories have a sigma each.

    Raises
    ------
    DataError
        Missing columns, missing or infinite values, text where a number is needed, categories the fit did not see;
        each time naming all of them.
    """
    frame = open_frame(data)
    schema = dict(frame.collect_schema())
    further = dict(numbers or {})
    as_numbers = list(
        dict.fromkeys([*_numeric(layout), *(name for node in further.values() for name in node.columns())])
    )
    as_labels = list(dict.fromkeys([*layout.categories, *(key for level in layout.levels for key in level.keys)]))
    wanted = list(dict.fromkeys([*as_numbers, *as_labels, *groupings]))
    absent = [name for name in wanted if name not in schema]
    if absent:
        message = f"Column not in the data: {listed(absent)}. The data have {listed(schema, 20)}."
        near = [did_you_mean(name, [other for other in schema if other not in wanted]).strip() for name in absent]
        grouping = [name for name in absent if any(name in level.keys for level in layout.levels)]
        if grouping:
            near.append(
                f"{listed(grouping)} says which group a row belongs to, whose effect is part of its prediction: for a "
                "group that the fit did not see give it any new label, and new_groups='population'."
            )
        raise DataError(" ".join([message, *filter(None, near)]))
    # Booleans may stand for what was 0 and 1 in the fit.
    numeric = {name for name in as_numbers if schema[name].is_numeric() or schema[name] == nw.Boolean}
    text = [f"{name!r} is {schema[name]}" for name in as_numbers if name not in numeric]
    if text:
        raise DataError(f"A number is needed: {'; '.join(text)}. Convert the column before predicting.")
    alias = {name: f"c{k}" for k, name in enumerate(wanted)}
    table = _in_memory(frame, alias)
    if len(table) == 0:
        raise DataError("The table has no rows.")
    raw = {name: table[alias[name]].cast(nw.Float64).to_numpy().astype(float) for name in as_numbers}
    _check_values(table, alias, raw)

    def evaluate(node: Node) -> Array:
        expression = compile_expression(node, lambda name: nw.col(alias[name]).cast(nw.Float64), layout.constants)
        with np.errstate(all="ignore"):  # what is not finite is refused by name
            return np.asarray(table.with_columns(value=expression)["value"].to_numpy(), dtype=float)

    indicators = {name: _categories(table[alias[name]], name, layout) for name in layout.categories}
    values = []
    for column in layout.columns:
        product = np.ones(len(table))
        for node in column.numeric:
            product = product * evaluate(node)
        for name, category in column.indicators:
            product = product * (indicators[name] == layout.categories[name].index(category))
        values.append(product)
    extra = {name: evaluate(node) for name, node in further.items()}
    named = [*((f"term {c.label!r}", v) for c, v in zip(layout.columns, values, strict=True)), *extra.items()]
    bad = [
        f"{name} in {int((~np.isfinite(v)).sum())} rows{places(~np.isfinite(v))}"
        for name, v in named
        if not np.isfinite(v).all()
    ]
    if bad:
        raise DataError(f"Not finite: {'; '.join(bad)}. Correct or remove these rows.")
    coded = {key: factorize(table[alias[key]], key) for key in dict.fromkeys([*as_labels, *groupings])}
    matched = [
        match_groups([coded[key] for key in level.keys], known, len(table))
        for level, known in zip(layout.levels, members, strict=True)
    ]
    return NewRows(
        len(table), values, extra, tuple(codes for codes, _ in matched),
        tuple(new for _, new in matched), {name: coded[name] for name in groupings},
        np.zeros(len(table), dtype=np.int64) if residual is None else indicators[residual],
    )  # fmt: skip


def match_groups(coded: list[tuple[Codes, list[Any]]], known: Members, rows: int) -> tuple[Codes, Members]:
    """(group of each row, new groups); new groups come after the known ones, in the order of their labels."""
    cell, combos = combine(coded, rows)
    place = {tuple(map(str, member)): k for k, member in enumerate(known)}
    new: list[tuple[Any, ...]] = []
    position = np.empty(len(combos), dtype=np.int64)
    for k, combo in enumerate(combos.tolist()):
        member = tuple(labels[code] for (_, labels), code in zip(coded, combo, strict=True))
        found = place.get(tuple(map(str, member)))
        if found is None:
            found = len(known) + len(new)
            new.append(member)
        position[k] = found
    return position[cell], tuple(new)


def _numeric(layout: Layout) -> list[str]:
    return list(dict.fromkeys(name for column in layout.columns for node in column.numeric for name in node.columns()))


def _in_memory(frame: Frame, alias: Mapping[str, str]) -> nw.DataFrame[Any]:
    if isinstance(frame, nw.LazyFrame):
        rows = int(aggregate(frame, {"n": nw.len()})["n"])
        size = 8 * rows * len(alias)
        if size > MAX_BYTES:
            raise DataError(
                f"{rows:,} rows of {len(alias)} columns take {size / 2**30:.1f} GiB of memory, over the limit of "
                f"{MAX_BYTES / 2**30:.0f} GiB. Predict in parts."
            )
    if not alias:  # a model that reads no column at all: some column, for the number of rows
        return collect(frame.select(frame.collect_schema().names()[:1]))
    return collect(frame.select(*(nw.col(name).alias(key) for name, key in alias.items())))


def _check_values(table: nw.DataFrame[Any], alias: Mapping[str, str], raw: Mapping[str, Array]) -> None:
    problems = []
    for name, key in alias.items():
        missing = table.select(bad=is_missing(key, table.schema[key]).fill_null(True))["bad"].to_numpy().astype(bool)
        if name in raw:
            missing = missing | np.isnan(raw[name])
            infinite = np.isinf(raw[name])
            if infinite.any():
                problems.append(f"{name!r} is infinite in {int(infinite.sum())} rows{places(infinite)}")
        if missing.any():
            problems.append(f"{name!r} is missing in {int(missing.sum())} rows{places(missing)}")
    if problems:
        raise DataError("; ".join(problems) + ". Fill in or remove these rows before predicting.")


def _categories(column: nw.Series[Any], name: str, layout: Layout) -> Codes:
    """Position of each row's category among the fit's."""
    codes, labels = factorize(column, name)
    known = {str(category): k for k, category in enumerate(layout.categories[name])}
    unknown = [label for label in labels if str(label) not in known]
    if unknown:
        raise DataError(
            f"Column {name!r} has the categories {listed(unknown)}, for which the fit has no effect; it knows "
            f"{listed(layout.categories[name], 20)}."
        )
    return np.array([known[str(label)] for label in labels], dtype=np.int64)[codes]


def places(bad: NDArray[np.bool_]) -> str:
    """Where the first offending rows are, for a message."""
    return f" (the first at positions {', '.join(map(str, np.flatnonzero(bad)[:SHOWN]))})"
