"""Which of five teaching methods should a college use? The same study, with the noise that it was written with.

The study behind `teaching_methods.py` was first written down as

    score = (20 + 20 hs_gpa) * Normal(75, 10) * instructor * method

Its noise multiplies, but it is a Normal, not a lognormal: a student's score is Normal about its mean, with a standard
deviation that is the same share of the mean, 10 / 75, for everybody. A constant coefficient of variation, in short:

    score ~ Normal(mu, sigma mu)
    log mu = Intercept + b log(1 + hs_gpa) + method + instructor

The lognormal model comes close to this and fits in a fraction of a second; this one needs NUTS. The difference shows in
the tails: a lognormal never makes the low scores that this noise makes.

Run ``python models/teaching_methods_as_written.py`` for the answer on one simulated study of 5,000 students.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import bayeshlm as bh

if TYPE_CHECKING:
    import pandas as pd
    import pymc as pm

design = bh.Design.nested(
    method=5,
    instructor=10,
    student=100,
    covariates={"hs_gpa": bh.Normal(3, 0.25)},
)

model = bh.Model(
    "score ~ log1p(hs_gpa) + (1 | method/instructor)",
    family="cv_normal",
    priors={
        "Intercept": bh.Normal(7, 1),  # log of the mean score of a student with hs_gpa = 0
        "log1p(hs_gpa)": bh.Normal(1, 0.5),
        "1|method_sigma": bh.HalfNormal(0.1),
        "1|method:instructor_sigma": bh.HalfNormal(0.2),
        "sigma": bh.HalfNormal(0.3),  # standard deviation of a score over its mean
    },
)

# Its multiplicative effects were Normal(1, 0.05) and Normal(1, 0.1): their logs have these standard deviations to first
# order. The noise is exact.
params = {
    "Intercept": math.log(20 * 75),
    "log1p(hs_gpa)": 1.0,
    "1|method_sigma": 0.05,
    "1|method:instructor_sigma": 0.1,
    "sigma": 10 / 75,
}


def pymc_model(data: pd.DataFrame) -> pm.Model:
    """The same model written by hand in PyMC, one likelihood term a row.

    As in `teaching_methods.py`, what is sampled is each instructor's own level, drawn around its method's, and each
    method's, drawn around the overall one; these levels belong to a student with the average log1p(hs_gpa).
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

        # overall = Intercept + slope * mean(x), so Intercept ~ Normal(7, 1) is this prior.
        overall = pm.Normal("overall", 7 + slope * x.mean(), 1)
        pm.Deterministic("Intercept", overall - slope * x.mean())
        method_level = pm.Normal("method_level", overall, sd_method, dims="method")
        pm.Deterministic("1|method", method_level - overall, dims="method")
        parent_level = method_level[method_of_instructor]
        instructor_level = pm.Normal("instructor_level", parent_level, sd_instructor, dims="method:instructor")
        pm.Deterministic("1|method:instructor", instructor_level - parent_level, dims="method:instructor")

        mu = pm.math.exp(instructor_level[instructor_of_row] + slope * log1p_gpa)
        pm.Normal("score", mu, sigma * mu, observed=data["score"].to_numpy(), dims="row")
    return twin


if __name__ == "__main__":
    world = bh.simulate(model, design, params=params, random_seed=2026)
    posterior = bh.fit(model, world.data, random_seed=2026)
    print(bh.diagnose(posterior).to_text())
    print(bh.compare(posterior, "method", maximize=True).to_text())
    best = world.truth["1|method"].to_series().idxmax()
    print(f"In truth, known here because the study was simulated, method {best} is the best.")
