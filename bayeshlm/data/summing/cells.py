"""Rows -> sums per cell, a cell being one combination of groups and categories: the only place that reads all rows.

Categories are grouping columns here. Within a cell every indicator is 0 or 1, so products with indicators need no sums
of their own; `bayeshlm.data.summing.assemble` puts them in afterwards. Summed are the numeric products of the design
columns, then the response, each about a centre: in memory about each cell's own mean, elsewhere about a cheap
preliminary mean (of the first rows), which the means then correct exactly: S about m is S about c less
n (m - c)(m - c)'. Where that difference would cost digits, the cells are summed once more, each
about nearly its own mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import narwhals as nw
import numpy as np

from bayeshlm.arrays import Array, Codes
from bayeshlm.data.cross_products import CrossProducts, clamped
from bayeshlm.data.frames.missing import has_word
from bayeshlm.data.frames.reading import collect
from bayeshlm.data.frames.rows import Rows
from bayeshlm.data.groups import combine, factorize
from bayeshlm.data.layout import categorical_columns, numeric_products, residual_column
from bayeshlm.errors import DataError
from bayeshlm.spec.expressions import Node, compile_expression
from bayeshlm.spec.model import Model

Product = tuple[Node, ...]
CANCELLATION = 1e-4  # a cell's own share of its sum of squares below which the sums are taken anew
FEW = 10  # cells of fewer rows are judged together: by chance one of them may vary little
CHANGED = "The data changed while they were read, or they can be read only once; keep them in a table."
HEAD = 1000  # rows of the preliminary mean


@dataclass(frozen=True, eq=False)
class Cells:
    """Sums of every combination of groups and categories that occurs.

    Attributes
    ----------
    keys : tuple of str
        Columns that form the cells: of the levels, of sigma, and of the categories.
    labels : list of list
        Per key its sorted labels.
    codes : (cells, keys) int
        Positions in `labels`.
    products : list of tuple of Node
        What is summed, but for the response, which comes last.
    count, log_weight, response : (cells,)
        Rows, and sums of the logs of the precision weights and of the response with its offset (unweighted).
    moments : CrossProducts
        Of the products and the response, (cells, products + 1), means about `centre`.
    centre : (products + 1,)
    """

    keys: tuple[str, ...]
    labels: list[list[Any]]
    codes: Codes
    products: list[Product]
    count: Array
    log_weight: Array
    response: Array
    moments: CrossProducts
    centre: Array


def sum_cells(model: Model, rows: Rows) -> Cells | None:
    """Sum all rows by cell; None where some value is missing or not finite, or a weight not positive.

    Parameters
    ----------
    model : Model
    rows : Rows
        With the constants of `center` and `scale`; the design columns need not be laid out.
    """
    return _sum(_task(model, rows, checked=False))


def sum_checked(model: Model, rows: Rows) -> Cells:
    """`sum_cells` of rows each of which was looked at before, so that only sums can leave the floats."""
    cells = _sum(_task(model, rows, checked=True))
    if cells is None:
        raise DataError(CHANGED)
    return cells


def _task(model: Model, rows: Rows, checked: bool) -> _Task:
    products = numeric_products(model, rows.numeric)
    keys = key_columns(model, rows.numeric)
    expressions = {f"u{k}": _product(product, rows) for k, product in enumerate(products)}
    expressions["y"] = rows.response(model)
    positive = {f"v{k}": rows.number(name) for k, name in enumerate(filter(None, (model.weights, model.se)))}
    nodes = [node for product in products for node in product] + [model.terms.response.node]
    nodes += [offset.node for offset in model.terms.offsets]
    hidden = dict.fromkeys(name for node in nodes if _hides_infinity(node) for name in node.columns())
    hidden |= dict.fromkeys(key for key in keys if rows.types[key].is_float())
    others = {f"r{k}": rows.number(name) for k, name in enumerate(hidden)}
    offset = rows.offset(model) if model.family_spec.log_response else None
    return _Task(rows, keys, products, expressions, row_weight(model, rows), positive, others, offset, checked)


def _sum(task: _Task) -> Cells | None:
    return _in_memory(task) if isinstance(task.rows.frame, nw.DataFrame) else _where_they_live(task)


@dataclass(frozen=True)
class _Task:
    """What is to be summed: `expressions` by cell; `others` are only looked at, for infinities that formulas hide.

    `offset` is what was taken from the log of the response.
    """

    rows: Rows
    keys: tuple[str, ...]
    products: list[Product]
    expressions: Mapping[str, nw.Expr]
    weight: nw.Expr | None
    positive: Mapping[str, nw.Expr]
    others: Mapping[str, nw.Expr]
    offset: nw.Expr | None
    checked: bool

    @property
    def extra(self) -> dict[str, nw.Expr]:
        """Weight (w) and offset (o), where there are any."""
        return {name: value for name, value in (("w", self.weight), ("o", self.offset)) if value is not None}


def _hides_infinity(node: Node) -> bool:
    """Whether an infinite value may come out finite, as of 1/x or exp(-x)."""
    return node.value in ("/", "**", "exp", "expm1") or any(_hides_infinity(child) for child in node.children)


def key_columns(model: Model, numeric: Mapping[str, bool]) -> tuple[str, ...]:
    """Columns whose combinations are the cells: those of the levels first."""
    keys = [key for group in model.terms.groups for key in group.level]
    spread = residual_column(model)
    return tuple(dict.fromkeys([*keys, *([] if spread is None else [spread]), *categorical_columns(model, numeric)]))


def row_weight(model: Model, rows: Rows) -> nw.Expr | None:
    """Weight of a row: w, 1 / se^2, or w / se^2 (an error variance se^2 / w), or its trials; None where all are 1."""
    if model.terms.trials is not None:
        return rows.trials(model)
    weight = rows.number(model.weights) if model.weights else None
    if model.se is None:
        return weight
    precision = 1.0 / (rows.number(model.se) * rows.number(model.se))
    return precision if weight is None else weight * precision


def _product(product: Product, rows: Rows) -> nw.Expr:
    parts = [compile_expression(node, rows.number, rows.layout.constants) for node in product]
    out: nw.Expr = parts[0]
    for part in parts[1:]:
        out = out * part
    return out


def _key(rows: Rows, name: str) -> nw.Expr:
    """A grouping column; integers of 128 bits, which DuckDB would hand over rounded to floats, as 64 bits or not."""
    column = nw.col(rows.names[name])
    return column.cast(nw.Int64) if isinstance(rows.types[name], nw.Int128 | nw.UInt128) else column


def _in_memory(task: _Task) -> Cells | None:
    """Two passes over the columns, each cell centred on its own mean."""
    rows, keys, positive = task.rows, task.keys, task.positive
    assert isinstance(rows.frame, nw.DataFrame)
    wanted = {**task.expressions, **task.extra, **positive, **task.others}
    table = rows.frame.select(**wanted)
    values = {name: np.asarray(table[name].to_numpy(), dtype=float) for name in wanted}
    if len(table) == 0 or not all(np.isfinite(v).all() for v in values.values()):
        return None
    if not all((values[name] > 0).all() for name in positive):
        return None
    coded = [factorize(rows.frame.get_column(rows.names[key]), key) for key in keys]
    if any((codes < 0).any() or has_word(labels) for codes, labels in coded):
        return None
    cell, combos = combine(coded, len(table))
    size, columns, w = len(combos), [values[name] for name in task.expressions], values.get("w")
    count = np.bincount(cell, minlength=size).astype(float)
    weights = count if w is None else np.bincount(cell, w, size)

    def total(row_values: Array) -> Array:
        return np.bincount(cell, row_values if w is None else w * row_values, size)

    # About each cell's own mean, never about a common one first: cells may lie 1e12 apart and vary by 0.1.
    means = [total(column) / weights for column in columns]
    own, centred = np.stack(means, axis=1), [c - mean[cell] for c, mean in zip(columns, means, strict=True)]
    rest = np.stack([total(deviation) / weights for deviation in centred], axis=1)  # what rounding left of the means
    scatter = np.empty((size, len(columns), len(columns)))
    for i, left in enumerate(centred):
        weighted = left if w is None else w * left
        for j in range(i, len(centred)):
            products = np.bincount(cell, weighted * centred[j], size)
            scatter[:, i, j] = scatter[:, j, i] = products - weights * rest[:, i] * rest[:, j]
    scatter[count == 1] = 0.0
    centre = np.array([_near_mean(column) for column in columns])
    mean = (own - centre) + rest
    log_weight = np.zeros(size) if w is None else np.bincount(cell, np.log(w), size)
    response = count * (centre[-1] + mean[:, -1]) if w is None else np.bincount(cell, columns[-1], size)
    response = response + (np.bincount(cell, values["o"], size) if "o" in values else 0.0)
    return Cells(
        keys, [labels for _, labels in coded], combos, task.products, count, log_weight, response,
        CrossProducts(weights, mean, clamped(scatter)), centre,
    )  # fmt: skip


def _near_mean(column: Array) -> float:
    """The mean; where the sum leaves the floats, zero: `check_finite` then names the column."""
    mean = float(column.mean())
    return mean if np.isfinite(mean) else 0.0


def _where_they_live(task: _Task) -> Cells | None:
    """One group-by of sums about a preliminary mean; only cells come back."""
    rows, keys, positive = task.rows, task.keys, task.positive
    assert isinstance(rows.frame, nw.LazyFrame)
    names = list(task.expressions)
    given = {f"k{j}": _key(rows, key) for j, key in enumerate(keys)}
    given |= {**task.expressions, **task.extra, **positive}
    # Null where anything is missing, so that counting its values finds incomplete rows at the price of one sum.
    everything = [*task.expressions.values(), *positive.values(), *task.others.values()]
    whole = everything[0]
    for expression in everything[1:]:
        whole = whole + expression
    frame = rows.frame.select(**given, z=whole)
    centre = _preliminary(frame, names)
    near = frame.with_columns(**{name: nw.col(name) - centre[k] for k, name in enumerate(names)})
    key_names = [f"k{j}" for j in range(len(keys))]
    extra = list(task.extra)
    sums = _group_sums(near, key_names, names, extra, list(positive))
    if not task.checked and not _usable(sums, positive):
        return None
    if _cancelled(sums):
        sums = _recentred(frame, key_names, names, extra, sums, centre)
    coded = [factorize(sums.table[name], key) for name, key in zip(key_names, keys, strict=True)]
    if any((codes < 0).any() or has_word(labels) for codes, labels in coded):
        return None
    cell, combos = combine(coded, len(sums.table))
    if len(combos) < len(sums.table):
        raise DataError(f"Among {', '.join(map(repr, keys))} different groups become the same label; make them text.")
    order = np.argsort(cell)
    response = sums.response + sums.count * centre[-1]
    return Cells(
        keys, [labels for _, labels in coded], combos, task.products, sums.count[order], sums.log_weight[order],
        response[order], CrossProducts(*(values[order] for values in sums.moments)), centre,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Sums:
    """What a group-by brought back, in the order in which it did."""

    table: nw.DataFrame[Any]
    count: Array
    log_weight: Array
    response: Array
    moments: CrossProducts


def _preliminary(frame: nw.LazyFrame[Any], names: list[str]) -> Array:
    """Mean of the first rows' finite values; any number would do, one near the values costs no digits."""
    head = collect(frame.select(*names).head(HEAD))
    columns = [np.asarray(head[name].to_numpy(), dtype=float) for name in names]
    finite = [column[np.isfinite(column)] for column in columns]
    return np.array([_near_mean(column) if len(column) else 0.0 for column in finite])


def _group_sums(
    frame: nw.LazyFrame[Any],
    keys: list[str],
    names: list[str],
    extra: list[str],
    positive: list[str],
    moved: bool = False,
) -> _Sums:
    """Sums per group; `moved` frames carry each group's own centre in m0, m1, ..."""
    weighted = "w" in extra

    def times(value: nw.Expr) -> nw.Expr:
        return nw.col("w") * value if weighted else value

    pairs = [(i, j) for i in range(len(names)) for j in range(i, len(names))]
    wanted = {f"s{i}": times(nw.col(name)) for i, name in enumerate(names)}
    wanted |= {f"p{i}_{j}": times(nw.col(names[i]) * nw.col(names[j])) for i, j in pairs}
    if weighted:
        wanted |= {"lw": nw.col("w").log(), "ly": nw.col(names[-1])}
    wanted |= {name: nw.col(name) for name in extra}
    wanted["z"] = nw.col("z")
    parts = [nw.len().alias("n"), nw.col("z").count().alias("complete"), *(nw.col(name).sum() for name in wanted)]
    parts += [nw.col(name).min() for name in positive]
    centres = [f"m{i}" for i in range(len(names))] if moved else []
    parts += [nw.col(name).max() for name in centres]
    # Products are columns before they are summed: engines differ in what they allow inside a sum.
    frame = frame.select(*keys, *positive, *centres, **wanted)
    table = collect(frame.group_by(*keys).agg(*parts) if keys else frame.select(*parts))

    def values(name: str) -> Array:
        return np.asarray(table[name].to_numpy(), dtype=float)

    count, sums = values("n"), {name: values(name) for name in wanted}
    weight = sums["w"] if weighted else count
    mean = np.stack([sums[f"s{i}"] for i in range(len(names))], axis=1) / weight[:, None]
    scatter = np.empty((len(table), len(names), len(names)))
    for i, j in pairs:
        scatter[:, i, j] = scatter[:, j, i] = sums[f"p{i}_{j}"] - weight * mean[:, i] * mean[:, j]
    scatter[count == 1] = 0.0
    log_weight = sums["lw"] if weighted else np.zeros(len(table))
    response = sums["ly"] if weighted else sums[f"s{len(names) - 1}"]
    response = response + (sums["o"] if "o" in extra else 0.0)
    return _Sums(table, count, log_weight, response, CrossProducts(weight, mean, clamped(scatter)))


def _usable(sums: _Sums, positive: Mapping[str, nw.Expr]) -> bool:
    """Whether all rows were complete and finite, and had positive weights.

    Missing values are null in `z`; the rest is seen in the sums, or in Dask's, which pass over NaN, in `z` again.
    """
    table = sums.table
    if len(table) == 0 or not sums.count.sum():
        return False
    lowest, total, complete = (
        np.array([np.asarray(table[name].to_numpy(), dtype=float) for name in names])
        for names in (list(positive), ["z"], ["complete"])
    )
    finite = all(np.isfinite(v).all() for v in (total, *sums.moments, sums.log_weight))
    return bool(finite and (complete == sums.count).all() and (lowest > 0).all())


def _cancelled(sums: _Sums) -> bool:
    """Whether sums about one common centre left too few digits of some cell's own variation."""
    weight, mean, scatter = sums.moments
    squares = np.einsum("cii->ci", scatter)
    about_centre = weight[:, None] * mean**2
    many = sums.count >= FEW
    several = (sums.count > 1) & ~many
    lost = (squares[many] < CANCELLATION * about_centre[many]).any()
    return bool(lost or (squares[several].sum(axis=0) < CANCELLATION * about_centre[several].sum(axis=0)).any())


def _recentred(
    frame: nw.LazyFrame[Any], keys: list[str], names: list[str], extra: list[str], sums: _Sums, centre: Array
) -> _Sums:
    """Sum once more, each cell about (nearly) its own mean: exact where cells lie far apart for their width.

    The means are taken anew and joined, as they come in the engine's own rounding and order; what is left of them is
    corrected as before. Values are moved once: about a common centre first, small ones beside large ones would round.
    """
    own = {f"m{i}": nw.col(name) for i, name in enumerate(names)}
    if keys:
        means = frame.select(*keys, **own).group_by(*keys).agg(*(nw.col(name).mean() for name in own))
        frame = frame.join(means, on=keys, how="inner")
    else:
        mean = sums.moments.mean[0] + centre
        frame = frame.with_columns(**{name: nw.lit(float(m)) for name, m in zip(own, mean, strict=True)})
    frame = frame.with_columns(**{name: nw.col(name) - nw.col(f"m{i}") for i, name in enumerate(names)})
    again = _group_sums(frame, keys, names, extra, [], moved=True)
    if again.count.sum() != sums.count.sum():
        raise DataError(CHANGED)
    moved = np.stack([np.asarray(again.table[name].to_numpy(), dtype=float) for name in own], axis=1) - centre
    response = again.response + again.count * moved[:, -1]
    return replace(again, moments=again.moments.moved(moved), response=response)
