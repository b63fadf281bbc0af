"""Errors and warnings a user can meet. Every message names the offenders and says what to do."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable

CLOSE = 0.7  # share of letters in common, from which on another name may be meant


class BayeshlmError(ValueError):
    """Base of all errors raised for a user's input."""


class FormulaError(BayeshlmError):
    """The formula cannot be read, or uses something outside the allowed grammar."""


class DataError(BayeshlmError):
    """The data do not fit the model: missing columns, impossible values, unidentifiable groups."""


class PriorError(BayeshlmError):
    """A prior is missing, misnamed, has impossible arguments or does not suit its parameter."""


class DesignError(BayeshlmError):
    """A study design that cannot be drawn."""


class EngineError(BayeshlmError):
    """The chosen engine cannot fit this model, or failed while fitting it."""


class BayeshlmWarning(UserWarning):
    """Something was done that the user should know of: rows dropped, default priors, a fallback."""


def is_panic(error: BaseException) -> bool:
    """Whether an error is a Rust library's panic: to Python no `Exception`, and of a class that cannot be imported."""
    return any(kind.__name__ == "PanicException" for kind in type(error).__mro__)


def is_failure(error: BaseException) -> bool:
    """Whether something went wrong, as opposed to a wish to stop (Ctrl-C, SystemExit)."""
    return isinstance(error, Exception) or is_panic(error)


def listed(names: object, limit: int = 10) -> str:
    """Join names for a message, quoted, at most `limit` of them and the count of the rest."""
    items = [repr(str(name)) for name in names]  # type: ignore[attr-defined]  # any iterable; str() below is total
    rest = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {rest} more" if rest > 0 else "")


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """`Did you mean 'cltype'? ` where a known name is much like this one, else nothing; for the start of an advice."""
    names = {str(other).casefold(): str(other) for other in known}
    close = difflib.get_close_matches(str(name).casefold(), names, n=1, cutoff=CLOSE)
    return f"Did you mean {names[close[0]]!r}? " if close else ""


def outside_package() -> int:
    """Stack level of the first frame outside this package, so that a warning points at the user's line."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith("bayeshlm"):
        frame, level = frame.f_back, level + 1
    return max(level, 1)
