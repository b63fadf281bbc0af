"""Draw a world from a model and a design: rows, and the truth behind them. NumPy only; knows nothing of PyMC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayeshlm.data.frames import Rows, prepare
from bayeshlm.data.groups import combine, factorize, joined_labels
from bayeshlm.data.layout import Block, Level, residual_column
from bayeshlm.errors import DesignError, PriorError, listed
from bayeshlm.simulation import responses
from bayeshlm.simulation.design import Design, Structure, assign
from bayeshlm.spec.expressions import compile_expression
from bayeshlm.spec.model import Model, matching
from bayeshlm.spec.priors import LKJ

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Array = NDArray[np.float64]


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
        Where model and design do not fit, or params name unknown parameters or have the wrong shape.
    PriorError
        Naming parameters that have neither a value nor a proper prior.
    """
    rng = np.random.default_rng(random_seed)
    params = _check(model, design, params or {})
    data = draw_frame(design, rng)
    if model.terms.trials is not None:
        for name in set(model.terms.trials.node.columns()) & {covariate for covariate, _ in design.covariates}:
            data[name] = np.maximum(np.rint(data[name]), 1).astype(np.int64)
    response = model.terms.response.name
    data[response] = 1.0
    rows = prepare(model, data)
    single = [name for name, labels in rows.layout.categories.items() if len(labels) < 2]
    if single or rows.missing:
        raise DesignError(f"Columns with one category only or missing values: {listed([*single, *rows.missing])}.")
    with np.errstate(all="ignore"):  # what is not finite is refused by name
        truth, predictor = _draw_truth(model, rows, params, rng)
        data[response] = _draw_response(model, rows, truth, predictor, rng)
    if not np.isfinite(data[response]).all():
        raise DesignError(
            f"The simulated {response!r} is not finite: the parameters drawn or given carry it out of the floats. "
            "Give narrower priors, or params."
        )
    if model.family_spec.support in ("binary", "count", "successes"):
        data[response] = data[response].astype(np.int64)
    return World(data, truth)


def draw_frame(design: Design, rng: np.random.Generator) -> pd.DataFrame:
    """Groups, unit, treatments and covariates of a design, one row a unit."""
    import pandas as pd

    structure = design.draw(rng)
    group_of_row = np.repeat(np.arange(len(structure.units)), structure.units)
    ancestors = structure.ancestors()
    columns: dict[str, Any] = {level: codes[group_of_row] for level, codes in ancestors.items()}
    columns[design.unit] = np.arange(len(group_of_row))
    for name, treatment in design.treatments:
        arms = assign(treatment, structure, rng)[ancestors[treatment.level]][group_of_row]
        # Named arms keep their order: the first is the reference of a common effect, not the alphabet's first.
        named = not isinstance(treatment.arms, int | np.integer)
        columns[name] = pd.Categorical(np.array(treatment.names)[arms], list(treatment.names)) if named else arms
    for name, covariate in design.covariates:
        columns[name] = _covariate(covariate.level, covariate.distribution.sample, structure, group_of_row, rng)
    return pd.DataFrame(columns)


def _covariate(level: str | None, sample: Any, structure: Structure, group_of_row: Any, rng: Any) -> Array:
    if level is None:
        return np.asarray(sample(rng, len(group_of_row)))
    values = sample(rng, len(structure.parent[level]))
    return np.asarray(values[structure.ancestors()[level]][group_of_row])


def _check(model: Model, design: Design, params: Mapping[str, Any]) -> dict[str, Any]:
    """The params under their parameters' own names, after everything is checked that needs no draw."""
    if model.terms.response.node.kind != "column":
        raise DesignError(
            f"The response {model.terms.response.name!r} is an expression; simulate needs one column "
            "(for log(y) use family='lognormal')."
        )
    if model.status_columns:
        raise DesignError(
            "censored= names a column, and which rows that censors cannot be drawn. Give bounds, e.g. "
            "censored=(None, 100), and responses beyond them are recorded at the bound."
        )
    made = {name for name, _ in (*design.levels, *design.covariates, *design.treatments)}
    response = model.terms.response.name
    lacking = [name for name in model.columns if name not in made and name != response]
    if lacking:
        raise DesignError(
            f"The design makes no column {listed(lacking)}, which the model uses. It makes {listed(sorted(made))}; "
            "add covariates= or treatments=."
        )
    if response in made:
        raise DesignError(f"The response {response!r} is also a column of the design.")
    effects = {group.effect_name(effect) for group in model.terms.groups for effect in group.effects}
    known = {name: matching(name, [*model.parameters, *effects]) for name in params}
    unknown = [name for name, parameter in known.items() if parameter is None]
    if unknown:
        raise DesignError(
            f"params names {listed(unknown)}; the parameters are {listed([*model.parameters, *effects], 30)}."
        )
    params = {str(known[name]): value for name, value in params.items()}
    for group in model.terms.groups:
        given = [name for name in map(group.effect_name, group.effects) if name in params]
        if group.correlated and 0 < len(given) < len(group.effects):
            raise DesignError(
                f"params gives {listed(given)} only: correlated effects are given together, or drawn together."
            )
    needed = [name for name in model.parameters if name not in params and not _drawable(model, name)]
    fixed = {
        f"{group.effect_name(effect)}_sigma" for group in model.terms.groups for effect in group.effects
        if group.effect_name(effect) in params
    }  # fmt: skip
    needed = [name for name in needed if name not in fixed]
    if needed:
        raise PriorError(f"Neither a value nor a proper prior for {listed(needed)}. Give params= or priors.")
    return params


def _drawable(model: Model, name: str) -> bool:
    prior = model.complete_priors.get(name)
    return prior is not None and prior.proper


def _draw_truth(model: Model, rows: Rows, params: dict[str, Any], rng: np.random.Generator) -> tuple[xr.Dataset, Array]:
    """(truth, linear predictor per row)."""
    import xarray as xr

    layout, priors = rows.layout, model.complete_priors
    frame = rows.frame
    values = {k: frame.select(v=rows.column(c))["v"].to_numpy() for k, c in enumerate(layout.columns) if k}
    values[0] = np.ones(rows.used)
    bad = [layout.columns[k].label for k, column in values.items() if not np.isfinite(column).all()]
    if bad:
        raise DesignError(
            f"These terms are not finite for the covariates drawn: {listed(bad)}. Choose other covariates."
        )
    truth: dict[str, Any] = {}
    coords: dict[str, Any] = {}
    predictor = np.zeros(rows.used)

    def parameter(name: str, labels: tuple[Any, ...], dim: str) -> Array:
        shape = (len(labels),) if labels else ()
        if name in params:
            value = _given(name, params[name], labels, kind=model.parameters[name])
        else:
            value = priors[name].sample(rng, shape or None)
        truth[name] = ((dim,) if labels else (), np.asarray(value, dtype=float))
        if labels:
            coords[dim] = list(labels)
        return np.atleast_1d(np.asarray(value, dtype=float))

    for block in layout.common:
        beta = parameter(block.name, block.labels, block.dim)
        for value, column in zip(beta, block.columns, strict=True):
            predictor += value * values[column]
    for level in layout.levels:
        code, labels = _groups(rows, level)
        root = _level_root(model, level, parameter, params, truth, coords, rng)
        drawn = root @ rng.standard_normal((len(level.columns), len(labels)))
        coords[level.name] = labels
        position = 0
        for block in level.blocks:
            effects = drawn[position : position + len(block.columns)]
            if block.name in params:
                effects = _given_effects(block, params[block.name], labels)
            position += len(block.columns)
            if block.labels:
                coords[block.dim] = list(block.labels)
                truth[block.name] = ((level.name, block.dim), effects.T)
            else:
                truth[block.name] = ((level.name,), effects[0])
            for effect, column in zip(effects, block.columns, strict=True):
                predictor += effect[code] * values[column]
    for name, _ in model.extra:
        spread = layout.residual if name == "sigma" else None
        parameter(name, () if spread is None else spread.labels, "" if spread is None else spread.dim)
    return xr.Dataset(truth, coords=coords), predictor


def _level_root(
    model: Model, level: Level, parameter: Any, params: dict[str, Any], truth: dict[str, Any],
    coords: dict[str, Any], rng: np.random.Generator,
) -> Array:  # fmt: skip
    """Lower root of the covariance of a level's effects, (k, k)."""
    sds = []
    for block in level.blocks:
        name = f"{block.name}_sigma"
        known = block.name in params and name not in params and not _drawable(model, name)
        sds.append(np.zeros(len(block.columns)) if known else parameter(name, block.labels, block.dim))
    root = np.diag(np.concatenate(sds))
    for positions in level.correlated:
        name = f"corr|{level.name}"
        size = len(positions)
        prior = model.complete_priors[name]
        assert isinstance(prior, LKJ)
        correlation = _correlation(name, params.get(name), prior, size, rng)
        labels = [level.effect_labels[k] for k in positions]
        dims = (f"{level.name}_effect", f"{level.name}_effect_other")
        truth[name] = (dims, correlation)
        coords |= dict.fromkeys(dims, labels)
        root[np.ix_(positions, positions)] = np.diag(np.diag(root)[list(positions)]) @ np.linalg.cholesky(correlation)
    return root


def _correlation(name: str, given: Any, prior: LKJ, size: int, rng: np.random.Generator) -> Array:
    if given is None:
        z = prior.sample_partial(rng, size)
        root = np.zeros((size, size))
        root[0, 0], k = 1.0, 0
        for i in range(1, size):
            left = 1.0
            for j in range(i):
                root[i, j] = z[k] * np.sqrt(left)
                left -= root[i, j] ** 2
                k += 1
            root[i, i] = np.sqrt(left)
        return root @ root.T
    matrix = _numbers(name, given)
    if matrix.ndim == 0 and size == 2:
        matrix = np.array([[1.0, float(matrix)], [float(matrix), 1.0]])
    correct = matrix.shape == (size, size) and np.allclose(matrix, matrix.T) and np.allclose(np.diag(matrix), 1)
    if not correct or np.linalg.eigvalsh(matrix).min() <= 0:
        raise DesignError(f"params[{name!r}] must be a positive definite ({size}, {size}) correlation matrix.")
    return matrix


def _numbers(name: str, value: Any) -> Array:
    try:
        return np.asarray(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise DesignError(f"params[{name!r}] must be numbers, not {value!r}.") from error


def _given(name: str, value: Any, labels: tuple[Any, ...], *, kind: str = "") -> Array:
    if isinstance(value, Mapping):
        missing = [label for label in labels if label not in value]
        if missing or len(value) != len(labels):
            raise DesignError(f"params[{name!r}] must have a value for each of {listed(labels)}.")
        value = [value[label] for label in labels]
    array = _numbers(name, value)
    if labels and array.ndim == 0:
        array = np.full(len(labels), float(array))
    if array.shape != ((len(labels),) if labels else ()) or not np.isfinite(array).all():
        wanted = f"{len(labels)} finite numbers, for {listed(labels)}" if labels else "one finite number"
        raise DesignError(f"params[{name!r}] must be {wanted}.")
    if kind == "scale" and (array < 0).any():
        raise DesignError(f"params[{name!r}] is a standard deviation and cannot be negative.")
    if kind == "shape" and (array <= 0).any():
        raise DesignError(f"params[{name!r}] must be positive.")
    return array


def _given_effects(block: Block, value: Any, labels: list[Any]) -> Array:
    """Effects given by the user -> (k, groups)."""
    if block.labels:
        array = _numbers(block.name, value)
        if array.shape != (len(labels), len(block.labels)) or not np.isfinite(array).all():
            raise DesignError(f"params[{block.name!r}] must have shape {(len(labels), len(block.labels))}.")
        return array.T
    return _given(block.name, value, tuple(labels))[None]


def _groups(rows: Rows, level: Level) -> tuple[NDArray[np.int64], list[Any]]:
    """(group of each row, labels) of a level."""
    frame = rows.frame
    coded = [factorize(frame[rows.names[key]], key) for key in level.keys]
    code, members = combine(coded, rows.used)
    named = [[coded[p][1][c] for c in members[:, p].tolist()] for p in range(len(coded))]
    return code, joined_labels(list(zip(*named, strict=True)))


def _parts(model: Model, rows: Rows) -> NDArray[np.int64]:
    """Category of each row that decides its sigma."""
    name, spread = residual_column(model), rows.layout.residual
    assert name is not None
    assert spread is not None  # the caller's branch
    code, labels = factorize(rows.frame[rows.names[name]], name)
    position = {label: k for k, label in enumerate(spread.labels)}
    return np.array([position[label] for label in labels], dtype=np.int64)[code]


def _draw_response(model: Model, rows: Rows, truth: xr.Dataset, predictor: Array, rng: np.random.Generator) -> Array:
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
    parameters = {name: truth[name].to_numpy() for name, _ in model.extra}
    if rows.layout.residual is not None:
        parameters["sigma"] = parameters["sigma"][_parts(model, rows)]
    predictor = predictor + numbers.pop("offset", 0.0)
    return responses.observed(model, responses.draw(model, predictor, parameters, numbers, rng))
