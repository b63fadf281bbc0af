"""Plans against closed forms, statsmodels and Bechhofer's integral; edges; common random numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import bayeshlm as bh
from bayeshlm.errors import DataError, DesignError, PriorError
from bayeshlm.studies.plan.plan import plan
from bayeshlm.studies.plan.shared_truth import Streams, fixed, shared_params

ANSWERS = json.loads((Path(__file__).parents[1] / "references" / "planning_power.json").read_text(encoding="utf-8"))
LEVELS = {
    "Intercept": bh.Normal(1, 0.5), "1|m_sigma": bh.HalfNormal(0.2), "1|m:g_sigma": bh.HalfNormal(0.2),
    "sigma": bh.HalfNormal(0.3),
}  # fmt: skip
NESTED = bh.Model("y ~ (1 | m/g)", family="lognormal", priors=LEVELS)
Z = 4.0  # standard errors: 6 in 100,000 checks alarm falsely


def known(value: float) -> bh.Uniform:
    """A standard deviation known but for a hair."""
    return bh.Uniform(value * (1 - 1e-4), value * (1 + 1e-4))


def arms_model(case: dict[str, float]) -> bh.Model:
    priors = {
        "Intercept": bh.Normal(0, 50), "arm": bh.Normal(0, 50), "1|g_sigma": known(case["tau"]),
        "sigma": known(case["sigma"]),
    }  # fmt: skip
    return bh.Model("y ~ arm + (1 | g)", priors=priors)


def arms_design(case: dict[str, float], arms: int = 2) -> bh.Design:
    treatment = bh.Treatment([f"a{k}" for k in range(arms)], level="g")
    return bh.Design.nested(g=arms * case["groups"], u=case["units"], treatments={"arm": treatment})


def _name(case: dict[str, float]) -> str:
    return f"{case['groups']} groups, effect {case['effect']}"


def close(found, name: str, expected: float, design: int = 0) -> None:
    value, error = float(found[name][design]), float(found[f"{name}_se"][design])
    assert abs(value - expected) <= Z * error, f"{name}: {value:.4f} +- {error:.4f}, not {expected:.4f}"


@pytest.mark.parametrize("case", ANSWERS["two_arms"][::3] + ANSWERS["two_arms"][2:3], ids=_name)
def test_two_arms_with_known_variance_are_the_closed_forms(case) -> None:
    found = plan(
        arms_model(case), [arms_design(case)], decide="arm", replicates=150, n_jobs=1, random_seed=11, progress=False,
        params={"Intercept": 0.0, "arm": case["effect"], "1|g_sigma": case["tau"], "sigma": case["sigma"]},
    )  # fmt: skip
    sd = math.sqrt(2 * (case["tau"] ** 2 + case["sigma"] ** 2 / case["units"]) / case["groups"])
    shift, edge = case["effect"] / sd, stats.norm.ppf(0.975)
    close(found, "p_best", stats.norm.cdf(shift))
    close(found, "expected_loss", case["effect"] * stats.norm.sf(shift))
    close(found, "power", case["power"])  # by statsmodels
    close(found, "type_s", stats.norm.cdf(-shift - edge) / case["power"])
    # E|estimate| where it is significant: two truncated normals.
    upper = shift * stats.norm.sf(edge - shift) + stats.norm.pdf(edge - shift)
    lower = -shift * stats.norm.cdf(-edge - shift) + stats.norm.pdf(edge + shift)
    close(found, "type_m", (upper + lower) / case["power"] / shift)
    close(found, "coverage", 0.95)
    # The posterior is the same but for its mean in all replicates: the width has an error of its draws' only.
    assert float(found["width"][0]) == pytest.approx(2 * edge * sd, rel=0.02)
    assert int(found["finished"][0]) == 150
    assert found["failure_error"].size == 0


@pytest.mark.parametrize("case", ANSWERS["best_of"][1:], ids=lambda case: f"{case['arms']} arms")
def test_the_best_of_several_arms_is_found_as_often_as_bechhofer_says(case) -> None:
    effects = [0.0] * (case["arms"] - 1)
    effects[-1] = case["effect"]
    found = plan(
        arms_model(case), [arms_design(case, case["arms"])], decide="arm", replicates=150, n_jobs=1, random_seed=5,
        params={"Intercept": 0.0, "arm": effects, "1|g_sigma": case["tau"], "sigma": case["sigma"]}, progress=False,
    )  # fmt: skip
    close(found, "p_best", case["p_best"])


def test_a_calibrated_plan_covers_and_its_posterior_tells_the_truth() -> None:
    designs = bh.Design.grid(m=3, g=[3, 12], u=6)
    found = plan(NESTED, designs, decide="m", replicates=100, n_jobs=1, random_seed=3, progress=False)
    for design in range(2):
        close(found, "coverage", 0.95, design)
    assert float(found["width"][1]) < float(found["width"][0])
    assert found.attrs["loss_unit"] == "share of the outcome of the average group"
    np.testing.assert_allclose(found["outcome_loss"], found["expected_loss"] * found.attrs["typical_outcome"])


def test_identical_designs_have_identical_results_whatever_else_is_planned() -> None:
    design, other = bh.Design.nested(m=3, g=4, u=5), bh.Design.nested(m=3, g=9, u=20)
    found = plan(NESTED, [design, other, design], decide="m", replicates=4, n_jobs=1, random_seed=1, progress=False)
    alone = plan(NESTED, [design], decide="m", replicates=4, n_jobs=1, random_seed=1, progress=False)
    assert found["design"].values.tolist() == ["g 4, u 5", "g 9, u 20", "g 4, u 5 (2)"]
    for name in ("loss", "correct", "interval_width"):
        values = found[name].values
        np.testing.assert_array_equal(values[:, 0], values[:, 2])
        np.testing.assert_array_equal(values[:, [0]], alone[name].values)
        assert (values[:, 0] != values[:, 1]).any() or name == "correct"


def test_designs_meet_the_same_groups() -> None:
    small, large = bh.Design.nested(m=2, g=3, u=4), bh.Design.nested(m=3, g=5, u=2)
    drawn = []
    for design in (small, large):
        layout = bh.compress(NESTED, bh.simulate(NESTED, design, random_seed=0).data).layout
        drawn.append(shared_params(NESTED, layout, design, {}, Streams(np.random.SeedSequence(7))))
    for name in NESTED.parameters:
        assert drawn[0][name] == drawn[1][name]
    np.testing.assert_array_equal(drawn[0]["1|m"], drawn[1]["1|m"][:2])
    np.testing.assert_array_equal(
        drawn[0]["1|m:g"].reshape(2, 3), drawn[1]["1|m:g"].reshape(3, 5)[:2, :3]
    )  # the third group of the second one is the same in both
    assert len(np.unique(drawn[1]["1|m:g"])) == 15


def test_common_random_numbers_make_differences_surer() -> None:
    designs = [bh.Design.nested(m=3, g=6, u=10), bh.Design.nested(m=3, g=8, u=10)]
    sds = {"1|m_sigma": 0.1, "1|m:g_sigma": 0.15, "sigma": 0.3}
    found = plan(NESTED, designs, decide="m", params=sds, replicates=100, n_jobs=1, random_seed=1, progress=False)
    # Correlations of 0.5, 0.7 and 0.9 over 300 replicates of seed 1; independent worlds would have 0 +- 0.1.
    for name, share in (("loss", 0.75), ("correct", 0.6), ("interval_width", 0.3)):
        a, b = found[name].values.T
        assert np.var(a - b) < share * (np.var(a) + np.var(b))


def test_one_group_an_arm_is_refused_by_the_designs_names() -> None:
    case = ANSWERS["two_arms"][0]
    designs = {"no good": arms_design({**case, "groups": 1}), "good": arms_design(case), "nor 'this'": NESTED_ONE}
    with pytest.raises(DesignError, match="no good") as raised:
        plan(arms_model(case), designs, decide="arm", replicates=2, random_seed=1)
    assert "nor 'this'" in str(raised.value)
    assert "'good'" not in str(raised.value).replace("'no good'", "")
    with pytest.raises(DataError, match="have the same groups"):
        plan(NESTED, [bh.Design.nested(m=3, g=1, u=5)], decide="m", replicates=2, random_seed=1)


NESTED_ONE = bh.Design.nested(m=3, g=1, u=5)


def test_sigma_zero_is_refused_and_a_level_that_does_not_vary_is_not() -> None:
    design = bh.Design.nested(m=3, g=4, u=5)
    with pytest.raises(DesignError, match="sigma = 0"):
        plan(NESTED, [design], decide="m", replicates=2, params={"sigma": 0})
    found = plan(
        NESTED, [design], decide="m", replicates=20, params={"1|m_sigma": 0.0}, n_jobs=1, random_seed=1, progress=False
    )
    assert float(found["p_best"][0]) == 1.0  # all are equally good: every choice is right
    assert float(found["expected_loss"][0]) == 0.0
    assert float(found["p_best_se"][0]) > 0


def test_smaller_is_better_where_it_is() -> None:
    case = {"groups": 8, "units": 5, "tau": 0.1, "sigma": 0.5}
    params = {"Intercept": 0.0, "arm": 2.0, "1|g_sigma": 0.1, "sigma": 0.5}
    options = {"decide": "arm", "replicates": 8, "params": params, "n_jobs": 1, "random_seed": 1, "progress": False}
    for maximize in (True, False):
        found = plan(arms_model(case), [arms_design(case)], maximize=maximize, **options)
        assert float(found["p_best"][0]) == 1.0
        assert float(found["assurance"][0]) == 1.0


def test_without_a_direction_the_largest_is_looked_for_and_it_is_said(tmp_path) -> None:
    case = {"groups": 8, "units": 5, "tau": 0.1, "sigma": 0.5}
    options = {"decide": "arm", "replicates": 5, "n_jobs": 1, "random_seed": 1, "progress": False}
    unsaid, up, down = (
        plan(arms_model(case), [arms_design(case)], maximize=maximize, **options) for maximize in (None, True, False)
    )
    for name in ("p_best", "expected_loss", "power"):
        assert unsaid[name].values == up[name].values
    pages = {k: bh.report(found, tmp_path / f"{k}.html").read_text(encoding="utf-8")
             for k, found in enumerate((unsaid, up, down))}  # fmt: skip
    assert "Which design finds the largest arm?" in pages[0]
    assert "Nobody said which way is better" in pages[0]
    assert "Which design finds the best arm?" in pages[1]
    assert "the best is the smallest" in pages[2]


def test_arms_inside_sites_are_decided_on_and_not_their_groups() -> None:
    """Issue 12, 1: `decide="arm"` of a multi-site trial chose among the groups of site:arm."""
    priors = {"Intercept": bh.Normal(0, 1), "arm": bh.Normal(0, 1), "1|site_sigma": bh.HalfNormal(0.3),
              "1|site:arm_sigma": bh.HalfNormal(0.3), "sigma": bh.HalfNormal(1)}  # fmt: skip
    model = bh.Model("y ~ arm + (1 | site) + (1 | site:arm)", priors=priors)
    treatments = {"arm": bh.Treatment(["new", "old"], level="half", within="site")}
    design = bh.Design.nested(site=8, half=2, u=6, treatments=treatments)
    params = {"arm": -2.0, "1|site_sigma": 0.2, "1|site:arm_sigma": 0.1, "sigma": 0.5, "Intercept": 0.0}
    options = {"replicates": 6, "params": params, "n_jobs": 1, "random_seed": 1, "progress": False, "maximize": True}
    arms = plan(model, [design], decide="arm", **options)
    assert float(arms["p_best"][0]) == float(arms["assurance"][0]) == 1.0  # of two arms 2 apart
    groups = plan(model, [design], decide="site:arm", **options)
    assert float(groups["assurance"][0]) < 1.0  # which of the 16 groups is best is another question
    dose = {name: priors[name] for name in ("Intercept", "1|site_sigma", "sigma")} | {"x": bh.Normal(0, 1)}
    numbers = bh.Design.nested(site=8, u=6, covariates={"x": bh.Normal(0, 1)})
    with pytest.raises(DesignError, match="'x' is a number"):
        plan(bh.Model("y ~ x + (1 | site)", priors=dose), [numbers], decide="x", **options | {"params": None})


def test_costs_count_groups_and_units_of_unequal_and_random_sizes() -> None:
    designs = {
        "equal": bh.Design.nested(m=2, g=3, u=4),
        "unequal": bh.Design.nested(m=2, g=[2, 4], u=[1, 2, 3, 4, 5, 6]),
        "random": bh.Design.nested(m=2, g=3, u=bh.Uniform(1.5, 8.5)),
    }
    found = plan(
        NESTED, designs, decide="m", replicates=40, costs={"g": 10, "u": 1}, n_jobs=1, random_seed=1, progress=False
    )
    assert found["cost"].values[:2].tolist() == [84.0, 81.0]
    assert found["cost_se"].values[:2].tolist() == [0.0, 0.0]
    close(found, "cost", 60 + 6 * 5.0, 2)
    assert found["groups"].sel(design="unequal").to_series().to_dict() == {"m": 2.0, "g": 6.0, "u": 21.0}
    assert "random" in found["design"]


def test_random_sizes_are_the_same_for_all_that_share_a_replicate() -> None:
    design = bh.Design.nested(m=2, g=bh.Uniform(1.5, 6.5), u=3)
    drawn = [fixed(design, Streams(np.random.SeedSequence(4))) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert isinstance(drawn[0].levels[1][1], tuple)


def test_the_analysis_may_know_less_than_the_world() -> None:
    vague = NESTED.with_priors({"1|m_sigma": bh.HalfNormal(2.0)})
    design = [bh.Design.nested(m=3, g=4, u=5)]
    options = {"decide": "m", "replicates": 30, "n_jobs": 1, "random_seed": 1, "progress": False}
    wide = plan(NESTED, design, fit_model=vague, **options)
    narrow = plan(NESTED, design, **options)
    assert float(wide["width"][0]) > float(narrow["width"][0])
    with pytest.raises(DesignError, match="must have the formula"):
        plan(NESTED, design, fit_model=bh.Model("y ~ (1 | m)", family="lognormal"), **options)
    gaussian = bh.Model("y ~ (1 | m/g)", priors=LEVELS)
    with pytest.raises(PriorError, match="sigma"):
        plan(gaussian, design, fit_model=bh.Model("y ~ (1 | m/g)"), **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"designs": []}, "no design is given"),
        ({"designs": bh.Design.nested(m=2, g=2, u=2)}, "list of bayeshlm.Design"),
        ({"designs": [3]}, "not a bayeshlm.Design"),
        ({"designs": {1: bh.Design.nested(m=2, g=2, u=2), "1": bh.Design.nested(m=2, g=2, u=2)}}, "same as text"),
        ({"decide": None}, "decide=None"),
        ({"decide": "nothing"}, "'nothing' is neither"),
        ({"prob": 1.5}, "prob=1.5"),
        ({"maximize": "yes"}, "maximize='yes'"),
        ({"costs": {"students": 1}}, "'students' is no level"),
        ({"costs": {"u": -1}}, "u=-1 is no price"),
        ({"costs": {"u": math.nan}}, "u=nan is no price"),
        ({"costs": {}}, "no price is given"),
        ({"target": {"p_best": 0.9}}, "needs costs"),
        ({"target": {"p_best": 1.2}, "costs": {"u": 1}}, "between 0 and 1"),
        ({"target": {"fun": 1}, "costs": {"u": 1}}, "'fun' is none of"),
        ({"target": {}, "costs": {"u": 1}}, "it is empty"),
        ({"params": {"x": 1}}, "params names 'x'"),
        ({"replicates": 0}, "replicates=0"),
    ],
)
def test_what_cannot_be_planned_is_refused_before_any_work(change, message) -> None:
    arguments = {"designs": [bh.Design.nested(m=3, g=3, u=3)], "decide": "m", "replicates": 2, **change}
    with pytest.raises((DesignError, DataError), match=message):
        plan(NESTED, arguments.pop("designs"), **arguments)


def test_a_fit_that_fails_is_a_row_and_the_others_go_on(monkeypatch) -> None:
    from bayeshlm.studies.plan import plan as module

    calls = []
    whole = module.quick_values

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise FloatingPointError("planted")
        return whole(*arguments)

    monkeypatch.setattr(module, "quick_values", failing)
    designs = bh.Design.grid(m=3, g=[3, 4], u=3)
    found = module.plan(NESTED, designs, decide="m", replicates=3, n_jobs=1, random_seed=9, progress=False)
    assert found["finished"].values.tolist() == [3, 2]
    assert found["failed"].values.tolist() == [0, 1]
    assert found["failure_design"].values.tolist() == [found["design"].values[1]]
    assert found["failure_error"].values.tolist() == ["FloatingPointError: planted"]
    assert found["failure_replicate"].values.tolist() == [0]
    assert np.isnan(found["loss"].values[0, 1])


def test_a_billion_units_are_planned_through_their_statistics() -> None:
    design = bh.Design.nested(m=2, g=5, u=100_000_000)
    found = plan(NESTED, [design], decide="m", replicates=3, n_jobs=1, random_seed=1, progress=False, costs={"u": 1e-6})
    assert float(found["cost"][0]) == pytest.approx(1000.0)
    assert int(found["finished"][0]) == 3


def test_a_stored_plan_resumes_and_another_target_reads_it(tmp_path) -> None:
    designs = bh.Design.grid(m=3, g=[3, 8], u=5)
    options = {"decide": "m", "costs": {"g": 1}, "n_jobs": 1, "random_seed": 2, "progress": False, "store": tmp_path}
    first = plan(NESTED, designs, replicates=3, **options)
    longer = plan(NESTED, designs, replicates=6, target={"width": 9.0}, **options)
    np.testing.assert_array_equal(first["loss"], longer["loss"][:3])
    assert longer.attrs["recommended"] == longer["design"].values[0]
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1
