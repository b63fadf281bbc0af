"""ArviZ's record of a leave-one-out, whose points are groups: printed, it says so."""

from __future__ import annotations

import dataclasses
from typing import Any

from arviz_stats.utils import ELPDDataLOO


class ELPDDataGroups(ELPDDataLOO):  # type: ignore[misc]  # arviz_stats has no types
    """What `bayeshlm.loo` returns: `arviz_stats.ELPDDataLOO`, one point a group of `elpd_i`'s dimension."""

    def __str__(self) -> str:
        """ArviZ's table below a header that names the groups in place of "observations"."""
        (level,) = self.elpd_i.dims
        table = super().__str__().strip().partition("\n\n")[2]
        return (
            f"Left out one at a time: {self.n_data_points} groups of {level!r}, not rows; computed from "
            f"{self.n_samples} posterior draws.\nFor rows: arviz_stats.loo on a fit that holds their log likelihood."
            f"\n\n{table}"
        )

    __repr__ = __str__


def of_groups(result: Any) -> ELPDDataGroups:
    """The same numbers as ArviZ's `result`."""
    return ELPDDataGroups(**{field.name: getattr(result, field.name) for field in dataclasses.fields(result)})
