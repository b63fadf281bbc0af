"""Seconds of a plan: 60 designs of the teaching-methods study, 200 replicates each, on two cores.

python -m uv run --group bench python tests/benchmarks/planning.py [REPLICATES]

5 methods; 4 to 40 instructors a method; 5 to 2,000 students each (20 to 200 groups, 100 to 400,000 students). Every fit
is a posterior of its own (1,024 draws of the methods' effects). Printed beside it: one fit's parts, single-threaded,
from a profile of 5 replicates in one process.
"""

from __future__ import annotations

import cProfile
import pstats
import runpy
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import bayeshlm as bh

study = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "models" / "teaching_methods.py")))
INSTRUCTORS = [4, 6, 8, 10, 12, 15, 20, 25, 30, 40]
STUDENTS = [5, 20, 50, 200, 500, 2000]
PARTS = ("simulate_statistics", "shared_params", "check_statistics", "quick_values", "score", "find_modes", "_resample",
         "draw_effects", "build_problem")  # fmt: skip


def plan(designs: list[bh.Design], replicates: int, n_jobs: int) -> float:
    began = time.perf_counter()
    found = bh.plan(
        study.model, designs, decide="method", replicates=replicates, n_jobs=n_jobs, random_seed=1,
        costs={"instructor": 500, "student": 5}, target={"expected_loss": 0.02},
    )  # fmt: skip
    took = time.perf_counter() - began
    print(f"{len(designs)} designs x {replicates} replicates, {n_jobs} processes: {took:.1f} s, "
          f"{1000 * took * n_jobs / (len(designs) * replicates):.1f} ms of a core a fit; "
          f"engine took over in {found.attrs['engine_took_over']}, failed {int(found['failed'].sum())}")  # fmt: skip
    print(found.attrs["recommendation"])
    return took


def main(replicates: int) -> None:
    designs = bh.Design.grid(
        method=5, instructor=INSTRUCTORS, student=STUDENTS, covariates={"hs_gpa": bh.Normal(3, 0.25)}
    )
    plan(designs, replicates, 2)
    profile = cProfile.Profile()
    profile.enable()
    plan(designs, 5, 1)
    profile.disable()
    stats = pstats.Stats(profile).get_stats_profile().func_profiles  # type: ignore[attr-defined]
    fits = 5 * len(designs)
    for name in PARTS:
        if name in stats:
            print(f"  {name:<22}{1000 * stats[name].cumtime / fits:8.2f} ms a fit (with the profiler's own cost)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
