"""Reading a posterior: the model behind it, its variables by kind, effects of new groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.layout import Layout, Level
from bayeshlm.data.prior_points import prior_points
from bayeshlm.data.statistics import Statistics
from bayeshlm.data.store import statistics_from_dataset
from bayeshlm.errors import DataError
from bayeshlm.spec.model import Model
from bayeshlm.spec.priors import At, Prior

if TYPE_CHECKING:
    import xarray as xr

Lookup = Callable[[str], Array]  # a variable's draws by its name, (draws, ...)


def model_of(posterior: xr.DataTree) -> Model:
    """The model that made the posterior. Raises DataError for a tree that bayeshlm did not make."""
    if "model" not in getattr(posterior, "attrs", {}) or "posterior" not in posterior:
        raise DataError("This is no posterior of bayeshlm.fit: its attrs hold no model, or a group is missing.")
    return Model.from_json(posterior.attrs["model"])


def statistics_of(posterior: xr.DataTree) -> Statistics:
    """The sufficient statistics the posterior was computed from."""
    model_of(posterior)
    if "statistics" not in posterior:
        raise DataError("The posterior has no group 'statistics'; it was not made, or not saved, by bayeshlm.")
    return statistics_from_dataset(dataset(posterior, "statistics"))


def dataset(posterior: xr.DataTree, group: str = "posterior") -> xr.Dataset:
    """One group of the tree as a Dataset (without copying the values)."""
    return posterior.children[group].to_dataset()


def flat(posterior: xr.DataTree, name: str) -> Array:
    """Draws of a variable, chains joined: (draws, ...). Raises DataError where its moments or nothing are kept."""
    if name in moments_of(posterior):
        raise DataError(
            f"Of {name!r} only means and standard deviations were kept (its level has too many groups); this needs "
            'draws. Fit with effects="draws", and fewer draws if memory is short, or ask for a level with fewer groups.'
        )
    found = dataset(posterior)
    if name not in found:
        raise DataError(
            f"The posterior has no variable {name!r}, which its model has: it was changed, or made by another version "
            "of bayeshlm (earlier ones fitted the effects of (0 + factor | g) without their correlations). Fit again."
        )
    values = found[name].values
    return np.asarray(values.reshape(-1, *values.shape[2:]))


def residual_variance(posterior: xr.DataTree, statistics: Statistics) -> Array:
    """(draws, parts): residual variance of a row of average weight, for each category that has a sigma (one if none).

    With known standard errors their (weighted) mean square.
    """
    draws = dataset(posterior).sizes["chain"] * dataset(posterior).sizes["draw"]
    sigma = flat(posterior, "sigma") if "sigma" in dataset(posterior) else np.ones(draws)
    return variance_of_rows(statistics, sigma)


def variance_of_rows(statistics: Statistics, sigma: Array) -> Array:
    """As `residual_variance`, of sigma (draws,) or (draws, parts) from anywhere; 1 where the errors are known."""
    variance = sigma.reshape(len(sigma), -1) ** 2
    rows, weight = (
        np.bincount(statistics.residual, v, variance.shape[1]) for v in (statistics.count, statistics.weight)
    )
    return np.asarray(variance * (rows / weight))


def mean_residual_variance(posterior: xr.DataTree, statistics: Statistics) -> Array:
    """(draws,): mean of `residual_variance` over rows."""
    return mean_over_rows(statistics, residual_variance(posterior, statistics))


def mean_over_rows(statistics: Statistics, variance: Array) -> Array:
    """(draws,) from (draws, parts), each category of sigma by its share of the rows."""
    rows = np.bincount(statistics.residual, statistics.count, variance.shape[1])
    return np.asarray(variance @ rows / rows.sum())


def moments_of(posterior: xr.DataTree) -> dict[str, xr.DataArray]:
    """Effects of which means and standard deviations were kept instead of draws, by name."""
    if "effect_moments" not in posterior.children:
        return {}
    return {str(name): variable for name, variable in dataset(posterior, "effect_moments").data_vars.items()}


def scalars(posterior: xr.DataTree, name: str) -> list[tuple[Any, Array]]:
    """(label, (chain, draw)) for every scalar of a variable; of a correlation matrix its lower triangle."""
    variable = dataset(posterior)[name]
    if variable.ndim == 2:
        return [(None, variable.values)]
    labels = [variable[dim].values.tolist() for dim in variable.dims[2:]]
    if name.startswith("corr|"):
        size = variable.shape[-1]
        return [(f"{labels[0][i]}, {labels[1][j]}", variable.values[:, :, i, j]) for i in range(size) for j in range(i)]
    names = labels[0] if len(labels) == 1 else [f"{a}, {b}" for a in labels[0] for b in labels[1]]
    values = variable.values.reshape(*variable.shape[:2], -1)
    return [(label, values[:, :, k]) for k, label in enumerate(names)]


def common_draws(posterior: xr.DataTree, layout: Layout) -> Array:
    """(draws, p) of the common effects, in the order of the layout's common columns."""
    if not layout.common:
        return np.zeros((dataset(posterior).sizes["chain"] * dataset(posterior).sizes["draw"], 0))
    return common_of(lambda name: flat(posterior, name), layout)


def common_of(draws: Lookup, layout: Layout) -> Array:
    """As `common_draws`; (1, 0) where there are none."""
    found = [draws(block.name) for block in layout.common]
    return np.concatenate([values.reshape(len(values), -1) for values in found] or [np.zeros((1, 0))], axis=1)


def told_by_prior(posterior: xr.DataTree, name: str, prior: Prior, layout: Layout) -> Array:
    """(draws, ...) of what a parameter's prior speaks of: itself, or the linear predictor at a point (see `At`)."""
    if not isinstance(prior, At):
        return flat(posterior, name)
    row = prior_points(layout, {name: prior})[layout.common_columns.index(0)]
    return np.asarray(common_draws(posterior, layout) @ row)


def new_effects(
    posterior: xr.DataTree, level: Level, groups: int, rng: np.random.Generator, chosen: Any = slice(None)
) -> Array:
    """(draws, groups, effects): effects of new groups of a level, one draw for each draw of the hyperparameters.

    `chosen` picks draws. Correlated effects keep their correlations.
    """
    sds = np.concatenate(
        [flat(posterior, f"{block.name}_sigma")[chosen].reshape(-1, len(block.columns), 1) for block in level.blocks],
        axis=1,
    )[..., 0]
    noise = rng.standard_normal((len(sds), groups, sds.shape[1]))
    for positions in level.correlated:
        correlation = flat(posterior, f"corr|{level.name}")[chosen]
        values, vectors = np.linalg.eigh(correlation)  # a root that also a singular correlation has
        root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
        noise[:, :, list(positions)] = noise[:, :, list(positions)] @ np.swapaxes(root, 1, 2)
    return np.asarray(noise * sds[:, None, :])
