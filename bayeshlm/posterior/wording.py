"""Figures in words. Probabilities: no digit finer than their Monte Carlo error, no certainty that draws cannot show."""

from __future__ import annotations

import math
from typing import Any

FINE = 1000.0  # effective draws from which on tenths of a per cent are told, where the error is as small


def probability(p: float, effective: float, *, short: bool = False) -> str:
    """A probability that was counted in draws, in per cent.

    Parameters
    ----------
    p : float
    effective : float
        Effective draws (replicates, studies) behind it: a share of n draws is known to 1/n at best.
    short : bool
        For tables: `<0.1 %` instead of `below 0.1 %`.

    Returns
    -------
    str
        `49 %`: the last digit stands at the power of ten that is nearest to the Monte Carlo standard error; beyond what
        one draw would be, `above 99.9 %`. "-" for NaN.

    Examples
    --------
    >>> probability(0.4871, 4000), probability(1.0, 4000), probability(1.0, 40), probability(0.4871, 40)
    ('49 %', 'above 99.9 %', 'above 97 %', '50 %')
    """
    if math.isnan(p):
        return "-"
    effective = effective if effective >= 1 else 1.0
    places = 1 if effective >= FINE else 0
    step = 10.0**-places
    edge = min(max(step, math.ceil(100 / effective / step - 1e-9) * step), 50.0)
    percent = 100 * p
    if percent < edge - 1e-9:
        return f"{'<' if short else 'below '}{edge:.{places}f} %"
    if percent > 100 - edge + 1e-9:
        return f"{'>' if short else 'above '}{100 - edge:.{places}f} %"
    unit = _unit(percent, effective, step)
    return f"{round(percent / unit) * unit:.{places if unit < 1 else 0}f} %"


def share(p: float, effective: float, *, short: bool = False) -> str:
    """`probability` as a number between 0 and 1: `0.49`, `above 0.999`; `short` for tables: `>0.999`.

    Examples
    --------
    >>> share(0.4871, 4000), share(1.0, 4000), share(1.0, 40), share(0.4871, 40)
    ('0.49', 'above 0.999', 'above 0.97', '0.5')
    """
    if math.isnan(p):
        return "-"
    *words, figure = probability(p, effective, short=short).removesuffix(" %").split(" ")
    sign = figure[0] if figure[0] in "<>" else ""
    figure = figure.removeprefix(sign)
    places = len(figure.partition(".")[2]) + 2 - (float(figure) % 10 == 0)
    return " ".join([*words, f"{sign}{float(figure) / 100:.{places}f}"])


def percent(p: float) -> str:
    """An estimate that is itself a probability: `48.7 %`; near its ends `<0.1 %` and `>99.9 %`, never 0 or 100."""
    if p < 0.001 or p > 0.999:
        return "<0.1 %" if p < 0.001 else ">99.9 %"
    return f"{100 * p:.1f} %"


def spelled(name: str) -> str:
    """A column's name in words: odds ratio, for `odds_ratio`."""
    return name.replace("_", " ")


def said(label: Any) -> str:
    """A label in a sentence: numbers without digits that nobody needs."""
    return f"{label:.6g}" if isinstance(label, float) else str(label)


def percent_change(ratio: float) -> str:
    return f"{(ratio - 1) * 100:+.1f} %"


def points(difference: float) -> str:
    return f"{difference * 100:+.1f} points"


def small(loss: float) -> str:
    """Two digits; an expected loss that no draw shows is small, not nothing."""
    return f"{loss:.2g}" if loss >= 0.001 else "less than 0.001"


def _unit(percent: float, effective: float, finest: float) -> float:
    """The power of ten nearest to the Monte Carlo standard error, in per cent; finer where 0 or 100 would be said."""
    error = math.sqrt(percent * (100 - percent) / effective)
    unit = 10.0 ** round(math.log10(error)) if error > 0 else finest
    return min(max(unit, finest), 10.0 if 10 <= percent <= 90 else 1.0)
