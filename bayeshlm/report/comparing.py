"""What a report compares, and the rows of its forests: all from one Comparison."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayeshlm.arrays import Array
from bayeshlm.data.layout import Level
from bayeshlm.data.statistics import Statistics
from bayeshlm.posterior.compare import Comparison, spelled
from bayeshlm.posterior.draws import common_draws, find_level, group_values, model_of
from bayeshlm.posterior.naive import NaiveComparison
from bayeshlm.report.plots import Forest
from bayeshlm.report.svg import shortened

if TYPE_CHECKING:
    import xarray as xr

MOST_ROWS = 60  # of a forest or a table; of more, the extremes are shown
HALF = 12  # characters of a group in the label of a pair
MOST_GROUPS = 60  # of a level that is compared unasked
CONSTANT = 1e-9  # variance of an indicator within groups, by rounding, where it is constant there


def default_by(statistics: Statistics) -> str | None:
    """What to compare when nobody said it.

    In this order: a categorical common effect that is constant within the groups of a level (a treatment that was given
    to groups; the first in the formula); the outermost level with 2 to 60 groups; any categorical common effect;
    nothing.
    """
    factors = common_factors(statistics)
    treatments = [name for name in factors if assigned_level(statistics, name) is not None]
    levels = sorted(statistics.layout.levels, key=lambda level: len(level.keys))
    sizes = {level.name: group_count(statistics, level) for level in levels}
    few = [level.name for level in levels if 2 <= sizes[level.name] <= MOST_GROUPS]
    return next(iter([*treatments, *few, *factors]), None)


def common_factors(statistics: Statistics) -> list[str]:
    """Columns that enter the common effects as categories, in the order of the formula."""
    columns = [statistics.layout.columns[k] for k in statistics.layout.common_columns]
    names = dict.fromkeys(name for column in columns for name, _ in column.indicators)
    return [name for name in names if len(statistics.layout.categories[name]) > 1]


def assigned_level(statistics: Statistics, factor: str) -> Level | None:
    """The level with the fewest groups within which a categorical column is constant; None where it varies in all."""
    layout = statistics.layout
    indicators = [
        k - 1 for k, column in enumerate(layout.columns)
        if not column.numeric and [name for name, _ in column.indicators] == [factor]
    ]  # fmt: skip
    levels = sorted(layout.levels, key=lambda level: group_count(statistics, level))
    constant = (level for level in levels if indicators and _constant(statistics, level, indicators))
    return next(constant, None)


def _constant(statistics: Statistics, level: Level, columns: list[int]) -> bool:
    of_cell = statistics.codes[:, statistics.layout.levels.index(level)]
    weight = np.bincount(of_cell, statistics.weight)
    for column in columns:
        mean = np.bincount(of_cell, statistics.weight * statistics.mean[:, column]) / weight
        within = statistics.scatter[:, column, column].sum()
        within += (statistics.weight * (statistics.mean[:, column] - mean[of_cell]) ** 2).sum()
        if within > CONSTANT * statistics.weight.sum():
            return False
    return True


def group_count(statistics: Statistics, level: Level) -> int:
    return len(statistics.members[statistics.layout.levels.index(level)])


def compared_forest(
    posterior: xr.DataTree, statistics: Statistics, comparison: Comparison, naive: NaiveComparison | None
) -> Forest:
    """The compared groups, best first, exactly as the Comparison's table has them."""
    table = comparison.table
    level = find_level(statistics, comparison.by)
    if level is not None:
        raw = raw_means(posterior, statistics, level)
    else:
        reference = comparison.table.index[0]
        neutral = 1.0 if comparison.multiplicative else 0.0
        others = list(comparison.table.index[1:])
        raw = np.full(1 + len(others), np.nan)
        if naive is not None:
            raw[:] = [neutral, *(_against(naive, label, reference) for label in others)]
    middle, lower, upper = (table[name].to_numpy() for name in (comparison.effect, "lower", "upper"))
    order = np.argsort(table["expected_loss"].to_numpy(), kind="stable")
    return _forest(
        list(table.index), middle, lower, upper, raw, order, comparison.baseline, comparison.effect, comparison.best
    )


def level_forest(
    posterior: xr.DataTree,
    statistics: Statistics,
    level: Level,
    prob: float,
    parents: Forest | None,
    above: Level | None,
) -> Forest:
    """The groups of a level, by the order of their parents in `parents` where all are shown."""
    family = model_of(posterior).family_spec
    log = family.multiplicative
    values = group_values(posterior, level.name)
    shown = np.exp(values.draws) if log else values.draws
    middle, lower, upper = np.quantile(shown, [0.5, (1 - prob) / 2, (1 + prob) / 2], axis=0)
    order, breaks = np.argsort(-middle, kind="stable"), ()  # type: NDArray[np.intp], tuple[int, ...]
    if parents is not None and above is not None and len(middle) <= MOST_ROWS:
        levels = statistics.layout.levels
        child, parent = levels.index(level), levels.index(above)
        of_group = np.zeros(len(middle), dtype=np.int64)
        of_group[statistics.codes[:, child]] = statistics.codes[:, parent]
        rank = {label: k for k, label in enumerate(parents.labels)}
        place = np.array([rank.get(label, len(rank)) for label in statistics.labels(parent)])
        order = np.lexsort((-middle, place[of_group]))
        breaks = tuple(int(k) + 1 for k in np.flatnonzero(np.diff(place[of_group][order])))
    raw = raw_means(posterior, statistics, level)
    rows = _forest(values.labels, middle, lower, upper, raw, order, values.baseline, family.effect, None)
    return dataclasses.replace(rows, breaks=breaks)


def _forest(
    labels: list[Any], middle: Array, lower: Array, upper: Array, raw: Array, order: NDArray[np.int64], baseline: str,
    effect: str, best: Any,
) -> Forest:  # fmt: skip
    gap = None
    if len(order) > MOST_ROWS:
        half = MOST_ROWS // 2
        order, gap = np.concatenate([order[:half], order[-half:]]), half
    log = effect != "difference"
    return Forest(
        [labels[k] for k in order], middle[order], lower[order], upper[order], raw[order], spelled(effect), baseline,
        1.0 if log else 0.0, log, best, None, gap,
    )  # fmt: skip


def raw_means(posterior: xr.DataTree, statistics: Statistics, level: Level) -> Array:
    """Each group's own mean, less what the common effects (at their posterior means) explain: no pooling.

    NaN where a mean of the response is no estimate on the scale on which effects add.
    """
    index = statistics.layout.levels.index(level)
    groups = len(statistics.members[index])
    model = statistics.model
    if not model.moments_suffice:
        return np.full(groups, np.nan)
    columns = np.concatenate([np.ones((len(statistics.weight), 1)), statistics.mean + statistics.shift], axis=1)
    beta = common_draws(posterior, statistics.layout).mean(axis=0)
    residual = columns[:, -1] - columns[:, list(statistics.layout.common_columns)] @ beta
    of_cell = statistics.codes[:, index]
    mean = np.bincount(of_cell, statistics.weight * residual, groups) / np.bincount(of_cell, statistics.weight, groups)
    return np.exp(mean) if model.family_spec.multiplicative else mean


def contrast_forest(comparison: Comparison) -> tuple[Forest, int]:
    """Pairs, most certain first, the likelier better one named first, and how many are left out."""
    log = comparison.multiplicative
    pairs = shown_pairs(comparison)
    contrast = comparison.contrast
    rows, sign = [], "\N{MINUS SIGN}"
    for row in pairs.to_dict("records"):
        a, b = (row["a"], row["b"]) if (row["p_greater"] >= 0.5) == comparison.maximize else (row["b"], row["a"])
        rows.append((f"{shortened(a, HALF)} {'/' if log else sign} {shortened(b, HALF)}", comparison.pair(a, b)))
    rows.sort(key=lambda row: -abs(row[1]["p_greater"] - 0.5))
    kept = rows[:MOST_ROWS]
    middle, lower, upper = (np.array([row[name] for _, row in kept]) for name in (contrast, "lower", "upper"))
    forest = Forest(
        [label for label, _ in kept], middle, lower, upper, np.full(len(kept), np.nan), spelled(contrast), "",
        1.0 if log else 0.0, log, None, comparison.rope,
    )  # fmt: skip
    return forest, len(comparison.pairs) - len(kept)


def shown_pairs(comparison: Comparison) -> Any:
    """All pairs up to 15, else those with the best group: the rule of `Comparison.to_text`."""
    pairs = comparison.pairs
    return pairs if len(pairs) <= 15 else pairs[(pairs["a"] == comparison.best) | (pairs["b"] == comparison.best)]


def _against(naive: NaiveComparison, label: Any, reference: Any) -> float:
    """The row-level estimate against the reference; NaN where that pair is not listed (many categories)."""
    pairs = naive.pairs
    listed = ((pairs["a"] == label) & (pairs["b"] == reference)) | ((pairs["a"] == reference) & (pairs["b"] == label))
    return naive.pair(label, reference)["naive"] if listed.any() else float("nan")
