"""Response families: the scale on which effects add, and what the response may be."""

from __future__ import annotations

from dataclasses import dataclass

from bayeshlm.errors import FormulaError


@dataclass(frozen=True)
class Family:
    """A response family.

    Attributes
    ----------
    name : str
    log_response : bool
        True where the log of the response is Gaussian, so that effects multiply.
    effect : str
        What exp or identity of a group effect is called in tables: ``multiplier`` or ``difference``.
    contrast : str
        What two groups are compared by: ``ratio`` or ``difference``.
    """

    name: str
    log_response: bool

    @property
    def effect(self) -> str:
        return "multiplier" if self.log_response else "difference"

    @property
    def contrast(self) -> str:
        return "ratio" if self.log_response else "difference"


FAMILIES = {family.name: family for family in (Family("gaussian", False), Family("lognormal", True))}


def get_family(name: str) -> Family:
    """The family of that name; FormulaError names the known ones."""
    family = FAMILIES.get(name) if isinstance(name, str) else None
    if family is None:
        raise FormulaError(f"Unknown family {name!r}; known are {', '.join(FAMILIES)}.")
    return family
