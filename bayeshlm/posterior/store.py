"""Save and load results and statistics: NetCDF or Zarr by suffix, whole or not at all, with a checksum.

Loading runs no code, and believes nothing: bytes are checked before they are parsed, attributes before they are used.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeshlm.data.statistics import Statistics
from bayeshlm.data.store import statistics_from_dataset, statistics_to_dataset
from bayeshlm.errors import BayeshlmError, BayeshlmWarning, DataError, outside_package
from bayeshlm.spec.model import Model
from bayeshlm.storage.attributes import problems_of
from bayeshlm.storage.checksum import ATTRIBUTE, BLANK, ROOT, stamp, verify
from bayeshlm.storage.netcdf import write_netcdf
from bayeshlm.storage.whole import recover, write_whole

if TYPE_CHECKING:
    import xarray as xr

FORMATS = {".nc": "netcdf", ".netcdf": "netcdf", ".h5": "netcdf", ".zarr": "zarr"}
KIND = "bayeshlm_kind"  # an attribute that only files of statistics have
STUDIES = ("sbc", "recover", "plan")
FLAT = ("recover", "plan")  # results that are one Dataset
ZARR_FILES = {ROOT, ".zgroup"}  # one of which every Zarr folder has


def save(posterior: xr.DataTree | xr.Dataset | Statistics, path: str | os.PathLike[str]) -> Path:
    """Write a posterior, statistics, or the result of a study, with a checksum over every byte.

    The file is there whole or not at all, also where the disk is full, Ctrl-C comes or the process is killed; what was
    there before is lost only when the new one is in its place. (A Zarr folder takes two steps to replace; where the
    process is killed between them, the next `load` or `save` of this path takes the second.) The permissions of what
    was there are kept, and what killed processes left beside it is cleared.

    Parameters
    ----------
    posterior : xarray.DataTree, xarray.Dataset or Statistics
        Of `fit`, `predict`, `sbc`, `recover`, `plan` or `compress`.
    path : path ending in .nc (NetCDF 4) or .zarr (a Zarr folder)

    Raises
    ------
    DataError
        For another suffix, a folder that does not exist, something else of that name, or a disk that does not take it
        (full, read-only).
    """
    import xarray as xr

    tree = _statistics_tree(posterior) if isinstance(posterior, Statistics) else posterior
    target = Path(path)
    kind = _format(target)
    _check_target(target, kind)
    if not isinstance(tree, xr.DataTree | xr.Dataset):
        raise DataError(f"save takes a posterior, a study's result or statistics, not a {type(posterior).__name__}.")
    stamped = tree.copy(deep=False)
    stamped.attrs = {**tree.attrs, ATTRIBUTE: BLANK}

    def write(part: Path) -> None:
        if kind == "netcdf":
            write_netcdf(stamped, part)
        else:
            stamped.to_zarr(part, mode="w", consolidated=False)
        stamp(part)

    try:
        write_whole(target, write)
    except OSError as error:
        raise DataError(
            f"{str(target)!r} cannot be written: {error.strerror or error}. What was there before is untouched."
        ) from error
    return target


def load(path: str | os.PathLike[str]) -> xr.DataTree | xr.Dataset | Statistics:
    """Read what `save` wrote, into memory.

    Returns
    -------
    xarray.DataTree, xarray.Dataset or Statistics
        What was saved: results of `recover` and `plan` are Datasets, other results trees.

    Raises
    ------
    DataError
        Where the file is missing or damaged: a byte differs from when it was saved (also where another program changed
        it since; without the attribute `checksum` it is read as a file of that program), or an attribute, a model, a
        group or a variable is not what such a file has. Each is named.

    Warns
    -----
    BayeshlmWarning
        Where the file has no checksum (earlier versions wrote none, nor do other programs): changed numbers would
        not be noticed. Save it again to have one.
    """
    loaded = _load(path)
    if KIND in loaded.attrs:
        return statistics_from_dataset(loaded["statistics"].to_dataset())
    return loaded.to_dataset() if loaded.attrs.get("kind") in FLAT and not loaded.children else loaded


def load_posterior(path: str | os.PathLike[str]) -> xr.DataTree:
    """`load` of a posterior. Raises DataError where the file holds something else."""
    loaded = _load(path)
    if KIND in loaded.attrs:
        raise DataError(f"{str(path)!r} holds statistics, not a posterior; fit them first.")
    if "posterior" not in loaded.children:
        kind = loaded.attrs.get("kind")
        what = f"the result of {kind!r}" if kind in STUDIES else "no draws"
        raise DataError(f"{str(path)!r} holds {what}, not a posterior of fit.")
    return loaded


def _statistics_tree(statistics: Statistics) -> xr.DataTree:
    import xarray as xr

    tree = xr.DataTree.from_dict({"statistics": statistics_to_dataset(statistics)})
    tree.attrs = {"model": statistics.model.to_json(), KIND: "statistics"}
    return tree


def _load(path: str | os.PathLike[str]) -> xr.DataTree:
    source = Path(path)
    kind = _format(source)
    try:
        recover(source)
        if not source.exists():
            raise DataError(f"No file at {str(source)!r}.")
        intact = verify(source)
    except OSError as error:
        raise DataError(f"{str(source)!r} cannot be read: {error.strerror or error}.") from error
    if intact is False:
        raise DataError(
            f"{str(source)!r} is damaged, or was changed by another program: its bytes are not those that its "
            f"checksum is of. Load a copy, or fit again. (A program that changes it on purpose removes the attribute "
            f"{ATTRIBUTE!r}.)"
        )
    loaded = _read(source, kind)
    _check(loaded, str(source))
    if intact is None:
        warnings.warn(
            f"{str(source)!r} has no checksum: an earlier version or another program wrote it, and numbers that "
            "changed since would not be noticed. Save it again with bayeshlm.save to have one.",
            BayeshlmWarning,
            stacklevel=outside_package(),
        )
    loaded.attrs.pop(ATTRIBUTE, None)
    return loaded


def _read(source: Path, kind: str) -> xr.DataTree:
    import xarray as xr

    engine: Any = "h5netcdf" if kind == "netcdf" else "zarr"
    options: dict[str, Any] = {} if kind == "netcdf" else {"consolidated": False}
    try:
        with xr.open_datatree(source, engine=engine, **options) as tree:
            return tree.load()
    except Exception as error:  # whatever the libraries raise for a file that is something else
        raise DataError(f"{str(source)!r} cannot be read as {kind}: {error}") from error


def _check(tree: xr.DataTree, source: str) -> None:
    """Refuse what no file of ours holds. Raises DataError naming everything found."""
    if "model" not in tree.attrs:
        raise DataError(f"{source!r} holds no posterior of bayeshlm.")
    problems = problems_of(tree.attrs)
    models = {}
    for name in ("model", "fit_model"):
        text = tree.attrs.get(name)
        if isinstance(text, str):
            try:
                models[name] = Model.from_json(text)
            except BayeshlmError as error:
                problems.append(f"the attribute {name!r} is no model ({error})")
    kind = tree.attrs.get("kind")
    wanted = ["statistics"] if KIND in tree.attrs else ["prior_sbc", "ranks", "verdict"] if kind == "sbc" else []
    if "posterior" in tree.children:
        wanted = ["posterior", "sample_stats", "statistics"]
        problems += _posterior_problems(tree, models.get("model"))
    problems += [f"there is no group {name!r}" for name in wanted if name not in tree.children]
    if "statistics" in tree.children and not problems:
        try:
            statistics = statistics_from_dataset(tree["statistics"].to_dataset())
        except DataError as error:
            problems.append(str(error).rstrip("."))
        else:
            if statistics.model != models["model"]:
                problems.append("its statistics are of another model")
    if problems:
        raise DataError(f"{source!r} is damaged, or not written by bayeshlm: {'; '.join(problems)}.")


def _posterior_problems(tree: xr.DataTree, model: Model | None) -> list[str]:
    """Variables of a posterior that are no draws of numbers, and parameters without draws."""
    draws = tree["posterior"].to_dataset()
    problems = [] if model is None else [
        f"the parameter {name!r} has no draws" for name in model.parameters if name not in draws.data_vars
    ]  # fmt: skip
    for group in ("posterior", "sample_stats"):
        for name, variable in (tree[group].to_dataset().data_vars if group in tree.children else {}).items():
            if variable.dims[:2] != ("chain", "draw") or variable.dtype.kind not in "fiub":
                problems.append(
                    f"the variable {str(name)!r} of {group!r} is {variable.dtype} over {variable.dims}, not numbers "
                    "over (chain, draw)"
                )
    return problems


def _format(path: Path) -> str:
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise DataError(f"{str(path)!r}: the suffix says the format; known are {', '.join(FORMATS)}.")
    return kind


def _check_target(target: Path, kind: str) -> None:
    """Refuse to replace what is no result."""
    if not target.parent.is_dir():
        raise DataError(f"The folder of {str(target)!r} does not exist.")
    if kind == "netcdf" and target.is_dir():
        raise DataError(f"{str(target)!r} is a folder; a NetCDF file cannot take its place.")
    if kind == "zarr" and target.exists():
        names = {p.name for p in target.iterdir()} if target.is_dir() else None
        if names is None or (names and not names & ZARR_FILES):
            what = "a file" if names is None else "a folder of something else"
            raise DataError(f"{str(target)!r} is {what}, no Zarr folder; remove it, or choose another name.")
