"""How much the parameterisation matters: effective draws of the worst parameter, by form and study.

    python -m uv run --no-dev python tests/benchmarks/parameterizations.py [SEEDS]

The flagship (5 methods x 10 instructors x 2,000 students), a small study (3 x 4 x 10) and one whose instructors hardly
differ, each simulated from fixed parameters and sampled by `fit_nuts` in all four combinations of forms of its two
levels, with the form that "auto" chooses marked. 4 x 1,000 draws. The likelihood is the compressed one, so that the
times are those of a model of 51 observations, whatever the number of students. Each form is compiled at its first seed;
the others are other data of the same shape, for which nothing is compiled again. `information` is n_g tau^2 / sigma^2
of the two levels.

Measured so far (2026-11-22, two cores shared with other work at a load of 8 to 13, so that times say little; flagship,
four seeds): both levels non-centred 36 to 99 effective draws, R-hat to 1.09, 0 to 31 divergences; methods non-centred
and instructors centred 950 to 1,297, R-hat at most 1.006, no divergence. The forms with centred methods, and the other
studies, have not been measured yet. Compiling took 21 to 29 s of one core, a repeated fit none.
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
