"""Prior-data conflict: do the data lie where the prior said that they hardly could?

References
----------
Evans and Moshonov (2006), Bayesian Analysis 1(4), section 2: the place of the data among those that the prior predicts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.statistics import Statistics
from bayeshlm.posterior.draws import dataset, model_of, told_by_prior
from bayeshlm.spec.priors import (
    LKJ,
    PC,
    Cauchy,
    Exponential,
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
    base_prior,
)  # fmt: skip

if TYPE_CHECKING:
    import xarray as xr

FALSE_ALARMS = 0.005  # of a posterior, over all its parameters
FAR = 3.0  # standard deviations of a column from 0, beyond which an intercept at 0 is said to be far from the data


@dataclass(frozen=True)
class Conflict:
    """A parameter whose prior the data contradict.

    Attributes
    ----------
    parameter : str
        With its label, if it has one.
    prior : Prior
    score : float
        How far out the data lie among those that the prior predicts, in standard deviations.
    tail : float
        Probability of data as far out or farther.
    """

    parameter: str
    prior: Prior
    score: float
    tail: float

    def to_text(self) -> str:
        """What was found."""
        side = "above" if self.score > 0 else "below"
        return (
            f"Prior and data conflict: under {self.parameter} ~ {self.prior} the data lie {abs(self.score):.1f} "
            f"standard deviations {side} (tail probability {self.tail:.1g})"
        )


def conflicts(posterior: xr.DataTree, statistics: Statistics) -> tuple[Conflict, ...]:
    """The conflicts of all priors of common effects, then of standard deviations and shapes, the worst of each first.

    Each parameter is turned into its normal score under the prior, whose prior is then N(0, 1). The posterior mean m of
    a score has variance 1 - E v among the data that the prior predicts (v the posterior variance, by the law of total
    variance), so that m / sqrt(1 - v) says how far out these data are; under Gaussian priors and likelihoods it is
    Evans and Moshonov's measure itself. Small values of a standard deviation whose prior is densest at 0 contradict
    nothing. The tail that counts as a conflict is 0.5 % divided by the number of parameters. A prior so narrow that the
    data cannot move it is not seen here, since the draws do not tell what the data alone say: `sensitivity` is.
    """
    model = model_of(posterior)
    found = []
    for name, prior in model.complete_priors.items():
        if not prior.proper or isinstance(prior, LKJ) or name not in dataset(posterior):
            continue
        draws = told_by_prior(posterior, name, prior, statistics.layout)
        labels = dataset(posterior)[name].dims[2:]
        names = dataset(posterior)[name][labels[0]].values.tolist() if labels else [None]
        for label, values in zip(names, draws.reshape(len(draws), -1).T, strict=True):
            score, tail = _place(base_prior(prior), values)
            found.append(
                (
                    model.parameters[name] != "coefficient",
                    Conflict(name if label is None else f"{name}[{label}]", prior, score, tail),
                )
            )
    limit = FALSE_ALARMS / max(len(found), 1)
    far = [(rank, c) for rank, c in found if c.tail < limit]
    # A common effect held far from the data inflates standard deviations, which then lie far out as well.
    return tuple(c for _, c in sorted(far, key=lambda pair: (pair[0], pair[1].tail)))


def conflict_messages(posterior: xr.DataTree, statistics: Statistics) -> list[str]:
    """A sentence a conflict, and what to do."""
    _, mean, scatter = statistics.total()
    columns = statistics.layout.columns[1:]
    spread = np.sqrt(np.diag(scatter)[:-1] / statistics.weight.sum())
    centre = np.abs((mean + statistics.shift)[:-1])
    used = set(statistics.layout.common_columns)
    far = [c.label for k, c in enumerate(columns) if k + 1 in used and centre[k] > FAR * spread[k] and c.numeric]
    messages = []
    for conflict in conflicts(posterior, statistics):
        advice = "Check units and data, or widen this prior"
        if conflict.parameter == "Intercept" and far and base_prior(conflict.prior) is conflict.prior:
            advice = f"Its prior is of the value where {', '.join(far)} is 0, far from the data: center it, or widen it"
        messages.append(f"{conflict.to_text()}. {advice}.")
    return messages


def _place(prior: Prior, draws: Array) -> tuple[float, float]:
    """(score, tail probability) of the data behind posterior draws of a parameter; (0, 1) where it cannot be told."""
    scores, one_sided = normal_scores(prior, draws)
    if not np.isfinite(scores).all():
        scores = np.clip(np.nan_to_num(scores, posinf=38.0, neginf=-38.0), -38.0, 38.0)  # beyond the floats' tails
    mean, variance = float(scores.mean()), float(scores.var())
    noise = 2 * math.sqrt(2 / len(scores))  # two standard errors of the variance: where it is 1, nothing was learnt
    score = mean / math.sqrt(max(1.0 - variance, 0.0) + noise)
    tail = 0.5 * math.erfc(score / math.sqrt(2)) if one_sided else math.erfc(abs(score) / math.sqrt(2))
    return score, tail


def normal_scores(prior: Prior, x: Array) -> tuple[Array, bool]:
    """(normal quantiles of the prior's distribution function at x, whether only large values contradict the prior)."""
    from scipy import special

    def of_upper(log_tail: Array) -> Array:
        return np.asarray(-special.ndtri_exp(np.minimum(log_tail, -1e-300)))

    with np.errstate(divide="ignore"):
        match prior:
            case Normal(mu=mu, sigma=sigma):
                return (x - mu) / sigma, False
            case LogNormal(mu=mu, sigma=sigma):
                return (np.log(x) - mu) / sigma, False
            case StudentT(nu=nu, mu=mu, sigma=sigma):
                return _of_t((x - mu) / sigma, nu), False
            case Cauchy(alpha=alpha, beta=beta):
                return _of_t((x - alpha) / beta, 1.0), False
            case HalfNormal(sigma=sigma):
                return of_upper(math.log(2) + special.log_ndtr(-x / sigma)), True
            case HalfStudentT(nu=nu, sigma=sigma):
                return of_upper(np.log(2 * special.stdtr(nu, -x / sigma))), True
            case HalfCauchy(beta=beta):
                return of_upper(np.log(2 * special.stdtr(1.0, -x / beta))), True
            case Exponential(lam=rate) | PC(rate=rate):
                return of_upper(-rate * x), True
            case Gamma(alpha=alpha, beta=beta):
                return _between(special.gammainc(alpha, beta * x), special.gammaincc(alpha, beta * x)), alpha <= 1
            case InverseGamma(alpha=alpha, beta=beta):
                return _between(special.gammaincc(alpha, beta / x), special.gammainc(alpha, beta / x)), False
            case Uniform(lower=lower, upper=upper):
                width = upper - lower
                return _between((x - lower) / width, (upper - x) / width), lower == 0
    return np.zeros_like(x), False  # Flat: nothing can contradict it


def _of_t(z: Array, nu: float) -> Array:
    from scipy import special

    return np.asarray(np.sign(z) * -special.ndtri(special.stdtr(nu, -np.abs(z))))


def _between(below: Array, above: Array) -> Array:
    """Normal scores from both tail probabilities, by the smaller of them."""
    from scipy import special

    return np.asarray(np.where(below < above, special.ndtri(below), -special.ndtri(above)))
