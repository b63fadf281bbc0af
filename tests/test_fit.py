"""One analysis, end to end: the tree, its attrs, seeds, statistics instead of rows, saving."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import bayeshlm as bh

MODEL = bh.Model(
    "score ~ log1p(hs_gpa) + (1 | method/instructor)",
    family="lognormal",
    priors={
        "Intercept": bh.Normal(7, 1), "log1p(hs_gpa)": bh.Normal(1, 0.5), "1|method_sigma": bh.HalfNormal(0.1),
        "1|method:instructor_sigma": bh.HalfNormal(0.2), "sigma": bh.HalfNormal(0.3),
    },
)  # fmt: skip
DESIGN = bh.Design.nested(method=4, instructor=5, student=30, covariates={"hs_gpa": bh.Normal(3, 0.25)})


@pytest.fixture(scope="module")
def world() -> bh.World:
    return bh.simulate(MODEL, DESIGN, random_seed=1)


@pytest.fixture(scope="module")
def posterior(world: bh.World) -> xr.DataTree:
    return bh.fit(MODEL, world.data, random_seed=2)


def test_tree_has_the_groups_names_and_labels_of_the_contract(posterior: xr.DataTree, world: bh.World) -> None:
    assert set(posterior.children) == {"posterior", "sample_stats", "constant_data", "statistics"}
    draws = posterior["posterior"]
    assert set(draws.data_vars) == set(world.truth.data_vars)
    assert draws["1|method"].dims == ("chain", "draw", "method")
    assert draws["1|method:instructor"].dims == ("chain", "draw", "method:instructor")
    assert draws["1|method:instructor"].shape == (4, 1000, 20)
    assert draws["method:instructor"].values.tolist() == world.truth["method:instructor"].values.tolist()
    assert draws["method:instructor"].values[0] == "0:0"
    rows = posterior["constant_data"]["method:instructor_rows"]
    assert (rows.values == 30).all()


def test_attrs_make_it_self_contained(posterior: xr.DataTree) -> None:
    attrs = posterior.attrs
    assert bh.Model.from_json(attrs["model"]) == MODEL
    assert attrs["engine"] == "exact"
    assert "nested" in attrs["engine_reason"]
    assert attrs["random_seed"] == 2
    assert attrs["status"] == "PASS"
    assert attrs["rows"] == attrs["rows_seen"] == 600
    assert json.loads(attrs["versions"])["bayeshlm"] == bh.__version__
    assert np.isfinite(attrs["log_evidence"])


def test_same_seed_same_posterior_other_seed_another(posterior: xr.DataTree, world: bh.World) -> None:
    again, other = (bh.fit(MODEL, world.data, random_seed=seed) for seed in (2, 3))
    xr.testing.assert_identical(again["posterior"].to_dataset(), posterior["posterior"].to_dataset())
    assert not np.array_equal(other["posterior"]["sigma"].values, posterior["posterior"]["sigma"].values)


def test_seed_drawn_when_none_is_given_reproduces(world: bh.World) -> None:
    """The seed is another one each run, so the draws are many: a FAIL by chance (R-hat 1.05) is out of reach."""
    first = bh.fit(MODEL, world.data)
    second = bh.fit(MODEL, world.data, random_seed=first.attrs["random_seed"])
    assert np.array_equal(first["posterior"]["sigma"].values, second["posterior"]["sigma"].values)


def test_statistics_give_the_same_posterior_as_rows(posterior: xr.DataTree, world: bh.World) -> None:
    statistics = bh.compress(MODEL, world.data)
    xr.testing.assert_identical(
        bh.fit(MODEL, statistics, random_seed=2)["posterior"].to_dataset(), posterior["posterior"].to_dataset()
    )
    tighter = MODEL.with_priors({"1|method_sigma": bh.HalfNormal(1e-3)})  # priors may change after compression
    refit = bh.fit(tighter, statistics, random_seed=2)
    assert refit["posterior"]["1|method_sigma"].mean() < 0.002
    with pytest.raises(bh.errors.DataError, match="only priors may differ"):
        bh.fit(bh.Model("score ~ 1 + (1 | method)", family="lognormal"), statistics)


def test_truth_is_covered(posterior: xr.DataTree, world: bh.World) -> None:
    """Every effect within 5 posterior sds of the truth (29 checks, false alarms below 2e-5)."""
    for name, truth in world.truth.data_vars.items():
        draws = posterior["posterior"][name]
        if not str(name).endswith("sigma"):
            z = (truth - draws.mean(("chain", "draw"))) / draws.std(("chain", "draw"))
            assert np.abs(z).max() < 5


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_saved_and_loaded_it_is_the_same(posterior: xr.DataTree, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"fit{suffix}"
    for _ in range(2):  # the second time over the first
        assert bh.save(posterior, path) == path
    loaded = bh.load(path)
    for group in posterior.children:
        xr.testing.assert_equal(loaded[group].to_dataset(), posterior[group].to_dataset())
    assert loaded.attrs["model"] == posterior.attrs["model"]
    assert bh.compare(loaded, "method").to_text() == bh.compare(posterior, "method").to_text()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_save_and_load_refuse_what_they_cannot_do(posterior: xr.DataTree, tmp_path: Path) -> None:
    with pytest.raises(bh.errors.DataError, match="suffix"):
        bh.save(posterior, tmp_path / "fit.pickle")
    with pytest.raises(bh.errors.DataError, match="does not exist"):
        bh.save(posterior, tmp_path / "no" / "fit.nc")
    with pytest.raises(bh.errors.DataError, match="No file"):
        bh.load(tmp_path / "fit.nc")
    (tmp_path / "broken.nc").write_bytes(b"not a NetCDF file")
    with pytest.raises(bh.errors.DataError, match="cannot be read"):
        bh.load(tmp_path / "broken.nc")


def test_default_priors_are_said_and_stored() -> None:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"g": np.repeat(np.arange(12), 8), "x": rng.normal(5, 2, 96)})
    frame["y"] = 100 + 3 * frame["x"] + rng.normal(0, 4, 12)[frame["g"]] + rng.normal(0, 5, 96)
    model = bh.Model("y ~ x + (1 | g)")
    with pytest.warns(bh.errors.BayeshlmWarning, match=r"Default priors.*Intercept ~ Normal"):
        posterior = bh.fit(model, frame, random_seed=1)
    explicit = bh.Model.from_json(posterior.attrs["model"])
    assert not explicit.missing_priors
    assert explicit == bh.scaled_priors(model, frame)
    assert "Default priors" in json.loads(posterior.attrs["notes"])[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = bh.fit(explicit, frame, random_seed=1)
    assert np.array_equal(again["posterior"]["x"].values, posterior["posterior"]["x"].values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"draws": 0}, "draws=0"),
        ({"chains": 1.5}, "chains=1.5"),
        ({"random_seed": -1}, "random_seed=-1"),
        ({"engine": "magic"}, "engine='magic'"),
        ({"missing": "ignore"}, "missing='ignore'"),
    ],
)
def test_bad_arguments_are_named(world: bh.World, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(bh.errors.BayeshlmError, match=message):
        bh.fit(MODEL, world.data, **arguments)


def test_too_few_draws_fail_the_diagnosis_loudly(world: bh.World) -> None:
    with pytest.warns(bh.errors.BayeshlmWarning, match="did not converge"):
        posterior = bh.fit(MODEL, world.data, draws=3, chains=1, random_seed=1)
    assert posterior.attrs["status"] == "FAIL"
    assert bh.diagnose(posterior).status == "FAIL"
    comparison = bh.compare(posterior, "method")
    assert comparison.status == "FAIL"
    assert "DID NOT CONVERGE" in comparison.to_text()
