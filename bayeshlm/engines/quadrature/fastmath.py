"""How functions are compiled and kept, and a logarithm in vector instructions. Imported when used."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

HALF_ROOT = 0x3FE6A09E667F3BCD  # bits of sqrt(1/2)
LOG_2 = 0.6931471805599453
LOG_2_HIGH, LOG_2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # of which k times the first is exact
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc"}}
# Functions that make no arrays need not count references to them, which takes as long as their work.
UNCOUNTED: dict[str, Any] = {**OPTIONS, "_nrt": False}


def driver(function: Callable[..., Any]) -> Any:
    """Compile a function that Python calls, and keep the result for other processes where there is a place for it.

    What is kept holds the compiled form of everything that the function calls, in whatever file. Numba would take it
    for fresh as long as the function's own file is; here it is as long as no file of this folder has changed.
    """
    try:
        dispatcher = njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # no directory that could be written to
        return njit(**OPTIONS)(function)
    kept: Any = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if not hasattr(kept, "_source_stamp"):  # of another version of numba: rather slow than stale
        return njit(**OPTIONS)(function)
    kept._source_stamp = _stamp()
    return dispatcher


@functools.cache
def _stamp() -> bytes:
    """Digest of all sources in this folder."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.digest()


@intrinsic
def bits_of(typing_context: Any, x: Any) -> Any:
    """The 64 bits of a float, as an integer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(64))

    return types.int64(types.float64), generate


@intrinsic
def float_of(typing_context: Any, bits: Any) -> Any:
    """The float of 64 bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.DoubleType())

    return types.float64(types.int64), generate


@njit(**UNCOUNTED)
def log_of(x: float) -> float:
    """Log x for normal x > 0, to 2e-16 absolutely near 1.

    x = 2^k m with m in [sqrt(1/2), sqrt(2)), and log m = 2 artanh s, s = (m - 1) / (m + 1), |s| < 0.172: the first
    term of the series left out is below 1e-17.
    """
    bits = bits_of(x)
    k = (bits - HALF_ROOT) >> 52
    m = float_of(bits - (k << 52))
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    series = 1.0 / 11.0 + z * (1.0 / 13.0 + z * (1.0 / 15.0 + z * (1.0 / 17.0 + z * (1.0 / 19.0))))
    series = 1.0 + z * (1.0 / 3.0 + z * (1.0 / 5.0 + z * (1.0 / 7.0 + z * (1.0 / 9.0 + z * series))))
    return k * LOG_2 + 2.0 * s * series


@njit(**UNCOUNTED)
def log1p_of(u: float) -> float:
    """log(1 + u) for u >= 0, to 2e-16 of itself, so that large weights may stand before small u."""
    bits = bits_of(1.0 + u)
    k = (bits - HALF_ROOT) >> 52
    m = float_of(bits - (k << 52))
    s = u / (2.0 + u) if k == 0 else (m - 1.0) / (m + 1.0)
    z = s * s
    series = 1.0 / 11.0 + z * (1.0 / 13.0 + z * (1.0 / 15.0 + z * (1.0 / 17.0 + z * (1.0 / 19.0))))
    series = 1.0 + z * (1.0 / 3.0 + z * (1.0 / 5.0 + z * (1.0 / 7.0 + z * (1.0 / 9.0 + z * series))))
    return k * LOG_2 + 2.0 * s * series


@njit(**UNCOUNTED)
def exp_of(x: float) -> float:
    """Exp x for |x| <= 700, to 2e-16 of itself: 2^k e^r with |r| <= log(2) / 2, by 13 terms of the series of e^r."""
    k = math.floor(x * (1.0 / LOG_2) + 0.5)
    r = x - k * LOG_2_HIGH - k * LOG_2_LOW
    tail = 1.0 / 5040.0 + r * (
        1.0 / 40320.0 + r * (1.0 / 362880.0 + r * (1.0 / 3628800.0 + r * (1.0 / 39916800.0 + r / 479001600.0)))
    )
    tail = 1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r * tail))
    series = 1.0 + r * (1.0 + r * (0.5 + r * (1.0 / 6.0 + r * tail)))
    return series * float_of((np.int64(k) + 1023) << 52)
