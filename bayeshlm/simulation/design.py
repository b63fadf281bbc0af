"""Study designs: how many groups and units there are, which covariates they have, who gets which treatment."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bayeshlm.arrays import Codes
from bayeshlm.errors import DesignError, did_you_mean, listed
from bayeshlm.spec.priors import LKJ, Flat, Prior

Size = int | tuple[int, ...] | Prior


@dataclass(frozen=True)
class Covariate:
    """A covariate drawn from a distribution, one value a unit or one a group.

    Parameters
    ----------
    distribution : Prior
    level : str, optional
        Level whose groups share one value (a city's size); default: every unit has its own.
    """

    distribution: Prior
    level: str | None = None


@dataclass(frozen=True)
class Treatment:
    """Arms given to whole groups by complete randomisation: as equal numbers of groups as possible, in random order.

    Parameters
    ----------
    arms : int or sequence of str
        Their number, or their names. Names are text ("0", "1", ... for a number), so that a formula takes the column
        as categories and never as a dose.
    level : str
        The level whose groups are randomised.
    within : str, optional
        An outer level whose groups are blocks: arms are balanced inside each.
    """

    arms: int | Sequence[str]
    level: str
    within: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.arms, int | np.integer):
            object.__setattr__(self, "arms", tuple(str(arm) for arm in self.arms))
        names = self.names
        if len(names) < 2 or len(set(names)) < len(names):
            raise DesignError(f"Treatment: arms={self.arms!r} must be at least two different arms.")

    @property
    def names(self) -> tuple[Any, ...]:
        return tuple(map(str, range(int(self.arms)))) if isinstance(self.arms, int | np.integer) else tuple(self.arms)


@dataclass(frozen=True)
class Structure:
    """One drawn nesting.

    Attributes
    ----------
    levels : tuple of str
        Grouping levels, outermost first (the unit is not among them).
    parent : mapping
        Level -> (groups,) index of each group's parent group (zeros on the outermost).
    units : (innermost groups,)
        Units in each innermost group.
    """

    levels: tuple[str, ...]
    parent: Mapping[str, Codes]
    units: Codes

    def ancestors(self) -> dict[str, Codes]:
        """Level -> group of that level which each innermost group belongs to."""
        chain: dict[str, Codes] = {}
        current = np.arange(len(self.units))
        for level in reversed(self.levels):
            chain[level] = current
            current = self.parent[level][current]
        return {level: chain[level] for level in self.levels}


@dataclass(frozen=True)
class Design:
    """A nested design; build it with `Design.nested`."""

    levels: tuple[tuple[str, Size], ...]
    covariates: tuple[tuple[str, Covariate], ...] = ()
    treatments: tuple[tuple[str, Treatment], ...] = ()

    @classmethod
    def nested(
        cls,
        *,
        covariates: Mapping[str, Prior | Covariate] | None = None,
        treatments: Mapping[str, Treatment] | None = None,
        **levels: int | Sequence[int] | Prior,
    ) -> Design:
        """A design from its levels, outermost first; the last is the unit.

        Parameters
        ----------
        **levels : int, sequence of int, or Prior
            Children PER parent: the same number for all, one number a parent, or a distribution from which each
            parent's number is drawn (rounded, at least 1). The outermost counts its groups.
        covariates : mapping of str to Prior or Covariate, optional
        treatments : mapping of str to Treatment, optional
            Columns that hold an arm given to whole groups.

        Raises
        ------
        DesignError
            Naming every impossible size, unknown level and doubled name.

        Examples
        --------
        >>> Design.nested(method=5, instructor=10, student=2000).units
        100000
        """
        given = {n: c if isinstance(c, Covariate) else Covariate(c) for n, c in (covariates or {}).items()}
        sizes = tuple((name, _size(name, size)) for name, size in levels.items())
        design = cls(sizes, tuple(given.items()), tuple((treatments or {}).items()))
        design._check()
        return design

    @classmethod
    def grid(
        cls,
        *,
        covariates: Mapping[str, Prior | Covariate] | None = None,
        treatments: Mapping[str, Treatment] | None = None,
        **levels: Any,
    ) -> list[Design]:
        """Every combination of sizes: designs for `bayeshlm.plan` to choose from.

        Parameters
        ----------
        **levels
            As in `nested`, but a list (or range) is a list of choices, each a size as `nested` takes it: an int, a
            tuple with a number for each parent, or a distribution.
        covariates, treatments : as in `nested`, the same for all designs

        Examples
        --------
        >>> len(Design.grid(method=5, instructor=[5, 10, 20], student=[30, 300]))
        6
        """
        choices = [
            [*map(int, size)] if isinstance(size, range) else size if isinstance(size, list) else [size]
            for size in levels.values()
        ]
        empty = [name for name, options in zip(levels, choices, strict=True) if not options]
        if empty:
            raise DesignError(f"grid: no choices are given for {listed(empty)}.")
        return [
            cls.nested(covariates=covariates, treatments=treatments, **dict(zip(levels, sizes, strict=True)))
            for sizes in itertools.product(*choices)
        ]

    @property
    def groupings(self) -> tuple[str, ...]:
        """Names of the levels without the unit."""
        return tuple(name for name, _ in self.levels[:-1])

    @property
    def unit(self) -> str:
        return self.levels[-1][0]

    @property
    def units(self) -> int | None:
        """Number of units, or None where a size is random."""
        count = 1
        for _, size in self.levels:
            if isinstance(size, Prior):
                return None
            count = sum(size) if isinstance(size, tuple) else count * size
        return count

    def _no_grouping(self, name: str) -> str:
        """A name that is no level of groups, and why."""
        if name == self.unit:
            return f"the unit {name!r}, where a level of groups is asked for: {listed(self.groupings)}"
        near = did_you_mean(name, self.groupings).strip().removesuffix("?")
        return f"the unknown level {name!r}" + (f" ({near[0].lower()}{near[1:]}?)" if near else "")

    def draw(self, rng: np.random.Generator) -> Structure:
        """Draw the nesting (sizes that are distributions are drawn anew)."""
        parents: dict[str, Codes] = {}
        groups = 1
        for name, size in self.levels:
            children = _children(size, groups, rng)
            if name != self.unit:  # a unit's group is never asked for, and there may be 1e9 of them
                parents[name] = np.repeat(np.arange(groups), children)
            groups = int(children.sum())
        return Structure(self.groupings, parents, children)

    def _check(self) -> None:
        problems = []
        if len(self.levels) < 2:
            problems.append("a nested design needs at least a group level and the unit, e.g. clinic=20, patient=50")
        parents: int | None = 1  # None once a size is random
        for name, size in self.levels:
            if isinstance(size, tuple):
                if parents is not None and len(size) != parents:
                    problems.append(f"{name} lists {len(size)} sizes for {parents} parents")
                parents = sum(size)
            elif isinstance(size, int):
                parents = parents * size if parents is not None else None
            else:
                parents = None
        names = [name for name, _ in (*self.levels, *self.covariates, *self.treatments)]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            problems.append(f"the names {listed(doubled)} are used twice")
        for name, covariate in self.covariates:
            if not isinstance(covariate.distribution, Prior) or isinstance(covariate.distribution, Flat | LKJ):
                problems.append(f"covariate {name!r} needs a proper distribution, not {covariate.distribution!r}")
            if covariate.level is not None and covariate.level not in self.groupings:
                problems.append(f"covariate {name!r} is on {self._no_grouping(covariate.level)}")
        for name, treatment in self.treatments:
            if not isinstance(treatment, Treatment):
                problems.append(f"treatment {name!r} is a {type(treatment).__name__}, not a bayeshlm.Treatment")
                continue
            unknown = [k for k in (treatment.level, treatment.within) if k is not None and k not in self.groupings]
            if unknown:
                problems.append(f"treatment {name!r} is on {' and '.join(map(self._no_grouping, unknown))}")
            elif treatment.within is not None and (
                self.groupings.index(treatment.within) >= self.groupings.index(treatment.level)
            ):
                problems.append(f"treatment {name!r}: within={treatment.within!r} is not above {treatment.level!r}")
        if problems:
            raise DesignError("; ".join(problems) + f". The levels are {listed(name for name, _ in self.levels)}.")


def assign(treatment: Treatment, structure: Structure, rng: np.random.Generator) -> Codes:
    """Arm of every group of the treatment's level, balanced (within blocks where asked for)."""
    parent = structure.parent[treatment.level]
    block = np.zeros(len(parent), dtype=np.int64)
    if treatment.within is not None:
        block = parent
        for level in reversed(structure.levels[: structure.levels.index(treatment.level)]):
            if level == treatment.within:
                break
            block = structure.parent[level][block]
    arms = len(treatment.names)
    out = np.empty(len(parent), dtype=np.int64)
    for value in np.unique(block):
        members = np.flatnonzero(block == value)
        # Which arms get the odd groups is random too, so that no arm is favoured over blocks.
        order = rng.permutation(arms)
        out[rng.permutation(members)] = order[np.arange(len(members)) % arms]
    return out


def _size(name: str, size: Any) -> Size:
    if isinstance(size, Prior):
        if isinstance(size, Flat | LKJ):
            raise DesignError(f"{name}={size} is no distribution of sizes.")
        return size
    if (
        isinstance(size, bool)
        or not isinstance(size, int | np.integer | Sequence | np.ndarray)
        or isinstance(size, str)
    ):
        raise DesignError(f"{name}={size!r}: a size is an int, a list of ints, or a distribution.")
    values = [size] if isinstance(size, int | np.integer) else list(size)
    bad = [v for v in values if isinstance(v, bool) or not isinstance(v, int | np.integer) or v < 1]
    if bad or not values:
        raise DesignError(f"{name}={size!r}: sizes are whole numbers of at least 1.")
    return int(values[0]) if isinstance(size, int | np.integer) else tuple(int(v) for v in values)


def _children(size: Size, parents: int, rng: np.random.Generator) -> Codes:
    if isinstance(size, Prior):
        drawn = np.asarray(size.sample(rng, parents))
        if not np.isfinite(drawn).all() or drawn.max() > 1e9:
            raise DesignError(f"A size drawn from {size} is not a sensible number of children: {drawn.max():g}.")
        return np.maximum(np.rint(drawn), 1).astype(np.int64)
    if isinstance(size, tuple):
        if len(size) != parents:
            raise DesignError(f"{len(size)} sizes are listed for {parents} parents.")
        return np.array(size, dtype=np.int64)
    return np.full(parents, size, dtype=np.int64)
