"""How much the parameterisation matters: effective draws of the worst parameter, by form and study.

    python -m uv run --no-dev python tests/benchmarks/parameterizations.py [SEEDS]

The flagship (5 methods x 10 instructors x 2,000 students), a small study (3 x 4 x 10) and one whose instructors hardly
differ, each simulated from fixed parameters and sampled by `fit_nuts` in all four combinations of the pure forms of its
two levels and as "auto" chooses. 4 x 1,000 draws. The likelihood is the compressed one, so that the times are those of
a model of 51 observations, whatever the number of students. Each form is compiled at its first seed; the others are
other data of the same shape, for which nothing is compiled again. `information` is n_g tau^2 / sigma^2 of the two
levels.

Measured 2026-11-23 (effective draws of the worst parameter of 4,000 at seeds 1 to 4, divergences in brackets; methods'
form, then instructors'):

| methods, instructors | flagship | small | alike |
|---|---|---|---|
| auto | 1,871 (0), 2,035 (0), 1,774 (1), 1,605 (0) | 1,315 (1), 1,666 (0), 2,125 (1), 1,217 (2) |
    1,166 (0), 2,085 (1), 1,618 (0), 1,262 (0) |
| non-, noncentered | 122 (3), 127 (8), 84 (1), 204 (0) | 745 (0), 1,235 (2), 1,024 (0), 1,025 (0) |
    1,579 (0), 1,661 (0), 1,889 (0), 1,350 (0) |
| non-, centered | 1,479 (0), 2,054 (0), 1,726 (0), 1,415 (0) | 1,371 (0), 2,143 (1), 2,201 (0), 512 (7) |
    140 (27), 4 (644), 69 (9), 98 (15) |
| centered, non- | 93 (0), 17 (18), 108 (0), 10 (355) | 164 (137), 47 (168), 40 (215), 544 (120) |
    1,326 (52), 197 (146), 84 (164), 440 (78) |
| centered, centered | 2,375 (5), 283 (131), 1,774 (1), 2,309 (9) | 427 (128), 283 (139), 352 (147), 842 (102) |
    4 (214), 6 (175), 150 (60), 15 (519) |

The methods' information is 7.4, 0.85, 8.7, 5.4 in the flagship (auto: partial but for the third seed), 2.4, 0.73, 0.57,
1.9 in the small study and 2.8, 1.1, 0.73, 2.4 in the last (partial); the instructors' 650 and more (centered), 3.3 to
6.8 (centered at seeds 1 and 3, else partial), and 0.1 (noncentered). Another run of the same form differs by a fifth or
so. Worst R-hat of auto: 1.006. Compiling took 18 to 45 s, a repeated fit none; fits about 1 s.

What made the difference, by the same table without it: the intercept that is sampled holds the deviations' mean (979,
845, 898, 1,239 at the flagship's non-, centered became 1,875, 1,443, 1,567, 1,817); the standard deviations' scale
(`pymc_transform`) is worth a third where groups hardly differ (801, 1,275, 1,450, 1,272 of alike's noncentered became
1,547, 1,678, 2,282, 1,793); a fifth of centring brings the flagship's methods from 1,493, 1,840, 1,857, 1,588 to 2,217,
2,491, 2,346, 2,296 in a run where all four had it. A higher target_accept (0.95) loses a quarter at the flagship.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys

import numpy as np

import bayeshlm as bh
from bayeshlm.engines.pymc.nuts import fit_nuts
from bayeshlm.engines.pymc.observations import from_statistics
from bayeshlm.engines.pymc.parameterization import described, plan_levels
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


def statistics_of(study: str, seed: int) -> bh.Statistics:
    (methods, instructors, students), params = STUDIES[study]
    design = bh.Design.nested(
        method=methods, instructor=instructors, student=students, covariates={"hs_gpa": bh.Normal(3, 0.25)}
    )
    return bh.compress(MODEL, bh.simulate(MODEL, design, params=params, random_seed=seed).data)


def row(study: str, forms: tuple[float, float] | None, seed: int) -> str:
    """One fit; None is for what "auto" chooses."""
    statistics = statistics_of(study, seed)
    plans = plan_levels(statistics, "auto")
    if forms is not None:
        plans = tuple(dataclasses.replace(plan, centring=form) for plan, form in zip(plans, forms, strict=True))
    result = fit_nuts(statistics, from_statistics(statistics), draws=1000, chains=4, seed=seed, plans=plans)
    draws = [np.moveaxis(v.values.reshape(4, 1000, -1), 2, 0) for v in result.variables.values()]
    checked = convergence(np.concatenate(draws))
    compiling = float(result.attrs["compile_seconds"])
    return (
        f"| {study} | {seed} | {'fixed' if forms else 'auto'} | {' | '.join(described(statistics, plans).values())} "
        f"| {', '.join(f'{plan.information:.2g}' for plan in plans)} "
        f"| {checked.ess.min():.0f} | {checked.rhat.max():.3f} | {int(result.sample_stats['diverging'].sum())} "
        f"| {compiling:.1f} | {float(result.attrs['seconds']) - compiling:.1f} |"
    )


def main(seeds: int) -> None:
    print("| study | seed | | methods | instructors | information | min ESS | worst R-hat | divergences | compile s "
          "| fit s |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for study, forms in itertools.product(STUDIES, (None, *itertools.product((0.0, 1.0), repeat=2))):
        for seed in range(1, seeds + 1):
            print(row(study, forms, seed), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
