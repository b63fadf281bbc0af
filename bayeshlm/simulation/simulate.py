"""Draw a world from a model and a design: rows, and the truth behind them. NumPy only; knows nothing of PyMC."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayeshlm.arrays import Array
from bayeshlm.data.frames.rows import Rows, prepare
from bayeshlm.data.groups import combine, factorize, joined_labels
from bayeshlm.data.layout import Level, residual_column
from bayeshlm.errors import DesignError, listed
from bayeshlm.randomness import generator
from bayeshlm.simulation import responses
from bayeshlm.simulation.default_priors import with_design_priors
from bayeshlm.simulation.design import Design
from bayeshlm.simulation.frame import draw_columns
from bayeshlm.simulation.parameters import Parameters, check_params, draw_parameters
from bayeshlm.spec.expressions import compile_expression
from bayeshlm.spec.model import Model

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


@dataclass(frozen=True, eq=False)
class World:
    """A simulated study.

    Attributes
    ----------
    data : pandas.DataFrame
        One row a unit.
    truth : xarray.Dataset
        The parameters that made it, named and labelled as in a posterior.
    """

    data: pd.DataFrame
    truth: xr.Dataset


def simulate(
    model: Model, design: Design, *, params: Mapping[str, Any] | None = None, random_seed: Any = None
) -> World:
    """Simulate a study.

    Parameters
    ----------
    model : Model
        Its response must be one column. With bounds as `censored`, responses beyond a bound are recorded at it.
    design : Design
        Trials of a binomial model are a covariate; what is drawn for it is rounded, to 1 at least.
    params : mapping, optional
        Values of parameters, named as in the posterior: a number, or an array or a {label: value} mapping for
        parameters with labels. Group-specific effects may be given too; what is left out is drawn: effects from their
        distribution, anything else from its prior.
    random_seed : int, SeedSequence, Generator or None

    Returns
    -------
    World

    Raises
    ------
    DesignError
        Where model and design do not fit, the seed is none, or params name unknown parameters or have the wrong shape.
    PriorError
        Naming parameters that have neither a value nor a proper prior.
    """
    checked = check_params(model, design, params or {})
    data, drawn = draw_rows(with_design_priors(model, design), design, checked, generator(random_seed))
    return World(data, drawn.dataset())


def draw_rows(
    model: Model, design: Design, params: Mapping[str, Any], rng: np.random.Generator
) -> tuple[pd.DataFrame, Parameters]:
    """`simulate` with checked `params`: the rows and their parameters."""
    data, response = draw_columns(model, design, rng), model.terms.response.name
    rows = prepare(model, data)
    check_categories(rows.layout.categories, rows.missing)
    with np.errstate(all="ignore"):  # what is not finite is refused by name
        drawn, predictor = _predictor(model, rows, params, rng)
        data[response] = _draw_response(model, rows, drawn.extra, predictor, rng)
    check_response(bool(np.isfinite(data[response]).all()), response)
    if model.family_spec.support in ("binary", "count", "successes"):
        data[response] = data[response].astype(np.int64)
    return data, drawn


def _groups(rows: Rows, level: Level) -> tuple[NDArray[np.int64], list[Any]]:
    """(group of each row, labels) of a level."""
    frame = rows.frame
    coded = [factorize(frame[rows.names[key]], key) for key in level.keys]
    code, members = combine(coded, rows.used)
    named = [[coded[p][1][c] for c in members[:, p].tolist()] for p in range(len(coded))]
    return code, joined_labels(list(zip(*named, strict=True)))


def _predictor(
    model: Model, rows: Rows, params: Mapping[str, Any], rng: np.random.Generator
) -> tuple[Parameters, Array]:
    """(parameters, linear predictor per row)."""
    layout, frame = rows.layout, rows.frame
    values = {k: frame.select(v=rows.column(c))["v"].to_numpy() for k, c in enumerate(layout.columns) if k}
    values[0] = np.ones(rows.used)
    check_terms([layout.columns[k].label for k, column in values.items() if not np.isfinite(column).all()])
    grouped = [_groups(rows, level) for level in layout.levels]
    drawn = draw_parameters(model, layout, [labels for _, labels in grouped], params, rng)
    predictor = np.zeros(rows.used)
    for value, column in zip(drawn.common, layout.common_columns, strict=True):
        predictor += value * values[column]
    for level, (code, _), effects in zip(layout.levels, grouped, drawn.effects, strict=True):
        for effect, column in zip(effects, level.columns, strict=True):
            predictor += effect[code] * values[column]
    return drawn, predictor


def check_terms(bad: list[str]) -> None:
    """Refuse covariates at which terms are not finite. Raises DesignError."""
    if bad:
        raise DesignError(
            f"These terms are not finite for the covariates drawn: {listed(bad)}. Choose other covariates."
        )


def check_response(finite: bool, response: str) -> None:
    """Refuse a response that left the floats. Raises DesignError."""
    if not finite:
        raise DesignError(
            f"The simulated {response!r} is not finite: the parameters drawn or given carry it out of the floats. "
            "Give narrower priors, or params."
        )


def check_categories(categories: Mapping[str, tuple[Any, ...]], others: Iterable[str] = ()) -> None:
    """Refuse categorical columns with one category only. Raises DesignError."""
    single = [name for name, labels in categories.items() if len(labels) < 2]
    if single or others:
        raise DesignError(f"Columns with one category only or missing values: {listed([*single, *others])}.")


def _parts(model: Model, rows: Rows) -> NDArray[np.int64]:
    """Category of each row that decides its sigma."""
    name, spread = residual_column(model), rows.layout.residual
    assert name is not None
    assert spread is not None  # the caller's branch
    code, labels = factorize(rows.frame[rows.names[name]], name)
    position = {label: k for k, label in enumerate(spread.labels)}
    return np.array([position[label] for label in labels], dtype=np.int64)[code]


def _draw_response(
    model: Model, rows: Rows, extra: Mapping[str, Array], predictor: Array, rng: np.random.Generator
) -> Array:
    frame = rows.frame
    numbers = {
        role: frame.with_columns(value=compile_expression(node, rows.number, {}))["value"].to_numpy().astype(float)
        for role, node in responses.needed(model).items()
    }
    positive = [role for role in ("weights", "se") if role in numbers and not (numbers[role] > 0).all()]
    if positive:
        names = [getattr(model, role) for role in positive]
        raise DesignError(
            f"{listed(names)} (weights or standard errors) was drawn <= 0; choose a positive distribution."
        )
    parameters = dict(extra)
    if rows.layout.residual is not None:
        parameters["sigma"] = parameters["sigma"][_parts(model, rows)]
    predictor = predictor + numbers.pop("offset", 0.0)
    return responses.observed(model, responses.draw(model, predictor, parameters, numbers, rng))
