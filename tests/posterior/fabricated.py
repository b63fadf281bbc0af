"""Posteriors of any family whose draws are given, not fitted: what is read from a posterior is then known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

import bayeshlm as bh
from bayeshlm.data.table import tabulate
from bayeshlm.engines.exact.fit import EngineResult, Variable
from bayeshlm.engines.select import Choice
from bayeshlm.fit import to_datatree

CHAINS, DRAWS = 4, 250


def fabricated(model: bh.Model, data: pd.DataFrame, given: dict[str, Any], seed: int = 0) -> xr.DataTree:
    """A posterior of normal draws about `given` (name -> value, or array of one a label), a tenth wide.

    Scales and shapes are drawn on the log scale, effects of groups that are not given about 0.
    """
    rng = np.random.default_rng(seed)
    table = tabulate(model, data)
    statistics = table.statistics
    variables: dict[str, Variable] = {}
    coords: dict[str, list[Any]] = {}

    def add(name: str, dims: dict[str, list[Any]], *, positive: bool = False) -> None:
        shape = tuple(map(len, dims.values()))
        noise = 0.1 * rng.standard_normal((CHAINS, DRAWS, *shape))
        centre = np.broadcast_to(np.asarray(given.get(name, 1.0 if positive else 0.0), dtype=float), shape)
        coords.update(dims)
        variables[name] = Variable(centre * np.exp(noise) if positive else centre + noise, tuple(dims))

    for block in statistics.layout.common:
        add(block.name, {block.dim: list(block.labels)} if block.labels else {})
    for k, level in enumerate(statistics.layout.levels):
        for block in level.blocks:
            add(block.name, {level.name: statistics.labels(k)})
            add(f"{block.name}_sigma", {}, positive=True)
    for name, _ in model.extra:
        add(name, {}, positive=True)
    stats = {"diverging": np.zeros((CHAINS, DRAWS))}
    result = EngineResult(variables, coords, stats)
    return to_datatree(statistics, result, Choice("nuts", "given"), seed=seed, notes=[], table=table)
