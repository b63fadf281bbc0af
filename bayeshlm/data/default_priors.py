"""Default priors for families whose scale is that of the data."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bayeshlm.data.checks.table import check_statistics
from bayeshlm.data.compress import complete_rows, compress, moments
from bayeshlm.data.layout import bound_model
from bayeshlm.data.statistics import Statistics
from bayeshlm.spec.model import Model
from bayeshlm.spec.priors import HalfNormal, HalfStudentT, Normal, Prior

WIDTH = 2.5  # standard deviations, as in rstanarm and Bambi


def scaled_priors(model: Model, data: Any) -> Model:
    """A copy of the model with every missing prior set from the scale of the data.

    The scales are the standard deviations s_y of the response and s_x of each column: coefficients get
    Normal(0, 2.5 s_y / s_x), standard deviations of group effects HalfNormal(s_y / s_x), sigma
    HalfStudentT(4, s_y), correlations LKJ(2). The intercept, the value at x = 0, gets the mean of y and a width that
    also covers where the slopes may carry it: sqrt((2.5 s_y)^2 + sum (mean_x 2.5 s_y / s_x)^2).

    Parameters
    ----------
    model : Model
    data : frame, path or Statistics

    Returns
    -------
    Model
        With priors for all parameters. They come from the data, so `sbc`, `recover` and `plan` ask for them by hand.

    References
    ----------
    Westfall (2017), "Statistical details of the default priors in the Bambi library", arXiv:1702.01201;
    the widths are those of Bambi and rstanarm.
    """
    if isinstance(data, Statistics):
        statistics = data
    elif model.moments_suffice:
        statistics = compress(model, data)
    else:
        statistics = moments(model, complete_rows(model, data, "drop"))
    check_statistics(statistics)
    return scale_priors(model, statistics)


def scale_priors(model: Model, statistics: Statistics) -> Model:
    """`scaled_priors` from statistics."""
    weight, mean, scatter = statistics.total()
    spread = np.sqrt(np.diag(scatter) / weight)
    centre = mean + statistics.shift
    outcome = float(spread[-1])
    residual = outcome * math.sqrt(weight / statistics.rows)  # sigma belongs to a row of weight 1
    model = bound_model(model, statistics.layout)
    complete = dict(model.complete_priors)

    def scale(column: int) -> float:
        if column == 0:
            return 1.0
        return float(spread[column - 1]) if spread[column - 1] > 0 else max(abs(float(centre[column - 1])), 1e-300)

    slopes = 0.0
    for block in statistics.layout.common:
        if 0 in block.columns:
            continue
        widths = [WIDTH * outcome / scale(column) for column in block.columns]
        slopes += sum((w * float(centre[c - 1])) ** 2 for w, c in zip(widths, block.columns, strict=True))
        # One prior serves all categories of a term: the widest.
        complete.setdefault(block.name, _rounded(Normal(0.0, max(widths))))
    if model.terms.intercept:
        width = math.sqrt((WIDTH * outcome) ** 2 + slopes)
        complete.setdefault("Intercept", Normal(_significant(float(centre[-1]), 6), _significant(width)))
    for level in statistics.layout.levels:
        for block in level.blocks:
            size = max(outcome / scale(column) for column in block.columns)
            complete.setdefault(f"{block.name}_sigma", _rounded(HalfNormal(size)))
    if model.se is None:
        complete.setdefault("sigma", HalfStudentT(4.0, _significant(residual)))
    return model.with_priors(complete)


def _rounded(prior: Normal | HalfNormal) -> Prior:
    """Three digits: a default is no measurement."""
    return type(prior)(sigma=_significant(prior.sigma))


def _significant(value: float, digits: int = 3) -> float:
    return float(f"{value:.{digits}g}")
