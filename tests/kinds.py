"""The kinds of models that the exact engine fits, each with a design to simulate it from: rows of a table of verbs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import bayeshlm as bh
from bayeshlm.spec.priors import Prior

ARM = {"arm": bh.Treatment(["a", "b", "c"], level="room", within="school")}
WHOLE = {"arm": bh.Treatment(["a", "b", "c"], level="school")}
X = {"x": bh.Normal(2, 1)}


@dataclass(frozen=True)
class Kind:
    """A model, a design for its data, and what is decided on (None: nothing is)."""

    model: bh.Model
    design: bh.Design
    decide: str | None = "arm"
    level: str | None = "school"


def model(formula: str, **options: Any) -> bh.Model:
    """With proper priors wherever none is given in `flat`."""
    flat = options.pop("flat", ())
    bare = bh.Model(formula, **options)
    priors: dict[str, Prior] = {}
    for name, kind in bare.parameters.items():
        given = {"coefficient": bh.Normal(0, 1), "correlation": bh.LKJ(2)}.get(kind, bh.HalfNormal(0.5))
        priors[name] = bh.Flat() if name in flat else given
    return bare.with_priors(priors)


def design(treatments: Any = None, covariates: Any = None) -> bh.Design:
    """Nine schools of three rooms of four."""
    return bh.Design.nested(school=9, room=3, pupil=4, treatments=treatments, covariates=covariates)


KINDS = {
    "nested": Kind(model("y ~ arm + (1 | school/room)"), design(ARM)),
    "three levels and the arm": Kind(model("y ~ (1 | arm/school/room)"), design(WHOLE)),
    "crossed": Kind(model("y ~ (1 | arm) + (1 | school)"), design(ARM)),
    "partially crossed": Kind(model("y ~ (1 | arm) + (1 | school/room)"), design(ARM)),
    "crossed with slopes": Kind(model("y ~ x + (1 | arm) + (x | school)"), design(ARM, X)),
    "slopes": Kind(model("y ~ x + arm + (x | school)"), design(ARM, X)),
    "slopes, uncorrelated": Kind(model("y ~ x + arm + (x || school)"), design(ARM, X)),
    "slopes of arms": Kind(model("y ~ arm + (arm | school)"), design(ARM)),
    "arms in each school": Kind(model("y ~ arm + (0 + arm | school)"), design(ARM)),
    "sigma by factor": Kind(model("y ~ arm + (1 | school); sigma ~ arm"), design(ARM)),
    "crossed, sigma by factor": Kind(model("y ~ (1 | arm) + (1 | school); sigma ~ arm"), design(ARM)),
    "se": Kind(model("y ~ arm + (1 | school)", se="s"), design(ARM, {"s": bh.Uniform(0.2, 0.6)})),
    "crossed, se": Kind(model("y ~ (1 | arm) + (1 | school)", se="s"), design(ARM, {"s": bh.Uniform(0.2, 0.6)})),
    "weights": Kind(model("y ~ arm + (1 | school)", weights="w"), design(ARM, {"w": bh.Uniform(0.5, 3)})),
    "no levels": Kind(model("y ~ arm"), design(ARM), level=None),
    "no levels, se": Kind(model("y ~ arm", se="s"), design(ARM, {"s": bh.Uniform(0.2, 0.6)}), level=None),
    "one level": Kind(model("y ~ (1 | school)"), design(), decide="school"),
    "one level, no intercept": Kind(model("y ~ 0 + arm + (1 | school)"), design(ARM)),
    "lognormal": Kind(model("y ~ arm + (1 | school)", family="lognormal"), design(ARM)),
    "lognormal, crossed": Kind(model("y ~ (1 | arm) + (1 | school)", family="lognormal"), design(ARM)),
    "flat": Kind(model("y ~ arm + (1 | school)", flat=("Intercept", "arm")), design(ARM)),
    "a number": Kind(model("y ~ x + (1 | school)"), design(None, X), decide="school"),
}  # fmt: skip
