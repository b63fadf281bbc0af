"""From a hundred to a million groups: time linear in them, memory bounded.

    PYTHONPATH=. python tests/benchmarks/groups.py [largest]

Rows are drawn by hand (2 a group on average, groups in 50 parents, y ~ x + (1 | a/b)); each size runs in a process of
its own, so that its peak memory is its own. Columns: processor seconds of `compress`, of `fit` from the statistics
(4 x 1,000 draws of every hyperparameter), of it per group, and the peak memory of the process. From 33,000 groups on
the inner level keeps exact means and standard deviations instead of draws (`effects="auto"`).

Measured on one thread of a busy machine, 2026-11-22:

    100 groups: compress   0.02 s, fit   0.58 s (  5790.0 us a group), draws, PASS, peak 0.22 GiB
    1,000 groups: compress   0.03 s, fit   0.90 s (   896.5 us a group), draws, PASS, peak 0.29 GiB
    10,000 groups: compress   0.04 s, fit   4.53 s (   453.0 us a group), draws, PASS, peak 0.81 GiB
    100,000 groups: compress   0.18 s, fit   5.29 s (    52.9 us a group), moments, PASS, peak 0.32 GiB
    1,000,000 groups: compress   1.81 s, fit  42.65 s (    42.7 us a group), moments, PASS, peak 0.86 GiB

Distance from the limit: evaluating the density needs no groups (those of equal size are one class); labels, and the
averaging of at least 200 conditional means and variances a group, are what is left: at 200 thetas about 200 * 60
floating-point operations a group, 12 s a million groups at 1 Gflop/s, which arrays of this shape reach. For random
intercepts the averages could be taken per class and parent instead, which would make them free.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import numpy as np
import pandas as pd

import bayeshlm as bh

SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
MODEL = bh.Model("y ~ x + (1 | a/b)", priors={
    "Intercept": bh.Normal(0, 5), "x": bh.Normal(0, 1), "1|a_sigma": bh.HalfNormal(1), "1|a:b_sigma": bh.HalfNormal(1),
    "sigma": bh.HalfNormal(1),
})  # fmt: skip


def rows(groups: int) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    count = 2 * groups
    inner = np.concatenate([np.arange(groups), rng.integers(0, groups, count - groups)])
    frame = pd.DataFrame({"a": inner % 50, "b": inner // 50, "x": rng.normal(0, 1, count)})
    effects = rng.normal(0, 0.5, 50)[frame["a"]] + rng.normal(0, 0.7, groups)[inner]
    frame["y"] = 1 + 0.3 * frame["x"] + effects + rng.normal(0, 1, count)
    return frame


def run(groups: int) -> None:
    bh.fit(MODEL, rows(100), random_seed=1, progress=False)  # imports
    frame = rows(groups)
    start = time.process_time()
    statistics = bh.compress(MODEL, frame)
    compressed = time.process_time()
    posterior = bh.fit(MODEL, statistics, random_seed=1, progress=False)
    fitted = time.process_time() - compressed
    kept = "moments" if "effect_moments" in posterior.children else "draws"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{groups:>9,} groups: compress {compressed - start:6.2f} s, fit {fitted:6.2f} s "
        f"({fitted / groups * 1e6:8.1f} us a group), {kept}, {posterior.attrs['status']}, peak {peak:.2f} GiB",
        flush=True,
    )


if __name__ == "__main__":
    if len(sys.argv) > 2:
        run(int(sys.argv[2]))
    else:
        largest = int(sys.argv[1]) if len(sys.argv) > 1 else SIZES[-1]
        for size in SIZES:
            if size <= largest:
                subprocess.run([sys.executable, __file__, "one", str(size)], check=True)
