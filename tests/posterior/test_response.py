"""Arms on the scale of the response: averages over rows, against NumPy on the same draws."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

import bayeshlm as bh
from bayeshlm.errors import DataError
from bayeshlm.posterior.draws import flat
from tests.posterior.fabricated import fabricated


def study(seed: int = 5) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    data = pd.DataFrame({"g": np.repeat(np.arange(10), 12)})
    data["arm"] = np.where(data["g"] % 2, "new", "old")
    data["x"] = rng.normal(0.3, 1.0, len(data)).round(1)
    data["n"] = rng.integers(1, 9, len(data))
    data["hours"] = rng.uniform(1, 5, len(data)).round(1)
    data["cured"] = rng.integers(0, 2, len(data))
    data["many"] = rng.binomial(data["n"], 0.4)
    data["events"] = rng.poisson(2, len(data))
    data["y"] = rng.uniform(0.5, 3, len(data))
    return data


GIVEN = {"Intercept": -0.4, "arm": -0.7, "x": 0.6, "arm:x": 0.2, "1|g_sigma": 0.5}
MODELS = {
    "bernoulli": "cured ~ arm * x + (1 | g)", "binomial": "p(many, n) ~ arm * x + (1 | g)",
    "poisson": "events ~ arm * x + offset(log(hours)) + (1 | g)", "gamma": "y ~ arm * x + (1 | g)",
}  # fmt: skip


@pytest.mark.parametrize("family", MODELS)
def test_means_are_the_averages_over_the_rows(family: str) -> None:
    data = study()
    posterior = fabricated(bh.Model(MODELS[family], family=family), data, GIVEN)
    found = bh.compare(posterior, "arm", scale="response", maximize=True)
    b = {name: flat(posterior, name)[:, None] for name in ("Intercept", "x")}
    arm, slope = flat(posterior, "arm"), flat(posterior, "arm:x").reshape(-1, 1)
    x, groups = data["x"].to_numpy(), flat(posterior, "1|g")[:, data["g"]]
    new = b["Intercept"] + b["x"] * x + groups  # categories are sorted: `new` is the reference
    old = new + arm + slope * x
    if family == "poisson":
        new, old = (eta + np.log(data["hours"].to_numpy()) for eta in (new, old))
    weights = data["n"] if family == "binomial" else None
    inverse = expit if family in ("bernoulli", "binomial") else np.exp
    there, here = (np.average(inverse(eta), axis=1, weights=weights) for eta in (old, new))
    assert found.table.loc["old", "mean"] == pytest.approx(np.median(there))
    assert found.table.loc["new", "mean"] == pytest.approx(np.median(here))
    pair = found.pair("old", "new")
    difference = there - here
    assert pair["difference"] == pytest.approx(np.median(difference))
    assert (pair["lower"], pair["upper"]) == pytest.approx(np.quantile(difference, [0.025, 0.975]))
    assert pair["ratio"] == pytest.approx(np.median(there / here))
    assert (pair["ratio_lower"], pair["ratio_upper"]) == pytest.approx(np.quantile(there / here, [0.025, 0.975]))
    turned = found.pair("new", "old")
    assert turned["ratio_lower"] == pytest.approx(1 / pair["ratio_upper"])
    assert found.best == ("new" if np.median(difference) < 0 else "old")
    assert ("nnt" in pair) == (family in ("bernoulli", "binomial"))
    if "nnt" not in pair:
        return
    assert "points" in found.verdict()
    if pair["upper"] < 0:
        assert pair["nnt"] == turned["nnt"] == pytest.approx(1 / abs(np.median(difference)))
    else:
        assert np.isnan(pair["nnt"])


def test_a_population_is_averaged_over_and_its_new_groups_are_drawn() -> None:
    data = study()
    posterior = fabricated(bh.Model(MODELS["bernoulli"], family="bernoulli"), data, GIVEN)
    rows = data[data["x"] > 0.5].drop(columns="cured")
    found = bh.compare(posterior, "arm", scale="response", population=rows)
    both = [
        bh.predict(posterior, rows.assign(arm=arm), random_seed=1, progress=False)["predictions"]["cured_mean"]
        for arm in ("old", "new")
    ]
    difference = (both[0] - both[1]).mean("row").to_numpy().ravel()
    assert found.pair("old", "new")["difference"] == pytest.approx(np.median(difference))
    elsewhere = rows.assign(g=rows["g"] + 100)
    there = bh.compare(posterior, "arm", scale="response", population=elsewhere)
    assert there.table.loc["old", "mean"] == bh.compare(
        posterior, "arm", scale="response", population=elsewhere).table.loc["old", "mean"]  # fmt: skip
    assert "averaged over the population given" in there.baseline


def test_a_lognormal_model_keeps_no_rows_and_asks_for_them() -> None:
    data = study()
    model = bh.Model("y ~ arm * x + (1 | g)", family="lognormal")
    posterior = bh.fit(model, data, draws=250, random_seed=1, progress=False)
    with pytest.raises(DataError, match="give population="):
        bh.compare(posterior, "arm", scale="response")
    found = bh.compare(posterior, "arm", scale="response", population=data)
    both = [bh.predict(posterior, data.assign(arm=arm), random_seed=1, progress=False)["predictions"]["y_mean"]
            for arm in ("old", "new")]  # fmt: skip
    there, here = (values.mean("row").to_numpy().ravel() for values in both)
    assert found.pair("old", "new")["difference"] == pytest.approx(np.median(there - here))
    assert found.pair("old", "new")["ratio"] == pytest.approx(np.median(there / here))
    assert found.rope == pytest.approx((-0.01 * np.median(here), 0.01 * np.median(here)))


def test_differences_of_means_are_the_coefficients_of_an_identity_link() -> None:
    priors = {name: bh.Normal(0, 5) for name in ("Intercept", "arm", "x", "arm:x")}
    priors |= {name: bh.HalfNormal(1) for name in ("1|g_sigma", "sigma")}
    model = bh.Model("y ~ arm * x + (1 | g)", priors=priors)
    posterior = bh.fit(model, study(), draws=250, random_seed=1, progress=False)
    there, here = (bh.compare(posterior, "arm", scale=scale) for scale in ("response", "link"))
    pd.testing.assert_frame_equal(there.pairs, here.pairs)
    averaged = bh.compare(posterior, "arm", scale="response", population=study())
    assert averaged.pair("old", "new")["difference"] == pytest.approx(here.pair("old", "new")["difference"], rel=1e-9)


def test_the_curve_of_a_number_is_one_of_means() -> None:
    data = study()
    posterior = fabricated(bh.Model("cured ~ x + (1 | g)", family="bernoulli"), data, GIVEN)
    found = bh.compare(posterior, "x", scale="response", at={"x": [-1, 2]}, maximize=True)
    eta = flat(posterior, "Intercept")[:, None] + flat(posterior, "1|g")[:, data["g"]]
    high, low = (expit(eta + value * flat(posterior, "x")[:, None]).mean(axis=1) for value in (2, -1))
    assert found.table.loc[2, "mean"] == pytest.approx(np.median(high))
    assert found.slope is not None
    assert found.slope.effect == pytest.approx(np.median((high - low) / 3))


@pytest.mark.parametrize(
    ("by", "options", "words"),
    [
        ("g", {"scale": "response"}, "'g' is a level"),
        ("arm:x", {"scale": "response"}, "is an effect in subgroups"),
        ("arm", {"scale": "odds"}, "scale='odds'"),
        ("arm", {"population": study()}, "needs scale='response'"),
        ("arm", {"scale": "response", "population": study().drop(columns="x")}, "Column not in the data: 'x'"),
        ("arm", {"scale": "response", "rope": (0.9, 1.1)}, "must contain 0"),
    ],
)
def test_what_has_no_mean_is_refused(by: str, options: dict[str, object], words: str) -> None:
    posterior = fabricated(bh.Model(MODELS["bernoulli"], family="bernoulli"), study(), GIVEN)
    with pytest.raises(DataError, match=words):
        bh.compare(posterior, by, **options)
