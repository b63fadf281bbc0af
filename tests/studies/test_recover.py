"""Recovery: scores against closed forms, right models recovered, broken worlds shown to be so."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import bayeshlm as bh
from bayeshlm.errors import DesignError
from bayeshlm.studies.quantities import choose_quantities
from bayeshlm.studies.recover import prior_variance, scores
from bayeshlm.studies.worlds import Capped, HeavyTails, SeedWorld

MODEL = bh.Model(
    "y ~ x + (1 | a/b)",
    family="lognormal",
    priors={
        "Intercept": bh.Normal(1, 0.5), "x": bh.Normal(0, 0.5), "1|a_sigma": bh.HalfNormal(0.5),
        "1|a:b_sigma": bh.HalfNormal(0.5), "sigma": bh.HalfNormal(0.5),
    },
)  # fmt: skip
DESIGN = bh.Design.nested(a=5, b=6, unit=20, covariates={"x": bh.Normal(0, 1)})
PARAMS = {"Intercept": 1.2, "x": 0.3, "1|a_sigma": 0.2, "1|a:b_sigma": 0.1, "sigma": 0.2}
OPTIONS = {"params": PARAMS, "replicates": 60, "random_seed": 4, "n_jobs": 1, "progress": False, "draws": 100}
LIMIT = 4.5  # standard errors: a right score is farther off once in 150,000


@pytest.fixture(scope="module")
def right() -> xr.Dataset:
    return bh.recover(MODEL, DESIGN, **OPTIONS)


def test_scores_of_known_estimates() -> None:
    """Estimates truth + N(0.5, 1) with sd 1 and their normal intervals: every score has a closed form."""
    rng = np.random.default_rng(2)
    truth = rng.normal(3, 2, (4000, 2))
    estimate = truth + rng.normal(0.5, 1, truth.shape)
    half = np.array([0.6744897501960817, 1.2815515655446004, 1.959963984540054])
    lower, upper = estimate[:, :, None] - half, estimate[:, :, None] + half
    found = scores(truth, estimate, np.ones_like(truth), lower, upper, np.array([4.0, np.nan]))
    from scipy.stats import norm

    expected = {
        "bias": 0.5, "rmse": np.sqrt(1.25), "coverage": norm.cdf(half - 0.5) - norm.cdf(-half - 0.5),
        "z": 0.5, "z_sd": 1.0,
    }  # fmt: skip
    for name, value in expected.items():
        got, error = found[name]
        assert (error > 0).all()
        assert (error < 0.05).all()
        assert np.abs((got - value) / error).max() < LIMIT
    np.testing.assert_allclose(found["width"][0], np.broadcast_to(2 * half, (2, 3)))
    assert found["contraction"][0].tolist() == pytest.approx([0.75, np.nan], nan_ok=True)


def test_monte_carlo_errors_are_those_of_repeated_studies() -> None:
    """The sd of each score over 400 studies against the mean standard error it tells (within 20 %)."""
    rng = np.random.default_rng(3)
    seen: dict[str, list[tuple[float, float]]] = {}
    for _ in range(400):
        truth = rng.normal(0, 1, (100, 1))
        sd = rng.uniform(0.5, 1, truth.shape)
        estimate = truth + sd * rng.standard_t(8, truth.shape)
        interval = sd[:, :, None] * np.array([0.67, 1.28, 1.96])
        found = scores(
            truth, estimate, sd, estimate[:, :, None] - interval, estimate[:, :, None] + interval, np.ones(1)
        )
        for name, (value, error) in found.items():
            seen.setdefault(name, []).append((float(value.ravel()[0]), float(error.ravel()[0])))
    for name, pairs in seen.items():
        values, errors = np.array(pairs).T
        assert errors.mean() == pytest.approx(values.std(), rel=0.2), name


def test_a_right_model_recovers_its_parameters(right) -> None:
    """Bias and calibration of the common effects and sigma, which the prior hardly pulls."""
    for name in ("x", "sigma"):
        one = right.sel(quantity=name)
        assert abs(float(one["bias"] / one["bias_se"])) < LIMIT
        assert abs(float((one["z_sd"] - 1) / one["z_sd_se"])) < LIMIT
        assert (np.abs((one["coverage"] - one["level"]) / one["coverage_se"]) < LIMIT).all()
        assert float(one["contraction"]) > 0.95
    assert right["truth"].sel(quantity="1|a_sigma").values.tolist() == [0.2] * 60
    effects = right["truth"].sel(quantity="1|a[0]")
    assert np.unique(effects).size == 60  # drawn anew each time
    error = right["estimate"] - right["truth"]
    np.testing.assert_allclose(right["bias"], error.mean("replicate"))
    np.testing.assert_allclose(right["rmse"], np.sqrt((error**2).mean("replicate")))


def test_widths_grow_with_the_level_and_agree_with_the_sd(right) -> None:
    width = right["width"].sel(quantity="x")
    normal = 2 * np.array([0.6745, 1.2816, 1.96]) * float(right["sd"].sel(quantity="x").mean())
    np.testing.assert_allclose(width, normal, rtol=0.05)


def test_prior_variances() -> None:
    statistics = bh.compress(MODEL, bh.simulate(MODEL, DESIGN, random_seed=1).data)
    model = MODEL.with_priors({"x": bh.Normal(0, 0.5), "1|a_sigma": bh.HalfCauchy(1)})
    heavy = bh.compress(model, bh.simulate(model, DESIGN, params=PARAMS, random_seed=1).data)
    values = {n: np.asarray(v.values) for n, v in bh.simulate(MODEL, DESIGN, random_seed=1).truth.data_vars.items()}
    chosen = choose_quantities(statistics, values, fixed_sizes=True).without("log_likelihood")
    found = dict(zip(chosen.names, prior_variance(statistics, chosen), strict=True))
    half = 0.25 * (1 - 2 / np.pi)
    for name, value in {"x": 0.25, "sigma": half, "1|a[0]": 0.25, "contrast|a[0 - 1]": 0.5}.items():
        assert found[name] == pytest.approx(value, rel=0.15)  # 4,000 draws; a scale mixture's fourth moment is large
    without = dict(zip(chosen.names, prior_variance(heavy, chosen), strict=True))
    for name in ("1|a_sigma", "1|a[0]", "contrast|a[0 - 1]", "ICC|a"):
        assert np.isnan(without[name])
    assert without["x"] == pytest.approx(0.25, rel=0.15)


def test_heavy_tails_are_scaled_to_sigma() -> None:
    design = bh.Design.nested(a=5, b=6, unit=2000, covariates={"x": bh.Normal(0, 1)})
    world = HeavyTails(MODEL, design, degrees=6)(PARAMS, np.random.SeedSequence(1))
    plain = bh.simulate(
        MODEL, design, params={**PARAMS, "sigma": 0.0}, random_seed=np.random.SeedSequence(1).spawn(2)[0]
    )
    noise = np.log(world.data["y"] / plain.data["y"]).to_numpy()
    assert float(world.truth["sigma"]) == 0.2
    assert noise.std() == pytest.approx(0.2, rel=LIMIT * np.sqrt(5 / 4 / len(noise)))  # kurtosis 6 at 6 degrees
    assert abs(float((noise**4).mean() / noise.std() ** 4) - 3) > 1.0
    with pytest.raises(DesignError, match="above 2"):
        HeavyTails(MODEL, DESIGN, degrees=2)


def test_a_capped_score_shows_as_bias() -> None:
    """A cap that half of the units of a good group reach: sigma is underestimated, and its coverage says so."""
    capped = bh.recover(MODEL, DESIGN, **{**OPTIONS, "replicates": 20}, world=Capped(MODEL, DESIGN, cap=4.0))
    sigma = capped.sel(quantity="sigma")
    assert float(sigma["bias"] / sigma["bias_se"]) < -LIMIT
    assert float(sigma["coverage"].sel(level=0.95)) < 0.5
    assert capped.attrs["world"] == "Capped(cap=4)"


def test_the_seed_study_as_written_under_a_lognormal_model() -> None:
    """Normal(1, 0.1) effects and Normal(75, 10) noise: the slope is recovered, whatever the noise's shape."""
    model = bh.Model("score ~ log1p(hs_gpa) + (1 | method/instructor)", family="lognormal", priors={
        "Intercept": bh.Normal(7, 1), "log1p(hs_gpa)": bh.Normal(1, 0.5), "1|method_sigma": bh.HalfNormal(0.1),
        "1|method:instructor_sigma": bh.HalfNormal(0.2), "sigma": bh.HalfNormal(0.3)})  # fmt: skip
    design = bh.Design.nested(method=5, instructor=4, student=50, covariates={"hs_gpa": bh.Normal(3, 0.25)})
    found = bh.recover(
        model, design, world=SeedWorld(1000, 20, 5), replicates=20, draws=100, random_seed=2, n_jobs=1, progress=False
    )
    slope = found.sel(quantity="log1p(hs_gpa)")
    assert abs(float(slope["bias"] / slope["bias_se"])) < LIMIT
    assert float(slope["coverage"].sel(level=0.95)) > 0.7
    assert found.attrs["failed"] == 0
    assert found["rows"].values.tolist() == [1.0] * 20


def test_files_and_stores_keep_it(tmp_path) -> None:
    options = {**OPTIONS, "replicates": 6, "store": tmp_path / "store"}
    first = bh.recover(MODEL, DESIGN, **options)
    again = bh.recover(MODEL, DESIGN, **options)
    assert again.drop_attrs().equals(first.drop_attrs())
    other = bh.recover(MODEL, DESIGN, **{**options, "params": {**PARAMS, "x": 0.4}})
    assert not np.array_equal(other["estimate"], first["estimate"])
    assert len(list((tmp_path / "store").iterdir())) == 2
    first.to_netcdf(tmp_path / "r.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "r.nc", engine="h5netcdf") as read:
        assert read.load()["bias"].equals(first["bias"])
        assert read.attrs["params"] == first.attrs["params"]


def test_what_cannot_work_is_refused_before_any_work() -> None:
    with pytest.raises(DesignError, match="params names 'beta'"):
        bh.recover(MODEL, DESIGN, **{**OPTIONS, "params": {"beta": 1}})
    with pytest.raises(DesignError, match="world=3 is no function"):
        bh.recover(MODEL, DESIGN, **OPTIONS, world=3)
