"""What a report compares, and the rows of its forests: all from one Comparison."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayeshlm.arrays import Array
from bayeshlm.data.layout import Level
from bayeshlm.data.statistics import Statistics
from bayeshlm.posterior.comparison import Comparison
from bayeshlm.posterior.draws import common_draws, model_of
from bayeshlm.posterior.naive import NaiveComparison
from bayeshlm.posterior.values import group_values, of_groups
from bayeshlm.posterior.wording import said, spelled
from bayeshlm.report.plots import Forest
from bayeshlm.report.svg import shortened

if TYPE_CHECKING:
    import xarray as xr

MOST_ROWS = 60  # of a forest or a table; of more, the extremes are shown
HALF = 12  # characters of a group in the label of a pair


def group_count(statistics: Statistics, level: Level) -> int:
    return len(statistics.members[statistics.layout.levels.index(level)])


def compared_forest(
    posterior: xr.DataTree, statistics: Statistics, comparison: Comparison, naive: NaiveComparison | None
) -> Forest:
    """What is compared, the leading one first, exactly as the Comparison's table has it."""
    table = comparison.ranked
    level = comparison.values.question.level
    raw = np.full(len(table), np.nan)
    if level is not None and comparison.reference is None:
        own = dict(zip(comparison.table.index, raw_means(posterior, statistics, level), strict=True))
        raw[:] = [own[label] for label in table.index]
    elif naive is not None and comparison.reference is not None:
        neutral = 1.0 if comparison.multiplicative else 0.0
        raw[:] = [
            neutral if label == comparison.reference else _against(naive, label, comparison.reference)
            for label in table.index
        ]
    middle, lower, upper = (table[name].to_numpy() for name in (comparison.effect, "lower", "upper"))
    return _forest(
        list(table.index), middle, lower, upper, raw, np.arange(len(table)), comparison.baseline, comparison.effect,
        comparison.best,
    )  # fmt: skip


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
    values = group_values(posterior, f"1|{level.name}")
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
    """Each group's own mean, less what common effects that vary within it explain (at posterior means): no pooling.

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
    weight = np.bincount(of_cell, statistics.weight, groups)
    given = of_groups(statistics, level)[0] @ beta
    mean = np.bincount(of_cell, statistics.weight * residual, groups) / weight + given - weight @ given / weight.sum()
    return np.exp(mean) if model.family_spec.multiplicative else mean


def contrast_forest(comparison: Comparison) -> tuple[Forest, int]:
    """Pairs with the signs that the table and the verdict have, most certain first, and how many are left out."""
    log, contrast = comparison.multiplicative, comparison.contrast
    sign = "/" if log else "\N{MINUS SIGN}"
    rows = [
        (f"{shortened(said(row['a']), HALF)} {sign} {shortened(said(row['b']), HALF)}", row)
        for row in comparison.contrasts().to_dict("records")
    ]
    rows.sort(key=lambda row: -abs(row[1]["p_greater"] - 0.5))
    kept = rows[:MOST_ROWS]
    middle, lower, upper = (np.array([row[name] for _, row in kept]) for name in (contrast, "lower", "upper"))
    forest = Forest(
        [label for label, _ in kept], middle, lower, upper, np.full(len(kept), np.nan), spelled(contrast), "",
        1.0 if log else 0.0, log, None, comparison.rope,
    )  # fmt: skip
    return forest, len(comparison.pairs) - len(kept)


def _against(naive: NaiveComparison, label: Any, reference: Any) -> float:
    """The row-level estimate against the reference; NaN where that pair is not listed (many categories)."""
    pairs = naive.pairs
    listed = ((pairs["a"] == label) & (pairs["b"] == reference)) | ((pairs["a"] == reference) & (pairs["b"] == label))
    return naive.pair(label, reference)["naive"] if listed.any() else float("nan")
