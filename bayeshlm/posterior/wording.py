"""Probabilities in words: no digit finer than the draws can tell, never a certainty that they cannot show."""

from __future__ import annotations

import math

FINE = 1000.0  # effective draws from which on tenths of a per cent are told


def probability(p: float, effective: float, *, short: bool = False) -> str:
    """A probability that was counted in draws, in per cent.

    Parameters
    ----------
    p : float
    effective : float
        Effective draws behind it: a share of n draws is known to 1/n at best.
    short : bool
        For tables: `<0.1 %` instead of `below 0.1 %`.

    Returns
    -------
    str
        `48.7 %`; of fewer than 1,000 effective draws whole per cent; below and above what one draw would be, `above
        99.9 %`.

    Examples
    --------
    >>> probability(0.4871, 4000), probability(1.0, 4000), probability(1.0, 40), probability(0.4871, 40)
    ('48.7 %', 'above 99.9 %', 'above 97 %', '49 %')
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
    return f"{percent:.{places}f} %"
