"""`naive_comparison` against least squares on explicit rows (numpy's lstsq)."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import bayeshlm as bh
from bayeshlm.posterior.naive import least_squares, naive_comparison

PRIORS = {
    "Intercept": bh.Normal(0, 10), "x": bh.Normal(0, 5), "big": bh.Normal(0, 5), "arm": bh.Normal(0, 5),
    "sigma": bh.HalfNormal(5),
}  # fmt: skip


def rows(seed: int = 0, arms: int = 3, groups: int = 5) -> pd.DataFrame:
    """Unbalanced: 2 to 30 rows a group, a covariate that differs between groups, weights, a large offset."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 30, arms * groups)
    group = np.repeat(np.arange(arms * groups), sizes)
    x = rng.normal(size=group.size) + 0.3 * rng.normal(size=arms * groups)[group]
    big = 1e6 + rng.normal(size=group.size)
    y = 3 + 0.5 * x + 0.2 * (big - 1e6) + rng.normal(size=arms * groups)[group] + rng.normal(size=group.size)
    arm = np.array(["b", "a", "c"])[group // groups % 3]
    return pd.DataFrame(
        {
            "y": y,
            "x": x,
            "big": big,
            "arm": arm,
            "group": group,
            "w": rng.uniform(0.2, 3, group.size),
            "se": rng.uniform(0.5, 2, group.size),
        }
    )


def lstsq(design: np.ndarray, y: np.ndarray, weight: np.ndarray, contrast: np.ndarray) -> tuple[float, float, int]:
    """(estimate, variance over sigma^2, df) of a contrast, from the rows."""
    root = np.sqrt(weight)
    beta, _, rank, _ = np.linalg.lstsq(design * root[:, None], y * root, rcond=1e-12)
    residual = (y - design @ beta) * root
    inverse = np.linalg.pinv((design * root[:, None]).T @ (design * root[:, None]), rcond=1e-12)
    df = len(y) - rank
    return float(contrast @ beta), float(contrast @ inverse @ contrast) * float(residual @ residual) / df, df


def fit(formula: str, data: pd.DataFrame, **options: object) -> object:
    model = bh.Model(formula, **options)
    kinds = {"coefficient": PRIORS["x"], "correlation": bh.LKJ(2)}
    priors = {name: PRIORS.get(name, kinds.get(kind, bh.HalfNormal(2))) for name, kind in model.parameters.items()}
    return bh.fit(model.with_priors(priors), data, draws=100, chains=2, random_seed=1, progress=False)


@pytest.mark.parametrize("weights", [None, "w"])
def test_dummies_of_a_level_equal_lstsq_on_rows(weights: str | None) -> None:
    data = rows()
    posterior = fit("y ~ x + big + (1 | arm/group)", data, weights=weights)
    naive = naive_comparison(posterior, "arm", prob=0.9)
    weight = np.ones(len(data)) if weights is None else data["w"].to_numpy()
    dummies = pd.get_dummies(data["arm"]).to_numpy(float)
    design = np.column_stack([dummies, data["x"], data["big"] - 1e6])
    for row in naive.pairs.to_dict("records"):
        contrast = np.zeros(5)
        contrast["abc".index(row["a"])], contrast["abc".index(row["b"])] = 1, -1
        estimate, variance, df = lstsq(design, data["y"].to_numpy(), weight, contrast)
        half = stats.t.ppf(0.95, df) * math.sqrt(variance)
        assert row["naive"] == pytest.approx(estimate, abs=1e-8)
        assert row["naive_sd"] == pytest.approx(math.sqrt(variance), rel=1e-8)
        assert (row["naive_lower"], row["naive_upper"]) == pytest.approx((estimate - half, estimate + half), abs=1e-8)


def test_categorical_common_effect_equals_lstsq_on_rows() -> None:
    data = rows(1)
    posterior = fit("y ~ x + arm + (1 | group)", data, weights="w")
    design = np.column_stack([np.ones(len(data)), data["x"], data["arm"] == "b", data["arm"] == "c"]).astype(float)
    coefficients = {"a": [0, 0, 0, 0], "b": [0, 0, 1, 0], "c": [0, 0, 0, 1]}
    for row in naive_comparison(posterior, "arm").pairs.to_dict("records"):
        contrast = np.subtract(coefficients[row["a"]], coefficients[row["b"]]).astype(float)
        estimate, variance, _ = lstsq(design, data["y"].to_numpy(), data["w"].to_numpy(), contrast)
        assert row["naive"] == pytest.approx(estimate, abs=1e-8)
        assert row["naive_sd"] == pytest.approx(math.sqrt(variance), rel=1e-8)


def test_interaction_is_taken_at_the_mean_of_the_other_column() -> None:
    data = rows(2)
    model = bh.Model("y ~ arm * x + (1 | group)")
    priors = {
        name: bh.Normal(0, 5) if kind == "coefficient" else bh.HalfNormal(2) for name, kind in model.parameters.items()
    }
    posterior = bh.fit(model.with_priors(priors), data, draws=100, chains=2, random_seed=1, progress=False)
    x, b, c = data["x"].to_numpy(), (data["arm"] == "b").to_numpy(float), (data["arm"] == "c").to_numpy(float)
    design = np.column_stack([np.ones(len(data)), b, c, x, b * x, c * x])
    row = naive_comparison(posterior, "arm").pairs.set_index(["a", "b"]).loc[("b", "c")]
    contrast = np.array([0, 1, -1, 0, x.mean(), -x.mean()])
    estimate, variance, _ = lstsq(design, data["y"].to_numpy(), np.ones(len(data)), contrast)
    assert row["naive"] == pytest.approx(estimate, abs=1e-8)
    assert row["naive_sd"] == pytest.approx(math.sqrt(variance), rel=1e-8)


@pytest.mark.parametrize("effects", ["1 + x", "0 + x"])
def test_slopes_of_a_level_equal_lstsq_on_rows(effects: str) -> None:
    data = rows(3, arms=1, groups=4)
    posterior = fit(f"y ~ x + ({effects} | group)", data)
    dummies = pd.get_dummies(data["group"]).to_numpy(float)
    slopes = dummies * data[["x"]].to_numpy()
    with_constant = effects.startswith("1")
    design = np.column_stack([dummies, slopes] if with_constant else [np.ones(len(data)), slopes])
    mean = data["x"].mean()
    for row in naive_comparison(posterior, "group").pairs.to_dict("records"):
        step = np.eye(4)[row["a"]] - np.eye(4)[row["b"]]
        contrast = np.concatenate([step if with_constant else [0.0], step * mean])
        estimate, variance, _ = lstsq(design, data["y"].to_numpy(), np.ones(len(data)), contrast)
        assert row["naive"] == pytest.approx(estimate, abs=1e-8)
        assert row["naive_sd"] == pytest.approx(math.sqrt(variance), rel=1e-8)


def test_without_any_intercept_columns_are_not_centred() -> None:
    data = rows(4)
    data["y"] -= 3
    posterior = fit("y ~ 0 + x + (0 + x | group)", data)
    dummies = pd.get_dummies(data["group"]).to_numpy(float)
    row = naive_comparison(posterior, "group").pairs.to_dict("records")[0]
    contrast = data["x"].mean() * (np.eye(15)[row["a"]] - np.eye(15)[row["b"]])
    estimate, variance, _ = lstsq(dummies * data[["x"]].to_numpy(), data["y"].to_numpy(), np.ones(len(data)), contrast)
    assert row["naive"] == pytest.approx(estimate, abs=1e-8)
    assert row["naive_sd"] == pytest.approx(math.sqrt(variance), rel=1e-8)


def test_lognormal_speaks_in_ratios_and_turns_with_the_pair() -> None:
    data = rows(5)
    data["y"] = np.exp(data["y"])
    posterior = fit("y ~ x + (1 | arm/group)", data, family="lognormal")
    naive, comparison = naive_comparison(posterior, "arm"), bh.compare(posterior, "arm")
    dummies = pd.get_dummies(data["arm"]).to_numpy(float)
    estimate, variance, df = lstsq(
        np.column_stack([dummies, data["x"]]),
        np.log(data["y"].to_numpy()),
        np.ones(len(data)),
        np.array([1.0, -1, 0, 0]),
    )
    half = stats.t.ppf(0.975, df) * math.sqrt(variance)
    there, back = naive.pair("a", "b"), naive.pair("b", "a")
    assert naive.contrast == "ratio"
    assert [there["naive"], there["naive_lower"], there["naive_upper"]] == pytest.approx(
        [math.exp(estimate), math.exp(estimate - half), math.exp(estimate + half)], rel=1e-8
    )
    assert back["naive_lower"] == pytest.approx(1 / there["naive_upper"])
    assert there["honest"] == comparison.pair("a", "b")["ratio"]
    assert back["honest_upper"] == pytest.approx(comparison.pair("b", "a")["upper"])
    assert naive.shown_pair == comparison.shown_pair


def test_design_effect_is_the_ratio_of_mean_variances() -> None:
    data = rows(6)
    naive = naive_comparison(fit("y ~ arm + (1 | group)", data), "arm")
    expected = (naive.pairs["honest_sd"] ** 2).mean() / (naive.pairs["naive_sd"] ** 2).mean()
    assert naive.design_effect == pytest.approx(expected)
    assert naive.effective_rows == pytest.approx(len(data) / expected)
    assert expected > 2  # groups of some 15 rows with half of the variance between them
    assert "times too narrow" in naive.sentence()


def test_balanced_design_effect_agrees_with_kish() -> None:
    """Equal groups, no covariate: design effect 1 + (n - 1) ICC for arms given to groups (flat prior on the arms)."""
    rng = np.random.default_rng(8)
    groups, size = 120, 25
    group = np.repeat(np.arange(groups), size)
    y = rng.normal(0, 0.5, groups)[group] + rng.normal(size=group.size)
    data = pd.DataFrame({"y": y, "group": group, "arm": np.where(group < groups // 2, "a", "b")})
    priors = {"Intercept": bh.Flat(), "arm": bh.Flat(), "1|group_sigma": bh.Flat(), "sigma": bh.Flat()}
    posterior = bh.fit(bh.Model("y ~ arm + (1 | group)", priors=priors), data, random_seed=1, progress=False)
    between = float((posterior["posterior"]["1|group_sigma"] ** 2).mean())
    within = float((posterior["posterior"]["sigma"] ** 2).mean())
    # The row-level residual variance also holds what the groups add.
    kish = 1 + (size - 1) * between / (between + within)
    assert naive_comparison(posterior, "arm").design_effect == pytest.approx(
        kish, rel=0.12
    )  # 4,000 draws: sd^2 to 2-3 %


def test_known_standard_errors_are_the_naive_errors() -> None:
    data = rows(7)
    model = bh.Model("y ~ x + arm + (1 | group)", se="se")
    priors = {
        "Intercept": bh.Normal(0, 10),
        "x": bh.Normal(0, 5),
        "arm": bh.Normal(0, 5),
        "1|group_sigma": bh.HalfNormal(2),
    }
    posterior = bh.fit(model.with_priors(priors), data, draws=100, chains=2, random_seed=1, progress=False)
    row = naive_comparison(posterior, "arm").pairs.set_index(["a", "b"]).loc[("b", "a")]
    design = np.column_stack([np.ones(len(data)), data["x"], data["arm"] == "b", data["arm"] == "c"]).astype(float)
    inverse = np.linalg.inv((design / data[["se"]].to_numpy() ** 2).T @ design)
    assert row["naive_sd"] == pytest.approx(math.sqrt(inverse[2, 2]), rel=1e-8)
    assert row["naive_upper"] - row["naive"] == pytest.approx(stats.norm.ppf(0.975) * row["naive_sd"], rel=1e-8)


def test_groups_include_what_their_arm_adds_on_both_sides() -> None:
    """Least squares with dummies has the arms in the groups' means; with a slope of the arm, its share at the mean."""
    data = rows(9)
    naive = naive_comparison(fit("y ~ arm + (1 | group)", data), "group")
    means = data.groupby("group")["y"].mean()
    for row in naive.pairs.to_dict("records"):
        assert row["naive"] == pytest.approx(means[row["a"]] - means[row["b"]], abs=1e-8)
    sloped = naive_comparison(fit("y ~ arm * x + (1 | group)", data), "group")
    dummies = pd.get_dummies(data["group"]).to_numpy(float)
    x, b, c = data["x"].to_numpy(), (data["arm"] == "b").to_numpy(float), (data["arm"] == "c").to_numpy(float)
    beta = np.linalg.lstsq(np.column_stack([dummies, x, b * x, c * x]), data["y"].to_numpy(), rcond=None)[0]
    arm_of = data.groupby("group")["arm"].first()
    slope = {"a": 0.0, "b": beta[-2], "c": beta[-1]}
    worth = {group: beta[group] + slope[arm] * x.mean() for group, arm in arm_of.items()}
    for row in sloped.pairs.to_dict("records"):
        assert row["naive"] == pytest.approx(worth[row["a"]] - worth[row["b"]], abs=1e-8)


def test_a_group_of_one_row_has_no_slope() -> None:
    data = pd.concat([rows(3, arms=1, groups=4), rows(3, arms=1, groups=4).tail(1).assign(group=4)])
    statistics = bh.compress(bh.Model("y ~ x + (1 + x | group)"), data)
    ols = least_squares(statistics, statistics.layout.levels[0])
    estimate, spread = ols.contrasts(np.array([0, 0]), np.array([1, 4]))
    assert np.isfinite(estimate).tolist() == np.isfinite(spread).tolist() == [True, False]
    assert ols.df == len(data) - 9  # two columns a group, but one for the group of one row


def test_shrinkage_is_no_design_effect() -> None:
    """Noisy groups that differ little: a posterior that is surer than rows alone makes no rows out of nothing."""
    rng = np.random.default_rng(5)
    group = np.repeat(np.arange(8), 6)
    data = pd.DataFrame({"y": rng.normal(size=group.size), "group": group})
    naive = naive_comparison(fit("y ~ 1 + (1 | group)", data), "group")
    assert (naive.pairs["honest_sd"] ** 2).mean() < 0.9 * (naive.pairs["naive_sd"] ** 2).mean()
    assert naive.shrinks
    assert naive.design_effect == 1
    assert naive.effective_rows == len(data)
    assert "shrinkage" in naive.sentence()
    assert "design effect" not in naive.sentence()
