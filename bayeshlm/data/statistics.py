"""Sufficient statistics: all that the exact engine needs of the rows, whatever their number."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from bayeshlm.data import checks
from bayeshlm.data.frames import Frame, Rows, aggregate, collect, prepare
from bayeshlm.data.groups import combine, factorize, joined_labels
from bayeshlm.data.layout import Layout
from bayeshlm.errors import BayeshlmWarning, DataError, outside_package
from bayeshlm.spec.model import Model

CANCELLATION = 1e-6  # a group's own share of its sum of squares below which the sums are taken anew
Array = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Statistics:
    """Cross products per cell, a cell being one combination of groups that occurs.

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
    sum_log_weight : float
    log_jacobian : float
        -sum log(response) for lognormal, else 0.
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
    missing: Mapping[str, int] = field(default_factory=dict)
    sum_log_weight: float = 0.0
    log_jacobian: float = 0.0

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


def compress(model: Model, data: Any, *, missing: str = "drop") -> Statistics:
    """Reduce rows to sufficient statistics, after checking them.

    Parameters
    ----------
    model : Model
    data : pandas, Polars or PyArrow table, DuckDB relation, or path of CSV or Parquet files
    missing : {"drop", "error"}
        Rows with a missing value in a used column are dropped, with a warning that counts them; or refused.

    Returns
    -------
    Statistics

    Raises
    ------
    DataError
        See `bayeshlm.data.checks`: every offender is named before anything is fitted.
    """
    if not model.family_spec.moments_suffice or model.censored is not None:
        what = f"family {model.family!r}" if model.censored is None else "censored responses"
        raise DataError(f"Sums of squares and products are not enough for {what}: fit needs the rows themselves.")
    return moments(model, complete_rows(model, data, missing))


def complete_rows(model: Model, data: Any, missing: str) -> Rows:
    """Rows bound to the model, the incomplete ones dropped with a warning or refused; values not yet checked."""
    if missing not in ("drop", "error"):
        raise DataError(f"missing={missing!r}: it is 'drop' or 'error'.")
    rows = prepare(model, data, missing=missing)
    if rows.missing:
        dropped = ", ".join(f"{name!r} ({count})" for name, count in rows.missing.items())
        warnings.warn(
            f"{rows.total - rows.used} of {rows.total} rows dropped for missing values in {dropped}.",
            BayeshlmWarning,
            stacklevel=outside_package(),
        )
    return rows


def moments(model: Model, rows: Rows) -> Statistics:
    """Check the rows and sum them; beyond the Gaussian families these are moments, not all there is to know."""
    with np.errstate(all="ignore"):  # what leaves the floats is refused, by row or by sum
        if isinstance(rows.frame, nw.DataFrame):
            values = _evaluate(model, rows)
            if model.censored is not None or not model.family_spec.moments_suffice or not _usable(model, values):
                checks.check_rows(model, rows)  # says which rows of which column
            statistics = _reduce_eager(model, rows, values)
        else:
            checks.check_rows(model, rows)
            statistics = _reduce_lazy(model, rows)
    checks.check_finite(statistics)
    return statistics


def row_weight(model: Model, rows: Rows) -> nw.Expr | None:
    """Weight of a row: w, 1 / se^2, or w / se^2 (an error variance se^2 / w), or its trials; None where all are 1."""
    if model.terms.trials is not None:
        return rows.trials(model)
    weight = rows.number(model.weights) if model.weights else None
    if model.se is None:
        return weight
    precision = 1.0 / (rows.number(model.se) * rows.number(model.se))
    return precision if weight is None else weight * precision


def _expressions(model: Model, rows: Rows) -> list[nw.Expr]:
    """The columns that are summed: design columns without the constant, then the response."""
    return [*(rows.column(column) for column in rows.layout.columns[1:]), rows.response(model)]


def _evaluate(model: Model, rows: Rows) -> dict[str, Array]:
    """In memory: the numbers as given (r0, ...), the columns that are summed (x0, ...) and the weight (w), per row."""
    assert isinstance(rows.frame, nw.DataFrame)
    schema = rows.frame.schema
    expressions = {f"r{k}": rows.number(n) for k, n in enumerate(model.columns) if schema[rows.names[n]].is_numeric()}
    expressions |= {f"x{k}": e for k, e in enumerate(_expressions(model, rows))}
    weight, offset = row_weight(model, rows), rows.offset(model)
    if weight is not None:
        expressions["w"] = weight
    if offset is not None:
        expressions["o"] = offset
    table = rows.frame.select(**expressions)
    return {name: np.asarray(table[name].to_numpy(), dtype=float) for name in expressions}


def _usable(model: Model, values: Mapping[str, Array]) -> bool:
    """Whether every number is finite and every weight positive: then no row needs to be looked for."""
    positive = [f"r{k}" for k, name in enumerate(model.columns) if name in (model.weights, model.se)]
    return all(bool(np.isfinite(v).all()) for v in values.values()) and all((values[n] > 0).all() for n in positive)


def _reduce_eager(model: Model, rows: Rows, values: Mapping[str, Array]) -> Statistics:
    """In memory: two passes, each cell centred on its own mean."""
    assert isinstance(rows.frame, nw.DataFrame)
    columns = [values[name] for name in values if name.startswith("x")]
    weight = values.get("w")
    keys = _key_columns(rows)
    coded = [factorize(rows.frame.get_column(rows.names[key]), key) for key in keys]
    cell, combos = combine(coded, rows.used)
    count = np.bincount(cell, minlength=len(combos)).astype(float)
    weights = count if weight is None else np.bincount(cell, weight, len(combos))

    shift = np.array([np.average(column, weights=weight) for column in columns])
    mean = np.empty((len(combos), len(columns)))
    centred = []
    for k, column in enumerate(columns):
        deviation = column - shift[k]
        mean[:, k] = np.bincount(cell, deviation if weight is None else weight * deviation, len(combos)) / weights
        centred.append(deviation - mean[cell, k])
    scatter = np.empty((len(combos), len(columns), len(columns)))
    for i, left in enumerate(centred):
        weighted = left if weight is None else weight * left
        for j in range(i, len(centred)):
            scatter[:, i, j] = scatter[:, j, i] = np.bincount(cell, weighted * centred[j], len(combos))
    sum_log_weight = 0.0 if weight is None else float(np.log(weight).sum())
    jacobian = -float(columns[-1].sum() + values.get("o", np.zeros(1)).sum()) if model.family_spec.log_response else 0.0
    uniques = [unique for _, unique in coded]
    return _assemble(model, rows, combos, uniques, count, weights, mean, scatter, shift, sum_log_weight, jacobian)


def _reduce_lazy(model: Model, rows: Rows) -> Statistics:
    """Where the data live: a pass for the means, then one group-by of sums about them; only cells come back."""
    expressions = {f"x{k}": e for k, e in enumerate(_expressions(model, rows))}
    weight_expression, offset = row_weight(model, rows), rows.offset(model)
    keys = _key_columns(rows)
    frame = rows.frame.select(
        *(nw.col(rows.names[key]).alias(f"k{j}") for j, key in enumerate(keys)),
        **expressions,
        w=nw.lit(1.0) if weight_expression is None else weight_expression,
        o=nw.lit(0.0) if offset is None else offset,
    )
    names = list(expressions)
    sums = {"y": nw.col(names[-1]).sum(), "w": nw.col("w").log().sum(), "o": nw.col("o").sum()}
    first = aggregate(frame, {**{n: nw.col(n).mean() for n in names}, **sums})
    shift = np.array([float(first[name]) for name in names])
    frame = frame.with_columns(**{name: nw.col(name) - shift[k] for k, name in enumerate(names)})
    key_names = [f"k{j}" for j in range(len(keys))]
    table, count, weights, mean, scatter = _group_sums(frame, key_names, names, {})
    if keys and _cancelled(rows, weights, mean, scatter):
        # Some groups lie far apart for their width: sum once more, each group about (nearly) its own mean.
        centres = {f"m{i}": nw.col(name).mean().over(*key_names) for i, name in enumerate(names)}
        frame = frame.with_columns(**centres)
        frame = frame.with_columns(**{name: nw.col(name) - nw.col(f"m{i}") for i, name in enumerate(names)})
        table, count, weights, mean, scatter = _group_sums(frame, key_names, names, centres)
    coded = [factorize(table[name], key) for name, key in zip(key_names, keys, strict=True)]
    order, combos = combine(coded, len(table))
    inverse = np.argsort(order)
    count, weights, mean, scatter = count[inverse], weights[inverse], mean[inverse], scatter[inverse]
    sum_log_weight = 0.0 if weight_expression is None else float(first["w"])
    jacobian = -float(first["y"] + first["o"]) if model.family_spec.log_response else 0.0
    uniques = [unique for _, unique in coded]
    return _assemble(model, rows, combos, uniques, count, weights, mean, scatter, shift, sum_log_weight, jacobian)


def _group_sums(
    frame: Frame, keys: list[str], names: list[str], centres: Mapping[str, nw.Expr]
) -> tuple[nw.DataFrame[Any], Array, Array, Array, Array]:
    """(table with the keys, count, weight, mean, scatter) per group; means include the centres m0, m1, ... if any."""
    sums = {f"s{i}": nw.col("w") * nw.col(n) for i, n in enumerate(names)}
    pairs = [(i, j) for i in range(len(names)) for j in range(i, len(names))]
    sums |= {f"p{i}_{j}": nw.col("w") * nw.col(names[i]) * nw.col(names[j]) for i, j in pairs}
    parts = [nw.len().alias("n"), nw.col("w").sum().alias("w")]
    parts += [nw.col(name).sum() for name in sums] + [nw.col(name).max() for name in centres]
    frame = frame.with_columns(**sums)
    table = collect(frame.group_by(*keys).agg(*parts) if keys else frame.select(*parts))

    def values(name: str) -> Array:
        return np.asarray(table[name].to_numpy(), dtype=float)

    count, weight = values("n"), values("w")
    mean = np.stack([values(f"s{i}") for i in range(len(names))], axis=1) / weight[:, None]
    scatter = np.empty((len(table), len(names), len(names)))
    for i, j in pairs:
        scatter[:, i, j] = scatter[:, j, i] = values(f"p{i}_{j}") - weight * mean[:, i] * mean[:, j]
    diagonal = np.arange(len(names))
    scatter[:, diagonal, diagonal] = np.maximum(scatter[:, diagonal, diagonal], 0.0)  # rounding of a constant column
    if centres:
        mean += np.stack([values(name) for name in centres], axis=1)
    return table, count, weight, mean, scatter


def _cancelled(rows: Rows, weight: Array, mean: Array, scatter: Array) -> bool:
    """Whether sums about one common centre left too few digits of some group's own variation."""
    squares = np.einsum("cii->ci", scatter)
    lost = squares < CANCELLATION * weight[:, None] * mean**2
    numbers = [bool(column.numeric) for column in rows.layout.columns[1:]] + [True]
    # Indicators are 0 or 1: what rounding leaves of a constant one is far below any unit.
    return bool(lost[:, numbers].any())


def _key_columns(rows: Rows) -> list[str]:
    return list(dict.fromkeys(key for level in rows.layout.levels for key in level.keys))


def _assemble(
    model: Model, rows: Rows, combos: Codes, uniques: list[list[Any]], count: Array, weight: Array, mean: Array,
    scatter: Array, shift: Array, sum_log_weight: float, log_jacobian: float,
) -> Statistics:  # fmt: skip
    """Name the groups of every level and put the record together."""
    keys = _key_columns(rows)
    labels, codes = [], []  # type: tuple[list[tuple[tuple[Any, ...], ...]], list[Codes]]
    for level in rows.layout.levels:
        positions = [keys.index(key) for key in level.keys]
        group, members = combine([(combos[:, p], uniques[p]) for p in positions], len(combos))
        named = [[uniques[p][code] for code in member] for p, member in zip(positions, members.T.tolist(), strict=True)]
        labels.append(tuple(zip(*named, strict=True)))
        codes.append(group)
    stacked = np.stack(codes, axis=1) if codes else np.zeros((len(combos), 0), dtype=np.int64)
    return Statistics(
        model, rows.layout, tuple(labels), stacked, count, weight, mean, scatter, shift, rows.total, rows.used,
        dict(rows.missing), sum_log_weight, log_jacobian,
    )  # fmt: skip
