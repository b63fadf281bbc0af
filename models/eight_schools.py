"""Did coaching for a college test help, and in which of eight schools?

Each of eight schools ran its own experiment on coaching for the verbal test of the SAT (Rubin 1981). What is published
is one estimate a school, in points, with its standard error. The estimates run from -3 to 28 points, but their errors
are 9 to 18: how much of that spread is real?

    estimate = Intercept + school + error,    error ~ Normal(0, se) with known se

The errors are known, so there is no sigma to estimate. How much the schools differ, `1|school_sigma`, decides how far
each estimate is drawn to the common mean.

Run ``python models/eight_schools.py`` for the answer.

References
----------
Rubin (1981), Estimation in parallel randomized experiments, J. Educational Statistics 6(4), table 1; Gelman et al.
(2013), Bayesian Data Analysis, third edition, section 5.5.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import bayeshlm as bh

if TYPE_CHECKING:
    import pandas as pd
    import pymc as pm

# Studies like these: one estimate a school, with a standard error between 9 and 18 points.
design = bh.Design.nested(school=8, estimate=1, covariates={"se": bh.Uniform(9, 18)})

model = bh.Model(
    "effect ~ 1 + (1 | school)",
    se="se",
    priors={
        "Intercept": bh.Normal(0, 20),  # the average effect of coaching, in points
        "1|school_sigma": bh.HalfCauchy(5),  # schools differ by some points, perhaps by many
    },
)


def load() -> pd.DataFrame:
    """Read the eight estimates and their standard errors."""
    import pandas as pd

    return pd.DataFrame(
        {
            "school": list("ABCDEFGH"),
            "effect": [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0],
            "se": [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0],
        }
    )


def pymc_model(data: pd.DataFrame) -> pm.Model:
    """The same model written by hand in PyMC.

    Eight noisy estimates say little about each school, so what is sampled is each school's effect in units of their
    standard deviation: the non-centred form.
    """
    import pymc as pm

    schools = sorted(data["school"])
    ordered = data.set_index("school").loc[schools]
    with pm.Model(coords={"school": schools}) as twin:
        intercept = pm.Normal("Intercept", 0, 20)
        sd_school = pm.HalfCauchy("1|school_sigma", 5)
        standardized = pm.Normal("standardized", 0, 1, dims="school")
        school = pm.Deterministic("1|school", standardized * sd_school, dims="school")
        pm.Normal(
            "effect", intercept + school, ordered["se"].to_numpy(), observed=ordered["effect"].to_numpy(), dims="school"
        )
    return twin


if __name__ == "__main__":
    posterior = bh.fit(model, load(), random_seed=1981)
    print(bh.diagnose(posterior).to_text())
    print(bh.summarize(posterior).round(2).to_string(index=False))
    print(bh.compare(posterior, "school", maximize=True).to_text())
