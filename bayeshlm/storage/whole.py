"""Files and folders that are there whole or not at all, whatever ends the process that writes them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

try:
    import fcntl
except ImportError:  # Windows: leftovers are then told from work under way by their age
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".part"
FORMER = "former-{}"  # where a replaced folder waits until the new one stands in its place
TRIES = 8  # of putting a folder in place, where other processes put theirs there at the same time
OLD = 3600.0  # seconds after which a leftover without a lock is nobody's: it takes far less to make the lock


@dataclass(frozen=True)
class Workspace:
    """A temporary folder beside the target, on the same file system, locked for as long as its process lives."""

    folder: Path
    lock: int | None


def write_whole(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Let `write` make a file or a folder beside `path`, then put it in the place of what is there.

    Afterwards `path` holds the old or the new content, whole, and whatever of the two is finished is never lost: a file
    replaces a file in one step of the system; a folder takes two, and where the process is killed between them the next
    `write_whole` or `recover` of this path takes the second. Ctrl-C waits for the step under way. Permissions of what
    was there are kept. What killed processes left is cleared.

    Parameters
    ----------
    path : path
        A symbolic link stays one; what it points at is replaced.
    write : callable
        Makes a file or a folder at the path it is given.

    Raises
    ------
    OSError
        The old content is then in its place.
    """
    target = Path(os.path.realpath(path))
    recover(target)
    space: Workspace | None = None
    try:
        with uninterrupted():
            space = _workspace(target)
        part = space.folder / target.name
        write(part)
        _keep_permissions(part, target)
        _sync(part)
        with uninterrupted():
            _put(part, target, space.folder)
    finally:
        with uninterrupted():
            if space is not None:
                _leave(space, target)
    for leftover in _abandoned(target):
        with uninterrupted():
            _leave(leftover, target)


def recover(path: str | os.PathLike[str]) -> None:
    """Where a process was killed between the two steps of replacing a folder, take the second."""
    target = Path(os.path.realpath(path))
    if target.exists():
        return
    for leftover in _abandoned(target):
        part = leftover.folder / target.name
        if not target.exists() and part.exists() and _formers(leftover.folder):  # finished: it was being put in place
            os.replace(part, target)
        _leave(leftover, target)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the block is done. For blocks of a moment."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread is interrupted
        yield
        return
    caught: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        caught.append(number)

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous if previous is not None else signal.SIG_DFL)
        if caught:
            signal.raise_signal(signal.SIGINT)


def _workspace(target: Path) -> Workspace:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=SUFFIX, dir=target.parent))
        try:
            lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        except FileNotFoundError:  # cleared by another process before it was locked
            continue
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if fcntl is None:
            return Workspace(folder, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        except OSError:  # a file system without locks
            return Workspace(folder, lock)
        if (folder / "lock").exists():
            return Workspace(folder, lock)
        os.close(lock)


def _put(part: Path, target: Path, space: Path) -> None:
    """Rename over the target; a folder cannot be renamed over a full one, so that the old one steps aside first."""
    if not part.is_dir():
        os.replace(part, target)
        return
    for k in range(TRIES):
        former = space / FORMER.format(k)
        stands = target.exists()
        if stands:
            os.replace(target, former)
        try:
            os.replace(part, target)
            return
        except BaseException as error:
            if not target.exists():
                if stands:
                    os.replace(former, target)
                raise
            if not isinstance(error, OSError) or k == TRIES - 1:  # else another process was faster: replace its folder
                raise


def _leave(space: Workspace, target: Path) -> None:
    """Remove a workspace, unless it holds what has nowhere else to be."""
    if target.exists() or not _formers(space.folder):
        shutil.rmtree(space.folder, ignore_errors=True)
    if space.lock is not None:
        os.close(space.lock)


def _formers(folder: Path) -> list[Path]:
    return sorted(folder.glob(FORMER.format("*")))


def _abandoned(target: Path) -> list[Workspace]:
    """Workspaces of this target whose processes are gone; they are ours now."""
    ours = re.compile(rf"\.{re.escape(target.name)}\.[a-z0-9_]{{8}}{re.escape(SUFFIX)}")
    found = []
    with os.scandir(target.parent) as entries:
        names = sorted(entry.name for entry in entries if ours.fullmatch(entry.name))
    for name in names:
        space = _taken(target.parent / name)
        if space is not None:
            found.append(space)
    return found


def _taken(folder: Path) -> Workspace | None:
    """The workspace, locked by us, or None where its process lives (or may live)."""
    try:
        lock = os.open(folder / "lock", os.O_RDWR)
    except OSError:
        return Workspace(folder, None) if _age(folder) > OLD else None
    if fcntl is None:
        old = _age(folder) > OLD
        os.close(lock)
        return Workspace(folder, None) if old else None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return Workspace(folder, lock)


def _age(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:
        return 0.0


def _keep_permissions(part: Path, target: Path) -> None:
    """What only its owner could read stays so: modes of the file, or of the folder and the first file in it."""
    if not target.exists():
        return
    mode = stat.S_IMODE(target.stat().st_mode)
    if not part.is_dir():
        part.chmod(mode)
        return
    files = next((sorted(Path(root, name) for name in names) for root, _, names in os.walk(target) if names), [])
    for root, _, names in os.walk(part):
        for name in names if files else []:
            Path(root, name).chmod(stat.S_IMODE(files[0].stat().st_mode))
    for root, _, _ in os.walk(part, topdown=False):
        Path(root).chmod(mode)


def _sync(part: Path) -> None:
    files = [part] if not part.is_dir() else [Path(root, name) for root, _, names in os.walk(part) for name in names]
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
