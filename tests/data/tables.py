"""One data set in every frame, and statistics by plain NumPy loops: an oracle that shares no code with the package."""

from collections.abc import Callable
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa


def table(n: int = 120, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    school = rng.integers(0, 4, n)
    return pd.DataFrame({
        "y": rng.normal(3, 2, n), "x": rng.normal(1, 0.5, n), "z": rng.uniform(0.5, 2, n),
        "arm": rng.choice(["plain", "aide", "small"], n), "grade": rng.integers(1, 4, n),
        "school": school, "teacher": [f"t{k}" for k in rng.integers(0, 3, n)], "w": rng.uniform(0.5, 3, n),
        "se": rng.uniform(0.2, 1.5, n),
    })  # fmt: skip


def _duckdb(d: pd.DataFrame) -> Any:
    return duckdb.connect().from_arrow(pa.Table.from_pandas(d, preserve_index=False))


IN_MEMORY: dict[str, Callable[[pd.DataFrame], Any]] = {
    "pandas": lambda d: d,
    "pandas nullable": lambda d: d.convert_dtypes(),
    "pandas arrow": lambda d: d.convert_dtypes(dtype_backend="pyarrow"),
    "polars": pl.from_pandas,
    "polars lazy": lambda d: pl.from_pandas(d).lazy(),
    "pyarrow": lambda d: pa.Table.from_pandas(d, preserve_index=False),
    "duckdb": _duckdb,
}


def _csv(d: pd.DataFrame, folder: Any) -> Any:
    """Two files, of which a glob makes one table."""
    for k in range(2):
        d[d.index % 2 == k].to_csv(folder / f"data {k}.csv", index=False)
    return str(folder / "data*.csv")


def _parquet(d: pd.DataFrame, folder: Any) -> Any:
    d.to_parquet(folder / "data.parquet", index=False)
    return folder / "data.parquet"


def _database(d: pd.DataFrame, folder: Any) -> Any:
    """A table whose name is SQL, beside another one."""
    file = folder / "trial data.duckdb"
    with duckdb.connect(str(file)) as connection:
        connection.register("d", pa.Table.from_pandas(d, preserve_index=False))
        connection.execute(f"CREATE TABLE {ODD_TABLE_QUOTED} AS SELECT * FROM d")
        connection.execute("CREATE TABLE other AS SELECT 1 AS y")
    return f"{file}::{ODD_TABLE}"


ODD_TABLE = 'scores"; DROP TABLE other; --'
ODD_TABLE_QUOTED = '"' + ODD_TABLE.replace('"', '""') + '"'
IN_FILES: dict[str, Callable[[pd.DataFrame, Any], Any]] = {
    "csv": _csv,
    "parquet": _parquet,
    "database": _database,
    "polars scan": lambda d, folder: pl.scan_parquet(_parquet(d, folder)),
}
KINDS = [*IN_MEMORY, *IN_FILES]


def convert(kind: str, d: pd.DataFrame, folder: Any) -> Any:
    return IN_FILES[kind](d, folder) if kind in IN_FILES else IN_MEMORY[kind](d)


def moments(columns: np.ndarray, weight: np.ndarray, group: list[Any]) -> dict[Any, tuple[float, float, Any, Any]]:
    """Group -> (rows, weight, mean, scatter), two passes in plain loops."""
    out = {}
    for label in dict.fromkeys(group):
        rows = [k for k, g in enumerate(group) if g == label]
        w, a = weight[rows], columns[rows]
        mean = sum(w[k] * a[k] for k in range(len(rows))) / w.sum()
        scatter = sum(w[k] * np.outer(a[k] - mean, a[k] - mean) for k in range(len(rows)))
        out[label] = (len(rows), w.sum(), mean, scatter)
    return out


def by_cell(statistics: Any) -> dict[Any, tuple[float, float, Any, Any]]:
    """The same from a Statistics record, by the groups' labels on every level."""
    out = {}
    for k, codes in enumerate(statistics.codes):
        label = tuple(statistics.members[level][code] for level, code in enumerate(codes))
        out[label] = (
            statistics.count[k], statistics.weight[k], statistics.mean[k] + statistics.shift, statistics.scatter[k]
        )  # fmt: skip
    return out


def assert_same(left: Any, right: Any, rtol: float, *, declared: bool = True) -> None:
    """Two records describe the same rows: cells by label, everything to `rtol` of its own scale."""
    a, b = by_cell(left), by_cell(right)
    assert a.keys() == b.keys()
    _, _, scatter = left.total()
    spread = np.sqrt(np.maximum(np.diag(scatter), 0) / left.rows)
    size = np.maximum(spread, np.abs(left.shift)) + 1e-300
    for label, (count, weight, mean, square) in a.items():
        assert count == b[label][0]
        np.testing.assert_allclose(weight, b[label][1], rtol=rtol)
        np.testing.assert_allclose(mean / size, b[label][2] / size, rtol=0, atol=rtol)
        unit = np.outer(spread + 1e-300, spread + 1e-300) * left.weight.sum()
        np.testing.assert_allclose(square / unit, b[label][3] / unit, rtol=0, atol=rtol)
    assert (left.rows, left.total_rows, left.missing) == (right.rows, right.total_rows, right.missing)
    np.testing.assert_allclose(left.sum_log_weight, right.sum_log_weight, rtol=rtol, atol=rtol * left.rows)
    np.testing.assert_allclose(left.log_jacobian, right.log_jacobian, rtol=rtol, atol=rtol * left.rows)
    for field in ("columns", "common", "levels", "categories", *(["declared"] if declared else [])):
        assert getattr(left.layout, field) == getattr(right.layout, field)
    assert left.layout.constants.keys() == right.layout.constants.keys()
    for node, pair in left.layout.constants.items():
        np.testing.assert_allclose(pair, right.layout.constants[node], rtol=rtol)
    assert left.members == right.members
