"""What a name in `by=`, `decide=`, `level=` or `--compare` stands for: one rule for every verb.

A common effect of exactly that name comes first, then a column of the common effects, then a level by its full name or
by its last column. What could be two things is refused, with a spelling for each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bayeshlm.arrays import Array
from bayeshlm.data.layout import Column, Layout, Level
from bayeshlm.data.statistics import Statistics
from bayeshlm.errors import DataError, did_you_mean, listed
from bayeshlm.spec.expressions import Node, evaluate_expression
from bayeshlm.spec.model import matching
from bayeshlm.spec.terms import Factor, Term, variable_name

Kind = Literal["groups", "categories", "arms", "number"]
TWO_VALUES = 1e-8  # of (x - 0)(x - 1), which is 0 in every row of a 0/1 column


@dataclass(frozen=True)
class Question:
    """What is asked about.

    Attributes
    ----------
    name : str
        As texts name it: `site:arm`, `arm`, `dose`; with a subgroup `arm:sex`.
    kind : {"groups", "categories", "arms", "number"}
        Groups of a level, categories of a common effect, the two arms of a 0/1 column, or a number with its slope.
    level : Level or None
        Of groups.
    column : str or None
        Of common effects: the column of the data.
    subgroup : str or None
        A further column of the common effects, in whose categories or at whose values the effect of `column` is asked.
    """

    name: str
    kind: Kind
    level: Level | None = None
    column: str | None = None
    subgroup: str | None = None


def resolve(statistics: Statistics, by: object) -> Question:
    """What `by` names.

    Parameters
    ----------
    statistics : Statistics
    by : str or Question
        A common effect (`arm`, `C(arm)`, `log1p(dose)`) or its column; an interaction of two (`arm:sex`: the effect of
        the first in the subgroups of the second); a level (`site:arm`, or `1|site:arm` where a common effect has the
        same name), or its last column where that is neither a common effect nor the end of two levels.

    Raises
    ------
    DataError
        If there is no such thing, or there are two; with the spelling of what there is.
    """
    if isinstance(by, Question):
        return by
    if not isinstance(by, str):
        raise DataError(f"{by!r} is a {type(by).__name__}; name a level or a common effect.")
    layout = statistics.layout
    if by.startswith("1|"):
        level = _full_name(layout, by[2:])
        if level is None:
            raise DataError(f"There is no level {by[2:]!r}. {_choices(statistics, by[2:])}")
        return _groups(level)
    terms = [term for term in statistics.model.terms.common if term.factors]
    exact = matching(by, [term.name for term in terms])
    effect = next((term for term in terms if term.name == exact), None)
    columns = _columns(by, terms)
    level = _full_name(layout, by)
    if effect is None and columns is not None and level is not None:
        named = listed([term.name for term in terms if set(columns) <= _used(term)])
        raise DataError(
            f"{by!r} is a column of the common effect {named} and a level: write '1|{level.name}' for the level's "
            f"groups, {named} for the common effect."
        )
    if effect is not None:
        return _of_columns(statistics, by, [_one_column(factor) for factor in effect.factors])
    if columns is not None:
        return _of_columns(statistics, by, columns)
    if level is not None:
        return _groups(level)
    return _by_last_column(statistics, by)


def _by_last_column(statistics: Statistics, by: str) -> Question:
    ending = [level for level in statistics.layout.levels if variable_name(level.keys[-1]) == variable_name(by)]
    if len(ending) == 1:
        return _groups(ending[0])
    if ending:
        raise DataError(
            f"{by!r} is the last part of {len(ending)} levels, {listed([level.name for level in ending])}: give the "
            "full name of the one that is meant."
        )
    parts = by.split(":")
    known = set(common_columns(statistics.layout))
    if len(parts) == 2 and set(parts) <= known:
        raise DataError(
            f"The formula has no interaction {by!r}: it makes the effect of {parts[0]!r} the same at all values of "
            f"{parts[1]!r}. Write {parts[0]} * {parts[1]} to let them differ."
        )
    raise DataError(f"{by!r} is neither a level nor a common effect. {_choices(statistics, by)}")


def find_groups(statistics: Statistics, by: object) -> Level:
    """The level that `by` names, for what is done to groups. Raises DataError for anything else."""
    question = resolve(statistics, by)
    if question.level is None:
        levels = [level.name for level in statistics.layout.levels]
        raise DataError(
            f"{by!r} is a common effect, and this is about the groups of a level: "
            f"{listed(levels) if levels else 'the model has none'}."
        )
    return question.level


def grouping_columns(statistics: Statistics, by: str) -> tuple[str, ...]:
    """The columns of rows that `by` groups them by; what is neither a level nor a common effect is a column itself.

    Raises
    ------
    DataError
        If `by` could be two things.
    """
    model = statistics.model.terms
    ending = [level for level in statistics.layout.levels if by in map(variable_name, level.keys[-1:])]
    known = _full_name(statistics.layout, by.removeprefix("1|")) or ending
    effects = {name for term in model.common for name in (term.name, *_used(term))}
    if not known and matching(by, effects) is None and _columns(by, [t for t in model.common if t.factors]) is None:
        return (by,)
    question = resolve(statistics, by)
    if question.level is not None:
        return question.level.keys
    return (str(question.column), *([question.subgroup] if question.subgroup is not None else []))


def with_subgroup(statistics: Statistics, question: Question, subgroup: str) -> Question:
    """The effect of the same column, in the subgroups of another. Raises DataError where the formula has no such."""
    if question.column is None:
        raise DataError(
            f"subgroup={subgroup!r}: {question.name!r} is a level. Subgroups are of the effect of a treatment in the "
            "common effects."
        )
    if question.subgroup is not None:
        raise DataError(f"by={question.name!r} names its subgroups already; leave subgroup= out.")
    terms = [term for term in statistics.model.terms.common if term.factors]
    found = _columns(subgroup, terms)
    if found is None or len(found) != 1:
        raise DataError(f"subgroup={subgroup!r} is no common effect. {_choices(statistics, subgroup)}")
    column = found[0]
    if column == question.column:
        raise DataError(f"subgroup={subgroup!r} is what is compared itself.")
    if not interact(statistics, question.column, column):
        raise DataError(
            f"The formula has no interaction of {question.column!r} and {column!r}: it makes the effect the same at "
            f"all values of {column!r}. Write {question.column} * {column} to let them differ."
        )
    return dataclasses.replace(question, name=f"{question.column}:{column}", subgroup=column)


def interact(statistics: Statistics, first: str, second: str) -> bool:
    """Whether a common effect is a function of both columns."""
    return any({first, second} <= _used(term) for term in statistics.model.terms.common)


def treatment(statistics: Statistics) -> Question | None:
    """What a study is about when nobody said it; None where there are no common effects but the intercept.

    In this order: a common effect that is constant within the groups of a level (a treatment given to groups); one
    with categories or of two values; a number. Always the first in the formula. Groups are never compared unasked.
    """
    columns = common_columns(statistics.layout)
    questions = [Question(name, kind_of(statistics, name), column=name) for name in columns]
    levels = assigned_levels(statistics, columns)
    given = [q for q in questions if levels[str(q.column)] is not None]
    armed = [q for q in questions if q.kind != "number"]
    return next(iter([*given, *armed, *questions]), None)


def common_columns(layout: Layout) -> list[str]:
    """Columns of the data that the common effects are made of, in the order of the formula."""
    found: dict[str, None] = {}
    for k in layout.common_columns:
        column = layout.columns[k]
        found |= dict.fromkeys(name for node in column.numeric for name in node.columns())
        found |= dict.fromkeys(name for name, _ in column.indicators)
    return [name for name in found if name not in layout.categories or len(layout.categories[name]) > 1]


def kind_of(statistics: Statistics, column: str) -> Kind:
    """How a column of the common effects is asked about."""
    layout = statistics.layout
    numeric = any(
        column in node.columns() for k in layout.common_columns for node in layout.columns[k].numeric
    )  # fmt: skip
    if not numeric:
        return "categories"
    return "arms" if _two_values(statistics, column) else "number"


def assigned_level(statistics: Statistics, column: str) -> Level | None:
    """The level with the fewest groups within which a column is constant; None where it varies in all."""
    return assigned_levels(statistics, [column])[column]


def assigned_levels(statistics: Statistics, columns: Iterable[str]) -> dict[str, Level | None]:
    """`assigned_level` of several columns, each level being looked at once."""
    layout = statistics.layout
    sizes = {level.name: len(members) for level, members in zip(layout.levels, statistics.members, strict=True)}
    levels = sorted(layout.levels, key=lambda level: sizes[level.name])
    constant = [(level, constant_within(statistics, level)) for level in levels]
    found: dict[str, Level | None] = {}
    for name in columns:
        mine = [k for k, c in enumerate(layout.columns) if k and columns_of(c) == {name}]
        found[name] = next((level for level, flags in constant if mine and flags[mine].all()), None)
    return found


def constant_within(statistics: Statistics, level: Level) -> NDArray[np.bool_]:
    """(columns,): whether a design column has one value in each group of a level; the constant 1 has."""
    same = statistics.constant_within(statistics.layout.levels.index(level))
    return np.append(True, same[:-1])


def group_means(statistics: Statistics, level: Level) -> Array:
    """(groups, columns): means of the design columns in each group, the constant first."""
    means = _means(statistics, level) + statistics.shift[:-1]
    return np.concatenate([np.ones((len(means), 1)), means], axis=1)


def _means(statistics: Statistics, level: Level) -> Array:
    """(groups, columns without the constant), less the shift."""
    index = statistics.layout.levels.index(level)
    of_cell, groups = statistics.codes[:, index], len(statistics.members[index])
    means = np.zeros((groups, statistics.mean.shape[1] - 1))
    np.add.at(means, of_cell, statistics.weight[:, None] * statistics.mean[:, :-1])
    return means / np.bincount(of_cell, statistics.weight, groups)[:, None]


def columns_of(column: Column) -> set[str]:
    """Columns of the data behind a design column."""
    return {name for node in column.numeric for name in node.columns()} | {name for name, _ in column.indicators}


def single_nodes(layout: Layout, column: str) -> list[tuple[int, Node]]:
    """(design column, expression) of those that are an expression of this column of the data alone."""
    return [
        (k, c.numeric[0]) for k, c in enumerate(layout.columns)
        if len(c.numeric) == 1 and not c.indicators and set(c.numeric[0].columns()) == {column}
    ]  # fmt: skip


def value_at(layout: Layout, node: Node, values: dict[str, float]) -> float:
    """An expression at values of its columns; NaN or infinite where it has none there."""
    with np.errstate(all="ignore"):
        return float(evaluate_expression(node, lambda name: np.asarray(values[name]), layout.constants))


def _two_values(statistics: Statistics, column: str) -> bool:
    for k, node in single_nodes(statistics.layout, column):
        low, high = (value_at(statistics.layout, node, {column: x}) for x in (0.0, 1.0))
        if not (np.isfinite(low) and np.isfinite(high)) or low == high:
            continue
        mean = statistics.mean[:, k - 1] + statistics.shift[k - 1]
        product = statistics.scatter[:, k - 1, k - 1] / statistics.weight + (mean - low) * (mean - high)
        return bool((np.abs(product) <= TWO_VALUES * (high - low) ** 2).all())
    return False


def _of_columns(statistics: Statistics, by: str, columns: list[str]) -> Question:
    if len(columns) > 2:
        raise DataError(f"{by!r} has {len(columns)} factors; ask for the effect of one in the subgroups of another.")
    kind = kind_of(statistics, columns[0])
    return Question(":".join(columns), kind, column=columns[0], subgroup=columns[1] if len(columns) == 2 else None)


def _columns(by: str, terms: Iterable[Term]) -> list[str] | None:
    """The columns that `by` names: one of the common effects, or two that some common effect is made of."""
    factors = {factor.name: factor for term in terms for factor in term.factors}
    names = {name for factor in factors.values() for name in factor.node.columns()}
    whole = _column(by, factors, names)
    if whole is not None:
        return [whole]
    for cut in (k for k, letter in enumerate(by) if letter == ":"):
        parts = [_column(part, factors, names) for part in (by[:cut], by[cut + 1 :])]
        pair = [part for part in parts if part is not None]
        if len(pair) == 2 and pair[0] != pair[1] and any(set(pair) <= _used(term) for term in terms):
            return pair
    return None


def _column(text: str, factors: dict[str, Factor], names: set[str]) -> str | None:
    text = text.strip()
    if text in names:
        return text
    bare = text.removeprefix("`").removesuffix("`")
    if bare in names:
        return bare
    exact = matching(text, factors)
    if exact is not None:
        return _one_column(factors[exact])
    inside = text[2:-1].strip() if text.startswith("C(") and text.endswith(")") else ""
    return inside if inside in names else None


def _one_column(factor: Factor) -> str:
    found = sorted(set(factor.node.columns()))
    if len(found) != 1:
        raise DataError(f"{factor.name!r} is a function of {listed(found)}: ask for the effect of one of them.")
    return found[0]


def _used(term: Term) -> set[str]:
    return {name for factor in term.factors for name in factor.node.columns()}


def _full_name(layout: Layout, by: str) -> Level | None:
    exact = layout.level(variable_name(by))
    if exact is not None:
        return exact
    keys = sorted(variable_name(by).replace("\u2215", ":").split(":"))
    alike = [level for level in layout.levels if len(level.keys) > 1 and sorted(map(variable_name, level.keys)) == keys]
    return alike[0] if len(alike) == 1 else None


def _groups(level: Level) -> Question:
    return Question(level.name, "groups", level=level)


def _choices(statistics: Statistics, asked: str) -> str:
    levels = [level.name for level in statistics.layout.levels]
    effects = common_columns(statistics.layout)
    parts = [f"the level{'s' * (len(levels) > 1)} {listed(levels)}"] if levels else []
    parts += [f"the common effect{'s' * (len(effects) > 1)} {listed(effects)}"] if effects else []
    near = did_you_mean(asked, [*levels, *effects, *(level.rpartition(":")[2] for level in levels)])
    return f"{near}There are {' and '.join(parts)}." if parts else "The model has neither levels nor common effects."
