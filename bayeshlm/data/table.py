"""Rows as a likelihood needs them: as they are, or compressed without loss where the family allows it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np
from scipy.special import gammaln

from bayeshlm.arrays import Array, Codes
from bayeshlm.data.checks.support import STATUSES, status
from bayeshlm.data.compress import complete_rows, moments
from bayeshlm.data.frames.reading import aggregate, collect
from bayeshlm.data.frames.rows import Rows
from bayeshlm.data.groups import combine, factorize
from bayeshlm.data.layout import residual_column
from bayeshlm.data.statistics import Statistics
from bayeshlm.data.summing.cells import row_weight
from bayeshlm.spec.model import Model

if TYPE_CHECKING:
    import xarray as xr

MOST_STORED = 64 * 2**20  # bytes of rows kept in a posterior
ADDABLE = ("binary", "successes", "count")  # responses of equal rows add up; a negative binomial's do not


@dataclass(frozen=True, eq=False)
class Table:
    """Observations, one a row.

    Attributes
    ----------
    statistics : Statistics
        Moments of the same rows: layout, groups, means.
    codes : (rows, levels) int
        Group on each level, numbered as in `statistics.members`.
    columns : (rows, design columns)
        The constant 1 first, the others as they are.
    response : (rows,)
        As the user gave it; sums of successes or counts where equal rows were joined.
    weight : (rows,)
        Precision weight of a row (see `row_weight`); 1 where there is none.
    trials : (rows,)
        Of binomial and bernoulli rows; 1 elsewhere.
    offset : (rows,)
        Added to the linear predictor; for joined counts the log of the summed exposures.
    status : (rows,) int
        Position in `STATUSES` (none, left, right, interval).
    upper : (rows,)
        Upper end of intervals; 0 elsewhere.
    part : (rows,) int
        Category of `Layout.residual`; zeros where all rows share one sigma.
    joined : bool
        Whether equal rows were joined.
    constant : float
        Of poisson and binomial rows as they came, what their log density has of the responses alone: the sum of
        y offset - log y!, of the log of the ways to choose y of n. Joined rows do not tell it.
    """

    statistics: Statistics
    codes: Codes
    columns: Array
    response: Array
    weight: Array
    trials: Array
    offset: Array
    status: Codes
    upper: Array
    part: Codes
    joined: bool
    constant: float = 0.0

    @property
    def rows(self) -> int:
        return len(self.response)


def table_to_dataset(table: Table) -> xr.Dataset | None:
    """What a reader of the posterior needs to make such rows anew; None where it would take more than 64 MB."""
    import xarray as xr

    rows, width = table.columns.shape
    if 8 * rows * (width + len(table.statistics.layout.levels) + 5) > MOST_STORED:
        return None
    of_rows = {name: (("row",), getattr(table, name)) for name in ("response", "weight", "trials", "offset", "part")}
    design = {"columns": (("row", "column"), table.columns), "codes": (("row", "level"), table.codes)}
    coords = {
        "column": [column.label for column in table.statistics.layout.columns],
        "level": np.array([level.name for level in table.statistics.layout.levels], dtype=str),
    }
    return xr.Dataset({**design, **of_rows}, coords=coords)


def tabulate(model: Model, data: Any, *, missing: str = "drop", join: bool = True) -> Table:
    """Check the rows of a data set and evaluate what the likelihood needs of them.

    Parameters
    ----------
    model : Model
    data : frame or path
    missing : {"drop", "error"}
    join : bool
        Join rows of equal covariates and groups: bernoulli and binomial rows to counts of successes and trials, poisson
        rows to sums with their exposures. The log density changes by a constant only.

    Raises
    ------
    DataError
        See `bayeshlm.data.checks.table`.
    """
    rows = complete_rows(model, data, missing)
    statistics = moments(model, rows)
    joined = join and joinable(model)
    with np.errstate(all="ignore"):  # everything was found finite; what overflows here is refused by `moments`
        values = collect(_joined(model, rows) if joined else rows.frame.select(**_columns(model, rows)))
        constant = _constant(model, rows)
    return dataclasses.replace(_assemble(model, rows, statistics, values, joined), constant=constant)


def joinable(model: Model) -> bool:
    """Whether responses of equal rows add up without loss."""
    family = model.family_spec
    return family.support in ADDABLE and not family.extra and model.censored is None


def _columns(model: Model, rows: Rows) -> dict[str, nw.Expr]:
    """Keys k0, ..., design columns x1, ..., response y, and w, t, o, s, u where the model has them."""
    layout = rows.layout
    out = {f"k{j}": nw.col(rows.names[key]) for j, key in enumerate(_keys(layout.levels))}
    out |= {f"x{k}": rows.column(column) for k, column in enumerate(layout.columns) if k}
    spread = residual_column(model)
    if spread is not None:
        out["r"] = nw.col(rows.names[spread])
    out["y"] = rows.evaluate(model.terms.response)
    trials = rows.trials(model)
    if trials is not None:
        out["t"] = trials
    elif (weight := row_weight(model, rows)) is not None:
        out["w"] = weight
    offset = rows.offset(model)
    if offset is not None:
        out["o"] = offset
    if model.status_columns:
        out["s"] = status(model, rows)
    if len(model.status_columns) == 2:
        out["u"] = rows.number(model.status_columns[1])
    return out


def _constant(model: Model, rows: Rows) -> float:
    """See `Table.constant`; from how many rows have each response, wherever the rows live."""
    if model.family not in ("poisson", "binomial"):
        return 0.0
    columns = {"y": rows.evaluate(model.terms.response)}
    trials, offset = rows.trials(model), rows.offset(model)
    if trials is not None:
        columns["t"] = trials
    counted = collect(rows.frame.select(**columns).group_by(*columns).agg(n=nw.len()))
    y, n = counted["y"].to_numpy().astype(float), counted["n"].to_numpy().astype(float)
    if trials is not None:
        t = counted["t"].to_numpy().astype(float)
        return float(n @ (gammaln(t + 1) - gammaln(y + 1) - gammaln(t - y + 1)))
    shift = 0.0 if offset is None else aggregate(rows.frame, {"s": (columns["y"] * offset).sum()})["s"]
    return float(shift - n @ gammaln(y + 1))


def _joined(model: Model, rows: Rows) -> Any:
    """Group by everything the linear predictor depends on, where the data live; sum the rest."""
    columns = _columns(model, rows)
    exposed = "o" in columns and model.family_spec.link == "log"
    if exposed:  # exposures add, log odds do not: for those the offset is one more column to group by
        columns["o"] = columns["o"].exp()
    columns.setdefault("t", columns["y"] * 0.0 + 1.0)
    by = [name for name in columns if name[0] in "kx" or (name == "o" and not exposed)]
    sums = [nw.col(name).sum() for name in columns if name not in by]
    frame = rows.frame.select(**columns)
    return frame.group_by(*by).agg(*sums) if by else frame.select(*sums)


def _keys(levels: Any) -> list[str]:
    return list(dict.fromkeys(key for level in levels for key in level.keys))


def _assemble(model: Model, rows: Rows, statistics: Statistics, values: Any, joined: bool) -> Table:
    count, layout = len(values), rows.layout

    def numbers(name: str, default: float) -> Array:
        if name not in values.columns:
            return np.full(count, default)
        return np.asarray(values[name].to_numpy(), dtype=float)

    keys = _keys(layout.levels)
    coded = {key: factorize(values[f"k{j}"], key) for j, key in enumerate(keys)}
    codes = [combine([coded[key] for key in level.keys], count)[0] for level in layout.levels]
    columns = [np.ones(count), *(numbers(f"x{k}", 1.0) for k in range(1, len(layout.columns)))]
    response, offset = numbers("y", 0.0), numbers("o", 0.0)
    if joined and "o" in values.columns and model.family_spec.link == "log":
        offset = np.log(offset)
    elif joined and model.family_spec.link == "log":
        offset = np.log(numbers("t", 1.0))  # each row was exposed once
    # Groups come back in any order; the same rows must make the same table, since the draws depend on it.
    order = np.lexsort((offset, *reversed(columns), *reversed(codes))) if joined else np.arange(count)
    stacked = np.stack(codes, axis=1) if codes else np.zeros((count, 0), dtype=np.int64)
    part = np.zeros(count, dtype=np.int64)
    if layout.residual is not None and "r" in values.columns:
        of_row, labels = factorize(values["r"], layout.residual.name)
        part = np.array([layout.residual.labels.index(label) for label in labels], dtype=np.int64)[of_row]
    return Table(
        statistics, stacked[order], np.stack(columns, axis=1)[order], response[order], numbers("w", 1.0)[order],
        numbers("t", 1.0)[order], offset[order], _status(model, response, values)[order], numbers("u", 0.0)[order],
        part[order], joined,
    )  # fmt: skip


def _status(model: Model, response: Array, values: Any) -> Codes:
    if model.bounds is not None:
        low, high = model.bounds
        left, right = (response <= low if math.isfinite(low) else response < -math.inf), response >= high
        return np.where(left, STATUSES.index("left"), np.where(right, STATUSES.index("right"), 0)).astype(np.int64)
    if "s" not in values.columns:
        return np.zeros(len(response), dtype=np.int64)
    position: Mapping[str, int] = {word: k for k, word in enumerate(STATUSES)}
    return np.array([position[word] for word in values["s"].to_list()], dtype=np.int64)
