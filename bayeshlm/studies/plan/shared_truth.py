"""One truth for all designs of a plan: common random numbers.

In a replicate, every design meets the same parameters, and a group that several designs have (the third instructor of
the second method) has the same effect in all of them, and the same standardised error of its mean. Designs are then
compared on the same worlds, as matched pairs are: the luck of the draw cancels from their differences. Each parameter
and each family of siblings has a stream of random numbers of its own, so that a design's worlds do not depend on which
other designs are in the plan.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.layout import Block, Layout, Level, bound_model
from bayeshlm.data.prior_points import prior_points
from bayeshlm.engines.exact.hyperparameters import correlation_root
from bayeshlm.simulation.design import Design, Structure
from bayeshlm.spec.model import Model
from bayeshlm.spec.priors import LKJ, At, Prior

MOST_FAMILIES = 5000  # beyond so many parents their children share one stream: designs then share less
PARAMETER, EFFECT, SIZES, NOISE, UNITS, FIT = range(6)  # what a stream is for


@dataclass(frozen=True)
class Streams:
    """Random numbers of one replicate, by what they are for. The same key gives the same numbers."""

    seed: np.random.SeedSequence
    _drawn: dict[tuple[int, ...], Array] = field(default_factory=dict, repr=False)

    def stream(self, kind: int, name: str = "", path: tuple[int, ...] = ()) -> np.random.Generator:
        key = (*self.seed.spawn_key, kind, zlib.crc32(name.encode()), *path)
        return np.random.default_rng(np.random.SeedSequence(self.seed.entropy, spawn_key=key))

    def children(self, kind: int, level: str, path: tuple[int, ...], count: int, width: int) -> Array:
        """(count, width) standard normals of a group's children: more children begin with the same ones."""
        key = (kind, zlib.crc32(level.encode()), width, *path)
        if key not in self._drawn or len(self._drawn[key]) < count:
            self._drawn[key] = self.stream(kind, level, path).standard_normal((count, width))
        return self._drawn[key][:count]


def fixed(design: Design, streams: Streams) -> Design:
    """The design with its random sizes drawn."""
    if not any(isinstance(size, Prior) for _, size in design.levels):
        return design
    structure = design.draw(streams.stream(SIZES))
    sizes: list[tuple[str, tuple[int, ...]]] = []
    parents = 1
    for name in structure.levels:
        sizes.append((name, tuple(np.bincount(structure.parent[name], minlength=parents).tolist())))
        parents = len(structure.parent[name])
    return Design((*sizes, (design.unit, tuple(structure.units.tolist()))), design.covariates, design.treatments)


def shared_params(
    model: Model, layout: Layout, design: Design, params: Mapping[str, Any], streams: Streams
) -> dict[str, Any]:
    """Values of all parameters and of the effects of the design's own levels, as `bayeshlm.simulate` takes them.

    Parameters
    ----------
    model : Model
    layout : Layout
        Of data of this design.
    design : Design
        Without random sizes.
    params : mapping
        Values that are given, by their parameters' own names.
    streams : Streams

    Notes
    -----
    Effects of levels made of treatment columns are left to the simulation: which of their groups exist is drawn there.
    """
    model, values = bound_model(model, layout), dict(params)
    lengths = {block.name: len(block.labels) for block in layout.common}
    lengths |= {f"{block.name}_sigma": len(block.labels) for level in layout.levels for block in level.blocks}
    sizes = {f"corr|{level.name}": len(p) for level in layout.levels for p in level.correlated}
    given = {block.name for level in layout.levels for block in level.blocks} & set(params)
    for name, prior in model.complete_priors.items():
        if name in values or (name.removesuffix("_sigma") in given and not prior.proper):
            continue
        rng = streams.stream(PARAMETER, name)
        if isinstance(prior, LKJ):
            root = correlation_root(prior.sample_partial(rng, sizes[name])[None], sizes[name])[:, :, 0]
            values[name] = root @ root.T
        else:
            values[name] = prior.sample(rng, lengths.get(name) or None)
    if isinstance(model.complete_priors.get("Intercept"), At) and "Intercept" not in params:
        told = prior_points(layout, model.complete_priors)  # what was drawn is the linear predictor at a point
        common = np.concatenate([_labelled(values[block.name], block) for block in layout.common])
        values["Intercept"] = float(np.linalg.solve(told, common)[layout.common_columns.index(0)])
    structure = design.draw(np.random.default_rng(0))  # nothing in it is random
    for level in layout.levels:
        if set(level.keys) <= set(design.groupings) and not given & {block.name for block in level.blocks}:
            values |= _effects(level, structure, values, streams)
    return values


def shared_noise(design: Design, streams: Streams) -> Array:
    """(innermost groups,) standardised errors of the groups' means; of a design without random sizes."""
    structure = design.draw(np.random.default_rng(0))
    return _normals(NOISE, structure.levels[-1], structure, 1, streams)[:, 0]


def _effects(level: Level, structure: Structure, values: Mapping[str, Any], streams: Streams) -> dict[str, Array]:
    """Effects of a level's groups, in the order of the groups."""
    sds = [_labelled(values[f"{block.name}_sigma"], block) for block in level.blocks]
    root = np.diag(np.concatenate(sds).astype(float))
    for positions in level.correlated:
        correlation = np.asarray(values[f"corr|{level.name}"], dtype=float)
        if correlation.ndim == 0:
            correlation = np.array([[1.0, float(correlation)], [float(correlation), 1.0]])
        scale = np.diag(root)[list(positions)]
        root[np.ix_(positions, positions)] = scale[:, None] * np.linalg.cholesky(correlation)
    innermost = max(level.keys, key=structure.levels.index)
    drawn = _normals(EFFECT, innermost, structure, len(root), streams) @ root.T
    effects, position = {}, 0
    for block in level.blocks:
        mine = drawn[:, position : position + len(block.columns)]
        position += len(block.columns)
        effects[block.name] = mine if block.labels else mine[:, 0]
    return effects


def _labelled(value: Any, block: Block) -> Array:
    """A number, an array or a {label: value} mapping as one number a column."""
    if isinstance(value, Mapping):
        value = [value[label] for label in block.labels]
    return np.broadcast_to(np.asarray(value, dtype=float), len(block.columns))


def _normals(kind: int, level: str, structure: Structure, width: int, streams: Streams) -> Array:
    """(groups, width) standard normals by each group's place in the nesting."""
    parent = structure.parent[level]
    counts = np.bincount(parent)
    if len(counts) > MOST_FAMILIES:
        return streams.children(kind, level, (), len(parent), width)
    paths = _paths(structure, structure.levels.index(level) - 1)
    return np.concatenate([
        streams.children(kind, level, path, count, width) for path, count in zip(paths, counts.tolist(), strict=True)
    ])  # fmt: skip


def _paths(structure: Structure, depth: int) -> list[tuple[int, ...]]:
    """Place of every group of a level: which child of which child. One empty path above the outermost level."""
    paths: list[tuple[int, ...]] = [()]
    for name in structure.levels[: depth + 1]:
        counts = np.bincount(structure.parent[name], minlength=len(paths)).tolist()
        paths = [(*path, child) for path, count in zip(paths, counts, strict=True) for child in range(count)]
    return paths
