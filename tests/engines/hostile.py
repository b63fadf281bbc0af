"""Random designs under priors that fight the data: far off, hair-thin, without bound or with no tail at all.

Nothing sensible can come of most of them. What is asked is that the fit ends, in time, with a posterior or a refusal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

import bayeshlm as bh
from bayeshlm.spec.priors import Prior

LEVELS = {
    "": (), "(1 | a)": ("a",), "(x || a)": ("a",), "(x | a)": ("a",), "(x + z | a)": ("a",),
    "(1 | a/b)": ("a", "b"), "(x | a/b)": ("a", "b"), "(x || a) + (1 | g)": ("a", "g"),
    "(1 | a) + (x | g)": ("a", "g"),
}  # fmt: skip


@dataclass(frozen=True)
class Hostile:
    """A design: its seed, the model and the data."""

    seed: int
    model: bh.Model
    frame: pd.DataFrame


def power(rng: np.random.Generator, low: float, high: float) -> float:
    """A power of ten with its exponent uniform on an interval."""
    return float(10.0 ** rng.uniform(low, high))


def scale_prior(rng: np.random.Generator, typical: float) -> Prior:
    """A prior of a standard deviation, six decades about a typical size."""
    c = typical * power(rng, -6, 6)
    shape = power(rng, -1, 3)
    makers = {
        "thin": lambda: bh.Uniform(c, c * (1 + power(rng, -5, 1))),
        "to": lambda: bh.Uniform(0, c),
        "normal": lambda: bh.HalfNormal(c),
        "t": lambda: bh.HalfStudentT(power(rng, -0.7, 1), c),
        "cauchy": lambda: bh.HalfCauchy(c),
        "exponential": lambda: bh.Exponential(1 / c),
        "gamma": lambda: bh.Gamma(shape, shape / c),
        "inverse": lambda: bh.InverseGamma(shape, c * shape),
        "lognormal": lambda: bh.LogNormal(math.log(c), power(rng, -2, 1)),
        "pc": lambda: bh.PC(c, 0.01),
        "flat": bh.Flat,
    }
    return makers[str(rng.choice(list(makers)))]()


def draw(seed: int) -> Hostile:
    """Design number `seed`."""
    rng = np.random.default_rng([1234, seed])
    term = str(rng.choice(list(LEVELS)))
    rows, unit = int(rng.integers(12, 80)), power(rng, -6, 6)
    groups = int(rng.integers(2, 9))
    a = rng.integers(0, groups, rows)
    frame = pd.DataFrame({
        "x": rng.normal(0, power(rng, -3, 3), rows) + rng.choice([0.0, power(rng, -2, 4)]),
        "z": rng.normal(size=rows),
        "a": [f"a{k}" for k in a],
        "b": [f"b{k}" for k in rng.integers(0, 3, rows)],
        "g": [f"g{k}" for k in rng.integers(0, int(rng.integers(2, 7)), rows)],
        "h": rng.choice(["u", "v"], rows),
        "s": unit * rng.uniform(0.5, 2, rows) * power(rng, -4, 4),
    })  # fmt: skip
    effects = rng.normal(0, power(rng, -3, 2), groups)
    frame["y"] = unit * (effects[a] + rng.normal(size=rows) + rng.choice([0.0, power(rng, 0, 4)]))
    known = rng.uniform() < 0.15
    residual = not known and rng.uniform() < 0.2
    formula = "y ~ x" + (f" + {term}" if term else "") + ("; sigma ~ h" if residual else "")
    model = bh.Model(formula, se="s" if known else None)
    priors: dict[str, Prior] = {}
    spread = float(frame["x"].std())
    for name, kind in model.parameters.items():
        size = unit / spread if name.startswith("x") else unit
        if kind == "coefficient":
            c = size * power(rng, -6, 6)
            priors[name] = bh.Flat() if rng.uniform() < 0.3 else bh.Normal(c * rng.choice([-1.0, 0.0, 1.0]), c)
        elif kind == "correlation":
            priors[name] = bh.LKJ(power(rng, -1, 3))
        else:
            priors[name] = scale_prior(rng, size)
    return Hostile(seed, model.with_priors(priors), frame)
