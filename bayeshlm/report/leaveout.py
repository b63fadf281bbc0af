"""The report's table of groups left out of the fit one by one."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bayeshlm.data.statistics import Statistics
from bayeshlm.errors import BayeshlmError, BayeshlmWarning
from bayeshlm.posterior.draws import dataset
from bayeshlm.posterior.loo import loo, seconds_to_leave_out
from bayeshlm.report.description import Table, count, number

if TYPE_CHECKING:
    import xarray as xr

MOST_GROUPS = 300  # of the level whose groups are left out: a second or two
MOST_SECONDS = 10.0  # for crossed levels, whose groups take longer
SHOWN = 12


@dataclass(frozen=True)
class LeftOut:
    """Groups of a level by how badly a fit without them predicts their rows, the worst first."""

    sentence: str
    table: Table


def left_out(posterior: xr.DataTree, statistics: Statistics) -> LeftOut | None:
    """None where there is no level of 3 to 300 groups, or `loo` cannot say (large crossed levels, other engines)."""
    sizes = {k: len(members) for k, members in enumerate(statistics.members) if 3 <= len(members) <= MOST_GROUPS}
    if not sizes:
        return None
    index = max(sizes, key=lambda k: sizes[k])
    level = statistics.layout.levels[index]
    draws = dataset(posterior).sizes["chain"] * dataset(posterior).sizes["draw"]
    try:
        if seconds_to_leave_out(statistics, index, draws) > MOST_SECONDS:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BayeshlmWarning)  # Pareto k is in the table
            result = loo(posterior, level.name)
    except BayeshlmError:
        return None
    rows = np.bincount(statistics.codes[:, index], statistics.count, sizes[index])
    elpd, k = result.elpd_i.values, result.pareto_k.values
    each = elpd / rows
    order = np.argsort(each)[:SHOWN]
    labels = statistics.labels(index)
    table = [(str(labels[g]), count(rows[g]), number(each[g]), number(elpd[g]), number(k[g], 2)) for g in order]
    rest = len(labels) - len(table)
    headers = (level.name, "rows", "log density a row", "log density", "Pareto k")
    note = f"The {len(table)} least expected of {len(labels):,} groups." if rest else ""
    sentence = (
        f"Each group of {level.name} predicted by a fit to the others, its own effect integrated out: expected "
        f"log predictive density {number(result.elpd)} (standard error {number(result.se, 2)}). Against another model "
        "of these rows the difference counts, with its own standard error over the same groups: "
        "arviz_stats.compare of two results of bayeshlm.loo."
    )
    if result.warning:
        sentence += " Where Pareto k exceeds 0.7 the figure is not reliable."
    return LeftOut(sentence, Table(headers, tuple(table), 1, note))
