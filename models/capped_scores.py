"""Which of five teaching methods should a college use, when the test has a ceiling?

Five methods, ten instructors each, sixty students an instructor, and a test on which nobody can have more than 100
points. About one student in fifteen reaches the ceiling: what they could do beyond it, the test does not tell. Taken as
exact scores, these hundreds make good methods look worse than they are, and students more alike than they are.

A score of 100 stands for "at least 100". That is a censored response: a row at the ceiling says only that the score
would have been there or above.

    log uncapped score = Intercept + b log(1 + hs_gpa) + method + instructor + noise
    score = the uncapped score, or 100 where it is beyond 100

Run ``python models/capped_scores.py`` for the answer on one simulated study, and what ignoring the ceiling would say.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import bayeshlm as bh

if TYPE_CHECKING:
    import pandas as pd
    import pymc as pm

CEILING = 100.0

design = bh.Design.nested(
    method=5,
    instructor=10,
    student=60,
    covariates={"hs_gpa": bh.Normal(3, 0.25)},
)

model = bh.Model(
    "score ~ log1p(hs_gpa) + (1 | method/instructor)",
    family="lognormal",
    censored=(None, CEILING),  # no floor, a ceiling
    priors={
        "Intercept": bh.Normal(3, 0.5),  # log score of a student with hs_gpa = 0, were there no ceiling
        "log1p(hs_gpa)": bh.Normal(1, 0.5),
        "1|method_sigma": bh.HalfNormal(0.1),
        "1|method:instructor_sigma": bh.HalfNormal(0.2),
        "sigma": bh.HalfNormal(0.3),
    },
)

# The study of teaching_methods.py on a scale of which 100 is the top: a typical student has 75 points.
params = {
    "Intercept": math.log(75 / 4),
    "log1p(hs_gpa)": 1.0,
    "1|method_sigma": 0.05,
    "1|method:instructor_sigma": 0.1,
    "sigma": 10 / 75,
}


def pymc_model(data: pd.DataFrame) -> pm.Model:
    """The same model written by hand in PyMC, one likelihood term a row.

    `pm.Censored` gives a score below the ceiling its density, and a score at the ceiling the probability of being there
    or above. Coordinates as in `teaching_methods.py`: levels of instructors around those of their methods, at the
    average log1p(hs_gpa).
    """
    import numpy as np
    import pymc as pm

    # Instructor 3 of one method is not instructor 3 of another: an instructor is a pair.
    groups = data.groupby(["method", "instructor"])
    instructor, pairs = groups.ngroup().to_numpy(), groups.size().index
    methods, method_of_instructor = np.unique(pairs.get_level_values("method"), return_inverse=True)
    coords = {
        "method": methods,
        "method:instructor": [f"{method}:{instructor}" for method, instructor in pairs],
        "row": np.arange(len(data)),
    }
    x = np.log1p(data["hs_gpa"].to_numpy())

    with pm.Model(coords=coords) as twin:
        log1p_gpa = pm.Data("log1p_gpa", x - x.mean(), dims="row")
        instructor_of_row = pm.Data("instructor_of_row", instructor, dims="row")

        slope = pm.Normal("log1p(hs_gpa)", 1, 0.5)
        sd_method = pm.HalfNormal("1|method_sigma", 0.1)
        sd_instructor = pm.HalfNormal("1|method:instructor_sigma", 0.2)
        sigma = pm.HalfNormal("sigma", 0.3)

        # overall = Intercept + slope * mean(x), so Intercept ~ Normal(3, 0.5) is this prior.
        overall = pm.Normal("overall", 3 + slope * x.mean(), 0.5)
        pm.Deterministic("Intercept", overall - slope * x.mean())
        method_level = pm.Normal("method_level", overall, sd_method, dims="method")
        pm.Deterministic("1|method", method_level - overall, dims="method")
        parent_level = method_level[method_of_instructor]
        instructor_level = pm.Normal("instructor_level", parent_level, sd_instructor, dims="method:instructor")
        pm.Deterministic("1|method:instructor", instructor_level - parent_level, dims="method:instructor")

        uncapped = pm.LogNormal.dist(instructor_level[instructor_of_row] + slope * log1p_gpa, sigma)
        observed = data["score"].to_numpy()
        pm.Censored("score", uncapped, lower=None, upper=CEILING, observed=observed, dims="row")
    return twin


if __name__ == "__main__":
    world = bh.simulate(model, design, params=params, random_seed=2026)
    posterior = bh.fit(model, world.data, random_seed=2026)
    print(bh.diagnose(posterior).to_text())
    print(bh.compare(posterior, "method", maximize=True).to_text())
    ignoring = bh.Model(model.formula, family=model.family, priors=model.priors)
    taken_as_exact = bh.fit(ignoring, world.data, random_seed=2026)
    for label, tree in (("with the ceiling", posterior), ("ceiling ignored", taken_as_exact)):
        sigma = float(tree["posterior"]["sigma"].mean())
        print(f"sigma {label}: {sigma:.3f} (true value {params['sigma']:.3f})")
