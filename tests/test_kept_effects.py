"""Moments of effects instead of draws: the same numbers, and every reader knows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import bayeshlm as bh
from bayeshlm.engines.exact import effect_moments as effectmoments
from bayeshlm.engines.exact import fit as exact
from tests.test_fit import MODEL

DESIGN = bh.Design.nested(method=4, instructor=300, student=3, covariates={"hs_gpa": bh.Normal(3, 0.25)})
NAME = "1|method:instructor"


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return bh.simulate(MODEL, DESIGN, random_seed=1).data


@pytest.fixture(scope="module")
def posterior(data: pd.DataFrame) -> xr.DataTree:
    return bh.fit(MODEL, data, random_seed=1, effects="moments")


def test_moments_are_those_of_the_draws(data: pd.DataFrame, posterior: xr.DataTree) -> None:
    """1,200 means and sds within Monte Carlo error of draws (false alarms 1e-4: 5.3 errors each)."""
    draws = bh.fit(MODEL, data, random_seed=1)["posterior"][NAME]
    moments = posterior["effect_moments"][NAME]
    assert moments.dims == ("moment", "method:instructor")
    assert moments["method:instructor"].values.tolist() == draws["method:instructor"].values.tolist()
    mean, sd = moments.sel(moment="mean"), moments.sel(moment="sd")
    count = draws.sizes["chain"] * draws.sizes["draw"]
    # Draws of theta are correlated a little, and the effects share it: 1.5 covers both.
    assert float(abs((draws.mean(("chain", "draw")) - mean) / sd).max()) < 1.5 * 5.3 / np.sqrt(count)
    assert float(abs(draws.std(("chain", "draw")) / sd - 1).max()) < 1.5 * 5.3 / np.sqrt(2 * count)


def test_few_thetas_are_said_and_nearly_as_good(
    data: pd.DataFrame, posterior: xr.DataTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effectmoments, "WORK", 1.0)
    few = bh.fit(MODEL, data, random_seed=1, effects="moments")
    note = json.loads(few.attrs["notes"])[-1]
    assert "1,200 groups" in note
    assert "200 draws of the hyperparameters" in note
    error = float(note.split("at most ")[1].split(" ")[0])
    both = [tree["effect_moments"][NAME] for tree in (few, posterior)]
    off = abs(both[0].sel(moment="mean") - both[1].sel(moment="mean")) / both[1].sel(moment="sd")
    assert float(off.max()) < 5.5 * error
    assert error < 0.05


def test_auto_keeps_draws_until_they_are_large(data: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "effect_moments" not in bh.fit(MODEL, data, random_seed=1, draws=100).children
    monkeypatch.setattr(exact, "AUTO_BYTES", 8 * 4000 * 100)
    kept = bh.fit(MODEL, data, random_seed=1)
    assert NAME in kept["effect_moments"]
    assert NAME not in kept["posterior"]
    assert "1|method" in kept["posterior"]
    assert "means and standard deviations are kept" in kept.attrs["notes"]


def test_readers_use_what_there_is_or_say_what_is_missing(posterior: xr.DataTree, tmp_path: Path) -> None:
    loaded = bh.load(bh.save(posterior, tmp_path / "fit.nc"))
    table = bh.summarize(loaded)
    rows = table[table["variable"] == NAME]
    assert len(rows) == 1200
    assert np.array_equal(rows["mean"], posterior["effect_moments"][NAME].sel(moment="mean"))
    assert rows["median"].isna().all()
    assert bh.diagnose(loaded).status == "PASS"
    assert bh.compare(loaded, "method").status == "PASS"
    assert np.isfinite(bh.loo(loaded, "method").elpd)
    assert bh.sensitivity(loaded, "method").table["prior"].notna().all()
    assert "1,200 groups" in Path(bh.report(loaded, tmp_path / "report.html")).read_text(encoding="utf-8")
    with pytest.raises(bh.errors.DataError, match="only means and standard deviations were kept"):
        bh.compare(loaded, "instructor")


def test_slopes_by_category_keep_their_labels() -> None:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"g": np.repeat(np.arange(1100), 4), "arm": np.tile(list("uvuv"), 1100)})
    frame["y"] = rng.normal(0, 1, 4400) + rng.normal(0, 1, 1100)[frame["g"]]
    model = bh.Model("y ~ arm + (1 + arm | g)", priors={
        "Intercept": bh.Normal(0, 2), "arm": bh.Normal(0, 2), "1|g_sigma": bh.HalfNormal(1),
        "arm|g_sigma": bh.HalfNormal(1), "sigma": bh.HalfNormal(1),
    })  # fmt: skip
    moments = bh.fit(model, frame, random_seed=1, draws=250, effects="moments")["effect_moments"]
    assert moments["arm|g"].dims == ("moment", "g", "arm|g_dim")
    assert moments["1|g"].dims == ("moment", "g")
    assert bool(np.isfinite(moments["arm|g"]).all())


def test_refusals(data: pd.DataFrame) -> None:
    with pytest.raises(bh.errors.DataError, match="effects='none'"):
        bh.fit(MODEL, data, effects="none")
    with pytest.raises(bh.errors.EngineError, match='or for effects="moments"'):
        bh.fit(MODEL, data, effects="draws", draws=300_000)
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"a": np.arange(60) % 5, "b": np.arange(60) % 4, "y": rng.normal(0, 1, 60)})
    with pytest.raises(bh.errors.EngineError, match="crossed ones keep draws"), pytest.warns(bh.errors.BayeshlmWarning):
        bh.fit(bh.Model("y ~ 1 + (1 | a) + (1 | b)"), frame, effects="moments")
