"""Responses of every family against scipy.stats, with offsets, weights, trials and bounds.

Every p-value below 1e-5 fails: a right simulation does that once in 100,000 checks; the seeds are fixed.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

import bayeshlm as bh
from bayeshlm.errors import DesignError, PriorError

RARE = 1e-5
GROUPS, UNITS = 20, 500
N = bh.Normal
COVARIATES = {
    "x": N(0, 1),
    "w": bh.Uniform(0.5, 3),
    "s": bh.Uniform(0.2, 1),
    "t": bh.Uniform(1, 30),
    "e": bh.Uniform(0.5, 4),
}
DESIGN = bh.Design.nested(g=GROUPS, i=UNITS, covariates=COVARIATES)
EFFECTS = {"Intercept": 0.3, "x": 0.4, "1|g_sigma": 0.5}
RIGHT = "x + (1 | g)"

# family -> (formula, further parameters, what scipy.stats has for it given the predictor, the data and the weights)
CASES = {
    "gaussian": (f"y ~ {RIGHT}", {"sigma": 0.7}, lambda eta, d, w: stats.norm(eta, 0.7 / np.sqrt(w))),
    "lognormal": (f"y ~ {RIGHT}", {"sigma": 0.7}, lambda eta, d, w: stats.lognorm(0.7 / np.sqrt(w), 0, np.exp(eta))),
    "student_t": (
        f"y ~ {RIGHT}", {"sigma": 0.7, "nu": 3.5}, lambda eta, d, w: stats.t(3.5, eta, 0.7 / np.sqrt(w)),
    ),
    "cv_normal": (
        f"y ~ {RIGHT}", {"sigma": 0.2}, lambda eta, d, w: stats.norm(np.exp(eta), 0.2 * np.exp(eta) / np.sqrt(w)),
    ),
    "gamma": (f"y ~ {RIGHT}", {"alpha": 2.5}, lambda eta, d, w: stats.gamma(2.5 * w, 0, np.exp(eta) / (2.5 * w))),
    "bernoulli": (f"y ~ {RIGHT}", {}, lambda eta, d, w: stats.bernoulli(expit(eta))),
    "binomial": (f"p(y, t) ~ {RIGHT}", {}, lambda eta, d, w: stats.binom(d.t, expit(eta))),
    "poisson": (f"y ~ {RIGHT}", {}, lambda eta, d, w: stats.poisson(np.exp(eta))),
    "negative_binomial": (
        f"y ~ {RIGHT}", {"alpha": 1.5}, lambda eta, d, w: stats.nbinom(1.5, 1.5 / (1.5 + np.exp(eta))),
    ),
}  # fmt: skip


def predictor(world: bh.World, offset: bool) -> np.ndarray:
    truth, data = world.truth, world.data
    eta = 0.3 + 0.4 * data.x + truth["1|g"].sel(g=data.g.to_numpy()).to_numpy()
    return (eta + np.log(data.e) if offset else eta).to_numpy()


def uniform(law: object, y: np.ndarray, *, discrete: bool) -> np.ndarray:
    """Probability integral transform, randomised where the response is discrete: uniform if the law is right."""
    if not discrete:
        return law.cdf(y)
    return law.cdf(y - 1) + np.random.default_rng(0).random(len(y)) * law.pmf(y)


def simulated(family: str, seed: int, **options: object) -> tuple[bh.World, np.ndarray]:
    offset = bool(options.pop("offset", False))
    formula, parameters, _ = CASES[family]
    model = bh.Model(formula + (" + offset(log(e))" if offset else ""), family=family, **options)
    world = bh.simulate(model, DESIGN, params={**EFFECTS, **parameters}, random_seed=seed)
    return world, predictor(world, offset)


@pytest.mark.parametrize("family", CASES)
@pytest.mark.parametrize("offset", [False, True])
def test_response_has_its_distribution(family: str, offset: bool) -> None:
    world, eta = simulated(family, 1, offset=offset)
    law = CASES[family][2](eta, world.data, 1.0)
    discrete = isinstance(law.dist, stats.rv_discrete)
    assert stats.kstest(uniform(law, world.data.y.to_numpy(), discrete=discrete), "uniform").pvalue > RARE
    assert (world.data.y.dtype == np.int64) == discrete


@pytest.mark.parametrize("family", ["gaussian", "lognormal", "student_t", "cv_normal", "gamma"])
def test_weights_sharpen_a_row(family: str) -> None:
    world, eta = simulated(family, 2, weights="w")
    law = CASES[family][2](eta, world.data, world.data.w.to_numpy())
    pit = uniform(law, world.data.y.to_numpy(), discrete=False)
    assert stats.kstest(pit, "uniform").pvalue > RARE
    heavy = world.data.w.to_numpy() > 2  # a wrong use of the weights could cancel over all rows
    assert stats.kstest(pit[heavy], "uniform").pvalue > RARE


def test_known_errors_of_a_lognormal_response() -> None:
    model = bh.Model(f"y ~ {RIGHT}", family="lognormal", se="s")
    world = bh.simulate(model, DESIGN, params=EFFECTS, random_seed=3)
    assert "sigma" not in world.truth
    z = (np.log(world.data.y) - predictor(world, offset=False)) / world.data.s
    assert stats.kstest(z, "norm").pvalue > RARE


@pytest.mark.parametrize("family", ["gaussian", "lognormal", "poisson"])
def test_bounds_record_what_lies_beyond_them_at_the_bound(family: str) -> None:
    bounds = {"gaussian": (0.0, 1.0), "lognormal": (0.5, 4.0), "poisson": (1, 3)}[family]
    free, eta = simulated(family, 4)
    world, _ = simulated(family, 4, censored=bounds)
    # The same numbers as without bounds, cut off: the world behind a ceiling is the same world.
    assert world.data.y.to_numpy() == pytest.approx(np.clip(free.data.y.to_numpy(), *bounds))
    assert world.truth.equals(free.truth)
    one_sided, _ = simulated(family, 4, censored=(None, bounds[1]))
    assert one_sided.data.y.to_numpy() == pytest.approx(np.minimum(free.data.y.to_numpy(), bounds[1]))
    law = CASES[family][2](eta, free.data, 1.0)
    expected = law.sf(bounds[1] - (family == "poisson"))
    z = ((world.data.y == bounds[1]) - expected).sum() / np.sqrt((expected * (1 - expected)).sum())
    assert abs(z) < stats.norm.isf(RARE / 2)


@pytest.mark.parametrize("family", CASES)
def test_truth_is_named_as_the_parameters_are(family: str) -> None:
    formula, parameters, _ = CASES[family]
    given = {"Intercept": N(0, 0.5), "x": N(0, 0.5), "1|g_sigma": bh.HalfNormal(0.5)}
    given |= {name: bh.Gamma(2, 1) for name in parameters}
    model = bh.Model(formula, family=family, priors=given)
    world = bh.simulate(model, DESIGN, random_seed=5)
    assert set(world.truth.data_vars) == {*model.parameters, "1|g"}
    again = bh.simulate(model, DESIGN, random_seed=5)
    assert again.data.equals(world.data)
    assert again.truth.equals(world.truth)


def test_trials_are_whole_and_bound_the_successes() -> None:
    world, _ = simulated("binomial", 6)
    assert world.data.t.dtype == np.int64
    assert world.data.t.between(1, 30).all()
    assert (world.data.y <= world.data.t).all()
    half = bh.Design.nested(g=3, i=50, covariates={"x": N(0, 1), "t": bh.Uniform(0.1, 0.2)})
    model = bh.Model(CASES["binomial"][0], family="binomial")
    assert set(bh.simulate(model, half, params=EFFECTS, random_seed=7).data.t) == {1}


def test_seeds_capped_world_is_a_censored_one() -> None:
    """The cap that the seed study meant, as `censored=(None, 100)`: nothing above 100, a share at it."""
    priors = {"Intercept": N(3, 0.1), "1|method_sigma": bh.HalfNormal(0.1), "1|method:instructor_sigma":
              bh.HalfNormal(0.1), "log1p(hs_gpa)": N(1, 0.1), "sigma": bh.HalfNormal(0.3)}  # fmt: skip
    model = bh.Model(
        "score ~ log1p(hs_gpa) + (1 | method/instructor)", family="cv_normal", censored=(None, 100), priors=priors
    )
    design = bh.Design.nested(method=5, instructor=10, student=40, covariates={"hs_gpa": N(3, 0.25)})
    params = {"Intercept": np.log(75 / 4), "log1p(hs_gpa)": 1, "1|method_sigma": 0.05,
              "1|method:instructor_sigma": 0.1, "sigma": 10 / 75}  # fmt: skip
    score = bh.simulate(model, design, params=params, random_seed=8).data.score
    assert score.max() == 100
    assert 0.02 < (score == 100).mean() < 0.2
    assert score[score < 100].is_unique


@pytest.mark.parametrize(
    ("family", "options", "params", "error", "fragment"),
    [
        ("student_t", {}, {**EFFECTS, "nu": 0, "sigma": 1}, DesignError, "'nu'] must be positive"),
        ("gamma", {}, {**EFFECTS, "alpha": -1}, DesignError, "'alpha'] must be positive"),
        ("poisson", {}, {**EFFECTS, "Intercept": 60}, DesignError, "'y' is not finite"),
        ("gamma", {"censored": "w"}, EFFECTS, DesignError, "Give bounds"),
        ("student_t", {}, EFFECTS, PriorError, "'sigma'"),
    ],
)
def test_what_cannot_be_simulated(family: str, options: dict, params: dict, error: type, fragment: str) -> None:
    with pytest.raises(error) as caught:
        bh.simulate(bh.Model(CASES[family][0], family=family, **options), DESIGN, params=params, random_seed=0)
    assert fragment in str(caught.value)


def test_trials_must_be_among_the_design() -> None:
    with pytest.raises(DesignError, match="makes no column 'n'"):
        bh.simulate(bh.Model("p(y, n) ~ 1", family="binomial"), DESIGN, random_seed=0)
