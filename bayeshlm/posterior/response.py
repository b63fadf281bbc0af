"""Arms on the scale of the response: what the mean response of a population would be were all of it in one arm.

For every draw each row is put into each arm in turn, its other columns and its groups as they are, and its expected
response is averaged over the rows (standardisation, or g-computation; Robins 1986, Mathematical Modelling 7). Where
effects multiply or add to log odds this is another question than the coefficient's: a risk difference depends on who is
asked about, and an odds ratio of a person is not that of a population.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.frames.new_rows import NewRows, bind_rows
from bayeshlm.data.layout import residual_column
from bayeshlm.data.statistics import Statistics
from bayeshlm.errors import DataError
from bayeshlm.posterior.columns import column_at
from bayeshlm.posterior.draws import common_draws, dataset, flat
from bayeshlm.posterior.predict import CHUNK, row_effects, row_predictor
from bayeshlm.posterior.question import Question
from bayeshlm.posterior.values import GroupValues, Slope, compared_labels, held_at, told, values_of
from bayeshlm.simulation import responses

if TYPE_CHECKING:
    import xarray as xr

SCALES = ("link", "response")


def response_values(
    posterior: xr.DataTree,
    statistics: Statistics,
    question: Question,
    *,
    reference: Any = None,
    at: Mapping[str, Any] | None = None,
    population: Any = None,
) -> GroupValues:
    """Mean responses of a population, were all of it in one arm, relative to the reference.

    Parameters
    ----------
    posterior : xarray.DataTree
    statistics : Statistics
    question : Question
        Of a common effect.
    reference, at : optional
        As in `bayeshlm.compare`.
    population : frame or path, optional
        Rows with the columns of the formula's right side, each of which counts once; groups the fit did not see are
        drawn from their population. Default: the rows of the study (of binomial responses each trial counts once).

    Raises
    ------
    DataError
        For levels and subgroups; and where the posterior holds no rows (gaussian and lognormal models keep statistics)
        and no population is given, but for an identity link, whose mean differences are the coefficients'.
    """
    if question.level is not None or question.subgroup is not None:
        what = "a level" if question.level is not None else "an effect in subgroups"
        raise DataError(
            f"scale='response' is for the arms or values of a common effect; {question.name!r} is {what}. Use "
            "scale='link', or bayeshlm.predict."
        )
    link = statistics.model.family_spec.link
    if population is None and "rows" not in posterior.children:
        if link != "identity":
            raise DataError(
                "The posterior holds no rows, only their statistics, so that responses cannot be averaged over them: "
                "give population=, the rows to average over."
            )
        return values_of(statistics, question, lambda name: flat(posterior, name), reference=reference, at=at)
    held, points = held_at(statistics, question, dict(at or {}))
    labels, first = compared_labels(statistics, question, points, reference)
    rows, weight = _stored(posterior, statistics) if population is None else _bound(statistics, population)
    seed = int(posterior.attrs.get("random_seed", 0))
    effects = row_effects(posterior, statistics.layout, statistics.members, rows, np.random.default_rng(seed))
    column = str(question.column)
    means = np.stack(
        [_mean(posterior, statistics, rows, weight, effects, {**held, column: label}) for label in labels], axis=1
    )
    draws = means - means[:, [first]]
    slope = None
    if question.kind == "number":
        slope = Slope(column, (means[:, -1] - means[:, 0]) / (float(labels[-1]) - float(labels[0])), False)
    whom = "the population given" if population is not None else "the study's rows"
    return GroupValues(
        question, labels, draws, f"{column} {labels[first]}{told(held)}, averaged over {whom}", means[:, first], first,
        None, slope, (), means,
    )  # fmt: skip


def _bound(statistics: Statistics, population: Any) -> tuple[NewRows, Array]:
    """(rows, the share of each in the average)."""
    model = statistics.model
    numbers = {name: node for name, node in responses.needed(model, "mean").items() if name != "trials"}
    rows = bind_rows(
        statistics.layout, statistics.members, population, numbers=numbers, residual=residual_column(model)
    )
    return rows, np.full(rows.count, 1 / rows.count)


def _stored(posterior: xr.DataTree, statistics: Statistics) -> tuple[NewRows, Array]:
    """The study's own rows, of which equal ones may have been joined."""
    model = statistics.model
    rows = dataset(posterior, "rows")
    codes = tuple(rows["codes"].values[:, k] for k in range(len(statistics.layout.levels)))
    trials, offset = rows["trials"].values, rows["offset"].values
    numbers = {"offset": offset} if model.terms.offsets or model.family_spec.support == "count" else {}
    if model.family_spec.log_response:  # its mean depends on the error; known standard errors are in the weights
        numbers |= {"weights": rows["weight"].values} | ({"se": np.ones(len(trials))} if model.se else {})
    bound = NewRows(
        len(trials), list(rows["columns"].values.T), numbers, codes, tuple(() for _ in codes), {},
        rows["part"].values.astype(np.int64),
    )  # fmt: skip
    # Counts of joined rows are sums already, with their exposures in the offset: the mean is over the rows they were.
    counts = model.family_spec.support == "count"
    return bound, np.full(len(trials), 1 / statistics.rows) if counts else trials / trials.sum()


def _mean(
    posterior: xr.DataTree, statistics: Statistics, rows: NewRows, weight: Array, effects: Any,
    assigned: Mapping[str, Any],
) -> Array:  # fmt: skip
    """(draws,): the weighted mean of the rows' expected responses, with some columns set."""
    model, layout = statistics.model, statistics.layout
    ones = np.ones(rows.count)
    values = [ones * column_at(layout, column, assigned, rows.values) for column in layout.columns]
    moved = dataclasses.replace(rows, values=values)
    beta = common_draws(posterior, layout).T
    parameters = {name: flat(posterior, name)[None] for name, _ in model.extra}
    sigmas = None if layout.residual is None else flat(posterior, "sigma").T
    out, step = np.zeros(beta.shape[1]), max(1, CHUNK // beta.shape[1])
    rng = np.random.default_rng(0)  # a mean draws nothing
    for start in range(0, rows.count, step):
        part = slice(start, min(start + step, rows.count))
        predictor = row_predictor(layout, moved, part, beta, effects)
        numbers = {name: column[part, None] for name, column in rows.numbers.items()}
        if sigmas is not None:
            parameters["sigma"] = sigmas[rows.part[part]]
        with np.errstate(all="ignore"):  # what is not finite is refused by `compare`
            mean = responses.compute("mean", model, predictor + numbers.pop("offset", 0.0), parameters, numbers, rng)
        out += weight[part] @ mean
    return out
