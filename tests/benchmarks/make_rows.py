"""Writes a Parquet file of students for `compress_50m.py`, outside the repository.

    python tests/benchmarks/make_rows.py FOLDER [ROWS]

5 methods, 50 instructors each with an effect of their own, `hs_gpa` and `score` as doubles, 20 bytes a row on disk.
DuckDB draws every value from a hash of the row's number: the same file on any machine and with any number of threads,
50 million rows in about two minutes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import duckdb

UNIFORM = "((hash(i * 8 + {k}) >> 11) + 0.5) / 9007199254740992.0"
NORMAL = f"sqrt(-2 * ln({UNIFORM})) * cos(2 * pi() * {UNIFORM})"


def make(folder: Path, rows: int) -> Path:
    """The file's path; a file of that name and a size is kept."""
    path = folder / f"students_{rows}.parquet"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    gpa, noise = NORMAL.replace("{k}", "0", 1).replace("{k}", "1"), NORMAL.replace("{k}", "2", 1).replace("{k}", "3")
    duckdb.connect().execute(f"""
        COPY (
            SELECT (instructor % 5)::INTEGER AS method, instructor, hs_gpa,
                   exp(7 + 0.02 * instructor + ln(1 + hs_gpa) + 0.2 * noise) AS score
            FROM (SELECT (i % 50)::INTEGER AS instructor, 3 + 0.25 * ({gpa}) AS hs_gpa, {noise} AS noise
                  FROM range({rows}) t(i))
        ) TO '{str(part).replace("'", "''")}' (FORMAT parquet)
    """)
    part.replace(path)
    return path


if __name__ == "__main__":
    print(make(Path(sys.argv[1]), int(float(sys.argv[2])) if len(sys.argv) > 2 else 50_000_000))
