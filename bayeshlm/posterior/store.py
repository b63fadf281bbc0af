"""Save and load posteriors and statistics: NetCDF or Zarr by suffix, atomically; loading runs no code."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bayeshlm.data.statistics import Statistics
from bayeshlm.data.store import statistics_from_dataset, statistics_to_dataset
from bayeshlm.errors import DataError

if TYPE_CHECKING:
    import xarray as xr

FORMATS = {".nc": "netcdf", ".netcdf": "netcdf", ".h5": "netcdf", ".zarr": "zarr"}
KIND = "bayeshlm_kind"  # an attribute that only files of statistics have


def save(posterior: xr.DataTree | Statistics, path: str | os.PathLike[str]) -> Path:
    """Write a posterior or statistics; the file is there whole or not at all, also if the process is killed.

    Parameters
    ----------
    posterior : xarray.DataTree or Statistics
    path : path ending in .nc (NetCDF 4) or .zarr (a Zarr folder)

    Raises
    ------
    DataError
        For another suffix, or a folder that does not exist.
    """
    tree = _statistics_tree(posterior) if isinstance(posterior, Statistics) else posterior
    target = Path(path)
    kind = _format(target)
    if not target.parent.is_dir():
        raise DataError(f"The folder of {str(target)!r} does not exist.")
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    part = temporary / target.name
    try:
        if kind == "netcdf":
            tree.to_netcdf(part, engine="h5netcdf")
            _sync(part)
        else:
            tree.to_zarr(part, mode="w", consolidated=False)
            if target.is_dir():
                os.replace(target, temporary / "replaced")
        os.replace(part, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def load(path: str | os.PathLike[str]) -> xr.DataTree | Statistics:
    """Read what `save` wrote, into memory. Raises DataError where the file is missing or damaged."""
    loaded = _load(path)
    return statistics_from_dataset(loaded["statistics"].to_dataset()) if KIND in loaded.attrs else loaded


def load_posterior(path: str | os.PathLike[str]) -> xr.DataTree:
    """`load` of a posterior. Raises DataError where the file holds statistics."""
    loaded = _load(path)
    if KIND in loaded.attrs:
        raise DataError(f"{str(path)!r} holds statistics, not a posterior; fit them first.")
    return loaded


def _statistics_tree(statistics: Statistics) -> xr.DataTree:
    import xarray as xr

    tree = xr.DataTree.from_dict({"statistics": statistics_to_dataset(statistics)})
    tree.attrs = {"model": statistics.model.to_json(), KIND: "statistics"}
    return tree


def _load(path: str | os.PathLike[str]) -> xr.DataTree:
    import xarray as xr

    source = Path(path)
    kind = _format(source)
    if not source.exists():
        raise DataError(f"No file at {str(source)!r}.")
    engine: Any = "h5netcdf" if kind == "netcdf" else "zarr"
    options: dict[str, Any] = {} if kind == "netcdf" else {"consolidated": False}
    try:
        with xr.open_datatree(source, engine=engine, **options) as tree:
            loaded = tree.load()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(f"{str(source)!r} cannot be read as {kind}: {error}") from error
    if "model" not in loaded.attrs:
        raise DataError(f"{str(source)!r} holds no posterior of bayeshlm.")
    return loaded


def _format(path: Path) -> str:
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise DataError(f"{str(path)!r}: the suffix says the format; known are {', '.join(FORMATS)}.")
    return kind


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
