"""The numeric problem behind a model and its statistics, and the hyperparameters it leaves to be sampled: records."""

from __future__ import annotations

from dataclasses import dataclass

from bayeshlm.arrays import Array, Codes
from bayeshlm.engines.exact.density.residuals import Split
from bayeshlm.spec.priors import LKJ, Prior


@dataclass(frozen=True)
class Scale:
    """One standard deviation: its variable, its position in it, its prior and a typical size."""

    variable: str
    position: int
    prior: Prior
    size: float


@dataclass(frozen=True)
class Correlation:
    """One correlated set of effects: level, positions among the level's effects, LKJ prior."""

    level: int
    positions: tuple[int, ...]
    prior: LKJ

    @property
    def partials(self) -> int:
        return len(self.positions) * (len(self.positions) - 1) // 2


@dataclass(frozen=True, eq=False)
class Recentred:
    """A correlated set whose theta speaks of the effects of centred columns.

    With x far from 0 (a year), the intercept at x = 0 and the slope of a group are all but perfectly correlated, and
    the posterior of their standard deviations and correlation is a hair's breadth wide. At the mean of x it is not.

    Attributes
    ----------
    correlation : Correlation
    scale : int
        Index of the intercept's standard deviation, the only one that differs.
    turn : (k, k)
        Effects in the user's coordinates = turn @ those of the centred columns; its determinant is 1.
    """

    correlation: Correlation
    scale: int
    turn: Array


@dataclass(frozen=True)
class ProblemLevel:
    """A level in numbers.

    Attributes
    ----------
    columns : tuple of int
        Its k effects' columns among (1, columns, y).
    centring : (k, k)
        Effects of the centred columns = centring @ effects of the columns as the user wrote them.
    parent : (groups,) int
        Group of the level above (zeros on the outermost, and where levels are crossed).
    """

    columns: tuple[int, ...]
    centring: Array
    parent: Codes
    groups: int


@dataclass(frozen=True)
class Problem:
    """Cross products and priors, in centred coordinates.

    Columns are (1, design columns, y). A column is centred where every block that uses it has an intercept to absorb
    the shift; the shift then moves into the blocks' coordinates: ``beta_centred = centring @ beta - offset``, exactly.

    Attributes
    ----------
    levels : outermost first (where crossed: the smallest first); `level_index` tells which level of the layout each is.
    weight, mean, scatter : per innermost group (one entry in all where there are no levels; per cell of `split`, and
        where levels are crossed), y less the fit of `within_fit`, which `offset` adds back to the common effects.
    common : tuple of int
        Columns of the common effects.
    centring : (p, p), offset : (p,)
    precision, prior_mean : (p, p), (p,)
        Of the common effects in centred coordinates; 0 where flat.
    log_prior_determinant : float
        log |precision| of the proper part, minus p_flat log 2 pi, so that the evidence is right.
    residuals : int
        Number of residual standard deviations: 0 where they are known, one, or one a category of a factor.
    split : Split or None
        The cells, where sigma differs by a factor.
    codes : (cells, levels) int, or None
        Group of each cell on each level, where levels are crossed; None where they are nested.
    """

    levels: tuple[ProblemLevel, ...]
    level_index: tuple[int, ...]
    weight: Array
    mean: Array
    scatter: Array
    rows: int
    constant: float
    common: tuple[int, ...]
    centring: Array
    offset: Array
    precision: Array
    prior_mean: Array
    log_prior_determinant: float
    scales: tuple[Scale, ...]
    correlations: tuple[Correlation, ...]
    residuals: int
    split: Split | None = None
    codes: Codes | None = None
    recentred: tuple[Recentred, ...] = ()

    @property
    def known_sigma(self) -> bool:
        """Whether the standard errors are known, so that there is no sigma to sample."""
        return self.residuals == 0

    @property
    def size(self) -> int:
        """Number of hyperparameters."""
        return len(self.scales) + sum(c.partials for c in self.correlations)

    @property
    def width(self) -> int:
        """Number of columns (1, design columns, y)."""
        return int(self.mean.shape[1]) + 1
