"""Formulas: what the user writes -> frozen terms. Operators are parsed by formulaic (parsed only, never evaluated)."""

from __future__ import annotations

import ast
import functools
import keyword
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from bayeshlm.errors import FormulaError, listed
from bayeshlm.spec.expressions import Quoted, parse_expression, shown
from bayeshlm.spec.spellings import ALL_COLUMNS, DOT, OPERATORS, of_grouping
from bayeshlm.spec.terms import (
    Factor,
    Formula,
    GroupTerm,
    Term,
    check_names,
    check_response_unused,
    one_spelling,
    references,
)

PLACEHOLDER = "bq_{}_bq"  # an identifier that stands for the k-th backticked name while the text is parsed
MAX_LENGTH = 10_000
MAX_TERMS = 10_000  # work of expanding one product or power; (20 names)**3 takes 0.2 s
PLAIN_SUM = re.compile(r"\s*\+?\s*(1|[^\W\d]\w*(\([^\W\d]\w*\))?)(\s*\+\s*(1|[^\W\d]\w*(\([^\W\d]\w*\))?))*\s*")
QUOTED = re.compile(r"""(`[^`]*`|"[^"`]*"|'[^'`]*')""")
SIGMA_PART = re.compile(r"\s*(?:;|\n)\s*sigma\s*~")


def parse_formula(text: str) -> Formula:
    """Parse a formula.

    Parameters
    ----------
    text : str
        ``response ~ terms``, with ``a*b``, ``a:b``, ``-1`` or ``0``, transforms (``log1p(x)``, ``center(x)``,
        ``I(x**2)``, ``C(g)``, ``C(g, Treatment("usual"))`` to name the reference), ``(effects | a/b)``,
        ``(effects || g)``, ``offset(log(exposure))``; names that are not identifiers in backticks. The response of a
        binomial model is ``p(successes, trials)``. After a semicolon or on a line of its own, ``sigma ~ g`` gives each
        category of a column its own residual standard deviation.

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
    source, names = _hide_quoted(text)
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
    groups = one_spelling(groups)
    outcomes, others = [response, *([trials] if trials else [])], [*offsets, *([spread] if spread else [])]
    check_response_unused(outcomes, common, groups, others)
    check_names(common, groups, spread)
    references(common, groups, spread)  # each column has one at most
    pieces = QUOTED.split(text)
    pieces[::2] = [re.sub(r"\s+", " ", SIGMA_PART.sub("; sigma ~ ", piece)) for piece in pieces[::2]]
    tidy = "".join(pieces).strip()
    return Formula(tidy.removesuffix("; sigma ~ 1"), response, common, tuple(groups), trials, tuple(offsets), spread)


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


def _hide_quoted(text: str) -> tuple[str, dict[str, str]]:
    """Replace names in backticks and categories in quotes by identifiers, so that any text at all survives parsing."""
    pieces = QUOTED.split(text)
    for piece in pieces[::2]:
        for mark, what in (("`", "a backtick"), ('"', "a quote"), ("'", "a quote")):
            if mark in piece:
                raise FormulaError(f"{text!r}: {what} is not closed.")
        if re.search(r"bq_\d+_bq", piece):
            raise FormulaError(f"{text!r}: names of the form bq_0_bq are reserved; rename the column.")
    names: dict[str, str] = {}
    back: dict[tuple[bool, str], str] = {}

    def placeholder(name: str, quoted: bool) -> str:
        found = back.setdefault((quoted, name), PLACEHOLDER.format(len(back)))
        names[found] = Quoted(name) if quoted else name
        return found

    for piece in pieces[1::2]:
        name, quoted = piece[1:-1], piece[0] != "`"
        if not name:
            raise FormulaError(f"{text!r}: empty {'text in quotes' if quoted else 'name between backticks'}.")
        if name in (".", "..") or any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
            raise FormulaError(f"{name!r} cannot name a variable in a file; rename the column.")
        placeholder(name, quoted)

    def hidden(match: re.Match[str]) -> str:
        # Python would fold letters outside ASCII (the two characters for micro), and refuse a column called `class`.
        word = match[0]
        if word.isascii() and not keyword.iskeyword(word):
            return word
        return placeholder(word, False)

    # Spaces around, so that `a``b` cannot fuse into one identifier.
    parts = [
        f" {placeholder(piece[1:-1], piece[0] != '`')} " if k % 2 else re.sub(r"[^\W\d]\w*", hidden, piece)
        for k, piece in enumerate(pieces)
    ]
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
            f"Cannot read {shown(item, names)!r}: group-specific effects are written (1 | g), (1 + x | g), (x || g) or "
            f"(1 | a/b), each in its own brackets. {of_grouping(item, lambda source: shown(source, names))}".strip()
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
        if not all(name.isidentifier() and not isinstance(names.get(name), Quoted) for name in columns):
            raise FormulaError(
                f"{shown_term!r}: a grouping is a column, a:b or a/b (outermost first), names in backticks. "
                f"{of_grouping(grouping, lambda source: shown(source, names))}".strip()
            )
        levels.append((*(levels[-1] if levels else ()), *(names.get(name, name) for name in columns)))
    repeated = [level for level in levels if len(set(level)) < len(level)]
    if repeated:
        raise FormulaError(f"{shown_term!r} uses a grouping column twice.")
    return [GroupTerm(terms, level, correlated) for level in levels]


def _terms(source: str, names: Mapping[str, str], text: str) -> tuple[Term, ...]:
    """Expand operators with formulaic's parser; factors stay text and are read by our own grammar."""
    plain = _plain_sum(source)
    if plain is not None:
        return tuple(dict.fromkeys((Term(), *(Term((_factor(factor, names),)) for factor in plain))))
    from formulaic.errors import FormulaicError
    from formulaic.parser import DefaultFormulaParser

    if DOT.search(source):
        raise FormulaError(f"{shown(text, names)!r}: {ALL_COLUMNS}")
    parser = DefaultFormulaParser(include_intercept=True)
    try:
        _work(parser.get_ast(f"~ {source}"), names, shown(text, names))
        parsed: Any = parser.get_terms(f"~ {source}")
        formulaic_terms = list(parsed.root)
    except FormulaError:
        raise
    except (FormulaicError, SyntaxError, ValueError, TypeError, AttributeError, RecursionError, KeyError) as error:
        reason = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines()
        sign = re.search(r"Unknown operator '(.)", str(error))
        instead = OPERATORS.get(sign[1], "") if sign else ""
        said = f"Cannot parse {shown(text, names)!r}: {reason[0] if reason else 'syntax'}"
        raise FormulaError(f"{said} {instead}".strip()) from error
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


def _plain_sum(source: str) -> list[str] | None:
    """The factors of a sum of names, such as ``1 + x + log(z)``; None for anything else.

    Such a sum needs no parser; formulaic imports pandas and SciPy, two thirds of the time until a wrong column is told.
    """
    if PLAIN_SUM.fullmatch(source) is None:
        return None
    factors = [factor for factor in re.split(r"[+\s]+", source) if factor not in ("", "1")]
    return None if any(map(keyword.iskeyword, factors)) else factors


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
