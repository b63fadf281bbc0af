"""One tidy table of a posterior: effects, variance components, and what follows from them (ICC, R2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.posterior.compare import check_prob
from bayeshlm.posterior.convergence import convergence
from bayeshlm.posterior.draws import (
    common_draws,
    dataset,
    flat,
    model_of,
    moments_of,
    scalars,
    statistics_of,
)
from bayeshlm.posterior.shares import has_shares, level_variances, row_variance

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

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
        A row a scalar: `kind` (common effect, group effect, variance component, shape, derived), `variable`, `label`
        (group or category, None for scalars), `mean`, `median`, `sd`, `lower`, `upper`, `ess_bulk`, `rhat`.
        Of effects of which only moments were kept there are `mean` and `sd` alone.
        Derived are the intraclass correlation `ICC` of each level and `R2` (conditional: common and group effects;
        marginal: common effects alone). Everything is on the scale on which effects add (logs, log odds); `ICC` and
        `R2` with what `bayeshlm.posterior.shares.residual_note` says, for censored counts not at all.
    """
    import pandas as pd

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
    names = {"coefficient": "common effect", None: "group effect", "shape": "shape"}
    return names.get(kind, "variance component")


def derived(posterior: xr.DataTree) -> list[tuple[str, Any, Array]]:
    """(name, label, (draws,)) of ICC per level and of R2, conditional and marginal; nothing for censored counts.

    References
    ----------
    Nakagawa, Johnson, Schielzeth (2017), J. R. Soc. Interface 14, equations 2.2-2.4; see `bayeshlm.posterior.shares`.
    """
    statistics = statistics_of(posterior)
    if not has_shares(statistics.model):
        return []
    values = {name: flat(posterior, name) for name in statistics.model.parameters}
    residual, levels = row_variance(statistics, values), level_variances(statistics, values)
    weight, _, scatter = statistics.total()
    beta = common_draws(posterior, statistics.layout)
    columns = [k - 1 for k in statistics.layout.common_columns if k]
    slopes = beta[:, [i for i, k in enumerate(statistics.layout.common_columns) if k]]
    fixed = np.einsum("si,ij,sj->s", slopes, scatter[np.ix_(columns, columns)] / weight, slopes)
    grouped = sum(levels.values(), np.zeros(len(fixed)))
    out: list[tuple[str, Any, Array]] = [("ICC", name, v / (grouped + residual)) for name, v in levels.items()]
    total = fixed + grouped + residual
    return [*out, ("R2", "conditional", (fixed + grouped) / total), ("R2", "marginal", fixed / total)]
