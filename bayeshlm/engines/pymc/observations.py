"""What a generative model observes: rows, or what is left of them after lossless compression, in centred columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bayeshlm.arrays import Array, Codes
from bayeshlm.data.cross_products import project_out
from bayeshlm.data.statistics import Statistics
from bayeshlm.data.table import Table
from bayeshlm.engines.checks import within_fit


@dataclass(frozen=True, eq=False)
class Observations:
    """Observations, one a row: response ~ family(constant * overall + columns @ slopes + group effects + offset).

    Attributes
    ----------
    constant : (rows,)
        What the intercept is multiplied by: 1, or 0 for a direction within groups.
    columns : (rows, design columns without the constant)
        Less `shift` times the constant.
    codes : (rows, levels) int
    response : (rows,)
        Of rows as the user gave it; of compressed gaussian and lognormal ones less `response_shift` times the constant,
        on the scale on which effects add.
    weight, trials, offset : (rows,)
    status : (rows,) int, upper : (rows,)
        See `Table`.
    shift : (columns,)
        The columns' means.
    response_shift : float
        Mean of the response where effects add to it (or to its log, for lognormal), else 0.
    part : (rows,) int
        Category whose sigma a row has; zeros where all share one.
    rest : tuple of (float, int, int)
        Sums of squares that no row shows: sigma^2 times a chi-square variable, its degrees of freedom, and the category
        whose sigma it is. At most one a category.
    rows : bool
        Whether these are the user's rows.
    """

    constant: Array
    columns: Array
    codes: Codes
    response: Array
    weight: Array
    trials: Array
    offset: Array
    status: Codes
    upper: Array
    shift: Array
    response_shift: float
    part: Codes
    rest: tuple[tuple[float, int, int], ...]
    rows: bool

    @property
    def count(self) -> int:
        return len(self.response)


def from_table(table: Table) -> Observations:
    """The rows of a table (joined ones, too, are rows of a binomial or poisson response)."""
    shift = table.statistics.shift[:-1]
    return Observations(
        table.columns[:, 0], table.columns[:, 1:] - shift, table.codes, table.response, table.weight, table.trials,
        table.offset, table.status, table.upper, shift, response_shift(table.statistics), table.part, (),
        not table.joined,
    )  # fmt: skip


def from_statistics(statistics: Statistics) -> Observations:
    """Rows that carry the same information as the sums: rotated ones, as many as there are unknowns to inform.

    In each cell the rows are rotated (by Gram and Schmidt, from the cross products): its mean, a direction for each
    column whose slope varies between groups, and the rest. The rests of all cells with the same sigma together have a
    direction for each other column; what is left after these is a sum of squares that no effect changes. A rotation of
    independent normal errors of equal variance leaves them independent, so nothing is lost, whatever the parameters.
    """
    layout = statistics.layout
    within_fit(statistics)  # refuses a response that is a function of the columns but for rounding
    count, slopes = len(statistics.count), varying_columns(statistics)
    moments = np.moveaxis(statistics.scatter, 0, -1)  # (columns and y, the same, cells)
    rotated, rest = project_out(moments, tuple(k - 1 for k in slopes))
    informative = (rotated != 0).any(axis=1)  # (slopes, cells)
    which, cell = np.nonzero(informative)
    directions = rotated[which, :, cell]
    others = tuple(k for k in range(len(layout.columns) - 1) if k + 1 not in slopes)
    parts = 1 if layout.residual is None else len(layout.residual.labels)
    together = [project_out(rest[:, :, statistics.residual == part].sum(axis=2), others) for part in range(parts)]
    shown = [pooled[(pooled != 0).any(axis=1)] for pooled, _ in together]
    pooled = np.concatenate(shown)
    part = np.concatenate([
        statistics.residual, statistics.residual[cell], np.repeat(np.arange(parts), [len(rows) for rows in shown])
    ])  # fmt: skip
    values = np.concatenate([statistics.mean, directions, pooled])
    codes = np.concatenate([statistics.codes, statistics.codes[cell], np.zeros((len(pooled), len(layout.levels)), int)])
    constant = np.concatenate([np.ones(count), np.zeros(len(directions) + len(pooled))])
    size = len(constant)
    free = np.bincount(statistics.residual, statistics.count, parts) - np.bincount(part, minlength=parts)
    # A sum of squares of exactly 0 would have density 0 or infinity; the smallest number has the same shape in sigma.
    squares = [max(float(left[-1, -1]), float(np.finfo(float).tiny)) for _, left in together]
    left_over = tuple((squares[k], int(free[k]), k) for k in range(parts) if free[k] > 0)
    known = statistics.model.se is not None
    weight = np.concatenate([statistics.weight, np.ones(size - count)])
    return Observations(
        constant, values[:, :-1], codes, values[:, -1], weight, np.ones(size), np.zeros(size),
        np.zeros(size, dtype=np.int64), np.zeros(size), statistics.shift[:-1], response_shift(statistics),
        part, () if known else left_over, False,
    )  # fmt: skip


def response_shift(statistics: Statistics) -> float:
    """The response's mean where effects add to it or to its log, else 0."""
    family = statistics.model.family_spec
    return float(statistics.shift[-1]) if family.link == "identity" or family.log_response else 0.0


def varying_columns(statistics: Statistics) -> tuple[int, ...]:
    """Design columns, the constant aside, whose slopes vary between the groups of some level."""
    return tuple(sorted({k for level in statistics.layout.levels for k in level.columns if k}))
