"""`Model`: JSON round trip, hash, priors by name."""

import json
import pickle

import pytest

import bayeshlm as bh
from bayeshlm.errors import BayeshlmError, FormulaError, PriorError

MODEL = bh.Model(
    "score ~ log1p(hs_gpa) + `km/h` + (x | method/instructor)",
    family="lognormal",
    priors={"Intercept": bh.Normal(7, 1), "log1p( hs_gpa )": bh.Normal(1, 0.5), "corr|method": bh.LKJ(3),
            "sigma": bh.HalfStudentT(4, 0.3), "km/h": bh.Normal(0, 0.125)},
    weights="w",
)  # fmt: skip


def test_json_round_trip_and_hash():
    again = bh.Model.from_json(MODEL.to_json())
    assert again == MODEL
    assert hash(again) == hash(MODEL)
    assert pickle.loads(pickle.dumps(MODEL)) == MODEL
    assert json.loads(MODEL.to_json())["priors"]["sigma"] == {"name": "HalfStudentT", "nu": 4.0, "sigma": 0.3}
    assert bh.Model.from_json(bh.Model("y ~ x", censored=(None, 100.0)).to_json()).censored == (None, 100.0)
    assert bh.Model(MODEL.formula, family="lognormal", weights="w") != MODEL


def test_spaces_inside_backticks_survive_a_copy():
    model = bh.Model("y ~  `a  b`  + x")
    assert model.formula == "y ~ `a  b` + x"
    assert bh.Model.from_json(model.to_json()).columns == ("y", "a  b", "x")
    assert model.with_priors({"x": bh.Normal()}).columns == ("y", "a  b", "x")


def test_priors_are_found_under_any_spelling():
    assert MODEL.priors["km\u2215h"] == bh.Normal(0, 0.125)
    for spelling in ("I(x/10)", "I(x / 10)", "I( x \u2215 10 )"):
        model = bh.Model("y ~ I(x/10)", priors={spelling: bh.Normal(1, 2)})
        assert model.complete_priors["I(x \u2215 10)"] == bh.Normal(1, 2)
    changed = model.with_priors({"I(x/10)": bh.Normal(5, 5)})
    assert list(changed.priors.values()) == [bh.Normal(5, 5)]


def test_alike_names_keep_their_own_priors():
    model = bh.Model("y ~ `a b` + ab", priors={"a b": bh.Normal(1, 1), "ab": bh.Normal(2, 2)})
    assert model.priors["a b"] == bh.Normal(1, 1)
    assert model.priors["ab"] == bh.Normal(2, 2)


@pytest.mark.parametrize(
    ("priors", "fragment"),
    [
        ({"slope": bh.Normal()}, "'slope' is not a parameter"),
        ({"x": 3}, "not a prior"),
        ({"sigma": bh.Normal()}, "mass below 0"),
        ({"x": bh.LKJ(1)}, "no correlation matrix"),
        ({"corr|g": bh.Normal()}, "takes LKJ"),
        ({"x": bh.Normal(), "`x`": bh.Normal()}, "more than one prior"),
    ],
)
def test_bad_priors(priors, fragment):
    with pytest.raises(PriorError) as caught:
        bh.Model("y ~ x + (x | g)", priors=priors)
    assert fragment in str(caught.value)


def test_priors_are_frozen():
    with pytest.raises(TypeError, match="frozen"):
        MODEL.priors["sigma"] = bh.HalfNormal(1)


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", "null", '{"formula": "y ~ x"}', '{"formula":1,"priors":{}}',
                                  '{"formula": "y ~ x", "priors": {"sigma": {"name": "os.system"}}}',
                                  '{"formula": "y ~ x", "priors": {"sigma": 3}}',
                                  '{"formula": "y ~ x", "priors": {}, "evil": 1}', "{" * 5000])  # fmt: skip
def test_damaged_json(text):
    with pytest.raises(BayeshlmError):
        bh.Model.from_json(text)


def test_arguments():
    with pytest.raises(FormulaError, match="Unknown family"):
        bh.Model("y ~ x", family="magic")
    with pytest.raises(FormulaError, match="column's name"):
        bh.Model("y ~ x", se=3)
