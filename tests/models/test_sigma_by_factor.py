"""`sigma ~ factor` from the formula to the report: names, simulation, merging, files, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import bayeshlm as bh
from bayeshlm.data.compress import compress
from bayeshlm.posterior.draws import flat

MODEL = bh.Model(
    "y ~ x + (1 | method/g); sigma ~ arm",
    priors={
        "Intercept": bh.Normal(0, 5), "x": bh.Normal(0, 1), "1|method_sigma": bh.HalfNormal(1),
        "1|method:g_sigma": bh.HalfNormal(1), "sigma": bh.HalfNormal(2),
    },
)  # fmt: skip
DESIGN = bh.Design.nested(
    method=4, g=6, unit=25, covariates={"x": bh.Normal(0, 1)},
    treatments={"arm": bh.Treatment(["old", "new", "none"], level="g")},
)  # fmt: skip
TRUTH = {"old": 1.0, "new": 3.0, "none": 0.2}


@pytest.fixture(scope="module")
def world() -> bh.World:
    return bh.simulate(MODEL, DESIGN, params={"sigma": TRUTH}, random_seed=1)


@pytest.fixture(scope="module")
def posterior(world: bh.World) -> xr.DataTree:
    return bh.fit(MODEL, world.data, random_seed=1)


def test_each_category_gets_its_sigma_back(world: bh.World, posterior: xr.DataTree) -> None:
    sigma = posterior["posterior"]["sigma"]
    assert sigma.dims == ("chain", "draw", "sigma_dim")
    assert sigma["sigma_dim"].values.tolist() == ["old", "new", "none"]  # the order of the column's type
    assert world.truth["sigma"].values.tolist() == [1.0, 3.0, 0.2]
    z = (sigma.mean(("chain", "draw")) - world.truth["sigma"]) / sigma.std(("chain", "draw"))
    assert float(abs(z).max()) < 4.5  # false alarms below 1e-4
    assert posterior.attrs["status"] == "PASS"


def test_names_spellings_and_round_trip() -> None:
    assert MODEL.parameters["sigma"] == "scale"
    assert MODEL.columns == ("y", "x", "method", "g", "arm")
    assert bh.Model.from_json(MODEL.to_json()) == MODEL
    broken = bh.Model("y ~ x + (1 | method/g)\n   sigma~arm", priors=MODEL.priors)
    assert broken == MODEL
    assert bh.Model("y ~ x; sigma ~ 1").formula == "y ~ x"
    assert bh.Model("y ~ x + \n z").formula == "y ~ x + z"  # a line break is no part of its own
    assert bh.Model("y ~ x; sigma ~ `a; b`").columns == ("y", "x", "a; b")


def test_sites_with_different_categories_add_up(world: bh.World, posterior: xr.DataTree) -> None:
    data = world.data.assign(arm=world.data["arm"].astype(str))
    parts = [compress(MODEL, data[data["arm"] == arm], site="here") for arm in ("new", "none", "old")]
    joined, whole = parts[0] + parts[1] + parts[2], compress(MODEL, data)
    assert joined.layout == whole.layout
    assert np.array_equal(joined.residual, whole.residual)
    for name in ("weight", "mean", "scatter", "log_weights", "jacobians"):
        left, right = getattr(joined, name), getattr(whole, name)
        if name == "mean":
            left, right = left + joined.shift, right + whole.shift
        assert np.allclose(left, right, rtol=1e-10, atol=1e-10)
    again = bh.fit(MODEL, joined, random_seed=1)["posterior"]["sigma"].mean(("chain", "draw"))
    usual = posterior["posterior"]["sigma"].mean(("chain", "draw"))
    assert np.allclose(again.sel(sigma_dim=["old", "new", "none"]), usual, rtol=0.02)


def test_readers(posterior: xr.DataTree, tmp_path: Path) -> None:
    loaded = bh.load(bh.save(posterior, tmp_path / "fit.nc"))
    table = bh.summarize(loaded)
    assert table[table["variable"] == "sigma"]["label"].tolist() == ["old", "new", "none"]
    variance = (flat(loaded, "sigma") ** 2).mean(axis=1)  # 200 rows an arm
    parts = [flat(loaded, f"1|{level}_sigma") ** 2 for level in ("method", "method:g")]
    icc = table[(table["variable"] == "ICC") & (table["label"] == "method:g")]["mean"].item()
    assert icc == pytest.approx(float((parts[1] / (parts[0] + parts[1] + variance)).mean()))
    rope = bh.compare(loaded, "method").rope
    assert rope[1] == pytest.approx(0.1 * np.sqrt(np.median(variance)))
    page = Path(bh.report(loaded, tmp_path / "report.html")).read_text(encoding="utf-8")
    assert "sigma [none]" in page
    assert "3 standard deviations" in page
    assert np.isfinite(bh.loo(loaded, "method").elpd)
    assert {"sigma[old]", "sigma[new]"} <= set(bh.sensitivity(loaded).table["quantity"])
    assert np.isfinite(bh.evidence(loaded).log_evidence)


def test_weights_lognormal_and_a_factor_within_groups() -> None:
    rng = np.random.default_rng(2)
    frame = pd.DataFrame(
        {"g": np.repeat(np.arange(30), 20), "w": rng.uniform(0.5, 2, 600), "year": 2020 + rng.integers(0, 2, 600)}
    )
    noise = np.where(frame["year"] == 2020, 0.2, 0.6) / np.sqrt(frame["w"]) * rng.standard_normal(600)
    frame["y"] = np.exp(1 + rng.normal(0, 0.4, 30)[frame["g"]] + noise)
    model = bh.Model("y ~ 1 + (1 | g); sigma ~ C(year)", family="lognormal", weights="w")
    sigma = bh.fit(model, frame, random_seed=1)["posterior"]["sigma"]
    assert sigma["sigma_dim"].values.tolist() == [2020, 2021]
    mean, sd = sigma.mean(("chain", "draw")), sigma.std(("chain", "draw"))
    assert (abs(mean.values - [0.2, 0.6]) < 4.5 * sd.values).all()


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("y ~ x; sigma ~ x", "Write sigma ~ C\\(x\\)"),
        ("y ~ x; sigma ~ nothing", "Column not in the data: 'nothing'"),
        ("y ~ x; sigma ~ arm + x", "may differ by one factor"),
        ("y ~ x; sigma ~ ", "may differ by one factor"),
        ("y ~ x; sigma ~ log(x)", "may differ by one factor"),
        ("y ~ x; tau ~ arm", "behind a semicolon only 'sigma ~ factor'"),
        ("y ~ x; sigma ~ arm; sigma ~ g", "more than one 'sigma ~'"),
        ("y ~ x; sigma ~ C(unit)", "600 of them"),
        ("y ~ x; sigma ~ y", "also stands on the right"),
        ("y ~ x; sigma ~ one", "one category only"),
        ("y ~ x + (1 | sigma_dim); sigma ~ arm", "same name"),
    ],
)
def test_what_cannot_be_is_refused(world: bh.World, formula: str, message: str) -> None:
    data = world.data.assign(one="a", sigma_dim=world.data["g"])
    with pytest.raises(bh.errors.BayeshlmError, match=message):
        bh.fit(bh.Model(formula, family="lognormal" if "sigma_dim" in formula else "gaussian"), data)


def test_known_errors_leave_no_sigma_to_differ() -> None:
    with pytest.raises(bh.errors.FormulaError, match="no 'sigma' that could differ"):
        bh.Model("y ~ x; sigma ~ arm", se="s")


def test_crossed_levels_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly, to the report; too many groups go to NUTS, and it says why."""
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"g": rng.permutation(np.arange(600) % 30), "h": rng.permutation(np.arange(600) % 12),
                          "arm": rng.choice(list(TRUTH), 600), "x": rng.normal(0, 1, 600)})  # fmt: skip
    noise = frame["arm"].map(TRUTH) * rng.standard_normal(600)
    frame["y"] = frame["x"] + rng.normal(0, 1, 30)[frame["g"]] + rng.normal(0, 1, 12)[frame["h"]] + noise
    model = bh.Model("y ~ x + (1 | g) + (1 | h); sigma ~ arm", priors={
        "Intercept": bh.Normal(0, 5), "x": bh.Normal(0, 1), "1|g_sigma": bh.HalfNormal(1),
        "1|h_sigma": bh.HalfNormal(1), "sigma": bh.HalfNormal(2),
    })  # fmt: skip
    posterior = bh.fit(model, frame.astype({"g": str, "h": str}), random_seed=1)
    assert posterior.attrs["engine"] == "exact"
    assert posterior.attrs["status"] == "PASS"
    sigma = posterior["posterior"]["sigma"]
    truth = [TRUTH[label] for label in sigma["sigma_dim"].values.tolist()]
    z = (sigma.mean(("chain", "draw")) - truth) / sigma.std(("chain", "draw"))
    assert float(abs(z).max()) < 4.5  # false alarms below 1e-4
    assert np.isfinite(bh.loo(posterior, "h").elpd)
    assert {"sigma[old]", "sigma[new]"} <= set(bh.sensitivity(posterior).table["quantity"])
    monkeypatch.setattr("bayeshlm.engines.exact.build.MOST_SECONDS", 0.0)
    with pytest.raises(bh.errors.EngineError, match=r"deviation by category .* minutes for so many groups"):
        bh.fit(model, frame, engine="exact")
