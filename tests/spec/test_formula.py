"""Formulas: the contract by table, random formulas against an independent oracle, junk."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bayeshlm as bh
from bayeshlm.errors import FormulaError
from bayeshlm.spec import formula
from bayeshlm.spec.formula import parse_formula

DIVISION = "\u2215"
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


def common(text):
    return [term.name for term in parse_formula(text).common]


def groups(text):
    return [([e.name for e in g.effects], g.level, g.has_matrix) for g in parse_formula(text).groups]


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("y ~ 1", ["Intercept"]),
        ("y ~ x", ["Intercept", "x"]),
        ("y ~ 0 + x", ["x"]),
        ("y ~ x - 1", ["x"]),
        ("y ~ -1 + x", ["x"]),
        ("y ~ x - 1 + 1", ["Intercept", "x"]),
        ("y ~ a*b", ["Intercept", "a", "b", "a:b"]),
        ("y ~ a:b", ["Intercept", "a:b"]),
        ("y ~ a/b", ["Intercept", "a", "a:b"]),
        ("y ~ a*b - a:b", ["Intercept", "a", "b"]),
        ("y ~ (a + b + c)**2", ["Intercept", "a", "b", "c", "a:b", "a:c", "b:c"]),
        ("y ~ a:b + b:a", ["Intercept", "a:b"]),
        ("y ~ x + x + I(x)", ["Intercept", "x"]),
        ("y ~ log1p( x )+center(x) + scale(x)", ["Intercept", "log1p(x)", "center(x)", "scale(x)"]),
        ("y ~ I(x**2) + I(-x)", ["Intercept", "I(x ** 2)", "I(-x)"]),
        ("y ~ C(g) + C(g):x", ["Intercept", "C(g)", "C(g):x"]),
        ("y ~ `a  b` + `$<\u00e9'\"|+:~(`", ["Intercept", "a  b", "$<\u00e9'\"|+:~("]),
        ("y ~ `1st` + log(`2nd one`)", ["Intercept", "1st", "log(`2nd one`)"]),
        ("y ~ class + \u00b5 + \u03bc", ["Intercept", "class", "\u00b5", "\u03bc"]),
        ("y ~ `km/h` + I(x / 10)", ["Intercept", f"km{DIVISION}h", f"I(x {DIVISION} 10)"]),
        ("  y\t~\n x  +\n z ", ["Intercept", "x", "z"]),
    ],
)
def test_common_terms(text, terms):
    assert common(text) == terms


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("y ~ (1 | g)", [(["Intercept"], ("g",), False)]),
        ("y ~ (1|a/b)", [(["Intercept"], ("a",), False), (["Intercept"], ("a", "b"), False)]),
        ("y ~ (1|a:b)", [(["Intercept"], ("a", "b"), False)]),
        ("y ~ (1 + x | g)", [(["Intercept", "x"], ("g",), True)]),
        ("y ~ (x|g)", [(["Intercept", "x"], ("g",), True)]),
        ("y ~ (x||g)", [(["Intercept", "x"], ("g",), False)]),
        ("y ~ (0 + x|g)", [(["x"], ("g",), None)]),
        ("y ~ (x - 1 | g)", [(["x"], ("g",), None)]),
        ("y ~ (log(x)|`my g`)", [(["Intercept", "log(x)"], ("my g",), True)]),
        ("y ~ (1|a:b) + (0 + x|b:a)", [(["Intercept"], ("a", "b"), False), (["x"], ("a", "b"), None)]),
    ],
)
def test_group_terms(text, expected):
    assert groups(text) == expected


def test_names_follow_bambi():
    model = bh.Model("y ~ log1p(x) + a:b + (z | s/t)", priors={})
    assert list(model.parameters) == [
        "Intercept", "log1p(x)", "a:b", "1|s_sigma", "z|s_sigma", "corr|s", "1|s:t_sigma", "z|s:t_sigma", "corr|s:t",
        "sigma",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        (3, "is a string"),
        ("y", "one '~'"),
        ("y ~ x ~ z", "one '~'"),
        (" ~ x", "one '~'"),
        ("y ~ ", "one '~'"),
        ("2 ~ x", "names no column"),
        ("center(y) ~ x", "may not use"),
        ("y ~ x + y", "right of '~'"),
        ("y ~ (1 | y)", "right of '~'"),
        ("y ~ `x", "not closed"),
        ("y ~ ``", "empty name"),
        ("y ~ `\x00`", "rename the column"),
        ("y ~ log(x", "not closed"),
        ("y ~ x)", "never opened"),
        ("y ~ x +", "last operator"),
        ("y ~ x + + z", "between two operators"),
        ("y ~ np.log(x)", "outside the formula grammar"),
        ("y ~ __import__('os')", "Unknown function"),
        ("y ~ sin(x)", "Unknown function 'sin'"),
        ("y ~ log(x, 2)", "takes one argument"),
        ("y ~ C(x + 1)", "takes one column"),
        ("y ~ center(scale(x))", "cannot be nested"),
        ("y ~ I(1e999 * x)", "too large"),
        ("y ~ 2*x", "Cannot parse"),
        ("y ~ x:1", "not a term"),
        ("y ~ I(2)", "no column"),
        ("y ~ x**2", "write I(x**2)"),
        ("y ~ x^2", "write I(x**2)"),
        ("y ~ -x", "not there"),
        ("y ~ x - z", "not there"),
        ("y ~ (a + b)**1000000", "too many interactions"),
        ("y ~ " + "*".join(f"x{k}" for k in range(20)), "fewer interactions"),
        ("y ~ .", "name them"),
        ("y ~ 1 | g", "each in its own brackets"),
        ("y ~ x*(1 | g)", "each in its own brackets"),
        ("y ~ ( | g)", "nothing stands before the bar"),
        ("y ~ (0 | g)", "no effects"),
        ("y ~ (1 | g + h)", "a grouping is"),
        ("y ~ (1 | log(g))", "each in its own brackets"),
        ("y ~ (1 | g/g)", "twice"),
        ("y ~ (1 | g) + (1 | g)", "more than once"),
        ("y ~ (1 | a:b) + (1 | b:a)", "more than once"),
        ("y ~ (1 + x | g) + (0 + z + w | g)", "more than one set of correlated"),
        ("y ~ (1 | g) - (1 | g)", "cannot be subtracted"),
        ("y ~ year + (1 | year)", "same name"),
        ("y ~ sigma", "same name"),
        ("y ~ Intercept", "same name"),
        ("y ~ (1 | chain)", "same name"),
        ("y ~ a:b + `a:b`", "same name"),
        ("y ~ `g_dim` + g", "same name"),
        ("y ~ " + "x" * 20_000, "characters long"),
    ],
)
def test_bad_formulas_are_refused_with_a_reason(text, fragment):
    with pytest.raises(FormulaError) as caught:
        parse_formula(text)
    assert fragment in str(caught.value)


def test_nothing_is_evaluated(tmp_path):
    target = tmp_path / "owned"
    attack = f"open('{target}', 'w')"
    for text in (f"y ~ {attack}", f"y ~ I({attack})", f"y ~ {{{attack}}}", f"{attack} ~ x", f"y ~ (1 | {attack})"):
        with pytest.raises(FormulaError):
            parse_formula(text)
    assert not target.exists()


# An oracle of its own: a formula is drawn as a tree and its terms are computed from set algebra.
NAMES = ["a", "b", "cc", "d e", "1f", "x|y", "p+q", "m:n"]


def quoted(name):
    return name if name.isidentifier() else f"`{name}`"


leaf = st.sampled_from(NAMES).map(lambda name: (quoted(name), [frozenset([name])]))


def join(operator):
    def build(sides):
        (left, a), (right, b) = sides
        both = [x | y for x, y in itertools.product(a, b)]
        whole = frozenset().union(*a)
        terms = {"+": a + b, ":": both, "*": a + b + both, "/": a + [whole | y for y in b]}[operator]
        return f"({left} {operator} {right})", list(dict.fromkeys(terms))

    return build


trees = st.recursive(
    leaf, lambda inner: st.one_of(*(st.tuples(inner, inner).map(join(o)) for o in "+:*/")), max_leaves=5
)


@given(trees, st.sampled_from(["", "1 + ", "0 + ", "-1 + "]), st.sampled_from(["", " + (1 | g/h)", " + (z || g)"]))
@settings(max_examples=60)
def test_random_formulas_have_the_terms_of_set_algebra(tree, intercept, group):
    text, terms = tree
    formula = parse_formula(f"y ~ {intercept}{text}{group}")
    expected = set(terms) | (set() if intercept in ("0 + ", "-1 + ") else {frozenset()})
    found = [frozenset(factor.name for factor in term.factors) for term in formula.common]
    assert set(found) == expected
    assert len(found) == len(expected)
    assert [len(term) for term in found] == sorted(len(term) for term in found)
    assert [g.level for g in formula.groups] == {"": [], " + (1 | g/h)": [("g",), ("g", "h")]}.get(group, [("g",)])
    assert parse_formula(formula.text) == formula


junk = st.text(
    alphabet=st.one_of(st.sampled_from(list("yxgab01 +-*/:|~()`'\"\\.,#{}[]^%$!=<>@&;_\n\t")), st.characters()),
    max_size=40,
)


@given(st.one_of(junk, junk.map(lambda text: f"y ~ {text}"), junk.map(lambda text: f"y ~ x + (1 | {text})")))
@settings(max_examples=200)
def test_junk_raises_formula_errors_only(text):
    try:
        formula = parse_formula(text)
    except FormulaError:
        return
    assert parse_formula(formula.text).common == formula.common


@given(st.text(min_size=1, max_size=12).filter(lambda s: "`" not in s))
@settings(max_examples=60)
def test_any_backticked_name_survives_or_is_refused(name):
    try:
        formula = parse_formula(f"y ~ `{name}` + (1 | g)")
    except FormulaError as error:
        refused = [word for word in ("rename", "same name", "reserved", "right of") if word in str(error)]
    else:
        refused = []
    if not refused:
        assert formula.common[1].factors[0].name == name
        assert formula.columns() == ("y", name, "g")


ATOMS = ["1", "x", "zz", "log(x)", "C(g)", "center(x)", "nope(x)", "in", "None", "\u00e9a", "_", "log(1)", "2", "0"]


def test_a_sum_of_names_read_without_formulaic_has_formulaics_terms(monkeypatch):
    def read(text):
        try:
            return formula._terms(text, {}, text)
        except FormulaError as error:
            return str(error)

    texts = [form.join(atoms) for atoms in itertools.chain([[a] for a in ATOMS], itertools.product(ATOMS, repeat=2))
             for form in (" + ", "+")] + ["+ x + zz + x + 1", " x\n+ zz ", "x + + zz", "x zz", "x +"]  # fmt: skip
    ours = [read(text) for text in texts]
    assert sum(formula._plain_sum(text) is not None for text in texts) > len(texts) / 3
    monkeypatch.setattr(formula, "_plain_sum", lambda source: None)
    assert ours == [read(text) for text in texts]
