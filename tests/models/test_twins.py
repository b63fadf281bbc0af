"""A study's bayeshlm model and its hand-written PyMC twin are the same model: densities and simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import xarray as xr
from scipy.stats import ks_2samp, multivariate_normal, norm

import bayeshlm as bh
from bayeshlm.engines.exact.build import build_problem
from bayeshlm.engines.exact.density.nested import Marginal
from tests.models.gallery import Gallery, Point, gallery, pairs

NAMES = ("teaching_methods", "star_class_size")
MODE = "FAST_COMPILE"  # a few evaluations: compiling would take longer than they do


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest) -> Gallery:
    return gallery(request.param)


@pytest.fixture(scope="module")
def world(case: Gallery) -> bh.World:
    return bh.simulate(case.study.model, case.small, random_seed=11)


@pytest.fixture(scope="module")
def twin(case: Gallery, world: bh.World) -> pm.Model:
    return case.study.pymc_model(world.data)


def logged(case: Gallery) -> bool:
    return case.study.model.family == "lognormal"


def value_point(case: Gallery, point: Point, deviations: xr.Dataset) -> Point:
    """Arguments of the twin's density: levels as they are, standard deviations by their logs."""
    logs = {f"{name}_log__": np.log(float(deviations[name])) for name in case.deviations}
    return {**{name: np.asarray(value, dtype=float) for name, value in point.items()}, **logs}


def joint_density(case: Gallery, truth: xr.Dataset, data: pd.DataFrame) -> float:
    """log p(y, every parameter): priors, effects, rows, written out."""
    priors = case.study.model.complete_priors
    total = sum(float(np.sum(prior.logpdf(truth[name].to_numpy()))) for name, prior in priors.items())
    for level in (case.outer, f"{case.outer}:{case.inner}"):
        total += norm.logpdf(truth[f"1|{level}"].to_numpy(), 0, float(truth[f"1|{level}_sigma"])).sum()
    y = data[case.response].to_numpy()
    shown, jacobian = (np.log(y), -np.log(y).sum()) if logged(case) else (y, 0.0)
    return total + norm.logpdf(shown, case.predictor(truth, data), float(truth["sigma"])).sum() + jacobian


def test_joint_density_is_the_same_at_random_points(case: Gallery, world: bh.World, twin: pm.Model) -> None:
    density = twin.compile_logp(jacobian=False, mode=MODE)
    truths = [bh.simulate(case.study.model, case.small, random_seed=seed).truth for seed in range(20, 26)]
    mine = np.array([joint_density(case, truth, world.data) for truth in truths])
    theirs = np.array([density(value_point(case, case.twin_point(t, world.data), t)) for t in truths])
    # Both are normalised, so that not even a constant may differ.
    np.testing.assert_allclose(mine, theirs, rtol=1e-8)
    np.testing.assert_allclose(mine[1:] - mine[0], theirs[1:] - theirs[0], rtol=1e-8)


def test_deterministics_are_the_effects_of_the_truth(case: Gallery, world: bh.World, twin: pm.Model) -> None:
    truth = world.truth
    names = [variable.name for variable in twin.deterministics]
    wanted = {f"1|{case.outer}", f"1|{case.outer}:{case.inner}"}
    assert wanted <= set(names)
    outputs = twin.replace_rvs_by_values(twin.deterministics)
    evaluate = twin.compile_fn(outputs, inputs=twin.value_vars, mode=MODE, point_fn=False, on_unused_input="ignore")
    point = value_point(case, case.twin_point(truth, world.data), truth)
    for name, value in zip(names, evaluate(*(point[v.name] for v in twin.value_vars)), strict=True):
        np.testing.assert_allclose(value, truth[name].to_numpy(), atol=1e-9)
        for dim in truth[name].dims:
            assert list(twin.coords[dim]) == truth[dim].to_numpy().tolist()


def test_collapsed_density_is_the_twins_integrated_exactly(case: Gallery, world: bh.World, twin: pm.Model) -> None:
    """Given the standard deviations the twin's log density is quadratic in all else, so the integral is in closed form.

    The gradient of a quadratic is affine: its values at 0 and at each unit vector give the Hessian without any error of
    differencing.
    """
    model = case.study.model
    density = twin.compile_logp(jacobian=False, mode=MODE)
    latent = [v for v in twin.value_vars if v.name in case.latent]
    gradient = twin.compile_dlogp([twin.values_to_rvs[v] for v in latent], jacobian=False, mode=MODE)
    problem = build_problem(bh.compress(model, world.data))
    shapes = {v.name: np.shape(twin.initial_point()[v.name]) for v in latent}
    size = int(sum(np.prod(shape) for shape in shapes.values()))

    def split(flat: np.ndarray) -> Point:
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
        parts = np.split(flat, ends[:-1])
        return {name: part.reshape(shapes[name]) for name, part in zip(shapes, parts, strict=True)}

    for seed in (30, 31):
        truth = bh.simulate(model, case.small, random_seed=seed).truth
        origin = gradient(value_point(case, split(np.zeros(size)), truth))
        columns = [gradient(value_point(case, split(unit), truth)) - origin for unit in np.eye(size)]
        precision = -np.array(columns)
        mode = np.linalg.solve(precision, origin)
        peak = float(density(value_point(case, split(mode), truth)))
        theirs = peak + 0.5 * size * np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(precision)[1]

        sds = {name: float(truth[name]) for name in case.deviations}
        roots = [np.full((1, 1, 1), sds[f"1|{level}_sigma"]) for level in (case.outer, f"{case.outer}:{case.inner}")]
        mine = Marginal(problem).sweep(np.array([sds["sigma"]]), roots).log_likelihood[0]
        priors = sum(float(model.complete_priors[name].logpdf(np.array(sd))) for name, sd in sds.items())
        assert mine + priors == pytest.approx(theirs, rel=1e-9)
        assert mine == pytest.approx(dense_log_likelihood(case, world.data, sds), rel=1e-9)


def dense_log_likelihood(case: Gallery, data: pd.DataFrame, sds: dict[str, float]) -> float:
    """log p(y | standard deviations) from the N x N covariance of the rows."""
    model = case.study.model
    x = {"Intercept": np.ones((len(data), 1))}
    if logged(case):
        x["log1p(hs_gpa)"] = np.log1p(data[["hs_gpa"]].to_numpy())
    else:
        x |= {k: pd.get_dummies(data[k], drop_first=True).to_numpy(dtype=float) for k in ("cltype", "gr")}
    covariance = sds["sigma"] ** 2 * np.eye(len(data))
    mean = np.zeros(len(data))
    for name, columns in x.items():
        prior = model.complete_priors[name]
        mean += prior.mu * columns.sum(axis=1)
        covariance += prior.sigma**2 * columns @ columns.T
    outer, inner = data[case.outer].to_numpy(), np.array(pairs(data, case.outer, case.inner))
    for level, label in ((case.outer, outer), (f"{case.outer}:{case.inner}", inner)):
        covariance += sds[f"1|{level}_sigma"] ** 2 * np.equal.outer(label, label)
    y = data[case.response].to_numpy()
    shown, jacobian = (np.log(y), -np.log(y).sum()) if logged(case) else (y, 0.0)
    return float(multivariate_normal(mean, covariance).logpdf(shown)) + jacobian


def spreads(case: Gallery, data: pd.DataFrame, y: np.ndarray) -> dict[str, np.ndarray]:
    """What worlds y (worlds, rows) look like, whatever the order of their groups."""
    rows = pd.DataFrame(y.T)
    inner = rows.groupby(data[case.inner].to_numpy()).mean()
    parent = data.groupby(case.inner)[case.outer].first().to_numpy()
    outer = inner.groupby(parent).mean()
    out = {
        "mean": rows.mean(),
        "rows within inner groups": (rows - inner.loc[data[case.inner]].to_numpy()).std(),
        "inner within outer groups": (inner - outer.loc[parent].to_numpy()).std(),
        "outer groups": outer.std(),
    }
    arms = ["hs_gpa"] if logged(case) else ["cltype", "gr"]
    for name in arms:
        means = rows.groupby(data[name].to_numpy()).mean()
        out |= {f"{name} {arm}": means.loc[arm] - means.iloc[0] for arm in means.index[1:]}
    return {name: np.asarray(value) for name, value in out.items()}


def test_prior_predictive_is_the_same(case: Gallery, world: bh.World, twin: pm.Model) -> None:
    """Kolmogorov-Smirnov on each summary, 150 worlds a side; false-alarm rate 1e-4 over all summaries of a study.

    The seeds are fixed: the test cannot flicker. A prior's scale off by a factor of 3 is found.
    """
    count = 150
    drawn = pm.sample_prior_predictive(count, model=twin, random_seed=5, compile_kwargs={"mode": MODE})
    rows = drawn["prior_predictive"][case.response].to_numpy()[0]
    shown = np.log if logged(case) else np.asarray
    theirs = spreads(case, world.data, shown(rows))
    mine: dict[str, list[np.ndarray]] = {name: [] for name in theirs}
    for k in range(count):
        data = bh.simulate(case.study.model, case.small, random_seed=[5, k]).data
        for name, value in spreads(case, data, shown(data[case.response].to_numpy())[None]).items():
            mine[name].append(value)
    p = {name: ks_2samp(np.concatenate(mine[name]), theirs[name]).pvalue for name in theirs}
    assert min(p.values()) > 1e-4 / len(p), p
