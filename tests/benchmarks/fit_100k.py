"""Seconds side by side: bayeshlm's full posterior and its stages, and the fastest point estimators of the same model.

python -m uv run --group bench python tests/benchmarks/fit_100k.py [STUDENTS_PER_INSTRUCTOR]

One process, one thread for all (threadpoolctl), imports beforehand; medians. The point estimators get the logs,
bayeshlm makes its own. The restricted log-likelihood (REML, of log score) at each estimate stands beside its time, so
that speed bought by a worse optimum would show; bayeshlm's is the maximum of its collapsed density under flat priors,
the timed fit has the model's own.
"""

from __future__ import annotations

import math
import runpy
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import interlace
import numpy as np
import pandas as pd
import statsmodels.formula.api as smf
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

import bayeshlm as bh
from bayeshlm.engines.exact.build import build_problem
from bayeshlm.engines.exact.density.nested import Marginal
from bayeshlm.engines.exact.hyperparameters import search_box
from bayeshlm.engines.sampling import importance

study = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "models" / "teaching_methods.py")))

SIGMAS = ("1|method_sigma", "1|method:instructor_sigma")


def seconds(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """(median seconds, last result)."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = work()
        times.append(time.perf_counter() - started)
    return statistics.median(times), result


def make(students: int) -> pd.DataFrame:
    sizes = {"method": 5, "instructor": 10, "student": students}
    design = bh.Design.nested(**sizes, covariates={"hs_gpa": bh.Normal(3, 0.25)})
    data = bh.simulate(study.model, design, params=study.params, random_seed=1).data
    # Labels, as the other packages expect of groups; bayeshlm takes either.
    return data.assign(
        log_score=np.log(data["score"]), x=np.log1p(data["hs_gpa"]), method="m" + data["method"].astype(str),
        instructor="i" + data["instructor"].astype(str),
    )  # fmt: skip


def reml(data: pd.DataFrame) -> float:
    """Largest restricted log-likelihood of log score, by bayeshlm's collapsed density."""
    flat = bh.Model(study.model.formula, family="lognormal", priors=dict.fromkeys(study.model.parameters, bh.Flat()))
    compressed = bh.compress(flat, data)
    marginal = Marginal(build_problem(compressed))

    def loss(logs: np.ndarray) -> float:
        sigma, method, instructor = np.exp(logs)
        swept = marginal.sweep(np.array([sigma]), [np.full((1, 1, 1), method), np.full((1, 1, 1), instructor)])
        return compressed.log_jacobian - float(swept.log_likelihood[0])

    options = {"xatol": 1e-7, "fatol": 1e-9, "maxiter": 2000}
    start = np.log([study.params["sigma"], *(study.params[name] for name in SIGMAS)])
    return -float(minimize(loss, start, method="Nelder-Mead", options=options).fun)


def stages(data: pd.DataFrame, seed: int) -> list[tuple[str, float]]:
    """The fit's parts, one after the other."""
    t_compress, compressed = seconds(lambda: bh.compress(study.model, data), 5)
    problem = build_problem(compressed)
    marginal = Marginal(problem)
    low, high = search_box(problem)

    def density(theta: np.ndarray) -> np.ndarray:
        return marginal.log_density(theta)[0]

    def hyperparameters() -> importance.Draws:
        return importance.sample(density, low, high, draws=1000, chains=4, rng=np.random.default_rng(seed))

    t_theta, drawn = seconds(hyperparameters, 5)
    theta = drawn.theta.reshape(-1, problem.size)
    t_effects, _ = seconds(lambda: marginal.draw_effects(theta, np.random.default_rng(seed)), 5)
    return [("compress", t_compress), ("hyperparameters", t_theta), ("effects", t_effects)]


def import_ratio() -> tuple[float, float]:
    """Fastest of 15 interleaved imports of NumPy and of bayeshlm, each in its own process."""
    best = {"numpy": math.inf, "bayeshlm": math.inf}
    for _ in range(15):
        for package in best:
            run = seconds(lambda p=package: subprocess.run([sys.executable, "-c", f"import {p}"], check=True), 1)
            best[package] = min(best[package], run[0])
    return best["numpy"], best["bayeshlm"]


def main(students: int) -> None:
    data = make(students)
    bh.fit(study.model, data.iloc[:: max(students // 20, 1)], random_seed=0)  # lazy imports
    full, posterior = seconds(lambda: bh.fit(study.model, data, random_seed=1), 7)
    hyper = bh.summarize(posterior)
    table = Table("what", "seconds", "log-likelihood", "times the full fit", title=f"{len(data):,} rows")

    def row(what: str, took: float, likelihood: float | None = None) -> None:
        table.add_row(what, f"{took:.3f}", "" if likelihood is None else f"{likelihood:.3f}", f"{took / full:.2f}")

    row("bayeshlm fit, 4 x 1,000 draws", full, reml(data))
    parts = stages(data, 1)
    for what, took in parts:
        row(f"  {what}", took)
    row("  tree and the rest", full - sum(took for _, took in parts))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both warn of their own optimisers; the log-likelihood shows the result
        took, fit = seconds(lambda: interlace.fit(
            "log_score ~ x", data, random=["(1 | method/instructor)"], method="REML"), 3)  # fmt: skip
        row("interlace-lme, point estimate", took, fit.llf)
        took, fit = seconds(lambda: smf.mixedlm(
            "log_score ~ x", data, groups="method", re_formula="1", vc_formula={"instructor": "0 + C(instructor)"},
        ).fit(reml=True), 1)  # fmt: skip
        row("statsmodels MixedLM, point estimate", took, fit.llf)
    tenfold = make(10 * students)
    took, _ = seconds(lambda: bh.fit(study.model, tenfold, random_seed=1), 3)
    row(f"bayeshlm fit, {len(tenfold):,} rows", took)
    numpy_import, own_import = import_ratio()
    console = Console(width=100)
    console.print(table)
    ess = hyper["ess_bulk"].min()
    console.print(f"min bulk ESS {ess:.0f} over all {len(hyper)} scalars; status {posterior.attrs['status']}")
    ratio = own_import / numpy_import
    console.print(f"import numpy {numpy_import:.3f} s, import bayeshlm {own_import:.3f} s: {ratio:.2f} times")


if __name__ == "__main__":
    with threadpool_limits(limits=1):
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
