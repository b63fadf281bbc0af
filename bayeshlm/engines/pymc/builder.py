"""The generative story, part by part: common effects, levels from the outermost, the response."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bayeshlm.data.checks.support import STATUSES
from bayeshlm.data.layout import Block, Layout, Level
from bayeshlm.data.statistics import Statistics
from bayeshlm.engines.pymc.algebra import correlation_root, times
from bayeshlm.engines.pymc.data import ROWS, Data, Names
from bayeshlm.engines.pymc.families import observe
from bayeshlm.engines.pymc.observations import Observations
from bayeshlm.engines.pymc.parameterization import Plan
from bayeshlm.engines.pymc.priors import LOCATED, coefficient, deviation, positive
from bayeshlm.spec.model import Model
from bayeshlm.spec.priors import LKJ, At, Prior


@dataclass
class Builder:
    """Puts the parts into the model under construction, in the order of the generative story.

    `slopes` are the coefficients of all design columns but the constant (0 where a column is no common effect),
    `overall` is the linear predictor at the columns' means, `effects` are the groups' deviations per level, as the user
    wrote them and in centred columns, a (groups,) vector for each effect, and `totals` are sums of the latter with
    everything above them, per level and design column.
    """

    model: Model
    layout: Layout
    statistics: Statistics
    observations: Observations
    plans: dict[int, Plan]
    name: Names
    values: dict[str, Data]
    data: dict[str, Any] = field(default_factory=dict)
    slopes: Any = None
    overall: Any = None
    effects: dict[int, tuple[list[Any], list[Any]]] = field(default_factory=dict)
    totals: dict[int, dict[int, Any]] = field(default_factory=dict)

    def get(self, name: str) -> Any:
        """The `pm.Data` of that name, put into the model when it is first used."""
        import pymc as pm

        name = self.name(name)
        if name not in self.data:
            self.data[name] = pm.Data(name, self.values[name].values, dims=self.values[name].dims or None)
        return self.data[name]

    def add_common(self) -> None:
        import pytensor.tensor as pt

        priors = self.model.complete_priors
        columns = len(self.layout.columns) - 1
        slopes: list[Any] = [pt.constant(0.0)] * columns
        for block in self.layout.common:
            if 0 in block.columns:
                continue
            beta = self._slope(block, priors[block.name])
            for position, column in enumerate(block.columns):
                slopes[column - 1] = beta[position] if block.labels else beta
        self.slopes = pt.stack(slopes) if slopes else pt.zeros(0)
        # The value at x = 0 is far from the data; the value at the columns' means is what they know.
        moved = pt.dot(self.slopes, self.get("column_means")) if columns else 0.0
        moved = moved - self.get("response_mean")
        if not self.model.terms.intercept:
            self.overall = moved
            return
        self.overall = self._intercept(priors["Intercept"], moved) + moved

    def _intercept(self, prior: Prior, moved: Any) -> Any:
        """The value at x = 0, sampled where the data are."""
        import pymc as pm
        import pytensor.tensor as pt

        told = moved  # from the intercept to what its prior speaks of
        if isinstance(prior, At):
            prior, told = prior.prior, moved - pt.dot(self.slopes, self.get("prior_point"))
        if not isinstance(prior, LOCATED):
            return coefficient("Intercept", prior)
        # As the columns' means, so the mean of the groups: the data know the sum of it and the intercept, not the two.
        mean = sum((self._mean_deviation(plan) for plan in self._deviating()), start=pt.zeros(()))
        typical = coefficient(self.name("Intercept_centred"), prior, shift=told + mean)
        return pm.Deterministic("Intercept", typical - mean - moved)

    def _slope(self, block: Block, prior: Prior) -> Any:
        """A common effect, sampled in units of its columns' spread: what it does, whatever the columns' units."""
        import pymc as pm

        if not isinstance(prior, LOCATED):
            return coefficient(block.name, prior, dims=dims_of(block))
        scales = self.get("column_scales")[[column - 1 for column in block.columns]]
        scale = scales if block.labels else scales[0]
        scaled = coefficient(self.name(f"{block.name}_scaled"), prior, scale=scale, dims=dims_of(block))
        return pm.Deterministic(block.name, scaled / scale, dims=dims_of(block))

    def _deviating(self) -> list[Plan]:
        """The levels whose intercepts are deviations from the overall one: non-centred, as all levels above them."""
        free = [k for k, level in enumerate(self.layout.levels) if 0 in level.columns]
        chains = {k: [self.plans[k], *(self.plans[above] for _, above in self._chain(self.plans[k]))] for k in free}
        return [self.plans[k] for k in free if not any(plan.centred for plan in chains[k])]

    def _mean_deviation(self, plan: Plan) -> Any:
        """Mean of a level's intercepts, each group counting by what the data know of it."""
        import pytensor.tensor as pt

        level = self.layout.levels[plan.index]
        intercepts = self._effects(plan, level, None)[1][level.columns.index(0)]
        return pt.dot(self.get(f"{level.name}_share"), intercepts)

    def add_level(self, plan: Plan) -> None:
        import pymc as pm
        import pytensor.tensor as pt

        level = self.layout.levels[plan.index]
        above = self._above(plan, level) if plan.centred or self._carries(plan) else None
        effects, centred = self._effects(plan, level, above)
        totals = centred if above is None else [a + c for a, c in zip(above, centred, strict=True)]
        self.totals[plan.index] = dict(zip(level.columns, totals, strict=True))
        position = 0
        for block in level.blocks:
            part = effects[position : position + len(block.columns)]
            position += len(block.columns)
            values = pt.stack(part, axis=1) if block.labels else part[0]
            pm.Deterministic(block.name, values, dims=(level.name, *dims_of(block)))

    def _effects(self, plan: Plan, level: Level, above: list[Any] | None) -> tuple[list[Any], list[Any]]:
        """(effects as the user wrote them, effects in centred columns), made when they are first asked for."""
        if plan.index not in self.effects:
            make = self._one_effect if len(level.columns) == 1 else self._several_effects
            self.effects[plan.index] = make(plan, level, above)
        return self.effects[plan.index]

    def _one_effect(self, plan: Plan, level: Level, above: list[Any] | None) -> tuple[list[Any], list[Any]]:
        """(effects, the same): each a list of one (groups,) vector."""
        import pymc as pm

        sd, name = self._sds(level)[0], level.blocks[0].name
        if plan.centred and above is not None:
            effect = pm.Normal(self.name(f"{name}_total"), above[0], sd, dims=level.name) - above[0]
        elif plan.centring:
            scaled = pm.Normal(self.name(f"{name}_partial"), 0, sd**plan.centring, dims=level.name)
            effect = sd ** (1 - plan.centring) * scaled
        else:
            effect = sd * pm.Normal(self.name(f"{name}_offset"), dims=level.name)
        return [effect], [effect]

    def _several_effects(self, plan: Plan, level: Level, above: list[Any] | None) -> tuple[list[Any], list[Any]]:
        """(effects as the user wrote them, effects in centred columns): lists of (groups,) vectors."""
        import pymc as pm
        import pytensor.tensor as pt

        root, lift, k = self._root(level), self._lift(level), len(level.columns)
        dims = (level.name, f"{level.name}_total_effect")
        if plan.centred and above is not None:
            mean, name = pt.stack(above, axis=1), self.name(f"{level.name}_total")
            if lift is None:
                total = pm.MvNormal(name, mu=mean, chol=root, dims=dims)
            else:
                factor = times(lift, root)
                total = pm.MvNormal(name, mu=mean, cov=times(factor, factor.T), dims=dims)
            centred = total - mean
            # lift = 1 + N with N N = 0, so that its inverse is 1 - N.
            effects = centred if lift is None else times(centred, 2 * pt.eye(k) - lift.T)
        else:
            effects = times(pm.Normal(self.name(f"{level.name}_offset"), dims=dims), root.T)
            centred = effects if lift is None else times(effects, lift.T)
        return [effects[:, j] for j in range(k)], [centred[:, j] for j in range(k)]

    def _sds(self, level: Level) -> list[Any]:
        """Standard deviations of a level's effects."""
        priors, sds = self.model.complete_priors, []
        for block in level.blocks:
            name = f"{block.name}_sigma"
            sd = deviation(name, priors[name], dims=dims_of(block))
            sds += [sd[j] for j in range(len(block.labels))] if block.labels else [sd]
        return sds

    def _root(self, level: Level) -> Any:
        """(k, k) lower root of the covariance of a level's effects, in the user's coordinates."""
        import pymc as pm
        import pytensor.tensor as pt

        sds = self._sds(level)
        root = pt.diag(pt.stack(sds))
        for positions in level.correlated:
            prior = self.model.complete_priors[f"corr|{level.name}"]
            assert isinstance(prior, LKJ)  # Model has checked it
            factor = self._correlation_root(level, prior, len(positions))
            dims = (f"{level.name}_effect", f"{level.name}_effect_other")
            pm.Deterministic(f"corr|{level.name}", times(factor, factor.T), dims=dims)
            index = np.ix_(positions, positions)
            scaled = pt.stack([sds[p] for p in positions])[:, None] * factor
            root = pt.set_subtensor(root[index], scaled)
        return root

    def _correlation_root(self, level: Level, prior: LKJ, size: int) -> Any:
        """(size, size) lower root of an LKJ correlation matrix, from its partial correlations (see `LKJ`).

        PyMC's own LKJCorr has a loop in its transform, which takes many times as long to compile.
        """
        import pymc as pm

        b = prior.partial_beta(size)
        partial = 2 * pm.Beta(self.name(f"corr|{level.name}_partial"), b, b, shape=len(b)) - 1
        return correlation_root(partial, size)[0]

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

    def _above(self, plan: Plan, level: Level) -> list[Any]:
        """What a group's totals are about: per effect (groups,)."""
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
        return parts

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
        for index, (_, effects) in self.effects.items():
            level = self.layout.levels[index]
            of_row = self.get(f"{level.name}_of_row")
            for position, column in enumerate(level.columns):
                values = self.get("columns")[:, column - 1] if column else self.get("constant")
                if column and 0 not in level.columns:  # no intercept of the level's own absorbs the columns' centring
                    values = values + self.get("constant") * self.get("column_means")[column - 1]
                eta = eta + effects[position][of_row] * values
        spread, priors = self.layout.residual, model.complete_priors
        extra = {
            name: positive(name, priors[name], dims=dims_of(spread) if spread is not None and name == "sigma" else ())
            for name, _ in model.extra
        }
        sigmas: Any = extra.get("sigma")
        if spread is not None:
            extra["sigma"] = extra["sigma"][self.get("part")]
        name = self.name.response
        natural = observations.rows or not model.moments_suffice
        if not natural:  # gaussian or lognormal, compressed: on the scale on which effects add, about the mean
            sd = extra.get("sigma", 1.0) / pt.sqrt(self.get("weight"))
            pm.Normal(name, eta, sd, observed=self.get("observed"), dims=ROWS)
            if observations.rest:
                free = self.get("rest_free")
                of_rest = sigmas if spread is None else sigmas[self.get("rest_part")]
                pm.Gamma(self.name(f"{name}_rest"), free / 2, 0.5 / of_rest**2, observed=self.get("rest_square"))
            return
        eta = eta + self.get("response_mean")
        parts = {"eta": eta, "weight": self.get("weight"), "trials": self.get("trials"), **extra}
        found = [f"status {word}" for word in STATUSES if self.name(f"status {word}") in self.values]
        data = {key: self.get(key) for key in ("observed", *found, *(["upper"] if found else []))}
        observe(model, name, parts, data, ROWS)


def dims_of(block: Block) -> tuple[str, ...]:
    return (block.dim,) if block.labels else ()
