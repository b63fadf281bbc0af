"""The rows of a design before anything has an effect: groups, units, treatments and covariates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.simulation.design import Design, Structure, assign
from bayeshlm.spec.model import Model

if TYPE_CHECKING:
    import pandas as pd


def draw_columns(model: Model, design: Design, rng: np.random.Generator) -> pd.DataFrame:
    """`draw_frame` with whole numbers of trials and 1 for every response."""
    data = draw_frame(design, rng)
    if model.terms.trials is not None:
        for name in set(model.terms.trials.node.columns()) & {covariate for covariate, _ in design.covariates}:
            data[name] = np.maximum(np.rint(data[name]), 1).astype(np.int64)
    data[model.terms.response.name] = 1.0
    return data


def draw_frame(design: Design, rng: np.random.Generator) -> pd.DataFrame:
    """Groups, unit, treatments and covariates of a design, one row a unit."""
    import pandas as pd

    structure = design.draw(rng)
    group_of_row = np.repeat(np.arange(len(structure.units)), structure.units)
    ancestors = structure.ancestors()
    columns: dict[str, Any] = {level: codes[group_of_row] for level, codes in ancestors.items()}
    columns[design.unit] = np.arange(len(group_of_row))
    for name, treatment in design.treatments:
        arms = assign(treatment, structure, rng)[ancestors[treatment.level]][group_of_row]
        # Arms keep their order: the first is the reference of a common effect, not the alphabet's first.
        columns[name] = pd.Categorical(np.array(treatment.names)[arms], list(treatment.names))
    for name, covariate in design.covariates:
        columns[name] = _covariate(covariate.level, covariate.distribution.sample, structure, group_of_row, rng)
    return pd.DataFrame(columns)


def _covariate(level: str | None, sample: Any, structure: Structure, group_of_row: Any, rng: Any) -> Array:
    if level is None:
        return np.asarray(sample(rng, len(group_of_row)))
    values = sample(rng, len(structure.parent[level]))
    return np.asarray(values[structure.ancestors()[level]][group_of_row])
