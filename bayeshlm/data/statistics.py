"""Sufficient statistics: all that the exact engine needs of the rows, whatever their number, and how parts add up."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeshlm.arrays import Array, Codes
from bayeshlm.data.cross_products import CrossProducts
from bayeshlm.data.groups import combine, joined_labels, sorted_members
from bayeshlm.data.layout import Layout, bound_model
from bayeshlm.data.summing.joint import joint_layout, linear_map, numbered_alike, one_type
from bayeshlm.errors import BayeshlmWarning, DataError, listed, outside_package
from bayeshlm.spec.model import Model

CONSTANT = 1e-9  # share of a column's variation that rounding may leave within groups where it is constant


@dataclass(frozen=True, eq=False)
class Statistics:
    """Cross products per cell, a cell being one combination of groups (and of the categories of sigma) that occurs.

    All that an uncensored gaussian or lognormal likelihood needs. For the other families they are moments only, of the
    response itself (binomial: of the share of successes, weighted by the trials).

    With a_i = (columns of every term, y) and the cells' means m: ``weight`` = sum w, ``mean`` = m - ``shift``,
    ``scatter`` = sum w (a - m)(a - m)', together the `CrossProducts` of the cells, `moments`.

    Attributes
    ----------
    model : Model
        Bound to the columns, see `bayeshlm.data.layout.bound_model`.
    layout : Layout
        Its `columns[1:]` are the columns here; the response comes last.
    members : tuple of tuple of tuple
        Per level of the layout its groups, each the values of the level's columns; see `labels`.
    codes : (cells, levels) int
        Group of each cell on each level.
    count, weight : (cells,)
        Rows, and the sum of the precision weights (the same where there are none).
    mean : (cells, columns)
    scatter : (cells, columns, columns)
    shift : (columns,)
    total_rows, rows : int
        Rows seen, and rows used.
    missing : mapping
        Column -> rows dropped because it was missing.
    log_weights : (cells,)
        Sum of the logs of the precision weights.
    jacobians : (cells,)
        -sum log(response) for lognormal, else 0.
    residual : (cells,) int
        Category of `Layout.residual`; zeros where all rows share one sigma.
    site : str, optional
        Where the rows come from; see `compress`.

    Notes
    -----
    What is disclosed when statistics are handed on instead of rows: per cell its number of rows, and the means and
    cross products of the columns. A cell of one row is that row, every used value of it; two rows are given away up to
    their order. Where a column is a category, or a number of few values, the same holds for the rows of one
    category within a cell, whose sums can be read off. `compress(..., min_cell=5)` refuses small cells and categories.
    """

    model: Model
    layout: Layout
    members: tuple[tuple[tuple[Any, ...], ...], ...]
    codes: Codes
    count: Array
    weight: Array
    mean: Array
    scatter: Array
    shift: Array
    total_rows: int
    rows: int
    missing: Mapping[str, int]
    log_weights: Array
    jacobians: Array
    residual: Codes
    site: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", bound_model(self.model, self.layout))

    @property
    def model_hash(self) -> str:
        """SHA-256 of what the statistics depend on: formula, family, se, weights and censoring, but not the priors."""
        record = json.loads(self.model.to_json())
        record.pop("priors")
        return hashlib.sha256(json.dumps(record, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    @property
    def sum_log_weight(self) -> float:
        return float(self.log_weights.sum())

    @property
    def log_jacobian(self) -> float:
        """Log density of the response less that of the scale on which effects add, of all rows."""
        return float(self.jacobians.sum())

    def labels(self, level: int) -> list[Any]:
        """Labels of a level's groups: the value itself, or `parent:child` where the level has several columns."""
        return joined_labels(self.members[level])

    @property
    def moments(self) -> CrossProducts:
        """Of the cells, means about the shift."""
        return CrossProducts(self.weight, self.mean, self.scatter)

    def total(self) -> CrossProducts:
        """(weight, mean about the shift, scatter) of all rows."""
        return self.moments.total()

    def constant_within(self, level: int) -> NDArray[np.bool_]:
        """(columns,): whether a column, or the response, is the same for all rows of each group of a level."""
        inside = self.moments.squares_within(self.codes[:, level], len(self.members[level]))
        return np.asarray(inside <= CONSTANT * np.diag(self.total().scatter))

    def __add__(self, other: Statistics) -> Statistics:
        """Statistics of both parts together. Raises DataError where they are not of the same model."""
        if not isinstance(other, Statistics):
            return NotImplemented
        return merge(self, other)

    def __radd__(self, other: Any) -> Statistics:
        """So that `sum` of several parts works, which starts from 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Add two parts; groups are matched by label, categories that only one part saw are made room for.

    Priors do not enter statistics and need not agree; the sum carries the left part's model.

    Raises
    ------
    DataError
        If the parts are of different models, or their columns mean different things.
    """
    if a.model_hash != b.model_hash:
        raise DataError(
            "Statistics add up only if they are of the same model, and these are of "
            f"{_described(a)} and of {_described(b)}."
        )
    layout = joint_layout(a.model, a.layout, b.layout, b.rows / (a.rows + b.rows))
    a, b = _reexpressed(a, layout), _reexpressed(b, layout)
    members, mapped = [], []
    for level, (left, right) in enumerate(zip(a.members, b.members, strict=True)):
        left, right = one_type(left, right, layout.levels[level].keys)
        union = sorted_members({*left, *right})
        position = {label: k for k, label in enumerate(union)}
        members.append(union)
        mapped.append(
            np.concatenate([
                np.array([position[label] for label in part], dtype=np.int64)[codes[:, level]]
                for part, codes in ((left, a.codes), (right, b.codes))
            ])
        )  # fmt: skip
    coded = list(zip(mapped, map(list, members), strict=True))
    if layout.residual is not None:
        coded.append((np.concatenate([a.residual, b.residual]), list(layout.residual.labels)))
    cell, codes = combine(coded, len(a.count) + len(b.count))
    residual = codes[:, -1] if layout.residual is not None else np.zeros(len(codes), dtype=np.int64)
    codes = codes[:, : len(layout.levels)]
    _warn_of_numbers(a, b)
    # b's means are re-expressed about a's shift: an addition of numbers near their difference, no squares involved.
    both = zip(a.moments, b.moments.moved(b.shift - a.shift), strict=True)
    joint = CrossProducts(*(np.concatenate(pair) for pair in both)).pooled(cell, len(codes))
    count, log_weights, jacobians = (
        np.bincount(cell, np.concatenate(pair), len(codes))
        for pair in ((a.count, b.count), (a.log_weights, b.log_weights), (a.jacobians, b.jacobians))
    )
    return Statistics(
        a.model, layout, tuple(members), codes, count, joint.weight, joint.mean, joint.scatter, a.shift,
        a.total_rows + b.total_rows, a.rows + b.rows,
        {k: a.missing.get(k, 0) + b.missing.get(k, 0) for k in {**a.missing, **b.missing}},
        log_weights, jacobians, residual,
        None if a.site is None or b.site is None else " and ".join(dict.fromkeys([a.site, b.site])),
    )  # fmt: skip


def _described(statistics: Statistics) -> str:
    model = statistics.model
    options = [f"{name}={value!r}" for name in ("se", "weights", "censored") if (value := getattr(model, name))]
    return ", ".join([repr(model.formula), model.family, *options])


def _warn_of_numbers(a: Statistics, b: Statistics) -> None:
    """Of groups that are numbers in both parts, where not both name their site: nobody knows whether they are one."""
    if a.site is not None and b.site is not None:
        return
    for name, numbers in numbered_alike([level.keys for level in a.layout.levels], a.members, b.members).items():
        warnings.warn(
            f"Groups {listed(numbers, 5)} of {name!r} are numbers, occur in both parts and are taken to be the same. "
            f"If they are, give both parts a site, as in compress(..., site='north'); if each site numbers its own, "
            f"compress(..., site='north', own=[{name!r}]) keeps them apart.",
            BayeshlmWarning,
            stacklevel=outside_package(),
        )


def _reexpressed(statistics: Statistics, layout: Layout) -> Statistics:
    """The same rows in the columns of a layout that knows more categories (all columns change linearly)."""
    if statistics.layout == layout:
        return statistics
    table = linear_map(statistics.layout, layout)
    linear = np.zeros((len(layout.columns), len(statistics.layout.columns)))
    linear[:-1, :-1] = table[1:, 1:]
    linear[-1, -1] = 1.0  # the response stays
    constant = np.append(table[1:, 0], 0.0)
    residual = statistics.residual
    if statistics.layout.residual is not None and layout.residual is not None:
        places = [layout.residual.labels.index(label) for label in statistics.layout.residual.labels]
        residual = np.array(places)[residual]
    _, mean, scatter = statistics.moments.mapped(linear)
    return dataclasses.replace(
        statistics, layout=layout, mean=mean, shift=linear @ statistics.shift + constant, scatter=scatter,
        residual=residual,
    )  # fmt: skip
