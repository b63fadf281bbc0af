"""Simulation-based calibration: does the posterior hold what a posterior promises, for this model and design?

Parameters drawn from the prior are, given the data they made, draws from the posterior: their rank among L independent
posterior draws is uniform on 0, ..., L (Talts et al. 2018, arXiv:1804.06788, theorem 1), for every function of
parameters and data (Modrak et al. 2023, Bayesian Analysis 20(2), theorem 1).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayeshlm.arrays import Array
from bayeshlm.errors import EngineError
from bayeshlm.simulation.design import Design
from bayeshlm.spec.model import Model
from bayeshlm.studies.analysis import Analysis, Replicate, Sampler, chosen_forms, fixed_sizes, prepare_analysis
from bayeshlm.studies.quantities import Quantities, choose_quantities
from bayeshlm.studies.runner import Results, check_arguments, run
from bayeshlm.studies.store import canonical
from bayeshlm.studies.uniformity import MOST_POINTS, holm, simultaneous_p_value
from bayeshlm.version import __version__

if TYPE_CHECKING:
    import os

    import xarray as xr

FALSE_ALARMS = 0.01  # probability that a right posterior does not pass
MOST_FAILED = 0.01  # share of failed replicates above which a study does not pass: they are not missing at random
LEVELS = (0.5, 0.8, 0.95)
NOTES = ("rows", "pareto_k", "efficiency", "ess", "fallback", "unconverged")


@dataclass(frozen=True)
class RankTask:
    """One replicate: simulate, fit, rank the truth among the draws."""

    analysis: Analysis
    quantities: Quantities

    def __call__(self, index: int, seed: np.random.SeedSequence) -> dict[str, Array]:
        of_study, of_ranks = seed.spawn(2)
        done = self.analysis.replicate(index, of_study)
        draws = self.quantities.evaluate(done.data, done.draws)
        truth = self.quantities.evaluate(done.data, {n: v[None] for n, v in done.truth.items()})[0]
        if not np.isfinite(draws).all():
            raise EngineError("The engine returned draws that are not finite.")
        ranks, uniform = rank(truth, draws, np.random.default_rng(of_ranks))
        return {"rank": ranks, "pit": uniform, "notes": np.array([done.notes[name] for name in NOTES])}


def rank(truth: Array, draws: Array, rng: np.random.Generator) -> tuple[NDArray[np.int64], Array]:
    """Ranks (q,) of truths (q,) among draws (L, q), ties broken at random, and the same spread over (0, 1).

    The second is (rank + u) / (L + 1) with u uniform: continuous, and uniform wherever the rank is.
    """
    below = (draws < truth).sum(axis=0)
    ties = (draws == truth).sum(axis=0)
    ranks = below + rng.integers(0, ties + 1)
    return ranks, (ranks + rng.uniform(size=len(truth))) / (len(draws) + 1)


def sbc(
    model: Model,
    design: Design,
    *,
    replicates: int = 1000,
    random_seed: int | None = None,
    draws: int = 200,
    engine: str | Sampler = "auto",
    fit_model: Model | None = None,
    store: str | os.PathLike[str] | None = None,
    n_jobs: int | None = None,
    progress: bool = True,
) -> xr.DataTree:
    """Check the calibration of a model's posterior on a design.

    Parameters
    ----------
    model : Model
        Draws the parameters and the data; all its priors must be proper.
    design : Design
    replicates : int
    random_seed : int, optional
    draws : int
        Posterior draws, as good as independent, among which each truth is ranked. Markov chains run longer and are
        thinned by their effective sample size.
    engine : str or callable
        As in `fit`; or a function of (data, draws, seed) that returns draws by name, (draws, ...) each, to check an
        engine of your own. The data are `Statistics` where these are all that the likelihood needs (uncensored gaussian
        and lognormal models), else a `bayeshlm.data.table.Table` of rows, its moments in `statistics`.
    fit_model : Model, optional
        Analyses the data instead of `model`.
    store : path, optional
        Folder that keeps finished replicates; see `bayeshlm.studies.runner.run`.
    n_jobs : int, optional
        Processes; None: what joblib is configured to, else all cores.
    progress : bool

    Returns
    -------
    xarray.DataTree
        * ``prior_sbc``: (rank + u) / (draws + 1) of every quantity, dims (chain, draw, ...) with a replicate a draw,
          as simuk lays it out and ``arviz_plots.plot_ecdf_pit`` reads it. Not the bare ranks: from these
          `plot_ecdf_pit` takes the largest rank seen for the number of draws, which hides a posterior that is off to
          one side.
        * ``ranks``: the ranks, 0 to `draws`.
        * ``verdict``: per `quantity` the simultaneous ``p_value`` of its ranks' uniformity, ``p_adjusted`` for their
          number (Holm), and ``coverage`` of the central intervals of 50, 80 and 95 % with its standard error
          ``coverage_se``.
        * ``replicates``: seconds, whether through rows, and the engine's own diagnostics (``unconverged``: 1 where
          `diagnose` would say FAIL; such a fit counts as any other).
        * ``failures``: replicate, seed, error.

        Attribute ``passed``: 1 if no adjusted p-value is below 0.01 (which happens to a right posterior with at most
        that probability) and at most 1 % of the replicates failed, else 0.

    Raises
    ------
    DesignError, PriorError, DataError, EngineError
        Before any work, for what cannot be simulated or fitted; EngineError also where every replicate failed.

    Notes
    -----
    NUTS, where it samples, samples one form of the model (see `parameterization` of `bayeshlm.to_pymc`) in all
    replicates, chosen once by what a few worlds know of each level, so that a process compiles it once, for as long as
    the numbers of groups stay the same; attribute ``parameterization`` tells it per level. Chains that are too short
    are run again longer; where that does not help, or they diverge or did not converge, in the other form, which is
    then compiled too.

    References
    ----------
    Saeilynoja, Buerkner, Vehtari (2022), Statistics and Computing 32(32), for the simultaneous test.
    """
    check_arguments(replicates, random_seed, n_jobs, store=store)
    analysis, trial = prepare_analysis(model, design, fit_model=fit_model, params=None, engine=engine, draws=draws)
    known = {name: value for name, value in trial.truth.items() if name in trial.draws}
    quantities = choose_quantities(trial.statistics, known, fixed_sizes=fixed_sizes(design))
    results = run(
        RankTask(analysis, quantities), replicates, random_seed=random_seed, store=store,
        key={"kind": "sbc", **analysis.key} if store is not None else None, n_jobs=n_jobs, progress=progress,
        description="SBC",
    )  # fmt: skip
    results.tell()
    check_finished(results)
    return _tree(results, quantities, analysis, trial)


def check_finished(results: Results) -> None:
    """Raise EngineError where nothing is left to score."""
    if not results.finished:
        first = results.failures.iloc[0]
        raise EngineError(
            f"All {results.replicates} replicates failed; the first (seed {first['seed']}): {first['error']}"
        )


def _tree(results: Results, quantities: Quantities, analysis: Analysis, trial: Replicate) -> xr.DataTree:
    import xarray as xr

    axes = {"chain": [0], "draw": results.replicate}
    groups = {
        name: xr.Dataset(_by_part(results.values[values], quantities), coords={**axes, **_labels(quantities)})
        for name, values in (("prior_sbc", "pit"), ("ranks", "rank"))
    }
    groups["prior_sbc"].attrs = groups["ranks"].attrs = {"draws": analysis.draws}
    verdict = judge(results.values["pit"], quantities.names, analysis.draws)
    notes = {name: ("replicate", results.values["notes"][:, k]) for k, name in enumerate(NOTES)}
    replicates = xr.Dataset(
        {"seconds": ("replicate", results.seconds), **notes}, coords={"replicate": results.replicate}
    )
    tree = xr.DataTree.from_dict(
        {**groups, "verdict": verdict, "replicates": replicates, "failures": results.failures_dataset()}
    )
    failed = len(results.failures) / results.replicates
    passed = bool(verdict["p_adjusted"].min() >= FALSE_ALARMS) and failed <= MOST_FAILED
    tree.attrs = {**study_attrs(results, analysis, trial, "sbc"), "passed": int(passed), "false_alarms": FALSE_ALARMS}
    tree["verdict"].attrs["passed"] = int(passed)
    return tree


def study_attrs(results: Results, analysis: Analysis, trial: Replicate, kind: str) -> dict[str, Any]:
    """What a result needs to be read with no other file; numbers and text only, as NetCDF has no booleans."""
    import datetime

    engine = analysis.engine if isinstance(analysis.engine, str) else getattr(analysis.engine, "__name__", "function")
    return {
        "kind": kind, "model": analysis.model.to_json(), "fit_model": analysis.fit_model.to_json(),
        "design": json.dumps(canonical(analysis.design), ensure_ascii=False), "engine": engine,
        "parameterization": json.dumps(chosen_forms(analysis, trial.statistics), ensure_ascii=False),
        "draws": analysis.draws, "replicates": results.replicates, "finished": results.finished,
        "failed": len(results.failures), "random_seed": results.random_seed,
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "version": __version__,
    }  # fmt: skip


def judge(uniform: Array, names: list[str], draws: int) -> xr.Dataset:
    """Verdict on the numbers (replicates, q) that are uniform if all is well; see `sbc`."""
    import xarray as xr

    # Ranks have draws + 1 values: a finer grid than that would look at the tie-breaking.
    p_values = np.array([simultaneous_p_value(column, min(draws + 1, MOST_POINTS)) for column in uniform.T])
    covered = np.stack([np.abs(uniform - 0.5) <= level / 2 for level in LEVELS], axis=2).mean(axis=0)
    error = np.sqrt(np.array(LEVELS) * (1 - np.array(LEVELS)) / len(uniform))
    return xr.Dataset(
        {
            "p_value": ("quantity", p_values),
            "p_adjusted": ("quantity", holm(p_values)),
            "coverage": (("quantity", "level"), covered),
            "coverage_se": ("level", error),
        },
        coords={"quantity": names, "level": list(LEVELS)},
    )


def _by_part(values: NDArray[Any], quantities: Quantities) -> dict[str, Any]:
    """(replicates, q) -> a variable a part, with simuk's dims (chain, draw, ...)."""
    variables: dict[str, Any] = {}
    position = 0
    for part in quantities.parts:
        block = values[:, position : position + part.size]
        position += part.size
        if part.labels:
            variables[part.name] = (("chain", "draw", _dim(part.name, part.dim)), block[None])
        else:
            variables[part.name] = (("chain", "draw"), block[None, :, 0])
    return variables


def _labels(quantities: Quantities) -> Mapping[str, list[Any]]:
    return {_dim(part.name, part.dim): list(part.labels) for part in quantities.parts if part.labels}


def _dim(name: str, dim: str) -> str:
    """A dim of its own for every variable of sampled groups: two effects of a level may have other samples."""
    return dim if dim.endswith(("_dim", "_pair", "_effect")) else f"{name}_group"
