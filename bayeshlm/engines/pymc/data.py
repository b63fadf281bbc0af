"""What a generative model is told: its data, coordinates and the names of what is not the user's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeshlm.arrays import Array
from bayeshlm.data.checks.support import STATUSES
from bayeshlm.data.prior_points import prior_points
from bayeshlm.data.statistics import Statistics
from bayeshlm.engines.pymc.observations import Observations
from bayeshlm.engines.pymc.parameterization import Plan
from bayeshlm.spec.model import Model
from bayeshlm.spec.priors import At
from bayeshlm.spec.terms import variable_name

ROWS, COLUMNS = "__obs__", "__column__"  # dims, named so that no column of the user's can have their name


@dataclass(frozen=True, eq=False)
class Data:
    """Values of one `pm.Data`, and its dims."""

    values: NDArray[Any]
    dims: tuple[str, ...] = ()


def data_of(statistics: Statistics, observations: Observations, plans: tuple[Plan, ...]) -> dict[str, Data]:
    """Everything that may change between fits of one model shape, by the name of its `pm.Data`."""
    layout, names = statistics.layout, Names(statistics.model)
    data = {
        "columns": Data(observations.columns, (ROWS, COLUMNS)),
        "constant": Data(observations.constant, (ROWS,)),
        "column_means": Data(observations.shift, (COLUMNS,)),
        "column_scales": Data(column_scales(statistics), (COLUMNS,)),
        "response_mean": Data(np.asarray(observations.response_shift)),
        "observed": Data(observations.response, (ROWS,)),
        "weight": Data(observations.weight, (ROWS,)),
        "trials": Data(observations.trials, (ROWS,)),
        "offset": Data(observations.offset, (ROWS,)),
        "upper": Data(observations.upper, (ROWS,)),
        "part": Data(observations.part, (ROWS,)),
    }
    priors = statistics.model.complete_priors
    if isinstance(priors.get("Intercept"), At):
        point = np.zeros(len(layout.columns) - 1)
        columns = layout.common_columns
        told = prior_points(layout, priors)[columns.index(0)]
        for column, value in zip(columns, told, strict=True):
            if column:
                point[column - 1] = value
        data["prior_point"] = Data(point, (COLUMNS,))
    for plan in plans:
        level = layout.levels[plan.index].name
        data[f"{level}_of_row"] = Data(observations.codes[:, plan.index], (ROWS,))
        data[f"{level}_parent"] = Data(plan.parent_codes, (level,))
        data[f"{level}_share"] = Data(plan.share, (level,))
        data[f"{level}_columns"] = Data(plan.reference, (level, COLUMNS))
    if statistics.model.censored is not None:
        found = {word: np.flatnonzero(observations.status == k) for k, word in enumerate(STATUSES)}
        expected = _expected_statuses(statistics.model)
        data |= {f"status {word}": Data(where) for word, where in found.items() if len(where) or word in expected}
    if observations.rest:
        squares, free, parts = (np.array(values) for values in zip(*observations.rest, strict=True))
        if layout.residual is None:
            squares, free = squares[0], free[0]
        data |= {"rest_square": Data(squares), "rest_free": Data(free.astype(float)), "rest_part": Data(parts)}
    return {names(name): value for name, value in data.items()}


def column_scales(statistics: Statistics) -> Array:
    """(design columns without the constant,): spread about the means; about 0 where no intercept takes these up."""
    weight, mean, scatter = statistics.total()
    square = np.diag(scatter)[:-1] / weight
    if not statistics.model.terms.intercept:
        square = square + (mean + statistics.shift)[:-1] ** 2
    return np.where(square > 0, np.sqrt(square), 1.0)


def _expected_statuses(model: Model) -> set[str]:
    """What a model with bounds has a place for in any data: whether a row lies at a bound is no matter of its shape."""
    if model.bounds is None:
        return set()
    low, high = map(math.isfinite, model.bounds)
    return {"none", *(["left"] * low), *(["right"] * high)}


def coords_of(statistics: Statistics, observations: Observations) -> dict[str, Any]:
    layout = statistics.layout
    coords: dict[str, Any] = {
        ROWS: np.arange(observations.count),
        COLUMNS: [column.label for column in layout.columns[1:]],
    }
    blocks = [*layout.common, *(block for level in layout.levels for block in level.blocks)]
    blocks += [layout.residual] if layout.residual is not None else []
    coords |= {block.dim: list(block.labels) for block in blocks if block.labels}
    for k, level in enumerate(layout.levels):
        coords[level.name] = statistics.labels(k)
        coords[f"{level.name}_total_effect"] = list(level.effect_labels)
        for positions in level.correlated:
            labels = [level.effect_labels[p] for p in positions]
            coords |= dict.fromkeys((f"{level.name}_effect", f"{level.name}_effect_other"), labels)
    return coords


class Names:
    """Names of helper variables and data, changed where the user's model has the same."""

    def __init__(self, model: Model) -> None:
        terms = model.terms
        self.taken = {*model.parameters, *(group.level_name for group in terms.groups)}
        self.taken |= {group.effect_name(effect) for group in terms.groups for effect in group.effects}
        self.response = self(variable_name(terms.response.name))
        self.taken |= {self.response}

    def __call__(self, name: str) -> str:
        """The name, with underscores behind it until it is free."""
        while name in self.taken:
            name += "_"
        return name
