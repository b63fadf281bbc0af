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
        "site": statistics.site,
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
    attrs = {
        "model": statistics.model.to_json(),
        "model_hash": statistics.model_hash,
        "record": json.dumps(record, ensure_ascii=False),
    }
    return xr.Dataset(variables, coords=coords, attrs=attrs)


def statistics_from_dataset(dataset: xr.Dataset) -> Statistics:
    """Inverse of `statistics_to_dataset`. Raises DataError where the Dataset is something else, or damaged."""
    try:
        model = Model.from_json(dataset.attrs["model"])
        record = json.loads(dataset.attrs["record"])
    except (KeyError, TypeError, json.JSONDecodeError, RecursionError) as error:
        raise DataError("These are not bayeshlm statistics: their attributes are missing, or no JSON.") from error
    try:
        statistics = _read(dataset, model, record)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise DataError(f"These statistics are damaged: {error!r}.") from error
    problems = _damage(statistics, dataset.attrs.get("model_hash"))
    if problems:
        raise DataError(f"These statistics are damaged: {'; '.join(problems)}.")
    return statistics


def _damage(statistics: Statistics, model_hash: Any) -> list[str]:
    """What cannot be true of statistics, whoever wrote the file."""
    cells, columns = len(statistics.count), len(statistics.layout.columns)
    sizes = np.array([len(members) for members in statistics.members], dtype=np.int64)
    shapes = {
        "codes": (cells, len(sizes)), "weight": (cells,), "mean": (cells, columns), "shift": (columns,),
        "scatter": (cells, columns, columns), "log_weights": (cells,), "jacobians": (cells,), "residual": (cells,),
    }  # fmt: skip
    problems = [
        f"{n} has shape {getattr(statistics, n).shape}" for n, s in shapes.items() if getattr(statistics, n).shape != s
    ]
    if problems:
        return problems
    numbers = [getattr(statistics, name) for name in ("count", "weight", "mean", "shift", "scatter")]
    checks = {
        "its hash is not that of its model": model_hash in (None, statistics.model_hash),  # older files have none
        "there are no cells": cells > 0,
        "a group is out of range": bool(((statistics.codes >= 0) & (statistics.codes < sizes)).all()),
        "a group is there twice": all(len(set(members)) == len(members) for members in statistics.members),
        "a number is not finite": all(bool(np.isfinite(values).all()) for values in numbers),
        "a count or weight is not positive": bool((statistics.count > 0).all() and (statistics.weight > 0).all()),
        "its counts do not add up to its rows": statistics.count.sum() == statistics.rows,
        "a sum of squares is negative": bool((np.einsum("cii->ci", statistics.scatter) >= 0).all()),
    }
    return [problem for problem, fine in checks.items() if not fine]


def _read(dataset: xr.Dataset, model: Model, record: Any) -> Statistics:
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
        record["missing"], log_weights, jacobians, residual, record.get("site"),
    )  # fmt: skip
