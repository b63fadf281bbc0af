"""Tasks with known results, importable by any worker process."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np


def draws(index: int, seed: np.random.SeedSequence) -> dict[str, object]:
    """Numbers that tell from which replicate and seed they are; BLAS and LAPACK among them."""
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((60, 60))
    return {"index": index, "normal": rng.standard_normal(3), "solved": np.linalg.solve(matrix @ matrix.T, matrix[0])}


def ranks(index: int, seed: np.random.SeedSequence) -> dict[str, object]:
    """Rank k for replicate k: known beforehand."""
    return {"rank": index % 10}


def some_fail(index: int, seed: np.random.SeedSequence) -> dict[str, object]:
    if index % 4 == 1:
        raise ValueError(f"replicate {index}\nwent wrong")
    if index == 6:
        return {"other": 1.0}
    if index == 7:
        return {"rank": object()}
    if index % 4 == 2:
        warnings.warn("odd weather", stacklevel=1)
    return {"rank": index}


def some_die(index: int, seed: np.random.SeedSequence) -> dict[str, object]:
    """A worker that is gone at once, as the kernel's out-of-memory killer leaves it."""
    if index == 3:
        os.kill(os.getpid(), 9)
    return {"rank": index}


@dataclass(frozen=True)
class Counted:
    """`draws`, leaving a file for every time it runs."""

    folder: str

    def __call__(self, index: int, seed: np.random.SeedSequence) -> dict[str, object]:
        Path(self.folder, f"{index}.{os.getpid()}.{len(os.listdir(self.folder))}").touch()
        return draws(index, seed)


@dataclass(frozen=True)
class Waiting:
    """`draws`, but from replicate `first` on it waits until someone opens the pipe."""

    first: int
    pipe: str

    def __call__(self, index: int, seed: np.random.SeedSequence) -> dict[str, object]:
        if index >= self.first:
            with open(self.pipe) as pipe:
                pipe.read()
        return draws(index, seed)
