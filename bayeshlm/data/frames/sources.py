"""Paths -> frames: CSV, Parquet and tables of DuckDB database files, all read by DuckDB."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import narwhals as nw

from bayeshlm.errors import DataError, listed

WORDS = ("", "NA", "NaN", "nan", "null", "NULL")  # what stands for a missing value, as pandas.read_csv has it
READERS = {".csv": "csv", ".tsv": "csv", ".txt": "csv", ".parquet": "parquet", ".pq": "parquet"}
DATABASES = (".duckdb", ".ddb", ".db")
# Quotes are stated: guessed from the first rows, they are missed where only later rows or files have them. So is the
# header, which DuckDB would not take for one where a name is empty, as pandas leaves that of its index.
QUOTES: dict[str, Any] = {"quotechar": '"', "escapechar": '"'}
TABLE = "::"  # between a database file and its table


def open_path(path: str) -> nw.LazyFrame[Any]:
    """A file, a glob of files of one kind, or ``file.duckdb::table``. Nothing is read but types.

    Raises
    ------
    DataError
        If the path leads nowhere, its type is unknown, or DuckDB cannot read it.
    """
    file, separator, table = path.partition(TABLE)
    if separator and Path(file).suffix.lower() in DATABASES:
        return _open_table(file, table)
    found = [path] if os.path.isfile(path) else sorted(glob.glob(path))  # a file whose name holds [ is itself
    if not found:
        raise DataError(f"No file at {path!r}.")
    suffixes = {_suffix(name) for name in found}
    if suffixes & set(DATABASES):
        raise DataError(f"{path!r} is a database; name the table too: '{path}{TABLE}table'.")
    kinds = {READERS.get(suffix) for suffix in suffixes}
    if len(kinds) != 1 or None in kinds:
        raise DataError(f"{path!r}: cannot read {listed(sorted(suffixes))}; known are {', '.join(READERS)} (and .gz).")
    return _open_files(path, found, "csv" in kinds)


def _open_files(path: str, found: list[str], csv: bool) -> nw.LazyFrame[Any]:
    import duckdb

    connection = duckdb.connect()
    names = [glob.escape(name) for name in found]  # DuckDB would take brackets in a found name for a pattern
    try:
        if csv:
            relation = connection.read_csv(names, header=True, na_values=list(WORDS), **QUOTES)
        else:
            relation = connection.read_parquet(names)
        _check_names(connection, found, relation.columns, _names_in_csv if csv else _names_in_parquet)
    except duckdb.Error as error:
        raise DataError(f"{path!r} cannot be read: {str(error).splitlines()[0]}") from error
    return nw.from_native(relation)


def _check_names(
    connection: Any, files: list[str], columns: list[str], names_in: Callable[[Any, str], list[str]]
) -> None:
    """Refuse a name that several columns have: DuckDB would call the second x_1, and the first would be taken."""
    if not any((end := re.fullmatch(r"(.*)_\d+", name)) and end[1] in columns for name in columns):
        return
    for file in files:
        twice = [name for name, count in Counter(names_in(connection, glob.escape(file))).items() if count > 1]
        if twice:
            raise DataError(
                f"{file!r}: column {listed(twice)} is there more than once. Rename or drop one of the two, so that a "
                "name means one column."
            )


def _names_in_csv(connection: Any, file: str) -> list[str]:
    header = connection.read_csv(file, header=False, all_varchar=True, **QUOTES).limit(1).fetchall()[0]
    return [name for name in header if name is not None]


def _names_in_parquet(connection: Any, file: str) -> list[str]:
    """Of the columns themselves; the schema lists what is nested in them behind each."""
    rows = connection.execute("SELECT name, num_children FROM parquet_schema(?)", [file]).fetchall()
    names, inside = [], 0
    for name, children in rows[1:]:
        names += [name] if inside == 0 else []
        inside = max(inside - 1, 0) + (children or 0)
    return names


def _open_table(file: str, table: str) -> nw.LazyFrame[Any]:
    """A table or view of a database file, which is opened read-only and may have any name."""
    import duckdb

    if not os.path.isfile(file):
        raise DataError(f"No file at {file!r}.")
    try:
        connection = duckdb.connect(file, read_only=True)
        query = "SELECT table_schema, table_name FROM information_schema.tables WHERE table_catalog = current_catalog()"
        known = {name if schema == "main" else f"{schema}.{name}": (schema, name)
                 for schema, name in connection.execute(query).fetchall()}  # fmt: skip
    except duckdb.Error as error:
        raise DataError(f"{file!r} cannot be read: {str(error).splitlines()[0]}") from error
    if table not in known:
        raise DataError(f"{file!r} has no table {table!r}; it has {listed(sorted(known)) or 'none'}.")
    quoted = ".".join('"' + part.replace('"', '""') + '"' for part in known[table])
    try:
        return nw.from_native(connection.sql(f"SELECT * FROM {quoted}"))
    except duckdb.Error as error:  # a view of something that is gone
        raise DataError(f"{file}{TABLE}{table} cannot be read: {str(error).splitlines()[0]}") from error


def _suffix(name: str) -> str:
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    return suffixes[-2] if len(suffixes) > 1 and suffixes[-1] in (".gz", ".zst") else (suffixes or [""])[-1]
