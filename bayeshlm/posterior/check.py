"""Posterior predictive check of group means: could this model have made groups like the observed ones?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import expit

from bayeshlm.arrays import Array
from bayeshlm.data.statistics import Statistics
from bayeshlm.posterior.draws import common_draws, dataset, flat, new_effects, statistics_of
from bayeshlm.posterior.naive import row_analysis
from bayeshlm.simulation import responses

if TYPE_CHECKING:
    import xarray as xr

REPLICATES = 400
MEMORY = 20_000_000  # cells times replicates, beyond which fewer replicates are made
FEWEST = 40
NOTICE = 0.05  # tail area of a check below which it is worth a look


@dataclass(frozen=True, eq=False)
class GroupMeanCheck:
    """Observed means of the innermost groups beside those of replicated studies with new groups.

    Attributes
    ----------
    level : str
    observed : (groups,)
        Sorted, in units of the response (geometric means for lognormal, shares for successes, rates per exposure for
        counts; of a censored response as it was recorded).
    expected, lower, upper : (groups,)
        Median and 95 % interval of the replicated means of the same rank.
    p_values : mapping
        Share of replicates whose spread (sd), smallest or largest mean exceeds the observed one.
    replicates : int
    """

    level: str
    observed: Array
    expected: Array
    lower: Array
    upper: Array
    p_values: dict[str, float]
    replicates: int

    @property
    def outside(self) -> int:
        """How many observed means lie outside the interval of their rank."""
        return int(((self.observed < self.lower) | (self.observed > self.upper)).sum())

    @property
    def surprises(self) -> list[str]:
        """The checks in whose tails the observed groups lie."""
        return [name for name, p in self.p_values.items() if min(p, 1 - p) < NOTICE / 2]


def check_group_means(posterior: xr.DataTree, *, random_seed: int = 0) -> GroupMeanCheck | None:
    """Replicate the study with new groups and compare the means of its innermost groups.

    Parameters
    ----------
    posterior : xarray.DataTree
    random_seed : int

    Returns
    -------
    GroupMeanCheck or None
        None for a model without levels, and where the posterior does not hold what a replicate needs: rows that are
        censored by a column, or too many rows to be kept.

    Notes
    -----
    A mixed predictive check: common effects and standard deviations are posterior draws, group-specific effects are
    drawn anew, so that the distribution of groups is checked and not only how well each was fitted (Marshall and
    Spiegelhalter 2007, Bayesian Analysis 2(2), section 3).
    """
    statistics = statistics_of(posterior)
    model, levels = statistics.model, statistics.layout.levels
    if not levels:
        return None
    innermost = max(range(len(levels)), key=lambda k: len(statistics.members[k]))
    rng = np.random.default_rng(random_seed)
    if row_analysis(model):
        observed, replicated = _from_statistics(posterior, statistics, innermost, rng)
    elif "rows" in posterior.children and not model.status_columns:
        observed, replicated = _from_rows(posterior, statistics, innermost, rng)
    else:
        return None
    if not np.isfinite(replicated).all():
        return None
    shown: Any = np.exp if row_analysis(model) and model.family_spec.log_response else np.asarray
    observed, replicated = np.sort(observed), np.sort(replicated, axis=1)
    summaries: dict[str, Any] = {"spread": np.std, "smallest mean": np.min, "largest mean": np.max}
    p_values = {name: _share_above(s(replicated, axis=1), s(observed)) for name, s in summaries.items()}
    lower, expected, upper = np.quantile(replicated, [0.025, 0.5, 0.975], axis=0)
    return GroupMeanCheck(
        levels[innermost].name, shown(observed), shown(expected), shown(lower), shown(upper), p_values, len(replicated)
    )


def _share_above(replicated: Array, observed: float) -> float:
    """Share of replicates above the observed value; of those equal to it (counts often are) half."""
    return float((replicated > observed).mean() + 0.5 * (replicated == observed).mean())


def _chosen(posterior: xr.DataTree, size: int) -> NDArray[np.int64]:
    """Draws to replicate, fewer where each takes much memory."""
    total = posterior["posterior"].sizes["chain"] * posterior["posterior"].sizes["draw"]
    count = min(REPLICATES, total, max(FEWEST, MEMORY // max(size, 1)))
    return np.linspace(0, total - 1, count).astype(int)


def _from_statistics(
    posterior: xr.DataTree, statistics: Statistics, innermost: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """((groups,) observed, (replicates, groups) replicated) means on the scale on which effects add."""
    levels, cells = statistics.layout.levels, len(statistics.weight)
    chosen = _chosen(posterior, cells)
    columns = np.concatenate([np.ones((cells, 1)), statistics.mean + statistics.shift], axis=1)
    groups = len(statistics.members[innermost])
    of_group = statistics.codes[:, innermost]
    weight = np.bincount(of_group, statistics.weight, groups)
    means = np.stack([np.bincount(of_group, statistics.weight * c, groups) / weight for c in columns.T], axis=1)
    predicted = common_draws(posterior, statistics.layout)[chosen] @ means[:, list(statistics.layout.common_columns)].T
    for k, level in enumerate(levels):
        new = new_effects(posterior, level, len(statistics.members[k]), rng, chosen)  # (draws, groups of k, effects)
        parts = np.einsum("sce,ce->sc", new[:, statistics.codes[:, k]], columns[:, list(level.columns)])
        np.add.at(predicted.T, of_group, (parts * (statistics.weight / weight[of_group])).T)
    variance = np.ones((len(chosen), 1))
    if "sigma" in posterior["posterior"]:
        variance = flat(posterior, "sigma")[chosen].reshape(len(chosen), -1) ** 2
    share = np.zeros((variance.shape[1], groups))  # of each category's variance in a group's mean
    np.add.at(share, (statistics.residual, of_group), statistics.weight / weight[of_group] ** 2)
    predicted += rng.standard_normal(predicted.shape) * np.sqrt(variance @ share)
    return means[:, -1], predicted


def _from_rows(
    posterior: xr.DataTree, statistics: Statistics, innermost: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """The same of responses as they are recorded: means, shares of successes, counts per exposure."""
    model, layout = statistics.model, statistics.layout
    rows = dataset(posterior, "rows")
    columns, codes = rows["columns"].values, rows["codes"].values
    response, trials, weight, offset = (rows[n].values for n in ("response", "trials", "weight", "offset"))
    chosen = _chosen(posterior, len(response))
    predictor = common_draws(posterior, layout)[chosen] @ columns[:, list(layout.common_columns)].T + offset
    for k, level in enumerate(layout.levels):
        new = new_effects(posterior, level, len(statistics.members[k]), rng, chosen)
        for position, column in enumerate(level.columns):
            predictor += new[:, codes[:, k], position] * columns[:, column]
    parameters = {name: flat(posterior, name)[chosen, None] for name, _ in model.extra}
    if layout.residual is not None:
        parameters["sigma"] = flat(posterior, "sigma")[chosen][:, rows["part"].values]
    parameters.setdefault("sigma", np.ones(()))  # known standard errors are in the weights
    with np.errstate(all="ignore"):  # what is not finite is no check
        if model.family_spec.link == "logit":  # equal rows of one trial were joined, too
            made = rng.binomial(trials.astype(np.int64), expit(predictor)).astype(float)
        else:
            numbers = {"weights": weight}
            made = responses.observed(model, responses.draw(model, predictor, parameters, numbers, rng))
    units = np.exp(offset) if model.family_spec.support == "count" else trials
    total = csr_array((np.ones(len(units)), (codes[:, innermost], np.arange(len(units)))))
    exposed = total @ units
    return (total @ response) / exposed, (total @ made.T).T / exposed
