"""What counts as missing, in every store alike: null, NaN, and the words that a CSV file has for it."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import narwhals as nw

from bayeshlm.data.frames.reading import Frame, aggregate
from bayeshlm.data.frames.sources import WORDS


@dataclass(frozen=True)
class Missing:
    """Counts of incomplete rows.

    Attributes
    ----------
    total, incomplete : int
        Rows, and rows in which some column is missing.
    columns : mapping
        Column -> rows in which it is missing, where there are any.
    words : mapping
        Column -> those of them that hold one of `WORDS`.
    """

    total: int
    incomplete: int
    columns: Mapping[str, int]
    words: Mapping[str, int]


def is_missing(alias: str, dtype: Any) -> nw.Expr:
    """True where a column of this type is missing."""
    mask = nw.col(alias).is_null()
    if dtype.is_float():
        return mask | nw.col(alias).is_nan()
    return mask | is_word(alias, dtype) if _holds_text(dtype) else mask


def is_word(alias: str, dtype: Any) -> nw.Expr:
    """True where a column of text holds a word for missing."""
    column = nw.col(alias) if isinstance(dtype, nw.String | nw.Object) else nw.col(alias).cast(nw.String)
    return column.is_in(WORDS).fill_null(False)


def has_word(labels: Sequence[Any]) -> bool:
    """Whether sorted labels hold a word for missing."""
    if not labels or not isinstance(labels[0], str):
        return False
    places = ((bisect.bisect_left(labels, word), word) for word in WORDS)
    return any(place < len(labels) and labels[place] == word for place, word in places)


def drop_missing(frame: Frame, names: Mapping[str, str], types: Mapping[str, Any]) -> tuple[Frame, Missing]:
    """(complete rows, what was missing in the others).

    Parameters
    ----------
    frame : narwhals frame
    names : mapping
        User's column -> column of the frame.
    types : mapping
        User's column -> its narwhals type.
    """
    masks = {name: is_missing(alias, types[name]) for name, alias in names.items()}
    texts = {name: is_word(alias, types[name]) for name, alias in names.items() if _holds_text(types[name])}
    incomplete = reduce(lambda a, b: a | b, masks.values())
    counted = {"incomplete": incomplete, **{f"m{k}": mask for k, mask in enumerate(masks.values())}}
    counted |= {f"w{k}": mask for k, mask in enumerate(texts.values())}
    sums = {key: mask.cast(nw.Int64).sum() for key, mask in counted.items()}
    counts = aggregate(frame, {"total": nw.len(), **sums})
    columns = {name: n for k, name in enumerate(masks) if (n := int(counts[f"m{k}"] or 0))}
    words = {name: n for k, name in enumerate(texts) if (n := int(counts[f"w{k}"] or 0))}
    found = Missing(int(counts["total"]), int(counts["incomplete"] or 0), columns, words)
    return (frame.filter(~incomplete) if columns else frame), found


def _holds_text(dtype: Any) -> bool:
    return isinstance(dtype, nw.String | nw.Object | nw.Categorical | nw.Enum)
