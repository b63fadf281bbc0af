"""What a name asks: the kinds of questions against the verbs, and the answers of the treatment, not of its groups."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import bayeshlm as bh
from bayeshlm.cli.fitting import check_comparable
from bayeshlm.errors import DataError
from bayeshlm.posterior.draws import flat
from bayeshlm.posterior.question import Question, resolve


def trial(seed: int = 0, sites: int = 8) -> pd.DataFrame:
    """Both arms in every site, 12 rows each: new is better by 0.8; a dose given to sites; sex and age of rows."""
    rng = np.random.default_rng(seed)
    rows = pd.DataFrame([(s, a) for s in range(sites) for a in ("new", "old") for _ in range(12)], columns=["s", "arm"])
    of_pair = rng.normal(0, 0.3, 2 * sites)[rows["s"] * 2 + (rows["arm"] == "new")]
    rows["site"] = "s" + rows["s"].astype(str)
    rows["treated"] = (rows["arm"] == "new").astype(int)
    rows["dose"] = 2.5 * rows.pop("s")
    rows["sex"] = rng.choice(["f", "m"], len(rows))
    rows["age"] = rng.normal(50, 10, len(rows))
    site = rng.normal(0, 0.5, sites)[(rows["dose"] / 2.5).astype(int)]
    rows["y"] = 10 + 0.8 * rows["treated"] + 0.02 * rows["age"] + site + of_pair + rng.normal(size=len(rows))
    return rows


def fit(formula: str, data: pd.DataFrame | None = None, **options: object) -> xr.DataTree:
    model = bh.Model(formula, **options)
    kinds = {"coefficient": bh.Normal(0, 10), "correlation": bh.LKJ(2)}
    priors = {name: kinds.get(kind, bh.HalfNormal(2)) for name, kind in model.parameters.items()}
    return bh.fit(model.with_priors(priors), trial() if data is None else data, draws=500, random_seed=1)


FORMULAS = (
    "y ~ arm + (1 | site) + (1 | site:arm)", "y ~ arm + (1 | site/arm)", "y ~ C(treated) * sex + age + (1 | site/arm)",
    "y ~ treated * sex + log(dose + 1) + center(age) + (1 | site)", "y ~ age + (1 | site/arm)", "y ~ (1 | site/arm)",
    "y ~ arm * age + (0 + arm | site)",
)  # fmt: skip


@pytest.fixture(scope="module")
def posteriors() -> dict[str, xr.DataTree]:
    return {formula: fit(formula) for formula in FORMULAS}


@pytest.mark.parametrize(
    ("formula", "by", "kind", "name"),
    [
        (FORMULAS[0], "arm", "categories", "arm"),
        (FORMULAS[1], "arm", "categories", "arm"),
        (FORMULAS[1], "C(arm)", "categories", "arm"),
        (FORMULAS[1], "site:arm", "groups", "site:arm"),
        (FORMULAS[1], "site/arm", "groups", "site:arm"),
        (FORMULAS[1], "1|site:arm", "groups", "site:arm"),
        (FORMULAS[1], "site", "groups", "site"),
        (FORMULAS[2], "treated", "categories", "treated"),
        (FORMULAS[2], "C(treated)", "categories", "treated"),
        (FORMULAS[2], "treated:sex", "categories", "treated:sex"),
        (FORMULAS[2], "C(treated):sex", "categories", "treated:sex"),
        (FORMULAS[2], "sex:treated", "categories", "sex:treated"),
        (FORMULAS[2], "age", "number", "age"),
        (FORMULAS[2], "arm", "groups", "site:arm"),
        (FORMULAS[3], "treated", "arms", "treated"),
        (FORMULAS[3], "treated:sex", "arms", "treated:sex"),
        (FORMULAS[3], "dose", "number", "dose"),
        (FORMULAS[3], "log(dose + 1)", "number", "dose"),
        (FORMULAS[3], "center(age)", "number", "age"),
        (FORMULAS[4], "arm", "groups", "site:arm"),
        (FORMULAS[5], "arm", "groups", "site:arm"),
        (FORMULAS[6], "arm", "categories", "arm"),
        (FORMULAS[6], "arm:age", "categories", "arm:age"),
        (FORMULAS[6], "age:arm", "number", "age:arm"),
    ],
)  # fmt: skip
def test_every_verb_answers_the_same_question(
    posteriors: dict[str, xr.DataTree], formula: str, by: str, kind: str, name: str
) -> None:
    posterior = posteriors[formula]
    statistics = bh.compress(bh.Model(formula), trial())
    question = resolve(statistics, by)
    assert (question.kind, question.name) == (kind, name)
    comparison = bh.compare(posterior, by)
    assert (comparison.by, comparison.table.index.name) == (name, name)
    assert comparison.kind == ("subgroups" if question.subgroup else kind)
    check_comparable(statistics, [by])
    moved = bh.sensitivity(posterior, by).table["quantity"]
    assert any(quantity.startswith(f"{name}: ") for quantity in moved)
    means = bh.predict(posterior, trial(), by=by, random_seed=1)
    columns = ":".join(question.level.keys) if question.level else name
    assert means["predictions"]["y_mean"].dims[-1] == columns
    if question.level is None:
        with pytest.raises(DataError, match="is a common effect, and this is about the groups of a level"):
            bh.loo(posterior, by)
    else:
        assert bh.loo(posterior, by).elpd_i.dims == (name,)


@pytest.mark.parametrize(
    ("formula", "by", "words"),
    [
        ("y ~ (1 | site:arm) + (1 | sex:arm)", "arm", "'arm' is the last part of 2 levels, 'site:arm', 'sex:arm'"),
        ("y ~ C(arm) + (1 | arm) + (1 | site)", "arm", "write '1|arm' for the level's groups, 'C(arm)' for the common"),
        ("y ~ arm + sex + (1 | site)", "arm:sex", "no interaction 'arm:sex'.*Write arm \\* sex"),
        ("y ~ arm + (1 | site)", "sitte", "Did you mean 'site'"),
        ("y ~ arm + (1 | site)", "treated", "'treated' is neither a level nor a common effect.*'site'.*'arm'"),
        ("y ~ arm + (1 | site)", "1|arm", "There is no level 'arm'"),
        ("y ~ I(age * dose) + (1 | site)", "I(age * dose)", "is a function of 'age', 'dose'"),
        ("y ~ arm * sex * age + (1 | site)", "arm:sex:age", "has 3 factors"),
    ],
)
def test_what_stays_ambiguous_is_refused_by_name(formula: str, by: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        resolve(bh.compress(bh.Model(formula), trial()), by)


def test_a_level_does_not_answer_in_place_of_the_treatment(posteriors: dict[str, xr.DataTree]) -> None:
    """Issue 12, 1: the arms are compared, and in every spelling of the formula the better one is chosen."""
    for formula in FORMULAS[:2]:
        posterior = posteriors[formula]
        found = bh.compare(posterior, "arm", maximize=True)
        assert found.best == "new"
        draws = -flat(posterior, "arm")[:, 0]
        pair = found.pair("new", "old")
        assert pair["difference"] == pytest.approx(np.median(draws))
        assert pair["lower"] == pytest.approx(np.quantile(draws, 0.025))
        assert abs(pair["difference"] - 0.8) < 3 * draws.std()


def test_groups_include_common_effects_that_are_constant_in_them(posteriors: dict[str, xr.DataTree]) -> None:
    posterior = posteriors[FORMULAS[1]]
    found = bh.compare(posterior, "site:arm", maximize=True)
    site, pair, arm = (flat(posterior, name) for name in ("1|site", "1|site:arm", "arm"))
    labels = posterior["posterior"]["site:arm"].values.tolist()
    of_site = [posterior["posterior"]["site"].values.tolist().index(label.split(":")[0]) for label in labels]
    old = np.array([label.endswith("old") for label in labels])
    values = site[:, of_site] + pair + arm * (old - 0.5)  # half of the rows are old: relative to the average group
    assert found.table["difference"].to_numpy() == pytest.approx(np.median(values, axis=0))
    assert found.baseline == "the average group, effects of 'site', 'arm' included"
    asked_before = resolve(bh.compress(bh.Model(FORMULAS[1]), trial()), "site:arm")
    assert bh.compare(posterior, asked_before).to_text() == bh.compare(posterior, "site:arm").to_text()
    sloped = posteriors[FORMULAS[6]]  # of the interaction arm x age, the arm at its value and age at its mean
    by_site = bh.compare(sloped, "site")
    data = trial()
    within = flat(sloped, "arm|site")
    assert by_site.table["difference"].to_numpy() == pytest.approx(np.median(within.mean(axis=2), axis=0))
    crossed = fit("y ~ arm * age + (1 | site/arm)", data)
    groups = bh.compare(crossed, "site:arm")
    slope = flat(crossed, "arm") + flat(crossed, "arm:age") * data["age"].mean()
    expected = flat(crossed, "1|site")[:, of_site] + flat(crossed, "1|site:arm") + slope * (old - 0.5)
    assert groups.table["difference"].to_numpy() == pytest.approx(np.median(expected, axis=0))


def test_two_values_are_two_arms_however_they_are_coded() -> None:
    data = trial()
    data["flag"], data["shifted"] = data["treated"] == 1, data["treated"] + 1
    found = {
        name: bh.compare(fit(f"y ~ {term} + age + (1 | site)", data), name, maximize=True)
        for name, term in (("treated", "treated"), ("treated ", "center(treated)"), ("flag", "flag"), ("arm", "arm"))
    }
    assert [f.kind for f in found.values()] == ["arms", "arms", "categories", "categories"]
    assert [f.best for f in found.values()] == [1, 1, "True", "new"]
    effects = [f.pair(a, b) for f, (a, b) in zip(
        found.values(), [(1, 0), (1, 0), ("True", "False"), ("new", "old")], strict=True)]  # fmt: skip
    for effect in effects[1:]:  # 2,000 draws each: medians agree to a few hundredths of a standard deviation
        assert effect["difference"] == pytest.approx(effects[0]["difference"], abs=0.02)
    statistics = bh.compress(bh.Model("y ~ shifted + (1 | site)"), data)
    assert resolve(statistics, "shifted").kind == "number"


def test_a_number_has_a_slope_and_a_curve() -> None:
    data = trial()
    straight = bh.compare(fit("y ~ dose + age + (1 | site)", data), "dose")
    assert (
        straight.table.index.tolist()
        == [0.0, 2.5, 5.0, 7.5, 10.0, 12.5, 15.0, 17.5][:1] + straight.table.index.tolist()[1:]
    )
    assert straight.slope is not None
    assert straight.slope.straight
    assert straight.table.loc[17.5, "difference"] == pytest.approx(17.5 * straight.slope.effect)
    assert straight.best is None
    tenth = fit("y ~ I(-dose / 10) + (1 | site)", data)
    turned = bh.compare(tenth, "dose")
    assert turned.slope is not None
    assert (turned.slope.unit, turned.slope.straight) == ("dose", True)
    assert turned.slope.effect == pytest.approx(-np.median(flat(tenth, "I(-dose \u2215 10)")) / 10)
    posterior = fit("y ~ dose + I(dose ** 2) + (1 | site)", data)
    bent = bh.compare(posterior, "dose", at={"dose": [0, 4, 10]}, maximize=True)
    at_ten = 10 * flat(posterior, "dose") + 100 * flat(posterior, "I(dose ** 2)")
    assert bent.table.loc[10, "difference"] == pytest.approx(np.median(at_ten))
    assert bent.slope is not None
    assert not bent.slope.straight
    assert bent.slope.effect == pytest.approx(np.median(at_ten / 10))
    assert "10 is better than 0 with probability" in bent.verdict()
    logged = fit("y ~ log1p(dose) + log(age) + (1 | site)", data)
    curve = bh.compare(logged, "dose")
    assert curve.slope is not None
    assert curve.slope.unit == "log1p(dose)"
    assert curve.slope.effect == pytest.approx(np.median(flat(logged, "log1p(dose)")))
    assert curve.table.loc[17.5, "difference"] == pytest.approx(np.median(flat(logged, "log1p(dose)")) * np.log(18.5))
    ages = bh.compare(logged, "age").table.index.to_numpy()  # of a number of rows: a sd to either side, on its scale
    mean, sd = np.log(data["age"]).mean(), np.log(data["age"]).std(ddof=0)
    assert ages == pytest.approx(np.exp([mean - sd, mean, mean + sd]), abs=0.5)  # to two digits of their spread


def test_effects_by_subgroup_and_their_difference(posteriors: dict[str, xr.DataTree]) -> None:
    """Issue 12, 11: `trt:sex`, `subgroup=` and `at=`."""
    posterior = posteriors[FORMULAS[2]]
    found, spelled = bh.compare(posterior, "treated:sex"), bh.compare(posterior, "C(treated)", subgroup="sex")
    assert found.to_text() == spelled.to_text()
    women = flat(posterior, "C(treated)")[:, 0]
    more = flat(posterior, "C(treated):sex").reshape(len(women), -1)[:, 0]
    assert found.table["difference"].to_numpy() == pytest.approx([np.median(women), np.median(women + more)])
    assert found.table.loc["m", "p_greater"] == pytest.approx((women + more > 0).mean())
    between = found.pair("m", "f")
    assert between["difference"] == pytest.approx(np.median(more))
    assert between["lower"] == pytest.approx(np.quantile(more, 0.025))
    assert found.best is None
    assert "Choose" not in bh.compare(posterior, "treated:sex", maximize=True).to_text()
    sloped = posteriors[FORMULAS[6]]
    at_ages = bh.compare(sloped, "arm:age", at={"age": [40, 60]})
    arm, slope = flat(sloped, "arm")[:, 0], flat(sloped, "arm:age")[:, 0]
    assert at_ages.table.loc[60, "difference"] == pytest.approx(np.median(arm + 60 * slope))
    assert at_ages.pair(60, 40)["difference"] == pytest.approx(np.median(20 * slope))
    assert at_ages.shown_pair == (60, 40)
    at_forty = bh.compare(sloped, "arm", at={"age": 40})
    assert at_forty.pair("old", "new")["difference"] == pytest.approx(np.median(arm + 40 * slope))
    assert "at age 40" in at_forty.baseline
    slopes = bh.compare(sloped, "age:arm")
    age = flat(sloped, "age")
    assert slopes.table["difference"].to_numpy() == pytest.approx([np.median(age), np.median(age + slope)])
    assert slopes.pair("old", "new")["difference"] == pytest.approx(np.median(slope))


def test_subgroups_of_several_arms_on_a_log_scale() -> None:
    data = trial()
    data["y"] = np.exp(data["y"] / 10)
    data["three"] = np.where(data["age"] > 55, "c", np.where(data["age"] > 45, "b", "a"))
    posterior = fit("y ~ three * sex + (1 | site)", data, family="lognormal")
    found = bh.compare(posterior, "three:sex", reference="b")
    assert found.table.index.tolist() == ["a, sex f", "a, sex m", "c, sex f", "c, sex m"]
    three, more = flat(posterior, "three"), flat(posterior, "three:sex").reshape(len(flat(posterior, "sex")), -1)
    c_men = three[:, 1] + more[:, 1] - three[:, 0] - more[:, 0]
    assert found.table.loc["c, sex m", "ratio"] == pytest.approx(np.median(np.exp(c_men)))
    assert found.pairs[["a", "b"]].to_numpy().tolist() == [["a, sex m", "a, sex f"], ["c, sex m", "c, sex f"]]
    ratio = found.pair("c, sex m", "c, sex f")["ratio"]
    assert ratio == pytest.approx(np.median(np.exp(more[:, 1] - more[:, 0])))


@pytest.mark.parametrize(
    ("formula", "by", "options", "words"),
    [
        (FORMULAS[2], "treated", {"subgroup": "age"}, "no interaction of 'treated' and 'age'"),
        (FORMULAS[2], "treated:sex", {"subgroup": "sex"}, "names its subgroups already"),
        (FORMULAS[2], "treated", {"subgroup": "treated"}, "is what is compared itself"),
        (FORMULAS[2], "treated", {"at": {"site": "s1"}}, "'site' is no column of the common effects"),
        (FORMULAS[2], "treated", {"at": {"age": [40, 50]}}, "by='treated:age'"),
        (FORMULAS[2], "treated", {"at": {"sex": "x"}}, "'sex' has no category 'x'"),
        (FORMULAS[2], "treated", {"at": {"age": float("inf")}}, "not finite"),
        (FORMULAS[2], "treated", {"at": {"treated": 1}}, "asked about itself"),
        (FORMULAS[2], "treated", {"reference": "2"}, "reference='2' is none of 'treated': '0', '1'"),
        (FORMULAS[3], "dose", {"at": {"dose": [1, 1]}}, "two or more values"),
        (FORMULAS[3], "dose", {"at": {"dose": [-1, 5]}}, "is not finite at dose=-1"),
    ],
)
def test_impossible_questions_are_refused(
    posteriors: dict[str, xr.DataTree], formula: str, by: str, options: dict[str, object], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        bh.compare(posteriors[formula], by, **options)


def test_a_product_without_its_other_factor_needs_its_value() -> None:
    posterior = fit("y ~ treated + treated:age + (1 | site)")
    with pytest.raises(DataError, match="'age', whose mean is not known"):
        bh.compare(posterior, "treated")
    found = bh.compare(posterior, "treated", at={"age": 50})
    effect = flat(posterior, "treated") + 50 * flat(posterior, "treated:age")
    assert found.pair(1, 0)["difference"] == pytest.approx(np.median(effect))


def test_a_question_is_its_own_answer() -> None:
    statistics = bh.compress(bh.Model(FORMULAS[0]), trial())
    question = resolve(statistics, "arm")
    assert isinstance(question, Question)
    assert resolve(statistics, question) is question
