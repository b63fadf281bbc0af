"""Prior descriptions -> PyMC random variables."""

from __future__ import annotations

from typing import Any

from bayeshlm.errors import PriorError
from bayeshlm.spec.priors import (
    PC,
    Cauchy,
    Exponential,
    Flat,
    Gamma,
    HalfCauchy,
    HalfNormal,
    HalfStudentT,
    InverseGamma,
    LogNormal,
    Normal,
    Prior,
    StudentT,
    Uniform,
)  # fmt: skip

LOCATED = (Normal, StudentT, Cauchy, Flat)  # densities that may be shifted along the line


def coefficient(name: str, prior: Prior, *, shift: Any = 0.0, dims: tuple[str, ...] = ()) -> Any:
    """A coefficient; `shift` moves the prior's location (for priors of `LOCATED` only)."""
    import pymc as pm

    match prior:
        case Normal(mu=mu, sigma=sigma):
            return pm.Normal(name, mu + shift, sigma, dims=dims)
        case StudentT(nu=nu, mu=mu, sigma=sigma):
            return pm.StudentT(name, nu=nu, mu=mu + shift, sigma=sigma, dims=dims)
        case Cauchy(alpha=alpha, beta=beta):
            return pm.Cauchy(name, alpha + shift, beta, dims=dims)
        case Flat():
            return pm.Flat(name, dims=dims)
    return positive(name, prior, dims=dims)


def positive(name: str, prior: Prior, *, dims: tuple[str, ...] = ()) -> Any:
    """A standard deviation, a shape, or a coefficient that is known to be positive or bounded."""
    import pymc as pm

    match prior:
        case HalfNormal(sigma=sigma):
            return pm.HalfNormal(name, sigma, dims=dims)
        case HalfStudentT(nu=nu, sigma=sigma):
            return pm.HalfStudentT(name, nu=nu, sigma=sigma, dims=dims)
        case HalfCauchy(beta=beta):
            return pm.HalfCauchy(name, beta, dims=dims)
        case Exponential(lam=lam):
            return pm.Exponential(name, lam, dims=dims)
        case PC():
            return pm.Exponential(name, prior.rate, dims=dims)
        case Gamma(alpha=alpha, beta=beta):
            return pm.Gamma(name, alpha=alpha, beta=beta, dims=dims)
        case InverseGamma(alpha=alpha, beta=beta):
            return pm.InverseGamma(name, alpha=alpha, beta=beta, dims=dims)
        case LogNormal(mu=mu, sigma=sigma):
            return pm.LogNormal(name, mu, sigma, dims=dims)
        case Uniform(lower=lower, upper=upper):
            return pm.Uniform(name, lower, upper, dims=dims)
        case Flat():
            return pm.HalfFlat(name, dims=dims)
    raise PriorError(f"{name!r}: there is no PyMC form of {prior}.")
