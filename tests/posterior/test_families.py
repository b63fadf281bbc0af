"""Comparison, summary, prediction of every family: numbers recomputed by hand from given draws."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats
from scipy.special import expit, polygamma

import bayeshlm as bh
from bayeshlm.errors import DataError
from bayeshlm.posterior.draws import flat
from tests.posterior.fabricated import fabricated

FAMILIES = ("gaussian", "lognormal", "student_t", "cv_normal", "gamma", "bernoulli", "binomial", "poisson",
            "negative_binomial")  # fmt: skip
ADDITIVE, ODDS = ("gaussian", "student_t"), ("bernoulli", "binomial")
GIVEN = {"Intercept": 0.4, "arm": [0.3, -0.2], "1|g_sigma": 0.3, "sigma": 0.5, "nu": 8.0, "alpha": 3.0}
RARE = 1e-5


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    g = np.repeat(np.arange(12), 20)
    data = pd.DataFrame({"g": g, "arm": np.array(["a", "b", "c"])[g % 3], "x": rng.normal(0, 1, len(g))})
    data["t"] = rng.integers(1, 9, len(g))
    data["e"] = rng.uniform(0.5, 3, len(g))
    return data


def posterior_of(family: str, **options: object) -> tuple[xr.DataTree, pd.DataFrame]:
    data = frame()
    response = "p(y, t)" if family == "binomial" else "y"
    priors = {name: bh.HalfNormal(1) for name in ("sigma",) if family in ADDITIVE and "se" not in options}
    priors |= {"Intercept": bh.Normal(), "arm": bh.Normal(), "x": bh.Normal(), "1|g_sigma": bh.HalfNormal()}
    model = bh.Model(f"{response} ~ arm + x + (1 | g)", family=family, priors=priors, **options)
    rng = np.random.default_rng(4)
    data["y"] = {
        "bernoulli": rng.integers(0, 2, len(data)), "binomial": rng.binomial(data.t, 0.5),
        "poisson": rng.poisson(2, len(data)), "negative_binomial": rng.poisson(2, len(data)),
    }.get(family, rng.uniform(0.5, 2, len(data)))  # fmt: skip
    return fabricated(model, data, {**GIVEN, "x": 0.2}), data


@pytest.mark.parametrize("family", FAMILIES)
def test_comparison_speaks_the_familys_language(family: str) -> None:
    posterior, data = posterior_of(family)
    found = bh.compare(posterior, "arm", maximize=True)
    effect, contrast = ("difference", "difference") if family in ADDITIVE else ("multiplier", "ratio")
    if family in ODDS:
        effect, contrast = "odds_multiplier", "odds_ratio"
    assert (found.effect, found.contrast) == (effect, contrast)
    values = np.column_stack([np.zeros(1000), flat(posterior, "arm")])
    shown = values if family in ADDITIVE else np.exp(values)
    assert found.table[effect].to_numpy() == pytest.approx(np.median(shown, axis=0))
    base = flat(posterior, "Intercept") + flat(posterior, "x") * np.average(
        data.x, weights=data.t if family == "binomial" else None
    )
    worth = expit(base[:, None] + values) if family in ODDS else shown
    loss = (worth.max(axis=1, keepdims=True) - worth).mean(axis=0)
    assert found.table["expected_loss"].to_numpy() == pytest.approx(loss)
    assert found.best == "b"
    assert found.table.loc["b", "p_best"] == pytest.approx((values.argmax(axis=1) == 1).mean())
    pair = found.pair("b", "c")
    between = values[:, 1] - values[:, 2]
    assert pair[contrast] == pytest.approx(np.median(between if family in ADDITIVE else np.exp(between)))
    turned = found.pair("c", "b")[contrast]
    assert turned == pytest.approx(-pair[contrast] if family in ADDITIVE else 1 / pair[contrast])
    text = found.to_text()
    assert ("units of the outcome" in text) == (family in ADDITIVE)
    assert ("percentage points of probability" in text) == (family in ODDS)
    assert ("odds multiplier relative to arm a" in text) == (family in ODDS)
    if family in ODDS:
        assert found.table["probability"].to_numpy() == pytest.approx(np.median(worth, axis=0))
        assert found.rope == pytest.approx((0.834, 1.199), abs=1e-3)


@pytest.mark.parametrize("family", ODDS)
def test_groups_are_worth_their_probability_at_the_average_row(family: str) -> None:
    posterior, data = posterior_of(family)
    found = bh.compare(posterior, "g", maximize=False)
    weights = data.t if family == "binomial" else np.ones(len(data))
    base = flat(posterior, "Intercept") + flat(posterior, "x") * np.average(data.x, weights=weights)
    arm_of = data.groupby("g")["arm"].first()  # constant in groups: a group's value includes its arm's effect
    arms = flat(posterior, "arm") @ np.array([arm_of == "b", arm_of == "c"], dtype=float)
    worth = expit(base[:, None] + arms + flat(posterior, "1|g"))
    assert found.table["probability"].to_numpy() == pytest.approx(np.median(worth, axis=0))
    loss = (worth - worth.min(axis=1, keepdims=True)).mean(axis=0)
    assert found.table["expected_loss"].to_numpy() == pytest.approx(loss)


def residual(family: str, posterior: xr.DataTree, data: pd.DataFrame) -> np.ndarray:
    value = {name: flat(posterior, name) for name in ("sigma", "nu", "alpha") if name in posterior["posterior"]}
    mean = data.y.mean()
    return {
        "gaussian": lambda: value["sigma"] ** 2, "lognormal": lambda: value["sigma"] ** 2,
        "cv_normal": lambda: value["sigma"] ** 2,
        "student_t": lambda: value["sigma"] ** 2 * value["nu"] / (value["nu"] - 2),
        "gamma": lambda: polygamma(1, value["alpha"]),
        "bernoulli": lambda: np.full(1000, np.pi**2 / 3), "binomial": lambda: np.full(1000, np.pi**2 / 3),
        "poisson": lambda: np.full(1000, polygamma(1, mean)),
        "negative_binomial": lambda: polygamma(1, 1 / (1 / mean + 1 / value["alpha"])),
    }[family]()  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_intraclass_correlation(family: str) -> None:
    posterior, data = posterior_of(family)
    table = bh.summarize(posterior).set_index(["variable", "label"])
    between = flat(posterior, "1|g_sigma") ** 2
    icc = between / (between + residual(family, posterior, data))
    assert table.loc[("ICC", "g"), "mean"] == pytest.approx(icc.mean())
    assert set(bh.summarize(posterior)["kind"]) == {
        "common effect", "group effect", "variance component", "derived",
        *({"shape"} if family in ("student_t", "gamma", "negative_binomial") else ()),
    }  # fmt: skip


def test_residual_variances_are_those_of_simulated_rows() -> None:
    """The residual variance of a gamma response on the log scale is exact."""
    y = stats.gamma(3.0).rvs(200_000, random_state=1)
    variance = np.log(y).var()
    # The variance of a variance is (kurtosis - 1) v^2 / n, below 4 v^2 / n here.
    assert abs(variance - polygamma(1, 3.0)) < stats.norm.isf(RARE / 2) * 2 * variance / np.sqrt(len(y))


def test_heavy_tails_have_no_variance_to_share() -> None:
    posterior, _ = posterior_of("student_t")
    posterior["posterior"]["nu"].to_numpy()[...] = 1.5
    table = bh.summarize(posterior).set_index(["variable", "label"])
    assert table.loc[("ICC", "g"), "mean"] == 0.0


def test_censored_counts_have_no_shares() -> None:
    posterior, _ = posterior_of("poisson", censored=(None, 20))
    assert "derived" not in set(bh.summarize(posterior)["kind"])
    posterior, _ = posterior_of("gamma", censored=(None, 20))
    assert "derived" in set(bh.summarize(posterior)["kind"])


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ("gaussian", "lognormal")])
def test_no_least_squares_beside_other_families(family: str, tmp_path) -> None:
    from bayeshlm.posterior.naive import naive_comparison

    posterior, _ = posterior_of(family)
    with pytest.raises(DataError, match="no analysis of a"):
        naive_comparison(posterior, "arm")
    page = bh.report(posterior, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "rows alone" not in page
    assert "Verdict" in page
    assert ("odds ratio" in page) == (family in ODDS)


LAWS = {
    "gaussian": lambda eta, p: stats.norm(eta, p["sigma"]),
    "lognormal": lambda eta, p: stats.lognorm(p["sigma"], 0, np.exp(eta)),
    "student_t": lambda eta, p: stats.t(p["nu"], eta, p["sigma"]),
    "cv_normal": lambda eta, p: stats.norm(np.exp(eta), p["sigma"] * np.exp(eta)),
    "gamma": lambda eta, p: stats.gamma(p["alpha"], 0, np.exp(eta) / p["alpha"]),
    "bernoulli": lambda eta, p: stats.bernoulli(expit(eta)),
    "binomial": lambda eta, p: stats.binom(7, expit(eta)),
    "poisson": lambda eta, p: stats.poisson(np.exp(eta)),
    "negative_binomial": lambda eta, p: stats.nbinom(p["alpha"], p["alpha"] / (p["alpha"] + np.exp(eta))),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_predictions_have_the_familys_mean_and_distribution(family: str) -> None:
    """Two rows of known groups, each draw with parameters of its own: the probability transform is uniform."""
    posterior, _ = posterior_of(family)
    rows = pd.DataFrame({"g": [0, 5], "arm": ["b", "a"], "x": [0.5, -1.0], "t": 7})
    eta = flat(posterior, "Intercept")[:, None] + flat(posterior, "x")[:, None] * rows.x.to_numpy()
    eta = eta + flat(posterior, "arm")[:, [0]] * np.array([1, 0]) + flat(posterior, "1|g")[:, [0, 5]]
    extra = {
        name: flat(posterior, name)[:, None] for name in ("sigma", "nu", "alpha") if name in posterior["posterior"]
    }
    law = LAWS[family](eta, extra)
    mean = bh.predict(posterior, rows)["predictions"]["y_mean"].to_numpy().reshape(1000, 2)
    np.testing.assert_allclose(mean, law.mean(), rtol=1e-10)
    if family in ("gaussian", "lognormal", "student_t", "cv_normal"):
        median = bh.predict(posterior, rows, kind="median")["predictions"]["y_median"].to_numpy().reshape(1000, 2)
        np.testing.assert_allclose(median, law.median(), rtol=1e-10)
    else:
        with pytest.raises(DataError, match="kind='median' is for"):
            bh.predict(posterior, rows, kind="median")
    y = bh.predict(posterior, rows, kind="response", random_seed=1)["predictions"]["y"].to_numpy().reshape(1000, 2)
    if isinstance(law.dist, stats.rv_discrete):
        pit = law.cdf(y - 1) + np.random.default_rng(0).random(y.shape) * law.pmf(y)
    else:
        pit = law.cdf(y)
    assert stats.kstest(pit.ravel(), "uniform").pvalue > RARE


def test_offset_multiplies_a_count() -> None:
    data = frame().assign(y=np.random.default_rng(1).poisson(2, 240))
    model = bh.Model("y ~ arm + x + offset(log(e)) + (1 | g)", family="poisson")
    posterior = fabricated(model, data, {**GIVEN, "x": 0.2})
    rows = pd.DataFrame({"g": [0, 0], "arm": "a", "x": 0.0, "e": [1.0, 7.0]})
    mean = bh.predict(posterior, rows)["predictions"]["y_mean"].to_numpy()
    np.testing.assert_allclose(mean[..., 1] / mean[..., 0], 7.0)
    with pytest.raises(DataError, match="offset in 1 rows"):
        bh.predict(posterior, rows.assign(e=[1.0, 0.0]))


@pytest.mark.parametrize(
    ("family", "options", "column", "value", "fragment"),
    [
        ("binomial", {}, "t", 2.5, "'t' (trials) is not a whole number of at least 0 in 2 rows"),
        ("gamma", {"weights": "e"}, "e", 0.0, "'e' (weights) is not positive in 2 rows"),
    ],
)
def test_impossible_trials_and_weights(
    family: str, options: dict[str, str], column: str, value: float, fragment: str
) -> None:
    posterior, _ = posterior_of(family, **options)
    rows = pd.DataFrame({"g": [0, 0], "arm": "a", "x": 0.0, "t": 3.0, "e": 1.0}).assign(**{column: value})
    with pytest.raises(DataError) as caught:
        bh.predict(posterior, rows, kind="response")
    assert fragment in str(caught.value)
