"""Predictions for rows, known groups or new ones, from a stored posterior alone."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayeshlm.arrays import Array
from bayeshlm.data.frames.new_rows import MAX_BYTES, NewRows, bind_rows, places
from bayeshlm.data.groups import combine, joined_labels
from bayeshlm.data.layout import Layout, residual_column
from bayeshlm.engines.progress import progress_bar
from bayeshlm.errors import BayeshlmWarning, DataError, listed, outside_package
from bayeshlm.posterior.draws import common_draws, dataset, flat, model_of, new_effects, statistics_of
from bayeshlm.posterior.question import grouping_columns
from bayeshlm.randomness import chosen_seed, seed_problem
from bayeshlm.simulation import responses
from bayeshlm.spec.model import Model
from bayeshlm.spec.terms import variable_name

if TYPE_CHECKING:
    import xarray as xr

NEW_GROUPS = ("population", "error")
SLOW = 40  # chunks that take a second or two
CHUNK = 2_000_000  # rows times draws worked on at once; also the unit of random numbers, so it is no option


def predict(
    posterior: xr.DataTree,
    data: Any,
    *,
    kind: str = "mean",
    new_groups: str = "population",
    by: str | None = None,
    random_seed: int | None = None,
    progress: bool = True,
) -> xr.DataTree:
    """Predict the response of rows.

    Parameters
    ----------
    posterior : xarray.DataTree
        Of `fit`, also one that was saved and loaded: nothing else is needed.
    data : frame or path
        Rows with the columns of the formula's right side, and those of weights, known standard errors, offsets and
        trials where the prediction depends on them. The response is not needed.
    kind : {"mean", "median", "response"}
        mean: the expected response of a row given the parameters. For a lognormal response that is
        exp(predictor + sigma^2 / 2), above the `median`, exp(predictor). For binomial responses it counts successes
        out of the row's trials. median: for families in which it is a plain function of the parameters.
        response: a drawn response, with the noise of a row; where the model is censored by bounds, as it would be
        observed, inside them. Mean and median speak of the response before censoring.
    new_groups : {"population", "error"}
        Groups that the fit did not see: draw their effects from the population (a child of a known group keeps its
        parent's effect), one draw for each new group and posterior draw, shared by all its rows; or refuse them.
    by : str, optional
        Average the predictions over the rows of each group: a column of the common effects, a level (`method`,
        `method:instructor`, or its last column `instructor`), or any other column of `data`.
    random_seed : int, optional
        For new groups and responses; None draws one and stores it.
    progress : bool
        Show a progress bar where it takes longer than a second or two.

    Returns
    -------
    xarray.DataTree
        `predictions` with one variable, named ``<response>_mean``, ``<response>_median`` or ``<response>``, dims
        (chain, draw, row) or (chain, draw, `by`); `predictions_constant_data` with what stands behind each row or
        group; attrs with the kind, the seed, the number of new groups of each level, and the fit's status.

    Raises
    ------
    DataError
        For columns, values, categories (and, under "error", groups) that cannot be predicted for, all of them named;
        and for predictions that would not fit in memory, with their size.
    """
    import xarray as xr

    model, statistics = model_of(posterior), statistics_of(posterior)
    _check(model, kind, new_groups, random_seed)
    seed = chosen_seed(random_seed)
    layout, members = statistics.layout, statistics.members
    keys = () if by is None else grouping_columns(statistics, by)
    if by is not None and variable_name(by) in ("chain", "draw"):
        raise DataError(f"by={by!r} is also a dimension of every posterior; rename the column.")
    rows = bind_rows(
        layout, members, data, numbers=responses.needed(model, kind), groupings=keys, residual=residual_column(model)
    )
    _check_numbers(model, rows)
    unknown = {level.name: joined_labels(new) for level, new in zip(layout.levels, rows.new, strict=True) if new}
    if unknown and new_groups == "error":
        named = "; ".join(f"{name}: {listed(labels)}" for name, labels in unknown.items())
        raise DataError(f"Groups that the fit did not see: {named}. Use new_groups='population' to draw their effects.")
    draws = dataset(posterior).sizes["chain"] * dataset(posterior).sizes["draw"]
    cells, labels, dim = _cells(rows, keys, by)
    _check_memory(layout, rows, draws, len(labels))
    if posterior.attrs.get("status") == "FAIL":
        warnings.warn(
            "These predictions come from a fit that did not converge: do not use them.", BayeshlmWarning,
            stacklevel=outside_package(),
        )  # fmt: skip
    of_groups, of_rows = np.random.SeedSequence(seed).spawn(2)
    effects = row_effects(posterior, layout, members, rows, np.random.default_rng(of_groups))
    count = np.bincount(cells, minlength=len(labels))
    out = _averages(
        posterior, kind, model, layout, rows, cells, len(labels), effects, np.random.default_rng(of_rows), progress
    )
    name = variable_name(model.terms.response.name) + ("" if kind == "response" else f"_{kind}")
    sizes = dataset(posterior).sizes
    shaped = np.moveaxis(out.reshape(len(labels), sizes["chain"], sizes["draw"]), 0, -1)
    coords = {"chain": dataset(posterior)["chain"].values, "draw": dataset(posterior)["draw"].values, dim: labels}
    tree = xr.DataTree.from_dict({
        "predictions": xr.Dataset({name: (("chain", "draw", dim), shaped)}, coords=coords),
        "predictions_constant_data": _constant_data(layout, members, rows, labels, dim, None if by is None else count),
    })  # fmt: skip
    tree.attrs = {
        "model": posterior.attrs["model"], "kind": kind, "random_seed": seed,
        "new_groups": json.dumps({name: len(found) for name, found in unknown.items()}, ensure_ascii=False),
        "status": str(posterior.attrs.get("status", "")),
    }  # fmt: skip
    return tree


def _check(model: Model, kind: str, new_groups: str, random_seed: object) -> None:
    if new_groups not in NEW_GROUPS:
        raise DataError(f"new_groups={new_groups!r}: it is one of {listed(NEW_GROUPS)}.")
    if problem := seed_problem(random_seed):
        raise DataError(f"{problem}.")
    responses.check_kind(model, kind)


def _check_numbers(model: Model, rows: NewRows) -> None:
    """Weights and standard errors are positive, trials whole."""
    problems = []
    for role, values in rows.numbers.items():
        bad = (values < 0) | (values % 1 != 0) if role == "trials" else values <= 0
        if role != "offset" and bad.any():
            name = model.terms.trials.name if role == "trials" and model.terms.trials else getattr(model, role)
            what = "a whole number of at least 0" if role == "trials" else "positive"
            problems.append(f"{name!r} ({role}) is not {what} in {int(bad.sum())} rows{places(bad)}")
    if problems:
        raise DataError("; ".join(problems) + ".")


def _averages(
    posterior: xr.DataTree, kind: str, model: Model, layout: Layout, rows: NewRows, cells: NDArray[np.int64],
    groups: int, effects: list[tuple[NDArray[np.int64], Array]], rng: np.random.Generator,
    progress: bool,
) -> Array:  # fmt: skip
    """(cells, draws): predictions of rows, averaged over each cell, a bounded number of rows at a time."""
    from scipy.sparse import csr_array

    beta = common_draws(posterior, layout).T
    parameters = {name: flat(posterior, name)[None] for name, _ in model.extra}
    sigmas = None if layout.residual is None else flat(posterior, "sigma").T
    draws = beta.shape[1]
    share = 1 / np.bincount(cells, minlength=groups)
    out = np.zeros((groups, draws))
    step = max(1, CHUNK // draws)
    with progress_bar("predicting", rows.count, shown=progress and rows.count > SLOW * step) as told:
        for start in range(0, rows.count, step):
            part = slice(start, min(start + step, rows.count))
            predictor = row_predictor(layout, rows, part, beta, effects)
            numbers = {name: column[part, None] for name, column in rows.numbers.items()}
            if sigmas is not None:
                parameters["sigma"] = sigmas[rows.part[part]]
            with np.errstate(all="ignore"):  # what is not finite is refused by name
                made = responses.compute(kind, model, predictor + numbers.pop("offset", 0.0), parameters, numbers, rng)
            if not np.isfinite(made).all():
                raise DataError(
                    "Some predictions are not finite: the covariates carry the response out of the floats. Look for a "
                    "wrong unit in the data, or for priors that leave the response unbounded."
                )
            touched, place = np.unique(cells[part], return_inverse=True)
            averaging = csr_array(
                (share[cells[part]], (place, np.arange(len(place)))), shape=(len(touched), len(place))
            )
            out[touched] += averaging @ made
            told(part.stop, "")
    return out


def _cells(rows: NewRows, keys: tuple[str, ...], by: str | None) -> tuple[NDArray[np.int64], list[Any], str]:
    """(cell of each row, labels of the cells, their dimension): each row its own, or the groups of `by`."""
    if by is None:
        return np.arange(rows.count), list(range(rows.count)), "row"
    coded = [rows.labels[key] for key in keys]
    cells, combos = combine(coded, rows.count)
    members = [tuple(labels[c] for (_, labels), c in zip(coded, combo, strict=True)) for combo in combos.tolist()]
    return cells, joined_labels(members), variable_name(":".join(keys))


def _check_memory(layout: Layout, rows: NewRows, draws: int, results: int) -> None:
    effects = sum(
        len(np.unique(codes)) * len(level.columns) for level, codes in zip(layout.levels, rows.codes, strict=True)
    )
    size = 8 * draws * (results + effects)
    if size > MAX_BYTES:
        raise DataError(
            f"{draws:,} draws of {results:,} predictions and of the effects behind them take {size / 2**30:.1f} GiB, "
            f"over the limit of {MAX_BYTES / 2**30:.0f} GiB. Predict for fewer rows at a time, or average them over "
            "groups with by=."
        )


def row_effects(
    posterior: xr.DataTree, layout: Layout, members: tuple[Any, ...], rows: NewRows, rng: np.random.Generator
) -> list[tuple[NDArray[np.int64], Array]]:
    """Per level (position of each row's group, (effects, groups that occur, draws))."""
    found = []
    for level, known, codes, new in zip(layout.levels, members, rows.codes, rows.new, strict=True):
        used, position = np.unique(codes, return_inverse=True)
        old = used[used < len(known)]
        drawn = [flat(posterior, block.name) for block in level.blocks]
        parts = [d[:, old].reshape(len(d), len(old), len(b.columns)) for d, b in zip(drawn, level.blocks, strict=True)]
        effects = np.concatenate(parts, axis=2)  # (draws, known groups, effects)
        if new:
            effects = np.concatenate([effects, new_effects(posterior, level, len(new), rng)], axis=1)
        found.append((position, np.ascontiguousarray(effects.T)))
    return found


def row_predictor(
    layout: Layout, rows: NewRows, part: slice, beta: Array, effects: list[tuple[NDArray[np.int64], Array]]
) -> Array:
    """(rows, draws) of the linear predictor."""
    common = np.stack([rows.values[k][part] for k in layout.common_columns], axis=1) if layout.common_columns else None
    predictor = np.zeros((part.stop - part.start, beta.shape[1])) if common is None else common @ beta
    for level, (position, values) in zip(layout.levels, effects, strict=True):
        for column, of_group in zip(level.columns, values, strict=True):
            drawn = of_group[position[part]]
            predictor += drawn if column == 0 else rows.values[column][part, None] * drawn
    return predictor


def _constant_data(
    layout: Layout, members: tuple[Any, ...], rows: NewRows, labels: list[Any], dim: str, count: Any
) -> xr.Dataset:
    """What stands behind each row: its groups and the values of its terms; of a group, its number of rows."""
    import xarray as xr

    if count is not None:
        return xr.Dataset({"rows": ((dim,), count)}, coords={dim: labels})
    variables: dict[str, Any] = {
        column.label: ((dim,), values) for column, values in zip(layout.columns[1:], rows.values[1:], strict=True)
    }
    variables |= {name: ((dim,), values) for name, values in rows.numbers.items()}
    for level, known, codes, new in zip(layout.levels, members, rows.codes, rows.new, strict=True):
        names = joined_labels([*known, *new])
        names = names if len({type(name) for name in names}) == 1 else [str(name) for name in names]
        variables[level.name] = ((dim,), np.array(names)[codes])
    return xr.Dataset({variable_name(name): value for name, value in variables.items()}, coords={dim: labels})
