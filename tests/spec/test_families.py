"""Families, the left side p(s, t), offsets and censoring: what is read, what is refused and why."""

import math

import numpy as np
import pytest

import bayeshlm as bh
from bayeshlm.errors import FormulaError, PriorError
from bayeshlm.spec.families import FAMILIES
from bayeshlm.spec.formula import parse_formula

EFFECTS = {
    "identity": ("difference", "difference"),
    "log": ("multiplier", "ratio"),
    "logit": ("odds_multiplier", "odds_ratio"),
}


def left(family):
    return "p(s, t)" if family == "binomial" else "y"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_names_its_parameters_and_effects(name):
    model = bh.Model(f"{left(name)} ~ x + (1 | g)", family=name)
    family = model.family_spec
    assert (family.effect, family.contrast) == EFFECTS[family.link]
    extra = {
        "gaussian": ["sigma"], "lognormal": ["sigma"], "student_t": ["sigma", "nu"], "cv_normal": ["sigma"],
        "gamma": ["alpha"], "negative_binomial": ["alpha"],
    }.get(name, [])  # fmt: skip
    assert list(model.parameters) == ["Intercept", "x", "1|g_sigma", *extra]
    # Where effects add, their scale is the data's; elsewhere every default is there, proper, and on the support.
    if family.link == "identity":
        assert set(model.missing_priors) == {"Intercept", "x", "1|g_sigma", "sigma"}
    else:
        assert model.missing_priors == ()
    for parameter, prior in model.complete_priors.items():
        drawn = prior.sample(np.random.default_rng(0), 100)
        assert np.isfinite(drawn).all()
        assert model.parameters[parameter] == "coefficient" or (drawn > 0).all()
    assert bh.Model.from_json(model.to_json()) == model


def test_successes_and_trials():
    formula = parse_formula("p( `n cured` , treated ) ~ x")
    assert (formula.response.name, formula.trials.name) == ("n cured", "treated")
    assert formula.columns() == ("n cured", "treated", "x")
    assert parse_formula("p(s, 10) ~ x").trials.node.value == 10
    assert parse_formula("p ~ x").response.name == "p"


def test_offsets_carry_no_parameter():
    model = bh.Model("y ~ x + offset(log(time)) + offset(b) + (1 | g)", family="poisson")
    assert [factor.name for factor in model.terms.offsets] == ["log(time)", "b"]
    assert list(model.parameters) == ["Intercept", "x", "1|g_sigma"]
    assert model.columns == ("y", "time", "b", "x", "g")
    assert parse_formula("y ~ offset").common[1].name == "offset"


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("p(s) ~ x", "written p(successes, trials)"),
        ("p(s, t, u) ~ x", "written p(successes, trials)"),
        ("p(s, t) + 1 ~ x", "written p(successes, trials)"),
        ("p(s, t=2) ~ x", "written p(successes, trials)"),
        ("p(s, scale(t)) ~ x", "may not use"),
        ("p(p(a, b), c) ~ x", "the whole left side"),
        ("p(s, t) ~ t", "right of '~'"),
        ("p(s, open('x')) ~ x", "Unknown function 'open'"),
        ("y ~ offset(x)*z", "stands alone"),
        ("y ~ offset(x) * log(z)", "stands alone"),
        ("y ~ x - offset(z)", "stands alone"),
        ("y ~ x:offset(z)", "a term of its own"),
        ("y ~ (1 + offset(x) | g)", "a term of its own"),
        ("y ~ offset(C(x))", "without C()"),
        ("y ~ offset(center(x))", "without C()"),
        ("y ~ offset(3)", "expression of numeric columns"),
        ("y ~ offset(y)", "right of '~'"),
    ],
)
def test_bad_left_sides_and_offsets(text, fragment):
    with pytest.raises(FormulaError) as caught:
        parse_formula(text)
    assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("formula", "arguments", "fragment"),
    [
        ("p(s, t) ~ x", {}, "needs family='binomial', not 'gaussian'"),
        ("y ~ x", {"family": "binomial"}, "written p(successes, trials)"),
        ("p(s, t) ~ x", {"family": "bernoulli"}, "needs family='binomial'"),
        ("y ~ x", {"family": "poisson", "weights": "w"}, "use offset(log(exposure))"),
        ("y ~ x", {"family": "bernoulli", "weights": "w"}, "use p(successes, trials)"),
        ("y ~ x", {"family": "student_t", "se": "s"}, "se= have a meaning for gaussian and lognormal"),
        ("y ~ x", {"family": "bernoulli", "censored": "c"}, "cannot be censored"),
        ("y ~ nu", {"family": "student_t"}, "'nu' is also a parameter of the family 'student_t'"),
        ("y ~ (1 | alpha)", {"family": "gamma"}, "'alpha' is also a parameter"),
        ("y ~ x", {"family": "lognormal", "censored": (0, None)}, "bound 0 of censored= is outside the support"),
        ("y ~ x", {"family": "poisson", "censored": (None, 2.5)}, "2.5 of censored= is no whole number"),
        ("y ~ x", {"censored": (5, 3)}, "the lower below the upper"),
        ("y ~ x", {"censored": (3, 3)}, "the lower below the upper"),
        ("y ~ x", {"censored": (None, None)}, "must be numbers"),
        ("y ~ x", {"censored": (None, math.nan)}, "must be numbers"),
        ("y ~ x", {"censored": (None, "c")}, "takes bounds (low, high)"),
        ("y ~ x", {"censored": (True, None)}, "takes bounds (low, high)"),
        ("y ~ x", {"censored": 100}, "takes bounds (low, high)"),
        ("y ~ x", {"censored": ("a", "b", "c")}, "takes bounds (low, high)"),
        ("y ~ x", {"censored": ""}, "takes bounds (low, high)"),
    ],
)
def test_what_has_no_meaning_is_refused(formula, arguments, fragment):
    with pytest.raises(FormulaError) as caught:
        bh.Model(formula, **arguments)
    assert fragment in str(caught.value)


def test_censoring_is_read():
    assert bh.Model("y ~ x", censored=[None, 100]).bounds == (-math.inf, 100.0)
    assert bh.Model("y ~ x", censored=(0, math.inf)).censored == (0.0, None)
    by_column = bh.Model("y ~ x", censored=("status", "upper"))
    assert (by_column.bounds, by_column.status_columns) == (None, ("status", "upper"))
    assert by_column.columns == ("y", "x", "status", "upper")
    assert bh.Model.from_json(by_column.to_json()) == by_column


def test_shapes_are_positive():
    with pytest.raises(PriorError, match="'nu' is positive"):
        bh.Model("y ~ x", family="student_t", priors={"nu": bh.Normal()})
