"""The engine as a whole: evidence, calibration, fallback, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

import bayeshlm as bh
from bayeshlm.data.compress import compress
from bayeshlm.engines.exact import fit as exact
from bayeshlm.engines.exact.build import build_problem
from bayeshlm.engines.exact.density.nested import Marginal
from bayeshlm.engines.exact.hyperparameters import constrain
from bayeshlm.engines.sampling import importance
from bayeshlm.posterior.draws import flat
from tests.engines.dense import CASES, make_frame, make_model

NESTED = bh.Model(
    "y ~ x + (1 | a/b)",
    family="lognormal",
    priors={
        "Intercept": bh.Normal(1, 0.5), "x": bh.Normal(0, 0.5), "1|a_sigma": bh.HalfNormal(0.5),
        "1|a:b_sigma": bh.HalfNormal(0.3), "sigma": bh.HalfNormal(0.5),
    },
)  # fmt: skip
DESIGN = bh.Design.nested(a=4, b=3, unit=6, covariates={"x": bh.Normal(0, 1)})


def test_evidence_equals_quadrature() -> None:
    """One hyperparameter: the evidence is an integral that quadrature does."""
    rng = np.random.default_rng(1)
    frame = make_frame(rng)
    model = bh.Model(
        "y ~ x", priors={"Intercept": bh.Normal(0, 2), "x": bh.Normal(0, 1), "sigma": bh.HalfStudentT(4, 1)}
    )
    marginal = Marginal(build_problem(compress(model, frame)))
    top = marginal.log_density(np.linspace(-3, 3, 601)[:, None])[0].max()
    area, _ = integrate.quad(lambda t: math.exp(marginal.log_density(np.array([[t]]))[0][0] - top), -6, 6, limit=400)
    posterior = bh.fit(model, frame, random_seed=1)
    error = abs(posterior.attrs["log_evidence"] - (top + math.log(area)))
    assert error < 5 * posterior.attrs["log_evidence_se"]
    assert posterior.attrs["log_evidence_se"] < 0.02


def test_known_errors_without_groups_need_no_sampling() -> None:
    """The normal mean with known errors: conjugate answer (false alarms 1e-6)."""
    rng = np.random.default_rng(2)
    frame = make_frame(rng)
    model = bh.Model("y ~ 1", se="s", priors={"Intercept": bh.Normal(0.5, 2.0)})
    posterior = bh.fit(model, frame, random_seed=1)
    draws = flat(posterior, "Intercept")
    precision = 1 / 4 + (1 / frame["s"] ** 2).sum()
    mean = (0.5 / 4 + (frame["y"] / frame["s"] ** 2).sum()) / precision
    assert abs(draws.mean() - mean) < 5 / math.sqrt(precision * len(draws))
    assert draws.std() == pytest.approx(precision**-0.5, rel=5 / math.sqrt(2 * len(draws)))
    assert math.isfinite(posterior.attrs["log_evidence"])


def joint_log_likelihood(posterior_or_truth: dict[str, np.ndarray], frame: object) -> np.ndarray:
    """log p(y | every parameter) from the rows, for draws on the first axis."""
    p = posterior_or_truth
    mean = p["Intercept"][:, None] + p["x"][:, None] * frame["x"].to_numpy()
    mean = mean + p["1|a"][:, frame["a"].to_numpy()] + p["1|a:b"][:, frame["b"].to_numpy()]
    return stats.norm.logpdf(np.log(frame["y"].to_numpy()), mean, p["sigma"][:, None]).sum(axis=1)


def test_simulation_based_calibration() -> None:
    """200 replicates, 99 draws each: ranks uniform (chi-square on 20 bins; overall false alarm rate 1e-4).

    The joint log likelihood is among the quantities: without it an engine that ignores the data would pass.
    """
    names = ["Intercept", "x", "1|a_sigma", "1|a:b_sigma", "sigma", "1|a", "1|a:b"]
    ranks: dict[str, list[int]] = {}
    for replicate in range(200):
        world = bh.simulate(NESTED, DESIGN, random_seed=replicate)
        statistics = compress(NESTED, world.data)
        result = exact.fit_exact(statistics, draws=99, chains=1, seed=replicate)
        draws = {name: result.variables[name].values[0] for name in names}
        truth = {name: world.truth[name].to_numpy()[None] for name in names}
        likelihood = joint_log_likelihood(draws, world.data)
        true_likelihood = joint_log_likelihood(truth, world.data)[0]
        ranks.setdefault("log likelihood", []).append(int((likelihood < true_likelihood).sum()))
        for name in names:
            for label in {0, draws[name].shape[1] - 1} if draws[name].ndim > 1 else {None}:
                mine = draws[name] if label is None else draws[name][:, label]
                value = float(truth[name][0] if label is None else truth[name][0, label])
                ranks.setdefault(f"{name}[{label}]", []).append(int((mine < value).sum()))
    for name, found in ranks.items():
        assert len(found) == 200
        counts = np.histogram(found, bins=20, range=(0, 100))[0]
        assert stats.chisquare(counts).pvalue > 1e-4 / len(ranks), name


def test_fallback_is_the_same_posterior_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """NUTS on the collapsed model against importance sampling (false alarms 1e-5)."""
    rng = np.random.default_rng(3)
    model, frame = make_model(CASES["one level"], rng), make_frame(rng)
    usual = bh.fit(model, frame, random_seed=1)
    assert usual.attrs["fallback"] == ""
    monkeypatch.setattr(importance, "MAX_PARETO_K", -math.inf)
    other = bh.fit(model, frame, random_seed=1, chains=2, draws=300, progress=False)
    assert "NUTS on the collapsed model" in other.attrs["fallback"]
    diagnosis = bh.diagnose(other)
    assert diagnosis.status == "REVIEW"
    assert any("NUTS" in message for message in diagnosis.messages)
    from arviz_stats.base import array_stats

    for name in ("sigma", "1|a_sigma", "Intercept"):
        a, b = usual["posterior"][name].values, other["posterior"][name].values
        error = math.hypot(float(array_stats.mcse(a)), float(array_stats.mcse(b)))
        assert abs(a.mean() - b.mean()) < 5 * error


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            bh.Model("y ~ x", family="lognormal", priors={"x": bh.StudentT(3, 0, 1)}),
            "needs Normal or Flat priors.*x ~ StudentT",
        ),
        (bh.Model("y ~ x", family="lognormal", censored="c"), "censored rows"),
    ],
)
def test_other_refusals_name_the_reason(model: bh.Model, message: str) -> None:
    frame = make_frame(np.random.default_rng(5)).assign(c="none")
    with pytest.raises(bh.errors.EngineError, match=message):
        bh.fit(model, frame, engine="exact")


def test_effects_that_would_not_fit_in_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "MAX_BYTES", 10_000)
    with pytest.raises(bh.errors.EngineError, match="fewer draws"):
        bh.fit(NESTED, bh.simulate(NESTED, DESIGN, random_seed=1).data, effects="draws")


def test_roots_rebuild_the_reported_correlations() -> None:
    """`corr|a`, the sds and the effects' covariance in the posterior are of one matrix."""
    rng = np.random.default_rng(6)
    case = CASES["slopes on both levels"]
    statistics = compress(make_model(case, rng), make_frame(rng))
    problem = build_problem(statistics)
    theta = rng.normal(size=(5, problem.size))
    _, roots, values, _ = constrain(problem, theta)
    for level, start in ((0, 1), (1, 3)):
        covariance = np.einsum("iab,jab->ijb", roots[level], roots[level])
        assert np.allclose(np.sqrt(np.einsum("iib->ib", covariance)), values.T[start : start + 2])


def test_a_nearly_perfect_fit_keeps_its_digits_and_a_perfect_one_is_refused() -> None:
    """Residual sd 1e-5 of the spread comes back (within 5 standard errors); 0 cannot be told from rounding."""
    rng = np.random.default_rng(7)
    frame = make_frame(rng, groups=12)
    model = make_model(CASES["one level"], rng).with_priors({"sigma": bh.HalfNormal(1.0)})
    exact_part = rng.normal(0, 1, 12)[frame["a"]]
    noise = rng.normal(0, 1, len(frame))
    posterior = bh.fit(model, frame.assign(y=exact_part + 1e-5 * noise), random_seed=1)
    assert bh.diagnose(posterior).status == "PASS"
    sigma = flat(posterior, "sigma")
    within = noise - frame.assign(e=noise).groupby("a")["e"].transform("mean")
    free = len(frame) - 12
    expected = 1e-5 * math.sqrt((within**2).sum() / free)
    assert abs(np.median(sigma) - expected) < 5 * expected / math.sqrt(2 * free) * 0.5
    with pytest.raises(bh.errors.EngineError, match="edge of rounding"):
        bh.fit(model, frame.assign(y=exact_part))


def test_improper_posteriors_are_refused() -> None:
    """A flat sd over two groups has no bound where the intercept is flat too; three groups have one."""
    rng = np.random.default_rng(8)
    frame = make_frame(rng, groups=6)
    flat_priors = {"Intercept": bh.Flat(), "1|a_sigma": bh.Flat(), "sigma": bh.Flat()}
    model = bh.Model("y ~ 1 + (1 | a)", priors=flat_priors)
    with pytest.raises(bh.errors.PriorError, match=r"improper for .*1\|a_sigma \(2 groups"):
        bh.fit(model, frame[frame["a"] < 2])
    assert bh.fit(model, frame, random_seed=1).attrs["status"] == "PASS"


def test_many_equal_groups_share_one_class() -> None:
    """Groups of equal size enter the sweep as one class; the density is that of the dense twin all the same."""
    rng = np.random.default_rng(9)
    frame = make_frame(rng)
    problem = build_problem(compress(make_model(CASES["nested"], rng), frame))
    leaf = Marginal(problem).leaf
    sizes = frame.groupby(["a", "b"]).size()
    assert len(leaf.members) == sizes.nunique()
    assert leaf.members.sum() == len(sizes)
