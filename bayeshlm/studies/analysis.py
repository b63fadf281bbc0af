"""What one replicate of a study does: simulate a world, fit it, hand over truth and draws by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayeshlm.data.checks import check_statistics
from bayeshlm.data.statistics import Statistics, compress
from bayeshlm.engines.exact import fit_exact
from bayeshlm.engines.select import ENGINES, choose_engine
from bayeshlm.errors import BayeshlmError, DesignError, EngineError, PriorError, listed
from bayeshlm.posterior.convergence import bulk_ess
from bayeshlm.simulation.design import Design
from bayeshlm.simulation.parameters import check_params
from bayeshlm.simulation.simulate import World, simulate
from bayeshlm.simulation.simulate_statistics import simulate_statistics
from bayeshlm.spec.model import Model
from bayeshlm.spec.priors import Prior

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

Array = NDArray[np.float64]
Draws = Mapping[str, Array]
Sampler = Callable[[Statistics, int, int], Draws]  # (statistics, draws, seed) -> variable -> (draws, ...)
Generator = Callable[[Mapping[str, Any] | None, np.random.SeedSequence], World]  # (params, seed) -> world
EVERY = 20  # of so many replicates one goes through rows, the others through statistics drawn as such
TRIALS = 5  # worlds tried before the work, to see that model, design and engine go together
CHAINS, SHORTEST = 4, 250  # of engines that sample by Markov chains, and draws in each, to judge convergence by
LONGER = 4  # times as many draws where the first did not tell enough
ENOUGH = 0.5  # effective share of the draws below which that is so


@dataclass(frozen=True, eq=False)
class Replicate:
    """One simulated and fitted study.

    Attributes
    ----------
    statistics : Statistics
        Of the fitted model.
    truth : mapping of str to array
    draws : mapping of str to (draws, ...) array
    notes : mapping of str to float
        `rows` (1 where they were made), `pareto_k`, `efficiency`, `ess` (smallest of the hyperparameters), `fallback`.
    """

    statistics: Statistics
    truth: dict[str, Array]
    draws: Draws
    notes: dict[str, float]


@dataclass(frozen=True)
class Analysis:
    """Simulate under one model, fit under another or the same.

    Attributes
    ----------
    model, fit_model : Model
        With complete priors.
    design : Design
    params : mapping or None
    engine : str or callable
    draws : int
    world : callable or None
        Makes the worlds instead of `model` (misspecification).
    """

    model: Model
    fit_model: Model
    design: Design
    params: Mapping[str, Any] | None
    engine: str | Sampler
    draws: int
    world: Generator | None = None

    @property
    def key(self) -> dict[str, Any]:
        """What tells this analysis from others, for the store."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def replicate(self, index: int, seed: np.random.SeedSequence) -> Replicate:
        """Replicate `index`; everything random comes from `seed`."""
        of_world, of_fit = seed.spawn(2)
        through_rows = index % EVERY == 0
        data, statistics, truth = self._simulate(of_world, through_rows)
        check_statistics(statistics)
        number = int(of_fit.generate_state(1)[0])
        draws, notes = self._fit(data, statistics, number)
        return Replicate(statistics, truth, draws, {"rows": float(data is not None), **notes})

    def _simulate(
        self, seed: np.random.SeedSequence, through_rows: bool
    ) -> tuple[pd.DataFrame | None, Statistics, dict[str, Array]]:
        if self.world is None and not through_rows and self._same_columns:
            compressed = simulate_statistics(self.model, self.design, params=self.params, random_seed=seed)
            values = {name: value for name, (_, value) in compressed.parameters.values.items()}
            return None, dataclasses.replace(compressed.statistics, model=self.fit_model), values
        if self.world is None:
            world = simulate(self.model, self.design, params=self.params, random_seed=seed)
        else:
            world = self.world(self.params, seed)
        statistics = compress(self.fit_model, world.data)
        return world.data, statistics, aligned_truth(world.truth, statistics)

    @property
    def _same_columns(self) -> bool:
        a, b = self.model, self.fit_model
        return (a.formula, a.family, a.se, a.weights) == (b.formula, b.family, b.se, b.weights)

    def _fit(self, data: Any, statistics: Statistics, seed: int) -> tuple[Draws, dict[str, float]]:
        quiet = {"pareto_k": np.nan, "efficiency": np.nan, "ess": np.nan, "fallback": 0.0}
        if callable(self.engine):
            return self.engine(statistics, self.draws, seed), quiet
        if choose_engine(statistics, self.engine).engine == "exact":
            for longer in (1, LONGER):
                result = fit_exact(statistics, draws=longer * self.draws, chains=1, seed=seed)
                ess = smallest_ess({n: v.values for n, v in result.variables.items()}, statistics)
                if longer * ENOUGH * self.draws <= ess or longer == LONGER or np.isnan(ess):
                    break
            notes = {name: float(result.attrs.get(name, np.nan)) for name in ("pareto_k", "efficiency")}
            draws = {name: v.values[0, ::longer] for name, v in result.variables.items()}
            return draws, {**notes, "ess": ess / longer, "fallback": float(bool(result.attrs["fallback"]))}
        return self._sampled(data, statistics, seed, quiet)

    def _sampled(
        self, data: Any, statistics: Statistics, seed: int, quiet: dict[str, float]
    ) -> tuple[Draws, dict[str, float]]:
        """Markov chains of any engine of `fit`, thinned until the draws left are as good as independent."""
        from bayeshlm.fit import fit

        assert isinstance(self.engine, str)
        for longer in (1, LONGER):
            tree: Any = fit(
                self.fit_model, statistics if data is None else data, engine=self.engine,
                draws=longer * max(self.draws, SHORTEST), chains=CHAINS, random_seed=seed, progress=False,
            )  # fmt: skip
            values = {str(n): v.values for n, v in tree["posterior"].data_vars.items()}
            ess = smallest_ess(values, statistics)
            if ess >= self.draws:
                kept = np.linspace(0, CHAINS * tree["posterior"].sizes["draw"] - 1, self.draws).round().astype(int)
                thinned = {name: v.reshape(-1, *v.shape[2:])[kept] for name, v in values.items()}
                return thinned, {**quiet, "ess": ess}
        raise EngineError(
            f"{CHAINS * tree['posterior'].sizes['draw']} draws are worth {ess:.0f} independent ones, fewer than the "
            f"{self.draws} wanted."
        )


def aligned_truth(truth: xr.Dataset, statistics: Statistics) -> dict[str, Array]:
    """The truth's arrays, groups in the order of the statistics. Raises DesignError where the groups differ."""
    order = {level.name: statistics.labels(k) for k, level in enumerate(statistics.layout.levels)}
    values = {}
    for name, variable in truth.data_vars.items():
        array = np.asarray(variable.values, dtype=float)
        dim = str(variable.dims[0]) if variable.dims else ""
        if dim in order and str(name) not in statistics.model.parameters:
            labels = variable[dim].values.tolist()
            if labels != order[dim]:
                if sorted(map(str, labels)) != sorted(map(str, order[dim])):
                    raise DesignError(f"The groups of {dim!r} in the world's truth are not those of its data.")
                place = {str(label): k for k, label in enumerate(labels)}
                array = array[[place[str(label)] for label in order[dim]]]
        values[str(name)] = array
    return values


def smallest_ess(values: Mapping[str, Array], statistics: Statistics) -> float:
    """Smallest bulk effective sample size of the hyperparameters and common effects, (chains, draws, ...) each."""
    wanted = [values[n].reshape(*values[n].shape[:2], -1) for n in statistics.model.parameters if n in values]
    stacked = np.moveaxis(np.concatenate(wanted, axis=2), 2, 0)
    found = bulk_ess(stacked)
    return float(np.nanmin(found)) if np.isfinite(found).any() else float("nan")


def prepare_analysis(
    model: Model, design: Design, *, fit_model: Model | None, params: Mapping[str, Any] | None, engine: str | Sampler,
    draws: int, world: Generator | None = None, seed: int = 0,
) -> tuple[Analysis, Replicate]:  # fmt: skip
    """Check that everything goes together, before any work, and return the analysis with one trial of it.

    Raises
    ------
    DesignError, PriorError, FormulaError, DataError, EngineError
        What the trial worlds raise, where none of them can be simulated and fitted.
    """
    fit_model = model if fit_model is None else fit_model
    problems = [
        f"{name} is a {type(value).__name__}, not a bayeshlm.{kind.__name__}"
        for name, value, kind in (("model", model, Model), ("fit_model", fit_model, Model), ("design", design, Design))
        if not isinstance(value, kind)
    ]
    if not isinstance(draws, int | np.integer) or isinstance(draws, bool) or draws < 10:
        problems.append(f"draws={draws!r} must be a whole number of at least 10")
    if not callable(engine) and engine not in ENGINES:
        problems.append(f"engine={engine!r} is none of {listed(ENGINES)} and no function")
    if world is not None and not callable(world):
        problems.append(f"world={world!r} is no function of (params, seed)")
    if problems:
        raise DesignError("; ".join(problems) + ".")
    if fit_model.missing_priors:
        raise PriorError(
            f"No prior for {listed(fit_model.missing_priors)} of the fitted model. A study's priors may not depend on "
            "each replicate's data: give them."
        )
    if world is None:
        check_params(model, design, params or {})
    complete = [m.with_priors(m.complete_priors) for m in (model, fit_model)]
    analysis = Analysis(complete[0], complete[1], design, params, engine, int(draws), world)
    failed: BayeshlmError | None = None
    for child in np.random.SeedSequence(seed).spawn(TRIALS):
        try:
            return analysis, analysis.replicate(1, child)
        except BayeshlmError as error:
            failed = error
    assert failed is not None
    raise failed


def fixed_sizes(design: Design) -> bool:
    """Whether every world of a design has the same groups."""
    return not any(isinstance(size, Prior) for _, size in design.levels)
