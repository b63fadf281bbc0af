"""Seconds of fits whose response is not Gaussian: full posteriors, 4 x 1,000 draws, by the quadrature engine.

python -m uv run --group bench python tests/benchmarks/families.py [nuts]

The first fit of a fresh process comes first (compiled code is there already, but has to be loaded), then medians of
later ones, with processor seconds beside them, as another program's work shows in the former only. `nuts` adds our own
NUTS on the same data, second fit of its shape (minutes).
"""

from __future__ import annotations

import runpy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

import bayeshlm as bh

ARMS, SITES = 5, 10
CAP = 1.0
CENSORED = {"gaussian": (None, CAP)}


def make(family: str, rows: int, seed: int = 1) -> pd.DataFrame:
    """Five arms of ten sites, a continuous covariate."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(ARMS * SITES), rows // (ARMS * SITES))
    x = rng.normal(size=len(group))
    arm, site = rng.normal(0, 0.3, ARMS), rng.normal(0, 0.4, ARMS * SITES)
    eta = -0.5 + 0.5 * x + arm[group // SITES] + site[group]
    drawn: dict[str, Callable[[], np.ndarray]] = {
        "bernoulli": lambda: (rng.random(len(x)) < 1 / (1 + np.exp(-eta))).astype(int),
        "poisson": lambda: rng.poisson(np.exp(eta)),
        "negative_binomial": lambda: rng.poisson(np.exp(eta) * rng.gamma(3, 1 / 3, len(x))),
        "gaussian": lambda: np.minimum(eta + rng.normal(size=len(x)), CAP),
    }
    return pd.DataFrame({"arm": group // SITES, "site": group % SITES, "x": x, "y": drawn[family]()})


def timed(model: bh.Model, data: pd.DataFrame, engine: str, repeats: int) -> tuple[float, float, bh.Diagnosis]:
    """(median seconds, median processor seconds, diagnosis of the last)."""
    walls, processor = [], []
    for seed in range(repeats):
        wall, used = time.perf_counter(), time.process_time()
        posterior = bh.fit(model, data, engine=engine, random_seed=seed, progress=False)
        walls.append(time.perf_counter() - wall)
        processor.append(time.process_time() - used)
    return statistics.median(walls), statistics.median(processor), bh.diagnose(posterior)


def first_call() -> float:
    """Seconds from the start of a process to the end of its first fit."""
    code = "from tests.benchmarks.families import *; timed(*jobs()[0][1:], 'auto', 1)"
    began = time.perf_counter()
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=Path(__file__).parents[2])
    return time.perf_counter() - began


def jobs() -> list[tuple[str, bh.Model, pd.DataFrame]]:
    found = []
    for family, rows in (("bernoulli", 100_000), ("poisson", 100_000), ("negative_binomial", 100_000),
                         ("gaussian", 100_000), ("bernoulli", 2_000)):  # fmt: skip
        model = bh.Model("y ~ x + (1 | arm/site)", family=family, censored=CENSORED.get(family))
        found.append((f"{rows:,} rows, {family}{' capped' if family in CENSORED else ''}", model, make(family, rows)))
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(10_000), 10)
    yes = rng.random(len(group)) < 1 / (1 + np.exp(0.5 - rng.normal(0, 0.6, 10_000)[group]))
    few = pd.DataFrame({"g": group, "y": yes.astype(int)})
    found.append(("10,000 groups of 10 yes/no rows", bh.Model("y ~ 1 + (1 | g)", family="bernoulli"), few))
    return found


def trials(replicates: int = 100) -> float:
    """Seconds of simulation-based calibration of the clinic trial, one process."""
    study = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "models" / "clinic_trial.py")))
    began = time.perf_counter()
    bh.sbc(study.model, study.design, replicates=replicates, random_seed=1, n_jobs=1, progress=False)
    return time.perf_counter() - began


def main(nuts: bool) -> None:
    table = Table("job", "seconds", "processor seconds", "min bulk ESS", "status", title="4 x 1,000 draws")
    table.add_row("first fit of a process, imports included", f"{first_call():.2f}")
    for name, model, data in jobs():
        for engine in ("auto", "nuts") if nuts else ("auto",):
            wall, used, judged = timed(model, data, engine, 5 if engine == "auto" else 2)
            label = name if engine == "auto" else f"{name}, NUTS"
            table.add_row(label, f"{wall:.2f}", f"{used:.2f}", f"{judged.min_ess:.0f}", judged.status)
    table.add_row("100 sbc replicates of the clinic trial, one process", f"{trials():.1f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    main("nuts" in sys.argv[1:])
