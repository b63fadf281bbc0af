"""How far the posterior would move if the prior, or the data, counted a little more or less."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bayeshlm.arrays import Array
from bayeshlm.data.checks.clusters import few_children
from bayeshlm.data.statistics import Statistics
from bayeshlm.engines.exact.build import build_problem, nested_order
from bayeshlm.engines.exact.density.bind import exact_density
from bayeshlm.engines.exact.problem import Problem
from bayeshlm.errors import EngineError
from bayeshlm.posterior.draws import (
    dataset,
    flat,
    model_of,
    scalars,
    statistics_of,
    told_by_prior,
)
from bayeshlm.posterior.hyper import hyperparameters
from bayeshlm.posterior.question import resolve
from bayeshlm.posterior.values import GroupValues, group_values
from bayeshlm.spec.priors import LKJ

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

THRESHOLD = 0.05  # Kallioinen et al. (2024), section 3.5
MOST_CONTRASTS = 30
FEWER = 400  # draws for crossed levels, whose density costs a factorisation each
CONFLICT, STRONG, FINE = "prior and data may disagree", "the prior decides", ""


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """Power-scaling sensitivities.

    Attributes
    ----------
    table : pandas.DataFrame
        `quantity`, `prior` and `likelihood` (sensitivities; above 0.05 is noticeable), `diagnosis`: "prior and data may
        disagree" (both noticeable), "the prior decides" (the prior noticeable, the data not), or nothing.
    cautions : tuple of str
        Contrasts that rest on few groups.
    by : str or None
        Whose contrasts are in the table.
    """

    table: pd.DataFrame
    cautions: tuple[str, ...]
    by: str | None

    @property
    def noticeable(self) -> pd.DataFrame:
        """The rows with a diagnosis."""
        return self.table[self.table["diagnosis"] != FINE]

    def to_text(self) -> str:
        """What moves with its prior, then the cautions."""
        found = self.noticeable
        if len(found):
            text = found.to_string(index=False, float_format=lambda value: f"{value:.2f}")
            head = f"{len(found)} of {len(self.table)} quantities move with their prior:\n{text}"
        else:
            head = f"None of {len(self.table)} quantities moves noticeably with its prior."
        return "\n".join([head, *self.cautions])


def sensitivity(posterior: xr.DataTree, by: str | None = None) -> Sensitivity:
    """Prior and likelihood sensitivity by power scaling: the posterior under p(theta)^a p(y | theta)^b, a, b near 1.

    The prior is that of common effects, standard deviations and correlations. Group-specific effects are integrated
    out, so that how they are distributed counts as part of the likelihood.

    Parameters
    ----------
    posterior : xarray.DataTree
    by : str, optional
        As in `compare`. What it asks joins the table: contrasts with the reference, of a level with its group of
        largest mean; the slope of a number; the effects in subgroups.

    Returns
    -------
    Sensitivity

    References
    ----------
    Kallioinen, Paananen, Buerkner, Vehtari (2024), Statistics and Computing 34, 57; computed by `arviz_stats.psense`.
    """
    import pandas as pd

    statistics = statistics_of(posterior)
    if statistics.model.censored is not None:
        raise EngineError("The likelihood of censored rows is not one of statistics; no power scaling from them.")
    listing = _quantities(posterior, by)
    total = dataset(posterior).sizes["chain"] * dataset(posterior).sizes["draw"]
    nested = nested_order(statistics) is not None
    chosen = np.arange(total) if nested else np.unique(np.linspace(0, total - 1, min(FEWER, total)).astype(int))
    prior = log_prior(posterior)[chosen]
    likelihood = log_likelihood(posterior, statistics, chosen)
    draws = np.stack([values[chosen] for _, values in listing])
    found = {kind: _sense(draws, log) for kind, log in (("prior", prior), ("likelihood", likelihood))}
    moved = found["prior"] >= THRESHOLD
    diagnosis = np.where(moved, np.where(found["likelihood"] >= THRESHOLD, CONFLICT, STRONG), FINE)
    table = pd.DataFrame({"quantity": [name for name, _ in listing], **found, "diagnosis": diagnosis})
    cautions = [str(text) for text in json.loads(posterior.attrs.get("cautions", "[]"))]
    level = None if by is None else resolve(statistics, by).level
    few = None if level is None else few_children(statistics, level)
    return Sensitivity(table, tuple(dict.fromkeys([*cautions, *([few] if few else [])])), by)


def _quantities(posterior: xr.DataTree, by: str | None) -> list[tuple[str, Array]]:
    """(name, (draws,)) of every parameter, then of the contrasts."""
    listing = []
    for name in model_of(posterior).parameters:
        for label, draws in scalars(posterior, name):
            listing.append((name if label is None else f"{name}[{label}]", draws.ravel()))
    if by is not None:
        listing += _contrasts(group_values(posterior, by))
    return listing


def _contrasts(values: GroupValues) -> list[tuple[str, Array]]:
    """A number's slope, the effects in subgroups, else contrasts with the reference, or with the largest group."""
    labels, draws = values.labels, values.draws
    if values.slope is not None:
        return [(f"{values.name}: one more unit of {values.slope.unit}", values.slope.draws)]
    if values.question.subgroup is not None:
        effects = zip(labels, draws.T, strict=True)
        return [(f"{values.name}: {label}", effect) for label, effect in effects][:MOST_CONTRASTS]
    order = np.argsort(-draws.mean(axis=0))
    if values.reference is None:
        pairs = [(int(order[0]), int(other)) for other in order[1:]]
    else:
        pairs = [(int(other), values.reference) for other in order if other != values.reference]
    return [
        (f"{values.name}: {labels[a]} against {labels[b]}", draws[:, a] - draws[:, b])
        for a, b in pairs[:MOST_CONTRASTS]
    ]


def log_prior(posterior: xr.DataTree) -> Array:
    """(draws,): log prior density of common effects, standard deviations and correlations, up to a constant."""
    total = dataset(posterior).sizes["chain"] * dataset(posterior).sizes["draw"]
    out = np.zeros(total)
    layout = statistics_of(posterior).layout
    for name, prior in model_of(posterior).complete_priors.items():
        draws = told_by_prior(posterior, name, prior, layout)
        if isinstance(prior, LKJ):
            out += (prior.eta - 1) * np.linalg.slogdet(draws)[1]
        else:
            out += prior.logpdf(draws).reshape(total, -1).sum(axis=1)
    return out


def log_likelihood(posterior: xr.DataTree, statistics: Statistics, chosen: NDArray[np.int64]) -> Array:
    """(chosen,): log p(y | common effects, theta), group-specific effects integrated out.

    By Bayes' rule from what the sweep gives: p(y | b, theta) = p(y | theta) p(b | y, theta) / p(b).
    """
    problem = build_problem(statistics)
    density = exact_density(problem)
    sigma, roots = hyperparameters(posterior, statistics, problem)
    beta = _centred(posterior, statistics, problem)[chosen]
    sigma, roots = sigma[chosen], [root[:, :, chosen] for root in roots]
    step = density.chunk
    out = np.empty(len(chosen))
    for start in range(0, len(chosen), step):
        part = slice(start, start + step)
        sweep = density.sweep(sigma[part], [root[:, :, part] for root in roots])
        out[part] = sweep.log_likelihood
        if beta.shape[1]:
            mean = np.linalg.solve(sweep.information, sweep.score[:, :, None])[:, :, 0]
            off, prior_off = beta[part] - mean, beta[part] - problem.prior_mean
            out[part] += 0.5 * np.linalg.slogdet(sweep.information)[1]
            out[part] -= 0.5 * np.einsum("bi,bij,bj->b", off, sweep.information, off)
            out[part] += 0.5 * np.einsum("bi,ij,bj->b", prior_off, problem.precision, prior_off)
            out[part] -= 0.5 * problem.log_prior_determinant
    return out


def _centred(posterior: xr.DataTree, statistics: Statistics, problem: Problem) -> Array:
    """Common effects in the problem's centred coordinates, (draws, p)."""
    total = dataset(posterior).sizes["chain"] * dataset(posterior).sizes["draw"]
    parts = [flat(posterior, block.name).reshape(total, -1) for block in statistics.layout.common]
    beta = np.concatenate(parts, axis=1) if parts else np.zeros((total, 0))
    return np.asarray(beta @ problem.centring.T - problem.offset)


def _sense(draws: Array, log: Array) -> Array:
    """(quantities,): sensitivity of each to a power of the density whose logs are given; 0 for a constant one."""
    import xarray as xr
    from arviz_stats import psense

    if np.ptp(log) <= 1e-9 * max(1.0, float(np.abs(log).max())):
        return np.zeros(len(draws))
    dims = ("chain", "draw")
    tree = xr.DataTree.from_dict({
        "posterior": xr.Dataset({"value": ((*dims, "quantity"), draws.T[None])}),
        "log_prior": xr.Dataset({"all": (dims, log[None])}),
    })  # fmt: skip
    return np.asarray(psense(tree, group="prior")["value"].values)
