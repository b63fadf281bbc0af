"""Which engine fits a model, and why: the choice is public and travels with the posterior."""

from __future__ import annotations

from dataclasses import dataclass

from bayeshlm.data.statistics import Statistics
from bayeshlm.engines.exact.build import nested_order, unsupported
from bayeshlm.engines.quadrature.build import unsupported as beyond_quadrature
from bayeshlm.errors import EngineError, listed

ENGINES = ("auto", "exact", "quadrature", "nuts")
INDEPENDENT = ("exact", "quadrature")  # these draw effects independently given the hyperparameters


@dataclass(frozen=True)
class Choice:
    """An engine's name and the reason for choosing it.

    `takes_over` is True where the family is one of the exact engine's and something else about the model is not: a
    slower engine than the user may expect.
    """

    engine: str
    reason: str
    takes_over: bool = False


def choose_engine(statistics: Statistics, engine: str) -> Choice:
    """Choose an engine. Raises EngineError where the one asked for cannot fit the model, with the reason."""
    if engine not in ENGINES:
        raise EngineError(f"engine={engine!r}: it is {', '.join(map(repr, ENGINES))}.")
    if engine == "nuts":
        return Choice("nuts", "asked for; NUTS samples every parameter of the generative model")
    model, refused = statistics.model, unsupported(statistics)
    if refused and engine == "exact":
        raise EngineError(f"{refused} engine='auto' finds one that can fit this model.")
    levels = len(statistics.layout.levels)
    on = f" on {levels} nested level{'s' * (levels > 1)}" if levels else ""
    if refused or engine == "quadrature":
        beyond = beyond_quadrature(statistics)
        if beyond and engine == "quadrature":
            raise EngineError(f"{beyond} engine='auto' finds one that can fit this model.")
        if not beyond:
            censored = "censored " if model.censored is not None else ""
            reason = f"{censored}{model.family} response, effects{on}: all effects integrate out by adaptive quadrature"
            return Choice("quadrature", reason if engine == "auto" else f"asked for; {reason}")
        beyond = refused if model.moments_suffice else beyond
        reason = f"{beyond} NUTS samples every parameter of the generative model instead."
        return Choice("nuts", reason, model.moments_suffice)
    if nested_order(statistics) is None:
        names = listed(level.name for level in statistics.layout.levels)
        on = (
            f" on the levels {names}, some of them crossed (a group of one occurs in several of another; were labels "
            "merely reused, it would be (1 | parent/child))"
        )
    reason = f"{model.family} response, Gaussian effects{on}: all effects integrate out exactly"
    return Choice("exact", reason if engine == "auto" else f"asked for; {reason}")
