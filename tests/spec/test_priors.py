"""Priors: densities integrate to one and match scipy; draws agree with densities."""

import numpy as np
import pytest
from scipy import integrate, stats

import bayeshlm as bh
from bayeshlm.errors import PriorError
from bayeshlm.spec.priors import from_dict, parse_prior

CASES = [
    (bh.Normal(1.5, 2.5), stats.norm(1.5, 2.5)),
    (bh.StudentT(3, 1, 2), stats.t(3, 1, 2)),
    (bh.Cauchy(1, 2), stats.cauchy(1, 2)),
    (bh.HalfNormal(0.7), stats.halfnorm(scale=0.7)),
    (bh.HalfStudentT(4, 1.5), stats.t(4, 0, 1.5)),
    (bh.HalfCauchy(2), stats.halfcauchy(scale=2)),
    (bh.Exponential(3), stats.expon(scale=1 / 3)),
    (bh.Gamma(2.5, 4), stats.gamma(2.5, scale=1 / 4)),
    (bh.InverseGamma(3, 2), stats.invgamma(3, scale=2)),
    (bh.LogNormal(0.5, 0.8), stats.lognorm(0.8, scale=np.exp(0.5))),
    (bh.Uniform(-1, 3), stats.uniform(-1, 4)),
    (bh.PC(2, 0.05), stats.expon(scale=-2 / np.log(0.05))),
]
IDS = [str(prior) for prior, _ in CASES]
# Each KS test rejects a right sampler with this probability; seeds are fixed, so that it passes or fails for good.
FALSE_ALARM = 1e-3


def truth(prior, reference):
    half = isinstance(prior, bh.HalfStudentT)
    return (lambda x: np.log(2) + reference.logpdf(x)) if half else reference.logpdf


@pytest.mark.parametrize(("prior", "reference"), CASES, ids=IDS)
def test_density_matches_scipy_and_integrates_to_one(prior, reference):
    low, high = prior.bounds
    x = np.concatenate([np.linspace(-8, 8, 41), [1e-6, 1e-3, 30.0]])
    inside = x[(x > low) & (x < high)]
    np.testing.assert_allclose(prior.logpdf(inside), truth(prior, reference)(inside), rtol=1e-12, atol=1e-12)
    assert (prior.logpdf(x[(x < low) | (x > high)]) == -np.inf).all()
    area = sum(
        integrate.quad(lambda v: np.exp(float(prior.logpdf(np.array(v)))), a, b, limit=200)[0]
        for a, b in ((low, min(1.0, high)), (min(1.0, high), high))
    )
    assert area == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("prior", "reference"), CASES, ids=IDS)
def test_draws_agree_with_density(prior, reference):
    draws = prior.sample(np.random.default_rng(20), 4000)
    cdf = (lambda x: 2 * reference.cdf(x) - 1) if isinstance(prior, bh.HalfStudentT) else reference.cdf
    assert stats.kstest(draws, cdf).pvalue > FALSE_ALARM
    assert np.shape(prior.sample(np.random.default_rng(0))) == ()
    assert prior.sample(np.random.default_rng(0), (2, 3)).shape == (2, 3)


@pytest.mark.parametrize("eta", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_lkj_gives_every_correlation_its_beta_marginal(eta, size):
    from bayeshlm.engines.exact.hyperparameters import correlation_root

    rng = np.random.default_rng(11)
    z = np.stack([bh.LKJ(eta).sample_partial(rng, size) for _ in range(4000)])
    root = correlation_root(z, size)
    matrix = np.einsum("ikb,jkb->ijb", root, root)
    b = eta + (size - 2) / 2
    for i, j in zip(*np.tril_indices(size, -1), strict=True):
        assert stats.kstest((matrix[i, j] + 1) / 2, stats.beta(b, b).cdf).pvalue > FALSE_ALARM / 6


@pytest.mark.parametrize("eta", [1.0, 2.5])
def test_lkj_density_of_partials(eta):
    rng = np.random.default_rng(1)
    z = rng.uniform(-0.9, 0.9, (5, 3))
    b = bh.LKJ(eta).partial_beta(3)
    expected = sum(stats.beta(v, v, loc=-1, scale=2).logpdf(z[:, k]) for k, v in enumerate(b))
    np.testing.assert_allclose(bh.LKJ(eta).logpdf_partial(z, 3), expected, rtol=1e-12)
    # ... and of the matrix: |R|^(eta - 1), whose ratio between two matrices needs no constant.
    from bayeshlm.engines.exact.hyperparameters import correlation_root

    root = correlation_root(z, 3)
    log_matrix = (eta - 1) * 2 * np.log(np.einsum("iib->ib", root)).sum(axis=0)
    jacobian = 0.5 * (np.log1p(-(z[:, 0] ** 2)) + np.log1p(-(z[:, 1] ** 2)))  # C-vine, d = 3 (LKJ 2009, eq. 7)
    np.testing.assert_allclose(np.diff(log_matrix + jacobian), np.diff(expected), rtol=1e-9)


@pytest.mark.parametrize("prior", [prior for prior, _ in CASES] + [bh.Flat(), bh.LKJ(2)], ids=str)
def test_dictionary_and_text_round_trip(prior):
    assert from_dict(prior.to_dict()) == prior
    if prior.to_dict().keys() > {"name"}:
        arguments = ", ".join(f"{k}={v!r}" for k, v in prior.to_dict().items() if k != "name")
        assert parse_prior(f" {type(prior).__name__}({arguments}) ") == prior


@pytest.mark.parametrize(
    "text",
    ["", "Normal", "Normal(", "Normal(0, 1", "normal(0, 1)", "Normal(0, -1)", "Normal(0, 0)", "Normal('a', 1)",
     "Normal(mu=0, mean=1)", "Normal(1, 2, 3)", "Normal(0, float('nan'))", "Normal(0, 1e999)", "Normal(0, True)",
     "HalfNormal(None)", "__import__('os').system('true')", "Normal(*[1, 2])", "Normal(**{'mu': 1})", "Gamma(1)",
     "Uniform(2, 1)", "PC(1, 1.5)", "Normal(0, 1); 3", "lambda: 3", "(" * 3000, "Normal(" + "-" * 5000 + "1, 1)"],
)  # fmt: skip
def test_junk_priors(text):
    with pytest.raises(PriorError):
        parse_prior(text)


def test_flat_cannot_be_drawn():
    with pytest.raises(PriorError, match="improper"):
        bh.Flat().sample(np.random.default_rng(0))
