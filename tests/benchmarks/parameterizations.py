"""How much the parameterisation matters: effective draws of the worst parameter, by form and study.

    python -m uv run --no-dev python tests/benchmarks/parameterizations.py [SEEDS]

The flagship (5 methods x 10 instructors x 2,000 students), a small study (3 x 4 x 10) and one whose instructors hardly
differ, each simulated from fixed parameters and sampled by `fit_nuts` in all four combinations of forms of its two
levels, with the form that "auto" chooses marked. 4 x 1,000 draws. The likelihood is the compressed one, so that the
times are those of a model of 51 observations, whatever the number of students. Each form is compiled at its first seed;
the others are other data of the same shape, for which nothing is compiled again. `information` is n_g tau^2 / sigma^2
of the two levels.

Measured 2026-11-22 (effective draws of the worst parameter of 4,000 at seeds 1 to 4, divergences in brackets; methods'
form, then instructors'; * what auto takes):

| methods | instructors | flagship | small | alike |
|---|---|---|---|---|
| non- | noncentered | 134 (0), 12 (67), 152 (0), 117 (1) | 41 (66), 786 (6), 732 (6), 629 (1) |
    *550 (0), *1,126 (1), *1,180 (0), *781 (1) |
| non- | centered | 978 (0), *845 (1), 898 (0), 1,239 (0) | *788 (0), *1,068 (8), *1,281 (3), *836 (10) |
    175 (38), 12 (144), 28 (250), 97 (9) |
| centered | non- | 145 (0), 31 (3), 53 (0), 50 (0) | 70 (84), 712 (96), 65 (182), 212 (98) |
    227 (54), 16 (217), 834 (82), 1,249 (33) |
| centered | centered | *2,427 (2), 56 (233), *1,853 (0), *2,104 (13) | 264 (95), 9 (357), 853 (105), 503 (113) |
    176 (36), 111 (74), 87 (86), 40 (25) |

The methods' information is 7.4, 0.85, 8.7, 5.4 in the flagship, 2.4, 0.73, 0.57, 1.9 in the small study and 2.8, 1.1,
0.73, 2.4 in the last; the instructors' 650 and more, 3.3 to 6.8, and 0.1. With few groups a standard deviation may be
nearly 0, whatever its median, and a centred form then has a funnel: which is why a level is centred beyond 3 and not
beyond 1, where the two forms of known standard deviations are equally quick. At the flagship's second seed the methods
hardly differ, and no form reaches 1,500. Compiling took 35 to 58 s of a busy core, a repeated fit none; fits 1 to 12 s.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys

import numpy as np

import bayeshlm as bh
from bayeshlm.engines.nuts import fit_nuts
from bayeshlm.engines.observations import from_statistics
from bayeshlm.engines.parameterization import plan_levels
from bayeshlm.posterior.convergence import convergence

MODEL = bh.Model(
    "score ~ log1p(hs_gpa) + (1 | method/instructor)",
    family="lognormal",
    priors={
        "Intercept": bh.Normal(7, 1), "log1p(hs_gpa)": bh.Normal(1, 0.5), "1|method_sigma": bh.HalfNormal(0.1),
        "1|method:instructor_sigma": bh.HalfNormal(0.2), "sigma": bh.HalfNormal(0.3),
    },
)  # fmt: skip
PARAMS = {
    "Intercept": np.log(1500), "log1p(hs_gpa)": 1.0, "1|method_sigma": 0.05, "1|method:instructor_sigma": 0.1,
    "sigma": 10 / 75,
}  # fmt: skip
STUDIES = {
    "flagship 5 x 10 x 2000": ((5, 10, 2000), PARAMS),
    "small 3 x 4 x 10": ((3, 4, 10), PARAMS),
    "alike 4 x 5 x 30": ((4, 5, 30), {**PARAMS, "1|method:instructor_sigma": 0.02, "sigma": 0.5}),
}
FORMS = {False: "noncentered", True: "centered"}


def statistics_of(study: str, seed: int) -> bh.Statistics:
    (methods, instructors, students), params = STUDIES[study]
    design = bh.Design.nested(
        method=methods, instructor=instructors, student=students, covariates={"hs_gpa": bh.Normal(3, 0.25)}
    )
    return bh.compress(MODEL, bh.simulate(MODEL, design, params=params, random_seed=seed).data)


def row(study: str, forms: tuple[bool, bool], seed: int) -> str:
    statistics = statistics_of(study, seed)
    auto = plan_levels(statistics, "auto")
    plans = tuple(dataclasses.replace(plan, centred=form) for plan, form in zip(auto, forms, strict=True))
    result = fit_nuts(statistics, from_statistics(statistics), draws=1000, chains=4, seed=seed, plans=plans)
    draws = [np.moveaxis(v.values.reshape(4, 1000, -1), 2, 0) for v in result.variables.values()]
    checked = convergence(np.concatenate(draws))
    compiling = float(result.attrs["compile_seconds"])
    return (
        f"| {study} | {seed} | {FORMS[forms[0]]} | {FORMS[forms[1]]} "
        f"| {'auto' if tuple(plan.centred for plan in auto) == forms else ''} "
        f"| {', '.join(f'{plan.information:.2g}' for plan in auto)} "
        f"| {checked.ess.min():.0f} | {checked.rhat.max():.3f} | {int(result.sample_stats['diverging'].sum())} "
        f"| {compiling:.1f} | {float(result.attrs['seconds']) - compiling:.1f} |"
    )


def main(seeds: int) -> None:
    print("| study | seed | methods | instructors | | information | min ESS | worst R-hat | divergences | compile s "
          "| fit s |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for study, forms in itertools.product(STUDIES, itertools.product((False, True), repeat=2)):
        for seed in range(1, seeds + 1):
            print(row(study, forms, seed), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
