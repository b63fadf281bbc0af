"""Spellings of other packages are refused with ours, and ours is read."""

import re

import pytest

from bayeshlm.errors import FormulaError
from bayeshlm.spec.formula import parse_formula

INSTEAD = {
    "np.log(y) ~ x": ("Write log(y).", "log(y) ~ x"),
    "y ~ np.exp(x) + (1 | g)": ("Write exp(x).", "y ~ exp(x) + (1 | g)"),
    "y ~ ln(x)": ("Write log(x).", "y ~ log(x)"),
    "y ~ factor(x)": ("Write C(x).", "y ~ C(x)"),
    "y ~ as.factor(x)": ("Write C(x).", "y ~ C(x)"),
    "y ~ standardize(`my x`)": ("Write scale(`my x`).", "y ~ scale(`my x`)"),
    "y ~ poly(x, 3)": ("Write x + I(x**2) + I(x**3);", "y ~ x + I(x**2) + I(x**3)"),
    "y ~ poly(x)": ("with center(x) in its place", "y ~ center(x) + I(center(x)**2)"),
    "y ~ np.power(x, 3)": ("Write I(x**3).", "y ~ I(x**3)"),
    "y ~ square(x)": ("Write I(x**2).", "y ~ I(x**2)"),
    "y ~ Days.of.x + (1 | g)": ("written in backticks: `Days.of.x`.", "y ~ `Days.of.x` + (1 | g)"),
    "my.y ~ log(x)": ("written in backticks: `my.y`.", "`my.y` ~ log(x)"),
    "y ~ log(my.x)": ("written in backticks: `my.x`.", "y ~ log(`my.x`)"),
    "y ~ (1 | my.g)": ("written in backticks: `my.g`.", "y ~ (1 | `my.g`)"),
    "y ~ Q('a b')": ("written in backticks: `a b`.", "y ~ `a b`"),
    "y ~ 'a b'": ("in backticks, not in quotes: `a b`.", "y ~ `a b`"),
    "y ~ (1 | C(g))": ("Groups are categories already: (1 | g).", "y ~ (1 | g)"),
    "y ~ (1 + x | as.factor(g))": ("Groups are categories already: (1 | g).", "y ~ (1 + x | g)"),
    "cbind(a, b) ~ x": ("p(successes, trials)", "p(a, n) ~ x"),
    "a | trials(n) ~ x": ("p(successes, trials)", "p(a, n) ~ x"),
    "y ~ C(a, b)": ("write C(a):C(b)", "y ~ C(a):C(b)"),
    "y ~ .": ("name them, as in y ~ x1 + x2", "y ~ x1 + x2"),
    "y ~ . - x + (1 | g)": ("name them, as in y ~ x1 + x2", "y ~ x1 + x2"),
    "y ~ 1,5 * x": ("decimals are written 1.5", "y ~ I(1.5 * x)"),
    "y ~ x == 1": ("compute it as a column of 0 and 1", "y ~ x"),
    "y ~ data['x']": ("by their names alone", "y ~ x"),
    "y ~ bs(x, 3)": ("computed beforehand", "y ~ x_1 + x_2"),
    "y ~ C(log(x))": ("computed as a column beforehand", "y ~ C(x)"),
}


@pytest.mark.parametrize("theirs", INSTEAD)
def test_our_spelling_is_said_and_read(theirs: str) -> None:
    said, ours = INSTEAD[theirs]
    with pytest.raises(FormulaError, match=re.escape(said)):
        parse_formula(theirs)
    parse_formula(ours)


def test_a_number_keeps_its_point() -> None:
    assert [term.name for term in parse_formula("y ~ I(x * 1.) + I(.5 * x)").common] == [
        "Intercept", "I(x * 1.0)", "I(0.5 * x)",
    ]  # fmt: skip


def test_a_chain_without_end_is_refused_too() -> None:
    with pytest.raises(FormulaError):
        parse_formula("y ~ " + ".".join("a" * 4000))
