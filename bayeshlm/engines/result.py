"""What every engine hands back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bayeshlm.arrays import Array


@dataclass(frozen=True, eq=False)
class Variable:
    """Draws of one parameter: (chains, draws, *labels), its dims and their labels."""

    values: Array
    dims: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class EngineResult:
    """What an engine hands back, in the order of the posterior.

    Attributes
    ----------
    variables : dict of str to Variable
    coords : dict of str to list
    sample_stats : dict of str to (chains, draws) arrays
    attrs : dict
        Numbers and texts about the run.
    moments, moment_coords : dict
        Mean and standard deviation, on the first axis, of effects of which there are too many to keep draws.
    """

    variables: dict[str, Variable]
    coords: dict[str, list[Any]]
    sample_stats: dict[str, Array]
    attrs: dict[str, Any] = field(default_factory=dict)
    moments: dict[str, Variable] = field(default_factory=dict)
    moment_coords: dict[str, list[Any]] = field(default_factory=dict)
