"""The scales on which standard deviations, effects and correlations of groups are sampled."""

from __future__ import annotations

import math
from typing import Any

import pytensor.tensor as pt
from pymc.logprob.transforms import Transform

from bayeshlm.engines.pymc.algebra import correlation_root, times


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


class InDeviations(Transform):  # type: ignore[misc]  # as above
    """A normal variable less its mean, in units of a power of its standard deviation: the non-centred form, at 1."""

    name = "deviations"

    def __init__(self, power: float) -> None:
        self.power = power

    def backward(self, value: Any, *inputs: Any) -> Any:
        mean, sd = inputs[-2:]
        return mean + sd**self.power * value

    def forward(self, value: Any, *inputs: Any) -> Any:
        mean, sd = inputs[-2:]
        return (value - mean) / sd**self.power

    def log_jac_det(self, value: Any, *inputs: Any) -> Any:
        return pt.zeros_like(value) + self.power * pt.log(inputs[-1])


class Whitened(Transform):  # type: ignore[misc]  # as above
    """Multivariate normal rows as independent standard normal ones: the non-centred form."""

    name = "whitened"
    ndim_supp = 1

    def backward(self, value: Any, *inputs: Any) -> Any:
        return inputs[-2] + times(value, self._root(*inputs).T)

    def forward(self, value: Any, *inputs: Any) -> Any:
        return pt.linalg.solve_triangular(self._root(*inputs), (value - inputs[-2]).T, lower=True).T

    def log_jac_det(self, value: Any, *inputs: Any) -> Any:
        return pt.zeros_like(value[:, 0]) + pt.log(pt.diag(self._root(*inputs))).sum()

    @staticmethod
    def _root(*inputs: Any) -> Any:
        covariance = inputs[-1]  # PyMC may have given it a first axis, for all rows
        return pt.linalg.cholesky(covariance[0] if covariance.ndim == 3 else covariance)


class PartialCorrelations(Transform):  # type: ignore[misc]  # as above
    """A correlation matrix as the inverse hyperbolic tangents of its partial correlations, row by row.

    Parameters
    ----------
    size : int
        Rows of the matrix.
    """

    name = "partial"
    ndim_supp = 2

    def __init__(self, size: int) -> None:
        self.size = size

    def backward(self, value: Any, *_: Any) -> Any:
        root, _left = correlation_root(pt.tanh(value), self.size)
        return times(root, root.T)

    def forward(self, value: Any, *_: Any) -> Any:
        root = pt.linalg.cholesky(value)
        partial = []
        for i in range(1, self.size):
            left: Any = pt.ones(())
            for j in range(i):
                partial.append(root[i, j] / pt.sqrt(left))
                left = left * (1 - partial[-1] ** 2)
        return pt.arctanh(pt.stack(partial))

    def log_jac_det(self, value: Any, *_: Any) -> Any:
        partial = pt.tanh(value)
        root, left = correlation_root(partial, self.size)
        falling = pt.constant([float(self.size - 1 - k) for k in range(self.size)])
        of_root = pt.dot(falling, pt.log(pt.diag(root)))  # of the matrix by its root's entries below the diagonal
        return of_root + 0.5 * pt.log(left).sum() + pt.log1p(-(partial**2)).sum()
