"""Default priors: on the scale of the columns, the intercept's at their means, the same in every engine and study."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeshlm as bh
from bayeshlm.data.compress import compress
from bayeshlm.engines.exact.build import build_problem
from bayeshlm.engines.exact.density.nested import Marginal
from bayeshlm.engines.pymc.source.writer import pymc_source
from bayeshlm.errors import PriorError
from bayeshlm.posterior.sensitivity import log_prior
from bayeshlm.simulation.default_priors import with_design_priors
from tests.engines.generative import MODE

PRIORS = {"year": bh.Normal(0.02, 0.1), "arm": bh.Normal(0.1, 0.5), "1|site_sigma": bh.HalfNormal(0.5),
          "sigma": bh.HalfNormal(1)}  # fmt: skip
LOGNORMAL = bh.Model("y ~ year + (1 | site)", family="lognormal")


@pytest.fixture(scope="module")
def years() -> pd.DataFrame:
    """Ten years at twenty sites; the arm has no effect but is commoner in later years."""
    rng = np.random.default_rng(3)
    site, year = rng.integers(0, 20, 2000), rng.integers(2015, 2025, 2000)
    eta = 0.1 * (year - 2019) + rng.normal(0, 0.2, 20)[site]
    share = 1 / (1 + np.exp(-eta))
    return pd.DataFrame({
        "site": [f"s{k}" for k in site], "year": year,
        "arm": np.where(rng.random(2000) < (year - 2014) / 11, "new", "old"),
        "y": np.exp(2 + eta + rng.normal(0, 0.3, 2000)), "passed": (rng.random(2000) < share).astype(int),
        "trials": 10, "cured": rng.binomial(10, share), "count": rng.poisson(np.exp(eta)),
    })  # fmt: skip


@pytest.mark.parametrize(
    ("formula", "family"),
    [
        ("y ~ {} + (1 | site)", "lognormal"), ("passed ~ {} + (1 | site)", "bernoulli"),
        ("p(cured, trials) ~ {} + (1 | site)", "binomial"), ("count ~ {} + (1 | site)", "poisson"),
        ("y ~ 0 + arm + {} + (1 | site)", "lognormal"),
    ],
)  # fmt: skip
def test_a_year_has_the_slope_that_a_centred_year_has(years, formula, family) -> None:
    slopes = []
    for column in ("year", "center(year)"):
        posterior = bh.fit(bh.Model(formula.format(column), family=family), years, random_seed=1, progress=False)
        assert posterior.attrs["status"] == "PASS"
        slopes.append(posterior["posterior"][column].values.ravel())
    means, sds = np.array([(s.mean(), s.std()) for s in slopes]).T
    assert abs(means[0] - 0.1) < 4 * sds[0]  # the truth; four standard deviations are exceeded by 1 in 16,000
    np.testing.assert_allclose(means[0], means[1], atol=6 * sds[0] / np.sqrt(1000))  # of the Monte Carlo error
    np.testing.assert_allclose(sds[0], sds[1], rtol=0.15)


def test_an_arm_without_effect_is_not_chosen_for_its_years(years) -> None:
    model = bh.Model("y ~ arm + year + (1 | site)", family="lognormal")
    posterior = bh.fit(model, years, random_seed=1, progress=False)
    pair = bh.compare(posterior, "arm", maximize=True).pair("new", "old")
    assert pair["lower"] < 1 < pair["upper"]


def test_what_defaults_are(years) -> None:
    priors = bh.scaled_priors(bh.Model("y ~ arm + year + (year | site)", family="lognormal"), years).complete_priors
    spread, mean = years.year.std(ddof=0), years.year.mean()
    point = priors["Intercept"].point
    assert priors["Intercept"].prior == bh.Normal(0, 10)
    assert point["year"] == pytest.approx(mean, abs=0.01 * spread)
    assert point["arm[old]"] == pytest.approx((years.arm == "old").mean(), abs=0.01)
    assert priors["year"].sigma == pytest.approx(2.5 / spread, rel=0.01)
    assert priors["year|site_sigma"].sigma == pytest.approx(0.5 / spread, rel=0.01)
    assert priors["1|site_sigma"].sigma == pytest.approx(np.hypot(0.5, 0.5 * mean / spread), rel=0.01)
    gaussian = bh.scaled_priors(bh.Model("y ~ year + (1 | site)"), years)
    assert gaussian.complete_priors["Intercept"].prior.mu == pytest.approx(years.y.mean(), abs=0.01 * years.y.std())
    assert bh.Model("y ~ year + (1 | site)", priors=gaussian) == gaussian
    assert bh.Model.from_json(gaussian.to_json()) == gaussian


def test_a_prior_at_a_point_is_the_prior_of_a_shifted_column(years) -> None:
    """The density given the hyperparameters is the one of the model in year - 2019.5, whose intercept is there."""
    shifted = bh.Model("y ~ I(year - 2019.5) + (1 | site)", family="lognormal", priors={
        "Intercept": bh.Normal(0.3, 0.7), "I(year - 2019.5)": bh.Normal(0.2, 0.1)})  # fmt: skip
    at = bh.Model("y ~ year + (1 | site)", family="lognormal", priors={
        "Intercept": bh.At(bh.Normal(0.3, 0.7), {"year": 2019.5}), "year": bh.Normal(0.2, 0.1)})  # fmt: skip
    theta = np.random.default_rng(0).normal(0, 1, (20, 2))
    found = []
    for model in (shifted, at):
        complete = dataclasses.replace(compress(model, years), model=bh.scaled_priors(model, years))
        found.append(Marginal(build_problem(complete)).log_density(theta)[0])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-10)


def test_engines_take_the_prior_at_its_point(years) -> None:
    """PyMC's log prior of (Intercept, year) is the one by hand, at random points, in both builds of the model."""
    import pymc as pm

    model = LOGNORMAL.with_priors({"Intercept": bh.At(bh.StudentT(3, 1, 0.5), {"year": 2019}), "year": bh.Normal(0, 1)})
    rng = np.random.default_rng(2)
    with bh.to_pymc(model, years.head(200), rows=True) as built:
        slope, at_point = rng.normal(0, 1), rng.normal(0, 1)
        values = {"Intercept": at_point - 2019 * slope, "year": slope}
        mine = bh.StudentT(3, 1, 0.5).logpdf(np.array(at_point)) + bh.Normal(0, 1).logpdf(np.array(slope))
        point = {**built.initial_point(), **values}
        theirs = built.compile_logp([built["Intercept"], built["year"]], mode="FAST_COMPILE")(point)
    np.testing.assert_allclose(theirs, mine, rtol=1e-9)
    with bh.to_pymc(model, years.head(200)):
        drawn = pm.sample_prior_predictive(2000, var_names=["Intercept", "year"], random_seed=1)["prior"]
    told = (drawn["Intercept"] + 2019 * drawn["year"]).values.ravel()
    assert abs(np.median(told) - 1) < 5 * 1.25 * 0.6 / np.sqrt(2000)  # five standard errors of the median


def test_codings_of_two_arms_have_the_same_priors(years) -> None:
    data = years.assign(old=(years["arm"] == "old").astype(int))
    priors = [bh.scaled_priors(bh.Model(f"y ~ {x}", family="lognormal"), data).priors for x in ("arm", "old")]
    assert priors[0]["arm"] == priors[1]["old"] == bh.Normal(0, 2.5)
    assert [next(iter(p["Intercept"].point.values())) for p in priors] == [
        pytest.approx(data["old"].mean(), abs=0.005)
    ] * 2


@pytest.mark.parametrize("form", ["compressed", "rows", "source"])
def test_pymc_has_the_same_prior(years, form: str) -> None:
    """Log density with the prior at the columns less that with one at x = 0 is the priors' difference, at any point."""
    data = years.head(20)
    at = bh.At(bh.Normal(0.3, 0.7), {"year": 2019.5, "arm[old]": 0.4})
    differences: list[float] = []
    point: dict[str, np.ndarray] = {}
    for intercept in (at, bh.Normal(-5, 0.7)):
        model = bh.Model("y ~ year + arm + (1 | site)", family="lognormal", priors={**PRIORS, "Intercept": intercept})
        if form == "source":
            names: dict[str, object] = {}
            exec(pymc_source(bh.compress(model, data)), names)
            built = names["build"](data)  # type: ignore[operator]  # a function, by its documentation
        else:
            built = bh.to_pymc(model, data, rows=form == "rows")
        rng = np.random.default_rng(3)
        start = built.initial_point()
        point = point or {name: value + 0.3 * rng.normal(size=np.shape(value)) for name, value in start.items()}
        shown = built.compile_fn(
            built.replace_rvs_by_values([*built.free_RVs, *built.deterministics]), inputs=built.value_vars, mode=MODE,
            point_fn=False, on_unused_input="ignore",
        )  # fmt: skip
        told = shown(*(point[v.name] for v in built.value_vars))
        values = dict(zip([v.name for v in (*built.free_RVs, *built.deterministics)], told, strict=True))
        differences.append(float(built.compile_logp(jacobian=False, mode=MODE)(point)))
        place = float(values["Intercept"] + 2019.5 * values["year"] + 0.4 * np.squeeze(values["arm"]))
    expected = stats.norm(0.3, 0.7).logpdf(place) - stats.norm(-5, 0.7).logpdf(values["Intercept"])
    assert differences[0] - differences[1] == pytest.approx(float(expected), rel=1e-6)


def test_sensitivity_sees_the_prior_where_it_holds(years) -> None:
    posterior = bh.fit(LOGNORMAL, years, draws=250, random_seed=1, progress=False)
    priors = bh.Model.from_json(posterior.attrs["model"]).complete_priors
    draws = {name: posterior["posterior"][name].values.ravel() for name in priors}
    point = draws["Intercept"] + priors["Intercept"].point["year"] * draws["year"]
    mine = sum(priors[n].logpdf(point if n == "Intercept" else draws[n]) for n in priors)
    np.testing.assert_allclose(log_prior(posterior), mine, rtol=1e-9)


def test_studies_have_one_prior_in_simulation_and_analysis() -> None:
    model = bh.Model("y ~ arm + x + (1 | g)", family="lognormal")
    design = bh.Design.nested(
        g=8, u=6, covariates={"x": bh.Normal(2000, 3)}, treatments={"arm": bh.Treatment(["a", "b"], level="g")}
    )
    complete = with_design_priors(model, design)
    assert not complete.pending_priors
    point = complete.complete_priors["Intercept"].point
    assert point["x"] == pytest.approx(2000, abs=1)
    assert point["arm[b]"] == pytest.approx(0.5, abs=0.05)
    outcomes = [np.log(bh.simulate(model, design, random_seed=k).data.y).mean() for k in range(200)]
    # About Normal(0, 10) at the means, not at 0, from where slopes would carry it to +-1,700.
    assert 8 < np.std(outcomes) < 14
    calibration = bh.sbc(model, design, replicates=100, random_seed=3, n_jobs=1, progress=False)
    assert calibration.attrs["passed"]


def test_points_that_cannot_be() -> None:
    with pytest.raises(PriorError, match="prior="):
        bh.At(bh.Flat(), {"x": 1})
    with pytest.raises(PriorError, match="point="):
        bh.At(bh.Normal(0, 1), {"x": np.nan})
    with pytest.raises(PriorError, match="stands in place of"):
        bh.Model("y ~ x + (1 | g)", priors={"x": bh.At(bh.Normal(0, 1), {"x": 1})})
    data = pd.DataFrame({"y": [1.0, 2, 4, 3, 5, 1], "x": [1.0, 2, 3, 4, 5, 6], "g": list("abcabc")})
    wrong = bh.Model("y ~ x + (1 | g)", family="lognormal", priors={"Intercept": bh.At(bh.Normal(0, 1), {"z": 1})})
    with pytest.raises(PriorError, match="names 'z'"):
        bh.fit(wrong, data, progress=False)
