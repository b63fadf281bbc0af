"""One tidy table of a posterior: effects, variance components, and what follows from them (ICC, R2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayeshlm.data.statistics import Statistics
from bayeshlm.posterior.convergence import convergence
from bayeshlm.posterior.draws import dataset, flat, mean_residual_variance, model_of, moments_of, scalars, statistics_of

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Array = NDArray[np.float64]
COLUMNS = ("kind", "variable", "label", "mean", "median", "sd", "lower", "upper", "ess_bulk", "rhat")


def summarize(posterior: xr.DataTree, *, prob: float = 0.95) -> pd.DataFrame:
    """Summarize every parameter.

    Parameters
    ----------
    posterior : xarray.DataTree
    prob : float
        Probability of the equal-tailed intervals.

    Returns
    -------
    pandas.DataFrame
        A row a scalar: `kind` (common effect, group effect, variance component, derived), `variable`, `label`
        (group or category, None for scalars), `mean`, `median`, `sd`, `lower`, `upper`, `ess_bulk`, `rhat`.
        Of effects of which only moments were kept there are `mean` and `sd` alone. Derived are the
        intraclass correlation `ICC` of each level and `R2` (conditional: common and group effects;
        marginal: common effects alone). Everything is on the scale on which effects add (the log for lognormal).
    """
    import pandas as pd

    from bayeshlm.posterior.compare import check_prob

    check_prob(prob)
    tails = [(1 - prob) / 2, (1 + prob) / 2]
    shape = (dataset(posterior).sizes["chain"], dataset(posterior).sizes["draw"])
    listing = [
        (kind_of(posterior, str(name)), str(name), label, draws)
        for name in dataset(posterior).data_vars
        for label, draws in scalars(posterior, str(name))
    ]
    listing += [("derived", name, label, d.reshape(shape)) for name, label, d in derived(posterior)]
    stacked = np.stack([draws for _, _, _, draws in listing])
    checked = convergence(stacked)
    joined = stacked.reshape(len(stacked), -1)
    lower, median, upper = np.quantile(joined, [tails[0], 0.5, tails[1]], axis=1)
    sd = joined.std(axis=1, ddof=1) if joined.shape[1] > 1 else np.full(len(joined), np.nan)
    rows = {
        "kind": [kind for kind, _, _, _ in listing], "variable": [name for _, name, _, _ in listing],
        "label": [label for _, _, label, _ in listing], "mean": joined.mean(axis=1), "median": median, "sd": sd,
        "lower": lower, "upper": upper, "ess_bulk": checked.ess_bulk, "rhat": checked.rhat,
    }  # fmt: skip
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    kept = [_of_moments(name, variable) for name, variable in moments_of(posterior).items()]
    return pd.concat([table, *kept], ignore_index=True) if kept else table


def _of_moments(name: str, variable: xr.DataArray) -> pd.DataFrame:
    """Rows of effects of which only mean and sd are known: no quantiles, and nothing drawn that could converge."""
    import pandas as pd

    labels = [variable[dim].values.tolist() for dim in variable.dims[1:]]
    named = labels[0] if len(labels) == 1 else [f"{a}, {b}" for a in labels[0] for b in labels[1]]
    mean, sd = variable.values.reshape(2, -1)
    unknown = dict.fromkeys(("median", "lower", "upper", "ess_bulk", "rhat"), np.nan)
    columns = {"kind": "group effect", "variable": name, "label": named, "mean": mean, "sd": sd, **unknown}
    return pd.DataFrame(columns, columns=list(COLUMNS))


def kind_of(posterior: xr.DataTree, name: str) -> str:
    """Kind of a variable, for tables."""
    kind = model_of(posterior).parameters.get(name)
    names = {"coefficient": "common effect", None: "group effect"}
    return names.get(kind, "variance component")


def derived(posterior: xr.DataTree) -> list[tuple[str, Any, Array]]:
    """(name, label, (draws,)) of ICC per level and of R2, conditional and marginal.

    References
    ----------
    Nakagawa, Johnson, Schielzeth (2017), J. R. Soc. Interface 14, equations 2.2-2.4; with slopes the level's variance
    is the mean over rows, tr(S E[zz']) (Johnson 2014, Methods in Ecology and Evolution 5, equation 10).
    """
    statistics = statistics_of(posterior)
    weight, mean, scatter = statistics.total()
    moments = np.zeros((len(mean), len(mean)))
    centre = (mean + statistics.shift)[:-1]
    moments[0, 0], moments[0, 1:], moments[1:, 0] = 1.0, centre, centre
    moments[1:, 1:] = scatter[:-1, :-1] / weight + np.outer(centre, centre)
    beta = _common(posterior, statistics)
    columns = [k - 1 for k in statistics.layout.common_columns if k]
    slopes = beta[:, [i for i, k in enumerate(statistics.layout.common_columns) if k]]
    fixed = np.einsum("si,ij,sj->s", slopes, scatter[np.ix_(columns, columns)] / weight, slopes)
    levels = {level.name: _level_variance(posterior, level, moments) for level in statistics.layout.levels}
    grouped = sum(levels.values(), np.zeros(len(fixed)))
    residual = mean_residual_variance(posterior, statistics)
    out: list[tuple[str, Any, Array]] = [("ICC", name, v / (grouped + residual)) for name, v in levels.items()]
    total = fixed + grouped + residual
    return [*out, ("R2", "conditional", (fixed + grouped) / total), ("R2", "marginal", fixed / total)]


def _common(posterior: xr.DataTree, statistics: Statistics) -> Array:
    """(draws, p) of the common effects."""
    draws = dataset(posterior).sizes["chain"] * dataset(posterior).sizes["draw"]
    parts = [flat(posterior, block.name).reshape(draws, -1) for block in statistics.layout.common]
    return np.concatenate(parts, axis=1) if parts else np.zeros((draws, 0))


def _level_variance(posterior: xr.DataTree, level: Any, moments: Array) -> Array:
    """Mean over rows of the variance that a level's effects contribute, (draws,)."""
    sds = np.concatenate(
        [flat(posterior, f"{block.name}_sigma").reshape(-1, len(block.columns)) for block in level.blocks], axis=1
    )
    correlation = np.broadcast_to(np.eye(sds.shape[1]), (len(sds), sds.shape[1], sds.shape[1])).copy()
    for positions in level.correlated:
        correlation[np.ix_(range(len(sds)), positions, positions)] = flat(posterior, f"corr|{level.name}")
    part = moments[np.ix_(level.columns, level.columns)]
    return np.asarray(np.einsum("si,sij,sj,ij->s", sds, correlation, sds, part))
