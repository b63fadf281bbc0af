"""The parameters behind a simulated study: given, or drawn from their priors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.layout import Block, Layout, Level, bound_model
from bayeshlm.data.prior_points import prior_points
from bayeshlm.errors import DesignError, PriorError, listed
from bayeshlm.simulation.design import Design
from bayeshlm.spec.model import Model, matching
from bayeshlm.spec.priors import LKJ, At

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, eq=False)
class Parameters:
    """One value of everything.

    Attributes
    ----------
    values : dict of str to (dims, array)
        Named like the posterior.
    coords : dict of str to list
    common : (p,)
        Common effects, block after block.
    effects : per level of the layout, (k, groups)
    extra : dict of str to array
        The family's own parameters (`sigma`, `nu`, `alpha`); `sigma` is (categories,) where it differs by a factor.
    """

    values: dict[str, tuple[tuple[str, ...], Array]]
    coords: dict[str, list[Any]]
    common: Array
    effects: tuple[Array, ...]
    extra: dict[str, Array]

    @property
    def sigma(self) -> float:
        """The one residual standard deviation; 1 where the standard errors are known."""
        return float(self.extra["sigma"]) if "sigma" in self.extra else 1.0

    def dataset(self) -> xr.Dataset:
        import xarray as xr

        return xr.Dataset(self.values, coords=self.coords)


def check_params(model: Model, design: Design, params: Mapping[str, Any]) -> dict[str, Any]:
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
    known = {name: matching(name, [*model.possible_parameters, *effects]) for name in params}
    unknown = [name for name, parameter in known.items() if parameter is None]
    if unknown:
        raise DesignError(
            f"params names {listed(unknown)}; the parameters are {listed([*model.possible_parameters, *effects], 30)}."
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


def draw_parameters(
    model: Model, layout: Layout, labels: Sequence[list[Any]], params: Mapping[str, Any], rng: np.random.Generator
) -> Parameters:
    """Draw what `params` leaves out, in the order common effects, levels, the family's own.

    Parameters
    ----------
    model : Model
    layout : Layout
    labels : per level of the layout, its groups' labels
    params : mapping, as `check_params` returns it
    rng : numpy.random.Generator
    """
    model = bound_model(model, layout)
    extra_matrices = sorted(
        name for name in params
        if model.possible_parameters.get(name) == "correlation" and name not in model.parameters
    )  # fmt: skip
    if extra_matrices:
        raise DesignError(
            f"params gives {listed(extra_matrices)}, but there is one effect a group: nothing to correlate."
        )
    priors = model.complete_priors
    truth: dict[str, tuple[tuple[str, ...], Array]] = {}
    coords: dict[str, list[Any]] = {}

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

    parts = [parameter(block.name, block.labels, block.dim) for block in layout.common]
    common = np.concatenate(parts or [np.zeros(0)])
    if isinstance(priors.get("Intercept"), At) and "Intercept" not in params:
        # What was drawn is the linear predictor at a point; the intercept is the value at 0.
        common = np.linalg.solve(prior_points(layout, priors), common)
        truth["Intercept"] = ((), np.asarray(common[layout.common_columns.index(0)]))
    effects = []
    for level, groups in zip(layout.levels, labels, strict=True):
        root = _level_root(model, level, parameter, params, truth, coords, rng)
        drawn = root @ rng.standard_normal((len(level.columns), len(groups)))
        coords[level.name] = groups
        position = 0
        for block in level.blocks:
            mine = slice(position, position + len(block.columns))
            if block.name in params:
                drawn[mine] = _given_effects(block, params[block.name], groups)
            position += len(block.columns)
            if block.labels:
                coords[block.dim] = list(block.labels)
                truth[block.name] = ((level.name, block.dim), drawn[mine].T)
            else:
                truth[block.name] = ((level.name,), drawn[mine][0])
        effects.append(drawn)
    extra = {}
    for name, _ in model.extra:
        spread = layout.residual if name == "sigma" else None
        parameter(name, () if spread is None else spread.labels, "" if spread is None else spread.dim)
        extra[name] = truth[name][1]
    return Parameters(truth, coords, common, tuple(effects), extra)


def _level_root(
    model: Model, level: Level, parameter: Any, params: Mapping[str, Any], truth: dict[str, Any],
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
