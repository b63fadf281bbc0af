"""Treatments given to groups: arms that have one group only, and groups that hold a few rows of another arm."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeshlm.data.statistics import Statistics
from bayeshlm.errors import listed

SAME = 1e-9  # of a column's width, or of its variation: differences by rounding
MOSTLY = 0.8  # a category constant in this share of groups, but not in all, looks like a contaminated treatment


def one_group_an_arm(statistics: Statistics) -> list[str]:
    """A treatment all of whose arms have one group: the arm's effect is the group's effect."""
    problems, told = [], set()
    for name, level_index, arm_of_group in group_constant_factors(statistics):
        level = statistics.layout.levels[level_index]
        groups_per_arm = np.bincount(arm_of_group)
        if 0 in level.columns and groups_per_arm.max() == 1:
            problems.append(
                f"Each {name!r} has one {level.name!r} only: the effect of the arm cannot be told from the effect of "
                f"its one group. More units do not help; several groups of {level.name!r} per {name!r} do."
            )
            told.add(level_index)
    return problems + [text for k, text in _as_many_as_groups(statistics).items() if k not in told]


def _as_many_as_groups(statistics: Statistics) -> dict[int, str]:
    """Level -> the same of any columns: those constant within groups fit the groups' means without rest."""
    found, layout = {}, statistics.layout
    common = [k for k in layout.common_columns if k]
    for index, level in enumerate(layout.levels):
        groups = len(statistics.members[index])
        if 0 not in level.columns or groups > len(layout.common_columns):
            continue
        same = statistics.constant_within(index)
        constant = [k for k in common if same[k - 1]]
        values = np.ones((groups, 1 + len(constant)))
        columns = [k - 1 for k in constant]
        values[statistics.codes[:, index], 1:] = statistics.mean[:, columns] + statistics.shift[columns]
        values = values[:, 0 if statistics.model.terms.intercept else 1 :]
        scale = np.linalg.norm(values, axis=0)
        if constant and np.linalg.matrix_rank(values / np.where(scale > 0, scale, 1.0), tol=SAME) == groups:
            found[index] = (
                f"The {groups} groups of {level.name!r} are fitted without rest by the columns that are constant "
                f"within them, {listed(layout.columns[k].label for k in constant)}: their effects cannot be told from "
                "the groups'. More units do not help; more groups or fewer such columns do."
            )
    return found


def group_constant_factors(statistics: Statistics) -> list[tuple[str, int, NDArray[np.int64]]]:
    """(factor, level, arm of each group) for treatments that are constant within a level's groups.

    A treatment is a categorical common effect, or a number with two values: 0 and 1 are arms as text would be.
    """
    found = []
    for name, arms in _arm_of_cells(statistics).items():
        if (arms < 0).any():
            continue
        for index in range(len(statistics.layout.levels)):
            groups = statistics.codes[:, index]
            arm_of_group = np.full(len(statistics.members[index]), -1)
            arm_of_group[groups] = arms
            if (arm_of_group[groups] == arms).all():
                found.append((name, index, arm_of_group))
    return found


def _arm_of_cells(statistics: Statistics) -> dict[str, NDArray[np.int64]]:
    """Factor -> arm of each cell (0 the reference, -1 where a cell mixes arms)."""
    layout, arms = statistics.layout, {}
    for block in layout.common:
        columns = [layout.columns[k] for k in block.columns]
        places = [k - 1 for k in block.columns]
        values = statistics.mean[:, places] + statistics.shift[places]
        if block.labels and all(len(column.indicators) == 1 and not column.numeric for column in columns):
            constant = (np.abs(values - np.round(values)) < SAME).all(axis=1)
            order = np.round(values) @ np.arange(1, len(columns) + 1)
            arms[block.name] = np.where(constant, order, -1).astype(np.int64)
        elif not block.labels and len(places) == 1 and places != [-1]:
            two = _two_values(statistics, places[0], values[:, 0])
            arms |= {} if two is None else {block.name: two}
    return arms


def _two_values(statistics: Statistics, place: int, values: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """(cells,): which of its two values a column has, -1 where a cell has both; None where it has others.

    Of two values alone is the mean product of the distances to both zero: the variance is (m - low) (high - m).
    """
    variance = statistics.scatter[:, place, place] / statistics.weight
    width = np.ptp(values)
    pure = variance <= SAME * width**2
    if not pure.any() or not width > 0:
        return None
    low, high = values[pure].min(), values[pure].max()
    near = SAME * (high - low)
    at_low, at_high = np.abs(values - low) <= near, np.abs(values - high) <= near
    both = np.abs(variance - (values - low) * (high - values)) <= SAME * (high - low) ** 2
    if not (high > low and np.where(pure, at_low | at_high, both).all()):
        return None
    return np.where(pure, at_high, -1).astype(np.int64)


def contaminated(statistics: Statistics) -> list[str]:
    """A factor constant in most groups of a level but not in all: a treatment given to groups, with exceptions?"""
    messages = []
    for name, arms in _arm_of_cells(statistics).items():
        for index, level in enumerate(statistics.layout.levels):
            groups = statistics.codes[:, index]
            size = len(statistics.members[index])
            lowest, highest = np.full(size, np.iinfo(np.int64).max), np.full(size, -2)
            np.minimum.at(lowest, groups, arms)
            np.maximum.at(highest, groups, arms)
            mixed = (lowest != highest) | (lowest < 0)
            if mixed.any() and mixed.mean() <= 1 - MOSTLY:
                labels: list[Any] = [statistics.labels(index)[k] for k in np.flatnonzero(mixed)]
                messages.append(
                    f"{name!r} is the same for all rows of most groups of {level.name!r}, but not in {listed(labels)}. "
                    f"If {name!r} was given to {level.name!r} as a whole, these rows are mislabelled or contaminated."
                )
    return messages
