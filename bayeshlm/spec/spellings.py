"""What R, brms, Bambi and statsmodels write otherwise: the spelling here, for the message that refuses theirs."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

MODULES = ("np", "numpy", "math", "jnp", "pt", "scipy")
RENAMED = {
    "ln": "log", "factor": "C", "as.factor": "C", "as_factor": "C", "asfactor": "C", "standardize": "scale",
    "standardise": "scale", "zscore": "scale", "centre": "center", "as.numeric": "I",
}  # fmt: skip
SPLINES = ("bs", "ns", "cr", "cc", "te", "s", "spline", "hsgp", "gp")
MOST_POWERS = 9
DOT = re.compile(r"(?<![\w.])\.(?![\w.])")
ALL_COLUMNS = "'.' stands for no columns here; name them, as in y ~ x1 + x2."
OPERATORS = {
    ",": "Outside a function there is no comma; decimals are written 1.5.",
    "=": "A condition is no term: compute it as a column of 0 and 1 beforehand.",
    "<": "A condition is no term: compute it as a column of 0 and 1 beforehand.",
    ">": "A condition is no term: compute it as a column of 0 and 1 beforehand.",
}


def our_spelling(tree: ast.expr, known: tuple[str, ...], show: Callable[[str], str]) -> str:
    """A sentence for an expression outside the grammar, or nothing.

    Parameters
    ----------
    tree : ast.expr
        The expression that is refused.
    known : tuple of str
        Functions that the grammar has.
    show : callable
        Source text -> the user's own names.
    """
    try:
        if isinstance(tree, ast.Call):
            return _of_call(tree, known, show)
        if isinstance(tree, ast.Attribute) and _dotted(tree):
            return f"A column whose name holds dots is written in backticks: `{show(ast.unparse(tree))}`."
    except RecursionError:  # thousands of names in a chain are nobody's spelling
        return ""
    if isinstance(tree, ast.Name) and show(tree.id)[:1] in ("'", '"'):
        return f"A column's name is written in backticks, not in quotes: `{show(tree.id)[1:-1]}`."
    if isinstance(tree, ast.Subscript):
        return "Columns are written by their names alone, as in y ~ x."
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, ast.BitOr):
        return "Successes of trials are written p(successes, trials) ~ ..., with family='binomial'."
    return ""


def _of_call(tree: ast.Call, known: tuple[str, ...], show: Callable[[str], str]) -> str:
    name = show(ast.unparse(tree.func))
    arguments = [show(ast.unparse(argument)) for argument in tree.args]
    if not arguments:
        return ""
    first, last = arguments[0], name.rsplit(".", 1)[-1]
    plain = RENAMED.get(name, last if name.split(".")[0] in MODULES else "")
    plain = RENAMED.get(plain, plain)
    if plain in known:
        return f"Write {plain}({first})."
    if name == "poly":
        degree = arguments[1] if len(arguments) > 1 else "2"
        powers = range(2, int(degree) + 1) if degree.isdecimal() and 2 <= int(degree) <= MOST_POWERS else range(2, 3)
        terms = " + ".join([first, *(f"I({first}**{k})" for k in powers)])
        return f"Write {terms}; of a column far from 0, with center({first}) in its place."
    if last in ("square", "pow", "power"):
        return f"Write I({first}**{arguments[1] if last != 'square' and len(arguments) > 1 else 2})."
    if name in SPLINES:
        return "The columns of a spline are computed beforehand and written by their names."
    if name == "Q":
        column = first.strip("'\"")
        return f"A name that is no identifier is written in backticks: `{column}`."
    if name == "cbind":
        return "Successes of trials are written p(successes, trials) ~ ..., with family='binomial'."
    return ""


def of_grouping(item: str, show: Callable[[str], str]) -> str:
    """A sentence for what stands behind the bar of a group-specific term, or nothing."""
    behind = show(item).rsplit("|", 1)[-1].strip().rstrip(")").strip()
    call = re.fullmatch(r"(C|factor|as\.factor|gr)\s*\(\s*(`[^`]*`|[\w.]+)", behind)
    if call:
        return f"Groups are categories already: (1 | {call[2]})."
    if re.fullmatch(r"[\w.]+", behind) and "." in behind:
        return f"A column whose name holds dots is written in backticks: `{behind}`."
    return ""


def _dotted(tree: ast.expr) -> bool:
    """Whether it is a name with dots, and nothing else."""
    while isinstance(tree, ast.Attribute):
        tree = tree.value
    return isinstance(tree, ast.Name) and tree.id not in MODULES
