"""What groups, arms, or the values of a number are worth: draws on the scale on which effects add.

For common effects a value is the linear predictor with the column in question set, and all other columns at their means
(the rows' precision-weighted ones). It is linear in the coefficients, so that the least squares of
`bayeshlm.posterior.naive` and the draws of the posterior share the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.layout import Block, Level
from bayeshlm.data.statistics import Statistics
from bayeshlm.errors import DataError, listed
from bayeshlm.posterior.columns import column_means, slope_weights, weights_at
from bayeshlm.posterior.curve import curve_points
from bayeshlm.posterior.draws import Lookup, common_of, flat, statistics_of
from bayeshlm.posterior.question import (
    Question,
    columns_of,
    constant_within,
    group_means,
    interact,
    kind_of,
    resolve,
)

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, eq=False)
class Slope:
    """Effect of one more unit of a number.

    Attributes
    ----------
    unit : str
        What one more of is meant: `dose`, or an expression, `log1p(dose)`.
    draws : (draws,)
    straight : bool
        False where the curve is bent: then the slope is that from its first point to its last.
    """

    unit: str
    draws: Array
    straight: bool


@dataclass(frozen=True, eq=False)
class GroupValues:
    """What each group is worth, on the scale on which effects add.

    Attributes
    ----------
    question : Question
    labels : list
        Of groups, arms, values of a number; with a subgroup, of effects.
    draws : (draws, labels)
    baseline : str
        What the values are relative to, in words.
    base : (draws,)
        Linear predictor of that baseline at the means of the columns, without offset.
    reference : int or None
        Which label is the reference, whose value is 0; None where there is none.
    weights : (common effects, labels) or None
        What each coefficient adds to a value; None for groups of a level.
    slope : Slope or None
        Of a number.
    same : (labels,) of int
        Effects with a subgroup: which of them are of one arm, so that their difference is one between subgroups.
    means : (draws, labels) or None
        On the scale of the response: the mean responses themselves.
    """

    question: Question
    labels: list[Any]
    draws: Array
    baseline: str
    base: Array
    reference: int | None = None
    weights: Array | None = None
    slope: Slope | None = None
    same: tuple[int, ...] = ()
    means: Array | None = None

    @property
    def name(self) -> str:
        return self.question.name


def group_values(posterior: xr.DataTree, by: str) -> GroupValues:
    """Draws of what `by` names is worth (see `bayeshlm.posterior.question.resolve`). Raises DataError as that does."""
    return values_of(statistics_of(posterior), by, lambda name: flat(posterior, name))


def values_of(
    statistics: Statistics,
    by: str | Question,
    draws: Lookup,
    *,
    reference: Any = None,
    at: Mapping[str, Any] | None = None,
) -> GroupValues:
    """As `group_values`, of variables that need be no posterior (yet): a truth, or an engine's draws.

    Parameters
    ----------
    statistics : Statistics
    by : str or Question
    draws : callable
        Name of a variable -> its draws.
    reference : label, optional
        What the values are relative to. Default: the first category, 0 or the smallest value; for a level the average
        group.
    at : mapping, optional
        Column of the common effects -> the value it is held at, instead of its mean. One of them may have several
        values: for the number in question the points of its curve, else where its effect is asked.

    Raises
    ------
    DataError
        For labels and columns that there are not, and where a mean is not known.
    """
    question = by if isinstance(by, Question) else resolve(statistics, by)
    if question.level is not None:
        if at:
            raise DataError(f"at={dict(at)!r}: {question.name!r} is a level, whose groups have the columns they have.")
        return _referred(_level_values(draws, statistics, question), reference)
    held, points = held_at(statistics, question, dict(at or {}))
    if question.subgroup is not None:
        return _effects(statistics, question, draws, held, points, reference)
    labels, first = compared_labels(statistics, question, points, reference)
    weights = np.stack([weights_at(statistics, {**held, str(question.column): label}) for label in labels], axis=1)
    common = common_of(draws, statistics.layout)
    total = common @ weights
    slope = None
    if question.kind == "number":
        unit, one_more, straight = slope_weights(statistics, question, labels, held)
        slope = Slope(unit, common @ one_more, straight)
    return GroupValues(
        question, labels, total - total[:, [first]], f"{question.column} {labels[first]}{told(held)}",
        total[:, first], first, weights, slope,
    )  # fmt: skip


def compared_labels(
    statistics: Statistics, question: Question, points: list[Any] | None, reference: Any
) -> tuple[list[Any], int]:
    """(arms or points, place of the reference). Raises DataError where there is no such, or only one."""
    labels = points if points is not None else _labels(statistics, str(question.column))
    at_least_two(question, labels)
    return labels, _place(question, labels, reference) if reference is not None else 0


def at_least_two(question: Question, labels: Sequence[Any]) -> None:
    if len(labels) < 2:
        raise DataError(f"{question.column!r} has one value only ({listed(labels)}): there is nothing to compare.")


def _level_values(draws: Lookup, statistics: Statistics, question: Question) -> GroupValues:
    """Effects of a level, of the levels it is nested in, and what common effects add that are constant in its groups.

    Slopes are taken at the means of their columns.
    """
    level, levels, means = question.level, statistics.layout.levels, column_means(statistics)
    assert level is not None
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
        if other.name != level.name:
            above.append(other.name)
    common = common_of(draws, statistics.layout)
    added, names = of_groups(statistics, level)  # (groups, common effects)
    mean = np.bincount(statistics.codes[:, index], statistics.weight, groups) @ added / statistics.weight.sum()
    total = total + common @ (added - mean).T
    included = f", effects of {listed([*above, *names])} included" if above or names else ""
    return GroupValues(
        question, statistics.labels(index), total, f"the average group{included}", common @ mean
    )  # fmt: skip


def of_groups(statistics: Statistics, level: Level) -> tuple[Array, list[str]]:
    """((groups, common effects) values of the common columns, the columns of the data that are constant in groups).

    A column that varies within groups is at its mean everywhere; of a product (arm x age) the factors that are constant
    within groups have their group's value, the others their mean.
    """
    layout, means = statistics.layout, column_means(statistics)
    constant, of_group = constant_within(statistics, level), group_means(statistics, level)
    place = {column.key: k for k, column in enumerate(layout.columns)}
    added = np.empty((len(of_group), len(layout.common_columns)))
    names: dict[str, None] = {}
    for position, k in enumerate(layout.common_columns):
        column = layout.columns[k]
        if constant[k]:
            added[:, position] = of_group[:, k]
            names |= dict.fromkeys(sorted(columns_of(column)))
            continue
        added[:, position] = means[k]
        nodes = {node: place.get((frozenset({node}), frozenset())) for node in column.numeric}
        flags = {flag: place.get((frozenset(), frozenset({flag}))) for flag in column.indicators}
        known = [j for j in (*nodes.values(), *flags.values()) if j is not None and constant[j]]
        rest = place.get((
            frozenset(node for node, j in nodes.items() if j not in known),
            frozenset(flag for flag, j in flags.items() if j not in known),
        ))  # fmt: skip
        if known and rest is not None:
            added[:, position] = of_group[:, known].prod(axis=1) * means[rest]
            names |= dict.fromkeys(sorted(name for j in known for name in columns_of(layout.columns[j])))
    return added, list(names)


def _at_means(effects: Array, block: Block, means: Array) -> Any:
    """(draws, groups): a block's effects times the means of their columns."""
    weights = means[list(block.columns)]
    return effects @ weights if block.labels else effects * weights[0]


def _referred(values: GroupValues, reference: Any) -> GroupValues:
    """The groups relative to one of them."""
    if reference is None:
        return values
    first = _place(values.question, values.labels, reference)
    shift = values.draws[:, first]
    label = f"{values.name} {values.labels[first]}"
    return GroupValues(
        values.question, values.labels, values.draws - shift[:, None], label, values.base + shift, first
    )  # fmt: skip


def _place(question: Question, labels: list[Any], reference: Any) -> int:
    text = [str(label) for label in labels]
    if str(reference) not in text:
        raise DataError(f"reference={reference!r} is none of {question.name!r}: {listed(labels, 20)}.")
    return text.index(str(reference))


def labels_of(statistics: Statistics, question: Question) -> list[Any]:
    """What is compared, in order: groups, categories, 0 and 1, or the points of a number's curve."""
    if question.level is not None:
        return statistics.labels(statistics.layout.levels.index(question.level))
    return _labels(statistics, str(question.column))


def check_question(statistics: Statistics, question: Question, reference: Any = None) -> None:
    """Raise DataError, before any draws, for a question or a reference that cannot be answered for."""
    labels = labels_of(statistics, question)
    if reference is not None:
        _place(question, labels, reference)
    if question.level is None:
        places = {} if question.subgroup is None else {question.subgroup: _labels(statistics, question.subgroup)[0]}
        for label in labels:
            weights_at(statistics, {**places, str(question.column): label})


def _labels(statistics: Statistics, column: str) -> list[Any]:
    """Categories in order, 0 and 1, or the points of a number's curve."""
    kind = kind_of(statistics, column)
    if kind == "categories":
        return [c if isinstance(c, int) else str(c) for c in statistics.layout.categories[column]]
    return [0, 1] if kind == "arms" else curve_points(statistics, column)


def held_at(statistics: Statistics, question: Question, at: dict[str, Any]) -> tuple[dict[str, Any], list[Any] | None]:
    """(columns held at one value, several points of the number in question or of the subgroup, or None)."""
    layout = statistics.layout
    known = {name for k in layout.common_columns for name in columns_of(layout.columns[k])}
    unknown = [name for name in at if name not in known]
    if unknown:
        raise DataError(
            f"at=: {listed(unknown)} is no column of the common effects; these are {listed(sorted(known))}."
        )
    held: dict[str, Any] = {}
    points: list[Any] | None = None
    asked = question.subgroup or (question.column if question.kind == "number" else None)
    for name, value in at.items():
        several = isinstance(value, list | tuple | np.ndarray)
        if name == asked and several:
            points = [_checked(statistics, name, v) for v in value]
        elif name in (question.column, question.subgroup):
            raise DataError(f"at={{{name!r}: {value!r}}}: {name!r} is asked about itself, so it cannot be held.")
        elif several:
            raise DataError(
                f"at={{{name!r}: {value!r}}}: hold {name!r} at one value, or ask for the effect at several with "
                f"by='{question.column}:{name}'."
            )
        else:
            held[name] = _checked(statistics, name, value)
    if points is not None and (len(points) < 2 or len(set(map(str, points))) < len(points)):
        raise DataError(f"at={{{asked!r}: ...}} needs two or more values, all different.")
    return held, points


def _checked(statistics: Statistics, name: str, value: Any) -> Any:
    """A value that the column can have. Raises DataError for a category there is not, or what is no finite number."""
    layout = statistics.layout
    if name in layout.categories:
        text = {str(category): category for category in layout.categories[name]}
        if str(value) not in text:
            raise DataError(f"at=: {name!r} has no category {value!r}; there are {listed(text, 20)}.")
        return text[str(value)]
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise DataError(f"at=: {name!r} is a number, and {value!r} is none.")
    if not math.isfinite(value):
        raise DataError(f"at=: {name}={value!r} is not finite.")
    return value.item() if isinstance(value, np.generic) else value


def told(held: Mapping[str, Any]) -> str:
    return f" at {', '.join(f'{name} {value}' for name, value in held.items())}" if held else ""


def _effects(
    statistics: Statistics, question: Question, draws: Lookup, held: dict[str, Any], points: list[Any] | None,
    reference: Any,
) -> GroupValues:  # fmt: skip
    """Effects of a treatment in subgroups: every arm against the reference, or one more unit of a number."""
    column, subgroup = str(question.column), str(question.subgroup)
    if not interact(statistics, column, subgroup):
        raise DataError(f"The formula has no interaction of {column!r} and {subgroup!r}.")
    places = points if points is not None else _labels(statistics, subgroup)
    at_least_two(Question(subgroup, question.kind, column=subgroup), places)
    common = common_of(draws, statistics.layout)
    if question.kind == "number":
        values = _labels(statistics, column)
        slopes = [slope_weights(statistics, question, values, {**held, subgroup: place}) for place in places]
        weights = np.stack([weight for _, weight, _ in slopes], axis=1)
        unit, _, straight = slopes[0]
        bent = "" if straight else f" (mean slope from {values[0]} to {values[-1]})"
        return GroupValues(
            question, list(places), common @ weights, f"one more unit of {unit}{bent}, by {subgroup}{told(held)}",
            np.zeros(len(common)), None, weights, None, (0,) * len(places),
        )  # fmt: skip
    arms = _labels(statistics, column)
    at_least_two(question, arms)
    first = _place(Question(column, question.kind, column=column), arms, reference) if reference is not None else 0
    others = [arm for k, arm in enumerate(arms) if k != first]
    labels, weights_of, same = [], [], []
    for k, arm in enumerate(others):
        for place in places:
            setting = {**held, subgroup: place}
            difference = weights_at(statistics, {**setting, column: arm}) - weights_at(
                statistics, {**setting, column: arms[first]}
            )
            weights_of.append(difference)
            labels.append(place if len(others) == 1 else f"{arm}, {subgroup} {place}")
            same.append(k)
    weights = np.stack(weights_of, axis=1)
    what = f"{column} {others[0]}" if len(others) == 1 else f"each {column}"
    return GroupValues(
        question, labels, common @ weights, f"{what} against {arms[first]}, by {subgroup}{told(held)}",
        np.zeros(len(common)), None, weights, None, tuple(same),
    )  # fmt: skip
