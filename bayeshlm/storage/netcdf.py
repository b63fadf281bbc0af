"""NetCDF by way of a Python file, so that a full disk is an OSError and nothing else."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr


RECORD = 2**20  # bytes: HDF5's own records are smaller, and only they are read again while a file is written


class _PatientFile(io.FileIO):
    """A file that remembers the first write that failed, and takes those after it as if they went well.

    HDF5 that cannot write while it closes a file prints its error stack, keeps the file open, and crashes when the
    process ends. So it is let to finish; the error is raised afterwards. What it may read again of what was not
    written, its own records, is kept in memory meanwhile.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.failure: OSError | None = None
        self._unwritten: list[tuple[int, bytes]] = []
        self._place = 0

    def seek(self, place: int, whence: int = 0) -> int:
        if whence == 0:
            self._place = place
        else:
            self._place = super().seek(place, whence)
        return self._place

    def tell(self) -> int:
        return self._place

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view) and self.failure is None:
            try:
                super().seek(self._place + done)
                done += super().write(view[done:]) or 0
            except OSError as error:
                self.failure = error
        if done < len(view) and len(view) - done <= RECORD:
            self._unwritten.append((self._place + done, bytes(view[done:])))
        self._place += len(view)
        return len(view)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        super().seek(self._place)
        read = super().readinto(view) or 0
        if self.failure is not None:
            view[read:] = bytes(len(view) - read)
            read = len(view)
            for place, data in self._unwritten:
                begin, end = max(place, self._place), min(place + len(data), self._place + len(view))
                if begin < end:
                    view[begin - self._place : end - self._place] = data[begin - place : end - place]
        self._place += read
        return read

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(self._place if size is None else size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0


def write_netcdf(tree: xr.DataTree | xr.Dataset, path: Path) -> None:
    """Write a tree or a Dataset as NetCDF 4. Raises OSError where the disk is full, and then leaves a broken file."""
    with _PatientFile(path) as file:
        try:
            tree.to_netcdf(file, engine="h5netcdf")
        except Exception:  # whatever HDF5 makes of a file that failed it; the failure itself is raised below
            if file.failure is None:
                raise
        if file.failure is not None:
            raise file.failure
