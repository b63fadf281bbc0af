"""`predict`: closed forms, PyMC's posterior predictive, new groups, averages, and rows that cannot be predicted for.

Monte Carlo limits have a false-alarm rate of 1e-5 each; the seeds are fixed.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pymc as pm
import pytest
import xarray as xr
from scipy import stats

import bayeshlm as bh
from bayeshlm.errors import BayeshlmWarning, DataError
from bayeshlm.posterior import predict as predicting
from tests.models.gallery import load_study, teaching_point

RARE = 1e-5
Z = stats.norm.isf(RARE / 2)
N, H = bh.Normal, bh.HalfNormal


def joined(data: xr.Dataset | xr.DataArray) -> xr.Dataset | xr.DataArray:
    """Chains and draws as one dimension, the first."""
    return data.stack(sample=("chain", "draw")).transpose("sample", ...)  # noqa: PD013  # xarray's, not pandas'


def values(tree: xr.DataTree) -> xr.DataArray:
    """The one variable, (draws, rows)."""
    (variable,) = tree["predictions"].data_vars.values()
    return joined(variable)


def assert_moments(draws: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> None:
    """Independent normal draws, (draws, ...), have these means and standard deviations."""
    count = len(draws)
    assert (np.abs(draws.mean(axis=0) - mean) < Z * sd / np.sqrt(count)).all()
    assert (np.abs(draws.var(axis=0) / sd**2 - 1) < Z * np.sqrt(2 / count)).all()


@pytest.fixture(scope="module")
def slopes() -> tuple[bh.World, xr.DataTree]:
    """A lognormal study with correlated slopes on two nested levels, an arm and a centred covariate."""
    model = bh.Model("y ~ center(x) + arm + (1 + x | method/instructor)", family="lognormal")
    design = bh.Design.nested(
        method=3, instructor=4, i=6, covariates={"x": N(1, 1)},
        treatments={"arm": bh.Treatment(["a", "b"], level="instructor", within="method")},
    )  # fmt: skip
    world = bh.simulate(model, design, random_seed=1)
    return world, bh.fit(model, world.data, draws=250, random_seed=1)


def predictor_of(posterior: xr.DataTree, data: pd.DataFrame, centre: float) -> np.ndarray:
    """The linear predictor of known rows from the draws, by labels: (draws, rows)."""
    p = joined(posterior["posterior"].to_dataset())
    x = xr.DataArray(data.x.to_numpy(), dims="row")
    eta = p["Intercept"] + p["center(x)"] * (x - centre)
    eta = eta + p["arm"].sel(arm_dim="b") * xr.DataArray((data.arm == "b").to_numpy(), dims="row")
    p = p.drop_vars("arm_dim")
    method = xr.DataArray(data.method.to_numpy(), dims="row")
    pair = xr.DataArray([f"{m}:{i}" for m, i in zip(data.method, data.instructor, strict=True)], dims="row")
    at = {"method": method}
    eta = eta + p["1|method"].sel(at).drop_vars("method") + p["x|method"].sel(at).drop_vars("method") * x
    both = "method:instructor"
    eta = eta + p[f"1|{both}"].sel({both: pair}) + p[f"x|{both}"].sel({both: pair}) * x
    return eta.transpose("sample", "row", ...).to_numpy()


def test_known_rows_are_the_linear_predictor_of_the_draws(slopes: tuple[bh.World, xr.DataTree]) -> None:
    world, posterior = slopes
    eta = predictor_of(posterior, world.data, world.data.x.mean())
    sigma = posterior["posterior"]["sigma"].to_numpy().reshape(-1, 1)
    median = bh.predict(posterior, world.data, kind="median")
    mean = bh.predict(posterior, world.data)
    assert list(median["predictions"].data_vars) == ["y_median"]
    assert list(mean["predictions"].data_vars) == ["y_mean"]
    np.testing.assert_allclose(values(median), np.exp(eta), rtol=1e-10)
    np.testing.assert_allclose(values(mean), np.exp(eta + sigma**2 / 2), rtol=1e-10)
    assert json.loads(mean.attrs["new_groups"]) == {}
    # The fit's own mean of x centres other rows too: one row alone is predicted as among the others.
    alone = bh.predict(posterior, world.data.iloc[[7]], kind="median")
    np.testing.assert_allclose(values(alone)[:, 0], np.exp(eta[:, 7]), rtol=1e-10)


def test_responses_scatter_about_the_median(slopes: tuple[bh.World, xr.DataTree]) -> None:
    world, posterior = slopes
    eta = predictor_of(posterior, world.data, world.data.x.mean())
    sigma = posterior["posterior"]["sigma"].to_numpy().reshape(-1, 1)
    drawn = bh.predict(posterior, world.data, kind="response", random_seed=3)
    z = (np.log(values(drawn).to_numpy()) - eta) / sigma
    assert list(drawn["predictions"].data_vars) == ["y"]
    assert stats.kstest(z.ravel(), "norm").pvalue > RARE
    assert abs(np.corrcoef(z[:, 0], z[:, 1])[0, 1]) < Z / np.sqrt(len(z))
    again = bh.predict(posterior, world.data, kind="response", random_seed=3)
    assert again["predictions"].to_dataset().identical(drawn["predictions"].to_dataset())
    other = bh.predict(posterior, world.data, kind="response", random_seed=4)
    assert not other["predictions"].to_dataset().equals(drawn["predictions"].to_dataset())


def test_saved_and_loaded_posterior_predicts_the_same(slopes: tuple[bh.World, xr.DataTree], tmp_path: Path) -> None:
    world, posterior = slopes
    rows = world.data.head(9).assign(instructor=[0, 0, 1, 77, 77, 77, 78, 79, 79])
    loaded = bh.load(bh.save(posterior, tmp_path / "fit.nc"))
    for kind in ("mean", "response"):
        here, there = (bh.predict(p, rows, kind=kind, random_seed=5) for p in (posterior, loaded))
        assert here["predictions"].to_dataset().identical(there["predictions"].to_dataset())
        saved = bh.load(bh.save(here, tmp_path / "predictions.nc"))
        assert saved["predictions"].to_dataset().equals(here["predictions"].to_dataset())


def test_conjugate_regression() -> None:
    """Known errors, no groups: coefficients and predictions are normal in closed form, and draws are independent."""
    rng = np.random.default_rng(1)
    x, se = rng.normal(0, 1, 12), rng.uniform(0.5, 2, 12)
    data = pd.DataFrame({"x": x, "s": se, "y": 1 + 0.5 * x + rng.normal(0, se)})
    model = bh.Model("y ~ x", se="s", priors={"Intercept": N(0.5, 2), "x": N(0, 1)})
    posterior = bh.fit(model, data, draws=5000, random_seed=1)
    design = np.column_stack([np.ones(12), x])
    precision = design.T @ (design / se[:, None] ** 2) + np.diag([1 / 4, 1])
    covariance = np.linalg.inv(precision)
    centre = covariance @ (design.T @ (data.y.to_numpy() / se**2) + [0.5 / 4, 0])
    new = pd.DataFrame({"x": [-3.0, 0.0, 2.0], "s": [0.3, 1.0, 3.0]})
    at = np.column_stack([np.ones(3), new.x])
    variance = np.einsum("ri,ij,rj->r", at, covariance, at)
    mean = values(bh.predict(posterior, new[["x"]])).to_numpy()
    assert_moments(mean, at @ centre, np.sqrt(variance))
    response = values(bh.predict(posterior, new, kind="response", random_seed=1)).to_numpy()
    assert_moments(response, at @ centre, np.sqrt(variance + new.s.to_numpy() ** 2))


def fixed(posterior: xr.DataTree, parameters: dict[str, float]) -> xr.DataTree:
    """The posterior with some parameters at one point, so that what is drawn from them has a known distribution."""
    out = posterior.copy(deep=True)
    for name, value in parameters.items():
        out["posterior"][name].to_numpy()[...] = value
    return out


def test_new_groups_are_drawn_from_the_population_once_each(slopes: tuple[bh.World, xr.DataTree]) -> None:
    _, posterior = slopes
    both = "method:instructor"
    known = {
        "Intercept": 0.0, "center(x)": 0.0, "arm": 0.0, "1|method": 0.0, "x|method": 0.0, f"1|{both}_sigma": 0.4,
        f"x|{both}_sigma": 0.2, f"corr|{both}": np.array([[1, 0.6], [0.6, 1]]),
    }  # fmt: skip
    posterior = fixed(posterior, known)
    centre = 0.0
    rows = pd.DataFrame({
        "method": [0, 0, 0, 1], "instructor": [50, 50, 51, 50], "x": [0.0, 2.0, 0.0, 0.0], "arm": "a",
    })  # fmt: skip
    drawn = np.log(values(bh.predict(posterior, rows, kind="median", random_seed=2)).to_numpy())
    intercept, slope = drawn[:, 0] - centre, (drawn[:, 1] - drawn[:, 0]) / 2
    assert_moments(np.column_stack([intercept, slope]), np.zeros(2), np.array([0.4, 0.2]))
    assert abs(np.arctanh(np.corrcoef(intercept, slope)[0, 1]) - np.arctanh(0.6)) < Z / np.sqrt(len(drawn))
    for other in (2, 3):  # instructor 51 of the same method, and instructor 50 of another, are somebody else
        assert abs(np.corrcoef(intercept, drawn[:, other])[0, 1]) < Z / np.sqrt(len(drawn))
    # Rows of one new group share its draw, also those that a mean and a response speak of.
    twice = pd.concat([rows.iloc[[0]]] * 3)
    shared = values(bh.predict(posterior, twice, kind="median", random_seed=2)).to_numpy()
    assert (shared == shared[:, :1]).all()
    response = np.log(values(bh.predict(posterior, twice, kind="response", random_seed=2)).to_numpy())
    sigma = posterior["posterior"]["sigma"].to_numpy().reshape(-1, 1)
    assert stats.kstest(((response - np.log(shared)) / sigma).ravel(), "norm").pvalue > RARE


def test_new_child_keeps_the_effect_of_its_parent(slopes: tuple[bh.World, xr.DataTree]) -> None:
    _, posterior = slopes
    both = "method:instructor"
    quiet = {f"1|{both}_sigma": 1e-9, f"x|{both}_sigma": 1e-9, "1|method_sigma": 1e-9, "x|method_sigma": 1e-9}
    posterior = fixed(posterior, quiet)
    rows = pd.DataFrame({"method": [2, 99], "instructor": [50, 50], "x": 0.5, "arm": "a"})
    tree = bh.predict(posterior, rows, kind="median", random_seed=1)
    p = joined(posterior["posterior"].to_dataset())
    centre = float(bh.posterior.draws.statistics_of(posterior).layout.constants.popitem()[1][0])
    base = p["Intercept"] + p["center(x)"] * (0.5 - centre)
    child = base + p["1|method"].sel({"method": 2}) + 0.5 * p["x|method"].sel({"method": 2})
    got = np.log(values(tree).to_numpy())
    np.testing.assert_allclose(got[:, 0], child, atol=1e-7)
    np.testing.assert_allclose(got[:, 1], base, atol=1e-7)
    assert json.loads(tree.attrs["new_groups"]) == {"method": 1, both: 2}
    with pytest.raises(DataError, match=r"method: '99'; method:instructor: '2:50', '99:50'"):
        bh.predict(posterior, rows, new_groups="error")


def test_averages_over_groups(slopes: tuple[bh.World, xr.DataTree], monkeypatch: pytest.MonkeyPatch) -> None:
    world, posterior = slopes
    rows = values(bh.predict(posterior, world.data)).to_numpy()
    by_method = bh.predict(posterior, world.data, by="method")
    assert by_method["predictions_constant_data"]["rows"].to_numpy().tolist() == [24, 24, 24]
    for method in range(3):
        expected = rows[:, (world.data.method == method).to_numpy()].mean(axis=1)
        np.testing.assert_allclose(values(by_method)[:, method], expected, rtol=1e-12)
    # The last column of a level means its groups; any other column of the data will do as well.
    pairs = bh.predict(posterior, world.data, by="instructor")["predictions"]
    assert pairs["method:instructor"].to_numpy()[0] == "0:0"
    arms = bh.predict(posterior, world.data.assign(half=["u", "v"] * 36), by="half")
    np.testing.assert_allclose(values(arms)[:, 1], rows[:, 1::2].mean(axis=1), rtol=1e-12)
    monkeypatch.setattr(predicting, "CHUNK", 7_000)  # 7 rows at a time
    np.testing.assert_allclose(values(bh.predict(posterior, world.data, by="method")), values(by_method), rtol=1e-12)
    np.testing.assert_allclose(values(bh.predict(posterior, world.data)), rows, rtol=1e-12)


def test_groups_are_known_by_their_labels_as_text(slopes: tuple[bh.World, xr.DataTree], tmp_path: Path) -> None:
    world, posterior = slopes
    expected = values(bh.predict(posterior, world.data, new_groups="error"))
    text = world.data.assign(method=world.data.method.astype(str), instructor=world.data.instructor.astype(str))
    np.testing.assert_array_equal(values(bh.predict(posterior, text, new_groups="error")), expected)
    path = tmp_path / "rows.csv"
    world.data.drop(columns="y").to_csv(path, index=False)
    # Files hold decimal text: the last digits of x may differ.
    np.testing.assert_allclose(values(bh.predict(posterior, path, new_groups="error")), expected, rtol=1e-9)


def test_response_against_pymc_posterior_predictive() -> None:
    """The twin, at our posterior draws, simulates the responses that `predict` does: KS on each of a few rows."""
    study = load_study("teaching_methods")
    design = bh.Design.nested(method=4, instructor=3, student=5, covariates={"hs_gpa": N(3, 0.25)})
    data = bh.simulate(study.model, design, params=study.params, random_seed=2).data
    posterior = bh.fit(study.model, data, draws=500, random_seed=2)
    draws = joined(posterior["posterior"].to_dataset())
    points = [teaching_point(draws.isel(sample=k), data) for k in range(draws.sizes["sample"])]
    latent = {name: np.stack([np.asarray(p[name]) for p in points])[None] for name in points[0]}
    scales = {name: draws[name].to_numpy()[None] for name in ("1|method_sigma", "1|method:instructor_sigma", "sigma")}
    trace = xr.Dataset({
        name: (("chain", "draw", *(f"{name}_{k}" for k in range(value.ndim - 2))), value)
        for name, value in {**latent, **scales}.items()
    })  # fmt: skip
    theirs = pm.sample_posterior_predictive(
        trace,
        model=study.pymc_model(data),
        random_seed=1,
        progressbar=False,
        freeze_vars=list(trace.data_vars),
        compile_kwargs={"mode": "FAST_COMPILE"},
    )["posterior_predictive"]["score"].to_numpy()[0]
    mine = values(bh.predict(posterior, data, kind="response", random_seed=1)).to_numpy()
    p = [stats.ks_2samp(mine[:, row], theirs[:, row]).pvalue for row in range(len(data))]
    assert min(p) > RARE / len(p)


def test_weights_and_bounds_of_a_response() -> None:
    rng = np.random.default_rng(3)
    data = pd.DataFrame({"w": rng.uniform(0.5, 2, 60), "g": np.repeat(range(6), 10)})
    data["y"] = rng.normal(0, 1 / np.sqrt(data.w))
    model = bh.Model("y ~ 1 + (1 | g)", weights="w", priors={"Intercept": N(), "1|g_sigma": H(), "sigma": H()})
    posterior = fixed(bh.fit(model, data, draws=2000, random_seed=1), {"Intercept": 2.0, "1|g": 0.0, "sigma": 3.0})
    rows = pd.DataFrame({"g": [0, 0], "w": [1.0, 9.0]})
    drawn = values(bh.predict(posterior, rows, kind="response", random_seed=1)).to_numpy()
    assert_moments(drawn, np.array([2.0, 2.0]), np.array([3.0, 1.0]))
    assert values(bh.predict(posterior, rows[["g"]])).to_numpy() == pytest.approx(2.0)
    capped = posterior.copy()
    capped.attrs["model"] = bh.Model(
        model.formula, weights="w", priors=model.priors, censored=(None, 2.5)
    ).to_json()  # as a censored fit would store it
    recorded = values(bh.predict(capped, rows, kind="response", random_seed=1)).to_numpy()
    np.testing.assert_array_equal(recorded, np.minimum(drawn, 2.5))


def test_no_groups_and_no_columns() -> None:
    data = pd.DataFrame({"y": [1.0, 2.0, 4.0, 3.0]})
    model = bh.Model("y ~ 1", priors={"Intercept": N(0, 5), "sigma": H(2)})
    posterior = bh.fit(model, data, draws=100, random_seed=1)
    tree = bh.predict(posterior, pd.DataFrame({"anything": ["a", "b"]}))
    intercept = posterior["posterior"]["Intercept"].to_numpy().reshape(-1, 1)
    np.testing.assert_array_equal(values(tree), np.repeat(intercept, 2, axis=1))


def test_fit_that_did_not_converge_is_named(slopes: tuple[bh.World, xr.DataTree]) -> None:
    world, posterior = slopes
    broken = posterior.copy()
    broken.attrs["status"] = "FAIL"
    with pytest.warns(BayeshlmWarning, match="did not converge"):
        tree = bh.predict(broken, world.data.head(2))
    assert tree.attrs["status"] == "FAIL"


@pytest.mark.parametrize(
    ("change", "options", "fragment"),
    [
        (lambda d: d.drop(columns=["x", "arm"]), {}, "Column not in the data: 'x', 'arm'"),
        (lambda d: d.rename(columns={"arm": "arms"}), {}, "Did you mean 'arms'"),
        (lambda d: d.drop(columns=["method"]), {}, "'method' says which group a row belongs to"),
        (lambda d: d.assign(arm="zz"), {}, "'arm' has the categories 'zz', for which the fit has no effect"),
        (lambda d: d.assign(x=[np.nan, 1, np.inf, 1]), {}, "'x' is infinite in 1 rows (the first at positions 2)"),
        (lambda d: d.assign(x=[np.nan, 1, 1, 1]), {}, "'x' is missing in 1 rows (the first at positions 0)"),
        (lambda d: d.assign(method=[0, None, 1, 1]), {}, "'method' is missing in 1 rows (the first at positions 1)"),
        (lambda d: d.assign(x="much"), {}, "A number is needed: 'x' is String"),
        (lambda d: d.head(0), {}, "no rows"),
        (lambda d: d.assign(x=[1e6, -1e6, 1e6, -1e6]), {}, "not finite"),
        (lambda d: d, {"kind": "predictive"}, "kind='predictive'"),
        (lambda d: d, {"new_groups": "zero"}, "new_groups='zero'"),
        (lambda d: d, {"by": "school"}, "Column not in the data: 'school'"),
        (lambda d: d.assign(draw=1), {"by": "draw"}, "also a dimension"),
        (lambda d: d, {"random_seed": -1}, "random_seed=-1"),
        (lambda d: 17, {}, "data is a int"),
        (lambda d: "nowhere.csv", {}, "No file"),
    ],
)
def test_what_cannot_be_predicted(
    slopes: tuple[bh.World, xr.DataTree], change: object, options: dict[str, object], fragment: str
) -> None:
    world, posterior = slopes
    with pytest.raises(DataError) as caught:
        bh.predict(posterior, change(world.data.head(4)), **options)
    assert fragment in str(caught.value)


def test_too_many_rows_are_refused_with_their_size(
    slopes: tuple[bh.World, xr.DataTree], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, posterior = slopes
    monkeypatch.setattr(predicting, "MAX_BYTES", 8 * 1000 * 100)
    with pytest.raises(DataError, match=r"1,000 draws of 72 predictions .* take 0.0 GiB.*by="):
        bh.predict(posterior, world.data)
    assert bh.predict(posterior, world.data.head(3), by="method")


def test_something_else_is_no_posterior() -> None:
    with pytest.raises(DataError, match="no posterior"):
        bh.predict(xr.DataTree(), pd.DataFrame())
