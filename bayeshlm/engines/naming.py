"""Arrays into the variables of a posterior: their names, dims and labels, in the user's words.

For the exact engine and the quick fits of a plan; `quadrature` and `pymc` name what they sample themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.layout import Block, Level
from bayeshlm.data.statistics import Statistics
from bayeshlm.engines.result import Variable

Named = tuple[dict[str, Variable], dict[str, list[Any]]]


@dataclass(frozen=True, eq=False)
class DrawnArrays:
    """Draws as engines compute them, the draws on one axis; what an engine does not have is left out.

    Attributes
    ----------
    common : (B, p)
        Common effects, in the order of the layout.
    effects : mapping level of the layout -> (k, groups, B)
        Group-specific effects.
    sds : mapping level of the layout -> (k, B)
        Their standard deviations. The posterior has the levels in the order of this mapping.
    roots : mapping level of the layout -> (k, k, B)
        Lower roots of their covariances, where some are correlated.
    sigma : (B,), or (B, parts) where it differs by a factor
    extra : mapping name -> (B,)
        The family's other parameters.
    """

    common: Array
    effects: Mapping[int, Array] = field(default_factory=dict)
    sds: Mapping[int, Array] = field(default_factory=dict)
    roots: Mapping[int, Array] = field(default_factory=dict)
    sigma: Array | None = None
    extra: Mapping[str, Array] = field(default_factory=dict)


def name_draws(statistics: Statistics, drawn: DrawnArrays, shape: tuple[int, int]) -> Named:
    """(variables, coords) of draws; `shape` is (chains, draws), whose product is B."""
    layout = statistics.layout
    variables: dict[str, Variable] = {}
    coords: dict[str, list[Any]] = {}

    def add(name: str, values: Array, dims: tuple[str, ...] = ()) -> None:
        """`values` has the draws on its last axis."""
        moved = np.moveaxis(values, -1, 0)
        variables[name] = Variable(np.ascontiguousarray(moved).reshape(*shape, *values.shape[:-1]), dims)

    def add_block(block: Block, name: str, values: Array, dims: tuple[str, ...] = ()) -> None:
        """`values` (..., columns, B); a block of a single column has no dim of its own."""
        add(name, values if block.labels else values[..., 0, :], (*dims, *block_dims(block)))
        coords.update({block.dim: list(block.labels)} if block.labels else {})

    for block, where in zip(layout.common, block_slices(layout.common), strict=True):
        add_block(block, block.name, drawn.common.T[where])
    for index in {**drawn.sds, **drawn.effects}:  # in this order, each once
        level = layout.levels[index]
        if index in drawn.effects:
            coords[level.name] = statistics.labels(index)
        for block, where in zip(level.blocks, block_slices(level.blocks), strict=True):
            if index in drawn.effects:
                add_block(block, block.name, np.moveaxis(drawn.effects[index][where], 0, 1), (level.name,))
            if index in drawn.sds:
                add_block(block, f"{block.name}_sigma", drawn.sds[index][where])
        if index in drawn.roots:
            for positions in level.correlated:
                dims = correlation_dims(level)
                coords |= {dim: [level.effect_labels[p] for p in positions] for dim in dims}
                add(f"corr|{level.name}", _correlation(drawn.roots[index][np.ix_(positions, positions)]), dims)
    if drawn.sigma is not None:
        by = layout.residual
        add("sigma", drawn.sigma.T, () if by is None else (by.dim,))
        coords |= {} if by is None else {by.dim: list(by.labels)}
    for name, values in drawn.extra.items():
        add(name, values)
    return variables, coords


def name_moments(statistics: Statistics, moments: Mapping[int, tuple[Array, Array]]) -> Named:
    """(variables, coords) of means and standard deviations (k, groups) of effects, by level of the layout."""
    variables: dict[str, Variable] = {}
    coords: dict[str, list[Any]] = {"moment": ["mean", "sd"]}
    for index, (mean, sd) in moments.items():
        level = statistics.layout.levels[index]
        coords[level.name] = statistics.labels(index)
        for block, where in zip(level.blocks, block_slices(level.blocks), strict=True):
            both = np.moveaxis(np.stack([mean[where], sd[where]]), 1, 2)  # (2, groups, effects)
            dims = ("moment", level.name, *block_dims(block))
            variables[block.name] = Variable(both if block.labels else both[:, :, 0], dims)
            coords |= {block.dim: list(block.labels)} if block.labels else {}
    return variables, coords


def block_slices(blocks: tuple[Block, ...]) -> list[slice]:
    """Where each block's columns lie in their concatenation."""
    ends = np.cumsum([len(block.columns) for block in blocks]).tolist()
    return [slice(end - len(block.columns), end) for end, block in zip(ends, blocks, strict=True)]


def block_dims(block: Block) -> tuple[str, ...]:
    """The dim of a block of labelled columns; none for a single column."""
    return (block.dim,) if block.labels else ()


def correlation_dims(level: Level) -> tuple[str, str]:
    """Dims of a level's correlation matrix."""
    return f"{level.name}_effect", f"{level.name}_effect_other"


def _correlation(root: Array) -> Array:
    covariance = np.einsum("iab,jab->ijb", root, root)
    sds = np.sqrt(np.einsum("iib->ib", covariance))
    return np.asarray(covariance / (sds[:, None] * sds[None]))
