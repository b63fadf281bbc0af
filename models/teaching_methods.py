"""Which of five teaching methods should a college use?

Five methods are given to fifty instructors, ten a method; every instructor teaches 2,000 students; every student has a
score at the end and a high-school grade average from before. The table has 100,000 rows, but a method was tried by ten
people only. How much better is the best method, and how sure can ten instructors a side make us?

Everything multiplies: a good instructor adds a few per cent to each student's score, whatever the student's level. On
the log scale effects add:

    log score = Intercept + b log(1 + hs_gpa) + method + instructor + noise

Run ``python models/teaching_methods.py`` for the answer on one simulated study.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import bayeshlm as bh

if TYPE_CHECKING:
    import pandas as pd
    import pymc as pm

# Children per parent, outermost first; the last one is the unit that is measured.
design = bh.Design.nested(
    method=5,
    instructor=10,
    student=2000,
    covariates={"hs_gpa": bh.Normal(3, 0.25)},
)

# (1 | method/instructor) is a normal effect for each method, and one for each instructor inside a method.
model = bh.Model(
    "score ~ log1p(hs_gpa) + (1 | method/instructor)",
    family="lognormal",
    priors={
        "Intercept": bh.Normal(7, 1),  # log score of a student with hs_gpa = 0
        "log1p(hs_gpa)": bh.Normal(1, 0.5),  # 1: the score grows in proportion to 1 + hs_gpa
        "1|method_sigma": bh.HalfNormal(0.1),  # methods differ by some per cent
        "1|method:instructor_sigma": bh.HalfNormal(0.2),  # instructors by more
        "sigma": bh.HalfNormal(0.3),  # students by most
    },
)

# The study this project grew from, on the log scale: score = 20 (1 + hs_gpa) * Normal(75, 10) * instructor * method
# with effects Normal(1, 0.1) and Normal(1, 0.05). That noise is not quite lognormal: these values hold to first order.
params = {
    "Intercept": math.log(20 * 75),
    "log1p(hs_gpa)": 1.0,
    "1|method_sigma": 0.05,
    "1|method:instructor_sigma": 0.1,
    "sigma": 10 / 75,
}

# How many instructors a method, and how many of their students, should a study have? Prices in whatever currency; the
# target is a choice that costs at most 1 % of the score on average.
designs = bh.Design.grid(
    method=5,
    instructor=[4, 6, 10, 15, 25, 40],
    student=[10, 50, 250],
    covariates={"hs_gpa": bh.Normal(3, 0.25)},
)
decide = "method"
maximize = True
costs = {"instructor": 500, "student": 5}
target = {"expected_loss": 0.01}
# The seed study's spread of methods, instructors and students; the other parameters come from their priors.
plan_params = {name: params[name] for name in ("1|method_sigma", "1|method:instructor_sigma", "sigma")}


def pymc_model(data: pd.DataFrame) -> pm.Model:
    """The same model written by hand in PyMC, one likelihood term a row.

    Variables are named as in a bayeshlm posterior. Two changes of coordinates let NUTS work at many rows an
    instructor, and leave the model and its priors as they are: (1) what is sampled is each instructor's own level,
    drawn around the level of its method, and each method's, drawn around the overall one; the effects are the
    differences; (2) these levels belong to a student with the average log1p(hs_gpa), since at hs_gpa = 0, far from all
    students, level and slope are nearly collinear.
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

        log_score = instructor_level[instructor_of_row] + slope * log1p_gpa
        pm.LogNormal("score", log_score, sigma, observed=data["score"].to_numpy(), dims="row")
    return twin


if __name__ == "__main__":
    world = bh.simulate(model, design, params=params, random_seed=2026)
    posterior = bh.fit(model, world.data, random_seed=2026)
    print(bh.diagnose(posterior).to_text())
    print(bh.compare(posterior, "method", maximize=True).to_text())
    best = world.truth["1|method"].to_series().idxmax()
    print(f"In truth, known here because the study was simulated, method {best} is the best.")
