"""What one replicate of a study does: simulate a world, fit it, hand over truth and draws by name."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.checks.table import check_statistics
from bayeshlm.data.compress import compress
from bayeshlm.data.statistics import Statistics
from bayeshlm.data.table import Table, tabulate
from bayeshlm.engines.exact.fit import fit_exact
from bayeshlm.engines.pymc.nuts import fit_nuts
from bayeshlm.engines.pymc.observations import from_statistics, from_table
from bayeshlm.engines.pymc.parameterization import described, plan_levels
from bayeshlm.engines.quadrature.fit import NotSampledError, fit_quadrature
from bayeshlm.engines.result import EngineResult
from bayeshlm.engines.select import ENGINES, INDEPENDENT, Choice, choose_engine
from bayeshlm.engines.separation import check_separation
from bayeshlm.errors import (
    BayeshlmError,
    BayeshlmWarning,
    DesignError,
    EngineError,
    PriorError,
    listed,
    outside_package,
)
from bayeshlm.fit import to_datatree
from bayeshlm.posterior.convergence import bulk_ess
from bayeshlm.simulation.default_priors import with_design_priors
from bayeshlm.simulation.design import Design
from bayeshlm.simulation.parameters import check_params
from bayeshlm.simulation.simulate import World, simulate
from bayeshlm.simulation.simulate_statistics import simulate_statistics
from bayeshlm.spec.model import Model
from bayeshlm.spec.priors import Prior

if TYPE_CHECKING:
    import xarray as xr

Draws = Mapping[str, Array]
Observed = Statistics | Table  # rows where sums are not all that the likelihood needs
Sampler = Callable[[Any, int, int], Draws]  # (Observed, draws, seed) -> variable -> (draws, ...)
Generator = Callable[[Mapping[str, Any] | None, np.random.SeedSequence], World]  # (params, seed) -> world
EVERY = 20  # of so many replicates one goes through rows, the others through statistics drawn as such
TRIALS = 5  # worlds tried before the work, to see that model, design and engine go together
WORLDS = 9  # worlds whose median information tells how NUTS samples a level
DIVERGENT = 0.002  # share of the draws from which on the other form of the model is tried
CHAINS, SHORTEST = 2, 500  # of NUTS, and draws in each, to judge convergence by: few, as each has to warm up
PER_DRAW = 4  # steps of each chain for a draw that is wanted: more cost less than a second run
LONGER = 4  # times as many draws where the first did not tell enough
ENOUGH = 0.5  # effective share of the draws below which that is so
UNCONVERGED = "A fit did not converge, by the criteria of bayeshlm.diagnose; it counts as any other."


@dataclass(frozen=True, eq=False)
class Simulated:
    """One world, as the fitted model sees it.

    Attributes
    ----------
    data : Statistics or Table
        Of the fitted model.
    truth : mapping of str to array
    through_rows : bool
        Whether it was made row by row.
    """

    data: Observed
    truth: dict[str, Array]
    through_rows: bool


@dataclass(frozen=True, eq=False)
class Replicate:
    """One simulated and fitted study.

    Attributes
    ----------
    data : Statistics or Table
        Of the fitted model.
    truth : mapping of str to array
    draws : mapping of str to (draws, ...) array
    notes : mapping of str to float
        `rows` (1 where they were made), `pareto_k`, `efficiency`, `ess` (smallest of the hyperparameters), `fallback`,
        `unconverged` (1 where `bayeshlm.diagnose` says FAIL).
    """

    data: Observed
    truth: dict[str, Array]
    draws: Draws
    notes: dict[str, float]

    @property
    def statistics(self) -> Statistics:
        return moments_of(self.data)


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
    information : tuple of float, optional
        What NUTS is told of each level to choose how it is sampled (see `bayeshlm.engines.pymc.parameterization`), the
        same for all replicates: one compiled model serves all of them. It follows from the others.
    """

    model: Model
    fit_model: Model
    design: Design
    params: Mapping[str, Any] | None
    engine: str | Sampler
    draws: int
    world: Generator | None = None
    information: tuple[float, ...] | None = None

    @property
    def key(self) -> dict[str, Any]:
        """What tells this analysis from others, for the store."""
        names = (field.name for field in dataclasses.fields(self))
        return {name: getattr(self, name) for name in names if name != "information"}

    def replicate(self, index: int, seed: np.random.SeedSequence) -> Replicate:
        """Replicate `index`; everything random comes from `seed`."""
        of_world, of_fit = seed.spawn(2)
        made = self.simulate(of_world, through_rows=index % EVERY == 0)
        number = int(of_fit.generate_state(1)[0])
        draws, notes = self._fit(made.data, number)
        return Replicate(made.data, made.truth, draws, {"rows": float(made.through_rows), **notes})

    def simulate(self, seed: np.random.SeedSequence, *, through_rows: bool) -> Simulated:
        """A world of the study, checked as `fit` checks its data."""
        if self.world is None and not through_rows and self._statistics_do:
            compressed = simulate_statistics(self.model, self.design, params=self.params, random_seed=seed)
            values = {name: value for name, (_, value) in compressed.parameters.values.items()}
            statistics = dataclasses.replace(compressed.statistics, model=self.fit_model)
            check_statistics(statistics)
            return Simulated(statistics, values, False)
        if self.world is None:
            world = simulate(self.model, self.design, params=self.params, random_seed=seed)
        else:
            world = checked_world(self.world(self.params, seed))
        sums = self.fit_model.moments_suffice
        data = compress(self.fit_model, world.data) if sums else tabulate(self.fit_model, world.data)
        check_statistics(moments_of(data))
        return Simulated(data, aligned_truth(world.truth, moments_of(data)), True)

    @property
    def _statistics_do(self) -> bool:
        """Whether sums of the model's responses are sums of the fitted model's."""
        a, b = self.model, self.fit_model
        same = (a.formula, a.family, a.se, a.weights) == (b.formula, b.family, b.se, b.weights)
        return same and a.moments_suffice and b.moments_suffice

    def _fit(self, data: Observed, seed: int) -> tuple[Draws, dict[str, float]]:
        quiet = {"pareto_k": np.nan, "efficiency": np.nan, "ess": np.nan, "fallback": 0.0, "unconverged": 0.0}
        if callable(self.engine):
            return self.engine(data, self.draws, seed), quiet
        statistics = moments_of(data)
        choice = choose_engine(statistics, self.engine)
        if choice.engine not in INDEPENDENT:
            return self._sampled(data, choice, seed, quiet)
        for longer in (1, LONGER):
            try:
                result = self._collapsed(data, choice, longer * self.draws, seed)
            except NotSampledError:
                choice = choose_engine(statistics, "nuts")
                draws, notes = self._sampled(data, choice, seed, quiet)
                return draws, {**notes, "fallback": 1.0}
            ess = smallest_ess({n: v.values for n, v in result.variables.items()}, statistics)
            if longer * ENOUGH * self.draws <= ess or longer == LONGER or np.isnan(ess):
                break
        notes = {name: float(result.attrs.get(name, np.nan)) for name in ("pareto_k", "efficiency")}
        draws = {name: v.values[0, ::longer] for name, v in result.variables.items()}
        return draws, {**quiet, **notes, "ess": ess / longer, "fallback": float(bool(result.attrs["fallback"]))}

    @staticmethod
    def _collapsed(data: Observed, choice: Choice, draws: int, seed: int) -> EngineResult:
        """Independent draws from the engines that integrate effects out."""
        if choice.engine == "quadrature" and isinstance(data, Table):
            return fit_quadrature(data, draws=draws, chains=1, seed=seed)
        return fit_exact(moments_of(data), draws=draws, chains=1, seed=seed)

    def _sampled(
        self, data: Observed, choice: Choice, seed: int, quiet: dict[str, float]
    ) -> tuple[Draws, dict[str, float]]:
        """Markov chains of NUTS, thinned until the draws left are as good as independent.

        Where the first are too few, longer ones are run in the study's form of the model; where they diverged or did
        not converge, in the other form; and where that does not help either, the other way round.
        """
        statistics = moments_of(data)
        if isinstance(data, Table):
            check_separation(data)
        observations = from_table(data) if isinstance(data, Table) else from_statistics(data)
        plans = plan_levels(statistics, "auto", self.information)
        other = plan_levels(statistics, "noncentered" if any(plan.centring for plan in plans) else "auto")
        same = described(statistics, other) == described(statistics, plans)
        attempts = [(1, plans)]
        while attempts:
            longer, form = attempts.pop(0)
            length = longer * max(PER_DRAW * self.draws, SHORTEST)
            result = fit_nuts(statistics, observations, draws=length, chains=CHAINS, seed=seed, plans=form)
            values = {name: v.values for name, v in result.variables.items()}
            ess = smallest_ess(values, statistics)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", BayeshlmWarning)  # of what did not converge: told below, in one wording
                failed = to_datatree(statistics, result, choice, seed=seed, notes=[]).attrs["status"] == "FAIL"
            torn = failed or result.sample_stats["diverging"].mean() > DIVERGENT
            if ess >= self.draws and not torn:
                break
            if longer == 1:
                again = [plans] if same else [other, plans] if torn else [plans, other]
                attempts = [(LONGER, form) for form in again]
        if not ess >= self.draws:
            raise EngineError(
                f"{CHAINS * length} draws are worth {ess:.0f} independent ones, fewer than the {self.draws} wanted."
            )
        if failed:
            warnings.warn(UNCONVERGED, BayeshlmWarning, stacklevel=outside_package())
        kept = np.linspace(0, CHAINS * length - 1, self.draws).round().astype(int)
        thinned = {name: v.reshape(-1, *v.shape[2:])[kept] for name, v in values.items()}
        return thinned, {**quiet, "ess": ess, "unconverged": float(failed)}


def moments_of(data: Observed) -> Statistics:
    """The statistics, or the moments of the rows."""
    return data.statistics if isinstance(data, Table) else data


def checked_world(world: object) -> World:
    """What a user's function made, if it is a world with a truth of numbers. Raises DesignError."""
    import xarray as xr

    if not isinstance(world, World) or not isinstance(world.truth, xr.Dataset):
        raise DesignError(f"world= returned a {type(world).__name__}, not a bayeshlm World of rows and truth.")
    bad = [
        str(name) for name, value in world.truth.data_vars.items()
        if value.dtype.kind not in "fiub" or not np.isfinite(value.values).all()
    ]  # fmt: skip
    if bad:
        raise DesignError(f"The world's truth has no finite numbers for {listed(bad)}.")
    return world


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
    complete = [with_design_priors(m, design) for m in (model, fit_model)]
    complete = [m.with_priors(m.complete_priors) for m in complete]
    analysis = _informed(Analysis(complete[0], complete[1], design, params, engine, int(draws), world), seed)
    failed: BayeshlmError | None = None
    for child in np.random.SeedSequence(seed).spawn(TRIALS):
        try:
            return analysis, analysis.replicate(1, child)
        except BayeshlmError as error:
            failed = error
    assert failed is not None
    raise failed


def _informed(analysis: Analysis, seed: int) -> Analysis:
    """Where NUTS will sample, the information on each level in the middle one of a few worlds, for all replicates."""
    found = []
    for child in np.random.SeedSequence(seed).spawn(WORLDS):
        try:
            statistics = moments_of(analysis.simulate(child.spawn(1)[0], through_rows=False).data)
            if callable(analysis.engine) or choose_engine(statistics, analysis.engine).engine in INDEPENDENT:
                return analysis
            plans = sorted(plan_levels(statistics, "auto"), key=lambda plan: plan.index)
        except BayeshlmError:
            continue  # the trials meet the same world, and tell
        found.append([plan.information for plan in plans])
    if not found:
        return analysis
    return dataclasses.replace(analysis, information=tuple(np.median(found, axis=0).tolist()))


def chosen_forms(analysis: Analysis, statistics: Statistics) -> dict[str, str]:
    """How NUTS samples each level in all replicates; empty for other engines."""
    if analysis.information is None:
        return {}
    return described(statistics, plan_levels(statistics, "auto", analysis.information))


def fixed_sizes(design: Design) -> bool:
    """Whether every world of a design has the same groups."""
    return not any(isinstance(size, Prior) for _, size in design.levels)
