"""Which design is the cheapest that meets a target, as surely as the replicates can tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv, stdtrit

from bayeshlm.arrays import Array
from bayeshlm.errors import DesignError, did_you_mean, listed

AT_LEAST = ("p_best", "assurance", "power")
AT_MOST = ("expected_loss", "outcome_loss", "width")
ERROR = 0.05  # chance that any design is wrongly said to meet, or to miss, the target
YES, NO, UNSURE = "yes", "no", "uncertain"


@dataclass(frozen=True)
class Recommendation:
    """The cheapest design that surely meets the target.

    Attributes
    ----------
    design : str
        Its label; empty where none does.
    meets : tuple of str
        Per design `yes`, `no` or `uncertain`.
    cheaper : tuple of str
        Cheaper designs that may meet it too.
    """

    design: str
    meets: tuple[str, ...]
    cheaper: tuple[str, ...]


def check_target(target: Mapping[str, float], *, multiplicative: bool) -> dict[str, float]:
    """The target as floats. Raises DesignError naming all that cannot be one."""
    known = [*AT_LEAST, *(name for name in AT_MOST if multiplicative or name != "outcome_loss")]
    problems = []
    for name, value in target.items():
        number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
        if name not in known:
            problems.append(f"{name!r} is none of {listed(known)}. {did_you_mean(name, known)}".rstrip(" ."))
        elif not number or not math.isfinite(value) or value <= 0 or (name in AT_LEAST and value >= 1):
            problems.append(f"{name}={value!r} must be {'between 0 and 1' if name in AT_LEAST else 'positive'}")
    if problems or not target:
        raise DesignError(f"target: {'; '.join(problems) or 'it is empty'}.")
    return {name: float(value) for name, value in target.items()}


def bounds(name: str, values: Array, level: float, spread: float) -> tuple[float, float]:
    """One-sided confidence bounds (lower, upper) of a mean over replicates, each with error `level`.

    Parameters
    ----------
    name : str
        What `check_target` knows.
    values : (n,)
        A replicate each.
    level : float
    spread : float
        Mean loss of the worst choice there is. It counts as one replicate more in the bound of a loss: of a rare large
        loss n replicates may have seen none.

    Notes
    -----
    Shares by Clopper and Pearson (1934), exact for proportions and conservative for means of shares (of all variables
    on [0, 1] with a given mean the proportion varies most); other means by Student's t.
    """
    n = len(values)
    if n < 2:
        return -math.inf, math.inf
    if name in AT_LEAST:
        k = float(values.sum())
        lower = float(betaincinv(k, n - k + 1, level)) if k > 0 else 0.0
        upper = float(betaincinv(k + 1, n - k, 1 - level)) if k < n else 1.0
        return lower, upper
    if name != "width":
        values, n = np.append(values, spread), n + 1
    half = float(stdtrit(n - 1, 1 - level)) * float(values.std(ddof=1)) / math.sqrt(n)
    return float(values.mean()) - half, float(values.mean()) + half


def recommend(
    labels: list[str], cost: Array, values: Mapping[str, list[Array]], spread: list[float], target: Mapping[str, float]
) -> Recommendation:
    """Judge all designs against the target, the cheapest first.

    Parameters
    ----------
    labels : list of str, a design each
    cost : (designs,)
    values : mapping
        Target -> per design the (n,) replicates' values.
    spread : list of float, as in `bounds`, per design
    target : mapping of str to float

    Notes
    -----
    Many designs are looked at and one is picked, so the bounds hold for all of them together (Bonferroni).
    """
    level = ERROR / len(labels)
    meets = []
    for k in range(len(labels)):
        verdicts = [_verdict(name, wanted, values[name][k], level, spread[k]) for name, wanted in target.items()]
        meets.append(NO if NO in verdicts else UNSURE if UNSURE in verdicts else YES)
    order = np.argsort(cost, kind="stable")
    sure = [int(k) for k in order if meets[k] == YES and np.isfinite(cost[k])]
    chosen = sure[0] if sure else None
    limit = math.inf if chosen is None else cost[chosen]
    cheaper = tuple(labels[k] for k in order if meets[k] == UNSURE and cost[k] < limit)
    return Recommendation("" if chosen is None else labels[chosen], tuple(meets), cheaper)


def _verdict(name: str, wanted: float, values: Array, level: float, spread: float) -> str:
    if not len(values) or not np.isfinite(values).all():
        return UNSURE
    lower, upper = bounds(name, values, level, spread)
    if name in AT_LEAST:
        return YES if lower >= wanted else NO if upper < wanted else UNSURE
    return YES if upper <= wanted else NO if lower > wanted else UNSURE


def mean_and_error(values: Array) -> tuple[float, float]:
    """Mean and its Monte Carlo standard error; NaN for fewer than two values."""
    if len(values) < 2:
        return (float(values.mean()) if len(values) else math.nan), math.nan
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def share_and_error(values: Array) -> tuple[float, float]:
    """Share of ones and its error: the standard deviation of Jeffreys' Beta(k + 1/2, n - k + 1/2), never 0."""
    n, k = len(values), float(values.sum())
    if not n:
        return math.nan, math.nan
    a, b = k + 0.5, n - k + 0.5
    return k / n, math.sqrt(a * b / ((a + b) ** 2 * (a + b + 1)))


def ratio_and_error(numerator: Array, denominator: Array) -> tuple[float, float]:
    """Ratio of means and its error by the delta method; NaN where the denominator is 0 throughout."""
    n, total = len(denominator), float(denominator.sum())
    if n < 2 or total == 0:
        return math.nan, math.nan
    ratio = float(numerator.sum()) / total
    residual = numerator - ratio * denominator
    return ratio, float(residual.std(ddof=1) / math.sqrt(n) / (total / n))
