"""One analysis, start to end. Reads as the contents list of the package."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import platform
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from bayeshlm.data.checks.clusters import few_groups
from bayeshlm.data.checks.table import check_statistics
from bayeshlm.data.compress import compress
from bayeshlm.data.default_priors import scale_priors
from bayeshlm.data.layout import bound_model
from bayeshlm.data.statistics import Statistics
from bayeshlm.data.store import statistics_to_dataset
from bayeshlm.data.table import Table, table_to_dataset, tabulate
from bayeshlm.engines.exact.fit import fit_exact
from bayeshlm.engines.pymc.nuts import fit_nuts
from bayeshlm.engines.pymc.observations import from_statistics, from_table
from bayeshlm.engines.quadrature.fit import NotSampledError, fit_quadrature
from bayeshlm.engines.result import EngineResult
from bayeshlm.engines.select import INDEPENDENT, Choice, choose_engine
from bayeshlm.engines.separation import check_separation
from bayeshlm.errors import BayeshlmWarning, DataError, outside_package
from bayeshlm.posterior.diagnose import diagnose
from bayeshlm.randomness import chosen_seed, seed_problem, whole
from bayeshlm.spec.model import Model
from bayeshlm.version import __version__

if TYPE_CHECKING:
    import xarray as xr

EFFECTS = ("auto", "draws", "moments")
PACKAGES = ("numpy", "scipy", "xarray", "narwhals", "arviz-stats", "pymc", "nutpie")


def fit(
    model: Model,
    data: Any,
    *,
    engine: str = "auto",
    draws: int = 1000,
    chains: int = 4,
    random_seed: int | None = None,
    missing: str = "drop",
    effects: str = "auto",
    progress: bool = True,
) -> xr.DataTree:
    """Fit a model.

    Parameters
    ----------
    model : Model
    data : frame, path or Statistics
        Anything `compress` takes, or its result: the posterior is the same.
    engine : {"auto", "exact", "quadrature", "nuts"}
        "auto" takes the exact engine where it applies, else integrates the effects out by quadrature where that does
        (see `bayeshlm.engines.quadrature`), else NUTS on the generative model of `to_pymc`, and says why in the
        posterior's attrs.
    draws, chains : int
        Draws kept in each chain.
    random_seed : int, optional
        Same seed, same machine, same answer; None draws one and stores it.
    missing : {"drop", "error"}
        What to do with rows in which a used column is missing.
    effects : {"auto", "draws", "moments"}
        What to keep of group-specific effects: draws; exact means and standard deviations for levels of more than 1,000
        groups; or, by default, draws as long as those of all levels take no more than 1 GiB (32,000 groups by 4,000
        draws), moments of the largest levels beyond. Moments are in the group `effect_moments`; what needs draws of
        these levels then says so.
    progress : bool
        Show a progress bar where it takes longer than a second or two.

    Returns
    -------
    xarray.DataTree
        Groups `posterior`, `sample_stats`, `constant_data`, `statistics`, where the statistics are not all there is to
        know about them `rows` (up to 64 MB), and `effect_moments` if any; attrs with the model, the engine and why
        it was chosen, `status` (PASS, REVIEW or FAIL), seed, versions and what was dropped.

    Raises
    ------
    FormulaError, DataError, PriorError, EngineError
        Before anything is computed, naming every offender.
    """
    _check_counts(draws, chains, random_seed)
    if effects not in EFFECTS:
        raise DataError(f"effects={effects!r}: it is {', '.join(map(repr, EFFECTS))}.")
    statistics, table = _read(model, data, missing)
    check_statistics(statistics)
    model, notes = _complete(model, statistics)
    statistics = _with_model(statistics, model)
    choice = choose_engine(statistics, engine)
    if choice.takes_over:
        notes.append(choice.reason)
        warnings.warn(choice.reason, BayeshlmWarning, stacklevel=outside_package())
    seed = chosen_seed(random_seed)
    result: EngineResult | None = None
    if choice.engine == "exact":
        result = fit_exact(statistics, draws=draws, chains=chains, seed=seed, progress=progress, effects=effects)
    elif choice.engine == "quadrature" and table is not None:
        try:
            result = fit_quadrature(_table_with(table, statistics), draws=draws, chains=chains, seed=seed)
        except NotSampledError as error:
            if engine == "quadrature":
                raise
            choice = Choice("nuts", f"{error} NUTS samples every parameter of the generative model instead.", True)
            notes.append(choice.reason)
            warnings.warn(choice.reason, BayeshlmWarning, stacklevel=outside_package())
    if result is None:
        if table is not None:
            check_separation(_table_with(table, statistics))
        observations = from_statistics(statistics) if table is None else from_table(table)
        result = fit_nuts(statistics, observations, draws=draws, chains=chains, seed=seed, progress=progress)
    return to_datatree(statistics, result, choice, seed=seed, notes=notes, table=table)


def to_datatree(
    statistics: Statistics, result: EngineResult, choice: Choice, *, seed: int, notes: list[str],
    table: Table | None = None,
) -> xr.DataTree:  # fmt: skip
    """Put an engine's result into ArviZ's groups, with attrs that make it self-contained.

    Where the statistics are not all there is to know about the data, the rows (joined where equal) go into `rows`.
    """
    import xarray as xr

    dims = ("chain", "draw")
    chains, draws = next(iter(result.sample_stats.values())).shape
    axes = {"chain": np.arange(chains), "draw": np.arange(draws)}
    posterior = xr.Dataset(
        {name: ((*dims, *v.dims), v.values) for name, v in result.variables.items()}, coords={**axes, **result.coords}
    )
    stats = xr.Dataset({name: (dims, values) for name, values in result.sample_stats.items()}, coords=axes)
    tree = xr.DataTree.from_dict(
        {
            "posterior": posterior,
            "sample_stats": stats,
            "constant_data": _constant_data(statistics),
            "statistics": statistics_to_dataset(statistics),
        }
    )
    if result.moments:
        tree["effect_moments"] = xr.DataTree(
            xr.Dataset({name: (v.dims, v.values) for name, v in result.moments.items()}, coords=result.moment_coords)
        )
    rows = None if table is None else table_to_dataset(table)
    if rows is not None:
        tree["rows"] = xr.DataTree(rows)
    messages = [*notes, *(result.attrs[key] for key in ("fallback", "moments") if result.attrs.get(key))]
    tree.attrs = {
        "model": statistics.model.to_json(),
        "engine": choice.engine,
        "engine_reason": choice.reason,
        "random_seed": seed,
        "rows": statistics.rows,
        "rows_seen": statistics.total_rows,
        "rows_missing": json.dumps(dict(statistics.missing), ensure_ascii=False),
        "notes": json.dumps(messages, ensure_ascii=False),
        "cautions": json.dumps(list(few_groups(statistics).values()), ensure_ascii=False),
        "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": json.dumps(
            {"python": platform.python_version(), "bayeshlm": __version__, **{p: _version(p) for p in PACKAGES}}
        ),
        **result.attrs,
    }
    # These engines draw effects independently given the hyperparameters; NUTS may get stuck in any of them.
    diagnosis = diagnose(tree, hyperparameters_only=choice.engine in INDEPENDENT)
    tree.attrs["status"] = diagnosis.status
    if diagnosis.status == "FAIL":
        warnings.warn(
            "The fit did not converge: " + " ".join(diagnosis.messages), BayeshlmWarning, stacklevel=outside_package()
        )
    return tree


def _check_counts(draws: int, chains: int, random_seed: int | None) -> None:
    for name, value in (("draws", draws), ("chains", chains)):
        if not whole(value) or value < 1:
            raise DataError(f"{name}={value!r} must be a whole number of at least 1.")
    if problem := seed_problem(random_seed):
        raise DataError(f"{problem}.")


def _read(model: Model, data: Any, missing: str) -> tuple[Statistics, Table | None]:
    """(statistics, rows where statistics are not enough for the likelihood)."""
    if not isinstance(model, Model):
        raise DataError(f"The first argument is a {type(model).__name__}, not a bayeshlm.Model.")
    if not isinstance(data, Statistics):
        if model.moments_suffice:
            return compress(model, data, missing=missing), None
        table = tabulate(model, data, missing=missing)
        return table.statistics, table
    same = data.model.formula == model.formula and data.model.family == model.family
    kept = (data.model.se, data.model.weights, data.model.censored)
    if not same or kept != (model.se, model.weights, model.censored):
        raise DataError(
            f"These statistics are of the model {data.model.formula!r} ({data.model.family}), not of "
            f"{model.formula!r} ({model.family}); only priors may differ. Compress the data anew."
        )
    return data, None


def _with_model(statistics: Statistics, model: Model) -> Statistics:
    return dataclasses.replace(statistics, model=model)


def _table_with(table: Table, statistics: Statistics) -> Table:
    return dataclasses.replace(table, statistics=statistics)


def _complete(model: Model, statistics: Statistics) -> tuple[Model, list[str]]:
    """Make every prior explicit; for families that need a scale it comes from the statistics, and is said."""
    model = bound_model(model, statistics.layout)
    missing = model.missing_priors
    complete = scale_priors(model, statistics)
    if not missing:
        return complete, []
    chosen = ", ".join(f"{name} ~ {complete.complete_priors[name]}" for name in missing)
    note = f"Default priors, scaled by the data: {chosen}."
    warnings.warn(
        note + " Give priors= to choose your own, or see bayeshlm.scaled_priors.",
        BayeshlmWarning,
        stacklevel=outside_package(),
    )
    return complete, [note]


def _constant_data(statistics: Statistics) -> xr.Dataset:
    """Rows of every group, and the means of the columns: what a reader of the posterior wants at hand."""
    import xarray as xr

    variables: dict[str, Any] = {}
    coords: dict[str, Any] = {}
    for k, level in enumerate(statistics.layout.levels):
        labels = statistics.labels(k)
        variables[f"{level.name}_rows"] = (
            (level.name,),
            np.bincount(statistics.codes[:, k], statistics.count, len(labels)),
        )
        coords[level.name] = labels
    _, mean, _ = statistics.total()
    variables["column_mean"] = (("column",), mean + statistics.shift)
    names = [column.label for column in statistics.layout.columns[1:]] + [statistics.model.terms.response.name]
    return xr.Dataset(variables, coords={**coords, "column": names})


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
