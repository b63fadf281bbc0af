"""Each family's density against scipy, row by row, in every form; censored rows too."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pymc as pm
import pytest

import bayeshlm as bh
from bayeshlm.engines.pymc.model import observed, to_pymc
from bayeshlm.engines.pymc.nuts import _shape
from bayeshlm.engines.pymc.parameterization import plan_levels
from bayeshlm.spec.families import FAMILIES
from tests.engines.dense import DenseLevel, make_frame, one
from tests.engines.generative import MODE, Twin, random_points, row_density

NESTED = (
    (DenseLevel(("a",), one), "a", ["1|a"]),
    (DenseLevel(("a", "b"), one), "a:b", ["1|a:b"]),
)
TWIN = Twin({"Intercept": one, "x": lambda frame: frame[["x"]].to_numpy()}, NESTED)
WEIGHTED = [name for name, family in FAMILIES.items() if family.weights]
CENSORED = [name for name, family in FAMILIES.items() if family.censored]


def frame_for(family: str, seed: int = 0) -> pd.DataFrame:
    """Few distinct covariates, so that rows can be joined; responses anywhere in the family's support."""
    rng = np.random.default_rng(seed)
    frame = make_frame(rng)
    n = len(frame)
    frame["x"] = rng.integers(0, 3, n).astype(float)
    frame["o"] = rng.choice([0.0, 0.4, 1.1], n)
    frame["t"] = rng.integers(1, 9, n)
    frame["y"] = {
        "binary": rng.integers(0, 2, n), "successes": rng.binomial(frame["t"], 0.4), "count": rng.poisson(3, n),
    }.get(FAMILIES[family].support, frame["y"])  # fmt: skip
    return frame


def model_for(family: str, **arguments: object) -> bh.Model:
    left = "p(y, t)" if family == "binomial" else "y"
    priors = {"Intercept": bh.Normal(0.3, 0.7), "x": bh.StudentT(4, 0.1, 0.5), "1|a_sigma": bh.HalfNormal(0.6),
              "1|a:b_sigma": bh.PC(1.0, 0.05)}  # fmt: skip
    bare = bh.Model(f"{left} ~ x + offset(o) + (1 | a/b)", family=family, priors=priors, **arguments)
    return bare.with_priors(
        {name: bh.LogNormal(0.4, 0.3) for name in bare.parameters if name in ("sigma", "nu", "alpha")}
    )


def joint(model: bh.Model, frame: pd.DataFrame, values: dict[str, np.ndarray], noncentred: bool, rows: object) -> float:
    levels = {"a": noncentred, "a:b": noncentred}
    return TWIN.log_joint(model, frame, values, levels, lambda eta: rows(eta + frame["o"].to_numpy()))


@pytest.mark.parametrize("family", FAMILIES)
def test_density_is_scipys(family: str) -> None:
    frame, model = frame_for(family), model_for(family, **({"weights": "w"} if family in WEIGHTED else {}))
    y = frame["y"].to_numpy()
    for parameterization, rows in (("centered", True), ("noncentered", False)):
        built = to_pymc(model, frame, parameterization=parameterization, rows=rows)
        points = random_points(built, 4, seed=1, spread=0.5)
        mine = np.array([
            joint(model, frame, values, parameterization == "noncentered",
                  lambda eta, values=values: row_density(family, y, eta, values, frame, model)("none", y).sum())
            for values in points.values
        ])  # fmt: skip
        apart = points.density - mine
        assert np.isfinite(mine).all()
        constant = 0.0 if rows else apart[0]
        np.testing.assert_allclose(apart, constant, rtol=0, atol=1e-8 * np.abs(mine).max())


def test_equal_rows_are_joined_where_nothing_is_lost() -> None:
    for family, joined in (("bernoulli", True), ("binomial", True), ("poisson", True), ("negative_binomial", False)):
        frame = frame_for(family)
        built = to_pymc(model_for(family), frame)
        observed = len(built["observed"].get_value())
        distinct = len(frame.drop_duplicates(["a", "b", "x"] + ["o"] * (family in ("bernoulli", "binomial"))))
        assert observed == (distinct if joined else len(frame))


def statuses(family: str, frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Every status, intervals of width about 1 or of whole numbers, upper ends missing elsewhere."""
    words = rng.choice(["none", "left", "right", "interval"], len(frame))
    words[:4] = ["none", "left", "right", "interval"]
    width = rng.integers(1, 4, len(frame)) if FAMILIES[family].support == "count" else rng.uniform(0.1, 2, len(frame))
    return frame.assign(status=words, upper=np.where(words == "interval", frame["y"] + width, np.nan))


@pytest.mark.parametrize("family", CENSORED)
def test_censored_density_is_scipys(family: str) -> None:
    frame = statuses(family, frame_for(family), np.random.default_rng(5))
    model = model_for(family, censored=("status", "upper"))
    y, upper = frame["y"].to_numpy(), frame["upper"].fillna(0).to_numpy()

    def rows(eta: np.ndarray, values: dict[str, np.ndarray]) -> float:
        density = row_density(family, y, eta, values, frame, model)
        whole = int(FAMILIES[family].support == "count")
        with np.errstate(divide="ignore", invalid="ignore"):  # in rows that are no intervals
            below = np.exp(density("left", upper)) - np.exp(density("left", y - whole))
            above = np.exp(density("right", y)) - np.exp(density("right", upper + whole))
            tail = np.exp(density("left", y - whole)) > 0.5
            parts = {"none": density("none", y), "left": density("left", y), "right": density("right", y),
                     "interval": np.log(np.where(tail, above, below))}  # fmt: skip
        return float(sum(parts[word][frame["status"] == word].sum() for word in parts))

    built = to_pymc(model, frame, parameterization="noncentered")
    points = random_points(built, 4, seed=2, spread=0.5)
    mine = np.array([
        joint(model, frame, values, True, lambda eta, values=values: rows(eta, values)) for values in points.values
    ])  # fmt: skip
    assert np.isfinite(mine).all()
    np.testing.assert_allclose(points.density, mine, rtol=1e-8)


def test_a_cap_is_right_censoring() -> None:
    frame = frame_for("gaussian")
    frame["y"] = np.clip(frame["y"], 0.8, 3.0)
    words = np.where(frame["y"] >= 3.0, "right", np.where(frame["y"] <= 0.8, "left", "none"))
    assert set(words) == {"none", "left", "right"}
    by_bounds = to_pymc(model_for("gaussian", censored=(0.8, 3.0)), frame)
    by_column = to_pymc(model_for("gaussian", censored="status"), frame.assign(status=words))
    left, right = (random_points(built, 3, seed=3) for built in (by_bounds, by_column))
    np.testing.assert_array_equal(left.density, right.density)
    drawn = pm.sample_prior_predictive(50, model=by_bounds, random_seed=1, compile_kwargs={"mode": MODE})
    responses = drawn["prior_predictive"]["y"].to_numpy()
    assert (responses.min(), responses.max()) == (0.8, 3.0)
    assert 0 < np.mean(responses == 3.0) < 1


def test_whether_a_row_lies_at_a_bound_is_no_matter_of_shape() -> None:
    """A bound that no row reaches leaves the density as it is, and the model compiled for it serves rows that do."""
    frame = frame_for("gaussian")
    unbounded, far = model_for("gaussian"), model_for("gaussian", censored=(None, 1e6))
    left, right = (random_points(to_pymc(m, frame, rows=True), 3, seed=3) for m in (unbounded, far))
    np.testing.assert_allclose(right.density, left.density, rtol=1e-12)
    model = model_for("gaussian", censored=(0.8, 3.0))
    shapes = []
    for y in (frame["y"].clip(0.9, 2.9), frame["y"].clip(0.8, 2.9), frame["y"].clip(0.8, 3.0)):
        statistics, observations = observed(model, frame.assign(y=y), rows=False)
        shapes.append(_shape(statistics, observations, plan_levels(statistics, "noncentered")))
    assert shapes[0] == shapes[1] == shapes[2]


@pytest.mark.parametrize("family", ["gaussian", "student_t", "lognormal", "gamma", "poisson"])
@pytest.mark.parametrize("side", [-1, 1])
def test_tails_keep_their_digits(family: str, side: int) -> None:
    """A bound far from the mean: the tail's log probability, where 1 - cdf has no digits left."""
    far = {"gaussian": 30.0, "student_t": 1e3, "lognormal": 12.0, "gamma": 3.0, "poisson": 3.0}[family]
    value = side * far if family in ("gaussian", "student_t") else math.exp(side * far)
    value = max(round(value), 1) if family == "poisson" else value
    frame = pd.DataFrame({"y": [value, value, 1], "status": ["left", "right", "none"], "x": [0.0, 0.0, 1.0]})
    model = bh.Model("y ~ x", family=family, censored="status", priors={"Intercept": bh.Normal(), "x": bh.Normal()})
    model = model.with_priors(
        {name: bh.LogNormal(0, 0.1) for name in model.parameters if name not in ("Intercept", "x")}
    )
    built = to_pymc(model, frame)
    points = random_points(built, 2, seed=4, spread=0.1)
    for density, values in zip(points.density, points.values, strict=True):
        eta = values["Intercept"] + values["x"] * frame["x"].to_numpy()
        law = row_density(family, frame["y"], eta, values, frame, model)
        at = frame["y"].to_numpy()
        rows = [law(word, at)[k] for k, word in enumerate(("left", "right", "none"))]
        priors = sum(float(prior.logpdf(values[name])) for name, prior in model.complete_priors.items())
        assert np.isfinite(rows).all()
        assert density == pytest.approx(priors + sum(rows), rel=1e-8)
