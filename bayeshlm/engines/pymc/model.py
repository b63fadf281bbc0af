"""The generative story as a PyMC model: the definition for humans, and what the NUTS engine samples.

It mirrors `simulate` and the exact engine, and shares no code with either beyond the columns.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from bayeshlm.data.compress import compress
from bayeshlm.data.default_priors import with_column_priors
from bayeshlm.data.statistics import Statistics
from bayeshlm.data.table import tabulate
from bayeshlm.engines.pymc.builder import Builder
from bayeshlm.engines.pymc.data import Names, coords_of, data_of
from bayeshlm.engines.pymc.named import NamedBuilder
from bayeshlm.engines.pymc.observations import Observations, from_statistics, from_table
from bayeshlm.engines.pymc.parameterization import Plan, plan_levels
from bayeshlm.errors import DataError, PriorError, listed
from bayeshlm.spec.model import Model

if TYPE_CHECKING:
    import pymc as pm


def to_pymc(model: Model, data: Any, *, parameterization: str = "auto", rows: bool = False) -> pm.Model:
    """Write a model out in PyMC, bound to data.

    Variables, dims and labels are those of a posterior of `fit`. There are two forms of one model:

    With `rows`, every free variable is one of the posterior, drawn as the model reads (effects about 0, the intercept
    at x = 0), so that PyMC's tools take a posterior of `fit` (of any engine, in memory or from disk) as they take one
    of PyMC's own: `pymc.sample_posterior_predictive(posterior)`, `pymc.compute_log_likelihood(posterior)`. Draws of all
    effects are needed for it (`fit(effects="draws")` where groups are many).

    Without, the form that NUTS samples best, at any number of rows: group-specific effects and slopes are
    deterministics, the intercept is sampled where the data are, at the means of the columns and of deviations of groups
    (`Intercept_centred`), slopes in units of their columns' spread (`x_scaled`), and all priors are those of the user's
    coordinates. Draw from its posterior with `pymc.sample`: a posterior of `fit` does not hold its free variables, and
    `pymc.sample_posterior_predictive` would draw them from their priors.

    Parameters
    ----------
    model : Model
        With all its priors (see `bayeshlm.scaled_priors`).
    data : frame, path or Statistics
        Statistics suffice for gaussian and lognormal models unless `rows`.
    parameterization : {"auto", "centered", "noncentered"}
        Of every level: deviations in units of their standard deviation, or totals about the total of the parent level's
        group (with `rows`, the effects themselves). "auto" chooses per level by the information in a group, and may
        take a form between the two, see `bayeshlm.engines.pymc.parameterization`. With `rows` the choice is one of
        transforms, and leaves the variables as they are.
    rows : bool
        One likelihood term a row of the data, so that predictive draws and pointwise log likelihoods are of rows.
        Otherwise the likelihood is compressed without loss, as far as the family allows: the same log density up to a
        constant, at any number of rows.

    Returns
    -------
    pymc.Model

    Raises
    ------
    DataError, PriorError, EngineError

    Examples
    --------
    >>> with bayeshlm.to_pymc(model, data, rows=True):  # doctest: +SKIP
    ...     pymc.compute_log_likelihood(posterior)
    """
    if model.missing_priors:
        raise PriorError(
            f"No prior for {listed(model.missing_priors)}. Give them, or take bayeshlm.scaled_priors(model, data)."
        )
    statistics, observations = observed(model, data, rows=rows)
    statistics = with_column_priors(statistics)
    return build(statistics, observations, plan_levels(statistics, parameterization), named=rows)


def observed(model: Model, data: Any, *, rows: bool, missing: str = "drop") -> tuple[Statistics, Observations]:
    """(moments, observations) of data under a model, compressed unless `rows`."""
    if isinstance(data, Statistics):
        if rows or not model.moments_suffice:
            raise DataError("Statistics hold no rows; give the data themselves.")
        statistics = dataclasses.replace(data, model=model)
        return statistics, from_statistics(statistics)
    if model.moments_suffice and not rows:
        statistics = compress(model, data, missing=missing)
        return statistics, from_statistics(statistics)
    table = tabulate(model, data, missing=missing, join=not rows)
    return table.statistics, from_table(table)


def build(
    statistics: Statistics, observations: Observations, plans: tuple[Plan, ...], *, named: bool = False
) -> pm.Model:
    """The PyMC model of observations; see `to_pymc`. `named`: all its free variables are a posterior's."""
    import pymc as pm

    model, layout = statistics.model, statistics.layout
    with pm.Model(coords=coords_of(statistics, observations)) as built:
        builder = (NamedBuilder if named else Builder)(
            model, layout, statistics, observations, {plan.index: plan for plan in plans}, Names(model),
            data_of(statistics, observations, plans),
        )  # fmt: skip
        builder.add_common()
        for plan in plans:
            builder.add_level(plan)
        builder.add_response()
    return built
