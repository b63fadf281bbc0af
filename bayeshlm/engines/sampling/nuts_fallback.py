"""NUTS on the collapsed model: the hyperparameters' density of the exact engine, sampled by PyMC.

The way out when importance weights cannot be trusted (heavy tails, several modes). Slower, and as exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeshlm.arrays import Array
from bayeshlm.engines.sampling.modes import LogDensity

STEP = 1e-4  # of the differences, in standard deviations of the points that were found
SMALLEST, RIDGE = 1e-12, 1e-4  # variance that is one at all; share of the diagonal, so that every root exists
TUNE = 500
TARGET_ACCEPT = 0.9


def sample_collapsed(
    log_density: LogDensity, found: Array, *, draws: int, seed: int, progress: bool
) -> tuple[Array, NDArray[np.bool_]]:
    """Draw theta by NUTS.

    Parameters
    ----------
    log_density : callable
        (n, d) -> (n,); its gradient is taken by batched central differences.
    found : (chains, n, d)
        Points that another sampler found, well weighted or not: the last of each chain is its start, and their spread
        the metric that the walk adapts from, without which narrow ridges take thousands of steps a draw.
    draws, seed : int
    progress : bool
        Show PyMC's progress bar.

    Returns
    -------
    theta : (chains, draws, d)
    diverging : (chains, draws)
    """
    import pymc as pm

    chains, _, d = found.shape
    centre, root = _spread(found.reshape(-1, d))
    start = np.linalg.solve(root, (found[:, -1] - centre).T).T
    density = _density_op(lambda z: log_density(centre + z @ root.T), d)
    with pm.Model():
        theta = pm.Flat("theta", shape=d)
        pm.Potential("collapsed", density(theta))
        trace: Any = pm.sample(
            draws, tune=TUNE, chains=chains, cores=1, nuts_sampler="pymc", random_seed=seed, progressbar=progress,
            initvals=[{"theta": point} for point in start], compute_convergence_checks=False,
            target_accept=TARGET_ACCEPT, compile_kwargs={"mode": "FAST_COMPILE"},
        )  # fmt: skip
    theta = centre + trace["posterior"]["theta"].values @ root.T
    return theta, trace["sample_stats"]["diverging"].values.astype(bool)


def _spread(points: Array) -> tuple[Array, Array]:
    """Mean (d,) and a lower root (d, d) of the covariance of points (n, d); of the identity where they do not vary."""
    covariance = np.atleast_2d(np.cov(points.T))
    variances = np.diag(covariance)
    if not (variances > SMALLEST).all():
        return points.mean(axis=0), np.eye(points.shape[1])
    return points.mean(axis=0), np.linalg.cholesky((1 - RIDGE) * covariance + RIDGE * np.diag(variances))


def _density_op(log_density: LogDensity, d: int) -> Any:
    """The density as a PyTensor operation with its gradient (PyTensor is slow to import, hence here)."""
    import pytensor.tensor as pt
    from pytensor.graph.op import Op

    steps = np.concatenate([np.zeros((1, d)), STEP * np.eye(d), -STEP * np.eye(d)])
    last: dict[bytes, Array] = {}

    def around(x: Array) -> Array:
        """The density at x and at its neighbours: one batch serves the value and the gradient."""
        if x.tobytes() not in last:
            last.clear()
            last[x.tobytes()] = log_density(x + steps)
        return last[x.tobytes()]

    class Gradient(Op):  # type: ignore[misc]  # PyTensor is untyped to mypy here
        itypes = (pt.dvector,)
        otypes = (pt.dvector,)

        def perform(self, node: Any, inputs: Sequence[Any], output_storage: list[Any]) -> None:
            f = around(inputs[0])
            with np.errstate(invalid="ignore"):  # -inf on both sides: the density is 0 here and the step is refused
                gradient = (f[1 : d + 1] - f[d + 1 :]) / (2 * STEP)
            output_storage[0][0] = np.where(np.isfinite(gradient), gradient, 0.0)

    class Density(Op):  # type: ignore[misc]  # as above
        itypes = (pt.dvector,)
        otypes = (pt.dscalar,)

        def perform(self, node: Any, inputs: Sequence[Any], output_storage: list[Any]) -> None:
            output_storage[0][0] = np.asarray(around(inputs[0])[0])

        def pullback(self, inputs: Any, outputs: Any, cotangents: Any) -> Any:
            return [cotangents[0] * Gradient()(inputs[0])]

    return Density()
