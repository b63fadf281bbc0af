"""Default priors of a study that has no data yet: on the scale of the columns that its design makes."""

from __future__ import annotations

import dataclasses

import numpy as np

from bayeshlm.data.compress import complete_rows, moments
from bayeshlm.data.default_priors import with_column_priors
from bayeshlm.errors import DataError, DesignError
from bayeshlm.simulation.design import Covariate, Design
from bayeshlm.simulation.frame import draw_columns
from bayeshlm.spec.model import Model
from bayeshlm.spec.priors import Prior

REFERENCE_ROWS = 4000  # at least; their means are rounded to a hundredth of a standard deviation or so anyway
SOME = 20  # units in place of a number that is drawn


def with_design_priors(model: Model, design: Design) -> Model:
    """The model with its pending default priors, on the scale of the columns that the design makes.

    Depends on model and design alone: all replicates of a study have the same priors, in simulation and in analysis.
    Covariates are drawn unit by unit, whatever the level that shares them: what counts is their distribution.

    Raises
    ------
    DesignError
        Where terms are not finite for the covariates drawn.
    """
    if not model.pending_priors or not model.family_spec.multiplicative:
        return model
    bare = dataclasses.replace(model, censored=None, weights=None, se=None)  # the columns are all it takes
    frame = draw_columns(bare, _reference(design), np.random.default_rng(0))
    rows = complete_rows(bare, frame, "drop")
    try:
        statistics = moments(bare, rows)
    except DataError as error:
        raise DesignError(f"The columns that this design makes do not suit the model: {error}") from error
    complete = with_column_priors(statistics).model.complete_priors
    return model.with_priors({name: complete[name] for name in model.pending_priors})


def _reference(design: Design) -> Design:
    """The same columns on a handy number of rows."""
    *groups, (unit, _) = design.levels
    sizes = [(name, SOME if isinstance(size, Prior) else size) for name, size in groups]
    outer = dataclasses.replace(design, levels=(*sizes, (unit, 1)))
    groups_in_all = outer.units or 1  # never None: no size of it is random
    return dataclasses.replace(
        outer,
        levels=(*sizes, (unit, max(-(-REFERENCE_ROWS // groups_in_all), 1))),
        covariates=tuple((name, Covariate(covariate.distribution)) for name, covariate in design.covariates),
    )
