"""Time and memory of `compress`, beside the plain group-by of the engine that does the work.

    python tests/benchmarks/compress_50m.py [FOLDER]

FOLDER (a temporary one by default) receives `make_rows.py`'s Parquet files of 1e5 to 5e7 rows, 0.8 GB for the largest;
with BENCH_ROWS=1e8 in the environment also 1e8. Times are minima of several calls; memory is the largest resident set
of a fresh process, Python and all its imports (200 MB) included.

2026-11-22, two cores, nothing else running, to 10 million rows (ratio to the plain group-by): 100,000 rows 0.066 s
(2.2), 1 million 0.084 s (1.6), 10 million 0.29 s (1.3); with logs 0.090 s (2.6), 0.12 s (2.1), 0.48 s (1.8). 50
million rows were measured under other load only: ratio of the minima 1.6, with logs 1.8, peak memory 232 MB. pandas:
100,000 lognormal rows 22 ms, groups as text 25 ms; 2,000,000 rows in 1,000,000 groups 2.8 s; 47 ms to the error of
one impossible value, 147 ms to that of a level with one row a group.

Distance from the physical limit: two 8-byte columns and two 4-byte keys of 50 million rows are 1.2 GB that pass memory
once; decoding Parquet and hashing keys take nearly all of the plain group-by's time, and `compress` asks for two sums
and three products instead of two sums, in the same single pass.

A billion rows, on paper: 16 GB of Parquet (16 bytes a row compressed), 24 GB decoded, 20 times the 50 million: one
machine takes 20 times the seconds above, memory as above, since it depends on groups and not on rows. On a Spark
cluster the same expressions become one aggregation: each of e.g. 200 tasks reads its 80 MB of row groups, sums by group
before the shuffle, and sends groups x 8 sums x 8 bytes (3 kB for 50 groups); the driver receives 3 kB. Ten 16-core
workers at 10 million rows a second and core have about a second of work each, plus Spark's own start of a job. With a
million groups each task sends up to 64 MB, and the shuffle, not the scan, is the cost.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]

from make_rows import make  # type: ignore[import-not-found]  # noqa: E402  # the script beside this one

import bayeshlm as bh  # noqa: E402  # the path is set above

PLAIN = bh.Model("score ~ hs_gpa + (1 | method/instructor)")
LOGS = bh.Model("score ~ log1p(hs_gpa) + (1 | method/instructor)", family="lognormal")
MEMORY = """
import resource, sys
import bayeshlm as bh
bh.compress(bh.Model("score ~ hs_gpa + (1 | method/instructor)"), sys.argv[1])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def best(call: Callable[[], object], times: int = 5) -> float:
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


def group_by(path: Path, x: str, y: str) -> None:
    query = f"SELECT method, instructor, sum({x}), sum({y}) FROM read_parquet('{path}') GROUP BY ALL"
    duckdb.connect().execute(query).fetchall()


def files(folder: Path) -> None:
    sizes = [1e5, 1e6, 1e7, 5e7, *([float(os.environ["BENCH_ROWS"])] if "BENCH_ROWS" in os.environ else [])]
    print(
        f"{'rows':>12} {'group-by':>9} {'compress':>9} {'ratio':>6} {'logs':>9} {'compress':>9} {'ratio':>6} {'MB':>6}"
    )
    for rows in map(int, sizes):
        path = make(folder, rows)
        plain = best(lambda path=path: group_by(path, "hs_gpa", "score"))
        ours = best(lambda path=path: bh.compress(PLAIN, path))
        logs = best(lambda path=path: group_by(path, "ln(1 + hs_gpa)", "ln(score)"))
        our_logs = best(lambda path=path: bh.compress(LOGS, path))
        out = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
        print(f"{rows:>12,} {plain:>8.3f}s {ours:>8.3f}s {ours / plain:>6.2f} {logs:>8.3f}s {our_logs:>8.3f}s "
              f"{our_logs / logs:>6.2f} {float(out.stdout):>6.0f}", flush=True)  # fmt: skip


def frames() -> None:
    rng = np.random.default_rng(1)

    def students(rows: int, groups: int) -> pd.DataFrame:
        instructor = rng.permutation(np.arange(rows) % groups)
        return pd.DataFrame({
            "method": instructor % 5, "instructor": instructor, "hs_gpa": rng.normal(3, 0.25, rows),
            "score": np.exp(rng.normal(7, 0.2, rows)),
        })  # fmt: skip

    small = students(100_000, 50)
    text = small.assign(method="m" + small.method.astype(str), instructor="i" + small.instructor.astype(str))
    print(f"pandas, 100,000 rows, lognormal: {1000 * best(lambda: bh.compress(LOGS, small), 20):.1f} ms")
    print(f"pandas, 100,000 rows, groups as text: {1000 * best(lambda: bh.compress(LOGS, text), 10):.1f} ms")
    many = students(2_000_000, 1_000_000)
    print(f"pandas, 2,000,000 rows in 1,000,000 groups: {best(lambda: bh.compress(PLAIN, many), 2):.2f} s")
    bad = small.assign(score=small.score.where(small.index != 77_777, -1.0))
    print(f"pandas, 100,000 rows, one impossible value: {1000 * best(lambda: refused(bad), 5):.0f} ms to the error")
    for formula in ("score ~ 1 + (1 | method/instructor/row)", "score ~ hs + (1 | m)"):
        table = small.assign(row=np.arange(len(small)))
        taken = best(lambda f=formula, d=table: refused(d, bh.Model(f, family="lognormal")), 3)
        print(f"pandas, 100,000 rows, {formula!r}: {1000 * taken:.0f} ms to the error")


def refused(data: pd.DataFrame, model: bh.Model = LOGS) -> None:
    try:
        bh.fit(model, data, progress=False)
    except bh.errors.BayeshlmError:
        return
    raise AssertionError("This data set should have been refused.")


if __name__ == "__main__":
    frames()
    if len(sys.argv) > 1:
        files(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            files(Path(temporary))
