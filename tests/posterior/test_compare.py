"""Comparison, summary, diagnosis: numbers recomputed by hand from the draws."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import bayeshlm as bh
from bayeshlm.posterior.draws import flat

PRIORS = {"Intercept": bh.Normal(0, 10), "sigma": bh.HalfNormal(3)}


@pytest.fixture(scope="module")
def nested() -> xr.DataTree:
    model = bh.Model("y ~ x + (1 | m/i)", family="lognormal")
    design = bh.Design.nested(m=3, i=4, unit=15, covariates={"x": bh.Normal(1, 1)})
    params = {"Intercept": 1.0, "x": 0.2, "1|m_sigma": 0.2, "1|m:i_sigma": 0.1, "sigma": 0.2}
    return bh.fit(model, bh.simulate(model, design, params=params, random_seed=1).data, random_seed=1)


@pytest.fixture(scope="module")
def arms() -> xr.DataTree:
    """A categorical treatment with an interaction, assigned to groups."""
    rng = np.random.default_rng(2)
    frame = pd.DataFrame({"g": np.repeat(np.arange(18), 10)})
    frame["arm"] = np.array(["control", "new", "old"])[frame["g"] % 3]
    frame["x"] = rng.normal(2.0, 1.0, 180)
    frame["y"] = (
        5 + 2.0 * (frame["arm"] == "new") * frame["x"] + rng.normal(0, 1, 18)[frame["g"]] + rng.normal(0, 1, 180)
    )
    priors = {
        **PRIORS,
        "arm": bh.Normal(0, 5),
        "x": bh.Normal(0, 5),
        "arm:x": bh.Normal(0, 5),
        "1|g_sigma": bh.HalfNormal(2),
    }
    return bh.fit(bh.Model("y ~ arm * x + (1 | g)", priors=priors), frame, random_seed=1)


def test_table_and_pairs_equal_the_draws(nested: xr.DataTree) -> None:
    result = bh.compare(nested, "m", rope=(0.95, 1.05), prob=0.9, maximize=True)
    multiplier = np.exp(flat(nested, "1|m"))
    assert np.allclose(result.table["multiplier"], np.median(multiplier, axis=0))
    assert np.allclose(result.table["lower"], np.quantile(multiplier, 0.05, axis=0))
    best = multiplier.argmax(axis=1)
    assert np.allclose(result.table["p_best"], [(best == k).mean() for k in range(3)])
    loss = (multiplier.max(axis=1, keepdims=True) - multiplier).mean(axis=0)
    assert np.allclose(result.table["expected_loss"], loss)
    assert result.best == loss.argmin()
    ratio = multiplier[:, 0] / multiplier[:, 2]
    row = result.pairs[(result.pairs["a"] == 0) & (result.pairs["b"] == 2)].iloc[0]
    assert row["ratio"] == pytest.approx(np.median(ratio))
    assert row["p_greater"] == pytest.approx((ratio > 1).mean())
    assert row["p_rope"] == pytest.approx(((ratio > 0.95) & (ratio < 1.05)).mean())
    turned = result.pair(2, 0)
    assert turned["ratio"] == pytest.approx(1 / row["ratio"])
    assert turned["lower"] == pytest.approx(1 / row["upper"])
    assert turned["p_greater"] == pytest.approx(1 - row["p_greater"])


def test_minimizing_turns_best_and_loss_round(nested: xr.DataTree) -> None:
    result = bh.compare(nested, "m", maximize=False)
    multiplier = np.exp(flat(nested, "1|m"))
    assert np.allclose(result.table["p_best"], [(multiplier.argmin(axis=1) == k).mean() for k in range(3)])
    assert np.allclose(result.table["expected_loss"], (multiplier - multiplier.min(axis=1, keepdims=True)).mean(axis=0))
    assert result.best == result.table["expected_loss"].idxmin()


def test_nested_level_includes_its_parents(nested: xr.DataTree) -> None:
    short, full = bh.compare(nested, "i"), bh.compare(nested, "m:i")
    assert short.table.equals(full.table)
    parents = np.repeat(np.arange(3), 4)
    total = np.exp(flat(nested, "1|m")[:, parents] + flat(nested, "1|m:i"))
    assert np.allclose(full.table["multiplier"], np.median(total, axis=0))
    assert "'m'" in full.baseline


def test_categorical_effect_with_an_interaction_is_compared_at_the_mean(arms: xr.DataTree) -> None:
    result = bh.compare(arms, "arm", maximize=True)
    mean = float(arms["constant_data"]["column_mean"].sel(column="x"))
    value = flat(arms, "arm") + mean * flat(arms, "arm:x")
    assert result.table.index.tolist() == ["control", "new", "old"]
    assert np.allclose(result.table.loc["new", "difference"], np.median(value[:, 0]))
    assert result.table.loc["control", "lower"] == result.table.loc["control", "upper"] == 0
    assert result.best == "new"
    assert "arm control" in result.baseline


def test_text_is_of_the_same_record(nested: xr.DataTree) -> None:
    result = bh.compare(nested, "m", maximize=True, prob=0.5)
    assert result.table["p_best"].max() > 0.5
    text = result.to_text()
    assert f"Choose m {result.best}" in text
    assert result.probability(result.table.loc[result.best, "p_best"]) in text
    assert f"against {result.runner_up}" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "z"}, "'z' is neither a level nor a common effect"),
        ({"by": "m", "maximize": "yes"}, "maximize='yes'"),
        ({"by": "m", "reference": "7"}, "reference='7' is none of 'm'"),
        ({"by": "m", "subgroup": "x"}, "'m' is a level"),
        ({"by": "m", "at": {"x": 1}}, "'m' is a level"),
        ({"by": "m", "rope": (1.1, 1.2)}, "rope"),
        ({"by": "m", "rope": (float("nan"), 1.2)}, "rope"),
        ({"by": "m", "prob": 1.0}, "prob"),
    ],
)
def test_impossible_comparisons_are_refused(nested: xr.DataTree, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(bh.errors.DataError, match=message):
        bh.compare(nested, **arguments)


def test_trees_of_others_are_refused() -> None:
    tree = xr.DataTree.from_dict({"posterior": xr.Dataset({"a": (("chain", "draw"), np.zeros((1, 5)))})})
    for function in (bh.diagnose, bh.summarize, lambda t: bh.compare(t, "a")):
        with pytest.raises(bh.errors.DataError, match="no posterior of bayeshlm"):
            function(tree)


def test_summary_has_every_scalar_once_and_the_derived_ones(nested: xr.DataTree) -> None:
    table = bh.summarize(nested)
    posterior = nested["posterior"]
    scalars = sum(int(np.prod(v.shape[2:])) for v in posterior.data_vars.values())
    assert (table["kind"] != "derived").sum() == scalars
    assert not table.duplicated(["variable", "label"]).any()
    row = table[(table["variable"] == "1|m:i") & (table["label"] == "1:5")].iloc[0]
    draws = posterior["1|m:i"].sel({"m:i": "1:5"}).values
    assert row["mean"] == pytest.approx(draws.mean())
    assert row["upper"] == pytest.approx(np.quantile(draws, 0.975))
    icc = table[(table["variable"] == "ICC") & (table["label"] == "m")].iloc[0]
    variances = [flat(nested, name) ** 2 for name in ("1|m_sigma", "1|m:i_sigma", "sigma")]
    assert icc["mean"] == pytest.approx((variances[0] / sum(variances)).mean())


def test_r2_with_slopes_is_the_rows_own_variance(arms: xr.DataTree) -> None:
    """Marginal R2 from draws and rows' design, against the formula from statistics."""
    table = bh.summarize(arms).set_index(["variable", "label"])
    assert 0 < table.loc[("R2", "marginal"), "mean"] < table.loc[("R2", "conditional"), "mean"] < 1


def test_one_bad_chain_fails(nested: xr.DataTree) -> None:
    broken = nested.copy(deep=True)
    broken["posterior"]["sigma"].values[0] += 1.0
    diagnosis = bh.diagnose(broken)
    assert diagnosis.status == "FAIL"
    assert diagnosis.max_rhat > 1.05
    assert "sigma" in " ".join(diagnosis.messages)
    assert bh.diagnose(nested).status == "PASS"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_a_number_never_passes(nested: xr.DataTree, value: float) -> None:
    broken = nested.copy(deep=True)
    broken["posterior"]["1|m"].values[1, 2, 0] = value
    assert bh.diagnose(broken).status == "FAIL"
    with pytest.raises(bh.errors.DataError, match="not finite"):
        bh.compare(broken, "m")


def test_pareto_k_and_divergences_count(nested: xr.DataTree) -> None:
    heavy = nested.copy(deep=True)
    heavy.attrs["pareto_k"] = 0.9
    assert bh.diagnose(heavy).status == "FAIL"
    heavy.attrs["pareto_k"] = float("inf")
    assert bh.diagnose(heavy).status == "FAIL"
    diverging = nested.copy(deep=True)
    flags = np.zeros((4, 1000))
    flags[0, :7] = 1
    diverging["sample_stats"]["diverging"] = xr.DataArray(flags, dims=("chain", "draw"))
    diagnosis = bh.diagnose(diverging)
    assert (diagnosis.status, diagnosis.divergences) == ("REVIEW", 7)


def test_of_many_categories_the_leading_and_the_reference_have_all_their_pairs() -> None:
    rng = np.random.default_rng(6)
    frame = pd.DataFrame({"g": np.repeat(np.arange(10), 140), "kind": np.tile([f"k{i:02d}" for i in range(70)], 20)})
    frame["y"] = rng.normal(size=1400) + 2.0 * (frame["kind"] == "k33")
    model = bh.Model("y ~ kind + (1 | g)", priors={**PRIORS, "kind": bh.Normal(0, 5), "1|g_sigma": bh.HalfNormal(2)})
    posterior = bh.fit(model, frame, draws=250, random_seed=1)
    found = bh.compare(posterior, "kind", maximize=True)
    assert found.best == "k33"
    assert len(found.pairs) == 69 + 68
    assert f"k33 against {found.runner_up}" in found.to_text()
    assert found.pair("k50", "k00")["difference"] == pytest.approx(np.median(flat(posterior, "kind")[:, 49]))
    with pytest.raises(bh.errors.DataError, match="No pair of 'k50' and 'k51'"):
        found.pair("k50", "k51")
