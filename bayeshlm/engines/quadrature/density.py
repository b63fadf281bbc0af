"""log p(phi, data), all effects integrated out, and draws of the effects given phi."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import log_ndtr

from bayeshlm.arrays import Array
from bayeshlm.engines.exact.hyperparameters import LIMIT, from_score, to_score
from bayeshlm.engines.quadrature.families import EXP0, INV_SD, INV_VAR, LINEAR, SECOND, SHIFT, parameters
from bayeshlm.engines.quadrature.problem import Problem
from bayeshlm.spec.priors import HALF_LOG_2PI

DROP = 22.0  # nodes end where an integrand has fallen by this in log: e^-22 = 3e-10
FINE, FINEST = 1.0, 0.5  # gaps of the density, and of what it is measured by
FINEST_DROP = 30.0
TINY, HUGE = 1e-30, 1e30  # what scores make of standard deviations is held within
SHARE = 64  # points a thread is given at a time
NEGLIGIBLE = 60.0  # below the highest log density: e^-60 of it is nothing
WORTH_THREADS = 0.02  # seconds of work left


@dataclass(frozen=True, eq=False)
class Values:
    """What points phi stand for: (B, p) common effects as sampled, (B,) extra parameters, (B, levels) scales."""

    beta: Array
    extra: dict[str, Array]
    scales: Array
    log_prior: Array


@dataclass(eq=False)
class Density:
    """The collapsed density of a problem.

    Attributes
    ----------
    problem : Problem
    start : (innermost groups,)
        Totals from which their mode is looked for, where the sampled intercept is `start_at`.
    failures : int
        Points at which the integral could not be found; their density counts as 0.
    best : float
        The highest log density seen.
    """

    problem: Problem
    start: Array = field(default_factory=lambda: np.zeros(0))
    start_at: float = 0.0
    failures: int = 0
    best: float = -np.inf

    def __post_init__(self) -> None:
        if not len(self.start):
            self.start = np.zeros(len(self.problem.cells.linear))

    def values(self, phi: Array) -> Values:
        """Natural parameters and log prior density of phi (B, d), Jacobians included."""
        problem = self.problem
        p, batch = problem.common, len(phi)
        beta = np.ascontiguousarray(phi[:, :p])
        user = problem.coordinates.to_user(beta)
        told = user @ problem.told.T
        log_prior = np.full(batch, problem.coordinates.log_volume)
        first = 0
        for block, prior in problem.blocks:
            mine = told[:, first : first + len(block.columns)]
            log_prior += prior.logpdf(mine).sum(axis=1)
            first += len(block.columns)
        scores = phi[:, p:]
        inside = np.all(np.abs(scores) < LIMIT, axis=1)
        scores = np.clip(scores, -LIMIT, LIMIT)
        found = np.empty(scores.shape)
        for k, scale in enumerate((*problem.extra, *problem.scales)):
            value, slope = from_score(scale, scores[:, k])
            found[:, k] = value
            log_prior += scale.prior.logpdf(value) + slope - 0.5 * scores[:, k] ** 2 - HALF_LOG_2PI
        extra = {scale.variable: found[:, k] for k, scale in enumerate(problem.extra)}
        log_prior = np.where(np.isnan(log_prior) | ~inside, -np.inf, log_prior)
        return Values(beta, extra, np.ascontiguousarray(found[:, len(extra) :]), log_prior)

    def log_density(self, phi: Array, *, fine: bool = False) -> Array:
        """(B,) for phi (B, d); `fine` with half the gaps, wider nodes and more of a Hermite rule."""
        from bayeshlm.engines.quadrature.compiled import log_likelihoods

        values = self.values(phi)
        out = np.full(len(phi), -np.inf)
        # Probabilities are at most 1: where the prior alone is that far down, nothing is left to look for.
        floor = self.best - NEGLIGIBLE if self.problem.discrete else -np.inf
        possible = np.flatnonzero(np.isfinite(values.log_prior) & (values.log_prior > floor))
        par, constant = self._parameters(values)
        shift = self._shift(values)
        likelihood = np.full(len(phi), np.nan)
        gap, drop = (FINEST, FINEST_DROP) if fine else (FINE, DROP)

        def part(rows: Any) -> None:
            some = np.empty(len(rows))
            log_likelihoods(
                self.problem.cells, self._tree(), values.beta[rows], par[rows], self._scales(values)[rows], self.start,
                shift[rows], gap, drop, some, np.empty(len(self.start)),
            )  # fmt: skip
            likelihood[rows] = some

        in_threads(part, possible)
        out[possible] = (likelihood + constant + values.log_prior)[possible]
        failed = np.isnan(out) | (out == np.inf)
        self.failures += int(failed.sum())
        out[failed] = -np.inf
        self.best = max(self.best, float(out.max(initial=-np.inf)))
        return out

    def draw_effects(self, phi: Array, rng: np.random.Generator) -> tuple[list[Array], Array]:
        """Per level (B, groups) effects at phi (B, d), and (B, 2) what `compiled.draw_effects` tells."""
        from bayeshlm.engines.quadrature.compiled import draw_effects

        levels, values = self.problem.levels, self.values(phi)
        par, _ = self._parameters(values)
        shift, scales = self._shift(values), self._scales(values)
        seeds = rng.integers(2**31, size=len(phi))
        first = levels.first
        outer = np.empty((len(phi), int(first[-2])))
        innermost = np.empty((len(phi), len(levels.members)))
        told = np.empty((len(phi), 2))

        def part(rows: Any) -> None:
            some = np.empty((len(rows), outer.shape[1]))
            inner = np.empty((len(rows), innermost.shape[1]))
            notes = np.empty((len(rows), 2))
            draw_effects(
                self.problem.cells, self._tree(), values.beta[rows], par[rows], scales[rows], self.start, shift[rows],
                FINEST, DROP, seeds[rows], levels.members, levels.member_first, some, inner, notes,
            )  # fmt: skip
            outer[rows], innermost[rows], told[rows] = some, inner, notes

        in_threads(part, np.arange(len(phi)))
        return [*(outer[:, first[k] : first[k + 1]] for k in range(len(first) - 2)), innermost], told

    def compression_error(self, phi: Array, totals: Array) -> Array:
        """(B,) sums over groups of the error that rules make in place of rows, at phi (B, d) and totals (B, groups).

        Groups are those of the layout.
        """
        problem, values = self.problem, self.values(phi)
        out = np.zeros(len(phi))
        if not problem.ruled:
            return out
        par, _ = self._parameters(values)
        cells = problem.cells
        groups = totals.shape[1]
        stand = np.zeros(len(cells.linear), dtype=np.int64)
        stand[problem.here] = np.arange(groups)
        for rows in problem.ruled:
            first, x, offset = (getattr(cells, f"{rows.name}_{what}") for what in ("first", "x", "o"))
            weights = np.column_stack([cells.c_k, cells.c_w]) if rows.name == "c" else getattr(cells, f"{rows.name}_w")
            of_cell = stand[np.repeat(np.arange(len(first) - 1), np.diff(first))]
            shown = np.isin(rows.group, stand)  # of equal groups one is looked at
            for b in range(len(phi)):
                both = [
                    np.bincount(group, terms(rows.name, par[b], eta + totals[b][group], w, cells.rate), groups)
                    for group, eta, w in (
                        (of_cell, x @ values.beta[b] + offset, weights),
                        (rows.group[shown], rows.x[shown] @ values.beta[b] + rows.offset[shown], rows.weights[shown]),
                    )
                ]
                out[b] += np.abs(both[0] - both[1]).sum()
        return out

    def begin_at(self, phi: Array) -> bool:
        """Look for modes from those at phi (d,) from now on; False where they could not be found."""
        from bayeshlm.engines.quadrature.compiled import log_likelihoods

        if not self.problem.scales:
            return True
        values = self.values(phi[None])
        par, _ = self._parameters(values)
        value, found = np.empty(1), np.empty(len(self.start))
        log_likelihoods(
            self.problem.cells, self._tree(), values.beta, par, self._scales(values), self.start, self._shift(values),
            FINE, DROP, value, found,
        )  # fmt: skip
        if not np.isfinite(value[0]):
            return False
        self.start, self.start_at = found, self._intercept(values)[0]
        return True

    def _tree(self) -> Any:
        from bayeshlm.engines.quadrature.likelihood import Tree

        levels = self.problem.levels
        return Tree(levels.first, levels.parent, levels.copies)

    def _scales(self, values: Values) -> Array:
        return np.clip(values.scales, TINY, HUGE)

    def _intercept(self, values: Values) -> Array:
        columns = [column for block, _ in self.problem.blocks for column in block.columns]
        return values.beta[:, columns.index(0)] if 0 in columns else np.zeros(len(values.beta))

    def _shift(self, values: Values) -> Array:
        """What totals move by when the intercept does: their sum with it is what the data know."""
        return np.asarray(self.start_at - self._intercept(values))

    def _parameters(self, values: Values) -> tuple[Array, Array]:
        """What sums are multiplied by (B, PARAMETERS), and all of the log likelihood that no effect is in (B,)."""
        problem = self.problem
        batch = len(values.beta)
        with np.errstate(all="ignore"):  # far out parameters leave the floats, and the density is 0 there
            par, constant = parameters(problem.response, values.extra, batch)
            constant = constant + par[:, LINEAR] * (values.beta @ problem.linear + problem.linear_offset)
            both = np.concatenate([values.beta, np.ones((batch, 1))], axis=1)
            constant -= 0.5 * par[:, INV_VAR] * np.einsum("bi,ij,bj->b", both, problem.squares, both, optimize=True)
        return par, constant


def terms(name: str, par: Array, eta: Array, weights: Array, rate: Array) -> Array:
    """Log likelihood of rows or cells of a kind at their linear predictors (n,), slowly."""
    if name == "s":
        return -(weights[:, 0] + par[SECOND] * weights[:, 1]) * np.logaddexp(0.0, eta - par[SHIFT])
    if name == "e":
        return np.asarray(sum(par[EXP0 + k] * weights[:, k] * np.exp(r * eta) for k, r in enumerate(rate)))
    return weights[:, 1] * log_ndtr(weights[:, 0] * eta * par[INV_SD])


def in_threads(work: Callable[[Any], None], rows: Any) -> None:
    """Do the work for rows (an index array) in pieces, each the same way whichever thread does it.

    The first piece tells whether the rest is worth a second thread.
    """
    pieces = [rows[k : k + SHARE] for k in range(0, len(rows), SHARE)]
    began = time.perf_counter()
    for done, piece in enumerate(pieces):
        work(piece)
        left = len(pieces) - done - 1
        if left > 1 and (time.perf_counter() - began) / (done + 1) * left > WORTH_THREADS:
            with ThreadPoolExecutor(_processors()) as pool:
                list(pool.map(work, pieces[done + 1 :]))
            return


@functools.cache
def _processors() -> int:
    count = getattr(os, "process_cpu_count", os.cpu_count)()  # Python 3.13 knows how many this process may use
    return int(count or 1)


def phi_of(problem: Problem, beta: Array, extra: Sequence[float], scales: Sequence[float]) -> Array:
    """Phi (d,) of common effects (p,) as the user wrote them, the family's own parameters and standard deviations."""
    scores = [
        float(to_score(scale, value))
        for scale, value in zip((*problem.extra, *problem.scales), (*extra, *scales), strict=True)
    ]
    return np.concatenate([problem.coordinates.from_user(np.asarray(beta, dtype=float)[None])[0], scores])
