"""Draws from a low-dimensional log density: mode, mixture proposal adapted until efficient, independence Metropolis.

Exact inference by Monte Carlo: the proposal only decides how many evaluations are needed. Its quality is measured
(efficiency, Pareto k) and reported, never assumed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.stats import qmc

from bayeshlm.arrays import Array
from bayeshlm.engines.sampling.modes import LogDensity, find_modes, root_of
from bayeshlm.engines.sampling.pareto import pareto_k

DEGREES = 4.0  # of the t proposals: log standard deviations have exponential tails, which any t dominates
ROUNDS = 8
MIN_PROPOSALS = 2000  # a chain: fewer do not show the weights' tail, nor outlast a long stay at one state
BATCH = 200
ATTEMPTS = 4  # at the final proposals
MAX_PARETO_K = 0.7  # above it importance sampling is unreliable (Vehtari et al. 2024, section 3.2.4)
MIN_EFFICIENCY = 0.05
PILOT = 1024  # points a round
GOOD = 0.6  # efficiency at which adaptation stops at once
FEW = 4  # rounds after which half of it will do
GOOD_PARETO_K = 0.4
BLEND = 0.1  # share of the overall spread in every component's: none can collapse onto a few points
NARROWER = 0.3  # what a proposal shrinks by, too few of whose points fell where the density is positive


@dataclass(frozen=True)
class Component:
    """A multivariate t with DEGREES degrees of freedom: location (d,), lower root of its scale matrix (d, d)."""

    weight: float
    location: Array
    root: Array

    def transform(self, normal: Array, chi_square: Array) -> Array:
        """(n, d) standard normal and (n,) chi-square numbers -> points."""
        return self.location + (normal @ self.root.T) / np.sqrt(chi_square / DEGREES)[:, None]

    def logpdf(self, points: Array) -> Array:
        d = len(self.location)
        z = np.linalg.inv(self.root) @ (points - self.location).T
        constant = (
            math.lgamma((DEGREES + d) / 2)
            - math.lgamma(DEGREES / 2)
            - d / 2 * math.log(DEGREES * math.pi)
            - float(np.log(np.diag(self.root)).sum())
        )
        return constant - (DEGREES + d) / 2 * np.log1p(np.sum(z**2, axis=0) / DEGREES)


@dataclass(frozen=True)
class Proposal:
    """A mixture of t components."""

    components: tuple[Component, ...]

    def logpdf(self, points: Array) -> Array:
        parts = [math.log(c.weight) + c.logpdf(points) for c in self.components]
        return np.asarray(np.logaddexp.reduce(parts, axis=0))

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """Independent draws."""
        d = len(self.components[0].location)
        which = rng.choice(len(self.components), count, p=[c.weight for c in self.components])
        normal, chi_square = rng.standard_normal((count, d)), rng.chisquare(DEGREES, count)
        points = np.empty((count, d))
        for k, component in enumerate(self.components):
            mine = which == k
            points[mine] = component.transform(normal[mine], chi_square[mine])
        return points


@dataclass(frozen=True)
class Draws:
    """What the sampler returns.

    Attributes
    ----------
    theta : (chains, draws, d)
    log_density : (chains, draws)
    log_weight : (proposals,)
        Log importance weights of the final, independent proposals.
    efficiency : float
        Effective share of these proposals, 1 / (1 + relative variance of the weights) (Kong 1992).
    pareto_k : float
        Shape of the weights' tail (Vehtari et al. 2024, JMLR 25(72), section 3).
    acceptance : float
    log_evidence, log_evidence_se : float
        Log of the density's integral and its Monte Carlo standard error.
    evaluations, thinning : int
    """

    theta: Array
    log_density: Array
    log_weight: Array
    efficiency: float
    pareto_k: float
    acceptance: float
    log_evidence: float
    log_evidence_se: float
    evaluations: int
    thinning: int


def sample(
    log_density: LogDensity,
    low: Array,
    high: Array,
    *,
    draws: int,
    chains: int,
    rng: np.random.Generator,
    starts: Array | None = None,
    per_draw: float = 2.0,
) -> Draws:
    """Draw from a density on R^d.

    Parameters
    ----------
    log_density : callable
        Vectorised, (n, d) -> (n,), -inf where the density is 0.
    low, high : (d,)
        Box in which the mode is looked for (the draws may leave it).
    draws, chains : int
    rng : numpy.random.Generator
    starts : (n, d), optional
        Where to climb to the modes from; without it the box is scanned.
    per_draw : float
        Effective proposals for each draw kept.

    Raises
    ------
    FloatingPointError
        If the density is 0 all over the box, or at all proposals.
    """
    evaluations = 0

    def counted(points: Array) -> Array:
        nonlocal evaluations
        evaluations += len(points)
        return log_density(points)

    proposal, efficiency = adapt(counted, laplace(find_modes(counted, low, high, rng, starts)), rng)
    for attempt in range(ATTEMPTS):
        # A chain loses draws to rejections; several proposals a kept draw win them back.
        thinning = int(np.clip(math.ceil(per_draw / max(efficiency, 1e-3)), 1, 12))
        thinning = max(thinning, math.ceil(MIN_PROPOSALS / draws))
        count = draws * thinning
        points = proposal.sample(chains * count, rng)
        values = counted(points)
        log_weight = values - proposal.logpdf(points)
        efficiency, tail = _efficiency(log_weight), pareto_k(log_weight)
        if (tail <= MAX_PARETO_K and efficiency >= MIN_EFFICIENCY) or attempt == ATTEMPTS - 1:
            break
        # So many points show corners that the pilot missed: fit the next proposal to them.
        proposal = _renewed(proposal, points, log_weight, rng, components=5 + 2 * attempt)
    if not np.isfinite(log_weight.max()):
        raise FloatingPointError("the density is 0 at all proposals about its mode")
    # Each chain starts at a draw of its own, resampled by weight from a small batch; from all proposals where none of
    # the batch has any weight.
    batch = proposal.sample(chains * BATCH, rng)
    batch_values = counted(batch)
    batch_weight = batch_values - proposal.logpdf(batch)
    starts_from = [np.arange(BATCH) + BATCH * chain for chain in range(chains)]
    dead = [not np.isfinite(batch_weight[mine].max()) for mine in starts_from]
    if any(dead):
        batch, batch_values = np.concatenate([batch, points]), np.concatenate([batch_values, values])
        batch_weight = np.concatenate([batch_weight, log_weight])
        starts_from = [
            np.arange(chains * BATCH, len(batch)) if gone else mine
            for mine, gone in zip(starts_from, dead, strict=True)
        ]
    chosen = np.array([rng.choice(mine, p=_normalised(batch_weight[mine])) for mine in starts_from])
    start, start_values, start_weight = batch[chosen], batch_values[chosen], batch_weight[chosen]
    index, accepted = _metropolis(log_weight.reshape(chains, count), start_weight, rng)
    kept = index[:, thinning - 1 :: thinning]
    pool = np.concatenate([points, start])
    pool_values = np.concatenate([values, start_values])
    place = np.where(kept >= 0, np.arange(chains)[:, None] * count + kept, len(points) + np.arange(chains)[:, None])
    top = log_weight.max()
    relative = np.exp(log_weight - top)
    mean = relative.mean()
    return Draws(
        pool[place], pool_values[place], log_weight, efficiency, tail, accepted,
        float(top + np.log(mean)), float(relative.std() / mean / math.sqrt(len(relative))), evaluations, thinning,
    )  # fmt: skip


def laplace(modes: list[tuple[float, Array, Array]]) -> Proposal:
    """A t at every mode with its curvature, weighted by the mass that Laplace's method gives it."""
    roots = [np.linalg.inv(root_of(curvature)).T for _, _, curvature in modes]
    mass = np.array([value + np.linalg.slogdet(r)[1] for (value, _, _), r in zip(modes, roots, strict=True)])
    weight = np.maximum(_normalised(mass), 0.05)
    weight /= weight.sum()
    # inv(root)' is an upper root of the covariance; the components want the lower one.
    lower = [np.linalg.cholesky(r @ r.T) for r in roots]
    return Proposal(tuple(
        Component(float(w), mode, root) for w, (_, mode, _), root in zip(weight, modes, lower, strict=True)
    ))  # fmt: skip


def adapt(log_density: LogDensity, proposal: Proposal, rng: np.random.Generator) -> tuple[Proposal, float]:
    """Rounds of a mixture refitted to all points so far (deterministic-mixture weights).

    Returns
    -------
    proposal : Proposal
        The one with the best efficiency seen.
    efficiency : float

    References
    ----------
    Cornuet, Marin, Mira, Robert (2012), Scandinavian J. of Statistics 39(4): adaptive multiple importance sampling.
    """
    proposals, points, densities = [], np.empty((0, len(proposal.components[0].location))), np.empty(0)
    best = (-math.inf, 0.0, proposal)
    for _ in range(ROUNDS):
        proposals.append(proposal)
        new = _quasi(proposal, PILOT, rng)
        new_density = log_density(new)
        weight = new_density - proposal.logpdf(new)
        efficiency, tail = _efficiency(weight), pareto_k(weight)
        merit = efficiency - max(tail - GOOD_PARETO_K, 0.0)  # a heavy tail makes the efficiency seen an accident
        if merit > best[0]:
            best = (merit, efficiency, proposal)
        points, densities = np.concatenate([points, new]), np.concatenate([densities, new_density])
        mixture = np.logaddexp.reduce([p.logpdf(points) for p in proposals], axis=0) - math.log(len(proposals))
        if merit >= GOOD or (len(proposals) >= FEW and best[0] >= GOOD / 2):
            break
        proposal = _renewed(proposal, points, densities - mixture, rng)
    return best[2], best[1]


def _quasi(proposal: Proposal, count: int, rng: np.random.Generator) -> Array:
    """Scrambled Sobol points pushed through each component in proportion to its weight."""
    d = len(proposal.components[0].location)
    parts = []
    for component in proposal.components:
        share = max(round(count * component.weight), 2)
        u = qmc.Sobol(d + 1, rng=rng).random_base2(math.ceil(math.log2(share)))[:share]
        u = np.clip(u, 1e-12, 1 - 1e-12)
        parts.append(component.transform(special.ndtri(u[:, :d]), special.chdtri(DEGREES, 1 - u[:, d])))
    return np.concatenate(parts)


def _renewed(
    proposal: Proposal, points: Array, log_weight: Array, rng: np.random.Generator, components: int = 3
) -> Proposal:
    """The next proposal: refitted to the points, or this one narrower where too few have any weight to tell a shape."""
    if np.count_nonzero(np.isfinite(log_weight)) > 2 * points.shape[1]:
        return _refit(points, log_weight, rng, components)
    return Proposal(tuple(Component(c.weight, c.location, NARROWER * c.root) for c in proposal.components))


def _refit(points: Array, log_weight: Array, rng: np.random.Generator, components: int = 3) -> Proposal:
    """A t mixture fitted to weighted points by a few steps of EM, started at points drawn by their weight.

    One component starts where the weights are largest, which is where the last proposal had too little mass.

    References
    ----------
    Cappe et al. (2008), Statistics and Computing 18, section 3 (mixture population Monte Carlo, t components).
    """
    d = points.shape[1]
    weight = _normalised(log_weight)
    mean = weight @ points
    spread = ((points - mean).T * weight) @ (points - mean)
    floor = 1e-6 * np.diag(np.maximum(np.diag(spread), 1e-12))
    whole = np.linalg.cholesky(spread + floor)
    centres = points[rng.choice(len(points), components - 1, p=weight)]
    heaviest = np.argsort(log_weight)[-max(len(points) // 200, 5) :]
    centres = np.concatenate([centres, points[heaviest].mean(axis=0)[None]])
    fitted = [Component(0.5, mean, whole)]
    fitted += [Component(0.5 / components, centre, 0.5 * whole) for centre in centres]
    for _ in range(12):
        log_parts = np.stack([math.log(c.weight) + c.logpdf(points) for c in fitted])
        responsibility = np.exp(log_parts - np.logaddexp.reduce(log_parts, axis=0)) * weight
        renewed = []
        for component, share in zip(fitted, responsibility, strict=True):
            total = share.sum()
            if total < 0.01:  # too few points to fit a covariance: let the others take over
                continue
            z = np.linalg.inv(component.root) @ (points - component.location).T
            latent = share * (DEGREES + d) / (DEGREES + np.sum(z**2, axis=0))
            location = latent @ points / latent.sum()
            deviation = points - location
            covariance = (1 - BLEND) * (deviation.T * latent) @ deviation / total + BLEND * spread + floor
            renewed.append(Component(total, location, np.linalg.cholesky(covariance)))
        sizes = sum(component.weight for component in renewed)
        fitted = [Component(c.weight / sizes, c.location, c.root) for c in renewed]
    # A wide component of its own keeps the weights bounded where no pilot point happened to fall.
    fitted = [Component(0.9 * c.weight, c.location, c.root) for c in fitted]
    return Proposal((*fitted, Component(0.1, mean, 2.0 * whole)))


def _metropolis(log_weight: Array, start: Array, rng: np.random.Generator) -> tuple[NDArray[np.int64], float]:
    """Independence Metropolis over given proposals: index of the state after each (-1 the start), acceptance rate."""
    chains, count = log_weight.shape
    threshold = np.log(rng.uniform(size=(chains, count)))
    index = np.empty((chains, count), dtype=np.int64)
    accepted = 0
    for chain in range(chains):
        current, state = float(start[chain]), -1
        weights, limits = log_weight[chain].tolist(), threshold[chain].tolist()
        states = []
        for k in range(count):
            if limits[k] < weights[k] - current:
                current, state = weights[k], k
                accepted += 1
            states.append(state)
        index[chain] = states
    return index, accepted / (chains * count)


def _normalised(log_weight: Array) -> Array:
    weight = np.exp(log_weight - log_weight.max())
    return np.asarray(weight / weight.sum())


def _efficiency(log_weight: Array) -> float:
    if not np.isfinite(log_weight.max()):
        return 0.0
    weight = _normalised(log_weight)
    return float(1.0 / (len(weight) * np.sum(weight**2)))
