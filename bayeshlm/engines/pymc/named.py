"""The generative story in the posterior's own variables: every free variable of the model is one of a posterior's.

PyMC's tools for draws (posterior predictive, pointwise log likelihoods) find variables by their names, and draw those
that they do not find from the prior. How a level is sampled is a matter of transforms here, which these tools undo.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bayeshlm.data.layout import Block, Level
from bayeshlm.engines.pymc.algebra import correlation_root, times
from bayeshlm.engines.pymc.builder import Builder, dims_of
from bayeshlm.engines.pymc.parameterization import Plan
from bayeshlm.engines.pymc.priors import coefficient
from bayeshlm.spec.priors import LKJ, At, Prior


class NamedBuilder(Builder):
    """Effects are drawn about 0; correlated ones of a group one after the other, given those before."""

    def _slope(self, block: Block, prior: Prior) -> Any:
        return coefficient(block.name, prior, dims=dims_of(block))

    def _intercept(self, prior: Prior, moved: Any) -> Any:
        import pytensor.tensor as pt

        if isinstance(prior, At):
            # A constant, no `pm.Data`: PyMC asks whether what a variable's prior is made of has changed.
            point = self.values[self.name("prior_point")].values
            return coefficient("Intercept", prior.prior, shift=-pt.dot(self.slopes, point))
        return coefficient("Intercept", prior)

    def add_level(self, plan: Plan) -> None:
        import pytensor.tensor as pt

        level = self.layout.levels[plan.index]
        sds = self._sds(level)
        root = self._named_root(level, sds) if level.correlated else None
        correlated = {position for positions in level.correlated for position in positions}
        effects: list[Any] = []
        before: list[Any] = []  # the correlated ones so far, each as independent standard normal variables
        at = 0
        for block in level.blocks:
            here = range(at, at + len(block.columns))
            at = here.stop
            if root is None or not correlated.intersection(here):
                values = self._independent(plan, level, block, [sds[k] for k in here])
                effects += [values[:, j] for j in range(len(here))] if block.labels else [values]
                continue
            given = sorted(correlated.intersection(range(here.start)))
            values, drawn = self._conditional(plan, level, block, root, here, given, before)
            effects += [values[:, j] for j in range(len(here))]
            before += [drawn[:, j] for j in range(len(here))]
        centred = list(effects)
        if 0 in level.columns and len(effects) > 1:
            means = self.get("column_means")
            slopes = [means[c - 1] * e for c, e in zip(level.columns, effects, strict=True) if c]
            centred[level.columns.index(0)] = effects[level.columns.index(0)] + pt.stack(slopes).sum(axis=0)
        self.effects[plan.index] = (effects, centred)

    def _independent(self, plan: Plan, level: Level, block: Block, sds: list[Any]) -> Any:
        import pymc as pm
        import pytensor.tensor as pt

        sd = pt.stack(sds)[None, :] if block.labels else sds[0]
        dims = (level.name, *dims_of(block))
        return pm.Normal(block.name, 0.0, sd, dims=dims, default_transform=_in_deviations(plan))

    def _conditional(
        self, plan: Plan, level: Level, block: Block, root: Any, here: range, given: list[int], before: list[Any]
    ) -> tuple[Any, Any]:
        """(effects, the same as independent standard normal variables), (groups, columns of the block) each."""
        import pymc as pm
        import pytensor.tensor as pt

        from bayeshlm.engines.pymc.transform import Whitened

        own = root[here.start : here.stop, here.start : here.stop]
        groups = len(self.statistics.members[plan.index])
        mean = pt.zeros((groups, len(here)))
        if given:
            mean = times(pt.stack(before, axis=1), root[here.start : here.stop, :][:, given].T)
        dims = (level.name, *dims_of(block))
        if not block.labels:
            values = pm.Normal(
                block.name, mean[:, 0], own[0, 0], dims=dims, default_transform=_in_deviations(plan)
            )[:, None]  # fmt: skip
            return values, (values - mean) / own[0, 0]
        whitened = None if plan.centred else Whitened()
        values = pm.MvNormal(block.name, mean, cov=times(own, own.T), dims=dims, default_transform=whitened)
        return values, pt.linalg.solve_triangular(own, (values - mean).T, lower=True).T

    def _named_root(self, level: Level, sds: list[Any]) -> Any:
        """(k, k) lower root of the covariance of a level's effects."""
        import pytensor.tensor as pt

        root = pt.diag(pt.stack(sds))
        for positions in level.correlated:
            prior = self.model.complete_priors[f"corr|{level.name}"]
            assert isinstance(prior, LKJ)  # Model has checked it
            matrix = _correlation(level, prior, len(positions))
            scaled = pt.stack([sds[p] for p in positions])[:, None] * pt.linalg.cholesky(matrix)
            root = pt.set_subtensor(root[np.ix_(positions, positions)], scaled)
        return root


def _in_deviations(plan: Plan) -> Any:
    from bayeshlm.engines.pymc.transform import InDeviations

    return None if plan.centred else InDeviations(1.0 - plan.centring)


def _correlation(level: Level, prior: LKJ, size: int) -> Any:
    """A correlation matrix: PyMC's own LKJCorr is its root, and no variable of a posterior."""
    import pymc as pm
    import pytensor.tensor as pt

    from bayeshlm.engines.pymc.transform import PartialCorrelations

    b = np.asarray(prior.partial_beta(size), dtype=float)
    # A power of the determinant; at the identity it is the density of the partial correlations, all 0 there.
    constant = float(prior.logpdf_partial(np.zeros(len(b)), size))

    def drawn(_eta: Any, _size: Any) -> Any:
        root, _ = correlation_root(2 * pm.Beta.dist(b, b, size=b.shape) - 1, size)
        return times(root, root.T)

    def logp(matrix: Any, eta: Any) -> Any:
        return constant + (eta - 1) * 2 * pt.log(pt.diag(pt.linalg.cholesky(matrix))).sum()

    return pm.CustomDist(
        f"corr|{level.name}", np.float64(prior.eta), dist=drawn, logp=logp, signature="()->(k,k)", class_name="LKJ",
        dims=(f"{level.name}_effect", f"{level.name}_effect_other"), support_point=lambda *_: pt.eye(size),
        default_transform=PartialCorrelations(size),
    )  # fmt: skip
