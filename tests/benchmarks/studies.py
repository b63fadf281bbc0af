"""Seconds of 1,000 calibration replicates and 1,000 recoveries of the seed's full design, beside simuk's per replicate.

python -m uv run --group bench python tests/benchmarks/studies.py [REPLICATES] [SIMUK_REPLICATES]

The design is models/teaching_methods.py: 5 methods, 10 instructors each, 2,000 students each (100,000 units a
replicate); one replicate in 20 goes through rows, 200 posterior draws a replicate, all default test quantities. Every
study runs in a process of its own (imports not counted, but those of its two workers are); CPU seconds are of all its
processes, peak memory is the parent's and the largest worker's, at 200 and at all replicates.
simuk fits the hand-written PyMC twin of the same study by nutpie, 4 chains of 500 draws after 500 of tuning.

Measured 2026-11-22, two cores and workers: 1,000 replicates of sbc took 40.3 s, of recover 37.6 s (78 ms of CPU each;
peak memory of parent and worker 211 and 218 MB at 200 replicates, 213 and 218 MB at 1,000); the goal was
45 s. simuk took 27.9 s a replicate, about 700 times as long. Before the steps of the mode search and their derivatives
shared one batch, sbc took 74 s.

Where the time goes (profile of one replicate, 60 ms): 4 ms drawing the statistics, of which most is one normal number
and one log1p a student; 48 ms the hyperparameters (29 of them the mode search, 29 evaluations of 20 to 170 points each,
which cost 0.5 to 0.9 ms of NumPy calls however few the points; 10 the proposal's rounds); 6 ms effects, quantities and
ranks. What arithmetic asks for, 5,000 thetas of some 500 operations each and 100,000 normal numbers, is about 3 ms.
"""

from __future__ import annotations

import json
import resource
import runpy
import subprocess
import sys
import time
import warnings
from pathlib import Path

WHOSE = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
STUDY = Path(__file__).parents[2] / "models" / "teaching_methods.py"


def study(kind: str, replicates: int, jobs: int) -> None:
    """One study; prints seconds and peak memory."""
    from joblib.externals.loky import get_reusable_executor

    import bayeshlm as bh

    models = runpy.run_path(str(STUDY))
    work = {"replicates": replicates, "random_seed": 1, "n_jobs": jobs, "progress": False, "draws": 200}
    began = time.perf_counter()
    if kind == "sbc":
        result = bh.sbc(models["model"], models["design"], **work)
        rows = int(result["replicates"]["rows"].sum())
        said = f"passed {result.attrs['passed']}, quantities {result['verdict'].sizes['quantity']}"
    else:
        result = bh.recover(models["model"], models["design"], params=models["params"], **work)
        rows = int(result["rows"].sum())
        said = f"coverage of 95 %: {float(result['coverage'].sel(level=0.95).mean()):.3f}"
    took = time.perf_counter() - began
    get_reusable_executor().shutdown(wait=True)  # only then are the workers' times and memory known
    spent = sum(getattr(resource.getrusage(who), kind) for who in WHOSE for kind in ("ru_utime", "ru_stime"))
    peak = [resource.getrusage(who).ru_maxrss / 1024 for who in WHOSE]
    record = {
        "seconds": took, "cpu": spent, "rows": rows, "said": f"{said}, failed {result.attrs['failed']}",
        "parent": peak[0], "worker": peak[1],
    }  # fmt: skip
    print(json.dumps(record))


def simuk_study(replicates: int) -> None:
    """Seconds a replicate of simuk, compilation (once) included and apart."""
    import simuk

    import bayeshlm as bh

    models = runpy.run_path(str(STUDY))
    world = bh.simulate(models["model"], models["design"], random_seed=1)
    calibration = simuk.SBC(
        models["pymc_model"](world.data), num_simulations=replicates, seed=1, progress_bar=False,
        sample_kwargs={"draws": 500, "tune": 500, "chains": 4, "cores": 2, "nuts_sampler": "nutpie"},
    )  # fmt: skip
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calibration.run_simulations()
    print(json.dumps({"seconds": time.perf_counter() - began}))


def apart(*arguments: str) -> dict[str, float | str]:
    """Run this file with arguments in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(replicates: int, simuk_replicates: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "study", "replicates", "seconds", "CPU s", "ms a replicate", "through rows", "peak MB parent, worker", "result"
    )
    own = 0.0
    for kind in ("sbc", "recover"):
        for count in dict.fromkeys((min(200, replicates), replicates)):
            found = apart("study", kind, str(count), "2")
            own = float(found["seconds"]) / count if kind == "sbc" else own
            took = float(found["seconds"])
            cells = (f"{took:.1f}", f"{found['cpu']:.1f}", f"{1000 * took / count:.0f}", str(found["rows"]))
            table.add_row(
                kind, f"{count:,}", *cells, f"{found['parent']:.0f}, {found['worker']:.0f}", str(found["said"])
            )
    if simuk_replicates:
        took = float(apart("simuk", str(simuk_replicates))["seconds"]) / simuk_replicates
        said = f"{took / own:,.0f} times as long a replicate"
        whole = f"{took * simuk_replicates:.0f}"
        table.add_row("simuk", str(simuk_replicates), whole, "", f"{1000 * took:,.0f}", "all", "", said)
    Console(width=140).print(table)


if __name__ == "__main__":
    if sys.argv[1:2] == ["study"]:
        study(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1:2] == ["simuk"]:
        simuk_study(int(sys.argv[2]))
    else:
        main(*(int(argument) for argument in [*sys.argv[1:], *("1000", "2")[len(sys.argv) - 1 :]][:2]))
