"""Flat priors that the rows do not bound: an arm, or a range of a column, in which all answers are alike."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog

from bayeshlm.arrays import Array
from bayeshlm.data.checks.support import STATUSES
from bayeshlm.data.table import Table
from bayeshlm.errors import PriorError, listed
from bayeshlm.spec.priors import Flat

TOLERANCE = 1e-9


def check_separation(table: Table) -> None:
    """Refuse flat priors of common effects that the rows do not bound (Albert and Anderson 1984, Biometrika 71(1)).

    Where some change of the coefficients moves the linear predictor of no row against its response (up only where the
    answers are all yes, down only where all are no or 0), the likelihood does not fall along it, however far.

    Raises
    ------
    PriorError
        Naming the coefficients.
    """
    layout, priors = table.statistics.layout, table.statistics.model.complete_priors
    flat = [(block.name, column) for block in layout.common if isinstance(priors[block.name], Flat)
            for column in block.columns]  # fmt: skip
    if not flat:
        return
    x = table.columns[:, [column for _, column in flat]]
    scale = np.sqrt(np.mean(x**2, axis=0))
    x = x / np.where(scale > 0, scale, 1.0)
    sign = _free_direction(table)
    held, free = x[sign == 0], sign != 0
    basis = _null_space(held)
    if basis.shape[1] == 0 or not free.any():
        return
    rows = np.unique(sign[free, None] * (x[free] @ basis), axis=0)
    found = linprog(-rows.sum(axis=0), A_ub=-rows, b_ub=np.zeros(len(rows)), bounds=[(-1, 1)] * basis.shape[1])
    if found.x is None:
        return
    direction = basis @ found.x
    if (rows @ found.x).sum() > TOLERANCE * len(rows):
        names = [name for (name, _), d in zip(flat, direction, strict=True) if abs(d) > 1e-6 * np.abs(direction).max()]
        raise PriorError(
            f"A flat prior leaves the posterior improper for {listed(dict.fromkeys(names))}: in part of the data all "
            "responses are alike (all yes, all no, all 0 or all capped), so that nothing bounds these coefficients. "
            "Give them a proper prior, e.g. Normal(0, 2.5)."
        )


def _free_direction(table: Table) -> Array:
    """(rows,) +1 where a row's linear predictor may rise without bound, -1 where it may fall, 0 where neither."""
    family, y = table.statistics.model.family, table.response
    if table.statistics.model.censored is not None:
        sign = np.zeros(table.rows)
        sign[table.status == STATUSES.index("right")] = 1.0
        sign[table.status == STATUSES.index("left")] = -1.0
        return sign
    if family in ("bernoulli", "binomial"):
        return np.where(y == 0, -1.0, np.where(y == table.trials, 1.0, 0.0))
    if family in ("poisson", "negative_binomial"):
        return np.where(y == 0, -1.0, 0.0)
    return np.zeros(table.rows)


def _null_space(rows: Array) -> Array:
    """(q, k) directions that all rows (n, q) are orthogonal to."""
    values, vectors = np.linalg.eigh(rows.T @ rows) if len(rows) else (np.zeros(rows.shape[1]), np.eye(rows.shape[1]))
    return np.asarray(vectors[:, values <= 1e-10 * max(len(rows), 1)])
