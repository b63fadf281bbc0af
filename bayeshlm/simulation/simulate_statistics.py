"""Simulate a study's sufficient statistics without its rows: the same law as `compress(model, simulate(...).data)`.

Given the covariates of its n units, a group's data about the response are, with a_i = (1, x_i) and noise e_i of
variance sigma^2 / w_i, independent and known in law:

    mean of e               ~ N(0, sigma^2 / sum w)
    S_xe = sum w (x - m) e  ~ N(0, sigma^2 S_xx)
    S_ee - S_xe' S_xx^- S_xe ~ sigma^2 chi^2(n - 1 - rank S_xx)

(the independence of fitted and residual sums of squares; Searle 1971, Linear Models, section 2.5). So no noise is drawn
for any unit; covariates of units are drawn, in pieces that fit in memory, only where the model uses some.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshlm.arrays import Array, Codes
from bayeshlm.data.compress import compress
from bayeshlm.data.cross_products import CrossProducts
from bayeshlm.data.groups import combine, joined_labels
from bayeshlm.data.layout import Layout, bind, categorical_columns
from bayeshlm.data.statistics import Statistics
from bayeshlm.randomness import generator
from bayeshlm.simulation.default_priors import with_design_priors
from bayeshlm.simulation.design import Design, Structure
from bayeshlm.simulation.parameters import Parameters, check_params, draw_parameters
from bayeshlm.simulation.simulate import check_categories, check_response, check_terms, draw_rows
from bayeshlm.simulation.units import Moments, draw_groups, unit_moments
from bayeshlm.spec.expressions import Node
from bayeshlm.spec.model import Model

if TYPE_CHECKING:
    import xarray as xr

LARGEST_LOG = 700.0  # beyond it the exponential of the response leaves the floats
NOTHING = 1e-12  # share of a column's variation within a group below which it is a combination of the others


@dataclass(frozen=True, eq=False)
class CompressedWorld:
    """A simulated study without rows.

    Attributes
    ----------
    statistics : Statistics
    parameters : Parameters
    through : {"statistics", "rows", "moments"}
        How the statistics were made: drawn as such; from rows, where the model needs them; or with the covariates'
        sums in groups of many units from their normal limit (see `bayeshlm.simulation.units`).
    """

    statistics: Statistics
    parameters: Parameters
    through: str

    @property
    def truth(self) -> xr.Dataset:
        """The parameters that made it, named and labelled as in a posterior."""
        return self.parameters.dataset()


def simulate_statistics(
    model: Model, design: Design, *, params: Mapping[str, Any] | None = None, random_seed: Any = None,
    mean_noise: Array | None = None,
) -> CompressedWorld:  # fmt: skip
    """Simulate a study and compress it, as if row by row.

    Cost grows with the groups, and with the units only where the model uses a covariate of units (about 40 ns a unit).
    Where it uses all of the design's covariates and these are fewer than `units.PIECE` numbers each, the same seed
    gives the same groups, covariates and truth as `simulate`; only the noise differs.

    Parameters
    ----------
    model, design, params, random_seed
        As in `simulate`.
    mean_noise : (innermost groups,), optional
        Standard normal numbers behind the groups' mean errors: given where designs share them (unused through rows).

    Returns
    -------
    CompressedWorld

    Raises
    ------
    DesignError, PriorError
        As `simulate` does.
    """
    rng = generator(random_seed)
    params = check_params(model, design, params or {})
    given, model = model, with_design_priors(model, design)
    if needs_rows(model, design):
        data, drawn = draw_rows(model, design, params, rng)
        return CompressedWorld(compress(given, data), drawn, "rows")
    structure = design.draw(rng)
    groups = draw_groups(model, design, structure, rng)
    numeric = {name: name not in groups.categories for name in model.columns}
    found = {name: groups.occurring(name) for name in categorical_columns(model, numeric)}
    check_categories(found)
    declared = {name: labels for name, labels in groups.categories.items() if name in found}
    with np.errstate(all="ignore"):  # what is not finite is refused by name
        constants = groups.constants(_stateful(model))
        layout = bind(model, numeric, found, constants, declared)
        moments = unit_moments(model, layout, groups, rng)
        check_terms([
            column.label for k, column in enumerate(layout.columns[1:]) if not np.isfinite(moments.scatter[:, k]).all()
        ])  # fmt: skip
        world = _with_response(model, layout, structure, groups.codes, moments, params, rng, mean_noise)
    # As `compress(given, rows)` would have it: what the priors of an analysis are is not settled here.
    return dataclasses.replace(world, statistics=dataclasses.replace(world.statistics, model=given))


def needs_rows(model: Model, design: Design) -> bool:
    """Whether only rows will do.

    Units or covariates as groups or categories, weighted units under a log response, offsets, a sigma by category,
    responses that are not Gaussian.
    """
    if model.terms.offsets or model.terms.sigma or not model.moments_suffice:
        return True
    groupings = {*design.groupings, *(name for name, _ in design.treatments)}
    keys = {key for group in model.terms.groups for key in group.level}
    named = {name for name, _ in design.treatments}
    categories = set(categorical_columns(model, {name: name not in named for name in model.columns}))
    units = {name for name, covariate in design.covariates if covariate.level is None}
    weighted = model.family_spec.log_response and bool({model.weights, model.se} & units)
    odd = not keys <= groupings or not categories <= {name for name, _ in design.treatments}
    return odd or weighted or design.unit in model.columns


def _stateful(model: Model) -> list[Node]:
    terms = [*model.terms.common, *(effect for group in model.terms.groups for effect in group.effects)]
    return list(dict.fromkeys(n for term in terms for factor in term.factors for n in factor.node.stateful()))


def _with_response(
    model: Model, layout: Layout, structure: Structure, codes: Mapping[str, tuple[Codes, list[Any]]],
    moments: Moments, params: Mapping[str, Any], rng: np.random.Generator, mean_noise: Array | None,
) -> CompressedWorld:  # fmt: skip
    """Draw the parameters, add the response to the groups' moments and gather groups into cells."""
    innermost = len(structure.units)
    coded, members = [], []
    for level in layout.levels:
        of_group, combos = combine([codes[key] for key in level.keys], innermost)
        named = [[codes[key][1][c] for c in column] for key, column in zip(level.keys, combos.T.tolist(), strict=True)]
        coded.append(of_group)
        members.append(tuple(zip(*named, strict=True)))
    drawn = draw_parameters(model, layout, [joined_labels(group) for group in members], params, rng)
    coefficients = np.zeros((innermost, len(layout.columns)))
    coefficients[:, list(layout.common_columns)] += drawn.common
    for level, of_group, effects in zip(layout.levels, coded, drawn.effects, strict=True):
        for column, effect in zip(level.columns, effects, strict=True):
            coefficients[:, column] += effect[of_group]
    mean, scatter = _response(moments, coefficients, drawn.sigma, rng, mean_noise)
    largest = LARGEST_LOG if model.family_spec.log_response else np.inf
    finite = np.isfinite(scatter[:, -1, -1]) & (np.abs(mean[:, -1]) < largest)
    check_response(bool(finite.all()), model.terms.response.name)

    keys = list(dict.fromkeys(key for level in layout.levels for key in level.keys))
    cell, _ = combine([codes[key] for key in keys], innermost)
    cells = int(cell.max()) + 1
    first = np.empty(cells, dtype=np.int64)
    first[cell[::-1]] = np.arange(innermost - 1, -1, -1)
    of_cell = np.stack([c[first] for c in coded], axis=1) if coded else np.zeros((cells, 0), dtype=np.int64)
    weight = moments.weight
    shift = weight @ mean / weight.sum()
    rows = int(moments.count.sum())
    jacobians = -moments.count * mean[:, -1] * model.family_spec.log_response
    log_weights = moments.log_weights
    mean = mean - shift
    if cells < innermost or (first != np.arange(cells)).any():
        count, jacobians, log_weights = (
            np.bincount(cell, values, cells) for values in (moments.count, jacobians, log_weights)
        )
        weight, mean, scatter = CrossProducts(weight, mean, scatter).pooled(cell, cells)
    else:
        count = moments.count
    statistics = Statistics(
        model, layout, tuple(members), of_cell, count, weight, mean, scatter, shift, rows, rows, {},
        log_weights, jacobians, np.zeros(cells, dtype=np.int64),
    )  # fmt: skip
    return CompressedWorld(statistics, drawn, "moments" if moments.limit else "statistics")


def _response(
    moments: Moments, coefficients: Array, sigma: float, rng: np.random.Generator, mean_noise: Array | None
) -> tuple[Array, Array]:
    """(means, scatters) of (columns, response) for every group; coefficients (groups, 1 + columns)."""
    groups, columns = moments.mean.shape
    slopes = coefficients[:, 1:]
    mean = np.empty((groups, columns + 1))
    scatter = np.zeros((groups, columns + 1, columns + 1))
    mean[:, :-1], scatter[:, :-1, :-1] = moments.mean, moments.scatter
    standard = rng.standard_normal(groups) if mean_noise is None else mean_noise
    noise = sigma * standard / np.sqrt(moments.weight)
    mean[:, -1] = coefficients[:, 0] + np.einsum("gk,gk->g", moments.mean, slopes) + noise
    root, rank = _roots(moments.scatter, moments.varying)
    score = rng.standard_normal((groups, root.shape[2])) * (np.arange(root.shape[2]) < rank[:, None])
    crossed = sigma * np.einsum("gkr,gr->gk", root, score)
    left = np.maximum(moments.count - 1 - rank, 0.0)
    residual = sigma**2 * (np.sum(score**2, axis=1) + 2.0 * rng.standard_gamma(left / 2))
    fitted = np.einsum("gkl,gl->gk", moments.scatter, slopes)
    scatter[:, :-1, -1] = scatter[:, -1, :-1] = fitted + crossed
    scatter[:, -1, -1] = np.einsum("gk,gk->g", slopes, fitted + 2 * crossed) + residual
    return mean, scatter


def _roots(scatter: Array, varying: tuple[int, ...]) -> tuple[Array, Array]:
    """Roots R of the groups' scatters, R R' = S, (groups, columns, v), and their ranks; full columns first."""
    groups, columns = scatter.shape[:2]
    root = np.zeros((groups, columns, len(varying)))
    if not varying:
        return root, np.zeros(groups)
    inside = scatter[:, varying][:, :, varying]
    scale = np.sqrt(np.einsum("gkk->gk", inside))
    safe = np.where(scale > 0, scale, 1.0)
    if len(varying) == 1:
        root[:, varying[0], 0] = scale[:, 0]
        return root, (scale[:, 0] > 0).astype(float)
    values, vectors = np.linalg.eigh(inside / (safe[:, :, None] * safe[:, None, :]))
    values, vectors = values[:, ::-1], vectors[:, :, ::-1]
    kept = values > NOTHING * len(varying)
    root[:, varying] = safe[:, :, None] * vectors * np.sqrt(np.where(kept, values, 0.0))[:, None, :]
    return root, kept.sum(axis=1).astype(float)
