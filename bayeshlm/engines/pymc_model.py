"""The generative story as a PyMC model: the definition for humans, and what the NUTS engine samples.

It mirrors `simulate` and the exact engine, and shares no code with either beyond the columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayeshlm.data.layout import Block, Layout, Level
from bayeshlm.data.statistics import Statistics
from bayeshlm.data.support import STATUSES
from bayeshlm.data.table import tabulate
from bayeshlm.engines.observations import Observations, from_statistics, from_table
from bayeshlm.engines.parameterization import Plan, plan_levels
from bayeshlm.engines.pymc_families import observe
from bayeshlm.engines.pymc_priors import LOCATED, coefficient, positive
from bayeshlm.errors import DataError, PriorError, listed
from bayeshlm.spec.formula import variable_name
from bayeshlm.spec.model import Model
from bayeshlm.spec.priors import LKJ

if TYPE_CHECKING:
    import pymc as pm

Array = NDArray[np.float64]
ROWS, COLUMNS = "__obs__", "__column__"  # dims, named so that no column of the user's can have their name


@dataclass(frozen=True, eq=False)
class Data:
    """Values of one `pm.Data`, and its dims."""

    values: NDArray[Any]
    dims: tuple[str, ...] = ()


def to_pymc(model: Model, data: Any, *, parameterization: str = "auto", rows: bool = False) -> pm.Model:
    """Write a model out in PyMC, bound to data.

    Variables, dims and labels are those of a posterior of `fit`. Group-specific effects are deterministics in every
    parameterisation. The intercept is sampled where it belongs, at the means of the columns
    (`Intercept_centred`), and its prior is the one of the value at x = 0.

    Parameters
    ----------
    model : Model
        With all its priors (see `bayeshlm.scaled_priors`).
    data : frame, path or Statistics
        Statistics suffice for gaussian and lognormal models unless `rows`.
    parameterization : {"auto", "centered", "noncentered"}
        Of every level: deviations in units of their standard deviation, or totals about the total of the parent level's
        group. "auto" chooses per level by the information in a group, see `bayeshlm.engines.parameterization`.
    rows : bool
        One likelihood term a row of the data, so that predictive draws are rows. Otherwise the likelihood is compressed
        without loss, as far as the family allows: the same log density up to a constant, at any number of rows.

    Returns
    -------
    pymc.Model

    Raises
    ------
    DataError, PriorError, EngineError
    """
    if model.missing_priors:
        raise PriorError(
            f"No prior for {listed(model.missing_priors)}. Give them, or take bayeshlm.scaled_priors(model, data)."
        )
    statistics, observations = observed(model, data, rows=rows)
    return build(statistics, observations, plan_levels(statistics, parameterization))


def observed(model: Model, data: Any, *, rows: bool, missing: str = "drop") -> tuple[Statistics, Observations]:
    """(moments, observations) of data under a model, compressed unless `rows`."""
    import dataclasses

    from bayeshlm.data.statistics import compress

    sums = model.family_spec.moments_suffice and model.censored is None
    if isinstance(data, Statistics):
        if rows or not sums:
            raise DataError("Statistics hold no rows; give the data themselves.")
        statistics = dataclasses.replace(data, model=model)
        return statistics, from_statistics(statistics)
    if sums and not rows:
        statistics = compress(model, data, missing=missing)
        return statistics, from_statistics(statistics)
    table = tabulate(model, data, missing=missing, join=not rows)
    return table.statistics, from_table(table)


def build(statistics: Statistics, observations: Observations, plans: tuple[Plan, ...]) -> pm.Model:
    """The PyMC model of observations; see `to_pymc`."""
    import pymc as pm

    model, layout = statistics.model, statistics.layout
    with pm.Model(coords=_coords(statistics, observations)) as built:
        builder = _Builder(
            model, layout, statistics, observations, {plan.index: plan for plan in plans}, _Names(model),
            data_of(statistics, observations, plans),
        )  # fmt: skip
        builder.add_common()
        for plan in plans:
            builder.add_level(plan)
        builder.add_response()
    return built


def data_of(statistics: Statistics, observations: Observations, plans: tuple[Plan, ...]) -> dict[str, Data]:
    """Everything that may change between fits of one model shape, by the name of its `pm.Data`."""
    layout, names = statistics.layout, _Names(statistics.model)
    data = {
        "columns": Data(observations.columns, (ROWS, COLUMNS)),
        "constant": Data(observations.constant, (ROWS,)),
        "column_means": Data(observations.shift, (COLUMNS,)),
        "response_mean": Data(np.asarray(observations.response_shift)),
        "observed": Data(observations.response, (ROWS,)),
        "weight": Data(observations.weight, (ROWS,)),
        "trials": Data(observations.trials, (ROWS,)),
        "offset": Data(observations.offset, (ROWS,)),
        "upper": Data(observations.upper, (ROWS,)),
    }
    for plan in plans:
        level = layout.levels[plan.index].name
        data[f"{level}_of_row"] = Data(observations.codes[:, plan.index], (ROWS,))
        data[f"{level}_parent"] = Data(plan.parent_codes, (level,))
        data[f"{level}_columns"] = Data(plan.reference, (level, COLUMNS))
    if statistics.model.censored is not None:
        found = {word: np.flatnonzero(observations.status == k) for k, word in enumerate(STATUSES)}
        data |= {f"status {word}": Data(where) for word, where in found.items() if len(where)}
    if observations.rest is not None:
        data |= {"rest_square": Data(np.asarray(observations.rest[0]))}
        data |= {"rest_free": Data(np.asarray(float(observations.rest[1])))}
    return {names(name): value for name, value in data.items()}


def _coords(statistics: Statistics, observations: Observations) -> dict[str, Any]:
    layout = statistics.layout
    coords: dict[str, Any] = {
        ROWS: np.arange(observations.count),
        COLUMNS: [column.label for column in layout.columns[1:]],
    }
    blocks = [*layout.common, *(block for level in layout.levels for block in level.blocks)]
    coords |= {block.dim: list(block.labels) for block in blocks if block.labels}
    for k, level in enumerate(layout.levels):
        coords[level.name] = statistics.labels(k)
        coords[f"{level.name}_total_effect"] = list(level.effect_labels)
        for positions in level.correlated:
            labels = [level.effect_labels[p] for p in positions]
            coords |= dict.fromkeys((f"{level.name}_effect", f"{level.name}_effect_other"), labels)
    return coords


class _Names:
    """Names of helper variables and data, changed where the user's model has the same."""

    def __init__(self, model: Model) -> None:
        terms = model.terms
        self.taken = {*model.parameters, *(group.level_name for group in terms.groups)}
        self.taken |= {group.effect_name(effect) for group in terms.groups for effect in group.effects}
        self.response = self(variable_name(terms.response.name))
        self.taken |= {self.response}

    def __call__(self, name: str) -> str:
        """The name, with underscores behind it until it is free."""
        while name in self.taken:
            name += "_"
        return name


@dataclass
class _Builder:
    """Puts the parts into the model under construction, in the order of the generative story.

    `slopes` are the coefficients of all design columns but the constant (0 where a column is no common effect),
    `overall` is the linear predictor at the columns' means, `effects` are the groups' deviations per level in centred
    columns, (groups, effects), and `totals` their sum with everything above them, per level and design column.
    """

    model: Model
    layout: Layout
    statistics: Statistics
    observations: Observations
    plans: dict[int, Plan]
    name: _Names
    values: dict[str, Data]
    data: dict[str, Any] = field(default_factory=dict)
    slopes: Any = None
    overall: Any = None
    effects: dict[int, Any] = field(default_factory=dict)
    totals: dict[int, dict[int, Any]] = field(default_factory=dict)

    def get(self, name: str) -> Any:
        """The `pm.Data` of that name, put into the model when it is first used."""
        import pymc as pm

        name = self.name(name)
        if name not in self.data:
            self.data[name] = pm.Data(name, self.values[name].values, dims=self.values[name].dims or None)
        return self.data[name]

    def add_common(self) -> None:
        import pymc as pm
        import pytensor.tensor as pt

        priors = self.model.complete_priors
        columns = len(self.layout.columns) - 1
        slopes: list[Any] = [pt.constant(0.0)] * columns
        for block in self.layout.common:
            if 0 in block.columns:
                continue
            beta = coefficient(block.name, priors[block.name], dims=_dims(block))
            for position, column in enumerate(block.columns):
                slopes[column - 1] = beta[position] if block.labels else beta
        self.slopes = pt.stack(slopes) if slopes else pt.zeros(0)
        # The value at x = 0 is far from the data; the value at the columns' means is what they know.
        moved = pt.dot(self.slopes, self.get("column_means")) if columns else 0.0
        moved = moved - self.get("response_mean")
        if not self.model.terms.intercept:
            self.overall = moved
            return
        prior = priors["Intercept"]
        if isinstance(prior, LOCATED):
            self.overall = coefficient(self.name("Intercept_centred"), prior, shift=moved)
            pm.Deterministic("Intercept", self.overall - moved)
        else:
            self.overall = coefficient("Intercept", prior) + moved

    def add_level(self, plan: Plan) -> None:
        import pymc as pm
        import pytensor.tensor as pt

        level = self.layout.levels[plan.index]
        root = self._root(level)
        lift = self._lift(level)
        above: Any = self._above(plan, level) if plan.centred or self._carries(plan) else None
        k = len(level.columns)
        dims: tuple[str, ...] = (level.name,) if k == 1 else (level.name, f"{level.name}_total_effect")
        stem = level.blocks[0].name if k == 1 and not level.blocks[0].labels else level.name
        if plan.centred:
            name = self.name(f"{stem}_total")
            if k == 1:
                total = pm.Normal(name, above[:, 0], root[0, 0], dims=dims)[:, None]
            elif lift is None:
                total = pm.MvNormal(name, mu=above, chol=root, dims=dims)
            else:
                factor = _product(lift, root)
                total = pm.MvNormal(name, mu=above, cov=_product(factor, factor.T), dims=dims)
            centred = total - above
            # lift = 1 + N with N N = 0, so that its inverse is 1 - N.
            effects = centred if lift is None else _product(centred, 2 * pt.eye(k) - lift.T)
        else:
            offset = pm.Normal(self.name(f"{stem}_offset"), dims=dims)
            effects = root[0, 0] * offset[:, None] if k == 1 else _product(offset, root.T)
            centred = effects if lift is None else _product(effects, lift.T)
            total = centred if above is None else above + centred
        self.effects[plan.index] = centred
        self.totals[plan.index] = {column: total[:, position] for position, column in enumerate(level.columns)}
        position = 0
        for block in level.blocks:
            part = effects[:, position : position + len(block.columns)]
            position += len(block.columns)
            pm.Deterministic(block.name, part if block.labels else part[:, 0], dims=(level.name, *_dims(block)))

    def _root(self, level: Level) -> Any:
        """(k, k) lower root of the covariance of a level's effects, in the user's coordinates."""
        import pymc as pm
        import pytensor.tensor as pt

        priors = self.model.complete_priors
        sds = []
        for block in level.blocks:
            name = f"{block.name}_sigma"
            sd = positive(name, priors[name], dims=_dims(block))
            sds += [sd[j] for j in range(len(block.labels))] if block.labels else [sd]
        root = pt.diag(pt.stack(sds))
        for positions in level.correlated:
            prior = priors[f"corr|{level.name}"]
            assert isinstance(prior, LKJ)  # Model has checked it
            factor = self._correlation_root(level, prior, len(positions))
            dims = (f"{level.name}_effect", f"{level.name}_effect_other")
            pm.Deterministic(f"corr|{level.name}", _product(factor, factor.T), dims=dims)
            index = np.ix_(positions, positions)
            scaled = pt.stack([sds[p] for p in positions])[:, None] * factor
            root = pt.set_subtensor(root[index], scaled)
        return root

    def _correlation_root(self, level: Level, prior: LKJ, size: int) -> Any:
        """(size, size) lower root of an LKJ correlation matrix, from its partial correlations (see `LKJ`).

        PyMC's own LKJCorr has a loop in its transform, which takes many times as long to compile.
        """
        import pymc as pm
        import pytensor.tensor as pt

        b = prior.partial_beta(size)
        partial = 2 * pm.Beta(self.name(f"corr|{level.name}_partial"), b, b, shape=len(b)) - 1
        zero = pt.zeros(())
        rows: list[list[Any]] = [[pt.ones(())] + [zero] * (size - 1)]
        k = 0
        for i in range(1, size):
            left: Any = pt.ones(())  # what is left of the row's unit length, squared
            row = []
            for _ in range(i):
                row.append(partial[k] * pt.sqrt(left))
                left = left * (1 - partial[k] ** 2)
                k += 1
            rows.append([*row, pt.sqrt(left), *[zero] * (size - 1 - i)])
        return pt.stack([pt.stack(row) for row in rows])

    def _lift(self, level: Level) -> Any:
        """(k, k): effects in centred columns = lift @ effects as the user wrote them; None where they are the same."""
        import pytensor.tensor as pt

        if 0 not in level.columns or len(level.columns) == 1:
            return None
        row = level.columns.index(0)
        lift = pt.eye(len(level.columns))
        for position, column in enumerate(level.columns):
            if column:
                lift = pt.set_subtensor(lift[row, position], self.get("column_means")[column - 1])
        return lift

    def _above(self, plan: Plan, level: Level) -> Any:
        """(groups, k): what a group's totals are about."""
        import pytensor.tensor as pt

        groups = len(self.statistics.members[plan.index])
        chain = self._chain(plan)
        parts = []
        for column in level.columns:
            part: Any = pt.zeros(groups)
            codes, found = None, False
            for ancestor in chain:
                step = self.get(f"{self.layout.levels[ancestor[0]].name}_parent")
                codes = step if codes is None else step[codes]
                parent = ancestor[1]
                if column in self.totals[parent]:
                    part = self.totals[parent][column][codes]
                    if column == 0 and self._anchored(plan):
                        here = self.get(f"{level.name}_columns")
                        there = self.get(f"{self.layout.levels[parent].name}_columns")[codes]
                        part = part + pt.dot(here - there, self.slopes)
                    found = True
                    break
            if not found and self._anchored(plan):
                if column == 0:
                    part = self.overall + pt.dot(self.get(f"{level.name}_columns"), self.slopes)
                else:
                    part = pt.zeros(groups) + self.slopes[column - 1]
            parts.append(part)
        return pt.stack(parts, axis=1)

    def _chain(self, plan: Plan) -> list[tuple[int, int]]:
        """(level, its parent) from a level up to the top."""
        chain = []
        while plan.parent is not None:
            chain.append((plan.index, plan.parent))
            plan = self.plans[plan.parent]
        return chain

    def _carries(self, plan: Plan) -> bool:
        """Whether some level below this one is centred on totals."""
        below = [other for other in self.plans.values() if other.parent == plan.index]
        return any(other.centred or self._carries(other) for other in below)

    def _anchored(self, plan: Plan) -> bool:
        chain = self._chain(plan)
        return (self.plans[chain[-1][1]] if chain else plan).anchored

    def add_response(self) -> None:
        import pymc as pm
        import pytensor.tensor as pt

        observations, model = self.observations, self.model
        eta = self.get("constant") * self.overall + self.get("offset")
        if len(self.layout.columns) > 1:
            eta = eta + pt.dot(self.get("columns"), self.slopes)
        for index, effects in self.effects.items():
            level = self.layout.levels[index]
            of_row = self.get(f"{level.name}_of_row")
            for position, column in enumerate(level.columns):
                values = self.get("columns")[:, column - 1] if column else self.get("constant")
                if column and 0 not in level.columns:  # no intercept of the level's own absorbs the columns' centring
                    values = values + self.get("constant") * self.get("column_means")[column - 1]
                eta = eta + effects[of_row, position] * values
        extra = {name: positive(name, self.model.complete_priors[name]) for name, _ in model.extra}
        name = self.name.response
        natural = observations.rows or model.censored is not None or not model.family_spec.moments_suffice
        if not natural:  # gaussian or lognormal, compressed: on the scale on which effects add, about the mean
            spread = extra.get("sigma", 1.0) / pt.sqrt(self.get("weight"))
            pm.Normal(name, eta, spread, observed=self.get("observed"), dims=ROWS)
            if observations.rest is not None:
                free = self.get("rest_free")
                pm.Gamma(
                    self.name(f"{name}_rest"), free / 2, 0.5 / extra["sigma"] ** 2, observed=self.get("rest_square")
                )
            return
        eta = eta + self.get("response_mean")
        parts = {"eta": eta, "weight": self.get("weight"), "trials": self.get("trials"), **extra}
        found = [f"status {word}" for word in STATUSES if self.name(f"status {word}") in self.values]
        data = {key: self.get(key) for key in ("observed", *found, *(["upper"] if found else []))}
        observe(model, name, parts, data, ROWS)


def _product(a: Any, b: Any) -> Any:
    """Matrix product with few inner terms, written out: PyTensor's own wants a BLAS that pip does not install."""
    return (a[:, :, None] * b[None, :, :]).sum(axis=1)


def _dims(block: Block) -> tuple[str, ...]:
    return (block.dim,) if block.labels else ()
