"""The joint log likelihood of a study against scipy row by row: every family, censored, weighted, offset, joined."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

import bayeshlm as bh
from bayeshlm.data.table import tabulate
from bayeshlm.spec.families import FAMILIES
from bayeshlm.studies.likelihood import log_likelihood
from bayeshlm.studies.quantities import choose_quantities
from tests.engines.dense import DenseLevel, make_frame, one, with_x
from tests.engines.generative import Twin, Values, row_density
from tests.engines.test_pymc_families import CENSORED, TWIN, WEIGHTED, frame_for, model_for, statuses

DRAWS = 5
TOLERANCE = 1e-10


def drawn(model: bh.Model, frame: pd.DataFrame, seed: int = 1) -> Values:
    """Parameters and effects anywhere near the prior's middle, (DRAWS, ...)."""
    rng = np.random.default_rng(seed)
    groups = {group.level_name: len(frame.drop_duplicates(list(group.level))) for group in model.terms.groups}
    values = {name: rng.lognormal(0.3, 0.3, DRAWS) for name, kind in model.parameters.items() if kind != "coefficient"}
    values |= {term.name: rng.normal(0.3, 0.3, DRAWS) for term in model.terms.common}
    for group in model.terms.groups:
        for effect in group.effects:
            values[group.effect_name(effect)] = rng.normal(0, 0.3, (DRAWS, groups[group.level_name]))
    return values


def by_hand(model: bh.Model, frame: pd.DataFrame, values: Values, twin: Twin = TWIN) -> np.ndarray:
    """(DRAWS,): sum of the rows' densities, tails and differences of tails."""
    y, total = frame["y"].to_numpy(), []
    upper = frame["upper"].fillna(0).to_numpy() if "upper" in frame else y
    words = frame["status"].to_numpy() if "status" in frame else np.full(len(frame), "none")
    if model.bounds is not None:
        words = np.where(y >= model.bounds[1], "right", np.where(y <= model.bounds[0], "left", "none"))
    whole = int(model.family_spec.support == "count")
    for k in range(DRAWS):
        here = {name: value[k] for name, value in values.items()}
        eta = twin.predictor(frame, here) + (frame["o"].to_numpy() if model.terms.offsets else 0.0)
        law = row_density(model.family, y, eta, here, frame, model)
        with np.errstate(divide="ignore", invalid="ignore"):  # in rows that are no intervals
            lower = np.exp(law("left", upper)) - np.exp(law("left", y - whole))
            higher = np.exp(law("right", y)) - np.exp(law("right", upper + whole))
            between = np.log(np.where(np.exp(law("left", y - whole)) > 0.5, higher, lower))
        parts = {"none": law("none", y)}
        if model.censored is not None:
            parts |= {"left": law("left", y), "right": law("right", y), "interval": between}
        total.append(sum(part[words == word].sum() for word, part in parts.items()))
    return np.array(total)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_every_family(family: str) -> None:
    """With an offset, and weights where they have a meaning. Joined rows: but for a constant."""
    frame, model = frame_for(family), model_for(family, **({"weights": "w"} if family in WEIGHTED else {}))
    values = drawn(model, frame)
    expected = by_hand(model, frame, values)
    found = log_likelihood(tabulate(model, frame, join=False), values)
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE)
    joined = tabulate(model, frame)
    assert joined.joined == (family in ("bernoulli", "binomial", "poisson"))
    apart = log_likelihood(joined, values) - expected
    np.testing.assert_allclose(apart, apart[0] if joined.joined else 0.0, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("family", CENSORED)
def test_censored_rows_of_every_family(family: str) -> None:
    """A column of all four words, and bounds."""
    frame = statuses(family, frame_for(family), np.random.default_rng(5))
    model = model_for(family, censored=("status", "upper"))
    values = drawn(model, frame)
    found = log_likelihood(tabulate(model, frame), values)
    np.testing.assert_allclose(found, by_hand(model, frame, values), rtol=TOLERANCE)
    low, high = (1, 4) if FAMILIES[family].support == "count" else (0.8, 3.0)
    bounded = frame.drop(columns=["status", "upper"]).assign(y=frame["y"].clip(low, high))
    weights = {"weights": "w"} if family in WEIGHTED else {}
    for bounds in ((low, high), (None, high), (low, None)):
        model = model_for(family, censored=bounds, **weights)
        cut = bounded.assign(y=frame["y"].clip(*bounds))
        found = log_likelihood(tabulate(model, cut), values)
        np.testing.assert_allclose(found, by_hand(model, cut, values), rtol=TOLERANCE)


def test_known_errors_sigmas_by_category_and_slopes() -> None:
    frame = make_frame(np.random.default_rng(3)).assign(status="none")
    frame.loc[::3, "status"] = "right"
    slopes = Twin({"Intercept": one, "x": lambda f: f[["x"]].to_numpy()},
                  ((DenseLevel(("a",), with_x), "a", ["1|a", "x|a"]),))  # fmt: skip
    known = bh.Model("y ~ x + (1 + x | a)", se="s", weights="w", censored="status")
    values = drawn(known, frame)
    found = log_likelihood(tabulate(known, frame), values)
    np.testing.assert_allclose(found, by_hand(known, frame, values, slopes), rtol=TOLERANCE)
    by_arm = bh.Model("y ~ x + (1 | a/b); sigma ~ arm", family="student_t")
    values = drawn(by_arm, frame) | {"sigma": np.random.default_rng(1).lognormal(0, 0.3, (DRAWS, 3))}
    found = log_likelihood(tabulate(by_arm, frame), values)
    np.testing.assert_allclose(found, by_hand(by_arm, frame.drop(columns="status"), values), rtol=TOLERANCE)


def test_intervals_far_in_a_tail_keep_their_digits() -> None:
    frame = pd.DataFrame({"y": [30.0, -31.0, 0.0], "upper": [31.0, -30.0, np.nan],
                          "status": ["interval", "interval", "none"], "x": [0.0, 1.0, 2.0]})  # fmt: skip
    model = bh.Model("y ~ x", censored=("status", "upper"))
    values = {"Intercept": np.zeros(1), "x": np.zeros(1), "sigma": np.ones(1)}
    tail, beyond = stats.norm.logsf([30.0, 31.0])
    expected = 2 * (tail + np.log1p(-np.exp(beyond - tail))) + stats.norm.logpdf(0)
    assert log_likelihood(tabulate(model, frame), values)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_quantities_of_every_family(family: str) -> None:
    """Each has the family's parameters, the shares of variance as `summarize` has them, and the log likelihood."""
    frame, model = frame_for(family), model_for(family)
    table = tabulate(model, frame)
    values = drawn(model, frame)
    chosen = choose_quantities(table.statistics, {name: value[0] for name, value in values.items()}, fixed_sizes=True)
    assert {*(name for name, _ in model.extra), "ICC|a", "ICC|a:b", "log_likelihood"} <= set(chosen.names)
    found = dict(zip(chosen.names, chosen.evaluate(table, values).T, strict=True))
    np.testing.assert_array_equal(found["log_likelihood"], log_likelihood(table, values))
    sigma, nu, alpha = (values.get(name, np.full(DRAWS, 3.0)) for name in ("sigma", "nu", "alpha"))
    mean = frame["y"].mean()
    rest = {  # Nakagawa, Johnson, Schielzeth (2017), table 1
        "student_t": np.where(nu > 2, sigma**2 * nu / np.maximum(nu - 2, 1e-9), np.inf),
        "gamma": special.polygamma(1, alpha), "bernoulli": np.pi**2 / 3, "binomial": np.pi**2 / 3,
        "poisson": special.polygamma(1, mean), "negative_binomial": special.polygamma(1, 1 / (1 / mean + 1 / alpha)),
    }.get(family, sigma**2)  # fmt: skip
    top, below = values["1|a_sigma"] ** 2, values["1|a:b_sigma"] ** 2
    np.testing.assert_allclose(found["ICC|a"], top / (top + below + rest))
    assert np.isfinite(np.stack(list(found.values()))).all()


def test_censored_counts_have_no_shares_of_variance() -> None:
    frame, model = frame_for("poisson"), model_for("poisson", censored=(None, 4))
    table = tabulate(model, frame.assign(y=frame["y"].clip(upper=4)))
    values = drawn(model, frame)
    names = choose_quantities(table.statistics, {n: v[0] for n, v in values.items()}, fixed_sizes=True).names
    assert not [name for name in names if name.startswith("ICC")]
    assert names[-1] == "log_likelihood"
