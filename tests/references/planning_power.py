"""Power of balanced two-arm group-randomised designs with known variances, by statsmodels: answers for `plan`.

uv run --group bench python tests/references/planning_power.py

Writes planning_power.json. A design has `groups` groups an arm and `units` units a group; the arms differ by `effect`,
groups have standard deviation `tau`, units `sigma`. Means of groups are then independent Normal with variance
tau^2 + sigma^2 / units, which is what `NormalIndPower` takes. P(choose the best of K) with independent Normal means is
Bechhofer's (1954, Annals of Mathematical Statistics 25(1), equation 15) integral, by scipy's quadrature.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from scipy import integrate, stats
from statsmodels.stats.power import NormalIndPower

TWO_ARMS = [
    {"groups": groups, "units": units, "effect": effect, "tau": 0.4, "sigma": 1.0}
    for groups, units, effect in ((4, 10, 0.5), (10, 8, 0.5), (10, 8, 0.15), (30, 2, 0.4))
]
BEST_OF = [{"arms": arms, "groups": 6, "units": 5, "effect": 0.6, "tau": 0.5, "sigma": 1.0} for arms in (2, 3, 5)]


def two_arms(case: dict[str, float]) -> dict[str, float]:
    sd = math.sqrt(case["tau"] ** 2 + case["sigma"] ** 2 / case["units"])
    power = NormalIndPower().power(case["effect"] / sd, case["groups"], alpha=0.05, ratio=1, alternative="two-sided")
    return {**case, "power": float(power)}


def best_of(case: dict[str, float]) -> dict[str, float]:
    """One arm is better than all others by `effect`."""
    sd = math.sqrt((case["tau"] ** 2 + case["sigma"] ** 2 / case["units"]) / case["groups"])
    shift = case["effect"] / sd
    p, _ = integrate.quad(lambda z: stats.norm.pdf(z) * stats.norm.cdf(z + shift) ** (case["arms"] - 1), -12, 12)
    return {**case, "p_best": p}


if __name__ == "__main__":
    answers = {"two_arms": [two_arms(case) for case in TWO_ARMS], "best_of": [best_of(case) for case in BEST_OF]}
    Path(__file__).with_suffix(".json").write_text(json.dumps(answers, indent=1) + "\n", encoding="utf-8")
