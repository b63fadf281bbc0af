"""The arithmetic a formula may contain: a small allow-list grammar, read to a frozen tree, compiled to narwhals.

No `eval`, no attribute access, no names but columns: a formula from a web form cannot run code.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeshlm.errors import FormulaError
from bayeshlm.spec.spellings import our_spelling

STATEFUL = ("center", "scale")  # need a constant of the data: its mean, and its standard deviation
FUNCTIONS = ("log", "log1p", "log2", "log10", "exp", "expm1", "sqrt", "abs")
IDENTITY = ("I", "C")
KNOWN = (*FUNCTIONS, *STATEFUL, *IDENTITY)
OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "**",
}  # fmt: skip
MAX_DEPTH = 50


class Quoted(str):
    """A category that stands in quotes in a formula, and is no column."""

    __slots__ = ()

    @property
    def shown(self) -> str:
        mark = "'" if '"' in self else '"'
        return f"{mark}{self}{mark}"


@dataclass(frozen=True)
class Node:
    """One node of an expression: `kind` is column, number, call, operator or label.

    `value` holds the column's name, the number, the function's name, the operator's sign, or a category as text: the
    reference, which may be the second child of `C`.
    """

    kind: str
    value: str | float
    children: tuple[Node, ...] = ()

    @property
    def categorical(self) -> bool:
        """True for `C(g)`."""
        return self.kind == "call" and self.value == "C"

    @property
    def reference(self) -> str | None:
        """`usual care` of ``C(arm, Treatment("usual care"))``; None where the order of the categories tells."""
        return str(self.children[1].value) if self.categorical and len(self.children) == 2 else None

    def columns(self) -> Iterator[str]:
        """Names of the columns below this node, as they occur."""
        if self.kind == "column":
            yield str(self.value)
        for child in self.children:
            yield from child.columns()

    def stateful(self) -> Iterator[Node]:
        """Calls below this node that need a constant of the data."""
        if self.kind == "call" and self.value in STATEFUL:
            yield self
        for child in self.children:
            yield from child.stateful()


def parse_expression(source: str, names: Mapping[str, str]) -> Node:
    """Read one factor of a formula.

    Parameters
    ----------
    source : str
        Python-like text, in which backticked names were replaced by placeholders.
    names : mapping
        Placeholder -> column name.

    Raises
    ------
    FormulaError
        For anything outside the grammar: numbers, columns, + - * / **, and the functions listed here.
    """
    try:
        tree = ast.parse(source.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise FormulaError(f"Cannot read {shown(source, names)!r} in the formula: {error}.") from error
    return _read(tree, names, shown(source, names), 0)


def shown(source: str, names: Mapping[str, str]) -> str:
    """The text with placeholders turned back into the user's names, in backticks where they need them."""
    for placeholder, name in names.items():
        if isinstance(name, Quoted):
            source = source.replace(placeholder, name.shown)
        else:
            source = source.replace(placeholder, name if name.isidentifier() else f"`{name}`")
    return source


def _read(tree: ast.expr, names: Mapping[str, str], text: str, depth: int) -> Node:
    if depth > MAX_DEPTH:
        raise FormulaError(f"{text[:60]!r}... is nested deeper than {MAX_DEPTH} levels; compute the column beforehand.")
    if isinstance(tree, ast.Name) and not isinstance(names.get(tree.id), Quoted):
        return Node("column", names.get(tree.id, tree.id))
    if isinstance(tree, ast.Constant) and isinstance(tree.value, int | float) and not isinstance(tree.value, bool):
        try:
            number = float(tree.value)
        except OverflowError:  # of an integer beyond the floats
            number = math.inf
        if math.isinf(number):
            raise FormulaError(f"A number in {text[:60]!r} is too large for a float.")
        return Node("number", number)
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub | ast.UAdd):
        child = _read(tree.operand, names, text, depth + 1)
        return child if isinstance(tree.op, ast.UAdd) else Node("operator", "-", (child,))
    if isinstance(tree, ast.BinOp) and type(tree.op) in OPERATORS:
        sides = tuple(_read(side, names, text, depth + 1) for side in (tree.left, tree.right))
        return Node("operator", OPERATORS[type(tree.op)], sides)
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and not tree.keywords:
        return _read_call(tree, tree.func.id, names, text, depth)
    instead = our_spelling(tree, KNOWN, lambda source: shown(source, names))
    raise FormulaError(
        f"{text!r} is outside the formula grammar. {instead or 'Allowed: columns, numbers, + - * / **, '}"
        f"{'' if instead else ', '.join(KNOWN) + '. Compute anything else as a column beforehand.'}"
    )


def _read_call(tree: ast.Call, function: str, names: Mapping[str, str], text: str, depth: int) -> Node:
    if function in ("offset", "p"):
        raise FormulaError(
            f"{text!r}: offset() is a term of its own on the right of '~', p(successes, trials) the whole left side."
        )
    if function not in KNOWN:
        instead = our_spelling(tree, KNOWN, lambda source: shown(source, names))
        raise FormulaError(
            f"Unknown function {function!r} in {text!r}; known are {', '.join(KNOWN)}. {instead}".strip()
        )
    most = 2 if function == "C" else 1
    if not 1 <= len(tree.args) <= most or isinstance(tree.args[0], ast.Starred):
        raise FormulaError(f"{function}() in {text!r} takes one argument, got {len(tree.args)}.")
    child = _read(tree.args[0], names, text, depth + 1)
    label = (_read_reference(tree.args[1], names, text),) if len(tree.args) == 2 else ()
    if function == "C" and (child.kind != "column" or depth > 0):
        raise FormulaError(
            f'C() in {text!r} takes one column and stands alone, as in C(grade) or C(arm, Treatment("usual care")). '
            "Categories of anything else are computed as a column beforehand."
        )
    if function in STATEFUL and any(child.stateful()):
        raise FormulaError(f"{text!r}: center() and scale() cannot be nested.")
    return child if function == "I" else Node("call", function, (child, *label))


def _read_reference(tree: ast.expr, names: Mapping[str, str], text: str) -> Node:
    """The reference of ``C(arm, Treatment("usual care"))``, a category in quotes or a whole number."""
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id == "Treatment":
        given = [*tree.args, *(word.value for word in tree.keywords if word.arg == "reference")]
        label = given[0] if len(given) == 1 == len(tree.args) + len(tree.keywords) else None
        word = names.get(label.id, label.id) if isinstance(label, ast.Name) else ""
        if isinstance(word, Quoted) or word in ("True", "False"):
            return Node("label", str(word))
        if isinstance(label, ast.Constant) and isinstance(label.value, int):
            return Node("label", str(label.value))
    raise FormulaError(
        f'{text!r}: the second argument of C() is the reference, as in C(arm, Treatment("usual care")); a category in '
        "quotes, or a whole number. For the categories of two columns together write C(a):C(b)."
    )


def compile_expression(node: Node, column: Callable[[str], Any], constants: Mapping[Node, tuple[float, float]]) -> Any:
    """Compile to a narwhals expression of float64.

    Parameters
    ----------
    node : Node
    column : callable
        Maps a column's name to a narwhals expression of float64.
    constants : mapping
        For each `center`/`scale` node the (mean, standard deviation) of its argument.
    """
    if node.kind == "column":
        return column(str(node.value))
    if node.kind == "number":
        import narwhals as nw

        return nw.lit(float(node.value))
    inner = [compile_expression(child, column, constants) for child in node.children]
    if node.kind == "operator":
        return _OPERATIONS[str(node.value), len(inner)](*inner)
    if node.value in STATEFUL:
        mean, sd = constants[node]
        return inner[0] - mean if node.value == "center" else (inner[0] - mean) / sd
    return _CALLS[str(node.value)](inner[0])


def evaluate_expression(
    node: Node, column: Callable[[str], Any], constants: Mapping[Node, tuple[float, float]]
) -> NDArray[np.float64]:
    """The same of NumPy arrays: `column` maps a name to its values."""
    if node.kind == "column":
        return np.asarray(column(str(node.value)), dtype=float)
    if node.kind == "number":
        return np.asarray(float(node.value))
    inner = [evaluate_expression(child, column, constants) for child in node.children]
    if node.kind == "operator":
        return np.asarray(_OPERATIONS[str(node.value), len(inner)](*inner))
    if node.value in STATEFUL:
        mean, sd = constants[node]
        return inner[0] - mean if node.value == "center" else (inner[0] - mean) / sd
    return np.asarray(getattr(np, str(node.value))(inner[0]))  # NumPy has all of FUNCTIONS under their names


_OPERATIONS: dict[tuple[str, int], Callable[..., Any]] = {
    ("-", 1): lambda a: -a,
    ("+", 2): lambda a, b: a + b,
    ("-", 2): lambda a, b: a - b,
    ("*", 2): lambda a, b: a * b,
    ("/", 2): lambda a, b: a / b,
    ("**", 2): lambda a, b: a**b,
}
_CALLS: dict[str, Callable[[Any], Any]] = {
    "log": lambda a: a.log(),
    "log1p": lambda a: _log1p(a),
    "log2": lambda a: a.log() / math.log(2.0),
    "log10": lambda a: a.log() / math.log(10.0),
    "exp": lambda a: a.exp(),
    "expm1": lambda a: _expm1(a),
    "sqrt": lambda a: a.sqrt(),
    "abs": lambda a: a.abs(),
}


def _log1p(a: Any) -> Any:
    """log(1 + a), with the rounding of 1 + a added back: at a = 1e-12 the plain form has 4 digits left."""
    u = a + 1.0
    return u.log() + (a - (u - 1.0)) / u


def _expm1(a: Any) -> Any:
    """exp(a) - 1, with one Newton step on log(1 + y) = a: at a = 1e-12 the plain form has 4 digits left."""
    u = a.exp()
    return (u - 1.0) + u * (a - u.clip(1e-300, None).log())
