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


def coefficient(name: str, prior: Prior, *, shift: Any = 0.0, scale: Any = 1.0, dims: tuple[str, ...] = ()) -> Any:
    """A coefficient; for priors of `LOCATED`, what is `scale` times one with the prior's location moved by `shift`."""
    import pymc as pm

    match prior:
        case Normal(mu=mu, sigma=sigma):
            return pm.Normal(name, (mu + shift) * scale, sigma * scale, dims=dims)
        case StudentT(nu=nu, mu=mu, sigma=sigma):
            return pm.StudentT(name, nu=nu, mu=(mu + shift) * scale, sigma=sigma * scale, dims=dims)
        case Cauchy(alpha=alpha, beta=beta):
            return pm.Cauchy(name, (alpha + shift) * scale, beta * scale, dims=dims)
        case Flat():
            return pm.Flat(name, dims=dims)
    return positive(name, prior, dims=dims)


def deviation(name: str, prior: Prior, *, dims: tuple[str, ...] = ()) -> Any:
    """A standard deviation of groups: `positive`, on a scale with room for values near 0 if the prior allows them."""
    from bayeshlm.engines.pymc.transform import RootLog

    match prior:
        case HalfNormal(sigma=scale) | HalfStudentT(sigma=scale) | HalfCauchy(beta=scale):
            return positive(name, prior, dims=dims, default_transform=RootLog(scale))
        case Exponential(lam=rate) | PC(rate=rate):
            return positive(name, prior, dims=dims, default_transform=RootLog(1 / rate))
    return positive(name, prior, dims=dims)


def positive(name: str, prior: Prior, **options: Any) -> Any:
    """A standard deviation, a shape, or a coefficient that is known to be positive or bounded.

    `options` are those of a PyMC variable: dims, default_transform.
    """
    import pymc as pm

    match prior:
        case HalfNormal(sigma=sigma):
            return pm.HalfNormal(name, sigma, **options)
        case HalfStudentT(nu=nu, sigma=sigma):
            return pm.HalfStudentT(name, nu=nu, sigma=sigma, **options)
        case HalfCauchy(beta=beta):
            return pm.HalfCauchy(name, beta, **options)
        case Exponential(lam=lam):
            return pm.Exponential(name, lam, **options)
        case PC():
            return pm.Exponential(name, prior.rate, **options)
        case Gamma(alpha=alpha, beta=beta):
            return pm.Gamma(name, alpha=alpha, beta=beta, **options)
        case InverseGamma(alpha=alpha, beta=beta):
            return pm.InverseGamma(name, alpha=alpha, beta=beta, **options)
        case LogNormal(mu=mu, sigma=sigma):
            return pm.LogNormal(name, mu, sigma, **options)
        case Uniform(lower=lower, upper=upper):
            return pm.Uniform(name, lower, upper, **options)
        case Flat():
            return pm.HalfFlat(name, **options)
    raise PriorError(f"{name!r}: there is no PyMC form of {prior}.")
