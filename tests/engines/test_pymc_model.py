"""`to_pymc`: every form has the density of the model written out row by row."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pymc as pm
import pytensor.tensor as pt
import pytest
import xarray as xr
from pymc.model_graph import ModelGraph

import bayeshlm as bh
from bayeshlm.engines.pymc.model import build, to_pymc
from bayeshlm.engines.pymc.observations import from_statistics
from bayeshlm.engines.pymc.parameterization import PARTLY, described, plan_levels
from bayeshlm.engines.pymc.transform import InDeviations, PartialCorrelations, RootLog, Whitened
from tests.engines.dense import CASES, Case, DenseLevel, make_frame, make_model, one, with_x
from tests.engines.generative import MODE, Points, Twin, random_points, row_density

FORMS = (("centered", False), ("noncentered", False), ("noncentered", True))  # with rows?
EXTRA = {
    "crossed": Case("y ~ x + (1 | a) + (1 | g)", with_x, (DenseLevel(("a",), one), DenseLevel(("g",), one))),
    "crossed and nested": Case(
        "y ~ x + (1 | a/b) + (x | g)", with_x,
        (DenseLevel(("a",), one), DenseLevel(("a", "b"), one), DenseLevel(("g",), with_x)),
    ),
    "lognormal slopes": Case("y ~ x + (x | a)", with_x, (DenseLevel(("a",), with_x),), "lognormal", weights="w"),
}  # fmt: skip
ALL = CASES | EXTRA
NESTED = bh.Model(
    "score ~ 1 + (1 | method/instructor)", family="lognormal",
    priors={"Intercept": bh.Normal(4, 1), "1|method_sigma": bh.HalfNormal(0.3),
            "1|method:instructor_sigma": bh.HalfNormal(0.3), "sigma": bh.HalfNormal(0.3)},
)  # fmt: skip
ALIKE = {"1|method_sigma": 0.0, "1|method:instructor_sigma": 0.0}
DESIGN = bh.Design.nested(
    a=3, b=3, unit=4, covariates={"x": bh.Covariate(bh.Normal(0, 1))},
    treatments={"arm": bh.Treatment(["a", "b", "c"], level="b"), "g": bh.Treatment(4, level="b")},
)  # fmt: skip


def twin_of(case: Case, model: bh.Model) -> Twin:
    whole = case.common
    common, at = {}, 0
    for term in model.terms.common:
        width = 2 if term.name == "arm" else 1
        common[term.name] = lambda frame, at=at, width=width: whole(frame)[:, at : at + width]
        at += width
    levels = []
    for level in case.levels:
        name = ":".join(level.keys)
        effects = [
            group.effect_name(effect) for group in model.terms.groups for effect in group.effects
            if group.level_name == name
        ]  # fmt: skip
        levels.append((level, name, effects))
    return Twin(common, tuple(levels))


def joint_densities(
    case: Case, model: bh.Model, frame: pd.DataFrame, points: Points, noncentred: dict[str, float]
) -> np.ndarray:
    """(points,) log joint densities of the twin."""
    twin, y = twin_of(case, model), frame["y"].to_numpy()
    return np.array([
        twin.log_joint(
            model, frame, values, noncentred,
            lambda eta, values=values: row_density(case.family, y, eta, values, frame, model)("none", y).sum(),
        )
        for values in points.values
    ])  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_all_forms_have_the_density_of_the_rows(name: str) -> None:
    case, rng = ALL[name], np.random.default_rng(len(name))
    frame = make_frame(rng)
    model = make_model(case, rng)
    twin = twin_of(case, model)
    for parameterization, rows in FORMS:
        built = to_pymc(model, frame, parameterization=parameterization, rows=rows)
        points = random_points(built, 5, seed=1)
        deviations = parameterization == "noncentered" and not rows  # with rows by a transform
        noncentred = dict.fromkeys((level for _, level, _ in twin.levels), deviations)
        mine = joint_densities(case, model, frame, points, noncentred)
        assert np.isfinite(mine).all()
        if rows:
            np.testing.assert_allclose(points.density, mine, rtol=1e-10)
        else:  # a constant apart, whatever the parameters
            apart = points.density - mine
            np.testing.assert_allclose(apart, apart[0], rtol=0, atol=1e-8 * np.abs(mine).max())


def test_variables_dims_and_labels_are_a_posteriors() -> None:
    rng = np.random.default_rng(1)
    frame = make_frame(rng)
    model = bh.Model("y ~ x + arm + (1 + x | a/b) + (arm || g)", family="lognormal")
    posterior = bh.simulate(model, DESIGN, random_seed=1).truth  # named and labelled as a posterior
    for parameterization in ("auto", "centered", "noncentered"):
        built = to_pymc(model, frame, parameterization=parameterization)
        named = {v.name: v for v in [*built.free_RVs, *built.deterministics]}
        for name, wanted in posterior.data_vars.items():
            assert tuple(built.named_vars_to_dims.get(name, ())) == wanted.dims
        effects = {"1|a", "x|a", "1|a:b", "x|a:b", "1|g", "arm|g", "Intercept", "corr|a", "corr|a:b"}
        assert effects <= {v.name for v in built.deterministics}
        assert set(posterior.data_vars) <= set(named)
        assert list(built.coords["a"]) == sorted(frame["a"].unique())
        assert list(built.coords["arm_dim"]) == ["b", "c"]
        assert list(built.coords["a_effect"]) == ["1", "x"]


def test_auto_is_visible_in_the_model() -> None:
    data = bh.simulate(NESTED, bh.Design.nested(method=5, instructor=10, student=100), random_seed=1).data
    statistics = bh.compress(NESTED, data)
    plans = plan_levels(statistics, "auto")
    assert [plan.centred for plan in plans] == [True, True]
    names = [v.name for v in to_pymc(NESTED, statistics).free_RVs]
    assert {"1|method_total", "1|method:instructor_total"} <= set(names)
    design = bh.Design.nested(method=3, instructor=4, student=2)
    alike = NESTED.with_priors(
        {"1|method_sigma": bh.HalfNormal(0.05), "1|method:instructor_sigma": bh.HalfNormal(0.05)}
    )
    few = bh.simulate(alike, design, params=ALIKE, random_seed=1).data
    assert not any(plan.centred for plan in plan_levels(bh.compress(alike, few), "auto"))
    told = plan_levels(statistics, "auto", (0.5, 8.0))  # what is told takes the place of what the data say
    assert {plan.index: (plan.centred, plan.information) for plan in told} == {0: (False, 0.5), 1: (True, 8.0)}
    assert all(np.array_equal(a.reference, b.reference) for a, b in zip(told, plans, strict=True))
    between = build(statistics, from_statistics(statistics), plan_levels(statistics, "auto", (0.4, 2.0)))
    assert {"1|method_offset", "1|method:instructor_partial"} <= {v.name for v in between.free_RVs}
    assert described(statistics, plan_levels(statistics, "auto", (0.4, 2.0))) == {
        "method": "noncentered", "method:instructor": "partly centered"
    }  # fmt: skip
    assert plan_levels(statistics, "auto", (5.0, 5.0))[0].centring < 1  # five groups may yet be alike
    forms = {}
    for bars in ("|", "||"):
        rng = np.random.default_rng(1)
        case = Case(f"y ~ x + (x {bars} a)", with_x, ())
        slopes = bh.compress(make_model(case, rng), make_frame(rng))
        assert len(slopes.members[0]) < 9
        forms[bars] = plan_levels(slopes, "auto", (50.0,))[0].centring
    assert forms == {"|": 0.0, "||": 1.0}  # so few groups cannot tell a correlation from 1
    with pytest.raises(bh.errors.EngineError, match="parameterization='centred'"):
        to_pymc(NESTED, few, parameterization="centred")


@pytest.mark.parametrize("name", ["nested", "crossed and nested"])
def test_partly_centred_effects_have_the_density_of_the_rows(name: str) -> None:
    case, rng = ALL[name], np.random.default_rng(4)
    frame = make_frame(rng)
    model = make_model(case, rng)
    statistics = bh.compress(model, frame)
    plans = plan_levels(statistics, "auto", [1.0] * len(statistics.members))
    assert [plan.centring for plan in plans].count(PARTLY) >= 2
    points = random_points(build(statistics, from_statistics(statistics), plans), 5, seed=1)
    levels = statistics.layout.levels
    deviating = {levels[plan.index].name: 1 - plan.centring for plan in plans}
    mine = joint_densities(case, model, frame, points, deviating)
    apart = points.density - mine
    np.testing.assert_allclose(apart, apart[0], rtol=0, atol=1e-8 * np.abs(mine).max())


@pytest.mark.parametrize("prior", [bh.Flat(), bh.Normal(0, 0.2)])
def test_what_is_sampled_for_the_intercept_does_not_hang_on_the_deviations(prior: bh.Prior) -> None:
    """Unequal groups: the posterior has no covariance between them, whatever the groups' standard deviation."""
    rng = np.random.default_rng(5)
    frame = make_frame(rng).sort_values("a").iloc[5:]
    priors = {"Intercept": prior, "1|a_sigma": bh.HalfNormal(1), "sigma": bh.HalfNormal(1)}
    model = bh.Model("y ~ 1 + (1 | a)", priors=priors)
    statistics = bh.compress(model, frame)
    assert np.ptp(statistics.weight) > 0
    built = to_pymc(model, statistics, parameterization="noncentered")
    start = built.initial_point()
    # The share is for the residual's standard deviation as estimated within the groups.
    free = statistics.rows - len(statistics.count)
    start["sigma_log__"] = np.log(np.sqrt(statistics.scatter[:, -1, -1].sum() / free))
    gradient = built.compile_dlogp([built["Intercept_centred"], built["1|a_offset"]], jacobian=False)
    moved = gradient({**start, "Intercept_centred": start["Intercept_centred"] + 1.0}) - gradient(start)
    assert abs(moved[0]) > 1  # the density is quadratic in both, so that this is a row of the Hessian
    np.testing.assert_allclose(moved[1:], 0.0, atol=1e-9 * abs(moved[0]))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_scale_of_the_standard_deviations(scale: float) -> None:
    transform = RootLog(scale)
    values = scale * np.array([1e-200, 1e-9, 0.3, 1.0, 4.0, 1e6, 1e200])
    x = transform.forward(pt.as_tensor(values)).eval()
    np.testing.assert_allclose(transform.backward(pt.as_tensor(x)).eval(), values, rtol=1e-12)
    point = pt.dscalar("point")
    ours, exact = transform.log_jac_det(point), pt.log(pt.grad(transform.backward(point), point))
    for where in (-6.0, -0.5, 0.0, 0.7, 5.0):
        np.testing.assert_allclose(ours.eval({point: where}), exact.eval({point: where}), rtol=1e-12)


def test_transforms_of_named_effects() -> None:
    """What is sampled and what is named are functions of each other, with the Jacobian by differentiation."""
    rng = np.random.default_rng(1)
    root = np.array([[1.2, 0.0], [0.4, 0.7]])
    mean, covariance = rng.normal(size=(3, 2)), root @ root.T
    cases = (
        (InDeviations(0.8), rng.normal(size=4), (rng.normal(size=4), np.full(4, 0.3)), 0),
        (Whitened(), rng.normal(size=(3, 2)), (mean, covariance), 1),
        (Whitened(), rng.normal(size=(3, 2)), (mean, covariance[None]), 1),
        (PartialCorrelations(4), rng.normal(size=6), (), 2),
    )
    for transform, at, inputs, ends in cases:
        value = pt.tensor("value", shape=at.shape, dtype="float64")
        given = [pt.as_tensor(part) for part in inputs]
        named = transform.backward(value, *given)
        np.testing.assert_allclose(transform.forward(named, *given).eval({value: at}, mode=MODE), at, rtol=1e-9)
        flat = named[np.tril_indices(4, -1)] if ends == 2 else named.ravel()
        jacobian = pt.stack([pt.grad(part, value).ravel() for part in (flat[k] for k in range(at.size))])
        expected = np.linalg.slogdet(jacobian.eval({value: at}, mode=MODE))[1]
        found = transform.log_jac_det(value, *given)
        assert found.ndim == named.ndim - ends
        np.testing.assert_allclose(found.sum().eval({value: at}, mode=MODE), expected, rtol=1e-9)


@pytest.mark.parametrize(
    "prior",
    [bh.StudentT(3, 1, 2), bh.Cauchy(0.5, 1), bh.Flat(), bh.Uniform(-2, 5), bh.Gamma(2, 1), bh.HalfCauchy(2),
     bh.HalfStudentT(3, 2), bh.Exponential(1), bh.InverseGamma(3, 2), bh.LogNormal(0, 1), bh.PC(1, 0.1)],
    ids=str,
)  # fmt: skip
def test_every_prior_on_every_kind_of_parameter(prior: bh.Model) -> None:
    """The intercept's prior is that of the value at x = 0, wherever it is sampled."""
    rng = np.random.default_rng(4)
    frame = make_frame(rng)
    positive = prior.bounds[0] >= 0 or isinstance(prior, bh.Flat)
    model = bh.Model("y ~ x + (1 | a)", priors={"Intercept": prior, "x": prior, "1|a_sigma": prior if positive else
                     bh.HalfNormal(1), "sigma": prior if positive else bh.HalfNormal(1)})  # fmt: skip
    built = to_pymc(model, frame, parameterization="centered", rows=True)
    points = random_points(built, 4, seed=1, spread=0.3)
    twin = twin_of(CASES["one level"], model)
    twin = Twin({**twin.common, "x": lambda frame: frame[["x"]].to_numpy()}, twin.levels)
    y = frame["y"].to_numpy()
    mine = [
        twin.log_joint(
            model, frame, values, {"a": False},
            lambda eta, values=values: row_density("gaussian", y, eta, values, frame, model)("none", y).sum(),
        )
        for values in points.values
    ]  # fmt: skip
    assert np.isfinite(mine).all()
    np.testing.assert_allclose(points.density, mine, rtol=1e-8)


def test_three_correlated_effects() -> None:
    """The LKJ density of a 3 x 3 matrix, normalised."""
    rng = np.random.default_rng(5)
    frame = make_frame(rng, groups=6)

    def columns(frame):
        return np.column_stack([np.ones(len(frame)), frame["x"], frame["w"]])

    case = Case("y ~ x + (1 + x + w | a)", with_x, (DenseLevel(("a",), columns),))
    model = make_model(case, rng)
    y = frame["y"].to_numpy()
    for parameterization in ("centered", "noncentered"):
        points = random_points(to_pymc(model, frame, parameterization=parameterization, rows=True), 4, seed=2)
        mine = [
            twin_of(case, model).log_joint(
                model, frame, values, {"a": False},
                lambda eta, values=values: row_density("gaussian", y, eta, values, frame, model)("none", y).sum(),
            )
            for values in points.values
        ]  # fmt: skip
        np.testing.assert_allclose(points.density, mine, rtol=1e-9)


def test_prior_and_posterior_predictive_are_rows() -> None:
    """Under the rows form responses come in the response's unit; under the compressed one, as cell means and rest."""
    data = bh.simulate(NESTED, bh.Design.nested(method=3, instructor=3, student=4), random_seed=1).data
    built = to_pymc(NESTED, data, rows=True)
    drawn = pm.sample_prior_predictive(40, model=built, random_seed=1, compile_kwargs={"mode": MODE})
    rows = drawn["prior_predictive"]["score"].to_numpy()
    assert rows.shape == (1, 40, len(data))
    assert (rows > 0).all()
    assert {"1|method", "1|method:instructor", "Intercept"} <= set(drawn["prior"].data_vars)
    assert {v.name for v in built.free_RVs} == {v.name for v in built.unobserved_RVs}
    trace = xr.DataTree.from_dict({"posterior": drawn["prior"], "constant_data": drawn["constant_data"]})
    later = pm.sample_posterior_predictive(
        trace, model=built, random_seed=2, progressbar=False, compile_kwargs={"mode": MODE}
    )
    assert later["posterior_predictive"]["score"].shape == (1, 40, len(data))
    packed = pm.sample_prior_predictive(40, model=to_pymc(NESTED, data), random_seed=1, compile_kwargs={"mode": MODE})
    assert set(packed["prior_predictive"].data_vars) == {"score", "score_rest"}


def test_graph_reads() -> None:
    data = bh.simulate(NESTED, bh.Design.nested(method=3, instructor=3, student=4), random_seed=1).data
    built = to_pymc(NESTED, data)
    plates = {tuple(sorted(plate.dim_info.names)): plate for plate in ModelGraph(built).get_plates()}
    inside = {names: {node.var.name for node in plate.variables} for names, plate in plates.items()}
    assert {"Intercept", "Intercept_centred", "1|method_sigma", "sigma", "score_rest"} <= inside[()]
    assert "1|method" in inside["method",]
    assert {"1|method:instructor"} <= inside["method:instructor",]
    assert "score" in inside["__obs__",]


def test_hostile_names_and_names_of_helpers() -> None:
    rng = np.random.default_rng(7)
    frame = make_frame(rng).rename(columns={"x": "columns", "a": "we/ird \"<b>'$\U0001f600", "y": "weight"})
    frame["observed"] = rng.normal(size=len(frame))
    level = "we/ird \"<b>'$\U0001f600"
    model = bh.Model(f"weight ~ columns + observed + (columns | `{level}`)", family="lognormal")
    built = to_pymc(model, frame)
    assert {"columns", "observed", f"columns|{level}".replace("/", "\u2215")} <= set(built.named_vars)
    assert np.isfinite(random_points(built, 1, seed=1, spread=0.1).density).all()


def test_what_cannot_be_built_is_refused() -> None:
    frame = make_frame(np.random.default_rng(8))
    with pytest.raises(bh.errors.PriorError, match="No prior for 'Intercept', 'x'"):
        to_pymc(bh.Model("y ~ x"), frame)
    model = bh.Model("y ~ x", family="lognormal")
    with pytest.raises(bh.errors.DataError, match="hold no rows"):
        to_pymc(model, bh.compress(model, frame), rows=True)
