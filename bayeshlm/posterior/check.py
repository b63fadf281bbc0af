"""Posterior predictive check of group means: could this model have made groups like the observed ones?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayeshlm.posterior.draws import common_draws, flat, model_of, new_effects, statistics_of
from bayeshlm.posterior.naive import row_analysis

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]
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
        Sorted, in units of the response (geometric means for lognormal).
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
        None for a model without levels, and for responses whose group means the statistics do not replicate.

    Notes
    -----
    A mixed predictive check: common effects and standard deviations are posterior draws, group-specific effects are
    drawn anew, so that the distribution of groups is checked and not only how well each was fitted (Marshall and
    Spiegelhalter 2007, Bayesian Analysis 2(2), section 3).
    """
    statistics = statistics_of(posterior)
    levels = statistics.layout.levels
    if not levels or not row_analysis(statistics.model):
        return None
    log = model_of(posterior).family_spec.log_response
    innermost = max(range(len(levels)), key=lambda k: len(statistics.members[k]))
    total = posterior["posterior"].sizes["chain"] * posterior["posterior"].sizes["draw"]
    cells = len(statistics.weight)
    count = min(REPLICATES, total, max(FEWEST, MEMORY // max(cells, 1)))
    rng = np.random.default_rng(random_seed)
    chosen = np.linspace(0, total - 1, count).astype(int)

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
    variance = flat(posterior, "sigma")[chosen].reshape(count, -1) ** 2 if "sigma" in posterior["posterior"] else None
    if variance is None:
        variance = np.ones((count, 1))
    share = np.zeros((variance.shape[1], groups))  # of each category's variance in a group's mean
    np.add.at(share, (statistics.residual, of_group), statistics.weight / weight[of_group] ** 2)
    predicted += rng.standard_normal(predicted.shape) * np.sqrt(variance @ share)

    shown: Any = np.exp if log else np.asarray
    observed, replicated = np.sort(means[:, -1]), np.sort(predicted, axis=1)
    summaries: dict[str, Any] = {"spread": np.std, "smallest mean": np.min, "largest mean": np.max}
    p_values = {name: float((s(replicated, axis=1) > s(observed)).mean()) for name, s in summaries.items()}
    lower, expected, upper = np.quantile(replicated, [0.025, 0.5, 0.975], axis=0)
    return GroupMeanCheck(
        levels[innermost].name, shown(observed), shown(expected), shown(lower), shown(upper), p_values, count
    )
