"""A SHA-256 over every byte of a file or folder, in an attribute of its own inside it.

The attribute is written as zeros first, and counts as zeros; it is found by its mark, so that a damaged file is known
before any library parses it.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ATTRIBUTE = "checksum"
MARK = b"bayeshlm-sha256:"
DIGITS = 64
BLANK = (MARK + b"0" * DIGITS).decode()  # the attribute's value before `stamp`
STAMP = re.compile(re.escape(MARK) + rb"([0-9a-f]{%d})" % DIGITS)
ROOT = "zarr.json"  # the file of a Zarr folder that holds the root's attributes


def stamp(path: Path) -> None:
    """Write the checksum over the zeros in a file or folder that has `BLANK` in its attributes."""
    digest = _digest(path).encode()
    root = path / ROOT if path.is_dir() else path
    with _mapped(root) as content:
        places = [match.start(1) for match in STAMP.finditer(content) if match.group() == BLANK.encode()]
    if not places:
        raise ValueError(f"{str(path)!r} has no place for a checksum.")
    with root.open("r+b") as file:
        for place in places:
            file.seek(place)
            file.write(digest)


def verify(path: Path) -> bool | None:
    """Whether every byte is as `stamp` found it; None where there is no checksum."""
    root = path / ROOT if path.is_dir() else path
    if not root.is_file():
        return None
    with _mapped(root) as content:
        told = {match.group(1).decode() for match in STAMP.finditer(content)}
    return _digest(path) in told if told else None


def _digest(path: Path) -> str:
    """Of the file; of a folder's files in the order of their names, which count too. Hidden files do not."""
    total = hashlib.sha256()
    if not path.is_dir():
        _add(total, path, stamped=True)
        return total.hexdigest()
    for file in sorted(_files(path)):
        relative = file.relative_to(path).as_posix()
        total.update(f"{len(relative)} {relative} {file.stat().st_size} ".encode())
        _add(total, file, stamped=relative == ROOT)
    return total.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        yield from (Path(root, name) for name in names if not name.startswith("."))


def _add(total: hashlib._Hash, path: Path, *, stamped: bool) -> None:
    with _mapped(path) as content:
        done = 0
        for match in STAMP.finditer(content) if stamped else ():
            total.update(content[done : match.start(1)])
            total.update(b"0" * DIGITS)
            done = match.end()
        total.update(content[done:])


@contextmanager
def _mapped(path: Path) -> Iterator[memoryview]:
    """The file's bytes, without reading them into memory."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            yield memoryview(b"")
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as view:
            yield view
