"""The reference of a factor: named in the formula, taken from a type's order, or asked for in `compare`."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import bayeshlm as bh
from bayeshlm.errors import DataError, FormulaError
from bayeshlm.posterior.draws import flat
from bayeshlm.spec.formula import parse_formula

PRIORS = {"Intercept": bh.Normal(0, 20), "1|site_sigma": bh.HalfNormal(2), "sigma": bh.HalfNormal(3)}
ARMS = ("aspirin", "usual care", "zinc")


def data(seed: int = 1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"site": np.repeat(np.arange(9), 30), "arm": np.tile(ARMS, 90), "x": rng.normal(size=270)})
    effect = frame["arm"].map({"aspirin": 0.5, "usual care": 0.0, "zinc": -0.4})
    frame["y"] = 5 + effect + rng.normal(0, 0.3, 9)[frame["site"]] + rng.normal(size=270)
    frame["number"] = frame["arm"].map({"aspirin": 1, "usual care": 2, "zinc": 3})
    return frame


def fit(formula: str, frame: pd.DataFrame) -> object:
    model = bh.Model(formula)
    priors = {name: PRIORS.get(name, bh.Normal(0, 5)) for name in model.parameters}
    return bh.fit(model.with_priors(priors), frame, draws=300, random_seed=1, progress=False)


@pytest.mark.parametrize(
    "spelling",
    [
        'C(arm, Treatment("usual care"))', "C(arm, Treatment('usual care'))", "C(arm,Treatment('usual care'))",
        'C(arm, Treatment(reference="usual care"))', 'C( arm , Treatment( "usual care" ) )',
    ],
)  # fmt: skip
def test_a_reference_is_read_and_shown_in_one_way(spelling: str) -> None:
    formula = parse_formula(f"y ~ {spelling} * x + (1 | site)")
    assert formula.references() == {"arm": "usual care"}
    assert formula.columns() == ("y", "arm", "x", "site")
    node = formula.common[1].factors[0].node
    assert (node.categorical, node.reference) == (True, "usual care")
    model = bh.Model(f"y ~ {spelling} + (1 | site)")
    assert bh.Model.from_json(model.to_json()) == model
    assert model.parameter(spelling.replace('"', "'")) == model.terms.common[1].name


@pytest.mark.parametrize(
    ("formula", "words"),
    [
        ('y ~ C(arm, Treatment("a)) + x', "a quote is not closed"),
        ('y ~ C(arm, "a") + x', "the second argument of C"),
        ("y ~ C(arm, Treatment(usual)) + x", "in quotes, or a whole number"),
        ('y ~ C(arm, Treatment("a", "b"))', "the second argument of C"),
        ('y ~ C(arm, Sum("a"))', "the second argument of C"),
        ('y ~ C(arm, Treatment("")) + x', "empty text in quotes"),
        ('y ~ "arm" + x', "outside the formula grammar"),
        ('y ~ x + (1 | "site")', "a grouping is a column"),
        ('y ~ log(x, Treatment("a"))', "takes one argument"),
        ('y ~ C(arm, Treatment("a")) + (0 + C(arm, Treatment("b")) | site)', "has two references, 'a' and 'b'"),
        ('"y" ~ x', "outside the formula grammar"),
    ],
)
def test_other_quotes_and_contrasts_are_refused(formula: str, words: str) -> None:
    with pytest.raises(FormulaError, match=words):
        parse_formula(formula)


def test_text_in_quotes_is_kept_as_it_is() -> None:
    """Brackets, operators, tildes and double spaces in a category are no part of the formula's grammar."""
    label = "a) + (b | c) ~ 2  x; sigma ~ d"
    formula = parse_formula(f'y  ~  C(arm, Treatment("{label}"))  +  x')
    assert formula.references() == {"arm": label}
    assert formula.text == f'y ~ C(arm, Treatment("{label}")) + x'
    assert [term.name for term in formula.common] == ["Intercept", f'C(arm, Treatment("{label}"))', "x"]
    assert parse_formula("y ~ C(year, Treatment(2016))").references() == {"year": "2016"}
    assert parse_formula("y ~ C(flag, Treatment(True))").references() == {"flag": "True"}
    column_and_label = parse_formula('y ~ `arm` + C(`the arm`, Treatment("arm"))')
    assert column_and_label.columns() == ("y", "arm", "the arm")


def test_effects_are_against_the_reference_that_is_named(tmp_path) -> None:
    frame = data()
    plain, named = fit("y ~ arm + (1 | site)", frame), fit('y ~ C(arm, Treatment("usual care")) + (1 | site)', frame)
    variable = 'C(arm, Treatment("usual care"))'
    assert named["posterior"][variable][f"{variable}_dim"].values.tolist() == ["aspirin", "zinc"]
    assert named["posterior"][variable].mean(("chain", "draw")).to_numpy() == pytest.approx([0.5, -0.4], abs=0.5)
    found = bh.compare(named, "arm")
    assert (found.reference, found.baseline) == ("usual care", "arm usual care")
    assert found.table.index.tolist() == ["usual care", "aspirin", "zinc"]
    against = found.pairs[found.pairs["b"] == "usual care"]
    assert against["a"].tolist() == ["aspirin", "zinc"]
    assert against["difference"].to_numpy() == pytest.approx(np.median(flat(named, variable), axis=0))
    shown = found.contrasts()
    assert shown["b"].tolist()[:2] == ["usual care", "usual care"]
    asked = bh.compare(plain, "arm", reference="usual care")
    assert asked.reference == "usual care"
    for arm in ("aspirin", "zinc"):
        there, here = found.pair(arm, "usual care"), asked.pair(arm, "usual care")
        sd = flat(named, variable).std(axis=0).max()
        # Priors differ (of aspirin instead of usual care), and each median has an error of 1.25 sd / sqrt(1,200).
        assert there["difference"] == pytest.approx(here["difference"], abs=0.2 * sd)
        assert f"{arm} against usual care: {asked.shown(here)}" in asked.to_text()
    for suffix in ("nc", "zarr"):
        loaded = bh.load(bh.save(named, tmp_path / f"fit.{suffix}"))
        assert bh.compare(loaded, "arm").to_text() == found.to_text()
    predicted = bh.predict(named, frame.head(3), random_seed=1, progress=False)
    assert np.isfinite(predicted["predictions"]["y_mean"]).all()


def test_a_reference_of_numbers_and_a_missing_one() -> None:
    frame = data()
    numbers = fit("y ~ C(number, Treatment(2)) + (1 | site)", frame)
    assert bh.compare(numbers, "number").reference == 2
    with pytest.raises(DataError, match=r"'placebo' is no category of 'arm' that occurs.*'usual care'"):
        fit('y ~ C(arm, Treatment("placebo")) + (1 | site)', frame)


def test_the_order_of_an_ordered_categorical_is_kept() -> None:
    frame = data()
    frame["arm"] = pd.Categorical(frame["arm"], ["zinc", "usual care", "aspirin"], ordered=True)
    found = bh.compare(fit("y ~ arm + (1 | site)", frame), "arm")
    assert found.table.index.tolist() == ["zinc", "usual care", "aspirin"]
    assert found.reference == "zinc"


def test_parts_that_lack_the_reference_add_up() -> None:
    """A federated study: one site has no usual care; the sum knows it, and the fit is that of the rows together."""
    frame = data()
    model = bh.Model('y ~ C(arm, Treatment("usual care")) * x + (1 | site)')
    without = (frame["site"] >= 6) & (frame["arm"] == "usual care")
    frame = frame[~without]
    parts = [bh.compress(model, frame[frame["site"] < 6]), bh.compress(model, frame[frame["site"] >= 6])]
    together, whole = sum(parts), bh.compress(model, frame)
    assert together.layout.categories["arm"] == ("usual care", "aspirin", "zinc")
    assert together.total().scatter == pytest.approx(whole.total().scatter, rel=1e-9)


def test_a_planned_arm_may_be_the_reference() -> None:
    model = bh.Model('y ~ C(arm, Treatment("usual")) + (1 | site)', priors={
        "Intercept": bh.Normal(0, 1), 'C(arm, Treatment("usual"))': bh.Normal(0, 1), "1|site_sigma": bh.HalfNormal(1),
        "sigma": bh.HalfNormal(1)})  # fmt: skip
    design = bh.Design.nested(site=8, unit=5, treatments={"arm": bh.Treatment(["new", "usual"], level="site")})
    world = bh.simulate(model, design, random_seed=1)
    assert world.truth['C(arm, Treatment("usual"))'].sizes == {'C(arm, Treatment("usual"))_dim': 1}
    assert bh.compare(bh.fit(model, world.data, draws=100, random_seed=1), "arm").reference == "usual"


def test_pymc_has_the_same_reference() -> None:
    frame = data()
    model = bh.Model('y ~ C(arm, Treatment("usual care")) + (1 | site)', priors={
        **PRIORS, 'C(arm, Treatment("usual care"))': bh.Normal(0, 5)})  # fmt: skip
    built = bh.to_pymc(model, frame)
    assert list(built.coords['C(arm, Treatment("usual care"))_dim']) == ["aspirin", "zinc"]


def test_each_category_keeps_its_own_sigma_whatever_the_reference() -> None:
    """The reference goes first: what is stored by category must go with it, in fit and in predictions."""
    frame = data()
    noise = frame["arm"].map({"aspirin": 0.1, "usual care": 1.0, "zinc": 3.0}).to_numpy()
    frame["y"] += noise * np.random.default_rng(0).normal(size=len(frame))
    found = {}
    for formula in ("y ~ arm + (1 | site); sigma ~ arm",
                    'y ~ C(arm, Treatment("zinc")) + (1 | site); sigma ~ arm'):  # fmt: skip
        posterior = fit(formula, frame)
        sigma = posterior["posterior"]["sigma"].mean(("chain", "draw"))
        drawn = bh.predict(posterior, frame, kind="response", by="arm", random_seed=1, progress=False)
        spread = drawn["predictions"]["y"].std(("chain", "draw"))
        found[formula] = [float(values.sel({values.dims[0]: arm})) for values in (sigma, spread) for arm in ARMS]
    plain, named = found.values()
    assert plain[0] < plain[1] < plain[2]
    assert named == pytest.approx(plain, rel=0.1)  # 1,200 draws: a mean of sigma is known to 0.3 %, a spread to 2 %
