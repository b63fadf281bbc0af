"""Shares of variance on the scale on which effects add: what each level contributes, and what rows vary by."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.layout import Level
from bayeshlm.data.statistics import Statistics
from bayeshlm.posterior.draws import mean_over_rows, variance_of_rows
from bayeshlm.spec.model import Model

Values = Mapping[str, Array]  # variable -> (draws, ...)
LATENT = (
    "On the latent scale of log odds, whose variance between rows is that of the standard logistic, "
    "\N{GREEK SMALL LETTER PI}\N{SUPERSCRIPT TWO} / 3."
)


def residual_note(model: Model) -> str:
    """On what scale shares of variance are, and what counts as variation between rows there."""
    return {
        "gaussian": "",
        "lognormal": "On the scale of logs.",
        "student_t": "The variance between rows is that of the t, infinite (a share of 0 for all else) where nu <= 2.",
        "cv_normal": "On the scale of logs, to first order: the variance between rows is sigma squared.",
        "gamma": "On the scale of logs: the variance between rows is trigamma(alpha).",
        "bernoulli": LATENT,
        "binomial": LATENT,
        "poisson": "On the scale of logs: the variance between rows is trigamma of the mean count.",
        "negative_binomial": "On the scale of logs: the variance between rows is trigamma(1 / (1 / mean + 1 / alpha)).",
    }[model.family]


def level_variances(statistics: Statistics, values: Values) -> dict[str, Array]:
    """Level -> mean over rows of the variance that its effects contribute, (draws,).

    References
    ----------
    With slopes tr(S E[zz']): Johnson (2014), Methods in Ecology and Evolution 5, equation 10.
    """
    total = statistics.total()
    columns = total.moved(statistics.shift).chosen(range(len(total.mean) - 1))
    moments = columns.with_constant().about() / total.weight  # E[zz'] of z = (1, columns)
    return {level.name: _level_variance(level, values, moments) for level in statistics.layout.levels}


def _level_variance(level: Level, values: Values, moments: Array) -> Array:
    sds = np.concatenate(
        [values[f"{block.name}_sigma"].reshape(-1, len(block.columns)) for block in level.blocks], axis=1
    )
    correlation = np.broadcast_to(np.eye(sds.shape[1]), (len(sds), sds.shape[1], sds.shape[1])).copy()
    for positions in level.correlated:
        correlation[np.ix_(range(len(sds)), positions, positions)] = values[f"corr|{level.name}"]
    part = moments[np.ix_(level.columns, level.columns)]
    return np.asarray(np.einsum("si,sij,sj,ij->s", sds, correlation, sds, part))


def has_shares(model: Model) -> bool:
    """Whether the variance between rows is known: the mean of censored counts as recorded is not that of the counts."""
    return model.family_spec.support != "count" or model.censored is None


def row_variance(statistics: Statistics, values: Values) -> Array:
    """Variance between rows on the scale on which effects add, (draws,), or one number where no parameter tells it.

    Only for models that `has_shares` lets pass.

    References
    ----------
    Nakagawa, Johnson, Schielzeth (2017), J. R. Soc. Interface 14, table 1 and appendix S1: pi^2 / 3 for logits,
    trigamma for logs, the mean count taken from the data.
    """
    from scipy.special import polygamma

    model = statistics.model
    weight, mean, _ = statistics.total()
    if model.family_spec.link == "logit":
        return np.asarray(np.pi**2 / 3)
    if model.family_spec.support == "count":
        inverse = 1 / max(float(mean[-1] + statistics.shift[-1]), np.finfo(float).tiny)
        return np.asarray(polygamma(1, 1 / (inverse + (1 / values["alpha"] if "alpha" in values else 0.0))))
    if model.family == "gamma":
        return np.asarray(polygamma(1, values["alpha"] * weight / statistics.rows))
    residual = mean_over_rows(statistics, variance_of_rows(statistics, values.get("sigma", np.ones(1))))
    if model.family == "student_t":
        nu = values["nu"]
        return residual * np.where(nu > 2, nu / np.where(nu > 2, nu - 2, 1.0), np.inf)
    return residual
