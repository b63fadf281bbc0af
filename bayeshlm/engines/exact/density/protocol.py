"""What samplers, fits and whoever works on a posterior ask of a collapsed density, whatever its levels are like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.engines.exact.hyperparameters import constrain
from bayeshlm.engines.exact.problem import Problem


@dataclass(frozen=True)
class Upper:
    """A level above the innermost, kept for the way down: pseudo-observations (k, c, groups, B) and R."""

    rows: Array
    factor: Array


@dataclass(frozen=True)
class Sweep:
    """A batch of thetas with all effects integrated out.

    Attributes
    ----------
    log_likelihood : (B,)
        log p(y | theta), normalising constants and Jacobian of the response included.
    information : (B, p, p), score : (B, p)
        Posterior precision of the centred common effects, and precision times mean.
    uppers : tuple of Upper
        Of nested levels, outermost first (only where asked for).
    """

    log_likelihood: Array
    information: Array
    score: Array
    uppers: tuple[Upper, ...]


class Density(Protocol):
    """log p(y | theta) with all effects integrated out, and draws of the effects.

    Implemented for nested levels (`density.nested.Marginal`), for crossed ones (`crossed.density.Crossed`; either with
    one residual standard deviation or several) and, for large crossed levels, by polynomials that agree with it
    (`crossed.interpolated.Interpolated`). `density.bind` chooses.
    """

    problem: Problem

    @property
    def chunk(self) -> int:
        """How many thetas keep the working arrays in cache; longer batches are cut into such ones."""

    @property
    def diagnostics(self) -> dict[str, float]:
        """Numbers about the draws of the effects, for the posterior's attrs; complete once they are drawn."""

    def log_density(self, theta: Array) -> tuple[Array, Array]:
        """(log p(y | theta) + log p(theta), log p(y | theta)), (B,) each, for theta (B, d).

        -inf where it cannot be evaluated.
        """

    def draw_effects(
        self, theta: Array, rng: np.random.Generator, levels: int | None = None
    ) -> tuple[Array, list[Array]]:
        """Draw the common effects and those of the first `levels` of `problem.levels` (default all), once per theta.

        Returns
        -------
        beta : (B, p)
            Common effects as the user wrote them.
        effects : per level, (k, groups, B)
        """


class ExactDensity(Density, Protocol):
    """A density that is evaluated as it stands, so that what it says about the common effects is at hand, too."""

    def sweep(self, sigma: Array, roots: list[Array]) -> Sweep:
        """Integrate all effects out, for a batch: `sigma` (B,) or (B, parts), `roots` per level (k, k, B)."""


def in_chunks(
    problem: Problem, theta: Array, chunk: int, log_likelihood: Callable[[Array, list[Array]], Array]
) -> tuple[Array, Array]:
    """`Density.log_density` from a function of sigma (B,) or (B, parts) and roots, per level (k, k, B)."""
    posterior, likelihood = np.empty(len(theta)), np.empty(len(theta))
    for start in range(0, len(theta), chunk):
        part = slice(start, start + chunk)
        sigma, roots, _, log_prior = constrain(problem, theta[part])
        with np.errstate(all="ignore"):  # overflow at absurd thetas ends as -inf below, which is their density
            likelihood[part] = finite(log_likelihood(sigma, roots))
            posterior[part] = finite(likelihood[part] + log_prior)
    return posterior, likelihood


def finite(values: Array) -> Array:
    """Values, -inf in place of what is not finite."""
    return np.where(np.isfinite(values), values, -np.inf)
