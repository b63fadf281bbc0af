"""The density of crossed levels from few factorisations.

What the large block says about the root is a smooth function of the large levels' ratios to sigma (`crossed`), and the
posterior of these ratios is concentrated, since large levels have many groups. So it is computed exactly at few nodes
of an ellipsoid that holds the posterior, and interpolated by polynomials whose degree rises until the log density
agrees with exact evaluations. The ellipsoid is found on the way, by low degrees on others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from bayeshlm.arrays import Array
from bayeshlm.engines.exact.crossed.density import Crossed
from bayeshlm.engines.exact.crossed.draws import LargeBlockDraws
from bayeshlm.engines.exact.crossed.moments import Moments, moments
from bayeshlm.engines.exact.crossed.polynomials import Ellipsoid, interpolant
from bayeshlm.engines.exact.density.protocol import finite
from bayeshlm.engines.exact.hyperparameters import constrain, covariance_roots, to_score
from bayeshlm.engines.sampling.modes import find_modes, root_of
from bayeshlm.errors import EngineError

TOLERANCE = 1e-4  # largest error of a log density
TRIALS = 6  # points at which it is measured
SEARCH_DEGREE = 2
REACH = 5.5  # standard deviations from the mode to the surface of the region
SHRINK, OFF_CENTRE = 0.75, 0.12  # a region is replaced that is too wide or too far off by this share
NEGLIGIBLE = 10.0  # drop in log density at the surface of the region
FEW_AXES = 2  # up to which the search makes do with its lowest degree
TRUST = 1.0  # error of a log density up to which a mode is believed
CHECKED, MAX_ERROR = 4, 0.05  # draws whose log density is checked in the end, and the error that is too much
MAX_SEARCH = 40
MAX_DEGREE, MAX_NODES = 16, 1500
CHUNK = 2048
LEAF_NUMBERS = 2**18


class NotInterpolatedError(Exception):
    """No region or no degree made the polynomials agree with the density."""


@dataclass(frozen=True)
class Axis:
    """One coordinate: asinh(standard deviation / sigma / unit), or the arc sine of a partial correlation.

    Attributes
    ----------
    index : int
        Position in theta.
    unit : float
        0 for a partial correlation. Else the smallest ratio that shows in any group: below it the coordinate is
        linear, so that 0 is an ordinary point, which nodes may even overstep (M knows squares and products only).
    """

    index: int
    unit: float


class Coordinates:
    """Maps between theta and (coordinates x of the large levels' ratios, the other scores)."""

    def __init__(self, crossed: Crossed, start: Moments) -> None:
        problem = self.problem = crossed.problem
        large = (crossed.crossing.leaf, *crossed.crossing.large)
        axes, groups, component = [], [], 0
        for index, level in enumerate(problem.levels):
            for _ in level.columns:
                if index in large:
                    axes.append(Axis(problem.residuals + component, float(start.unit[component])))
                    groups.append(level.groups)
                component += 1
        position = len(problem.scales)
        for correlation in problem.correlations:
            if correlation.level in large:
                axes += [Axis(position + j, 0.0) for j in range(correlation.partials)]
                groups += [problem.levels[correlation.level].groups] * correlation.partials
            position += correlation.partials
        self.axes, self.groups = tuple(axes), np.array(groups)
        self.others = [k for k in range(problem.size) if k not in {axis.index for axis in axes}]
        self.low = np.array([0.0 if axis.unit else -np.pi / 2 for axis in axes])

    def of_theta(self, theta: Array) -> Array:
        """Coordinates x (B, m) of theta (B, d)."""
        sigma, _, values, _ = constrain(self.problem, theta)
        out = np.empty((len(theta), len(self.axes)))
        for k, axis in enumerate(self.axes):
            if axis.unit:
                out[:, k] = np.arcsinh(values[:, axis.index] / sigma / axis.unit)
            else:
                out[:, k] = np.arcsin(2 * ndtr(theta[:, axis.index]) - 1)
        return out

    def to_theta(self, x: Array, others: Array) -> Array:
        """Scores theta (B, d) from x (B, m) and the other scores; NaN where a standard deviation has no score."""
        problem = self.problem
        theta = np.zeros((len(x), problem.size))
        theta[:, self.others] = others
        sigma = constrain(problem, theta)[0]
        for k, axis in enumerate(self.axes):
            if axis.unit:
                theta[:, axis.index] = to_score(problem.scales[axis.index], sigma * axis.unit * np.sinh(x[:, k]))
            else:
                theta[:, axis.index] = ndtri((np.sin(np.where(np.abs(x[:, k]) < np.pi / 2, x[:, k], np.nan)) + 1) / 2)
        return theta

    def ratios(self, x: Array) -> list[Array]:
        """Roots over sigma, (k, k, B) a level, at x (B, m); zero for the levels of the small block."""
        problem = self.problem
        values = np.zeros((len(x), len(problem.scales)))
        partial = np.zeros((len(x), problem.size - len(problem.scales)))
        for k, axis in enumerate(self.axes):
            if axis.unit:
                values[:, axis.index] = axis.unit * np.sinh(x[:, k])
            else:
                partial[:, axis.index - len(problem.scales)] = np.sin(x[:, k])
        return covariance_roots(problem, values, partial)


class Interpolated:
    """Stands in for `Crossed`: the same density and effects, from polynomials in the large levels' ratios.

    Raises
    ------
    NotInterpolatedError
        Where no region or degree will do; `Crossed` itself then has to be evaluated everywhere.
    """

    def __init__(self, crossed: Crossed, low: Array, high: Array, rng: np.random.Generator) -> None:
        self.crossed, self.problem = crossed, crossed.problem
        self.evaluations = 0
        self.diagnostics: dict[str, float] = {}
        self.chunk = CHUNK
        self.region = Ellipsoid(np.zeros(0), np.zeros((0, 0)))
        self.values = np.empty((0, 0))
        start = moments(self.problem)
        self.coordinates = Coordinates(crossed, start)
        self.other_low, self.other_high = low[self.coordinates.others], high[self.coordinates.others]
        self._table(self._first_region(start), SEARCH_DEGREE + (len(self.coordinates.axes) > FEW_AXES))
        self._raise_degree(*self._find_region(rng), rng)

    def _first_region(self, start: Moments) -> Ellipsoid:
        """About the estimates of the method of moments, as wide as they are uncertain."""
        c, first = self.coordinates, self.problem.residuals
        ratio = np.append(start.ratio, 0.0)
        centre = np.array([np.arcsinh(ratio[a.index - first] / a.unit) if a.unit else 0.0 for a in c.axes])
        half = np.where([a.unit > 0 for a in c.axes], np.clip(5 / np.sqrt(c.groups), 0.1, 0.5), 0.5)
        return Ellipsoid(centre, np.diag(half * np.sqrt(len(half))))

    def _table(self, region: Ellipsoid, degree: int) -> None:
        """Evaluate at the nodes of a region; those of a lower degree of the same one are kept."""
        places = region.nodes(degree)
        values = self.values if region is self.region else np.empty((0, self.crossed.width**2 + 1))
        self.region, self.degree = region, degree
        self.values = np.concatenate([values, self._exact(places[len(values) :])])
        self.interpolant = interpolant(region, degree)

    def _exact(self, x: Array) -> Array:
        """Kernels and log determinants at x (n, m), one row each."""
        if self.evaluations + len(x) > MAX_NODES:
            raise NotInterpolatedError(f"more than {MAX_NODES} factorisations would be needed")
        self.evaluations += len(x)
        schur, log_determinants = self.crossed.schur(self.coordinates.ratios(x))
        if not np.isfinite(log_determinants).all():
            raise NotInterpolatedError("the crossed levels' matrix is not positive definite")
        return np.column_stack([schur.reshape(len(x), -1), log_determinants])

    def _density(self, theta: Array, rows: Array) -> Array:
        """(log posterior, log likelihood), (2, B), given what `_exact` returns."""
        sigma, roots, _, log_prior = constrain(self.problem, theta)
        width = self.crossed.width
        with np.errstate(all="ignore"):  # absurd thetas end as -inf, which is their density
            schur = rows[:, :-1].reshape(-1, width, width)
            likelihood = finite(self.crossed.eliminate_small_block(schur, rows[:, -1], sigma, roots).log_likelihood)
            return np.stack([finite(likelihood + log_prior), likelihood])

    def log_density(self, theta: Array) -> tuple[Array, Array]:
        """(log p(y | theta) + log p(theta), log p(y | theta)) for theta (B, d); -inf outside the region."""
        out = np.full((2, len(theta)), -np.inf)
        with np.errstate(all="ignore"):
            x = self.coordinates.of_theta(theta)
        inside = np.flatnonzero(self._inside(x))
        for start in range(0, len(inside), CHUNK):
            mine = inside[start : start + CHUNK]
            out[:, mine] = self._density(theta[mine], self.interpolant.weights(x[mine]) @ self.values)
        return out[0], out[1]

    def _inside(self, x: Array) -> NDArray[np.bool_]:
        with np.errstate(all="ignore"):  # absurd thetas have no x
            return np.asarray(np.sum(self.region.unit(x) ** 2, axis=1) <= 1.0)

    def _search_density(self, z: Array) -> Array:
        """Log density of theta at z = (x, the other scores)."""
        m = len(self.coordinates.axes)
        with np.errstate(all="ignore"):
            theta = self.coordinates.to_theta(z[:, :m], z[:, m:])
            theta[~self._inside(z[:, :m])] = np.nan
        out = np.full(len(z), -np.inf)
        usable = np.isfinite(theta).all(axis=1)
        if usable.any():
            rows = self.interpolant.weights(z[usable, :m]) @ self.values
            out[usable] = self._density(theta[usable], rows)[0]
        return out

    def _search_box(self) -> tuple[Array, Array]:
        """The box about the region, with the other scores' own."""
        reach = np.linalg.norm(self.region.root, axis=1)
        low = np.maximum(self.region.centre - reach, self.coordinates.low)
        return np.append(low, self.other_low), np.append(np.maximum(self.region.centre + reach, low), self.other_high)

    def _find_region(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Move, narrow or widen the region until it holds the mode by REACH standard deviations; mode and covariance.

        A trust region: where a low degree misjudges its own mode, the region shrinks about the best point so far until
        it does not; from then on the degree rises instead. It never grows by more than half its size at a time.
        """
        c, m = self.coordinates, len(self.coordinates.axes)
        best, centre, starts = -np.inf, self.region.centre, None
        for _ in range(MAX_SEARCH):
            try:
                modes = find_modes(self._search_density, *self._search_box(), rng, starts)
            except FloatingPointError as error:
                raise NotInterpolatedError(str(error)) from error
            value, mode, curvature = modes[0]
            exact = self._density(c.to_theta(mode[None, :m], mode[None, m:]), self._exact(mode[None, :m]))[0, 0]
            if exact > best:
                best, centre = exact, mode[:m]
            if not abs(exact - value) < TRUST:
                if starts is None:
                    self._table(Ellipsoid(centre, self.region.root / 2), self.degree)
                elif self.degree < MAX_DEGREE:
                    self._table(self.region, self.degree + 1)
                else:
                    raise NotInterpolatedError(f"degree {MAX_DEGREE} misjudges its own mode")
                continue
            starts = mode[None]  # far from the mode low degrees promise the impossible: from here on climb, do not scan
            root = root_of(curvature)
            covariance = np.linalg.inv(root @ root.T)
            wanted = REACH * np.linalg.cholesky(covariance[:m, :m])
            left, growth, right = np.linalg.svd(np.linalg.solve(self.region.root, wanted))
            centred = np.linalg.norm(self.region.unit(mode[None, :m])) < OFF_CENTRE
            if centred and growth.max() < 1 + OFF_CENTRE and growth.min() > SHRINK:
                return mode, covariance
            root = self.region.root @ (left * np.clip(growth, 0.25, 1.5)) @ right
            self._table(Ellipsoid(mode[:m], root), SEARCH_DEGREE + (m > FEW_AXES))
        raise NotInterpolatedError("no region was found that holds the posterior")

    def _raise_degree(self, mode: Array, covariance: Array, rng: np.random.Generator) -> None:
        """Raise the degree until it agrees with exact evaluations about the mode; widen the region where it must."""
        c, m = self.coordinates, len(self.coordinates.axes)
        slope = np.linalg.solve(covariance[:m, :m], covariance[:m, m:])  # the other scores' mean, given x
        top = self._search_density(mode[None])[0]
        trial = mode + rng.standard_normal((TRIALS, len(mode))) @ np.linalg.cholesky(covariance).T
        trial[:, :m] = np.maximum(trial[:, :m], c.low)
        theta = c.to_theta(trial[:, :m], trial[:, m:])
        usable = np.isfinite(theta).all(axis=1)
        theta = theta[usable]
        exact = self._density(theta, self._exact(trial[usable, :m]))[0]
        theta, exact = theta[np.isfinite(exact)], exact[np.isfinite(exact)]
        while True:
            places = self.region.nodes(self.degree)
            edge = np.all(places >= c.low, axis=1) & (np.sum(self.region.unit(places) ** 2, axis=1) > 0.999)
            at_edge = c.to_theta(places[edge], mode[m:] + (places[edge] - mode[:m]) @ slope)
            known = np.isfinite(at_edge).all(axis=1)
            density = self._density(at_edge[known], self.values[edge][known])[0]
            error = np.max(np.abs(self.log_density(theta)[0] - exact), initial=0.0)
            beyond = self.region.unit(places[edge][known][density > top - NEGLIGIBLE])
            if len(beyond):  # stretch in the directions in which the density reaches over the surface
                stretch = beyond.T @ beyond
                stretch = np.eye(m) + 0.3 * stretch / np.linalg.eigvalsh(stretch)[-1]
                self._table(Ellipsoid(self.region.centre, self.region.root @ stretch), self.degree)
            elif error < TOLERANCE:
                return
            elif self.degree < MAX_DEGREE:
                self._table(self.region, self.degree + 1)
            else:
                raise NotInterpolatedError(f"degree {MAX_DEGREE} leaves errors of {error:.0g} in the log density")

    def draw_effects(
        self, theta: Array, rng: np.random.Generator, levels: int | None = None
    ) -> tuple[Array, list[Array]]:
        """As `Crossed.draw_effects`; the large block's effects from factorisations at few nodes (`LargeBlockDraws`)."""
        problem, crossed = self.problem, self.crossed
        error = self.error(theta[rng.choice(len(theta), min(CHECKED, len(theta)), replace=False)])
        if not error < MAX_ERROR:
            raise EngineError(
                f"The density of the crossed levels, interpolated, differs by {error:.2g} from its exact value at a "
                "draw: too much to believe the posterior. Another random_seed, or priors that rule out absurd standard "
                "deviations, may mend it; please report the case."
            )
        sigma, roots, _, _ = constrain(problem, theta)
        x = self.coordinates.of_theta(theta)
        batch, width = len(theta), crossed.width
        known = np.empty((width, batch))
        for start in range(0, batch, CHUNK):
            part = slice(start, start + CHUNK)
            rows = self.interpolant.weights(x[part]) @ self.values
            mine = [root[:, :, part] for root in roots]
            top = crossed.eliminate_small_block(rows[:, :-1].reshape(-1, width, width), rows[:, -1], sigma[part], mine)
            known[:, part] = crossed.draw_small_block(top, mine, rng)
        block = LargeBlockDraws(crossed, self.coordinates, x, sigma, known, rng)
        drawn = block.draw()
        self.evaluations += block.evaluations
        self.diagnostics = {
            "density_error": error, "factorisations": self.evaluations, "noise_nodes": block.noise_nodes,
            "mean_error": block.errors[0], "noise_error": block.errors[1],
        }  # fmt: skip
        betas = np.empty((batch, len(problem.common)))
        # Draws first in memory: that is how the posterior keeps them.
        effects = [np.empty((batch, len(v.columns), v.groups)).transpose(1, 2, 0) for v in problem.levels]
        leaf = problem.levels[crossed.crossing.leaf]
        step = int(np.clip(LEAF_NUMBERS // (leaf.groups * len(leaf.columns)), 16, CHUNK))
        for start in range(0, batch, step):
            part = slice(start, start + step)
            betas[part] = crossed.finish(
                sigma[part], [root[:, :, part] for root in roots], known[:, part], drawn[:, part],
                [effect[:, :, part] for effect in effects], rng,
            )  # fmt: skip
        return betas, effects[:levels]

    def modes(self, rng: np.random.Generator) -> Array:
        """Starts (n, d) for the mode search in theta."""
        m = len(self.coordinates.axes)
        found = find_modes(self._search_density, *self._search_box(), rng)
        return np.concatenate([self.coordinates.to_theta(z[None, :m], z[None, m:]) for _, z, _ in found])

    def error(self, theta: Array) -> float:
        """Largest difference to the exact log density at theta (B, d)."""
        self.evaluations += len(theta)
        exact, _ = self.crossed.log_density(theta)
        return float(np.abs(self.log_density(theta)[0] - exact).max())
