"""The exact engine against long NUTS (nutpie) on the hand-written PyMC twins: every marginal."""

from __future__ import annotations

import numpy as np
import nutpie
import pandas as pd
import pymc as pm
import pytest
import xarray as xr
from arviz_stats.base import array_stats
from scipy.stats import norm

import bayeshlm as bh
from tests.models.gallery import load_study

FALSE_ALARM = 1e-4  # over all comparisons of one test
FIGURES = {
    "mean": (np.mean, {"method": "mean"}),
    "sd": (np.std, {"method": "sd"}),
    "5 %": (lambda draws: np.quantile(draws, 0.05), {"method": "quantile", "prob": 0.05}),
    "95 %": (lambda draws: np.quantile(draws, 0.95), {"method": "quantile", "prob": 0.95}),
}


def sample_twin(twin: pm.Model, *, draws: int, seed: int) -> xr.DataTree:
    """NUTS on the twin, in small steps: a standard deviation near 0 is a funnel for levels centred on their parent."""
    compiled = nutpie.compile_pymc_model(twin)
    return nutpie.sample(
        compiled, draws=draws, tune=1000, chains=4, cores=2, seed=seed, target_accept=0.95, progress_bar=False
    )


def assert_converged(nuts: xr.DataTree, names: list[str]) -> None:
    assert not nuts["sample_stats"]["diverging"].any()
    for name in names:
        for draws in scalars(nuts, name):
            assert array_stats.rhat(draws) < 1.01, name
            assert array_stats.ess(draws) > 400, name
            assert array_stats.ess(draws, method="tail", prob=(0.05, 0.95)) > 400, name


def scalars(tree: xr.DataTree, name: str) -> list[np.ndarray]:
    """(chain, draw) of each scalar of a variable; not of a correlation matrix's diagonal."""
    values = tree["posterior"][name].to_numpy()
    return [v for v in np.moveaxis(values.reshape(*values.shape[:2], -1), 2, 0) if np.ptp(v) > 1e-12]


def assert_same_marginals(exact: xr.DataTree, nuts: xr.DataTree) -> None:
    """Means, standard deviations and 5 % and 95 % quantiles; errors from both chains' MCSE, Bonferroni over all."""
    z = {}
    for name in exact["posterior"].data_vars:
        both = zip(scalars(exact, name), scalars(nuts, name), strict=True)
        for k, (mine, theirs) in enumerate(both):
            for label, (figure, mcse) in FIGURES.items():
                error = np.hypot(array_stats.mcse(mine, **mcse), array_stats.mcse(theirs, **mcse))
                z[f"{label} of {name} {k}"] = (figure(mine) - figure(theirs)) / error
    limit = norm.isf(FALSE_ALARM / 2 / len(z))
    off = {name: round(float(value), 2) for name, value in z.items() if not abs(value) < limit}
    assert not off, f"beyond {limit:.2f} Monte Carlo errors, of {len(z)} figures: {off}"


def check(model: bh.Model, twin: pm.Model, data: pd.DataFrame, *, draws: int, seed: int) -> None:
    exact = bh.fit(model, data, draws=draws, random_seed=seed)
    assert exact.attrs["status"] == "PASS"
    assert not exact.attrs["fallback"]
    nuts = sample_twin(twin, draws=draws, seed=seed)
    assert_converged(nuts, list(exact["posterior"].data_vars))
    assert_same_marginals(exact, nuts)


def teaching(instructors: int, students: int, seed: int) -> pd.DataFrame:
    """A world whose methods clearly differ, so that NUTS, too, explores every corner."""
    study = load_study("teaching_methods")
    design = bh.Design.nested(
        method=5, instructor=instructors, student=students, covariates={"hs_gpa": bh.Normal(3, 0.25)}
    )
    params = {**study.params, "1|method": [-0.25, -0.1, 0.0, 0.15, 0.2], "1|method_sigma": 0.2}
    return bh.simulate(study.model, design, params=params, random_seed=seed).data


def star(schools: int | None = None) -> pd.DataFrame:
    data = load_study("star_class_size").load().dropna(subset=["read"])
    return data if schools is None else data[data["sch"] <= schools]


def test_lognormal_teaching_study() -> None:
    study, data = load_study("teaching_methods"), teaching(4, 20, seed=1)
    check(study.model, study.pymc_model(data), data, draws=1000, seed=1)


def test_gaussian_star_subset() -> None:
    study, data = load_study("star_class_size"), star(schools=5)
    check(study.model, study.pymc_model(data), data, draws=1000, seed=2)


@pytest.mark.long
def test_lognormal_teaching_study_long() -> None:
    study, data = load_study("teaching_methods"), teaching(10, 200, seed=3)
    check(study.model, study.pymc_model(data), data, draws=10_000, seed=3)


@pytest.mark.long
def test_gaussian_star_long() -> None:
    study, data = load_study("star_class_size"), star()
    check(study.model, study.pymc_model(data), data, draws=2000, seed=4)
