"""Statistics <-> xarray Dataset, so that a posterior carries what it was computed from and statistics can be saved."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshlm.data.layout import bind, numeric_columns, stateful
from bayeshlm.data.statistics import Statistics
from bayeshlm.errors import DataError
from bayeshlm.spec.model import Model

if TYPE_CHECKING:
    import xarray as xr


def statistics_to_dataset(statistics: Statistics) -> xr.Dataset:
    """All of a Statistics record; `statistics_from_dataset` is the inverse."""
    import xarray as xr

    layout = statistics.layout
    columns = [column.label for column in layout.columns[1:]] + [statistics.model.terms.response.name]
    record = {
        "rows": statistics.rows,
        "total_rows": statistics.total_rows,
        "missing": dict(statistics.missing),
        "numeric": [name for name, number in numeric_columns(statistics.model, layout).items() if number],
        "categories": [[name, list(values)] for name, values in layout.categories.items()],
        "declared": [[name, list(values)] for name, values in layout.declared.items()],
        "constants": [list(constant) for constant in layout.constants.values()],
    }
    variables: dict[str, Any] = {
        "count": (("cell",), statistics.count),
        "weight": (("cell",), statistics.weight),
        "mean": (("cell", "column"), statistics.mean),
        "scatter": (("cell", "column", "column_other"), statistics.scatter),
        "shift": (("column",), statistics.shift),
        "codes": (("cell", "level"), statistics.codes),
        "log_weights": (("cell",), statistics.log_weights),
        "jacobians": (("cell",), statistics.jacobians),
        "residual": (("cell",), statistics.residual),
    }
    for k, members in enumerate(statistics.members):
        for j, values in enumerate(zip(*members, strict=True)):
            variables[f"level_{k}_key_{j}"] = ((f"level_{k}_group",), np.array(values))
    coords = {"column": columns, "level": np.array([level.name for level in layout.levels], dtype=str)}
    attrs = {"model": statistics.model.to_json(), "record": json.dumps(record, ensure_ascii=False)}
    return xr.Dataset(variables, coords=coords, attrs=attrs)


def statistics_from_dataset(dataset: xr.Dataset) -> Statistics:
    """Inverse of `statistics_to_dataset`. Raises DataError where the Dataset is something else."""
    try:
        model = Model.from_json(dataset.attrs["model"])
        record = json.loads(dataset.attrs["record"])
    except (KeyError, TypeError) as error:
        raise DataError("These are not bayeshlm statistics: their attributes are missing.") from error
    numeric = {name: name in record["numeric"] for name in model.columns}
    categories = {name: tuple(values) for name, values in record["categories"]}
    nodes = stateful(model)
    constants = {node: (mean, sd) for node, (mean, sd) in zip(nodes, record["constants"], strict=True)}
    declared = {name: tuple(values) for name, values in record["declared"]}
    layout = bind(model, numeric, categories, constants, declared)
    members = []
    for k, level in enumerate(layout.levels):
        keys = [dataset[f"level_{k}_key_{j}"].values.tolist() for j in range(len(level.keys))]
        members.append(tuple(zip(*keys, strict=True)))
    codes, count, weight, mean, scatter, shift, log_weights, jacobians, residual = (
        dataset[name].values for name in (
            "codes", "count", "weight", "mean", "scatter", "shift", "log_weights", "jacobians", "residual"
        )
    )  # fmt: skip
    return Statistics(
        model, layout, tuple(members), codes, count, weight, mean, scatter, shift, record["total_rows"], record["rows"],
        record["missing"], log_weights, jacobians, residual,
    )  # fmt: skip
