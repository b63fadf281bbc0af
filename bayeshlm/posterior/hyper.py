"""From a posterior back to what the engine computes with: sigma and the Cholesky roots of the levels' covariances."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.statistics import Statistics
from bayeshlm.engines.exact.problem import Problem
from bayeshlm.posterior.draws import dataset, flat

if TYPE_CHECKING:
    import xarray as xr


def hyperparameters(posterior: xr.DataTree, statistics: Statistics, problem: Problem) -> tuple[Array, list[Array]]:
    """Draws of the standard deviations and correlations, chains joined.

    Returns
    -------
    sigma : (draws,), or (draws, parts) where it differs by a factor
        Ones where the standard errors are known.
    roots : per level of the problem (k, k, draws)
        Lower roots of the covariance of its effects, in the user's coordinates.
    """
    draws = dataset(posterior).sizes["chain"] * dataset(posterior).sizes["draw"]
    sigma = np.ones(draws) if problem.known_sigma else flat(posterior, "sigma")
    roots = []
    for index in problem.level_index:
        level = statistics.layout.levels[index]
        sds = np.concatenate([flat(posterior, f"{block.name}_sigma").reshape(draws, -1) for block in level.blocks], 1)
        root = np.zeros((sds.shape[1], sds.shape[1], draws))
        root[range(len(root)), range(len(root))] = sds.T
        for positions in level.correlated:
            factor = _root(flat(posterior, f"corr|{level.name}"))  # (k, k, draws)
            for i, row in enumerate(positions):
                for j, column in enumerate(positions[: i + 1]):
                    root[row, column] = sds[:, row] * factor[i, j]
        roots.append(root)
    return sigma, roots


def _root(correlation: Array) -> Array:
    """Lower root (k, k, draws) of correlation matrices (draws, k, k), also of singular ones."""
    k = correlation.shape[1]
    root = np.zeros((k, k, len(correlation)))
    for j in range(k):
        root[j, j] = np.sqrt(np.maximum(correlation[:, j, j] - np.sum(root[j, :j] ** 2, axis=0), 0.0))
        safe = np.where(root[j, j] > 0, root[j, j], 1.0)
        for i in range(j + 1, k):
            rest = correlation[:, i, j] - np.sum(root[i, :j] * root[j, :j], axis=0)
            root[i, j] = np.where(root[j, j] > 0, rest / safe, 0.0)
    return root
