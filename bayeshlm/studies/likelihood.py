"""The joint log likelihood of everything, effects included: the test quantity that an engine cannot pass by guessing.

Modrak et al. (2023), Bayesian Analysis 20(2), section 4: without it an engine that ignores the data passes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.statistics import Statistics
from bayeshlm.data.table import Table
from bayeshlm.simulation.densities import log_density

Values = Mapping[str, Array]  # variable -> (draws, ...), named like the posterior
AT_ONCE = 2**22  # numbers worked on at a time


def log_likelihood(data: Statistics | Table, values: Values) -> Array:
    """Log density of the data given every parameter, (draws,).

    From statistics where these are all that the likelihood needs (gaussian, lognormal), else from rows; of rows that
    were joined but for a constant, which ranks do not see.
    """
    return _of_rows(data, values) if isinstance(data, Table) else _of_statistics(data, values)


def _draws(statistics: Statistics, values: Values) -> int:
    layout = statistics.layout
    return len(values[layout.common[0].name] if layout.common else values[layout.levels[0].blocks[0].name])


def _of_rows(table: Table, values: Values) -> Array:
    model, layout = table.statistics.model, table.statistics.layout
    draws = _draws(table.statistics, values)
    out = np.empty(draws)
    step = max(AT_ONCE // max(table.rows, 1), 1)
    for start in range(0, draws, step):
        part = slice(start, min(start + step, draws))
        predictor = np.broadcast_to(table.offset, (part.stop - start, table.rows)).copy()
        for block in layout.common:
            coefficients = values[block.name][part].reshape(-1, len(block.columns))
            predictor += coefficients @ table.columns[:, list(block.columns)].T
        for index, level in enumerate(layout.levels):
            group = table.codes[:, index]
            for block in level.blocks:
                effects = values[block.name][part].reshape(part.stop - start, -1, len(block.columns))
                for position, column in enumerate(block.columns):
                    predictor += effects[:, group, position] * table.columns[:, column]
        parameters = {name: values[name][part].reshape(part.stop - start, -1) for name, _ in model.extra}
        if layout.residual is not None:
            parameters["sigma"] = parameters["sigma"][:, table.part]
        with np.errstate(all="ignore"):  # what is not finite is refused by whoever asks
            out[part] = log_density(table, predictor, parameters).sum(axis=1)
    return out


def _of_statistics(statistics: Statistics, values: Values) -> Array:
    layout = statistics.layout
    draws, cells = _draws(statistics, values), len(statistics.count)
    sigma = values["sigma"].reshape(draws, -1) if "sigma" in values else np.ones((draws, 1))
    rows = np.bincount(statistics.residual, statistics.count, sigma.shape[1])
    squares = np.empty(draws)  # in units of the residual variance
    step = max(AT_ONCE // max(cells * len(layout.columns), 1), 1)
    for start in range(0, draws, step):
        part = slice(start, min(start + step, draws))
        slopes = np.zeros((part.stop - start, cells, len(layout.columns)))
        for block in layout.common:
            slopes[:, :, list(block.columns)] += values[block.name][part].reshape(-1, 1, len(block.columns))
        for index, level in enumerate(layout.levels):
            group = statistics.codes[:, index]
            for block in level.blocks:
                effects = values[block.name][part].reshape(part.stop - start, -1, len(block.columns))
                slopes[:, :, list(block.columns)] += effects[:, group]
        beside = slopes[:, :, 1:]
        mean = statistics.mean + statistics.shift
        off = mean[:, -1] - slopes[:, :, 0] - np.einsum("sck,ck->sc", beside, mean[:, :-1])
        scatter = statistics.scatter
        within = (
            scatter[:, -1, -1]
            - 2 * np.einsum("sck,ck->sc", beside, scatter[:, :-1, -1])
            + np.einsum("sck,ckl,scl->sc", beside, scatter[:, :-1, :-1], beside, optimize=True)
        )
        of_cell = sigma[part][:, statistics.residual]
        squares[part] = ((within + statistics.weight * off**2) / of_cell**2).sum(axis=1)
    constant = -0.5 * statistics.rows * np.log(2 * np.pi) + 0.5 * statistics.sum_log_weight + statistics.log_jacobian
    return np.asarray(constant - np.log(sigma) @ rows - 0.5 * squares)
