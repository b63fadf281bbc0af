"""The NUTS engine: the generative model sampled by nutpie, compiled once for each model shape."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import threading
import time
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bayeshlm.data.statistics import Statistics
from bayeshlm.engines.checks import check_proper
from bayeshlm.engines.progress import progress_bar
from bayeshlm.engines.pymc.data import ROWS, data_of
from bayeshlm.engines.pymc.model import build
from bayeshlm.engines.pymc.observations import Observations
from bayeshlm.engines.pymc.parameterization import Plan, described, plan_levels
from bayeshlm.engines.pymc.start import Density, Slots, Start, find_start, slots_of
from bayeshlm.engines.result import EngineResult, Variable
from bayeshlm.errors import BayeshlmWarning, EngineError, PriorError, is_panic, listed, outside_package
from bayeshlm.spec.priors import base_prior

if TYPE_CHECKING:
    import pymc as pm
    import xarray as xr

TUNE = 1000
TARGET_ACCEPT = 0.9  # smaller steps than the default 0.8: a standard deviation near 0 is a narrow place
MAX_BYTES = 4 * 2**30  # of group-specific effects kept as draws
WAIT = 0.1  # seconds between looks at the progress
KEPT = 8  # compiled models kept in the process
STATS = {
    "logp": "lp", "diverging": "diverging", "energy": "energy", "depth": "tree_depth", "n_steps": "n_steps",
    "mean_tree_accept": "acceptance_rate", "step_size": "step_size",
}  # fmt: skip


PYMC_STATS = {name: name for name in ("lp", "diverging", "energy", "tree_depth", "n_steps", "acceptance_rate")}


@dataclass(eq=False)
class Compiled:
    """A compiled model of one shape; `bind` gives it other data without compiling again.

    `handle` is what nutpie made of it; None where nutpie could not, and PyMC's own sampler takes its place.
    """

    model: pm.Model
    handle: Any
    slots: Slots
    seconds: float

    def bind(self, data: dict[str, NDArray[Any]]) -> Any:
        """What nutpie samples, with these data. The PyMC model's own follow: initial points are made from them."""
        shared = {name: value for name, value in data.items() if name in self.model.named_vars}
        for name, value in shared.items():
            variable = self.model[name]
            variable.set_value(np.asarray(value, dtype=variable.type.dtype))
        if self.handle is None:
            return None
        used = {variable.name for variable in self.handle.shared_var_keys}  # some may serve the graph's readers only
        return self.handle.with_data(**{name: value for name, value in shared.items() if name in used})

    def density(self, bound: Any) -> Density:
        """The density that is sampled, of these data: nutpie's own machine code, or PyMC's function."""
        if bound is None:
            function = self.model.logp_dlogp_function(ravel_inputs=True)
            function.set_extra_values({})
            return lambda x: tuple(function(x))
        address, data = bound.compiled_logp_func.address, bound.user_data.ctypes.data
        call = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_uint64, *[ctypes.c_void_p] * 4)(address)

        def density(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            x, gradient, value = np.ascontiguousarray(x), np.zeros(len(x)), np.zeros(1)
            failed = call(len(x), x.ctypes.data, gradient.ctypes.data, value.ctypes.data, data)
            return (-np.inf if failed else float(value[0])), gradient

        return density


_cache: OrderedDict[Any, Compiled] = OrderedDict()
_lock = threading.Lock()  # one compilation and one set of shared values at a time


def fit_nuts(
    statistics: Statistics, observations: Observations, *, draws: int, chains: int, seed: int,
    parameterization: str = "auto", plans: tuple[Plan, ...] | None = None, progress: bool = False,
) -> EngineResult:  # fmt: skip
    """Fit by sampling all parameters of the generative model.

    A second fit of a model of the same shape (formula, family, priors, numbers of groups) is not compiled again.

    Parameters
    ----------
    statistics : Statistics
        Moments of the data, with a model whose priors are complete.
    observations : Observations
    draws, chains, seed : int
    parameterization : {"auto", "centered", "noncentered"}
    plans : tuple of Plan, optional
        How each level is built, in place of `parameterization`.
    progress : bool

    Raises
    ------
    EngineError, PriorError
    """
    began = time.perf_counter()
    model = statistics.model
    if model.missing_priors:
        raise PriorError(f"No prior for {listed(model.missing_priors)}.")
    check_proper(statistics)
    _check_memory(statistics, draws * chains)
    plans = plan_levels(statistics, parameterization) if plans is None else plans
    seed = int(np.random.default_rng(seed).integers(2**31))
    attrs: dict[str, Any] = {"fallback": "", "parameterization": json.dumps(described(statistics, plans))}
    with progress_bar("compiling", 1, shown=progress), _lock:
        found, compiled = _compiled(statistics, observations, plans)
        bound = compiled.bind({name: data.values for name, data in data_of(statistics, observations, plans).items()})
        start = find_start(compiled.slots, statistics, observations, plans, compiled.density(bound))
    attrs |= {"compiled_before": int(found), "compile_seconds": 0.0 if found else compiled.seconds}
    if bound is None:
        attrs["sampler"] = "pymc"
        tree = _sample_pymc(
            compiled, start, statistics, draws=draws, chains=chains, seed=seed, progress=progress
        )  # fmt: skip
    else:
        attrs["sampler"] = "nutpie"
        bound = dataclasses.replace(bound, initial_point_func=start)
        tree = _sample(bound, draws=draws, chains=chains, seed=seed, progress=progress)
    stats = {
        ours: np.asarray(tree["sample_stats"][theirs].values, dtype=float)
        for theirs, ours in (STATS if bound is not None else PYMC_STATS).items()
    }
    variables, coords = _named(statistics, tree)
    attrs["seconds"] = time.perf_counter() - began
    return EngineResult(variables, coords, stats, attrs)


def forget_compiled() -> None:
    """Drop all compiled models."""
    with _lock:
        _cache.clear()


def _compiled(statistics: Statistics, observations: Observations, plans: tuple[Plan, ...]) -> tuple[bool, Compiled]:
    """(whether it was there, compiled model) for this shape."""
    key = _shape(statistics, observations, plans)
    if key in _cache:
        _cache.move_to_end(key)
        return True, _cache[key]
    began = time.perf_counter()
    model = build(statistics, observations, plans)
    handle = _compile(model, _wanted(statistics))
    _cache[key] = Compiled(model, handle, slots_of(model), time.perf_counter() - began)
    while len(_cache) > KEPT:
        _cache.popitem(last=False)
    return False, _cache[key]


def _compile(model: pm.Model, wanted: list[str]) -> Any:
    """What nutpie makes of the model, or None, with a warning, where its compiler gives up."""
    from numba.core.errors import NumbaError

    try:
        import nutpie

        return nutpie.compile_pymc_model(model, backend="numba", var_names=wanted)
    except (ImportError, NotImplementedError, NumbaError) as error:
        warnings.warn(
            f"nutpie cannot compile this model ({type(error).__name__}: {str(error).splitlines()[0]}); PyMC's own "
            "sampler takes its place, which is slower.",
            BayeshlmWarning,
            stacklevel=outside_package(),
        )
        return None


def _shape(statistics: Statistics, observations: Observations, plans: tuple[Plan, ...]) -> Any:
    """Everything that is compiled into a model, as opposed to its data."""
    layout = statistics.layout
    data = data_of(statistics, observations, plans)
    # Rows may be more or fewer: what is compiled knows their number as little as their values.
    arrays = tuple(
        (name, values.values.ndim if ROWS in values.dims or not values.dims else values.values.shape)
        for name, values in data.items()
    )
    blocks = [*layout.common, *(block for level in layout.levels for block in level.blocks)]
    forms = tuple((plan.index, plan.parent, plan.anchored, plan.centring) for plan in plans)
    groups = tuple(len(members) for members in statistics.members)
    columns = tuple((block.name, block.columns, len(block.labels)) for block in blocks)
    model, priors = statistics.model, statistics.model.complete_priors
    if "Intercept" in priors:  # the point at which its prior holds is data
        model = model.with_priors({"Intercept": base_prior(priors["Intercept"])})
    return model.to_json(), columns, groups, arrays, forms, observations.rows


def _wanted(statistics: Statistics) -> list[str]:
    """Names of a posterior's variables, in their order."""
    layout, names = statistics.layout, [block.name for block in statistics.layout.common]
    for level in layout.levels:
        for block in level.blocks:
            names += [block.name, f"{block.name}_sigma"]
        names += [f"corr|{level.name}"] * bool(level.correlated)
    return [*names, *(name for name, _ in statistics.model.extra)]


def _sample(bound: Any, *, draws: int, chains: int, seed: int, progress: bool) -> xr.DataTree:
    """Run nutpie in the background, so that Ctrl-C ends it at once and nothing half-done is returned."""
    import nutpie

    latest: list[Any] = []

    def remember(chains_now: list[Any]) -> None:
        latest[:] = chains_now

    running = None
    try:
        running = nutpie.sample(
            bound, draws=draws, tune=TUNE, chains=chains, seed=seed, target_accept=TARGET_ACCEPT, save_warmup=False,
            progress_bar=False, progress_callback=remember, progress_rate=200, blocking=False,
        )  # fmt: skip
        with progress_bar("NUTS", (draws + TUNE) * chains, shown=progress) as show:
            while True:
                try:
                    tree: xr.DataTree = running.wait(timeout=WAIT)
                    return tree
                except TimeoutError:  # not finished yet
                    divergences = sum(chain.divergences for chain in latest)
                    note = f"{divergences} divergences" if divergences else ""
                    show(sum(chain.finished_draws for chain in latest), note)
    except BaseException as error:  # Ctrl-C, too: its threads must not outlive the compiled functions they call
        _cancel(running)
        if not (isinstance(error, RuntimeError) or is_panic(error)):
            raise
        raise _could_not(error) from error


def _could_not(error: BaseException) -> EngineError:
    told = str(error).splitlines()[0] if str(error) else type(error).__name__
    return EngineError(f"NUTS could not sample this model ({told}). Rescale the response, or tighten vague priors.")


def _cancel(running: Any) -> None:
    """End nutpie's threads; after a panic of theirs, asking panics as well."""
    try:
        if running is not None:
            running.cancel()
    except BaseException as error:
        if not (isinstance(error, RuntimeError) or is_panic(error)):
            raise


def _sample_pymc(
    compiled: Compiled, start: Start, statistics: Statistics, *, draws: int, chains: int, seed: int, progress: bool
) -> xr.DataTree:
    """PyMC's own sampler, by name: `pm.sample` would pick nutpie up where it is installed."""
    import pymc as pm

    model, slots = compiled.model, compiled.slots
    points = [start(child) for child in np.random.SeedSequence(seed).spawn(chains)]
    starts = [
        {model.rvs_to_values[model[name]].name: point[place].reshape(slots.shapes[name])
         for name, place in slots.places.items()}
        for point in points
    ]  # fmt: skip
    with warnings.catch_warnings():
        # Without a BLAS of the system's PyTensor warns; the model's products are too small for it to matter.
        warnings.filterwarnings("ignore", message="PyTensor could not link to a BLAS", category=UserWarning)
        try:
            tree: xr.DataTree = pm.sample(
                draws, tune=TUNE, chains=chains, cores=1, nuts_sampler="pymc", random_seed=seed, progressbar=progress,
                initvals=starts, init="adapt_diag", target_accept=TARGET_ACCEPT, compute_convergence_checks=False,
                var_names=_wanted(statistics), model=model,
            )  # fmt: skip
        except RuntimeError as error:  # PyMC's SamplingError is one
            raise _could_not(error) from error
    return tree


def _named(statistics: Statistics, tree: xr.DataTree) -> tuple[dict[str, Variable], dict[str, list[Any]]]:
    """Variables with the dims and labels of these data (a reused model knows those of its first)."""
    layout = statistics.layout
    dims: dict[str, tuple[str, ...]] = {block.name: _block_dims(block) for block in layout.common}
    coords: dict[str, list[Any]] = {block.dim: list(block.labels) for block in layout.common if block.labels}
    for k, level in enumerate(layout.levels):
        coords[level.name] = statistics.labels(k)
        for block in level.blocks:
            dims[block.name] = (level.name, *_block_dims(block))
            dims[f"{block.name}_sigma"] = _block_dims(block)
            coords |= {block.dim: list(block.labels)} if block.labels else {}
        for positions in level.correlated:
            both = (f"{level.name}_effect", f"{level.name}_effect_other")
            dims[f"corr|{level.name}"] = both
            coords |= {dim: [level.effect_labels[p] for p in positions] for dim in both}
    if layout.residual is not None:
        dims["sigma"] = _block_dims(layout.residual)
        coords[layout.residual.dim] = list(layout.residual.labels)
    posterior = tree["posterior"]
    variables = {
        name: Variable(np.asarray(posterior[name].values, dtype=float), dims.get(name, ()))
        for name in _wanted(statistics)
    }
    return variables, coords


def _block_dims(block: Any) -> tuple[str, ...]:
    return (block.dim,) if block.labels else ()


def _check_memory(statistics: Statistics, total: int) -> None:
    levels = zip(statistics.members, statistics.layout.levels, strict=True)
    size = 8 * total * sum(len(members) * len(level.columns) for members, level in levels)
    if size > MAX_BYTES:
        raise EngineError(
            f"{total} draws of the effects of {sum(map(len, statistics.members))} groups take {size / 2**30:.1f} GiB, "
            f"over the limit of {MAX_BYTES / 2**30:.0f} GiB. Ask for fewer draws."
        )
