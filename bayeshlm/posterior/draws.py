"""Reading a posterior: the model behind it, its variables by kind, the values of groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.layout import Block, Column, Layout, Level
from bayeshlm.data.statistics import Statistics
from bayeshlm.data.store import statistics_from_dataset
from bayeshlm.errors import DataError, listed
from bayeshlm.spec.model import Model
from bayeshlm.spec.terms import variable_name

if TYPE_CHECKING:
    import xarray as xr

Lookup = Callable[[str], Array]  # a variable's draws by its name, (draws, ...)


@dataclass(frozen=True, eq=False)
class GroupValues:
    """What each group is worth, on the scale on which effects add.

    Attributes
    ----------
    name : str
        The level or the categorical common effect.
    labels : list
    draws : (draws, groups)
    baseline : str
        What the values are relative to, in words.
    base : (draws,)
        Linear predictor of that baseline at the means of the columns, without offset.
    """

    name: str
    labels: list[Any]
    draws: Array
    baseline: str
    base: Array


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
    """Draws of a variable, chains joined: (draws, ...). Raises DataError where only its moments were kept."""
    if name in moments_of(posterior):
        raise DataError(
            f"Of {name!r} only means and standard deviations were kept (its level has too many groups); this needs "
            'draws. Fit with effects="draws", and fewer draws if memory is short, or ask for a level with fewer groups.'
        )
    values = dataset(posterior)[name].values
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
    return _common(lambda name: flat(posterior, name), layout)


def _common(draws: Lookup, layout: Layout) -> Array:
    """As `common_draws`; (1, 0) where there are none."""
    found = [draws(block.name) for block in layout.common]
    return np.concatenate([values.reshape(len(values), -1) for values in found] or [np.zeros((1, 0))], axis=1)


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


def group_values(posterior: xr.DataTree, by: str) -> GroupValues:
    """Draws of what each group is worth.

    For a level: its effects at the means of the columns they multiply, the effects of the levels it is nested in
    included. For a categorical common effect: its coefficients (interactions at the means of the other columns),
    relative to the reference category.

    Raises
    ------
    DataError
        If `by` is neither, with what can be compared.
    """
    return values_of(statistics_of(posterior), by, lambda name: flat(posterior, name))


def values_of(statistics: Statistics, by: str, draws: Lookup) -> GroupValues:
    """As `group_values`, of variables that are no posterior (yet): a truth, or an engine's draws."""
    means = column_means(statistics)
    level = find_level(statistics, by)
    if level is not None:
        return _level_values(draws, statistics, level, means)
    column = find_factor(statistics, by)
    if column is None:
        choices = [level.name for level in statistics.layout.levels]
        choices += [name for name in statistics.layout.categories if _uses(statistics, name)]
        raise DataError(f"{by!r} is neither a level nor a categorical common effect. There are {listed(choices)}.")
    return _factor_values(draws, statistics, column, means)


def column_means(statistics: Statistics) -> Array:
    """Means of the design columns over rows (precision weighted), the constant first."""
    _, mean, _ = statistics.total()
    return np.concatenate([[1.0], (mean + statistics.shift)[:-1]])


def find_level(statistics: Statistics, by: str) -> Level | None:
    """A level by its name, or by its last column where only one level ends in it."""
    by = variable_name(by)
    exact = statistics.layout.level(by)
    if exact is not None:
        return exact
    ending = [level for level in statistics.layout.levels if level.keys[-1] == by]
    return ending[0] if len(ending) == 1 else None


def _level_values(draws: Lookup, statistics: Statistics, level: Level, means: Array) -> GroupValues:
    levels = statistics.layout.levels
    index = levels.index(level)
    groups = len(statistics.members[index])
    total = np.zeros((len(draws(level.blocks[0].name)), groups))
    above = []
    for k, other in enumerate(levels):
        if not set(other.keys) <= set(level.keys):
            continue
        of_group = np.zeros(groups, dtype=np.int64)
        of_group[statistics.codes[:, index]] = statistics.codes[:, k]
        total += sum(_at_means(draws(block.name), block, means) for block in other.blocks)[:, of_group]
        if other is not level:
            above.append(other.name)
    baseline = "the average group" + (f", effects of {listed(above)} included" if above else "")
    base = _common(draws, statistics.layout) @ means[list(statistics.layout.common_columns)]
    return GroupValues(level.name, statistics.labels(index), total, baseline, base)


def _at_means(effects: Array, block: Block, means: Array) -> Any:
    """(draws, groups): a block's effects times the means of their columns."""
    weights = means[list(block.columns)]
    return effects @ weights if block.labels else effects * weights[0]


def find_factor(statistics: Statistics, by: str) -> str | None:
    """A categorical common effect by its column, or as `C(column)`."""
    name = by[2:-1] if by.startswith("C(") and by.endswith(")") else by
    return name if name in statistics.layout.categories and _uses(statistics, name) else None


def _uses(statistics: Statistics, name: str) -> bool:
    columns = [statistics.layout.columns[k] for k in statistics.layout.common_columns]
    return any(name == indicator for column in columns for indicator, _ in column.indicators)


def _factor_values(draws: Lookup, statistics: Statistics, name: str, means: Array) -> GroupValues:
    categories = list(statistics.layout.categories[name])
    layout = statistics.layout
    common = _common(draws, layout)
    total = common @ factor_weights(statistics, name, means)
    relative = total - total[:, :1]
    elsewhere = [all(n != name for n, _ in layout.columns[k].indicators) for k in layout.common_columns]
    base = common @ (means[list(layout.common_columns)] * np.array(elsewhere)) + total[:, 0]
    labels = [_label(category) for category in categories]
    return GroupValues(name, labels, relative, f"{name} {categories[0]}", base)


def factor_weights(statistics: Statistics, name: str, means: Array) -> Array:
    """(common effects, categories): what each coefficient adds to each category of a categorical common effect."""
    layout = statistics.layout
    categories = list(layout.categories[name])
    index = {column.key: k for k, column in enumerate(layout.columns)}
    weights = np.zeros((len(layout.common_columns), len(categories)))
    for position, k in enumerate(layout.common_columns):
        column = layout.columns[k]
        mine = [category for indicator, category in column.indicators if indicator == name]
        if mine:
            weights[position, categories.index(mine[0])] = _rest_mean(layout.columns, index, column, name, means)
    return weights


def _rest_mean(columns: tuple[Column, ...], index: dict[Any, int], column: Column, name: str, means: Array) -> float:
    """Mean of the column without its indicator of `name`."""
    others = frozenset(pair for pair in column.indicators if pair[0] != name)
    key = (frozenset(column.numeric), others)
    if key in index:
        return float(means[index[key]])
    # Not a column of its own: then all categories occur, and their columns add up to it.
    return float(
        sum(
            means[k]
            for k, other in enumerate(columns)
            if frozenset(other.numeric) == key[0]
            and frozenset(p for p in other.indicators if p[0] != name) == others
            and any(p[0] == name for p in other.indicators)
        )
    )


def _label(category: Any) -> Any:
    return category if isinstance(category, int) else str(category)
