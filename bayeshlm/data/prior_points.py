"""What the priors of common effects speak of: each coefficient itself, or the linear predictor at a point."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.layout import Layout
from bayeshlm.errors import PriorError, listed
from bayeshlm.spec.priors import At, Prior


def prior_points(layout: Layout, priors: Mapping[str, Prior]) -> Array:
    """(p, p) matrix C: the priors of the common effects b speak of C b, one after the other; its determinant is 1.

    C is the identity but for the row of an intercept whose prior is an `At`.

    Raises
    ------
    PriorError
        Where a point names columns that no common effect has.
    """
    columns = layout.common_columns
    matrix = np.eye(len(columns))
    prior = priors.get("Intercept")
    if not isinstance(prior, At) or 0 not in columns:
        return matrix
    labels = [layout.columns[column].label if column else None for column in columns]
    unknown = [name for name in prior.point if name not in labels]
    if unknown:
        raise PriorError(
            f"The prior of 'Intercept' names {listed(unknown)}; the columns of common effects are "
            f"{listed(label for label in labels if label is not None)}."
        )
    row = columns.index(0)
    for position, label in enumerate(labels):
        if label is not None:
            matrix[row, position] = prior.point.get(label, 0.0)
    return matrix
