"""`bayeshlm simulate` and `bayeshlm pymc`: a study file in; data and the truth behind them, or its model, out."""

from __future__ import annotations

import dataclasses
import os
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeshlm.cli.terminal import Terminal
from bayeshlm.errors import DataError, DesignError, listed
from bayeshlm.storage.whole import write_whole

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from bayeshlm.simulation.design import Design
    from bayeshlm.spec.model import Model

DATA_SUFFIXES = (".csv", ".csv.gz", ".parquet", ".pq")
TRUTH_SUFFIXES = (".nc",)
MODULE = "bayeshlm_study_file"
MAPPINGS = ("params", "costs", "target", "plan_params")


@dataclass(frozen=True)
class StudyFile:
    """What a study file defines: `params` for simulate and recover, the names after it for plan."""

    model: Model
    design: Design
    params: Mapping[str, Any] | None = None
    designs: Any = None
    decide: Any = None
    costs: Mapping[str, Any] | None = None
    target: Mapping[str, Any] | None = None
    maximize: bool | None = None
    plan_params: Mapping[str, Any] | None = None


def run(terminal: Terminal, study: str, *, out: Path, truth: Path | None, seed: int | None) -> None:
    """Simulate a study and write it."""
    check_targets([(out, DATA_SUFFIXES), (truth, TRUTH_SUFFIXES)])
    loaded = terminal.stage("load", lambda: load_study(study), lambda s: f"{s.model.formula}, {s.model.family}")
    from bayeshlm.simulation.simulate import simulate

    world = terminal.stage(
        "simulate",
        lambda: simulate(loaded.model, loaded.design, params=loaded.params, random_seed=seed),
        lambda w: f"{len(w.data):,} rows, {w.data.shape[1]} columns",
    )
    terminal.stage("write", lambda: write_data(world.data, out), lambda p: str(p))
    if truth is not None:
        terminal.stage("write", lambda: write_result(world.truth, truth), lambda p: str(p))


def show_source(terminal: Terminal, study: str, *, parameterization: str) -> None:
    """Print the PyMC source of a study's model, bound to the columns that its design makes."""
    loaded = load_study(study)
    from bayeshlm.data.compress import complete_rows, moments
    from bayeshlm.engines.pymc.source.writer import pymc_source
    from bayeshlm.simulation.simulate import simulate

    world = simulate(loaded.model, loaded.design, params=loaded.params, random_seed=0)
    statistics = moments(loaded.model, complete_rows(loaded.model, world.data, "drop"))
    terminal.text(pymc_source(statistics, parameterization=parameterization))


def load_study(reference: str) -> StudyFile:
    """Run a study file and take `model`, `design` and, where there are such, the other fields of `StudyFile` from it.

    Parameters
    ----------
    reference : str
        ``file.py``, or ``file.py:name`` for an object or mapping of that name in the file.

    Raises
    ------
    DesignError
        Where the file, the name, or what it must define is missing, or the file's own code fails.
    """
    path, name = _split(reference)
    found: Any = _execute(path)
    where = f"{str(path)!r}"
    if name:
        if name not in found:
            public = sorted(key for key in found if not key.startswith("_"))
            raise DesignError(f"{where} defines no {name!r}. It defines {listed(public, 20)}.")
        found = found[name]
        where = f"{name!r} in {where}"
    parts = {field.name: _part(found, field.name) for field in dataclasses.fields(StudyFile)}
    from bayeshlm.simulation.design import Design
    from bayeshlm.spec.model import Model

    problems = [
        f"{part!r} is missing" if parts[part] is None else f"{part!r} is a {type(parts[part]).__name__}"
        for part, kind in (("model", Model), ("design", Design))
        if not isinstance(parts[part], kind)
    ]
    problems += [
        f"{part!r} is a {type(parts[part]).__name__}, not a mapping of name to value"
        for part in MAPPINGS
        if parts[part] is not None and not isinstance(parts[part], Mapping)
    ]
    if problems:
        raise DesignError(
            f"{where}: {'; '.join(problems)}. A study defines model = bayeshlm.Model(...) and "
            "design = bayeshlm.Design.nested(...), and may define params = {name: value}."
        )
    return StudyFile(**parts)


def _split(reference: str) -> tuple[Path, str]:
    head, colon, name = reference.rpartition(":")
    path = Path(head) if colon and head.endswith(".py") else Path(reference)
    if not path.is_file():
        raise DesignError(f"No study file at {str(path)!r}. Give a Python file, or file.py:name.")
    if path.suffix != ".py":
        raise DesignError(f"{str(path)!r} is no Python file; a study is described in a .py file.")
    return path, name if colon and head.endswith(".py") else ""


def _execute(path: Path) -> dict[str, Any]:
    """Names that the file defines. Its folder is importable meanwhile, as for `python file.py`."""
    module = types.ModuleType(MODULE)
    module.__file__ = str(path)
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    sys.modules[MODULE] = module  # dataclasses look their module up
    try:
        exec(compile(path.read_bytes(), str(path), "exec"), vars(module))  # the user's own file, named to be run
    except (SystemExit, Exception) as error:  # whatever the file does wrong, its author wants to know what and where
        raise DesignError(f"{_place(path, error)}: {type(error).__name__}: {error}") from error
    finally:
        sys.modules.pop(MODULE, None)
        sys.path.remove(folder)
    return vars(module)


def _place(path: Path, error: BaseException) -> str:
    """The file and the line of it that failed."""
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == str(path) else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return str(path) if line is None else f"{path}, line {line}"


def _part(found: Any, name: str) -> Any:
    return found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)


def check_targets(targets: list[tuple[Path | None, tuple[str, ...]]]) -> None:
    """Refuse files that could not be written, before any work. Raises DataError naming all of them."""
    problems = []
    for path, suffixes in targets:
        if path is None:
            continue
        if not path.name.lower().endswith(suffixes):
            problems.append(f"{str(path)!r} must end in {' or '.join(suffixes)}")
        if not path.parent.is_dir():
            problems.append(f"the folder of {str(path)!r} does not exist")
        elif not os.access(path.parent, os.W_OK):
            problems.append(f"the folder of {str(path)!r} cannot be written to")
    if problems:
        text = "; ".join(problems)
        raise DataError(f"{text[0].upper()}{text[1:]}.")


def write_data(data: pd.DataFrame, path: Path) -> Path:
    """Write a table as CSV or Parquet, by suffix, whole or not at all. DuckDB does it, so pyarrow is not needed."""
    import duckdb

    def write(part: Path) -> None:
        with duckdb.connect() as connection:
            relation = connection.from_df(data)
            if path.name.lower().endswith((".csv", ".csv.gz")):
                relation.write_csv(str(part), header=True)
            else:
                relation.write_parquet(str(part), compression="zstd")

    try:
        write_whole(path, write)
    except (OSError, duckdb.IOException) as error:
        raise DataError(f"{str(path)!r} cannot be written: {getattr(error, 'strerror', None) or error}.") from error
    return path


def write_result(result: xr.Dataset | xr.DataTree, path: Path) -> Path:
    """Write a truth or a study's result as NetCDF, whole or not at all."""
    from bayeshlm.posterior.store import save

    return save(result, path)
