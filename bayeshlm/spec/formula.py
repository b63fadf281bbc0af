"""Formulas: what the user writes -> frozen terms. Operators are parsed by formulaic (parsed only, never evaluated)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bayeshlm.errors import FormulaError, listed
from bayeshlm.spec.expressions import Node, parse_expression, shown

PLACEHOLDER = "bq_{}_bq"  # an identifier that stands for the k-th backticked name while the text is parsed
MAX_LENGTH = 10_000


@dataclass(frozen=True)
class Factor:
    """One factor of a term, e.g. ``log1p(hs_gpa)``: its name as shown and its expression."""

    name: str
    node: Node


@dataclass(frozen=True)
class Term:
    """A product of factors; none at all is the intercept."""

    factors: tuple[Factor, ...] = ()

    @property
    def name(self) -> str:
        """Name in the posterior, as in Bambi: `Intercept`, `hs_gpa`, `height:male`."""
        return ":".join(factor.name for factor in self.factors) or "Intercept"

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
        True for ``|`` (the effects share a covariance matrix), False for ``||``.
    """

    effects: tuple[Term, ...]
    level: tuple[str, ...]
    correlated: bool

    @property
    def level_name(self) -> str:
        return ":".join(self.level)

    def effect_name(self, effect: Term) -> str:
        """Name of the effects in the posterior: `1|method`, `hs_gpa|method`."""
        return f"{'1' if effect.is_intercept else effect.name}|{self.level_name}"

    @property
    def correlation_name(self) -> str:
        """Name of the correlation matrix: `corr|subject`."""
        return f"corr|{self.level_name}"


@dataclass(frozen=True)
class Formula:
    """A parsed formula: response, common terms in order of degree, group-specific terms in order of appearance."""

    text: str
    response: Factor
    common: tuple[Term, ...]
    groups: tuple[GroupTerm, ...]

    @property
    def intercept(self) -> bool:
        return any(term.is_intercept for term in self.common)

    def columns(self) -> tuple[str, ...]:
        """Every column the formula uses, once, in order of appearance."""
        found = list(self.response.node.columns())
        terms = [*self.common, *(effect for group in self.groups for effect in group.effects)]
        found += [name for term in terms for factor in term.factors for name in factor.node.columns()]
        found += [name for group in self.groups for name in group.level]
        return tuple(dict.fromkeys(found))


def parse_formula(text: str) -> Formula:
    """Parse a formula.

    Parameters
    ----------
    text : str
        ``response ~ terms``, with ``a*b``, ``a:b``, ``-1`` or ``0``, transforms (``log1p(x)``, ``center(x)``,
        ``I(x**2)``, ``C(g)``), ``(effects | a/b)``, ``(effects || g)``; names that are not identifiers in backticks.

    Raises
    ------
    FormulaError
        With the offending part of the formula and what may stand there.
    """
    if not isinstance(text, str):
        raise FormulaError(f"A formula is a string such as 'y ~ x + (1 | g)', not {type(text).__name__}.")
    if len(text) > MAX_LENGTH:
        raise FormulaError(f"The formula is {len(text)} characters long; at most {MAX_LENGTH} are read.")
    source, names = _hide_backticks(text)
    sides = source.split("~")
    if len(sides) != 2 or not sides[0].strip() or not sides[1].strip():
        raise FormulaError(f"{text!r} is not of the form 'response ~ terms' with one '~'.")
    response = _factor(sides[0], names)
    if response.node.kind == "number" or not any(response.node.columns()):
        raise FormulaError(f"The response {sides[0].strip()!r} names no column.")
    if response.node.categorical or any(response.node.stateful()):
        raise FormulaError(f"The response {response.name!r} may not use C(), center() or scale().")

    rest, groups = [], []
    for sign, item in _additive_items(sides[1], text):
        inside = _group_bar(item, text, names)
        if inside is None:
            rest.append(f"{sign} {item}")
        elif sign == "-":
            raise FormulaError(f"'- {shown(item, names)}': group-specific effects cannot be subtracted.")
        else:
            groups += _group_terms(*inside, names)
    common = _terms(" ".join(rest) or "1", names, text)
    _check_groups(groups)
    _check_response_unused(response, common, groups)
    return Formula(" ".join(text.split()), response, common, tuple(groups))


def _hide_backticks(text: str) -> tuple[str, dict[str, str]]:
    """Replace each backticked name by an identifier, so that any name at all survives parsing."""
    if text.count("`") % 2:
        raise FormulaError(f"{text!r}: a backtick is not closed.")
    if re.search(r"bq_\d+_bq", text):
        raise FormulaError(f"{text!r}: names of the form bq_0_bq are reserved; rename the column.")
    pieces = text.split("`")
    names: dict[str, str] = {}
    for k, name in enumerate(dict.fromkeys(pieces[1::2])):
        if not name:
            raise FormulaError(f"{text!r}: empty name between backticks.")
        names[PLACEHOLDER.format(k)] = name
    back = {name: placeholder for placeholder, name in names.items()}
    # Spaces around, so that `a``b` cannot fuse into one identifier.
    return "".join(f" {back[piece]} " if k % 2 else piece for k, piece in enumerate(pieces)), names


def _additive_items(source: str, text: str) -> Iterator[tuple[str, str]]:
    """Split at + and - outside all brackets: (sign, item)."""
    depth, start, sign = 0, 0, "+"
    for k, character in enumerate(source):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
            if depth < 0:
                raise FormulaError(f"{text!r}: a bracket closes that was never opened.")
        elif character in "+-" and depth == 0:
            item = source[start:k].strip()
            if item:
                yield sign, item
            elif start:
                raise FormulaError(f"{text!r}: nothing stands between two operators.")
            sign, start = character, k + 1
    if depth:
        raise FormulaError(f"{text!r}: a bracket is not closed.")
    if not source[start:].strip():
        raise FormulaError(f"{text!r}: nothing stands after the last operator.")
    yield sign, source[start:].strip()


def _group_bar(item: str, text: str, names: Mapping[str, str]) -> tuple[str, str, bool] | None:
    """(effects, grouping, correlated) where the item is ``(effects | grouping)``, else None."""
    if "|" not in item:
        return None
    match = re.fullmatch(r"\(([^()|]*(?:\([^|]*\)[^()|]*)*)(\|\|?)([^()|]*)\)", item)
    if match is None:
        raise FormulaError(
            f"Cannot read {shown(item, names)!r}: group-specific effects are written (1 | g), (1 + x | g), "
            "(x || g) or (1 | a/b), each in its own brackets."
        )
    return match[1], match[3], match[2] == "|"


def _group_terms(effects: str, grouping: str, correlated: bool, names: Mapping[str, str]) -> list[GroupTerm]:
    shown_term = shown(f"({effects}|{grouping})", names)
    if not effects.strip():
        raise FormulaError(f"{shown_term!r}: nothing stands before the bar; write (1 | g).")
    terms = _terms(effects, names, shown_term)
    if not terms:
        raise FormulaError(f"{shown_term!r} has no effects.")
    levels: list[tuple[str, ...]] = []
    for part in grouping.split("/"):
        columns = [name.strip() for name in part.split(":")]
        if not all(name.isidentifier() for name in columns):
            raise FormulaError(
                f"{shown_term!r}: a grouping is a column, a:b or a/b (outermost first), names in backticks where needed."
            )
        levels.append((*(levels[-1] if levels else ()), *(names.get(name, name) for name in columns)))
    repeated = [level for level in levels if len(set(level)) < len(level)]
    if repeated:
        raise FormulaError(f"{shown_term!r} uses a grouping column twice.")
    return [GroupTerm(terms, level, correlated and len(terms) > 1) for level in levels]


def _terms(source: str, names: Mapping[str, str], text: str) -> tuple[Term, ...]:
    """Expand operators with formulaic's parser; factors stay text and are read by our own grammar."""
    from formulaic.errors import FormulaSyntaxError
    from formulaic.parser import DefaultFormulaParser

    power = re.search(r"(?<![\w.)])([A-Za-z_]\w*)\s*\*\*\s*\d", _outside_calls(source))
    if power:
        name = shown(power[1], names)
        raise FormulaError(
            f"'{name}**...' outside brackets is an interaction power in formulas and would be just {name}: "
            f"write I({name}**2) for the square, (a + b)**2 for interactions."
        )
    try:
        parsed: Any = DefaultFormulaParser(include_intercept=True).get_terms(f"~ {source}")
        formulaic_terms = list(parsed.root)
    except (FormulaSyntaxError, SyntaxError, ValueError, TypeError, AttributeError, RecursionError, KeyError) as error:
        reason = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines()
        raise FormulaError(f"Cannot parse {shown(text, names)!r}: {reason[0] if reason else 'syntax'}") from error
    terms = []
    for formulaic_term in formulaic_terms:
        sources = [str(factor.expr) for factor in formulaic_term.factors]
        if sources == ["1"]:
            terms.append(Term())
        elif any(re.fullmatch(r"[\d.]+", factor) for factor in sources):
            raise FormulaError(f"{shown(text, names)!r}: a number other than 0 or 1 is not a term.")
        else:
            terms.append(Term(tuple(_factor(factor, names) for factor in sources)))
    constant = [term.name for term in terms for factor in term.factors if not any(factor.node.columns())]
    if constant:
        raise FormulaError(f"These terms name no column: {listed(constant)}.")
    return tuple(terms)


def _outside_calls(source: str) -> str:
    """The text with the arguments of calls and braces blanked, where ** is plain arithmetic."""
    out, stack = [], []
    for k, character in enumerate(source):
        if character in "({":
            stack.append(character == "{" or bool(re.search(r"\w\s*$", source[:k])))
        out.append(" " if any(stack) else character)
        if character in ")}" and stack:
            stack.pop()
    return "".join(out)


def _factor(source: str, names: Mapping[str, str]) -> Factor:
    source = source.strip()
    node = parse_expression(source, names)
    if node.kind == "column":
        return Factor(str(node.value), node)
    return Factor(_tidy(shown(source, names)), node)


def _tidy(name: str) -> str:
    """One spelling of a factor's name: no double spaces, none inside brackets or backticks' edges."""
    return re.sub(r"\(\s+", "(", re.sub(r"\s+\)", ")", " ".join(name.split())))


def _check_groups(groups: list[GroupTerm]) -> None:
    seen: set[tuple[frozenset[str], str]] = set()
    twice = []
    for group in groups:
        for effect in group.effects:
            key = (frozenset(group.level), effect.name)
            if key in seen:
                twice.append(group.effect_name(effect))
            seen.add(key)
    if twice:
        raise FormulaError(f"These group-specific effects are given more than once: {listed(twice)}.")


def _check_response_unused(response: Factor, common: tuple[Term, ...], groups: list[GroupTerm]) -> None:
    outcome = set(response.node.columns())
    terms = [*common, *(effect for group in groups for effect in group.effects)]
    used = {name for term in terms for factor in term.factors for name in factor.node.columns()}
    used |= {name for group in groups for name in group.level}
    if outcome & used:
        raise FormulaError(f"The response column {listed(sorted(outcome & used))} also stands on the right of '~'.")
