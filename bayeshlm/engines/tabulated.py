"""The density of crossed levels from few factorisations.

What the bulk says about the root is a smooth function of the large levels' ratios to sigma (`crossed`), and the
posterior of these ratios is concentrated, since large levels have many groups. So it is computed exactly at few nodes
of a box that holds the posterior, and interpolated by polynomials whose degree rises until the log density agrees with
exact evaluations. The box is found on the way, by low degrees on wider boxes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from bayeshlm.engines import importance
from bayeshlm.engines.base import constrain, covariance_roots, to_score
from bayeshlm.engines.bulkdraws import BulkDraws
from bayeshlm.engines.crossed import Crossed, finite
from bayeshlm.engines.moments import Moments, moments
from bayeshlm.engines.polynomials import interpolant, nodes

Array = NDArray[np.float64]
TOLERANCE = 1e-5  # largest error of a log density
TRIALS, TRIAL_SPREAD = 6, 1.0  # points at which it is measured, and their spread over the posterior's
SEARCH_DEGREE = 2
REACH = 5.5  # standard deviations from a mode to the sides of the box
SHRINK = 0.75  # a box that is wanted this much narrower is replaced
NEGLIGIBLE = 12.0  # drop in log density at the faces of the box
MAX_SEARCH = 25
MAX_NODES = 2000
MAX_PARTIAL = 0.9999
CHUNK = 2048
LEAF_NUMBERS = 2**18


class NotTabulated(Exception):
    """No box or no degree made the polynomials agree with the density."""


@dataclass(frozen=True)
class Axis:
    """One coordinate: asinh(standard deviation / sigma / unit), or a partial correlation.

    Attributes
    ----------
    index : int
        Position in theta.
    unit : float
        0 for a partial correlation. Else the smallest ratio that shows in any group: below it the coordinate is
        linear, so that 0 is an ordinary point.
    """

    index: int
    unit: float

    @property
    def limits(self) -> tuple[float, float]:
        return (0.0, 30.0) if self.unit else (-MAX_PARTIAL, MAX_PARTIAL)


class Coordinates:
    """Maps between theta and (coordinates x of the large levels' ratios, the other scores)."""

    def __init__(self, crossed: Crossed, start: Moments) -> None:
        problem = self.problem = crossed.problem
        large = (crossed.crossing.leaf, *crossed.crossing.bulk)
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
        self.low, self.high = np.array([axis.limits for axis in axes]).T

    def of_theta(self, theta: Array) -> Array:
        """X (B, m) of theta (B, d)."""
        sigma, _, values, _ = constrain(self.problem, theta)
        out = np.empty((len(theta), len(self.axes)))
        for k, axis in enumerate(self.axes):
            if axis.unit:
                out[:, k] = np.arcsinh(values[:, axis.index] / sigma / axis.unit)
            else:
                out[:, k] = 2 * ndtr(theta[:, axis.index]) - 1
        return out

    def to_theta(self, x: Array, others: Array) -> Array:
        """Theta (B, d) from x (B, m) and the other scores; NaN where a standard deviation has no score."""
        problem = self.problem
        theta = np.zeros((len(x), problem.size))
        theta[:, self.others] = others
        sigma = constrain(problem, theta)[0]
        for k, axis in enumerate(self.axes):
            if axis.unit:
                theta[:, axis.index] = to_score(problem.scales[axis.index], sigma * axis.unit * np.sinh(x[:, k]))
            else:
                theta[:, axis.index] = ndtri((x[:, k] + 1) / 2)
        return theta

    def ratios(self, x: Array) -> list[Array]:
        """Roots over sigma, (k, k, B) a level, at x (B, m); zero for the levels of the root."""
        problem = self.problem
        values = np.zeros((len(x), len(problem.scales)))
        partial = np.zeros((len(x), problem.size - len(problem.scales)))
        for k, axis in enumerate(self.axes):
            if axis.unit:
                values[:, axis.index] = axis.unit * np.sinh(x[:, k])
            else:
                partial[:, axis.index - len(problem.scales)] = x[:, k]
        return covariance_roots(problem, values, partial)


class Tabulated:
    """Stands in for `Crossed`: the same density and effects, from polynomials in the large levels' ratios.

    Raises
    ------
    NotTabulated
        Where no box or degree will do; `Crossed` itself then has to be evaluated everywhere.
    """

    def __init__(self, crossed: Crossed, low: Array, high: Array, rng: np.random.Generator) -> None:
        self.crossed, self.problem = crossed, crossed.problem
        self.evaluations = 0
        start = moments(self.problem)
        self.coordinates = Coordinates(crossed, start)
        self.other_low, self.other_high = low[self.coordinates.others], high[self.coordinates.others]
        self._table(*self._first_box(start), SEARCH_DEGREE)
        modes = self._find_box(rng)
        self._raise_degree(*modes, rng)

    def _first_box(self, start: Moments) -> tuple[Array, Array]:
        """About the estimates of the method of moments, as wide as they are uncertain."""
        c = self.coordinates
        ratio = np.append(start.ratio, 0.0)
        first = self.problem.residuals
        centre = np.array([np.arcsinh(ratio[a.index - first] / a.unit) if a.unit else 0.0 for a in c.axes])
        half = np.array([1.0 if a.unit else 0.9 for a in c.axes]) * np.clip(5 / np.sqrt(c.groups), 0.1, 0.8)
        half = np.where([a.unit > 0 for a in c.axes], half, 0.9)
        return np.maximum(centre - half, c.low), np.minimum(centre + half, c.high)

    def _table(self, low: Array, high: Array, degree: int) -> None:
        """Evaluate at the nodes of a box; those of a lower degree on the same box are kept."""
        same = hasattr(self, "values") and np.array_equal(low, self.low) and np.array_equal(high, self.high)
        places = nodes(low, high, degree)
        values = self.values if same else np.empty((0, self.crossed.width**2 + 1))
        self.low, self.high, self.degree = low, high, degree
        self.values = np.concatenate([values, self._exact(places[len(values) :])])
        self.interpolant = interpolant(low, high, degree)

    def _exact(self, x: Array) -> Array:
        """Kernels and log determinants at x (n, m), one row each."""
        if self.evaluations + len(x) > MAX_NODES:
            raise NotTabulated(f"more than {MAX_NODES} factorisations would be needed")
        self.evaluations += len(x)
        try:
            kernels, log_determinants = self.crossed.kernels(self.coordinates.ratios(x))
        except np.linalg.LinAlgError as error:
            raise NotTabulated(str(error)) from error
        return np.column_stack([kernels.reshape(len(x), -1), log_determinants])

    def _density(self, theta: Array, rows: Array) -> Array:
        """(log posterior, log likelihood), (2, B), given what `_exact` returns."""
        sigma, roots, _, log_prior = constrain(self.problem, theta)
        width = self.crossed.width
        with np.errstate(all="ignore"):  # absurd thetas end as -inf, which is their density
            kernels = rows[:, :-1].reshape(-1, width, width)
            likelihood = self.crossed.root_log_likelihood(kernels, rows[:, -1], sigma, roots)
            return np.stack([finite(likelihood + log_prior), likelihood])

    def log_density(self, theta: Array) -> tuple[Array, Array]:
        """(log p(y | theta) + log p(theta), log p(y | theta)) for theta (B, d); -inf outside the box."""
        out = np.full((2, len(theta)), -np.inf)
        with np.errstate(all="ignore"):
            x = self.coordinates.of_theta(theta)
        inside = np.flatnonzero(np.all((x >= self.low) & (x <= self.high), axis=1))
        for start in range(0, len(inside), CHUNK):
            mine = inside[start : start + CHUNK]
            out[:, mine] = self._density(theta[mine], self.interpolant.weights(x[mine]) @ self.values)
        return out[0], out[1]

    def _search_density(self, z: Array) -> Array:
        """Log density of theta at z = (x, the other scores)."""
        m = len(self.coordinates.axes)
        with np.errstate(all="ignore"):
            theta = self.coordinates.to_theta(z[:, :m], z[:, m:])
        out = np.full(len(z), -np.inf)
        usable = np.isfinite(theta).all(axis=1)
        if usable.any():
            rows = self.interpolant.weights(z[usable, :m]) @ self.values
            out[usable] = self._density(theta[usable], rows)[0]
        return out

    def _find_box(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Move and narrow the box until it holds the modes by REACH standard deviations; the mode and covariance."""
        c, m = self.coordinates, len(self.coordinates.axes)
        for _ in range(MAX_SEARCH):
            low, high = np.append(self.low, self.other_low), np.append(self.high, self.other_high)
            try:
                modes = importance.find_modes(self._search_density, low, high, rng)
            except FloatingPointError as error:
                raise NotTabulated(str(error)) from error
            wanted_low, wanted_high = np.full(m, np.inf), np.full(m, -np.inf)
            covariances = []
            for _, mode, curvature in modes:
                covariances.append(np.linalg.inv(importance.root_of(curvature) @ importance.root_of(curvature).T))
                sd = np.sqrt(np.diag(covariances[-1]))[:m]
                wanted_low = np.minimum(wanted_low, mode[:m] - REACH * sd)
                wanted_high = np.maximum(wanted_high, mode[:m] + REACH * sd)
            width = self.high - self.low
            at_edge = (modes[0][1][:m] < self.low + 0.02 * width) & (self.low > c.low)
            at_edge |= (modes[0][1][:m] > self.high - 0.02 * width) & (self.high < c.high)
            # What a low degree says about far outside its box is not to be trusted: grow step by step.
            wanted_low = np.maximum(np.maximum(wanted_low, self.low - width), c.low)
            wanted_high = np.minimum(np.minimum(wanted_high, self.high + width), c.high)
            slack = 0.05 * width
            holds = (self.low <= wanted_low + slack) & (self.high >= wanted_high - slack)
            if not at_edge.any() and np.all(holds & (wanted_high - wanted_low >= SHRINK * width)):
                return modes[0][1], covariances[0]
            centre, half = (wanted_low + wanted_high) / 2, np.maximum(wanted_high - wanted_low, 1e-6) / 2
            half = np.where(at_edge, np.maximum(half, width), half * 1.05)
            self._table(np.maximum(centre - half, c.low), np.minimum(centre + half, c.high), SEARCH_DEGREE)
        raise NotTabulated("no box was found that holds the posterior")

    def _raise_degree(self, mode: Array, covariance: Array, rng: np.random.Generator) -> None:
        """Raise the degree until it agrees with exact evaluations about the mode; widen the box where faces matter."""
        c, m = self.coordinates, len(self.coordinates.axes)
        slope = np.linalg.solve(covariance[:m, :m], covariance[:m, m:])  # the other scores' mean, given x
        top = self._search_density(mode[None])[0]
        trial = mode + TRIAL_SPREAD * rng.standard_normal((TRIALS, len(mode))) @ np.linalg.cholesky(covariance).T
        trial[:, :m] = np.clip(trial[:, :m], self.low, self.high)
        trial = trial[np.isfinite(c.to_theta(trial[:, :m], trial[:, m:])).all(axis=1)]
        theta = c.to_theta(trial[:, :m], trial[:, m:])
        exact = self._density(theta, self._exact(trial[:, :m]))[0]
        theta, exact = theta[np.isfinite(exact)], exact[np.isfinite(exact)]
        while True:
            places = nodes(self.low, self.high, self.degree)
            at_nodes = c.to_theta(places, mode[m:] + (places - mode[:m]) @ slope)
            usable = np.isfinite(at_nodes).all(axis=1)
            density = np.full(len(places), -np.inf)
            density[usable] = self._density(at_nodes[usable], self.values[usable])[0]
            low, high = self._where_faces_matter(places, density, top)
            error = np.max(np.abs(self.log_density(theta)[0] - exact), initial=0.0)
            if np.any(low < self.low) or np.any(high > self.high):
                self._table(low, high, self.degree)
            elif error < TOLERANCE:
                return
            else:
                self._table(self.low, self.high, self.degree + 1)

    def _where_faces_matter(self, places: Array, density: Array, top: float) -> tuple[Array, Array]:
        """The box, widened on the sides where the density at a face is not negligible."""
        c, width = self.coordinates, self.high - self.low
        matters = density > top - NEGLIGIBLE
        low, high = self.low.copy(), self.high.copy()
        for k in range(len(width)):
            if np.any(matters & (places[:, k] < self.low[k] + 1e-6 * width[k])):
                low[k] = max(c.low[k], low[k] - 0.3 * width[k])
            if np.any(matters & (places[:, k] > self.high[k] - 1e-6 * width[k])):
                high[k] = min(c.high[k], high[k] + 0.3 * width[k])
        return low, high

    def draw_effects(self, theta: Array, rng: np.random.Generator) -> tuple[Array, list[Array]]:
        """As `Crossed.draw_effects`; the bulk's effects from factorisations at few nodes (`BulkDraws`)."""
        problem, crossed = self.problem, self.crossed
        sigma, roots, _, _ = constrain(problem, theta)
        x = self.coordinates.of_theta(theta)
        batch, width = len(theta), crossed.width
        known = np.empty((width, batch))
        for start in range(0, batch, CHUNK):
            part = slice(start, start + CHUNK)
            rows = self.interpolant.weights(x[part]) @ self.values
            mine = [root[:, :, part] for root in roots]
            top = crossed.eliminate_root(rows[:, :-1].reshape(-1, width, width), rows[:, -1], sigma[part], mine)
            known[:, part] = crossed.draw_root(top, mine, rng)
        bulk = BulkDraws(crossed, self.coordinates, x, sigma, known, rng)
        drawn = bulk.draw()
        self.draw_errors, self.evaluations = bulk.errors, self.evaluations + bulk.evaluations
        betas = np.empty((batch, len(problem.common)))
        # Draws first in memory: that is how the posterior keeps them.
        effects = [np.empty((batch, len(v.columns), v.groups)).transpose(1, 2, 0) for v in problem.levels]
        step = int(np.clip(LEAF_NUMBERS // crossed.crossing.rows.shape[0], 16, CHUNK))
        for start in range(0, batch, step):
            part = slice(start, start + step)
            betas[part] = crossed.finish(
                sigma[part], [root[:, :, part] for root in roots], known[:, part], drawn[:, part],
                [effect[:, :, part] for effect in effects], rng,
            )  # fmt: skip
        return betas, effects

    def modes(self, rng: np.random.Generator) -> Array:
        """Starts (n, d) for the mode search in theta."""
        low, high = np.append(self.low, self.other_low), np.append(self.high, self.other_high)
        found = np.stack([mode for _, mode, _ in importance.find_modes(self._search_density, low, high, rng)])
        m = len(self.coordinates.axes)
        return self.coordinates.to_theta(found[:, :m], found[:, m:])

    def error(self, theta: Array) -> float:
        """Largest difference to the exact log density at theta (B, d)."""
        exact, _ = self.crossed.log_density(theta)
        return float(np.abs(self.log_density(theta)[0] - exact).max())
