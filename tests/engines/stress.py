"""Random pairs of model and design, and a reference for their posteriors that shares no sampler with the package.

The reference works on logs of standard deviations (logits on an interval) and artanh of partial correlations, with
its own Jacobians and its own LKJ density, and samples by differential evolution (ter Braak 2006, Statistics and
Computing 16) with a population of walkers, each half moved by differences of the other. The density of the data it
takes from the sweep, which `test_marginal` holds to the dense twin; `spot_check` does so again for the case at hand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

import bayeshlm as bh
from bayeshlm.data.compress import compress
from bayeshlm.engines.exact.build import build_problem, nested_order
from bayeshlm.engines.exact.crossed.density import Crossed
from bayeshlm.engines.exact.density.nested import Marginal
from bayeshlm.engines.exact.problem import Problem
from bayeshlm.spec.priors import Prior
from tests.engines.dense import Case, DenseLevel, one, with_x

WALKERS, STEPS, BURN = 120, 1500, 500
CASES = 200  # of all kinds; the cases that follow are crossed, with a sigma by factor


def with_xz(frame: pd.DataFrame) -> np.ndarray:
    return np.column_stack([np.ones(len(frame)), frame["x"], frame["z"]])


SLOPES = {"1": one, "1 + x": with_x, "x || ": with_x, "1 + x + z": with_xz}
STRUCTURES = {  # frequency, levels
    "none": (1, ()), "one": (4, (("a",),)), "two": (5, (("a",), ("a", "b"))),
    "three": (2, (("a",), ("a", "b"), ("a", "b", "c"))),
    "crossed": (2, (("a",), ("g",))),
}  # fmt: skip


@dataclass(frozen=True)
class Stress:
    seed: int
    case: Case
    model: bh.Model
    frame: pd.DataFrame


def draw(seed: int) -> Stress:
    """Case number `seed`."""
    rng = np.random.default_rng([2026, seed])
    frequency = np.array([f for f, _ in STRUCTURES.values()], dtype=float)
    structure = list(STRUCTURES)[rng.choice(len(STRUCTURES), p=frequency / frequency.sum())]
    structure = structure if seed < CASES else "crossed"
    keys = STRUCTURES[structure][1]
    unit, family = 10.0 ** rng.uniform(-4, 4), "lognormal" if rng.uniform() < 0.25 else "gaussian"
    unit = 0.3 if family == "lognormal" else unit
    effects = [str(rng.choice(list(SLOPES), p=[0.6, 0.2, 0.15, 0.05])) for _ in keys]
    if structure == "three":
        effects = [effects[0], "1", "1"]
    frame = _frame(rng, few=rng.uniform() < 0.4)
    bars = ["x ||" if e == "x || " else f"{e} |" for e in effects]
    terms = [f"({bar} {':'.join(k)})" for bar, k in zip(bars, keys, strict=True)]
    kind = rng.choice(["plain", "weights", "se", "sigma"], p=[0.6, 0.15, 0.15, 0.1])
    kind = "plain" if structure in ("crossed", "none") and kind in ("sigma", "se") else kind
    kind = kind if seed < CASES else "sigma"
    formula = " + ".join(["y ~ x", *terms]) + ("; sigma ~ arm" if kind == "sigma" else "")
    levels = tuple(DenseLevel(k, SLOPES[e]) for k, e in zip(keys, effects, strict=True))
    case = Case(
        formula, with_x, levels, family, "s" if kind == "se" else None, "w" if kind == "weights" else None,
        "arm" if kind == "sigma" else None,
    )  # fmt: skip
    frame["s"] *= unit
    frame["y"] = _response(rng, case, frame, unit)
    bare = bh.Model(formula, family=family, se=case.se, weights=case.weights)
    priors: dict[str, Prior] = {}
    for name, role in bare.parameters.items():
        if role == "coefficient":
            priors[name] = bh.Flat() if rng.uniform() < 0.15 else bh.Normal(0, unit * 10.0 ** rng.uniform(-0.3, 1.0))
        elif role == "scale":
            priors[name] = _scale_prior(rng, unit)
        else:
            priors[name] = bh.LKJ(float(rng.choice([1.0, 2.0, 4.0])))
    return Stress(seed, case, bare.with_priors(priors), frame)


def _frame(rng: np.random.Generator, *, few: bool) -> pd.DataFrame:
    rows = []
    for a in range(int(rng.integers(2, 5) if few else rng.integers(5, 13))):
        for b in range(int(rng.integers(1, 5))):
            for c in range(int(rng.integers(1, 3))):
                rows += [(a, b, c)] * int(rng.choice([1, 2, 3, 8]))
    frame = pd.DataFrame(rows, columns=["a", "b", "c"])
    n = len(frame)
    frame["x"], frame["z"] = rng.normal(rng.choice([0.0, 3.0, 10.0]), 1.0, n), rng.normal(0, 1, n)
    frame["g"] = rng.integers(0, int(rng.integers(3, 9)), n)
    frame["arm"] = rng.choice(["p", "q"], n)
    frame["w"], frame["s"] = rng.uniform(0.2, 5.0, n), rng.uniform(0.3, 2.0, n)
    return frame


def _response(rng: np.random.Generator, case: Case, frame: pd.DataFrame, unit: float) -> np.ndarray:
    y = rng.normal(0, 2) + 0.5 * (frame["x"].to_numpy() - frame["x"].mean()) * rng.normal()
    for level in case.levels:
        columns = level.columns(frame)
        codes = frame.groupby(list(level.keys)).ngroup().to_numpy()
        sds = rng.choice([0.0, 0.05, 0.3, 1.0, 5.0], columns.shape[1])
        y = y + np.einsum("nk,nk->n", columns - columns.mean(axis=0) * (columns.std(axis=0) > 0),
                          (sds * rng.standard_normal((codes.max() + 1, columns.shape[1])))[codes])  # fmt: skip
    noise = rng.choice([0.3, 1.0, 3.0]) * rng.standard_normal(len(frame))
    y = unit * (y + noise * (frame["s"] / unit if case.se else 1.0))
    return np.asarray(np.exp(y)) if case.family == "lognormal" else np.asarray(y)


def _scale_prior(rng: np.random.Generator, unit: float) -> Prior:
    size = unit * 10.0 ** rng.uniform(-0.7, 1.0)
    return rng.choice([
        bh.HalfNormal(size), bh.HalfNormal(size), bh.HalfCauchy(size), bh.HalfCauchy(size), bh.HalfStudentT(3, size),
        bh.Exponential(1 / size), bh.InverseGamma(rng.uniform(1.0, 3.0), size), bh.Uniform(0, 5 * size),
        bh.Uniform(0.1 * size, 3 * size), bh.Gamma(2, 1 / size), bh.LogNormal(math.log(size), 1.0), bh.PC(size, 0.05),
    ])  # fmt: skip


class Reference:
    """Log density of one case on the reference's scale."""

    def __init__(self, stress: Stress) -> None:
        statistics = compress(stress.model, stress.frame)
        self.problem: Problem = build_problem(statistics)
        self.density = Marginal(self.problem) if nested_order(statistics) is not None else Crossed(self.problem)
        self.bounds = [scale.prior.bounds for scale in self.problem.scales]
        self.size = self.problem.size

    def constrain(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(standard deviations (B, s), partial correlations (B, p), log Jacobian (B,)) of v (B, d)."""
        sds, jacobian = np.empty((len(v), len(self.bounds))), np.zeros(len(v))
        for k, (low, high) in enumerate(self.bounds):
            low = max(low, 0.0)
            if math.isfinite(high):
                p = 1 / (1 + np.exp(-v[:, k]))
                sds[:, k] = low + (high - low) * p
                jacobian += -np.logaddexp(0, -v[:, k]) - np.logaddexp(0, v[:, k]) + math.log(high - low)
            else:
                sds[:, k] = self.problem.scales[k].size * np.exp(v[:, k])
                jacobian += v[:, k] + math.log(self.problem.scales[k].size)
        partial = np.tanh(v[:, len(self.bounds) :])
        return sds, partial, jacobian + np.sum(np.log1p(-(partial**2)), axis=1)

    def roots(self, sds: np.ndarray, partial: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """sigma and the levels' lower roots (k, k, B), by the definition of partial correlations."""
        problem = self.problem
        sigma = np.ones(len(sds)) if problem.known_sigma else sds[:, 0]
        sigma = sigma if problem.split is None else sds[:, : problem.residuals]
        at, out = problem.residuals, []
        for level in problem.levels:
            k = len(level.columns)
            out.append(np.zeros((k, k, len(sds))))
            out[-1][range(k), range(k)] = sds[:, at : at + k].T
            at += k
        at = 0
        for correlation in problem.correlations:
            assert correlation.positions == tuple(range(len(correlation.positions)))  # as drawn above
            root = out[correlation.level]
            z = partial[:, at : at + correlation.partials].T
            at += correlation.partials
            with np.errstate(invalid="ignore"):
                unit = np.zeros_like(root)
                unit[0, 0] = 1.0
                unit[1, 0], unit[1, 1] = z[0], np.sqrt(1 - z[0] ** 2)
                if len(root) == 3:
                    unit[2, 0], unit[2, 1] = z[1], z[2] * np.sqrt(1 - z[1] ** 2)
                    unit[2, 2] = np.sqrt(np.maximum(1 - unit[2, 0] ** 2 - unit[2, 1] ** 2, 0))
            root[:] = np.array([root[i, i] for i in range(len(root))])[:, None] * unit
        return sigma, out

    def __call__(self, v: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):  # what overflows has density 0
            sds, partial, total = self.constrain(v)
            for k, scale in enumerate(self.problem.scales):
                total = total + scale.prior.logpdf(sds[:, k])
            at = 0
            for correlation in self.problem.correlations:
                z = partial[:, at : at + correlation.partials]
                at += correlation.partials
                # LKJ: |R|^(eta - 1) dR; |R| = prod (1 - z^2), dR/dz = sqrt((1 - z_21^2)(1 - z_31^2)) for three effects.
                total = total + (correlation.prior.eta - 1) * np.log1p(-(z**2)).sum(axis=1)
                if z.shape[1] == 3:
                    total = total + 0.5 * np.log1p(-(z[:, :2] ** 2)).sum(axis=1)
            sigma, roots = self.roots(sds, partial)
            total = total + self._likelihood(sigma, roots)
        return np.where(np.isfinite(total), total, -np.inf)

    def _likelihood(self, sigma: np.ndarray, roots: list[np.ndarray]) -> np.ndarray:
        out, step = np.empty(len(sigma)), int(getattr(self.density, "chunk", 64))
        for start in range(0, len(sigma), step):
            part = slice(start, start + step)
            pieces = sigma[part], [root[:, :, part] for root in roots]
            try:
                out[part] = self.density.sweep(*pieces).log_likelihood
            except np.linalg.LinAlgError:
                for b in range(start, min(start + step, len(sigma))):
                    try:
                        single = self.density.sweep(sigma[b : b + 1], [r[:, :, b : b + 1] for r in roots])
                        out[b] = single.log_likelihood[0]
                    except np.linalg.LinAlgError:
                        out[b] = -np.inf
        return out

    def sample(self, rng: np.random.Generator, *, steps: int = STEPS, burn: int = BURN) -> np.ndarray:
        """(walkers, steps - burn, d) draws on the reference's scale, starts spread over orders of magnitude."""
        d = self.size
        x = rng.normal(0, 1.0, (20 * WALKERS, d)) * rng.choice([0.5, 2.0], (20 * WALKERS, 1))
        f = self(x)
        keep = rng.choice(len(x), WALKERS, replace=False, p=_tempered(f))
        x, f = x[keep], f[keep]
        half, kept = WALKERS // 2, []
        for step in range(steps):
            for mine, other in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
                pool = x[other]
                i, j = rng.integers(0, half, (2, half))
                gamma = 1.0 if step % 5 == 0 else 2.38 / math.sqrt(2 * d) * rng.choice([0.3, 1.0])
                proposal = x[mine] + gamma * (pool[i] - pool[j]) + rng.normal(0, 1e-5, (half, d))
                g = self(proposal)
                take = np.log(rng.uniform(size=half)) < g - f[mine]
                x[mine] = np.where(take[:, None], proposal, x[mine])
                f[mine] = np.where(take, g, f[mine])
            if step >= burn:
                kept.append(x.copy())
        return np.moveaxis(np.array(kept), 0, 1)


def _tempered(f: np.ndarray) -> np.ndarray:
    """Probabilities that favour likely starts without taking the best alone."""
    weight = np.exp(np.clip(0.2 * (f - f.max()), -500, 0))
    weight = weight + 1e-12 * np.isfinite(f)
    return weight / weight.sum()
