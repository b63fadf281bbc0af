"""Leave-one-group-out: how well each group is predicted by a fit to the others."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayeshlm.data.statistics import Statistics
from bayeshlm.engines.exact.build import build_problem
from bayeshlm.engines.exact.crossed.products import order_levels
from bayeshlm.engines.exact.leave_out.crossed import log_predictive_crossed, plan
from bayeshlm.engines.exact.leave_out.nested import log_evidence, log_predictive, without_group
from bayeshlm.engines.exact.problem import Problem
from bayeshlm.engines.sampling.importance import MAX_PARETO_K
from bayeshlm.errors import BayeshlmWarning, DataError, EngineError, PriorError, listed, outside_package
from bayeshlm.posterior.convergence import convergence
from bayeshlm.posterior.draws import dataset, model_of, scalars, statistics_of
from bayeshlm.posterior.hyper import hyperparameters
from bayeshlm.posterior.question import find_groups

if TYPE_CHECKING:
    import xarray as xr
    from arviz_stats.utils import ELPDData

MOST_REFITS = 50
MOST_NUMBERS = 2**28  # groups times draws: 2 GiB of densities
FEWEST, SECONDS, MOST_SECONDS = 400, 60.0, 900.0  # of crossed levels: draws kept, time aimed at, time refused


def loo(posterior: xr.DataTree, level: str | None = None) -> ELPDData:
    """Leaves out GROUPS, not rows: expected log predictive density of a group that the fit has not seen.

    For leaving out rows there is ArviZ: `arviz_stats.loo` on a fit that holds a log likelihood of rows. For two models
    of the same rows never compare the two figures alone: `arviz_stats.compare({"a": loo(a), "b": loo(b)})` gives the
    difference with its standard error.

    The left-out group's rows are predicted together, its own effects and those of the groups inside it integrated out:
    the question is how a NEW instructor would do, not a new student of a known one. Given the standard deviations and
    correlations (theta), p(y_g | rows of the other groups, theta) is exact: all other effects, of parents, of levels
    that cross this one and common ones, are integrated over what the other groups' rows say of them. Over the draws of
    theta, which the left-out group did inform, Pareto-smoothed importance weights correct. Where these cannot be
    trusted (Pareto k above 0.7: the group moves theta), theta is integrated anew without the group.

    Crossed levels cost a factorisation a draw. Where all draws would take more than a minute, evenly spaced ones are
    used, at least 400, and a warning says how many; so does `n_samples`.

    Parameters
    ----------
    posterior : xarray.DataTree
        Of the exact engine's models: gaussian or lognormal.
    level : str, optional
        Whose groups are left out, as `compare` takes it; default the innermost.

    Returns
    -------
    arviz_stats.ELPDData
        Printed, it speaks of groups.
        `elpd` with `se`, `elpd_i` and `pareto_k` by group. `p` counts what theta learns from a group (effects are
        integrated out, and are not counted). On the scale of the response (a lognormal model and a gaussian one of the
        same response can be compared by `arviz_stats.compare`).

    Raises
    ------
    DataError
        Without levels, for an unknown level, one with fewer than two groups, or where a common effect with a flat prior
        is told by one group alone (it then has no predictive density).
    EngineError
        For models that the exact engine cannot fit; and where crossed levels are so large that 400 draws would take
        more than a quarter of an hour.

    References
    ----------
    Vehtari, Gelman, Gabry (2017), Statistics and Computing 27, section 2; Vehtari et al. (2024), JMLR 25(72), for the
    smoothing; Merkle, Furr, Rabe-Hesketh (2019), Psychometrika 84(3), on integrated (marginal) likelihoods.
    """
    import xarray as xr
    from arviz_stats import loo as arviz_loo

    from bayeshlm.posterior.left_out import of_groups

    statistics = statistics_of(posterior)
    index = _level_index(statistics, level)
    sizes, groups = dataset(posterior).sizes, len(statistics.members[index])
    total = sizes["chain"] * sizes["draw"]
    if groups * total > MOST_NUMBERS:
        raise EngineError(
            f"Leaving out {groups:,} groups one by one takes {total:,} densities each, more than memory allows. "
            "Choose a level with fewer groups, or fit with fewer draws."
        )
    problem = build_problem(statistics)
    position = problem.level_index.index(index)
    sigma, roots = hyperparameters(posterior, statistics, problem)
    chosen = _chosen(problem, position, statistics.layout.levels[index].name, sizes["chain"], sizes["draw"])
    each = (np.arange(sizes["chain"])[:, None] * sizes["draw"] + chosen).ravel()
    sigma, roots = sigma[each], [root[:, :, each] for root in roots]
    predict = log_predictive if problem.codes is None else log_predictive_crossed
    density = predict(statistics, problem, position, sigma, roots)
    labels = statistics.labels(index)
    undefined = [label for label, row in zip(labels, density, strict=True) if not np.isfinite(row).all()]
    if undefined:
        raise DataError(
            f"Without group {listed(undefined)} of {statistics.layout.levels[index].name!r} a common effect with a "
            "(nearly) flat prior cannot be told, so that the group has no predictive density. Give it a narrower prior."
        )
    shape = (sizes["chain"], len(chosen), len(labels))
    name = statistics.layout.levels[index].name
    values = xr.DataArray(density.T.reshape(shape), dims=("chain", "draw", name), coords={name: labels})
    tree = xr.DataTree.from_dict({"log_likelihood": xr.Dataset({f"log p({name})": values})})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of Pareto k, which is mended or said below
        result = arviz_loo(tree, pointwise=True, reff=_efficiency(posterior))
    quick = problem.codes is None or not order_levels(problem)[1]
    return _mended(of_groups(result), statistics, index, MOST_REFITS if quick else 0)


def seconds_to_leave_out(statistics: Statistics, index: int, draws: int) -> float:
    """Roughly, the time that `loo` takes for all draws; 0 for nested levels, where it hardly matters."""
    problem = build_problem(statistics)
    if problem.codes is None:
        return 0.0
    return plan(problem, problem.level_index.index(index), draws).seconds(draws)


def _chosen(problem: Problem, position: int, name: str, chains: int, draws: int) -> NDArray[np.int64]:
    """Which draws of each chain are used. Raises EngineError where the least number would take too long."""
    every = np.arange(draws)
    if problem.codes is None:
        return every
    cost, fewest = plan(problem, position, chains * draws), min(-(-FEWEST // chains), draws)
    if cost.seconds(chains * draws) <= SECONDS:
        return every
    cost = plan(problem, position, chains * fewest)
    groups = f"Leaving out the {problem.levels[position].groups:,} groups of {name!r} one by one"
    if cost.seconds(chains * fewest) > MOST_SECONDS:
        raise EngineError(
            f"{groups}, of levels crossed as these are, would take about {cost.seconds(chains * fewest) / 60:,.0f} "
            f"minutes for {chains * fewest} draws, over the limit of {MOST_SECONDS / 60:.0f}. Choose another level, or "
            "fit without a group that matters and predict it."
        )
    count = int(np.clip((SECONDS - cost.start) / cost.draw / chains, fewest, draws))
    if count < draws:
        warnings.warn(
            f"{groups} takes about {cost.draw:.2g} s a draw of the standard deviations and correlations: "
            f"{chains * count:,} of {chains * draws:,} draws, evenly spaced, are used.",
            BayeshlmWarning,
            stacklevel=outside_package(),
        )
    return np.unique(np.linspace(0, draws - 1, count).astype(np.int64))


def _mended(result: Any, statistics: Statistics, index: int, most: int) -> ELPDData:
    """Up to `most` groups whose weights cannot be trusted: theta is integrated anew without them.

    Their Pareto k becomes 0, as in `arviz_stats.reloo`; `influence_pareto_k` keeps the first one.
    """
    first = result.pareto_k.values.copy()
    bad = np.flatnonzero(~(first <= result.good_k))
    if not len(bad):
        return result
    rng = np.random.default_rng(0)
    labels = statistics.labels(index)
    elpd, k = result.elpd_i.values.copy(), first.copy()
    whole, whole_k = log_evidence(statistics, rng) if most else (np.nan, np.inf)
    for group in bad[np.argsort(-first[bad])][:most] if whole_k <= MAX_PARETO_K else ():
        try:
            rest, rest_k = log_evidence(without_group(statistics, index, int(group)), rng)
        except (PriorError, EngineError) as error:
            raise DataError(f"Without group {labels[group]!r} there is no posterior to predict by: {error}") from error
        if rest_k <= MAX_PARETO_K:
            elpd[group], k[group] = whole - rest, 0.0
    result.p += float((result.elpd_i.values - elpd).sum())
    result.influence_pareto_k = result.pareto_k.copy()
    result.elpd_i, result.pareto_k = result.elpd_i.copy(data=elpd), result.pareto_k.copy(data=k)
    result.elpd, result.se = float(elpd.sum()), float(np.sqrt(len(elpd) * elpd.var()))
    left = [labels[group] for group in np.flatnonzero(~(k <= result.good_k))]
    result.warning = bool(left)
    if left:
        warnings.warn(
            f"The predictive density of group {listed(left)} is not reliable (Pareto k above {result.good_k:.2f}): the "
            "fit without it is another one. Fit without that group to see.",
            BayeshlmWarning,
            stacklevel=outside_package(),
        )
    return result


def _level_index(statistics: Statistics, level: str | None) -> int:
    levels = statistics.layout.levels
    if not levels:
        raise DataError("This model has no levels, so no groups that could be left out.")
    sizes = [len(members) for members in statistics.members]
    found = levels[int(np.argmax(sizes))] if level is None else find_groups(statistics, level)
    if sizes[levels.index(found)] < 2:
        raise DataError(f"Level {found.name!r} has one group only: without it nothing is left.")
    return levels.index(found)


def _efficiency(posterior: xr.DataTree) -> float:
    """Smallest effective share of the draws of theta (at most 1), for the smoothing."""
    model = model_of(posterior)
    names = [name for name, kind in model.parameters.items() if kind != "coefficient" and name in dataset(posterior)]
    draws = [values for name in names for _, values in scalars(posterior, name)]
    if not draws:
        return 1.0
    share = float(np.min(convergence(np.stack(draws)).ess_bulk)) / draws[0].size
    return min(share, 1.0) if np.isfinite(share) else 1.0
