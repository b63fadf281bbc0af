"""A model and its rows as the quadrature takes them: records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bayeshlm.arrays import Array, Codes
from bayeshlm.data.layout import Block
from bayeshlm.engines.exact.problem import Scale
from bayeshlm.engines.quadrature.families import Response
from bayeshlm.engines.quadrature.rules import Ruled
from bayeshlm.spec.priors import Prior


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Common effects as they are sampled: of columns centred and in units of their standard deviations.

    ``beta_user = turn @ beta + shift``, with a turn of determinant exp(log_volume).
    """

    turn: Array
    shift: Array
    log_volume: float

    def to_user(self, beta: Array) -> Array:
        """(B, p) -> (B, p)."""
        return beta @ self.turn.T + self.shift

    def from_user(self, beta: Array) -> Array:
        return np.asarray(np.linalg.solve(self.turn, (beta - self.shift).T).T)


@dataclass(frozen=True, eq=False)
class Levels:
    """Nested levels, outermost first; all groups in one numbering, equal ones of the innermost level taken together.

    Attributes
    ----------
    index : tuple of int
        Which level of the layout each is.
    first, parent, copies
        See `likelihood.Tree`.
    members, member_first : int arrays
        Groups of the innermost level, in the layout's numbering, in order of the group here that stands for them; where
        those of each start.
    """

    index: tuple[int, ...]
    first: Codes
    parent: Codes
    copies: Array
    members: Codes
    member_first: Codes


@dataclass(frozen=True, eq=False)
class Problem:
    """What is sampled, phi = (common effects, scores of the family's parameters, scores of standard deviations).

    Attributes
    ----------
    blocks : tuple of (Block, Prior)
        Common effects, whose columns follow each other in `coordinates`.
    extra : tuple of Scale
        The family's own parameters: sigma, alpha.
    scales : tuple of Scale
        Standard deviations of the levels.
    cells : Cells
    linear : (p,), linear_offset : float
        Sums of eta's coefficient times the columns, and times the offset.
    squares : (p + 1, p + 1)
        Cross products of the columns and the offset of rows known exactly, whose offset is minus their value.
    told : (p, p)
        From common effects, as the user wrote them, to what their priors speak of (see `prior_points`).
    ruled : tuple of Ruled
        Rows that a rule stands for.
    here : (innermost groups of the layout,) int
        Group here that stands for each.
    """

    response: Response
    blocks: tuple[tuple[Block, Prior], ...]
    coordinates: Coordinates
    extra: tuple[Scale, ...]
    scales: tuple[Scale, ...]
    levels: Levels
    cells: Any
    linear: Array
    linear_offset: float
    squares: Array
    told: Array
    ruled: tuple[Ruled, ...]
    here: Codes

    @property
    def discrete(self) -> bool:
        """Whether the likelihood is a probability, at most 1."""
        return self.response.family in ("bernoulli", "binomial", "poisson", "negative_binomial")

    @property
    def common(self) -> int:
        return len(self.coordinates.shift)

    @property
    def size(self) -> int:
        return self.common + len(self.extra) + len(self.scales)
