"""`to_pymc`: every form has the density of the model written out row by row."""

from __future__ import annotations

import numpy as np
import pytest

import bayeshlm as bh
from bayeshlm.engines.pymc_model import to_pymc
from tests.engines.dense import CASES, Case, DenseLevel, make_frame, make_model, one, with_x
from tests.engines.generative import Twin, random_points, row_density

FORMS = [(p, rows) for p in ("centered", "noncentered") for rows in (True, False)]
EXTRA = {
    "crossed": Case("y ~ x + (1 | a) + (1 | g)", with_x, (DenseLevel(("a",), one), DenseLevel(("g",), one))),
    "crossed and nested": Case(
        "y ~ x + (1 | a/b) + (x | g)", with_x,
        (DenseLevel(("a",), one), DenseLevel(("a", "b"), one), DenseLevel(("g",), with_x)),
    ),
    "lognormal slopes": Case("y ~ x + (x | a)", with_x, (DenseLevel(("a",), with_x),), "lognormal", weights="w"),
}  # fmt: skip
ALL = CASES | EXTRA


def twin_of(case: Case, model: bh.Model) -> Twin:
    whole = case.common
    common, at = {}, 0
    for term in model.terms.common:
        width = 2 if term.name == "arm" else 1
        common[term.name] = lambda frame, at=at, width=width: whole(frame)[:, at : at + width]
        at += width
    levels = []
    for level in case.levels:
        name = ":".join(level.keys)
        effects = [
            group.effect_name(effect) for group in model.terms.groups for effect in group.effects
            if group.level_name == name
        ]  # fmt: skip
        levels.append((level, name, effects))
    return Twin(common, tuple(levels))


@pytest.mark.parametrize("name", ALL)
def test_all_forms_have_the_density_of_the_rows(name: str) -> None:
    case, rng = ALL[name], np.random.default_rng(len(name))
    frame = make_frame(rng)
    model = make_model(case, rng)
    twin = twin_of(case, model)
    for parameterization, rows in FORMS:
        built = to_pymc(model, frame, parameterization=parameterization, rows=rows)
        points = random_points(built, 5, seed=1)
        noncentred = dict.fromkeys((level for _, level, _ in twin.levels), parameterization == "noncentered")
        mine = np.array([
            twin.log_joint(
                model, frame, values, noncentred,
                lambda eta, values=values: row_density(case.family, frame["y"], eta, values, frame, model)(
                    "none", frame["y"].to_numpy()).sum(),
            )
            for values in points.values
        ])  # fmt: skip
        assert np.isfinite(mine).all()
        if rows:
            np.testing.assert_allclose(points.density, mine, rtol=1e-10)
        else:  # a constant apart, whatever the parameters
            apart = points.density - mine
            np.testing.assert_allclose(apart, apart[0], rtol=0, atol=1e-8 * np.abs(mine).max())
