"""What data must be before anything is fitted: every offender named, in the user's words, with what to do."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import narwhals as nw
import numpy as np

from bayeshlm.data.checks.arms import contaminated, one_group_an_arm
from bayeshlm.data.checks.support import Tests, response_tests
from bayeshlm.data.cross_products import aliased
from bayeshlm.data.frames.reading import aggregate, collect
from bayeshlm.data.frames.rows import Rows
from bayeshlm.data.statistics import Statistics
from bayeshlm.errors import BayeshlmWarning, DataError, listed, outside_package
from bayeshlm.spec.model import Model

RANK_TOLERANCE = 1e-9  # share of a column's variation left after the columns before it, below which it is aliased


def check_rows(model: Model, rows: Rows) -> None:
    """Check values row by row: finite columns, response in the family's support, positive weights.

    Raises
    ------
    DataError
        One message with every problem found.
    """
    infinite: Tests = {
        f"i{k}": (_not_finite(rows.number(name)), f"{name!r} is infinite in")
        for k, name in enumerate(name for name in model.columns if _is_number(rows, name))
    }
    tests = response_tests(model, rows)
    for name in filter(None, (model.weights, model.se)):
        text = f"{name!r} (weights or standard errors) is not positive:"
        tests[f"positive {name}"] = (~(rows.number(name) > 0), text)
    for column in rows.layout.columns[1:]:
        if column.numeric:
            text = f"term {column.label!r} is not finite:"
            tests[f"term {column.label}"] = (_not_finite(rows.column(column)), text)
    # One pass for all; where columns hold infinities, what they make of the terms is not said as well.
    wanted = {f"t{k}": _count(test) for k, (test, _) in enumerate([*infinite.values(), *tests.values()])}
    counts = list(aggregate(rows.frame, wanted).values())
    for found, at, what in (
        (infinite, counts[: len(infinite)], "Correct or remove these rows."),
        (tests, counts[len(infinite) :], "Correct or remove these rows, or choose another family."),
    ):
        problems = [
            f"{text} {int(count)} rows{_first(rows, test)}"
            for (test, text), count in zip(found.values(), at, strict=True)
            if count
        ]
        if problems:
            raise DataError("; ".join(problems) + f". {what}")


def check_finite(statistics: Statistics) -> None:
    """Check that no sum of squares left the floats (values of 1e160 are finite, their squares are not)."""
    names = [column.label for column in statistics.layout.columns[1:]] + [statistics.model.terms.response.name]
    finite = np.isfinite(statistics.scatter).all(axis=(0, 1)) & np.isfinite(statistics.mean).all(axis=0)
    finite &= np.isfinite(statistics.shift)
    if not finite.all() or not np.isfinite(statistics.weight).all():
        bad = [name for name, good in zip(names, finite, strict=True) if not good]
        raise DataError(f"The squares of {listed(bad or ['weights'])} are too large for floats; use another unit.")


def _not_finite(values: nw.Expr) -> nw.Expr:
    """True for NaN and infinities; pandas' nullable types call a computed NaN finite, so it is asked for twice."""
    return ~values.is_finite() | values.is_nan()


def _count(bad: nw.Expr) -> nw.Expr:
    """Number of rows in which `bad` is true, or null: some engines answer log(-1) or 1/0 with null."""
    return bad.fill_null(True).cast(nw.Int64).sum()


def _is_number(rows: Rows, name: str) -> bool:
    return dict(rows.frame.collect_schema())[rows.names[name]].is_numeric()


def _first(rows: Rows, bad: nw.Expr) -> str:
    """The first offending rows, where rows have an order."""
    if not isinstance(rows.frame, nw.DataFrame):
        return ""
    with np.errstate(all="ignore"):
        mask = collect(rows.frame.select(bad=bad.fill_null(True)))["bad"].to_numpy()
    places = np.flatnonzero(mask.astype(bool))[:5]
    return f" (the first at positions {', '.join(map(str, places))} of the complete rows)"


def check_statistics(statistics: Statistics) -> None:
    """Check what only the sums show: constant response, aliased columns, groups that identify nothing.

    `fit` calls this, `compress` does not: one site of a federated study may well hold one group or one arm, and its
    statistics must still add up with the others'.

    Raises
    ------
    DataError
        One message with every problem found.
    """
    problems = [
        *_one_category(statistics), *_no_reference(statistics), *_constant_response(statistics), *_aliased(statistics),
        *_levels(statistics),
        *one_group_an_arm(statistics),
    ]  # fmt: skip
    if problems:
        raise DataError(" ".join([*_dropped(statistics), *problems]))
    for message in (*contaminated(statistics), *_reused_labels(statistics)):
        warnings.warn(message, BayeshlmWarning, stacklevel=outside_package())


def ungrouped(model: Model, missing: Mapping[str, int]) -> list[str]:
    """Grouping columns that were missing in some rows."""
    keys = dict.fromkeys(key for group in model.terms.groups for key in group.level)
    return [name for name in keys if name in missing]


def ungrouped_note(names: list[str]) -> str:
    """What to do about rows without a group."""
    name = names[0]
    return (
        f"Rows without a {listed(names)} were left out with them: if these are units that belong to no group, as the "
        f"controls of a partially nested design, give each a label of its own (in a pandas frame: data[{name!r}] = "
        f"data[{name!r}].astype('string').fillna('alone ' + data.index.to_series().astype(str))) and let the groups "
        f"differ among the grouped only, (0 + treated | {name}) with treated = 1 in groups, 0 elsewhere."
    )


def _dropped(statistics: Statistics) -> list[str]:
    """The rows that were left out, said before what their loss may have caused."""
    if not statistics.missing:
        return []
    counts = ", ".join(f"{name!r} ({count})" for name, count in statistics.missing.items())
    names = ungrouped(statistics.model, statistics.missing)
    lost = statistics.total_rows - statistics.rows
    said = f"First of all, {lost} of {statistics.total_rows} rows were dropped for missing values in {counts}."
    return [said, *([ungrouped_note(names)] if names else []), "In the rows that are left:"]


def _one_category(statistics: Statistics) -> list[str]:
    return [
        f"Column {name!r} has one category only ({values[0]!r}): it has no effect to estimate."
        for name, values in statistics.layout.categories.items()
        if len(values) < 2
    ]


def _no_reference(statistics: Statistics) -> list[str]:
    """References that the formula names and no row has."""
    categories = statistics.layout.categories
    return [
        f"The reference {reference!r} is no category of {name!r} that occurs: there are {listed(categories[name], 20)}."
        for name, reference in statistics.model.terms.references().items()
        if name in categories and reference not in map(str, categories[name])
    ]


def _constant_response(statistics: Statistics) -> list[str]:
    total = statistics.total()
    scale = abs(statistics.shift[-1]) * np.finfo(float).eps
    if statistics.rows < 2:
        return [f"There is {statistics.rows} complete row only; nothing can be estimated."]
    model = statistics.model
    if model.family_spec.discrete:  # all zeros are an answer: the rate is low
        return []
    if model.censored is not None and not model.missing_priors:  # so are scores that are all at their cap
        return []
    if total.scatter[-1, -1] <= total.weight * scale**2:
        return [f"The response {statistics.model.terms.response.name!r} is constant: there is nothing to explain."]
    return []


def _aliased(statistics: Statistics) -> list[str]:
    """Common-effect columns that are linear combinations of those before them."""
    columns = statistics.layout.common_columns
    if not columns:
        return []
    total = statistics.total()  # about the shift where an intercept absorbs it: a large offset costs no digits
    about = total if statistics.model.terms.intercept else total.moved(statistics.shift)
    found = aliased(about.with_constant().chosen(columns).about(), RANK_TOLERANCE)
    if not found.any():
        return []
    labels = [statistics.layout.columns[columns[k]].label for k in np.flatnonzero(found)]
    return [
        f"These common effects are combinations of the others and cannot be told from them: {listed(labels)}. "
        "Remove them from the formula (a constant column repeats the intercept)."
    ]


def _levels(statistics: Statistics) -> list[str]:
    problems = []
    layout, model = statistics.layout, statistics.model
    for index, level in enumerate(layout.levels):
        groups = len(statistics.members[index])
        if groups < 2:
            problems.append(f"Level {level.name!r} has one group only: between-group variation cannot be estimated.")
        unequal_weights = model.weights is not None and np.ptp(statistics.weight / statistics.count) > 0
        # Counts and shares have a variance of their own, to which an effect of each row adds (overdispersion).
        single = groups == statistics.rows and model.family_spec.support not in ("count", "successes")
        if single and model.se is None and not unequal_weights and 0 in level.columns:
            problems.append(
                f"Level {level.name!r} has one row in each of its {groups} groups: its variance cannot be told from "
                "the residual variance (both vary by row), so no fit can ever separate them. Leave this level out: the "
                "residual 'sigma' already is the variation between units."
            )
    if problems:  # the pairs below would only repeat them
        return problems
    for i, left in enumerate(layout.levels):
        for j, right in enumerate(layout.levels[i + 1 :], start=i + 1):
            pairs = len(np.unique(statistics.codes[:, i] * len(statistics.members[j]) + statistics.codes[:, j]))
            same = pairs == len(statistics.members[i]) == len(statistics.members[j])
            if same and set(left.columns) & set(right.columns):
                problems.append(
                    f"Levels {left.name!r} and {right.name!r} have the same groups (one {right.name!r} in each "
                    f"{left.name!r}): their effects cannot be told apart. Keep one of them, or give each "
                    f"{left.name!r} several groups."
                )
    return problems


def _reused_labels(statistics: Statistics) -> list[str]:
    """Numbered groups that occur in all groups of another level: crossed, or numbered anew in each of them?"""
    found = []
    levels = list(enumerate(statistics.layout.levels))
    for i, child in levels:
        for j, parent in levels[:i]:  # outer levels are written first
            sizes = len(statistics.members[i]), len(statistics.members[j])
            numbered = all(str(member[-1]).isdigit() for member in statistics.members[i])
            if set(child.keys) & set(parent.keys) or not numbered or min(sizes) < 2:
                continue
            pairs = np.unique(statistics.codes[:, i] * sizes[1] + statistics.codes[:, j])
            if len(pairs) == sizes[0] * sizes[1]:
                found.append(
                    f"Every {child.name!r} occurs in every {parent.name!r}: they are fitted as crossed, {child.name!r} "
                    f"{statistics.labels(i)[0]} being the same one everywhere. If each {parent.name!r} numbers its "
                    f"own, write (1 | {parent.name}/{child.name})."
                )
    return found
