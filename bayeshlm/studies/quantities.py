"""Test quantities of a study: scalars computed alike from a truth and from posterior draws."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.layout import Level
from bayeshlm.data.statistics import Statistics
from bayeshlm.data.table import Table
from bayeshlm.posterior.shares import has_shares, level_variances, row_variance
from bayeshlm.studies.likelihood import log_likelihood

Values = Mapping[str, Array]  # variable -> (draws, ...), named like the posterior
MANY = 20  # scalars of one variable up to which all are tested
SAMPLE = 10  # of more, so many are
FEW = 6  # groups of the top level up to which all pairs are contrasted
LOG_LIKELIHOOD = "log_likelihood"


@dataclass(frozen=True)
class Part:
    """Quantities that make one variable of the result.

    Attributes
    ----------
    name : str
    dim : str
        Empty for a scalar.
    labels : tuple
    """

    name: str
    dim: str = ""
    labels: tuple[Any, ...] = ()

    @property
    def size(self) -> int:
        return max(len(self.labels), 1)


@dataclass(frozen=True)
class Quantities:
    """What is tested: every hyperparameter and common effect, effects of groups (all of a small level, a fixed random
    sample of a large one), contrasts between the groups of the top level, the share of variance of each level (ICC),
    and the joint log likelihood of everything, without which an engine that ignores the data passes.

    Attributes
    ----------
    parts : tuple of Part
    places : tuple of tuples of float
        Per part of group-specific effects and contrasts, where its scalars lie among all, in [0, 1): valid whatever
        the number of groups that a design with random sizes draws.
    """

    parts: tuple[Part, ...]
    places: tuple[tuple[float, ...], ...]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    @property
    def names(self) -> list[str]:
        """One name a scalar: `sigma`, `1|method[3]`."""
        return [name for p in self.parts for name in ([f"{p.name}[{label}]" for label in p.labels] or [p.name])]

    def without(self, name: str) -> Quantities:
        """All but one variable."""
        kept = [k for k, part in enumerate(self.parts) if part.name != name]
        return Quantities(tuple(self.parts[k] for k in kept), tuple(self.places[k] for k in kept))

    def evaluate(self, data: Statistics | Table, values: Values) -> Array:
        """(draws, size) of all quantities; the log likelihood from rows where statistics are not enough for it."""
        statistics = data.statistics if isinstance(data, Table) else data
        top = top_level(statistics)
        contrast = f"contrast|{top.name}" if top is not None else ""
        shares = {f"ICC|{name}": share for name, share in variance_shares(statistics, values).items()}
        columns = []
        for part, places in zip(self.parts, self.places, strict=True):
            if part.name == LOG_LIKELIHOOD:
                columns.append(log_likelihood(data, values)[:, None])
            elif part.name in shares:
                columns.append(shares[part.name][:, None])
            elif top is not None and part.name == contrast:
                columns.append(_differences(values[top.blocks[0].name], places))
            else:
                block = _scalars(part.name, values[part.name])
                columns.append(block[:, _at(places, block.shape[1])] if places else block)
        return np.concatenate(columns, axis=1)


def choose_quantities(statistics: Statistics, known: Mapping[str, Array], *, fixed_sizes: bool) -> Quantities:
    """The default quantities of a model, for one drawn world of its design.

    Parameters
    ----------
    statistics : Statistics
        Of the model that is fitted.
    known : mapping of str to array
        What both truth and posterior have: a parameter that only one model has cannot be tested.
    fixed_sizes : bool
        Whether every world has the same groups, so that they can be called by their labels.
    """
    layout, model = statistics.layout, statistics.model
    rng = np.random.default_rng(0)  # the sample of groups is part of the study's definition
    parts: list[Part] = []
    places: list[tuple[float, ...]] = []

    def add(name: str, dim: str, labels: list[Any], where: tuple[float, ...] = ()) -> None:
        parts.append(Part(name, dim, tuple(labels)))
        places.append(where)

    def sample(count: int, most: int, wanted: int) -> tuple[float, ...]:
        """Nothing where all of them are tested."""
        if count <= most and fixed_sizes:
            return ()
        chosen = sorted(rng.choice(count, min(wanted, count), replace=False).tolist())
        return tuple((k + 0.5) / count for k in chosen)

    def called(labels: list[Any], where: tuple[float, ...]) -> list[Any]:
        return [labels[k] for k in _at(where, len(labels))] if fixed_sizes else [f"at {p:.0%}" for p in where]

    def add_groups(name: str, dim: str, labels: list[Any]) -> None:
        where = sample(len(labels), MANY, SAMPLE)
        add(name, dim, called(labels, where) if where else labels, where)

    for block in layout.common:
        if block.name in known:
            add(block.name, block.dim, list(block.labels))
    for name, kind in model.parameters.items():
        if kind == "coefficient" or name not in known:
            continue
        if kind == "correlation":
            level = next(level for level in layout.levels if f"corr|{level.name}" == name)
            labels = [level.effect_labels[k] for k in level.correlated[0]]
            pairs = [f"{labels[i]}, {labels[j]}" for i in range(len(labels)) for j in range(i)]
            add(name, f"{level.name}_effect_pair", pairs)
        elif name == "sigma" and layout.residual is not None:
            add(name, layout.residual.dim, list(layout.residual.labels))
        elif known[name].ndim:
            block = next(b for level in layout.levels for b in level.blocks if f"{b.name}_sigma" == name)
            add(name, block.dim, list(block.labels))
        else:
            add(name, "", [])
    for index, level in enumerate(layout.levels):
        groups = statistics.labels(index)
        for block in level.blocks:
            if block.name in known and block.labels:
                add_groups(block.name, f"{block.name}_effect", [f"{g}, {k}" for g in groups for k in block.labels])
            elif block.name in known:
                add_groups(block.name, level.name, groups)
    top = top_level(statistics)
    if top is not None and top.blocks[0].name in known:
        groups = statistics.labels(layout.levels.index(top))
        where = sample(len(groups), FEW, SAMPLE + 1)
        compared = list(itertools.pairwise(called(groups, where)) if where else itertools.combinations(groups, 2))
        add(f"contrast|{top.name}", f"{top.name}_pair", [f"{a} - {b}" for a, b in compared], where)
    if has_shares(model) and set(model.parameters) <= set(known):
        for level in layout.levels:
            add(f"ICC|{level.name}", "", [])
    effects = {block.name for level in layout.levels for block in level.blocks}
    if set(model.parameters) | effects <= set(known):
        add(LOG_LIKELIHOOD, "", [])
    return Quantities(tuple(parts), tuple(places))


def top_level(statistics: Statistics) -> Level | None:
    """The level of fewest groups, if its first effect is one number a group."""
    levels = statistics.layout.levels
    if not levels:
        return None
    top = levels[int(np.argmin([len(members) for members in statistics.members]))]
    return top if not top.blocks[0].labels else None


def _scalars(name: str, value: Array) -> Array:
    """(draws, scalars) of a variable; of a correlation matrix its lower triangle."""
    if name.startswith("corr|"):
        i, j = np.tril_indices(value.shape[-1], -1)
        return value[:, i, j]
    return value.reshape(len(value), -1)


def _at(places: tuple[float, ...], count: int) -> list[int]:
    return [int(place * count) for place in places]


def _differences(effects: Array, places: tuple[float, ...]) -> Array:
    """(draws, pairs) of (draws, groups): of all pairs, or of each sampled group and the next."""
    if places:
        chosen = effects[:, _at(places, effects.shape[1])]
        return chosen[:, :-1] - chosen[:, 1:]
    i, j = np.triu_indices(effects.shape[1], 1)
    return effects[:, i] - effects[:, j]


def variance_shares(statistics: Statistics, values: Values) -> dict[str, Array]:
    """Level -> share of the variance that its effects contribute, (draws,), as `summarize`'s ICC."""
    if not has_shares(statistics.model) or not set(statistics.model.parameters) <= set(values):
        return {}
    parts = level_variances(statistics, values)
    total = sum(parts.values()) + row_variance(statistics, values)
    return {name: part / total for name, part in parts.items()}
