"""Default priors: on the scale of the columns, and where that is needed of the response."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.checks.table import check_statistics
from bayeshlm.data.compress import complete_rows, compress, moments
from bayeshlm.data.layout import Block, bound_model
from bayeshlm.data.statistics import Statistics
from bayeshlm.spec.model import Model, default_widths
from bayeshlm.spec.priors import At, HalfNormal, HalfStudentT, Normal, Prior

WIDTH = 2.5  # standard deviations, as in rstanarm and Bambi
BINARY = 1e-9  # relative error at which a variance is that of zeros and ones


def scaled_priors(model: Model, data: Any) -> Model:
    """A copy of the model with every missing prior set from the scale of the data.

    With s_y the standard deviation of the response and s_x that of each column, coefficients get
    Normal(0, 2.5 s_y / s_x), standard deviations of group effects HalfNormal(s_y / s_x), sigma HalfStudentT(4, s_y),
    correlations LKJ(2). The prior of the intercept is one of the value at the columns' means (see `bayeshlm.At`):
    Normal(mean of y, 2.5 s_y). A group's intercept belongs to x = 0; its standard deviation gets the width that also
    covers where the group's slopes may carry it.

    Where effects multiply (log and logit links, lognormal) the same, with fixed widths on the scale of logs or log odds
    in place of those of y: 10 for the intercept (5 for counts and odds), about 0; 2.5 for slopes; 0.5 for group effects
    (1 for log odds); categories and columns of 0 and 1 count there as of unit spread, however rare they are.

    Without an intercept, the categories that take its place get its prior; where there are none, columns and response
    count by their root mean square.

    Parameters
    ----------
    model : Model
    data : frame, path or Statistics

    Returns
    -------
    Model
        With priors for all parameters; its `priors` are what `Model(..., priors=)` takes. Of a gaussian model they come
        from the response, so that `sbc`, `recover` and `plan` ask for them by hand.

    References
    ----------
    Westfall (2017), "Statistical details of the default priors in the Bambi library", arXiv:1702.01201;
    the widths are those of Bambi and rstanarm, and so is the place of the intercept.

    Examples
    --------
    >>> import pandas as pd
    >>> data = pd.DataFrame({"y": [1.0, 2.0, 4.0, 3.0], "year": [2018, 2019, 2020, 2021], "site": list("abab")})
    >>> print(scaled_priors(Model("y ~ year + (1 | site)", family="lognormal"), data).priors["Intercept"])
    Normal(0, 10) at year = 2019.5
    """
    if isinstance(data, Statistics):
        statistics = data
    elif model.moments_suffice:
        statistics = compress(model, data)
    else:
        statistics = moments(model, complete_rows(model, data, "drop"))
    check_statistics(statistics)
    return scale_priors(model, statistics)


def with_column_priors(statistics: Statistics) -> Statistics:
    """Statistics whose model has those default priors that need the columns only; the same where none is pending."""
    model = bound_model(statistics.model, statistics.layout)
    if not model.pending_priors or not model.family_spec.multiplicative:
        return statistics
    return dataclasses.replace(statistics, model=scale_priors(model, statistics))


def scale_priors(model: Model, statistics: Statistics) -> Model:
    """`scaled_priors` from statistics."""
    model = bound_model(model, statistics.layout)
    if not model.pending_priors and not model.missing_priors:
        return model.with_priors(model.complete_priors)
    anchor = None if model.terms.intercept else _categories_for_all(statistics)
    scales = _Scales.of(model, statistics, about_zero=not model.terms.intercept and anchor is None)
    pending = set(model.pending_priors)
    complete: dict[str, Prior] = {n: prior for n, prior in model.complete_priors.items() if n not in pending}
    common = [column for block in statistics.layout.common for column in block.columns if column]
    for block in statistics.layout.common:
        if 0 in block.columns:
            prior: Prior = Normal(scales.middle, _significant(scales.intercept))
            point = {statistics.layout.columns[c].label: scales.mean(c) for c in common}
            complete.setdefault("Intercept", At(prior, point) if point else prior)
        elif block is anchor:
            width = scales.carried(scales.intercept, scales.slope, [c for c in common if c not in block.columns])
            complete.setdefault(block.name, Normal(scales.middle, _significant(width)))
        else:  # one prior serves all categories of a term: the widest
            width = max((scales.slope / scales.spread(column) for column in block.columns), default=scales.slope)
            complete.setdefault(block.name, Normal(0.0, _significant(width)))
    for level in statistics.layout.levels:
        for block in level.blocks:
            width = max((scales.group / scales.spread(column) for column in block.columns), default=scales.group)
            if block.columns == (0,):
                width = scales.carried(scales.group, scales.group, [c for c in level.columns if c])
            complete.setdefault(f"{block.name}_sigma", HalfNormal(_significant(width)))
    if "sigma" not in complete and "sigma" in model.parameters:
        complete["sigma"] = HalfStudentT(4.0, _significant(scales.residual))
    return model.with_priors(complete)


def _categories_for_all(statistics: Statistics) -> Block | None:
    """The categories of which every row has one, in place of an intercept."""
    _, mean, _ = statistics.total()
    shares = mean + statistics.shift
    for block in statistics.layout.common:
        plain = not any(statistics.layout.columns[c].numeric for c in block.columns)
        if plain and math.isclose(sum(shares[c - 1] for c in block.columns), 1.0, abs_tol=1e-9):
            return block
    return None


@dataclasses.dataclass(frozen=True)
class _Scales:
    """What default priors are made of.

    Attributes
    ----------
    middle, intercept, slope, group, residual : float
        Location and width of the intercept's prior; widths of a slope's and of a group effect's, for a column of unit
        spread; width of sigma's.
    means, spreads : (columns,) of the design columns but the constant
    """

    middle: float
    intercept: float
    slope: float
    group: float
    residual: float
    means: Array
    spreads: Array

    @classmethod
    def of(cls, model: Model, statistics: Statistics, about_zero: bool) -> _Scales:
        weight, mean, scatter = statistics.total()
        spread, centre = np.sqrt(np.diag(scatter) / weight), mean + statistics.shift
        middle = _near(float(centre[-1]), float(spread[-1]))
        about = np.hypot(spread, centre) if about_zero else spread
        outcome = float(about[-1])
        residual = float(spread[-1]) * math.sqrt(weight / statistics.rows)  # sigma belongs to a row of weight 1
        widths = (WIDTH * outcome, WIDTH * outcome, outcome)
        columns = np.where(about[:-1] > 0, about[:-1], np.maximum(np.abs(centre[:-1]), 1e-300))
        if model.family_spec.multiplicative:
            middle, widths = 0.0, default_widths(model.family_spec)
            share, square = centre[:-1], spread[:-1] ** 2
            binary = np.abs(square - share * (1 - share)) <= BINARY * np.maximum(square, BINARY)
            columns = np.where(binary, 1.0, columns)
        rounded = np.array([_near(float(m), float(s)) for m, s in zip(centre[:-1], columns, strict=True)])
        return cls(middle, *widths, residual, rounded, columns)

    def mean(self, column: int) -> float:
        return float(self.means[column - 1])

    def spread(self, column: int) -> float:
        return float(self.spreads[column - 1]) if column else 1.0

    def carried(self, width: float, slope: float, columns: list[int]) -> float:
        """Width at x = 0 of what has `width` at the columns' means, if slopes have the width `slope`."""
        return math.hypot(width, *(slope * self.mean(column) / self.spread(column) for column in columns))


def _near(mean: float, spread: float) -> float:
    """A mean to a hundredth of a standard deviation: a default is no measurement."""
    if not spread > 0:
        return mean
    return round(mean, -math.floor(math.log10(spread)) + 2)


def _significant(value: float, digits: int = 3) -> float:
    return float(f"{value:.{digits}g}")
