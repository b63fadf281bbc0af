"""Draws of the large block's effects at many thetas from factorisations at few.

Given the small block's effects, the large block's are u = G(-r, 1) + sigma L chol^-T xi, G = L chol^-T whitened.
For given standard normal numbers xi all of it is smooth in the large levels' ratios to sigma, so that
each draw is interpolated from the nodes of an ellipsoid about the draws, every node solving for all draws at once. The
degree rises until draws whose exact factorisation is computed come out right. A node costs a triangular solve a draw
for the noise and next to nothing for G, which therefore gets the higher degree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import blas

from bayeshlm.arrays import Array
from bayeshlm.engines.exact.crossed.density import Crossed, LargeBlock
from bayeshlm.engines.exact.crossed.polynomials import Ellipsoid, Interpolant, interpolant

if TYPE_CHECKING:
    from bayeshlm.engines.exact.crossed.interpolated import Coordinates

MEAN_TOLERANCE, NOISE_TOLERANCE = (
    1e-5,
    3e-4,
)  # largest errors of an effect's conditional mean, and of its draw about it,
# in standard deviations: the mean's is the same for all draws alike, the noise's is as random as the noise
TRIALS = 3
FIRST_DEGREE, MAX_DEGREE = 2, 12
CHUNK = 512  # right-hand sides at once
KEPT_BYTES = 2**30  # of factorisations


class LargeBlockDraws:
    """Draws for theta's ratios x (B, m), sigma (B,) and the small block's effects `known` (r, B).

    Attributes
    ----------
    errors : list of float
        Largest errors found of the conditional means and of the noise, in standard deviations.
    evaluations, noise_nodes : int
        Factorisations made, and the nodes that solved for all draws.
    """

    def __init__(
        self, crossed: Crossed, coordinates: Coordinates, x: Array, sigma: Array, known: Array,
        rng: np.random.Generator,
    ) -> None:  # fmt: skip
        self.crossed, self.coordinates = crossed, coordinates
        self.x, self.sigma, self.known = x, sigma, known
        # (n, B), each draw contiguous
        self.xi = rng.standard_normal((len(x), crossed.crossing.large_size)).T
        centre, spread = x.mean(axis=0), np.atleast_2d(np.cov(x.T)) if len(x) > 1 else np.zeros((x.shape[1],) * 2)
        root = np.linalg.cholesky(spread + np.diag(np.maximum(np.diag(spread), 1e-12)) * 1e-6)
        reach = np.linalg.norm(np.linalg.solve(root, (x - centre).T), axis=0).max()
        self.region = Ellipsoid(centre, 1.01 * max(reach, 1.0) * root)
        self.trials = rng.choice(len(x), min(TRIALS, len(x)), replace=False)
        self.evaluations, self.errors = 0, [np.inf, np.inf]
        self.blocks: list[LargeBlock | None] = []

    def draw(self) -> Array:
        """(n, B), as the user wrote the effects."""
        trials, sigma = self.trials, self.sigma[self.trials]
        exact = [self._at(self.x[t : t + 1]) for t in trials]
        # Means and noises of the trials, (2, trials, n), exactly; the noise's size is the effects' sd given theta.
        wanted = np.stack([
            [-self._mean(*at) @ self.known[:, t] for t, at in zip(trials, exact, strict=True)],
            [s * self._noise(*at, self.xi[:, [t]])[:, 0] for t, s, at in zip(trials, sigma, exact, strict=True)],
        ])  # fmt: skip
        sd = np.sqrt(np.mean(wanted[1] ** 2, axis=1, keepdims=True))
        means: list[Array] = []
        noises: list[Array] = []
        rules: dict[int, Interpolant] = {}
        for degree in range(FIRST_DEGREE, MAX_DEGREE + 1):
            for place in self.region.nodes(degree)[len(means) :]:
                block, ratios = self._at(place[None])
                self._keep(block)
                means.append(self._mean(block, ratios))
                noises.append(self._noise(block, ratios, self.xi[:, trials]))
            rule = interpolant(self.region, degree)
            weights = rule.weights(self.x[trials])  # (trials, nodes)
            found = np.stack([
                -np.einsum("tj,jnr,rt->tn", weights, np.stack(means), self.known[:, trials], optimize=True),
                sigma[:, None] * np.einsum("tj,jnt->tn", weights, np.stack(noises)),
            ])  # fmt: skip
            errors = np.abs((found - wanted) / sd).max(axis=(1, 2))
            for kind, tolerance in enumerate((MEAN_TOLERANCE, NOISE_TOLERANCE)):
                if kind not in rules and (errors[kind] < tolerance or degree == MAX_DEGREE):
                    rules[kind] = rule
                    self.errors[kind] = errors[kind]
            if len(rules) == 2:
                break
        self.noise_nodes = len(rules[1].inverse)
        return self._interpolate(rules[0].weights(self.x), rules[1].weights(self.x), means, degree)

    def _at(self, place: Array) -> tuple[LargeBlock, list[Array]]:
        self.evaluations += 1
        ratios = [ratio[:, :, 0] for ratio in self.coordinates.ratios(place)]
        return self.crossed.large_block(ratios), ratios

    def _keep(self, block: LargeBlock) -> None:
        room = (len(self.blocks) + 1) * block.chol.nbytes <= KEPT_BYTES
        self.blocks.append(block if room else None)

    def _mean(self, block: LargeBlock, ratios: list[Array]) -> Array:
        """G (n, r)."""
        return self.crossed.apply_large_block(
            ratios, blas.dtrsm(1.0, block.chol, block.whitened, lower=1, trans_a=1), lifted=False
        )

    def _noise(self, block: LargeBlock, ratios: list[Array], xi: Array) -> Array:
        """L chol^-T xi."""
        return self.crossed.apply_large_block(ratios, blas.dtrsm(1.0, block.chol, xi, lower=1, trans_a=1), lifted=False)

    def _interpolate(self, mean_weights: Array, noise_weights: Array, means: list[Array], degree: int) -> Array:
        batch = len(self.x)
        out = np.empty((len(self.xi), batch), order="F")
        stacked = np.concatenate(means[: mean_weights.shape[1]], axis=1)  # (n, nodes * r)
        for start in range(0, batch, CHUNK):
            part = slice(start, start + CHUNK)
            known = -mean_weights[part].T[:, None] * self.known[:, part]
            out[:, part] = stacked @ known.reshape(stacked.shape[1], -1)
        noise_weights = noise_weights * self.sigma[:, None]
        for j, place in enumerate(self.region.nodes(degree)[: noise_weights.shape[1]]):
            block = self.blocks[j] or self._at(place[None])[0]
            ratios = [ratio[:, :, 0] for ratio in self.coordinates.ratios(place[None])]
            for start in range(0, batch, CHUNK):
                part = slice(start, start + CHUNK)
                scaled = self.xi[:, part] * noise_weights[part, j]
                solved = blas.dtrsm(1.0, block.chol, scaled, lower=1, trans_a=1, overwrite_b=1)
                self.crossed.add_large_block(ratios, solved, out[:, part])
        return out
