"""Which engine fits a model, and why: the choice is public and travels with the posterior."""

from __future__ import annotations

from dataclasses import dataclass

from bayeshlm.data.statistics import Statistics
from bayeshlm.engines.base import nested_order, unsupported
from bayeshlm.errors import EngineError, listed

ENGINES = ("auto", "exact")


@dataclass(frozen=True)
class Choice:
    """An engine's name and the reason for choosing it."""

    engine: str
    reason: str


def choose_engine(statistics: Statistics, engine: str) -> Choice:
    """Choose an engine. Raises EngineError where none fits, with the reason and a way out."""
    if engine not in ENGINES:
        raise EngineError(f"engine={engine!r}: it is {' or '.join(map(repr, ENGINES))}.")
    refused = unsupported(statistics)
    if refused:
        raise EngineError(f"{refused} No other engine is available in this version.")
    levels = len(statistics.layout.levels)
    on = f" on {levels} nested level{'s' * (levels > 1)}" if levels else ""
    if nested_order(statistics) is None:
        names = listed(level.name for level in statistics.layout.levels)
        on = (
            f" on the levels {names}, some of them crossed (a group of one occurs in several of another; were labels "
            "merely reused, it would be (1 | parent/child))"
        )
    reason = f"{statistics.model.family} response, Gaussian effects{on}: all effects integrate out exactly"
    return Choice("exact", reason if engine == "auto" else f"asked for; {reason}")
