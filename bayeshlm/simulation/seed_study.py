"""The study this project grew from: 100,000 students, 50 instructors, 5 teaching methods, as it was written."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bayeshlm.errors import DesignError
from bayeshlm.randomness import generator
from bayeshlm.simulation.simulate import World

CAPPED_SCALE = 1 / 80  # 20 + 20 * 3 = 80 is the typical multiplier: scores then centre on 75 and a cap at 100 bites


def seed_study(
    *,
    students: int = 100_000,
    instructors: int = 50,
    methods: int = 5,
    cap_gpa: bool = False,
    cap_score: bool = False,
    random_seed: Any = None,
) -> World:
    """The teaching-methods study with its own, not quite lognormal, noise.

    Students are dealt to instructors and instructors to methods at random, in equal numbers;
    ``score = (20 + 20 hs_gpa) * Normal(75, 10) * instructor * method`` with instructor effects Normal(1, 0.1), method
    effects Normal(1, 0.05) and hs_gpa Normal(3, 0.25).

    Parameters
    ----------
    students, instructors, methods : int
        Each a multiple of the next.
    cap_gpa : bool
        Cap hs_gpa at 4, which the original meant (it wrote ``==`` for ``=``) and did not do.
    cap_score : bool
        Cap the score at 100, likewise. The original scores lie near 6,000, so here they are divided by 80 first.
    random_seed : int, SeedSequence, Generator or None

    Returns
    -------
    World
        ``data`` has the original's columns (student, instructor, method, hs_gpa, instructor_effect, method_effect,
        score); ``truth`` is on the log scale, named like the posterior of the lognormal twin
        ``score ~ log1p(hs_gpa) + (1 | method/instructor)``. Since (20 + 20 g) = 20 (1 + g), that twin is exact in
        hs_gpa; its sigma and standard deviations are the log scale's first-order values (10/75, 0.05, 0.1).

    Raises
    ------
    DesignError
        If the numbers do not divide evenly.
    """
    import pandas as pd
    import xarray as xr

    if min(students, instructors, methods) < 1 or students % instructors or instructors % methods:
        raise DesignError(
            f"{students} students, {instructors} instructors and {methods} methods do not divide evenly, "
            "as the study deals them out in equal numbers."
        )
    rng = generator(random_seed)
    instructor = rng.permutation(np.repeat(np.arange(instructors), students // instructors))
    method_of = rng.permutation(np.repeat(np.arange(methods), instructors // methods))
    instructor_effect = rng.normal(1, 0.1, instructors)
    method_effect = rng.normal(1, 0.05, methods)
    hs_gpa = rng.normal(3, 0.25, students)
    if cap_gpa:
        hs_gpa = np.minimum(hs_gpa, 4.0)
    method = method_of[instructor]
    score = (20 + 20 * hs_gpa) * rng.normal(75, 10, students) * instructor_effect[instructor] * method_effect[method]
    if cap_score:
        score = np.minimum(score * CAPPED_SCALE, 100.0)
    data = pd.DataFrame({
        "student": np.arange(students), "instructor": instructor, "method": method, "hs_gpa": hs_gpa,
        "instructor_effect": instructor_effect[instructor], "method_effect": method_effect[method], "score": score,
    })  # fmt: skip
    order = np.lexsort((np.arange(instructors), method_of))
    truth = xr.Dataset(
        {
            "Intercept": math.log(20 * 75 * (CAPPED_SCALE if cap_score else 1)),
            "log1p(hs_gpa)": 1.0,
            "1|method_sigma": 0.05,
            "1|method": ("method", np.log(method_effect)),
            "1|method:instructor_sigma": 0.1,
            "1|method:instructor": ("method:instructor", np.log(instructor_effect[order])),
            "sigma": 10 / 75,
        },
        coords={
            "method": np.arange(methods),
            "method:instructor": [f"{method_of[k]}:{k}" for k in order],
        },
    )
    return World(data, truth)
