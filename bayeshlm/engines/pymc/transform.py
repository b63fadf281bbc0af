"""The scale on which standard deviations of groups are sampled."""

from __future__ import annotations

import math
from typing import Any

import pytensor.tensor as pt
from pymc.logprob.transforms import Transform


class RootLog(Transform):  # type: ignore[misc]  # PyMC's module has no types
    """The signed root of the logarithm, far from 0; near it the logarithm itself.

    A prior with a density at 0 has an exponential tail on the log scale, which a chain climbs slowly: with few groups
    the posterior reaches it. Here log(value / scale) = x sqrt(x^2 + 4) / 2, whose tails are x^2 / 2, so that the
    exponential tail is a Gaussian one. See `tests/benchmarks/parameterizations.py` for what it is worth.

    Parameters
    ----------
    scale : float
        The value at x = 0, in the units of the variable.
    """

    name = "rootlog"

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def backward(self, value: Any, *_: Any) -> Any:
        return self.scale * pt.exp(value * pt.sqrt(value**2 + 4) / 2)

    def forward(self, value: Any, *_: Any) -> Any:
        log = pt.log(value / self.scale)
        return log * pt.sqrt(2 / (1 + pt.sqrt(1 + log**2)))

    def log_jac_det(self, value: Any, *_: Any) -> Any:
        root = pt.sqrt(value**2 + 4)
        return math.log(self.scale) + value * root / 2 + pt.log((value**2 + 2) / root)
