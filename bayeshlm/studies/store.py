"""Finished replicates on disk: one file each, written whole or not at all, found again by the study they belong to."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import inspect
import io
import json
import os
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bayeshlm.errors import DesignError, listed

SEAL = 32  # bytes of a SHA-256
LEFTOVER_AGE = 3600.0  # seconds after which an unfinished file is a dead process's: writing one takes milliseconds
DIGITS = 20  # of the hash that names a study's folder: 80 bits
PART = ".part"
MAX_MEMBERS, MAX_BYTES = 1000, 2**30  # of one replicate's file; what claims more was not written by us
DAMAGED = (
    OSError, ValueError, KeyError, EOFError, MemoryError, NotImplementedError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip  # all that reading a truncated, altered or foreign .npz is known to raise


@dataclass(frozen=True, eq=False)
class Outcome:
    """One replicate: its numbers, or the error that ended it.

    Attributes
    ----------
    index, seed : int
    values : mapping of str to array
    seconds : float
    warnings : tuple of str
        Distinct messages of the warnings given.
    error : str
        Empty where it finished.
    """

    index: int
    seed: int
    values: Mapping[str, NDArray[Any]]
    seconds: float
    warnings: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Store:
    """The folder of one study. A replicate is a file, so that a damaged one costs one replicate.

    Files are NumPy's .npz without objects: reading one runs no code, whoever wrote it. The archive's comment is the
    SHA-256 of all before it; a file that has another one, or none, is no replicate, and is done again.
    """

    folder: Path

    def save(self, outcome: Outcome) -> None:
        """Write a finished replicate. The rename makes it whole or absent, also where the process is killed.

        Raises
        ------
        DesignError
            Where the disk does not take it (full, read-only). What is stored stays.
        """
        members: dict[str, NDArray[Any]] = {f"value/{name}": np.asarray(v) for name, v in outcome.values.items()}
        members["study"] = np.array(self.folder.name)
        members["replicate"] = np.array([outcome.index, outcome.seed], dtype=np.uint64)
        members["seconds"] = np.array(outcome.seconds)
        members["warnings"] = np.array(outcome.warnings, dtype=str)
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **members)
        try:
            _write(self._path(outcome.index), _sealed(buffer.getvalue()))
        except OSError as error:
            raise DesignError(
                f"Replicate {outcome.index} cannot be stored in {str(self.folder)!r}: {error.strerror or error}. The "
                "finished replicates there are kept; once the folder can be written to, the same call goes on from "
                "them."
            ) from error

    def load(self, index: int, seed: int) -> Outcome | None:
        """A finished replicate, or None where there is none or its file is damaged or of another study."""
        path = self._path(index)
        if not path.is_file():
            return None
        try:
            archive = io.BytesIO(_unsealed(path.read_bytes()))
            _check_members(archive)
            with np.load(archive, allow_pickle=False) as record:
                same = str(record["study"]) == self.folder.name
                if not same or record["replicate"].tolist() != [index, seed]:
                    return None
                values = {n.removeprefix("value/"): record[n] for n in record.files if n.startswith("value/")}
                return Outcome(
                    index, seed, values, float(record["seconds"]), tuple(str(w) for w in record["warnings"].tolist())
                )
        except DAMAGED:
            return None

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:07d}.npz"


def open_store(path: str | os.PathLike[str], key: Mapping[str, Any]) -> Store:
    """The folder below `path` of the study that `key` describes, made if need be; `study.json` in it says what it is.

    Raises
    ------
    DesignError
        If the path is a file or cannot be written to, or the key holds something that cannot be told apart from its
        likes.
    """
    text = json.dumps(canonical(key), sort_keys=True, ensure_ascii=False, indent=1)
    root = Path(path)
    if root.exists() and not root.is_dir():
        raise DesignError(f"store={str(path)!r} is a file; it has to be a folder, existing or new.")
    folder = root / hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        description = folder / "study.json"
        if not description.is_file():
            _write(description, text.encode())
        elif not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        _clear(folder)
    except OSError as error:
        raise DesignError(f"store={str(path)!r} cannot be written to: {error.strerror or error}.") from error
    return Store(folder)


def canonical(value: Any) -> Any:
    """A value as plain JSON in which equal studies are equal and different ones differ.

    A function counts by its name, its source and what it closes over.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else repr(value)
    if isinstance(value, np.generic | np.ndarray):
        return {"array": str(value.dtype), "values": canonical(value.tolist())}
    if isinstance(value, Mapping):
        return {str(k): canonical(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(v) for v in value]
    if hasattr(value, "to_json"):
        return {"class": type(value).__name__, "json": json.loads(value.to_json())}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: canonical(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"class": type(value).__name__, **fields}
    if callable(value):
        return _function(value)
    raise DesignError(
        f"store= cannot tell studies with a {type(value).__name__} apart; give it as numbers, text or a function."
    )


def _function(value: Callable[..., Any]) -> dict[str, Any]:
    """Module, name, source, defaults and enclosed values of a function (or of the one a partial binds)."""
    if isinstance(value, functools.partial):
        return {"partial": canonical(value.func), "args": canonical(value.args), "keywords": canonical(value.keywords)}
    code = getattr(value, "__code__", None)
    if code is None:
        raise DesignError(f"store= cannot tell studies with {value!r} apart; give it as a plain function.")
    try:
        source = inspect.getsource(value)
    except (OSError, TypeError):  # typed at a prompt: its byte code has to do
        source = code.co_code.hex() + repr(code.co_consts)
    return {
        "function": f"{value.__module__}.{value.__qualname__}",
        "source": hashlib.sha256(source.encode()).hexdigest(),
        "defaults": canonical([getattr(value, "__defaults__", None), getattr(value, "__kwdefaults__", None)]),
        "encloses": canonical(dict(inspect.getclosurevars(value).nonlocals)),
    }


def _sealed(content: bytes) -> bytes:
    """A zip archive without comment -> the same with the SHA-256 of all before it as its comment."""
    content = content[:-2] + SEAL.to_bytes(2, "little")  # an archive ends in its comment's length, then the comment
    return content + hashlib.sha256(content).digest()


def _unsealed(content: bytes) -> bytes:
    """The archive, if its bytes are those that were sealed. Raises ValueError if not."""
    if hashlib.sha256(content[:-SEAL]).digest() != content[-SEAL:]:
        raise ValueError("the file's checksum is not that of its bytes")
    return content


def _check_members(file: io.BytesIO) -> None:
    """Refuse archives that claim to unpack to more than their own size: nothing here is compressed."""
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    stored = all(m.compress_type == zipfile.ZIP_STORED and m.file_size == m.compress_size for m in members)
    if not stored or len(members) > MAX_MEMBERS or sum(m.file_size for m in members) > MAX_BYTES:
        raise ValueError(f"no replicate's file: {listed(m.filename for m in members)}")


def _write(path: Path, content: bytes) -> None:
    """Write beside, then rename. Not synced to disk: a power cut may cost files, which are then found damaged."""
    handle, temporary = tempfile.mkstemp(prefix=".", suffix=PART, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _clear(folder: Path) -> None:
    """Remove what processes that were killed while they wrote left behind."""
    for leftover in folder.glob(f".*{PART}"):
        with contextlib.suppress(FileNotFoundError):  # another process clears as well
            if time.time() - leftover.stat().st_mtime > LEFTOVER_AGE:
                leftover.unlink()
