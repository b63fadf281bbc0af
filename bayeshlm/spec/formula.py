"""Formulas: what the user writes -> frozen terms. Operators are parsed by formulaic (parsed only, never evaluated)."""

from __future__ import annotations

import ast
import functools
import keyword
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bayeshlm.errors import FormulaError, listed
from bayeshlm.spec.expressions import Node, parse_expression, shown

PLACEHOLDER = "bq_{}_bq"  # an identifier that stands for the k-th backticked name while the text is parsed
MAX_LENGTH = 10_000
MAX_TERMS = 10_000  # work of expanding one product or power; (20 names)**3 takes 0.2 s
SIGMA_PART = re.compile(r"\s*(?:;|\n)\s*sigma\s*~")
SLASH, DIVISION = "/", "\u2215"  # '/' is a path in HDF5, Zarr and DataTree; the division slash looks the same


def variable_name(name: str) -> str:
    """A name as it may stand in a posterior: `/` becomes the division slash U+2215."""
    return name.replace(SLASH, DIVISION)


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
        True for ``|`` (the effects share a covariance matrix), False for ``||``.
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
    def correlation_name(self) -> str:
        """Name of the correlation matrix: `corr|subject`."""
        return f"corr|{self.level_name}"


@dataclass(frozen=True)
class Formula:
    """A parsed formula: response, common terms in order of degree, group-specific terms in order of appearance.

    `text` is the formula with its spaces made single, outside backticks. `sigma` is the column whose categories have a
    residual standard deviation each, None where all rows share one. Where the left side is ``p(s, t)``, `response` is
    the successes s and `trials` is t. `offsets` are added to the linear predictor as they are, with no parameter.
    """

    text: str
    response: Factor
    common: tuple[Term, ...]
    groups: tuple[GroupTerm, ...]
    sigma: Factor | None = None
    trials: Factor | None = None
    offsets: tuple[Factor, ...] = ()

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


def parse_formula(text: str) -> Formula:
    """Parse a formula.

    Parameters
    ----------
    text : str
        ``response ~ terms``, with ``a*b``, ``a:b``, ``-1`` or ``0``, transforms (``log1p(x)``, ``center(x)``,
        ``I(x**2)``, ``C(g)``), ``(effects | a/b)``, ``(effects || g)``, ``offset(log(exposure))``; names that are not
        identifiers in backticks. The response of a binomial model is ``p(successes, trials)``. After a semicolon or on
        a line of its own, ``sigma ~ g`` gives each category of a column its own residual standard deviation.

    Raises
    ------
    FormulaError
        With the offending part of the formula and what may stand there.
    """
    if not isinstance(text, str):
        raise FormulaError(f"A formula is a string such as 'y ~ x + (1 | g)', not {type(text).__name__}.")
    return _parse(text)


@functools.lru_cache(maxsize=256)  # frozen in, frozen out; a posterior's model is read many times
def _parse(text: str) -> Formula:
    if len(text) > MAX_LENGTH:
        raise FormulaError(f"The formula is {len(text)} characters long; at most {MAX_LENGTH} are read.")
    source, names = _hide_backticks(text)
    source, spread = _sigma_part(source, text, names)
    sides = source.split("~")
    if len(sides) != 2 or not sides[0].strip() or not sides[1].strip():
        raise FormulaError(f"{text!r} is not of the form 'response ~ terms' with one '~'.")
    response, trials = _response(sides[0], names)
    if response.node.kind == "number" or not any(response.node.columns()):
        raise FormulaError(f"The response {sides[0].strip()!r} names no column.")
    if response.node.categorical or any(response.node.stateful()):
        raise FormulaError(f"The response {response.name!r} may not use C(), center() or scale().")

    rest, groups, offsets = [], [], []
    for sign, item in _additive_items(sides[1], text):
        inside = _group_bar(item, text, names)
        if re.match(r"offset\s*\(", item) and inside is None:
            offsets.append(_offset(sign, item, names))
        elif inside is None:
            rest.append(f"{sign} {item}")
        elif sign == "-":
            raise FormulaError(f"'- {shown(item, names)}': group-specific effects cannot be subtracted.")
        else:
            groups += _group_terms(*inside, names)
    common = _terms(" ".join(rest) or "1", names, text)
    groups = _check_groups(groups)
    outcomes = [response, *([trials] if trials else [])]
    _check_response_unused(outcomes, common, groups, [*offsets, *([spread] if spread else [])])
    _check_names(common, groups, spread)
    pieces = text.split("`")
    pieces[::2] = [re.sub(r"\s+", " ", SIGMA_PART.sub("; sigma ~ ", piece)) for piece in pieces[::2]]
    tidy = "`".join(pieces).strip()
    return Formula(tidy.removesuffix("; sigma ~ 1"), response, common, tuple(groups), spread, trials, tuple(offsets))


def _sigma_part(source: str, text: str, names: Mapping[str, str]) -> tuple[str, Factor | None]:
    """(formula of the mean, factor of ``sigma ~ factor`` or None)."""
    parts = SIGMA_PART.split(source)
    if len(parts) > 2:
        raise FormulaError(f"{text!r} has more than one 'sigma ~'; name one factor.")
    if any(";" in part for part in parts):
        raise FormulaError(f"{text!r}: behind a semicolon only 'sigma ~ factor' may stand.")
    right = parts[1].strip() if len(parts) == 2 else "1"
    if right == "1":
        return parts[0], None
    factor = _factor(right, names) if right else None
    if factor is None or not (factor.node.kind == "column" or factor.node.categorical):
        raise FormulaError(
            f"'sigma ~ {shown(right, names)}': the residual standard deviation may differ by one factor, written as "
            "sigma ~ method, or sigma ~ C(year) for a column of numbers."
        )
    return parts[0], factor


def _response(source: str, names: Mapping[str, str]) -> tuple[Factor, Factor | None]:
    """(response, None), or (successes, trials) of ``p(successes, trials)``."""
    source = source.strip()
    if not re.match(r"p\s*\(", source):
        return _factor(source, names), None
    try:
        tree = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        tree = None
    if not isinstance(tree, ast.Call) or tree.keywords or len(tree.args) != 2:
        raise FormulaError(f"{shown(source, names)!r}: a share of successes is written p(successes, trials).")
    successes, trials = (_factor(str(ast.get_source_segment(source, part)), names) for part in tree.args)
    if trials.node.categorical or any(trials.node.stateful()):
        raise FormulaError(f"The trials {trials.name!r} may not use C(), center() or scale().")
    return successes, trials


def _offset(sign: str, item: str, names: Mapping[str, str]) -> Factor:
    match = re.fullmatch(r"offset\s*\((.*)\)", item, flags=re.DOTALL)
    if match is None or sign == "-" or not _closed(match[1]):
        raise FormulaError(
            f"'{sign} {shown(item, names)}': an offset stands alone, is added, and is written offset(log(exposure))."
        )
    factor = _factor(match[1], names)
    if factor.node.categorical or any(factor.node.stateful()) or not any(factor.node.columns()):
        raise FormulaError(
            f"offset({factor.name}) must be an expression of numeric columns without C(), center() or scale()."
        )
    return factor


def _closed(source: str) -> bool:
    """Whether no bracket closes that was not opened inside."""
    depths = [source[:k].count("(") - source[:k].count(")") for k in range(len(source) + 1)]
    return min(depths) >= 0


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
        if name in (".", "..") or any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
            raise FormulaError(f"{name!r} cannot name a variable in a file; rename the column.")
        names[PLACEHOLDER.format(k)] = name
    back = {name: placeholder for placeholder, name in names.items()}

    def hidden(match: re.Match[str]) -> str:
        # Python would fold letters outside ASCII (the two characters for micro), and refuse a column called `class`.
        word = match[0]
        if word.isascii() and not keyword.iskeyword(word):
            return word
        placeholder = back.setdefault(word, PLACEHOLDER.format(len(back)))
        names[placeholder] = word
        return placeholder

    # Spaces around, so that `a``b` cannot fuse into one identifier.
    parts = [f" {back[piece]} " if k % 2 else re.sub(r"[^\W\d]\w*", hidden, piece) for k, piece in enumerate(pieces)]
    return "".join(parts), names


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
                f"{shown_term!r}: a grouping is a column, a:b or a/b (outermost first), names in backticks."
            )
        levels.append((*(levels[-1] if levels else ()), *(names.get(name, name) for name in columns)))
    repeated = [level for level in levels if len(set(level)) < len(level)]
    if repeated:
        raise FormulaError(f"{shown_term!r} uses a grouping column twice.")
    return [GroupTerm(terms, level, correlated and len(terms) > 1) for level in levels]


def _terms(source: str, names: Mapping[str, str], text: str) -> tuple[Term, ...]:
    """Expand operators with formulaic's parser; factors stay text and are read by our own grammar."""
    from formulaic.errors import FormulaicError
    from formulaic.parser import DefaultFormulaParser

    parser = DefaultFormulaParser(include_intercept=True)
    try:
        _work(parser.get_ast(f"~ {source}"), names, shown(text, names))
        parsed: Any = parser.get_terms(f"~ {source}")
        formulaic_terms = list(parsed.root)
    except FormulaError:
        raise
    except (FormulaicError, SyntaxError, ValueError, TypeError, AttributeError, RecursionError, KeyError) as error:
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
    return tuple(sorted(dict.fromkeys(terms), key=lambda term: len(term.factors)))


def _work(tree: Any, names: Mapping[str, str], text: str) -> tuple[int, frozenset[str]]:
    """(number of products formulaic would form, terms' texts where they are plain), checked before it starts."""
    operator = getattr(getattr(tree, "operator", None), "symbol", None)
    if operator is None:
        token = str(tree)
        return 1, frozenset({token})
    parts = [_work(child, names, text) for child in tree.args]
    sizes = [size for size, _ in parts]
    simple = frozenset[str]().union(*(part for _, part in parts))
    if operator in ("**", "^"):
        base = shown(str(tree.args[0]).strip(), names)
        if sizes[0] == 1:
            raise FormulaError(
                f"'{base}{operator}...' outside I() is an interaction power in formulas and would be just {base}: "
                f"write I({base}**2) for the square, (a + b)**2 for interactions."
            )
        power = str(tree.args[1])
        if power.isdigit() and (int(power[:4]) > 20 or sizes[0] ** int(power) > MAX_TERMS):
            raise FormulaError(f"{text!r}: the power {power[:20]} makes too many interactions.")
        return sizes[0] ** (int(power) if power.isdigit() else 1), simple
    if operator == "-" and (len(parts) == 1 or not parts[1][1] <= parts[0][1] | {"0", "1"}):
        raise FormulaError(
            f"{text!r}: '-' (or a 0) removes a term that is not there. For minus a column x write I(-x)."
        )
    if operator in ("*", ":", "in", "/"):
        size = sizes[0] * sizes[-1] + (sum(sizes) if operator == "*" else sizes[0])
    else:
        size = sum(sizes)
    if size > MAX_TERMS:
        raise FormulaError(f"{text!r}: more than {MAX_TERMS} terms; write fewer interactions.")
    return size, simple


def _factor(source: str, names: Mapping[str, str]) -> Factor:
    source = source.strip()
    node = parse_expression(source, names)
    if node.kind == "column":
        return Factor(str(node.value), node)
    return Factor(shown(_tidy(source), names), node)


def _tidy(name: str) -> str:
    """One spelling of a factor's name: no double spaces, none inside brackets or backticks' edges."""
    return re.sub(r"\s+(?=[(),])", "", re.sub(r"(?<=\()\s+", "", " ".join(name.split())))


def _check_groups(groups: list[GroupTerm]) -> list[GroupTerm]:
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
    matrices = [group.correlation_name for group in groups if group.correlated]
    several = sorted({name.removeprefix("corr|") for name in matrices if matrices.count(name) > 1})
    if several:
        raise FormulaError(
            f"Level {listed(several)} has more than one set of correlated effects. Write them in one bracket, "
            "(1 + x + z | g), or without correlation, (x || g)."
        )
    return groups


def _check_names(common: tuple[Term, ...], groups: list[GroupTerm], spread: Factor | None) -> None:
    """In a posterior every variable, dimension and level has one name, and no two share it."""
    taken = {"chain": "the dimension of chains", "draw": "the dimension of draws", "sigma": "the residual"}
    taken |= {"sigma_dim": "the categories of the residual"} if spread else {}
    levels = list(dict.fromkeys((group.level_name, group.level) for group in groups))
    wanted = [(term.name, f"common effect {term.name!r}") for term in common]
    wanted += [(name, f"level {name!r}") for name, _ in levels]
    wanted += [(name, f"group-specific effect {name!r}") for g in groups for name in map(g.effect_name, g.effects)]
    wanted += [(f"{g.effect_name(e)}_sigma", f"the scale of {g.effect_name(e)!r}") for g in groups for e in g.effects]
    wanted += [(f"{term.name}_dim", f"the categories of {term.name!r}") for term in common if term.factors]
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


def _check_response_unused(
    outcomes: list[Factor], common: tuple[Term, ...], groups: list[GroupTerm], offsets: list[Factor]
) -> None:
    outcome = {name for factor in outcomes for name in factor.node.columns()}
    terms = [*common, *(effect for group in groups for effect in group.effects)]
    used = {name for term in terms for factor in term.factors for name in factor.node.columns()}
    used |= {name for group in groups for name in group.level}
    used |= {name for factor in offsets for name in factor.node.columns()}
    if outcome & used:
        raise FormulaError(f"The response column {listed(sorted(outcome & used))} also stands on the right of '~'.")
