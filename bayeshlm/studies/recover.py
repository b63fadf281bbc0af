"""Parameter recovery: with the truth known, how far off are the estimates, and do the intervals keep their promise?

Also under misspecification: worlds that break the model's assumptions (`bayeshlm.studies.worlds`), or a `fit_model`
other than the one that made the data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshlm.arrays import Array
from bayeshlm.data.statistics import Statistics
from bayeshlm.errors import EngineError
from bayeshlm.simulation.design import Design
from bayeshlm.simulation.parameters import draw_parameters
from bayeshlm.spec.model import Model
from bayeshlm.spec.priors import (
    Cauchy,
    Flat,
    HalfCauchy,
    HalfNormal,
    HalfStudentT,
    InverseGamma,
    Normal,
    Prior,
    StudentT,
)
from bayeshlm.studies.analysis import Analysis, Generator, Sampler, fixed_sizes, prepare_analysis
from bayeshlm.studies.quantities import LOG_LIKELIHOOD, Quantities, choose_quantities
from bayeshlm.studies.runner import check_arguments, run
from bayeshlm.studies.sbc import LEVELS, NOTES, check_finished, study_attrs
from bayeshlm.studies.store import canonical

if TYPE_CHECKING:
    import os

    import xarray as xr

PRIOR_DRAWS = 4000  # from which a quantity's prior variance is taken


@dataclass(frozen=True)
class EstimateTask:
    """One replicate: simulate, fit, reduce the draws to estimates and intervals."""

    analysis: Analysis
    quantities: Quantities

    def __call__(self, index: int, seed: np.random.SeedSequence) -> dict[str, Array]:
        done = self.analysis.replicate(index, seed)
        draws = self.quantities.evaluate(done.data, done.draws)
        if not np.isfinite(draws).all():
            raise EngineError("The engine returned draws that are not finite.")
        truth = self.quantities.evaluate(done.data, {n: v[None] for n, v in done.truth.items()})[0]
        tails = [(1 - level) / 2 for level in LEVELS]
        return {
            "truth": truth, "estimate": draws.mean(axis=0), "sd": draws.std(axis=0, ddof=1),
            "lower": np.quantile(draws, tails, axis=0).T,
            "upper": np.quantile(draws, [1 - tail for tail in tails], axis=0).T,
            "notes": np.array([done.notes[name] for name in NOTES]),
        }  # fmt: skip


def recover(
    model: Model,
    design: Design,
    *,
    params: Mapping[str, Any] | None = None,
    replicates: int = 200,
    random_seed: int | None = None,
    draws: int = 400,
    engine: str | Sampler = "auto",
    fit_model: Model | None = None,
    world: Generator | None = None,
    store: str | os.PathLike[str] | None = None,
    n_jobs: int | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Recover known parameters from simulated studies.

    Parameters
    ----------
    model : Model
    design : Design
    params : mapping, optional
        The truth, as in `simulate`; what is left out is drawn anew in every replicate (group effects from their
        distribution, anything else from its prior), and each estimate is compared with its own truth.
    replicates, random_seed, draws, engine, store, n_jobs, progress
        As in `sbc`.
    fit_model : Model, optional
        Analyses the data instead of `model`: the same formula without the censoring, another family, other priors.
    world : callable, optional
        ``world(params, seed)`` -> `World`, makes the data instead of `model` and `design`: see
        `bayeshlm.studies.worlds`. With it, models whose censoring a column tells can be studied too.

    Returns
    -------
    xarray.Dataset
        Over `quantity` (those of `sbc` but the log likelihood) and `level` (0.5, 0.8, 0.95), each with its Monte Carlo
        standard error in a variable of that name ending in ``_se``:

        * ``bias``: mean of posterior mean less truth; ``rmse``: root of the mean square of it
        * ``coverage`` and mean ``width`` of the equal-tailed intervals
        * ``z``: mean of (posterior mean - truth) / posterior sd; ``z_sd``: its standard deviation, 1 if calibrated
        * ``contraction``: mean of 1 - posterior variance / prior variance; NaN where the prior has no variance, or none
          that is the same in all worlds

        and over `replicate` what these were computed from: ``truth``, ``estimate``, ``sd``, ``seconds`` and the
        engine's diagnostics. Failed replicates are over `failure`: ``failure_replicate``, ``failure_seed``,
        ``failure_error``.

    Raises
    ------
    DesignError, PriorError, DataError, EngineError
        As `sbc`.

    Notes
    -----
    With fixed `params` coverage need not be the intervals' probability even where all is right: it is on average over
    the prior, which is what `sbc` tests.

    References
    ----------
    Morris, White, Crowther (2019), Statistics in Medicine 38(11), table 6 (performance measures and their Monte Carlo
    errors); Betancourt (2020), "Towards a principled Bayesian workflow", section 1.2.3 (z-score and contraction).
    """
    check_arguments(replicates, random_seed, n_jobs, store=store)
    analysis, trial = prepare_analysis(
        model, design, fit_model=fit_model, params=params, engine=engine, draws=draws, world=world
    )
    known = {name: value for name, value in trial.truth.items() if name in trial.draws}
    quantities = choose_quantities(trial.statistics, known, fixed_sizes=fixed_sizes(design)).without(LOG_LIKELIHOOD)
    results = run(
        EstimateTask(analysis, quantities), replicates, random_seed=random_seed, store=store,
        key={"kind": "recover", **analysis.key} if store is not None else None, n_jobs=n_jobs, progress=progress,
        description="recovery",
    )  # fmt: skip
    results.tell()
    check_finished(results)
    values = results.values
    variance = prior_variance(trial.statistics, quantities)
    scored = scores(values["truth"], values["estimate"], values["sd"], values["lower"], values["upper"], variance)
    dataset = _dataset(scored, quantities.names)
    for name in ("truth", "estimate", "sd"):
        dataset[name] = (("replicate", "quantity"), values[name])
    for k, name in enumerate(NOTES):
        dataset[name] = ("replicate", values["notes"][:, k])
    dataset["seconds"] = ("replicate", results.seconds)
    failures = results.failures_dataset()
    dataset = dataset.assign({f"failure_{name}": failures[name] for name in failures.data_vars})
    dataset = dataset.assign_coords(replicate=results.replicate)
    dataset.attrs = study_attrs(results, analysis, trial, "recover") | {
        "params": _text(analysis.params), "world": "" if world is None else str(world),
    }  # fmt: skip
    return dataset


def scores(
    truth: Array, estimate: Array, sd: Array, lower: Array, upper: Array, prior_variance: Array
) -> dict[str, tuple[Array, Array]]:
    """Score -> (value, Monte Carlo standard error), from replicates on the first axis.

    Parameters
    ----------
    truth, estimate, sd : (R, q)
    lower, upper : (R, q, levels)
    prior_variance : (q,)
    """
    count = len(truth)

    def averaged(values: Array) -> tuple[Array, Array]:
        error = values.std(axis=0, ddof=1) / np.sqrt(count) if count > 1 else np.full(values.shape[1:], np.nan)
        return values.mean(axis=0), error

    error = estimate - truth
    mean_square, square_error = averaged(error**2)
    rmse = np.sqrt(mean_square)
    with np.errstate(divide="ignore", invalid="ignore"):  # a posterior without spread has no z-score: NaN says so
        z = error / sd
        rmse_error = np.where(rmse > 0, square_error / (2 * rmse), 0.0)
        contraction = averaged(1 - sd**2 / prior_variance)
    covered = ((lower <= truth[:, :, None]) & (truth[:, :, None] <= upper)).mean(axis=0)
    # One success and one failure more: the error of a coverage seen as 1 is not 0 (Agresti, Coull 1998).
    smoothed = (count * covered + 1) / (count + 2)
    z_mean, z_mean_error = averaged(z)
    spread = z.std(axis=0, ddof=1) if count > 1 else np.full(z.shape[1], np.nan)
    fourth = ((z - z_mean) ** 4).mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        spread_error = np.sqrt(np.maximum(fourth - spread**4, 0.0) / count) / (2 * spread)
    return {
        "bias": averaged(error), "rmse": (rmse, rmse_error),
        "coverage": (covered, np.sqrt(smoothed * (1 - smoothed) / (count + 2))),
        "width": averaged(upper - lower), "z": (z_mean, z_mean_error), "z_sd": (spread, spread_error),
        "contraction": contraction,
    }  # fmt: skip


def prior_variance(statistics: Statistics, quantities: Quantities) -> Array:
    """Variance of every quantity under the prior, (q,), by Monte Carlo; NaN where the prior has none."""
    model, layout = statistics.model, statistics.layout
    priors = model.complete_priors
    without = {name for name, prior in priors.items() if not _has_variance(prior)}
    kinds = model.parameters
    finite: dict[str, Prior] = {n: Normal() if kinds[n] == "coefficient" else HalfNormal() for n in without}
    stand_in = model.with_priors(finite)
    labels = [statistics.labels(k) for k in range(len(layout.levels))]
    rng = np.random.default_rng(0)
    drawn: dict[str, list[Array]] = {}
    for _ in range(PRIOR_DRAWS):
        for name, (_, value) in draw_parameters(stand_in, layout, labels, {}, rng).values.items():
            drawn.setdefault(name, []).append(value)
    variance = quantities.evaluate(statistics, {name: np.stack(v) for name, v in drawn.items()}).var(axis=0)
    unknown = {*without, *(name.removesuffix("_sigma") for name in without)}
    unknown |= {
        f"contrast|{level.name}" for level in layout.levels for b in level.blocks if f"{b.name}_sigma" in without
    }
    # Shares of counts depend on the mean count of the data at hand, which differs between worlds.
    untold = model.family_spec.support == "count" or any(kinds[n] in ("scale", "shape") for n in without)
    shares = {f"ICC|{level.name}" for level in layout.levels} if untold else set()
    owners = [part.name for part in quantities.parts for _ in range(part.size)]
    return np.where([owner in unknown | shares for owner in owners], np.nan, variance)


def _has_variance(prior: Prior) -> bool:
    if isinstance(prior, StudentT | HalfStudentT):
        return prior.nu > 2
    if isinstance(prior, InverseGamma):
        return prior.alpha > 2
    return not isinstance(prior, Flat | Cauchy | HalfCauchy)


def _dataset(scored: Mapping[str, tuple[Array, Array]], names: list[str]) -> xr.Dataset:
    import xarray as xr

    variables: dict[str, Any] = {}
    for name, (value, error) in scored.items():
        dims = ("quantity", "level")[: value.ndim]
        variables[name], variables[f"{name}_se"] = (dims, value), (dims, error)
    return xr.Dataset(variables, coords={"quantity": names, "level": list(LEVELS)})


def _text(params: Mapping[str, Any] | None) -> str:
    return json.dumps(canonical(params or {}), ensure_ascii=False)
