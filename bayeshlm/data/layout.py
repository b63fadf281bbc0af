"""A model bound to the columns of one data set: which design columns there are, and which parameters they carry."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

from bayeshlm.errors import DataError, PriorError, listed
from bayeshlm.spec.expressions import Node
from bayeshlm.spec.model import DEFAULT_CORRELATION, Model
from bayeshlm.spec.terms import Factor, GroupTerm, Term, check_matrices

Indicator = tuple[str, Any]  # (column, category)


@dataclass(frozen=True)
class Column:
    """One design column: the product of numeric expressions and category indicators; empty is the constant 1."""

    numeric: tuple[Node, ...] = ()
    indicators: tuple[Indicator, ...] = ()
    label: str = "1"

    @property
    def key(self) -> tuple[frozenset[Node], frozenset[Indicator]]:
        return (frozenset(self.numeric), frozenset(self.indicators))


@dataclass(frozen=True)
class Block:
    """One parameter vector: a common term, or the group-specific effects of one term.

    Attributes
    ----------
    name : str
        Variable name in the posterior.
    columns : tuple of int
        Indices into `Layout.columns`.
    labels : tuple
        Labels of its categories; empty for a scalar.
    dim : str
        Name of the dimension of `labels`: `cltype_dim`, of group-specific effects `cltype|school_dim`, since one factor
        may be coded in different ways in different places.
    """

    name: str
    columns: tuple[int, ...]
    labels: tuple[Any, ...] = ()
    dim: str = ""


@dataclass(frozen=True)
class Level:
    """One grouping factor with all its group-specific effects.

    Attributes
    ----------
    name : str
        `method:instructor`.
    keys : tuple of str
        Its columns.
    blocks : tuple of Block
        Effects in order; a block per term.
    correlated : tuple of tuple of int
        Sets of effect positions (into the concatenated columns) that share a covariance matrix.
    """

    name: str
    keys: tuple[str, ...]
    blocks: tuple[Block, ...]
    correlated: tuple[tuple[int, ...], ...] = ()

    @property
    def columns(self) -> tuple[int, ...]:
        return tuple(index for block in self.blocks for index in block.columns)

    @property
    def correlation_name(self) -> str:
        return f"corr|{self.name}"

    @property
    def effect_labels(self) -> tuple[str, ...]:
        """A name per effect: `1`, `x`, `cltype[small]`."""
        labels = []
        for block in self.blocks:
            effect = block.name.rsplit("|", 1)[0]
            labels += [f"{effect}[{label}]" for label in block.labels] or [effect]
        return tuple(labels)


@dataclass(frozen=True)
class Layout:
    """Design columns (index 0 is the constant 1) and the blocks and levels that use them."""

    columns: tuple[Column, ...]
    common: tuple[Block, ...]
    levels: tuple[Level, ...]
    categories: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    constants: Mapping[Node, tuple[float, float]] = field(default_factory=dict)
    declared: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # a type's own categories, unused ones too
    residual: Block | None = None  # `sigma` by the categories of a column; None where it is one number

    @property
    def common_columns(self) -> tuple[int, ...]:
        return tuple(index for block in self.common for index in block.columns)

    def level(self, name: str) -> Level | None:
        return next((level for level in self.levels if level.name == name), None)


def categorical_columns(model: Model, numeric: Mapping[str, bool]) -> tuple[str, ...]:
    """Columns that enter a term as categories: `C(g)`, and bare columns whose type is not numeric."""
    factors = [factor for term in _all_terms(model) for factor in term.factors]
    factors += [model.terms.sigma] if model.terms.sigma else []
    found = [name for factor in factors if (name := _category(factor, numeric)) is not None]
    return tuple(dict.fromkeys(found))


def bare_columns(model: Model) -> tuple[str, ...]:
    """Columns that terms name as they are, not in ``C( )`` nor in an expression."""
    factors = [factor for term in _all_terms(model) for factor in term.factors]
    return tuple(dict.fromkeys(str(factor.node.value) for factor in factors if factor.node.kind == "column"))


def numeric_columns(model: Model, layout: Layout) -> dict[str, bool]:
    """Column -> whether it entered the layout as numbers (a column may also enter as `C(g)`)."""
    bare = {node.value for column in layout.columns for node in column.numeric if node.kind == "column"}
    return {name: name not in layout.categories or name in bare for name in model.columns}


def stateful(model: Model) -> list[Node]:
    """Every `center` and `scale` of the formula, once, in order of appearance."""
    return list(dict.fromkeys(n for term in _all_terms(model) for f in term.factors for n in f.node.stateful()))


def numeric_products(model: Model, numeric: Mapping[str, bool]) -> list[tuple[Node, ...]]:
    """The numeric parts of all design columns (`Column.numeric`), each product of expressions once."""
    products: dict[frozenset[Node], tuple[Node, ...]] = {}
    for term in _all_terms(model):
        nodes = tuple(factor.node for factor in term.factors if _category(factor, numeric) is None)
        if nodes:
            products.setdefault(frozenset(nodes), nodes)
    return list(products.values())


def bind(
    model: Model,
    numeric: Mapping[str, bool],
    categories: Mapping[str, tuple[Any, ...]],
    constants: Mapping[Node, tuple[float, float]],
    declared: Mapping[str, tuple[Any, ...]] | None = None,
) -> Layout:
    """Lay out the design columns.

    Parameters
    ----------
    model : Model
    numeric : mapping
        Column -> whether its type is numeric.
    categories : mapping
        Categorical column -> its categories in order; the first is the reference where one is dropped, unless the
        formula names it: then that one is put first.
    constants : mapping
        (mean, standard deviation) per `center`/`scale` node.
    declared : mapping, optional
        Categories in the order of the column's type, where it has one.
    """
    categories = with_references(model, categories)
    builder = _Builder(numeric, categories)
    common = tuple(builder.block(term, term.name, model.terms.common) for term in model.terms.common)
    grouped: dict[frozenset[str], list[GroupTerm]] = {}
    for group in model.terms.groups:
        grouped.setdefault(frozenset(group.level), []).append(group)
    levels = tuple(_level(builder, groups) for groups in grouped.values())
    residual = residual_column(model)
    spread = None if residual is None else Block("sigma", (), tuple(categories[residual]), "sigma_dim")
    columns, declared = tuple(builder.columns), dict(declared or {})
    return Layout(columns, common, levels, dict(categories), dict(constants), declared, spread)


def bound_model(model: Model, layout: Layout) -> Model:
    """The model with a prior for the correlations that its columns turn out to have, where `Model` could not know.

    Raises
    ------
    PriorError
        For a prior of correlations between the columns of a bar that has one column only.
    """
    found = {level.correlation_name for level in layout.levels if level.correlated}
    unsure = [group for group in model.terms.groups if group.has_matrix is None]
    given = {group.correlation_name for group in unsure} & set(model.parameters)
    factors = {level.correlation_name for level in layout.levels if any(block.labels for block in level.blocks)}
    idle = sorted(given - found - factors)  # a factor may have one category in this part of the data, more in others
    if idle:
        raise PriorError(
            f"A prior is given for {listed(idle)}, but there is one effect a group and nothing to be "
            "correlated: the column is a number. Leave the prior out, or write C(x) for categories."
        )
    lacking = {group.correlation_name for group in unsure} & found - given
    return model.with_priors(dict.fromkeys(sorted(lacking), DEFAULT_CORRELATION)) if lacking else model


def with_references(model: Model, categories: Mapping[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    """The categories, those that the formula names as references put first where they occur."""
    ordered = dict(categories)
    for name, reference in model.terms.references().items():
        first = [label for label in ordered.get(name, ()) if str(label) == reference]
        if first:
            ordered[name] = (*first, *(label for label in ordered[name] if str(label) != reference))
    return ordered


def residual_column(model: Model) -> str | None:
    """The column whose categories have a `sigma` each."""
    return None if model.terms.sigma is None else next(model.terms.sigma.node.columns())


def _level(builder: _Builder, groups: list[GroupTerm]) -> Level:
    first = groups[0]
    blocks: list[Block] = []
    correlated: list[tuple[int, ...]] = []
    position = 0
    for group in groups:
        start = position
        for effect in group.effects:
            block = builder.block(effect, group.effect_name(effect), group.effects)
            blocks.append(block)
            position += len(block.columns)
        if group.correlated and position - start > 1:
            correlated.append(tuple(range(start, position)))
    check_matrices([first.level_name] * len(correlated))
    return Level(first.level_name, first.level, tuple(blocks), tuple(correlated))


class _Builder:
    """Collects distinct design columns while terms are laid out."""

    def __init__(self, numeric: Mapping[str, bool], categories: Mapping[str, tuple[Any, ...]]) -> None:
        self.numeric, self.categories = numeric, categories
        self.columns: list[Column] = [Column()]
        self._index = {self.columns[0].key: 0}

    def block(self, term: Term, name: str, siblings: Iterable[Term]) -> Block:
        present = {frozenset(sibling.factors) for sibling in siblings}
        products = [Column(label="")]
        labels: list[tuple[Any, ...]] = [()]
        for factor in term.factors:
            column = _category(factor, self.numeric)
            if column is None:
                products = [
                    Column((*p.numeric, factor.node), p.indicators, _joined(p.label, factor.name)) for p in products
                ]
                continue
            # R's rule: categories are coded against a reference where the term without this factor is in the model.
            reduced = frozenset(term.factors) - {factor} in present
            kept = self.categories[column][1 if reduced else 0 :]
            products = [
                Column(p.numeric, (*p.indicators, (column, k)), _joined(p.label, f"{factor.name}[{k}]"))
                for p in products
                for k in kept
            ]
            labels = [(*label, k) for label in labels for k in kept]
        indices = tuple(self._add(product) for product in products)
        if not term.factors or all(_category(factor, self.numeric) is None for factor in term.factors):
            return Block(name, indices)
        flat = tuple(label[0] if len(label) == 1 else ", ".join(map(str, label)) for label in labels)
        return Block(name, indices, flat, f"{name}_dim")

    def _add(self, column: Column) -> int:
        if column.key not in self._index:
            self._index[column.key] = len(self.columns)
            self.columns.append(column)
        return self._index[column.key]


def _joined(left: str, right: str) -> str:
    return f"{left}:{right}" if left else right


def _category(factor: Factor, numeric: Mapping[str, bool]) -> str | None:
    """The column whose categories the factor stands for, or None for a numeric factor."""
    if factor.node.categorical:
        return str(factor.node.children[0].value)
    if factor.node.kind == "column" and not numeric[str(factor.node.value)]:
        return str(factor.node.value)
    return None


def _all_terms(model: Model) -> list[Term]:
    return [*model.terms.common, *(effect for group in model.terms.groups for effect in group.effects)]


def plain(value: Any) -> int | str:
    """A label as a plain int or str: whole numbers become ints, dates ISO text, booleans and the rest text."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, float | np.floating | int | np.integer | Decimal):
        number: Any = value
        whole = number == number and abs(number) < 2**63 and number == int(number)
        if isinstance(number, Decimal) and not whole:
            return format(number.normalize(), "f")  # DuckDB hands 1.50 over as 1.5
        return int(number) if whole else str(number)
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]").item()
    if isinstance(value, datetime.datetime):  # pandas' Timestamp is one too
        midnight = value.time() == datetime.time() and value.tzinfo is None
        return value.date().isoformat() if midnight else value.isoformat(sep=" ")
    return str(value)


def plain_labels(name: str, values: Sequence[Any]) -> list[Any]:
    """Plain labels of distinct values, all of one type. Raises DataError where two become the same."""
    kinds = set(map(type, values))
    if kinds == {str} or (kinds == {int} and min(values) > -(2**63) and max(values) < 2**63):
        return list(values)  # plain already, and distinct as they came: a million labels need no look at each
    labels: list[Any] = [plain(value) for value in values]
    if len({type(label) for label in labels}) > 1:  # labels of several types are compared as text
        labels = [str(label) for label in labels]
    if len(set(labels)) < len(labels):
        counts = Counter(labels)
        twice = [label for label, count in counts.items() if count > 1]
        raise DataError(f"Column {name!r}: different groups have the same label as text: {listed(twice)}.")
    return labels
