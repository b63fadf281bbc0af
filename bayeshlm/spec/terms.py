"""What a formula is made of: factors, terms, group-specific effects, and what they may be called together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bayeshlm.errors import FormulaError, listed
from bayeshlm.spec.expressions import Node

SLASH, DIVISION = "/", "\u2215"  # '/' is a path in HDF5, Zarr and DataTree; the division slash looks the same


def variable_name(name: str) -> str:
    """A name as it may stand in a posterior: `/` becomes the division slash U+2215."""
    return name.replace(SLASH, DIVISION)


@dataclass(frozen=True)
class Factor:
    """One factor of a term, e.g. ``log1p(hs_gpa)``: its name as shown and its expression."""

    name: str
    node: Node

    @property
    def may_be_categorical(self) -> bool:
        """Whether it is `C(g)`, or a bare column, whose type is for the data to say."""
        return self.node.categorical or self.node.kind == "column"


@dataclass(frozen=True)
class Term:
    """A product of factors; none at all is the intercept."""

    factors: tuple[Factor, ...] = ()

    @property
    def name(self) -> str:
        """Name in the posterior, as in Bambi: `Intercept`, `hs_gpa`, `height:male`."""
        return variable_name(":".join(factor.name for factor in self.factors)) or "Intercept"

    @property
    def is_intercept(self) -> bool:
        return not self.factors


@dataclass(frozen=True)
class GroupTerm:
    """Group-specific effects, e.g. ``(1 + x | g)``.

    Attributes
    ----------
    effects : tuple of Term
        What varies: the intercept and slopes.
    level : tuple of str
        Grouping columns, outermost first: ``("method", "instructor")`` for `1 | method:instructor`.
    correlated : bool
        True for ``|``: all design columns of the bar share a covariance matrix, the indicators of a factor too, however
        they are coded. False for ``||``: none do.
    """

    effects: tuple[Term, ...]
    level: tuple[str, ...]
    correlated: bool

    @property
    def level_name(self) -> str:
        return variable_name(":".join(self.level))

    def effect_name(self, effect: Term) -> str:
        """Name of the effects in the posterior: `1|method`, `hs_gpa|method`."""
        return f"{'1' if effect.is_intercept else effect.name}|{self.level_name}"

    @property
    def has_matrix(self) -> bool | None:
        """Whether there is a correlation matrix; None where data decide, as of ``(0 + x | g)``: is x a factor?"""
        if not self.correlated or len(self.effects) > 1:
            return self.correlated
        return None if any(factor.may_be_categorical for factor in self.effects[0].factors) else False

    @property
    def correlation_name(self) -> str:
        """Name of the correlation matrix: `corr|subject`."""
        return f"corr|{self.level_name}"


@dataclass(frozen=True)
class Formula:
    """A parsed formula: response, common terms in order of degree, group-specific terms in order of appearance.

    `text` is the formula with its spaces made single, outside backticks. Where the left side is ``p(s, t)``, `response`
    is the successes s and `trials` is t. `offsets` are added to the linear predictor as they are, with no parameter.
    `sigma` is the column whose categories have a residual standard deviation each, None where all rows share one.
    """

    text: str
    response: Factor
    common: tuple[Term, ...]
    groups: tuple[GroupTerm, ...]
    trials: Factor | None = None
    offsets: tuple[Factor, ...] = ()
    sigma: Factor | None = None

    @property
    def intercept(self) -> bool:
        return any(term.is_intercept for term in self.common)

    def columns(self) -> tuple[str, ...]:
        """Every column the formula uses, once, in order of appearance."""
        found = list(self.response.node.columns())
        found += [name for factor in (self.trials, *self.offsets) if factor for name in factor.node.columns()]
        terms = [*self.common, *(effect for group in self.groups for effect in group.effects)]
        found += [name for term in terms for factor in term.factors for name in factor.node.columns()]
        found += [name for group in self.groups for name in group.level]
        found += self.sigma.node.columns() if self.sigma else ()
        return tuple(dict.fromkeys(found))

    def references(self) -> dict[str, str]:
        """Column -> the category that the formula names as its reference."""
        return references(self.common, self.groups, self.sigma)


def references(common: Iterable[Term], groups: Iterable[GroupTerm], sigma: Factor | None) -> dict[str, str]:
    """Column -> its reference. Raises FormulaError where a column is given two."""
    terms = [*common, *(effect for group in groups for effect in group.effects)]
    factors = [*(factor for term in terms for factor in term.factors), *([sigma] if sigma else [])]
    found: dict[str, str] = {}
    for factor in factors:
        if factor.node.reference is not None:
            column = next(factor.node.columns())
            if found.setdefault(column, factor.node.reference) != factor.node.reference:
                raise FormulaError(
                    f"{column!r} has two references, {found[column]!r} and {factor.node.reference!r}; name one."
                )
    return found


def one_spelling(groups: list[GroupTerm]) -> list[GroupTerm]:
    """The same groupings under one spelling each (a:b and b:a are one level), no effect twice."""
    first: dict[frozenset[str], tuple[str, ...]] = {}
    groups = [
        GroupTerm(group.effects, first.setdefault(frozenset(group.level), group.level), group.correlated)
        for group in groups
    ]
    names = [group.effect_name(effect) for group in groups for effect in group.effects]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FormulaError(f"These group-specific effects are given more than once: {listed(twice)}.")
    check_matrices([group.level_name for group in groups if group.has_matrix])
    return groups


def check_matrices(levels: list[str]) -> None:
    """Refuse a level with several correlation matrices, given the level of each: their name would be the same."""
    several = sorted({name for name in levels if levels.count(name) > 1})
    if several:
        raise FormulaError(
            f"Level {listed(several)} has more than one set of correlated effects. Write them in one bracket, "
            "(1 + x + z | g), or without correlation, (x || g)."
        )


def check_names(common: tuple[Term, ...], groups: list[GroupTerm], spread: Factor | None) -> None:
    """In a posterior every variable, dimension and level has one name, and no two share it."""
    taken = {"chain": "the dimension of chains", "draw": "the dimension of draws", "sigma": "the residual"}
    taken |= {"sigma_dim": "the categories of the residual"} if spread else {}
    levels = list(dict.fromkeys((group.level_name, group.level) for group in groups))
    wanted = [(term.name, f"common effect {term.name!r}") for term in common]
    wanted += [(name, f"level {name!r}") for name, _ in levels]
    wanted += [(name, f"group-specific effect {name!r}") for g in groups for name in map(g.effect_name, g.effects)]
    wanted += [(f"{g.effect_name(e)}_sigma", f"the scale of {g.effect_name(e)!r}") for g in groups for e in g.effects]
    wanted += [(f"{term.name}_dim", f"the categories of {term.name!r}") for term in common if term.factors]
    grouped = [(g.effect_name(effect), effect) for g in groups for effect in g.effects]
    wanted += [(f"{name}_dim", f"the categories of {name!r}") for name, effect in grouped if effect.factors]
    clashes = []
    for name, what in wanted:
        if name in taken:
            clashes.append(f"{what} and {taken[name]}")
        taken[name] = what
    if clashes:
        raise FormulaError(
            f"Two things in the posterior would have the same name: {'; '.join(clashes)}. Rename or copy the column, "
            "e.g. data['year_group'] = data['year'] for (1 | year_group)."
        )


def check_response_unused(
    outcomes: list[Factor], common: tuple[Term, ...], groups: list[GroupTerm], others: list[Factor]
) -> None:
    outcome = {name for factor in outcomes for name in factor.node.columns()}
    terms = [*common, *(effect for group in groups for effect in group.effects)]
    used = {name for term in terms for factor in term.factors for name in factor.node.columns()}
    used |= {name for group in groups for name in group.level}
    used |= {name for factor in others for name in factor.node.columns()}
    if outcome & used:
        raise FormulaError(f"The response column {listed(sorted(outcome & used))} also stands on the right of '~'.")
